//! Of the object store: markers never change, nothing is published without one, and what is published is what it says.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use windrow_protocol::marker::{Committed, Complete, FileEntry, Marker};
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::{BatchId, FinishPlan, Part};
use windrow_protocol::state::{Task, keys};
use windrow_protocol::{JobName, Ledger, Revision, WindowId, paths};

use super::{Audit, Checked, Seen, must, retention, volume};
use crate::faulty_store::Change;
use crate::locked;

/// Markers, and the files that they name.
#[derive(Debug, Default)]
pub struct Files {
    pub maps: BTreeMap<String, Marker>,
    pub completes: BTreeMap<String, Complete>,
    /// By final path, of the newest revision that names it.
    named: BTreeMap<String, (Revision, FileEntry)>,
    /// By staged path.
    staged: BTreeMap<String, FileEntry>,
}

type Objects = BTreeMap<String, Bytes>;

/// Lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn holds(objects: &Objects, path: &str, entry: &FileEntry) -> bool {
    objects.get(path).is_some_and(|bytes| bytes.len() as u64 == entry.bytes && sha256(bytes) == entry.sha256)
}

pub(super) fn is_final(path: &str) -> bool {
    let folder = path.split('/').nth(1).unwrap_or_default();
    ["data", "parts", "late", "quarantine", "revisions"].contains(&folder)
}

fn is_marker(path: &str) -> bool {
    path.split('/').nth(1) == Some("_commits")
}

impl Audit {
    /// The object store has changed.
    pub fn store_changed(&self, change: Change<'_>) {
        let checked = self.check(&mut locked(&self.seen), change);
        self.report(checked);
    }

    fn check(&self, seen: &mut Seen, change: Change<'_>) -> Checked {
        if let Change::Put(path, bytes) = change
            && let Some(number) = paths::parse_expired(path)
        {
            must!(!seen.objects.contains_key(path), "record {path} is overwritten");
            seen.objects.insert(path.to_owned(), bytes.clone());
            return self.expired(seen, path, number, bytes);
        }
        check(seen, change)
    }
}

fn check(seen: &mut Seen, change: Change<'_>) -> Checked {
    match change {
        Change::Put(path, bytes) => {
            must!(!is_marker(path) || !seen.objects.contains_key(path), "marker {path} is overwritten");
            seen.objects.insert(path.to_owned(), bytes.clone());
            if retention::is_gone(seen, path) {
                return Ok(());
            }
            if is_marker(path) { marker(seen, path, bytes) } else { written(seen, path) }
        }
        Change::Copied { from, to } => {
            must!(!is_marker(to), "marker {to} is copied over");
            let bytes = seen.objects.get(from).cloned().unwrap_or_default();
            seen.objects.insert(to.to_owned(), bytes);
            written(seen, to)
        }
        Change::Deleted(path) => {
            if is_marker(path) || is_final(path) {
                retention::deleted(seen, path)?;
            }
            let bytes = seen.objects.remove(path);
            // A delete that comes late may find nothing.
            let Some(bytes) = bytes else { return Ok(()) };
            if is_final(path) {
                seen.gone.insert(path.to_owned(), bytes);
            }
            if let Some(entry) = seen.files.staged.get(path) {
                let to = &entry.path;
                must!(holds(&seen.objects, to, entry), "{path} is deleted before {to} is published");
            }
            Ok(())
        }
    }
}

/// A file where readers look must be one that a marker names, whole.
fn written(seen: &Seen, path: &str) -> Checked {
    if !is_final(path) || retention::is_gone(seen, path) {
        return Ok(());
    }
    let Some((_, entry)) = seen.files.named.get(path) else {
        return Err(format!("{path} is published without a marker"));
    };
    must!(holds(&seen.objects, path, entry), "{path} is published but is not what its marker says");
    Ok(())
}

fn marker(seen: &mut Seen, path: &str, bytes: &Bytes) -> Checked {
    let Some((job, window, part, _)) = paths::parse_marker(path) else { return Err(format!("{path} is no marker")) };
    let Some(task) = seen.tasks.get(&keys::batch(&job, window, part)) else {
        return Err(format!("{path} is of a batch that was never planned"));
    };
    let unreadable = |error: serde_json::Error| format!("{path}: {error}");
    match task {
        Task::Map(plan) => {
            let marker: Marker = serde_json::from_slice(bytes).map_err(unreadable)?;
            match plan.volume() {
                Some(cut) => volume::marked(path, plan, cut, &marker)?,
                None => must!(marker.plan == *plan, "{path} says {:?} but the plan is {plan:?}", marker.plan),
            }
            marker.ledger.check().map_err(|broken| format!("{path}: {broken}"))?;
            name(seen, path, marker.plan.revision, &marker)?;
            seen.files.maps.insert(path.to_owned(), marker);
        }
        Task::Finish(plan) => {
            let complete: Complete = serde_json::from_slice(bytes).map_err(unreadable)?;
            must!(complete.plan == *plan, "{path} says {:?} but the plan is {plan:?}", complete.plan);
            joins(seen, path, &job, window, &complete)?;
            name(seen, path, complete.plan.revision, &complete)?;
            seen.files.completes.insert(path.to_owned(), complete);
        }
    }
    Ok(())
}

/// A marker's files are staged, whole, and nobody else's; but a revision's are those of the one before, replaced or left.
fn name(seen: &mut Seen, path: &str, revision: Revision, marker: &impl Committed) -> Checked {
    for entry in marker.files().iter().filter(|entry| entry.path.contains("/revisions/")) {
        let kept = seen.files.named.values().any(|(_, of)| of.sha256 == entry.sha256 && of.rows == entry.rows);
        must!(kept, "{path} keeps {}, which was never published", entry.path);
    }
    for entry in marker.files() {
        let before = seen.files.named.get(&entry.path);
        let is_left = before.is_some_and(|(_, before)| before == entry) && holds(&seen.objects, &entry.path, entry);
        let is_staged = holds(&seen.objects, &entry.staged, entry);
        must!(is_staged || is_left, "{path} names {}, which is not staged whole", entry.staged);
        must!(before.is_none_or(|(of, _)| *of < revision), "{path} names {}, as another marker does", entry.path);
        seen.files.named.insert(entry.path.clone(), (revision, entry.clone()));
        seen.files.staged.insert(entry.staged.clone(), entry.clone());
    }
    // Who reads only the newest files must find none that it does not name.
    let Some((job, window, part, _)) = paths::parse_marker(path) else { return Ok(()) };
    for dataset in [Dataset::Data, Dataset::Parts, Dataset::Late, Dataset::Quarantine] {
        for at in (0..4).map(|number| paths::file(&job, dataset, window, part, number)) {
            let is_left = seen.files.named.get(&at).is_some_and(|(of, _)| *of < revision);
            must!(!is_left, "{path} leaves {at} of the revision before it standing");
        }
    }
    Ok(())
}

/// A window is complete when all partitions are in, with the results that stand.
fn joins(seen: &Seen, path: &str, job: &JobName, window: WindowId, complete: &Complete) -> Checked {
    let mut ledger = Ledger::default();
    let inputs: Vec<_> = complete.inputs.iter().map(|input| input.partition).collect();
    must!(inputs == complete.plan.partitions, "{path} joins {inputs:?}, planned were {:?}", complete.plan.partitions);
    for input in &complete.inputs {
        let of =
            paths::marker(job, window, Part::Partition(input.partition), complete.plan.revision_of(input.partition));
        let Some(marker) = seen.files.maps.get(&of) else { return Err(format!("{path} is there before {of}")) };
        must!(marker.attempt == input.attempt, "{path} joins another attempt than that of {of}");
        ledger = ledger.plus(&marker.ledger);
    }
    must!(ledger == complete.ledger, "{path} has another ledger than its parts together");
    Ok(())
}

impl Files {
    /// That a batch's marker stands and its files are where readers look; its ledger.
    pub fn published(&self, objects: &Objects, id: &BatchId) -> Result<Ledger, String> {
        let path = paths::marker(&id.job, id.window, id.part, id.revision);
        let (files, ledger) = match (self.maps.get(&path), self.completes.get(&path)) {
            (Some(marker), _) => (&marker.files, marker.ledger),
            (_, Some(complete)) => (&complete.files, complete.ledger),
            _ => return Err(format!("{id} is said to be committed, but has no marker")),
        };
        for entry in files {
            must!(holds(objects, &entry.path, entry), "{id} is said to be committed, but {} is not there", entry.path);
        }
        Ok(ledger)
    }

    /// That a window is complete and all its results are where readers look.
    pub fn complete(&self, objects: &Objects, job: &str, plan: &FinishPlan) -> Checked {
        let job = JobName::new(job).map_err(|error| error.to_string())?;
        let maps = plan.partitions.iter().map(|of| (Part::Partition(*of), plan.revision_of(*of)));
        for (part, revision) in maps.chain([(Part::Finish, plan.revision)]) {
            let id = BatchId { job: job.clone(), window: plan.window.id(), part, revision };
            self.published(objects, &id)?;
        }
        Ok(())
    }
}
