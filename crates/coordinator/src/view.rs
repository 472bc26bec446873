//! Everything under `/windrow/v1/`, decoded. A value that can't be read (a newer version wrote it) is logged and left out:
//! one bad key must not stop the others. But the job whose batch, cursor, progress or wish it is stops: to take a batch for
//! absent would be to finish its window without it, and to take a wish for absent to let its windows go.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use windrow_ports::meta::{KeyValue, Listing, MetaError, MetaStore};
use windrow_protocol::cut::Cursor;
use windrow_protocol::plan::Part;
use windrow_protocol::revise::WishId;
use windrow_protocol::state::{
    Assignment, BatchRecord, BatchState, JobRecord, Progress, ROOT, Wish, WorkerRecord, keys,
};
use windrow_protocol::{JobName, JobSpec, PartitionId, Revision, WindowId, WorkerId};

/// A decoded value with its mod revision.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: i64,
}

/// What the metadata store holds.
#[derive(Debug, Default)]
pub struct View {
    pub jobs: BTreeMap<JobName, Versioned<JobRecord>>,
    pub specs: BTreeMap<(JobName, String), JobSpec>,
    pub cursors: BTreeMap<JobName, BTreeMap<PartitionId, Versioned<Cursor>>>,
    pub progress: BTreeMap<JobName, Versioned<Progress>>,
    /// What keeps a job from going on.
    pub problems: BTreeMap<JobName, String>,
    /// Windows that are to be run again.
    pub wishes: BTreeMap<JobName, BTreeMap<WishId, Versioned<Wish>>>,
    pub batches: BTreeMap<JobName, BTreeMap<(WindowId, Part), Versioned<BatchRecord>>>,
    /// The batches by what is to be done with them, so that nobody has to look through all of them.
    pub queues: BTreeMap<JobName, Queue>,
    pub workers: BTreeMap<WorkerId, Versioned<WorkerRecord>>,
    /// Keys of jobs' cursors, progress and batches that are not understood.
    unreadable: BTreeMap<JobName, BTreeSet<String>>,
    /// By key.
    pub assignments: BTreeMap<String, Versioned<Assignment>>,
    /// Keys of assignments that are not understood: their workers have them all the same.
    unreadable_assignments: BTreeSet<String>,
}

/// A job's batches by state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Wait for a worker.
    pub pending: BTreeSet<(WindowId, Part)>,
    /// Are said to be with a worker.
    pub assigned: BTreeSet<(WindowId, Part)>,
    /// Per window, how many partitions' batches are not committed.
    pub open: BTreeMap<WindowId, usize>,
}

impl Queue {
    fn add(&mut self, at: (WindowId, Part), state: &BatchState) {
        match state {
            BatchState::Pending => drop(self.pending.insert(at)),
            BatchState::Assigned { .. } => drop(self.assigned.insert(at)),
            BatchState::Failed | BatchState::Committed(_) => {}
        }
        if at.1 != Part::Finish && !matches!(state, BatchState::Committed(_)) {
            *self.open.entry(at.0).or_default() += 1;
        }
    }

    fn remove(&mut self, at: (WindowId, Part), state: &BatchState) {
        self.pending.remove(&at);
        self.assigned.remove(&at);
        if at.1 != Part::Finish
            && !matches!(state, BatchState::Committed(_))
            && let Some(open) = self.open.get_mut(&at.0)
        {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&at.0);
            }
        }
    }
}

impl View {
    pub fn new(listing: &Listing) -> Self {
        let mut view = Self::default();
        listing.items.iter().for_each(|item| view.put(item));
        view
    }

    /// Takes in a key that was put.
    pub fn put(&mut self, item: &KeyValue) {
        // A value that can't be read must not leave the one before it standing.
        self.delete(&item.key);
        if self.add(item).is_none() {
            tracing::warn!(key = item.key, "metadata key is not understood; leaving it out");
            if let Some(job) = planned_job(&item.key) {
                self.unreadable.entry(job).or_default().insert(item.key.clone());
            }
            if item.key.starts_with(keys::ASSIGNMENTS) {
                self.unreadable_assignments.insert(item.key.clone());
            }
        }
    }

    /// A key of the job's plans that is not understood: nobody may decide anything of the job without it.
    pub fn unreadable(&self, job: &JobName) -> Option<&str> {
        self.unreadable.get(job).and_then(BTreeSet::first).map(String::as_str)
    }

    /// The jobs that have work to be planned and handed out.
    pub fn running(&self) -> impl Iterator<Item = (&JobName, &Versioned<JobRecord>)> {
        self.jobs.iter().filter(|(name, _)| self.is_running(name))
    }

    /// Whether a job has work to be planned and handed out: it is neither paused nor being deleted, and understood.
    pub fn is_running(&self, name: &JobName) -> bool {
        let runs = |job: &Versioned<JobRecord>| job.value.paused.is_none() && !job.value.deleting;
        self.jobs.get(name).is_some_and(runs) && self.unreadable(name).is_none()
    }

    /// Keys of all assignments, understood or not.
    pub fn assigned(&self) -> impl Iterator<Item = &String> {
        self.assignments.keys().chain(&self.unreadable_assignments)
    }

    /// Whether a worker has an assignment of this key, be it understood or not.
    pub fn is_assigned(&self, key: &str) -> bool {
        self.assignments.contains_key(key) || self.unreadable_assignments.contains(key)
    }

    /// Wishes of a job that are not done, and windows that are being run again.
    pub fn revisions_pending(&self, job: &JobName) -> u64 {
        let wishes = self.wishes.get(job).into_iter().flatten().filter(|(_, wish)| !wish.value.is_done());
        let batches = self.batches.get(job).into_iter().flatten();
        let again = batches.filter(|(_, batch)| batch.value.id.revision > Revision::default());
        let windows: BTreeSet<WindowId> = again.map(|((window, _), _)| *window).collect();
        (wishes.count() + windows.len()) as u64
    }

    /// Forgets a key that was deleted.
    pub fn delete(&mut self, key: &str) {
        // A key that is not understood was never taken in.
        let _ = self.remove(key);
        self.unreadable_assignments.remove(key);
        if let Some(job) = planned_job(key)
            && let Some(keys) = self.unreadable.get_mut(&job)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.unreadable.remove(&job);
            }
        }
    }

    fn add(&mut self, item: &KeyValue) -> Option<()> {
        let segments: Vec<&str> = item.key.strip_prefix(ROOT)?.split('/').collect();
        match segments[..] {
            ["leader" | "store"] | ["retired", _] => {}
            ["jobs", job] => drop(self.jobs.insert(JobName::new(job).ok()?, decode(item)?)),
            ["specs", job, hash] => {
                let spec: Versioned<JobSpec> = decode(item)?;
                self.specs.insert((JobName::new(job).ok()?, hash.to_owned()), spec.value);
            }
            ["cursors", job, partition] => {
                let cursors = self.cursors.entry(JobName::new(job).ok()?).or_default();
                cursors.insert(PartitionId(partition.parse().ok()?), decode(item)?);
            }
            ["progress", job] => drop(self.progress.insert(JobName::new(job).ok()?, decode(item)?)),
            ["problems", job] => drop(self.problems.insert(JobName::new(job).ok()?, decode(item)?.value)),
            ["revisions", job, wish] => {
                let wishes = self.wishes.entry(JobName::new(job).ok()?).or_default();
                wishes.insert(wish.parse().ok()?, decode(item)?);
            }
            ["batches", job, window, part] => {
                let (job, at) = (JobName::new(job).ok()?, (window.parse().ok()?, part.parse().ok()?));
                let batch: Versioned<BatchRecord> = decode(item)?;
                self.queues.entry(job.clone()).or_default().add(at, &batch.value.state);
                self.batches.entry(job).or_default().insert(at, batch);
            }
            ["workers", worker] => drop(self.workers.insert(WorkerId::new(worker).ok()?, decode(item)?)),
            ["assignments", ..] => drop(self.assignments.insert(item.key.clone(), decode(item)?)),
            _ => return None,
        }
        Some(())
    }

    fn remove(&mut self, key: &str) -> Option<()> {
        let segments: Vec<&str> = key.strip_prefix(ROOT)?.split('/').collect();
        match segments[..] {
            ["jobs", job] => drop(self.jobs.remove(&JobName::new(job).ok()?)),
            ["specs", job, hash] => drop(self.specs.remove(&(JobName::new(job).ok()?, hash.to_owned()))),
            ["cursors", job, partition] => {
                drop(self.cursors.get_mut(&JobName::new(job).ok()?)?.remove(&PartitionId(partition.parse().ok()?)));
            }
            ["progress", job] => drop(self.progress.remove(&JobName::new(job).ok()?)),
            ["problems", job] => drop(self.problems.remove(&JobName::new(job).ok()?)),
            ["revisions", job, wish] => {
                drop(self.wishes.get_mut(&JobName::new(job).ok()?)?.remove(&wish.parse::<WishId>().ok()?));
            }
            ["batches", job, window, part] => {
                let (job, at) = (JobName::new(job).ok()?, (window.parse().ok()?, part.parse().ok()?));
                let batch = self.batches.get_mut(&job)?.remove(&at)?;
                self.queues.get_mut(&job)?.remove(at, &batch.value.state);
            }
            ["workers", worker] => drop(self.workers.remove(&WorkerId::new(worker).ok()?)),
            ["assignments", ..] => drop(self.assignments.remove(key)),
            _ => {}
        }
        Some(())
    }
}

/// A job's progress, wishes and batches, listed one after the other in an order in which nothing is missed: what progress
/// calls planned is among the batches, or complete. Wishes become batches, and batches leave wishes behind, so wishes are
/// listed before and after them. Of one that has gone on meanwhile the one of before counts: what it has become since may
/// not be among the batches.
pub async fn plans(meta: &dyn MetaStore, job: &JobName) -> Result<Listing, MetaError> {
    let progress = meta.get(&keys::progress(job)).await?;
    let before = meta.list(&keys::wishes(job)).await?.items;
    let batches = meta.list(&keys::batches(job)).await?.items;
    // In a view the last of a key counts.
    let mut listing = meta.list(&keys::wishes(job)).await?;
    listing.items.extend(progress.into_iter().chain(before).chain(batches));
    Ok(listing)
}

/// The job whose plans a key is part of.
fn planned_job(key: &str) -> Option<JobName> {
    let mut segments = key.strip_prefix(ROOT)?.split('/');
    let is_planned = matches!(segments.next()?, "batches" | "cursors" | "progress" | "revisions");
    is_planned.then(|| segments.next()).flatten().and_then(|job| JobName::new(job).ok())
}

fn decode<T: DeserializeOwned>(item: &KeyValue) -> Option<Versioned<T>> {
    let value = serde_json::from_slice(&item.value).ok()?;
    Some(Versioned { value, revision: item.mod_revision })
}

/// JSON of a record. Records are structs of strings, numbers and maps with text keys, which always serialise.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use windrow_ports::meta::{Op, Txn};
    use windrow_protocol::revise::{Span, SpecRef};
    use windrow_protocol::{BackfillName, Timestamp};

    use super::*;
    use crate::fixture::Meanwhile;

    fn item(key: &str, value: impl Into<Vec<u8>>) -> KeyValue {
        let value: Vec<u8> = value.into();
        KeyValue { key: key.to_owned(), value: value.into(), create_revision: 1, mod_revision: 1, lease: 0 }
    }

    fn job() -> (JobName, Vec<u8>) {
        let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
        let name = JobName::new("j").unwrap();
        let record = JobRecord::new(name.clone(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
        (name, encode(&record))
    }

    #[test]
    fn a_job_stops_while_a_part_of_its_plans_is_not_understood() {
        let (name, record) = job();
        for key in ["batches/j/20260101T000000Z/3", "cursors/j/3", "progress/j"] {
            let key = format!("{ROOT}{key}");
            let mut view = View::default();
            view.put(&item(&keys_of_job(&name), record.clone()));
            assert_eq!(view.running().count(), 1);
            view.put(&item(&key, r#"{"of": "a newer version"}"#));
            assert_eq!((view.running().count(), view.unreadable(&name)), (0, Some(key.as_str())));
            view.delete(&key);
            assert_eq!((view.running().count(), view.unreadable(&name)), (1, None));
        }
    }

    #[test]
    fn a_key_of_nobody_s_plans_stops_nobody() {
        let (name, record) = job();
        let mut view = View::default();
        view.put(&item(&keys_of_job(&name), record));
        let assignment = format!("{ROOT}assignments/w/j/20260101T000000Z/3");
        for key in ["workers/w", "things/j", "batches"] {
            view.put(&item(&format!("{ROOT}{key}"), "?"));
        }
        view.put(&item(&assignment, r#"{"of": "a newer version"}"#));
        assert_eq!(view.running().count(), 1);
        assert!(view.is_assigned(&assignment), "its worker has it all the same");
        view.delete(&assignment);
        assert!(!view.is_assigned(&assignment));
    }

    /// What is left to do of a wish is in the wish or among the batches, whenever they are listed.
    #[tokio::test]
    async fn a_wish_that_becomes_batches_while_a_job_is_listed_is_not_missed() {
        let (_folder, parts) = crate::fixture::parts();
        let (name, _) = job();
        let id: WishId = WishId::Backfill(BackfillName::new("b").unwrap());
        let at = |hours: i64| Timestamp::from_micros(hours * 3_600_000_000);
        let spec = SpecRef { hash: "h".to_owned(), generation: 1 };
        let wish = Wish::backfill(Span { from: at(0), until: at(9) }, spec, at(9));
        let put = |wish: &Wish| Op::put(keys::wish(&name, &id), encode(wish));
        parts.meta.txn(Txn { when: vec![], then: vec![put(&wish)] }).await.unwrap();
        // All its windows are planned and run after the batches were listed: only the wish of before tells of them.
        let done = Wish { next: at(9), ..wish.clone() };
        let (store, write) = (parts.meta.clone(), Txn { when: vec![], then: vec![put(&done)] });
        let meta = Meanwhile::new(parts.meta.clone(), async move { store.txn(write).await.map(drop).unwrap() });
        let view = View::new(&plans(&*meta, &name).await.unwrap());
        assert_eq!(view.revisions_pending(&name), 1);
        assert_eq!(View::new(&plans(&*meta, &name).await.unwrap()).revisions_pending(&name), 0, "once it is over");
    }

    fn keys_of_job(name: &JobName) -> String {
        windrow_protocol::state::keys::job(name)
    }
}
