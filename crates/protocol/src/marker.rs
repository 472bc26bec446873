//! What a commit writes: the marker, whose creation makes an attempt the batch's result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit;

use crate::paths::{self, Dataset};
use crate::plan::{FinishPlan, OffsetRange, Plan};
use crate::revise::Amends;
use crate::{AttemptId, JobName, Ledger, Offset, PartitionId, Revision, Timestamp, WindowId};

/// The version of the marker's JSON. Readers refuse a larger one.
pub const MARKER_VERSION: u32 = 1;

/// One file of a committed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Where the attempt wrote it, from the job root's parent (the store's root).
    pub staged: String,
    /// Where readers find it once it is published, likewise.
    pub path: String,
    pub bytes: u64,
    pub rows: u64,
    /// SHA-256 of the content, lower-case hex.
    pub sha256: String,
}

impl FileEntry {
    /// Whether readers find it in this dataset of the job.
    pub fn is_in(&self, job: &JobName, dataset: Dataset) -> bool {
        is_within(&self.path, &paths::dataset(job, dataset))
    }

    /// Whether it is of a result that a later revision has replaced, kept for those who want to see what it was.
    pub fn is_kept(&self, job: &JobName) -> bool {
        is_within(&self.path, &paths::revisions(job))
    }
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// `_commits/<window>/<partition>.r<revision>.json`: the result of one partition's batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub version: u32,
    pub job: JobName,
    pub plan: Plan,
    pub attempt: AttemptId,
    pub ledger: Ledger,
    pub files: Vec<FileEntry>,
    /// Reasons of quarantine, the first few, for people to read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine_reasons: Vec<String>,
    /// Declared columns of which no reading of the window has a value, if there are readings: misspelt, perhaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Why somebody has given the batch up: nothing was computed. A first result has no files then, and all that it was to
    /// read counts as lost; a revision carries on those that stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// The late readings that are to be taken in by revisions of their own windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amends: Option<Amends>,
    /// A revision that could not be computed, since the log had dropped these offsets (or somebody gave it up): files and
    /// counts of the marker before it are carried forward, and what of the late readings could be read is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<OffsetRange>,
    /// Files of the result before it that were gone or damaged when it took their place: nothing of them is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
    /// Wall clock of the worker at commit, for people to read; nothing is decided by it.
    pub committed_at: Timestamp,
}

/// `_commits/<window>/_complete.r<revision>.json`: all partitions of the window are committed, and its reduce is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Complete {
    pub version: u32,
    pub job: JobName,
    pub plan: FinishPlan,
    pub attempt: AttemptId,
    /// The reduce's files; empty for a job without a reduce.
    pub files: Vec<FileEntry>,
    /// Rows under `data/` for this window: the reduce's, or all partitions' if there is none.
    pub rows: u64,
    /// Sum over the partitions' ledgers.
    pub ledger: Ledger,
    /// Attempts of the partitions that the reduce read, in the order of `plan.partitions`.
    pub inputs: Vec<Input>,
    /// Why somebody has given the last step up: the window has no rows of its reduce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Like [`Marker::damaged`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
    pub committed_at: Timestamp,
}

/// A partition's committed result, as input of a window's last step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    pub partition: PartitionId,
    pub attempt: AttemptId,
    /// Its marker's [`Marker::skipped`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// Either kind of marker, as far as committing and publishing care.
pub trait Committed: Serialize + serde::de::DeserializeOwned + Send + Sync {
    /// Whose result it is a part of.
    fn job(&self) -> &JobName;
    /// Whose attempt it is.
    fn attempt(&self) -> &AttemptId;
    /// What must be published.
    fn files(&self) -> &[FileEntry];
    /// Files of the result before it that were gone or damaged.
    fn damaged(&self) -> &[String];
    /// Version of the JSON.
    fn version(&self) -> u32;
}

/// `_commits/_expired/<number>.json`: what is known of windows whose retention has ended, once their markers are gone. A
/// proof goes on from here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expired {
    pub version: u32,
    /// Windows of time that start before this are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Timestamp>,
    /// By partition, where the first window that is left begins to own offsets.
    pub ends: BTreeMap<PartitionId, Offset>,
    /// Windows that are gone, empty ones included.
    pub windows: u64,
    /// Late readings that they have called amended.
    pub amended: u64,
    /// Late readings that their revisions have taken in.
    pub taken_in: i64,
}

impl Expired {
    /// Whether a window is gone, or about to go.
    pub fn covers(&self, window: WindowId) -> bool {
        match window {
            WindowId::Time(start) => self.through.is_some_and(|through| start < through),
            WindowId::Volume(id) => self.ends.get(&id.partition).is_some_and(|end| id.offset < *end),
        }
    }

    /// With one more window. `markers`: of its partitions, all revisions, by partition and revision.
    pub fn add(&mut self, complete: &Complete, markers: &[Marker]) {
        if let WindowId::Time(_) = complete.plan.window.id() {
            self.through = self.through.max(Some(complete.plan.until));
        }
        self.windows += complete.plan.windows;
        for revisions in markers.chunk_by(|a, b| a.plan.partition == b.plan.partition) {
            let mut before = None;
            for marker in revisions {
                self.taken_in += audit::taken_in(before, marker);
                if marker.plan.revision == Revision::default() {
                    self.amended += marker.ledger.amended;
                    let end = self.ends.entry(marker.plan.partition).or_insert(marker.plan.owned.end);
                    *end = marker.plan.owned.end.max(*end);
                }
                before = Some(marker);
            }
        }
    }
}

impl Committed for Marker {
    fn job(&self) -> &JobName {
        &self.job
    }
    fn attempt(&self) -> &AttemptId {
        &self.attempt
    }
    fn files(&self) -> &[FileEntry] {
        &self.files
    }
    fn damaged(&self) -> &[String] {
        &self.damaged
    }
    fn version(&self) -> u32 {
        self.version
    }
}

impl Committed for Complete {
    fn job(&self) -> &JobName {
        &self.job
    }
    fn attempt(&self) -> &AttemptId {
        &self.attempt
    }
    fn files(&self) -> &[FileEntry] {
        &self.files
    }
    fn damaged(&self) -> &[String] {
        &self.damaged
    }
    fn version(&self) -> u32 {
        self.version
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The plan of a partition and of a last step in one: neither minds what it does not know.
    fn plan(partition: i32, revision: u32, end: i64) -> serde_json::Value {
        json!({
            "topic": "t", "topicId": "i", "window": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z"},
            "revision": revision, "specHash": "h", "generation": 1,
            "partition": partition, "read": {"start": 4, "end": end}, "owned": {"start": 5, "end": end},
            "sealedBy": "idle", "until": "2026-01-01T01:00:00Z", "windows": 3, "partitions": [3], "empty": [],
        })
    }

    fn marker<M: Committed>(plan: &serde_json::Value, ledger: &Ledger) -> M {
        let marker = json!({
            "version": 7, "job": "j", "plan": plan, "attempt": "a", "ledger": ledger, "rows": 1, "inputs": [],
            "files": [{"staged": "s", "path": "p", "bytes": 10, "rows": 1, "sha256": ""}], "damaged": ["d"],
            "committedAt": "2026-01-01T01:00:00Z",
        });
        serde_json::from_value(marker).unwrap()
    }

    /// Committing and publishing see a marker only through [`Committed`].
    fn seen<M: Committed>() -> (String, String, Vec<String>, Vec<String>, u32) {
        let marker: M = marker(&plan(3, 0, 9), &Ledger::default());
        let paths = marker.files().iter().map(|file| file.path.clone()).collect();
        (marker.job().to_string(), marker.attempt().to_string(), paths, marker.damaged().to_vec(), marker.version())
    }

    #[test]
    fn both_kinds_of_marker_say_whose_they_are_what_to_publish_and_how_to_read_them() {
        let expected = ("j".to_owned(), "a".to_owned(), vec!["p".to_owned()], vec!["d".to_owned()], 7);
        assert_eq!(seen::<Marker>(), expected);
        assert_eq!(seen::<Complete>(), expected);
    }

    #[test]
    fn a_file_is_of_the_dataset_whose_folder_it_lies_in_or_kept_of_a_result_that_was_replaced() {
        let job = JobName::new("j").unwrap();
        let lies_in = |path: &str| {
            let staged = String::new();
            let file = FileEntry { staged, path: path.into(), bytes: 1, rows: 1, sha256: String::new() };
            (file.is_in(&job, Dataset::Data), file.is_kept(&job))
        };
        assert_eq!(lies_in("j/data/window=x/part-00003-000.parquet"), (true, false));
        assert_eq!(lies_in("j/revisions/window=x/r1/part-00003-000.parquet"), (false, true));
        assert_eq!(lies_in("j/database/x"), (false, false));
    }

    #[test]
    fn windows_that_start_before_the_end_of_what_is_gone_are_covered_and_those_of_volume_by_their_partition() {
        let expired = Expired {
            through: Some("2026-01-01T01:00:00Z".parse().unwrap()),
            ends: [(PartitionId(3), Offset(9))].into(),
            ..Expired::default()
        };
        let covers = |id: &str| expired.covers(id.parse().unwrap());
        assert!(covers("20260101T000000Z") && !covers("20260101T010000Z"));
        assert!(covers("p3-o8") && !covers("p3-o9") && !covers("p4-o0"));
        assert!(!Expired::default().covers("20260101T000000Z".parse().unwrap()));
    }

    #[test]
    fn what_is_known_of_a_window_outlives_its_markers() {
        let counts = |on_time, amended| Ledger { on_time, amended, ..Ledger::default() };
        let mut revision = plan(3, 1, 9);
        let late = json!({"policy": "amend", "reach": "7d"});
        revision["revises"] = json!({"base": 0, "cause": "late-20260101T020000Z", "late": late});
        let markers = [
            marker(&plan(3, 0, 9), &counts(10, 2)),
            // What it calls amended has been called so by the first.
            marker(&revision, &counts(14, 2)),
            marker(&plan(4, 0, 30), &counts(5, 1)),
        ];
        let mut expired = Expired::default();
        expired.add(&marker(&plan(3, 0, 9), &Ledger::default()), &markers);
        let (known, end) = (expired.clone(), "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!((known.through, known.windows, known.amended, known.taken_in), (Some(end), 3, 3, 4));
        assert_eq!(known.ends, [(PartitionId(3), Offset(9)), (PartitionId(4), Offset(30))].into());
        // Windows are told in order, but nothing depends on it.
        let mut before = plan(3, 0, 9);
        before["until"] = json!("2026-01-01T00:00:00Z");
        expired.add(&marker(&before, &Ledger::default()), &[marker(&plan(4, 0, 20), &counts(5, 1))]);
        assert_eq!((expired.through, &expired.ends), (Some(end), &known.ends));
        assert_eq!((expired.windows, expired.amended, expired.taken_in), (6, 4, 4));
        let mut of_volume = plan(3, 0, 9);
        of_volume["window"]["volume"] = json!({"partition": 3, "offset": 5});
        let mut expired = Expired::default();
        expired.add(&marker(&of_volume, &Ledger::default()), &[]);
        assert_eq!(expired.through, None, "nothing of it is decided by time");
    }
}
