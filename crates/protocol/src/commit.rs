//! Committing and publishing: what to do next, decided from what the store shows.
//!
//! The put of the marker is the fence; a lease is not. Whoever finds a marker may and must finish publishing it;
//! nobody publishes without one. The module performs nothing: `storage` observes and executes.

use crate::AttemptId;
use crate::marker::FileEntry;

/// Whose marker stands at a batch's marker path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No marker: put one (with put-if-absent).
    Open,
    /// This attempt's marker, perhaps from a put whose reply was lost: publish.
    Won,
    /// Another attempt's: publish that one, delete this attempt's files.
    Lost(AttemptId),
}

/// Decides a race by the marker that is there.
pub fn verdict(mine: &AttemptId, found: Option<&AttemptId>) -> Verdict {
    match found {
        None => Verdict::Open,
        Some(attempt) if attempt == mine => Verdict::Won,
        Some(attempt) => Verdict::Lost(attempt.clone()),
    }
}

/// What the store shows of one file of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSeen {
    /// Size of the staged file, if it is there.
    pub staged_bytes: Option<u64>,
    /// Size of the final file, if it is there.
    pub final_bytes: Option<u64>,
}

/// What to do to publish one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileStep {
    /// Copy the staged file over the final path, look at the final file's size, then delete the staged one.
    Copy,
    /// It is published.
    Done,
    /// It can't be published: neither a staged nor a whole final file exists.
    Broken(String),
}

/// Decides one file. A staged file that is still there is copied again: the copy is idempotent, and the final file may
/// be an older revision's.
pub fn publish_step(entry: &FileEntry, seen: FileSeen) -> FileStep {
    match seen {
        FileSeen { staged_bytes: Some(bytes), .. } if bytes == entry.bytes => FileStep::Copy,
        FileSeen { final_bytes: Some(bytes), .. } if bytes == entry.bytes => FileStep::Done,
        FileSeen { staged_bytes, final_bytes } => FileStep::Broken(format!(
            "{}: expected {} bytes, found {} staged and {} published",
            entry.path,
            entry.bytes,
            staged_bytes.map_or("none".to_owned(), |bytes| bytes.to_string()),
            final_bytes.map_or("none".to_owned(), |bytes| bytes.to_string()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> FileEntry {
        FileEntry { staged: "s".into(), path: "p".into(), bytes: 10, rows: 1, sha256: String::new() }
    }

    fn step(staged_bytes: Option<u64>, final_bytes: Option<u64>) -> FileStep {
        publish_step(&entry(), FileSeen { staged_bytes, final_bytes })
    }

    #[test]
    fn an_existing_marker_is_a_win_only_if_it_is_mine() {
        let (a, b) = (AttemptId::new("a").unwrap(), AttemptId::new("b").unwrap());
        assert_eq!(verdict(&a, None), Verdict::Open);
        assert_eq!(verdict(&a, Some(&a)), Verdict::Won);
        assert_eq!(verdict(&a, Some(&b)), Verdict::Lost(b));
    }

    #[test]
    fn publishing_is_done_again_until_the_staged_file_is_gone() {
        assert_eq!(step(Some(10), None), FileStep::Copy);
        assert_eq!(step(Some(10), Some(10)), FileStep::Copy);
        assert_eq!(step(None, Some(10)), FileStep::Done);
    }

    #[test]
    fn a_file_that_is_nowhere_whole_is_reported_not_published() {
        for (staged, published) in [(None, None), (Some(9), None), (None, Some(9)), (Some(9), Some(9))] {
            assert!(matches!(step(staged, published), FileStep::Broken(_)), "{staged:?} {published:?}");
        }
    }
}
