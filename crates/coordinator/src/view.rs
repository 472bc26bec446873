//! Everything under `/windrow/v1/`, decoded. A value that can't be read is logged and left out: one bad key must not
//! stop the others.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use windrow_ports::meta::{KeyValue, Listing};
use windrow_protocol::cut::Cursor;
use windrow_protocol::plan::Part;
use windrow_protocol::state::{Assignment, BatchRecord, JobRecord, Progress, ROOT, WorkerRecord};
use windrow_protocol::{JobName, JobSpec, PartitionId, WindowId, WorkerId};

/// A decoded value with its mod revision.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    pub value: T,
    pub revision: i64,
}

/// What the metadata store held at one revision.
#[derive(Debug, Default)]
pub struct View {
    pub jobs: BTreeMap<JobName, Versioned<JobRecord>>,
    pub specs: BTreeMap<(JobName, String), JobSpec>,
    pub cursors: BTreeMap<JobName, BTreeMap<PartitionId, Versioned<Cursor>>>,
    pub progress: BTreeMap<JobName, Versioned<Progress>>,
    pub batches: BTreeMap<JobName, BTreeMap<(WindowId, Part), Versioned<BatchRecord>>>,
    pub workers: BTreeMap<WorkerId, Versioned<WorkerRecord>>,
    /// By key.
    pub assignments: BTreeMap<String, Versioned<Assignment>>,
}

impl View {
    pub fn new(listing: &Listing) -> Self {
        let mut view = Self::default();
        for item in &listing.items {
            if view.add(item).is_none() {
                tracing::warn!(key = item.key, "metadata key is not understood; leaving it out");
            }
        }
        view
    }

    fn add(&mut self, item: &KeyValue) -> Option<()> {
        let segments: Vec<&str> = item.key.strip_prefix(ROOT)?.split('/').collect();
        match segments[..] {
            ["leader"] => {}
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
            ["batches", job, window, part] => {
                let batches = self.batches.entry(JobName::new(job).ok()?).or_default();
                batches.insert((window.parse().ok()?, part.parse().ok()?), decode(item)?);
            }
            ["workers", worker] => drop(self.workers.insert(WorkerId::new(worker).ok()?, decode(item)?)),
            ["assignments", ..] => drop(self.assignments.insert(item.key.clone(), decode(item)?)),
            _ => return None,
        }
        Some(())
    }
}

fn decode<T: DeserializeOwned>(item: &KeyValue) -> Option<Versioned<T>> {
    let value = serde_json::from_slice(&item.value).ok()?;
    Some(Versioned { value, revision: item.mod_revision })
}

/// JSON of a record. Records are structs of strings, numbers and maps with text keys, which always serialise.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
