//! What a proof says of windows that were run again.

use anyhow::Result;
use windrow_protocol::marker::{Committed, Complete, FileEntry, Marker};
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, Plan, Revision, WindowId, audit, paths};
use windrow_storage::{Store, StoreError};

use super::proof::Report;

/// The newest marker of each window. `complete`: by window and revision.
pub fn newest(complete: &[Complete]) -> Vec<&Complete> {
    complete.chunk_by(|a, b| a.plan.window.id() == b.plan.window.id()).filter_map(|markers| markers.last()).collect()
}

/// Of a window's markers those that its `_complete` marker must have joined, and those that it should not have left out.
/// A revision that is not complete yet has markers that no `_complete` marker knows.
pub fn joined<'a>(complete: &Complete, markers: &[&'a Marker]) -> Vec<&'a Marker> {
    let plan = &complete.plan;
    let wanted = |marker: &&&Marker| {
        let Plan { partition, revision, .. } = &marker.plan;
        let is_joined = plan.partitions.contains(partition) && *revision == plan.revision_of(*partition);
        is_joined || (!plan.partitions.contains(partition) && *revision <= plan.revision)
    };
    markers.iter().filter(wanted).copied().collect()
}

impl Report {
    /// Counts what one partition of one window has called amended, and what its revisions have taken in.
    pub fn revisions(&mut self, revisions: &[Marker]) {
        if let Some(first) = revisions.first().filter(|marker| marker.plan.revision == Revision::default()) {
            self.amended.0 += first.ledger.amended;
            if first.plan.window.end <= self.settled {
                self.amended.1 += first.ledger.amended;
            }
        }
        let mut before = None;
        for marker in revisions {
            self.taken_in += audit::taken_in(before, marker);
            self.revisions += u64::from(marker.plan.revision > Revision::default());
            before = Some(marker);
        }
    }

    /// What was called amended must be in the windows that it amends. `pending`: revisions to come; `None`: nobody knows.
    pub fn amendments(&mut self, pending: Option<u64>) {
        let (all, settled) = (self.amended.0 as i64, self.amended.1 as i64);
        let missing = settled - self.taken_in;
        if self.taken_in > all {
            let what = format!("revisions have taken in {} late readings, but only {all} came", self.taken_in);
            self.findings.push(what);
        } else if missing > 0 && pending == Some(0) {
            self.findings.push(format!(
                "{missing} late readings are in no revision of their windows: the log has dropped them, or revisions are gone"
            ));
        } else if missing > 0 {
            self.notes.push(format!("{missing} late readings are not in their windows yet"));
        }
    }

    /// Every revision that a partition has must be joined by a `_complete` marker, once nothing is to be run again any more.
    pub fn unjoined(&mut self, complete: Option<&Complete>, markers: &[&Marker], pending: Option<u64>) {
        for marker in markers {
            let Plan { partition, revision, .. } = marker.plan;
            let joined = complete.map(|complete| complete.plan.revision_of(partition));
            // First results are joined in their turn, and the chain of windows tells of those that are not.
            if revision == Revision::default() || joined.is_some_and(|joined| joined >= revision) {
                continue;
            }
            let window = marker.plan.window.id();
            let what = format!("window {window}: {revision} of partition {partition} is joined by no _complete marker");
            if pending == Some(0) {
                self.findings.push(what);
            } else {
                self.notes.push(format!("{what} yet"));
            }
        }
    }

    /// Looks at the files of all revisions of one thing: those that the newest one names, and what was kept of those
    /// before it.
    pub async fn files_of_all<M: Committed>(
        &mut self,
        store: &Store,
        revisions: &[M],
        name: impl Fn(&M) -> (WindowId, Part, Revision),
    ) -> Result<()> {
        let Some((newest, before)) = revisions.split_last() else { return Ok(()) };
        for marker in before {
            self.named.extend(marker.files().iter().map(|file| file.path.clone()));
            let files: Vec<FileEntry> =
                marker.files().iter().filter(|file| file.is_kept(marker.job())).cloned().collect();
            self.files(store, &files, None).await?;
        }
        // What a marker took the place of must be there to be looked at.
        for (marker, next) in before.iter().zip(revisions.iter().skip(1)) {
            let (window, _, revision) = name(marker);
            for file in marker.files().iter().filter(|file| file.rows > 0) {
                let path = paths::kept(marker.job(), window, revision, &file.path);
                let is_kept = path.as_ref().is_none_or(|path| next.files().iter().any(|kept| kept.path == *path));
                if next.damaged().contains(&file.path) {
                    self.notes.push(format!("{} was damaged and has been computed anew", file.path));
                } else if !is_kept && !next.files().contains(file) {
                    self.findings.push(format!("{} was replaced and {revision} of it not kept", file.path));
                }
            }
        }
        let (window, part, revision) = name(newest);
        let of = Named { job: newest.job().clone(), window, part, revision };
        self.files(store, newest.files(), Some(of)).await
    }

    fn is_over(&self, window: WindowId) -> bool {
        self.over.is_some_and(|over| window.time().is_some_and(|start| start < over))
    }

    /// `of`: whose results they are, if they may be replaced while they are looked at.
    async fn files(&mut self, store: &Store, files: &[FileEntry], of: Option<Named>) -> Result<()> {
        for file in files {
            self.files += 1;
            self.named.insert(file.path.clone());
            let Some(wrong) = wrong_with(store, file).await? else { continue };
            // About to be published: over nothing, or over the result before it.
            if store.size(&file.staged).await?.is_some() {
                let is_over =
                    of.as_ref().is_some_and(|of| of.revision == Revision::default() && self.is_over(of.window));
                if is_over {
                    self.findings.push(format!("{} {wrong}, but its window is complete", file.path));
                } else {
                    self.notes.push(format!("{} is committed, but not published yet", file.path));
                }
                continue;
            }
            // Or published a moment ago.
            if wrong_with(store, file).await?.is_none() {
                continue;
            }
            let is_replaced = match &of {
                Some(named) => named.is_replaced(store).await?,
                None => false,
            };
            if !is_replaced {
                self.findings.push(format!("{} {wrong}", file.path));
            }
        }
        Ok(())
    }
}

/// What is wrong with a published file.
async fn wrong_with(store: &Store, file: &FileEntry) -> Result<Option<&'static str>> {
    Ok(match store.size(&file.path).await? {
        None => Some("is missing"),
        Some(_) => match store.sha256(&file.path).await {
            Ok(sha256) if sha256 == file.sha256 => None,
            Ok(_) => Some("is not what was committed: its checksum differs"),
            Err(StoreError::NotFound(_)) => Some("is missing"),
            Err(error) => return Err(error.into()),
        },
    })
}

/// A marker by its name.
struct Named {
    job: JobName,
    window: WindowId,
    part: Part,
    revision: Revision,
}

impl Named {
    /// Whether a newer one of the same part stands by now, so that its files take the place of this one's.
    async fn is_replaced(&self, store: &Store) -> Result<bool> {
        let listed = store.list(&paths::window_commits(&self.job, self.window)).await?;
        let newest = paths::newest(listed.iter().map(|object| object.path.as_str()));
        Ok(newest.get(&self.part).is_some_and(|newest| *newest > self.revision))
    }
}
