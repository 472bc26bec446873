//! The proof, from markers, files and log alone: offsets without gap or overlap, files with their checksums, ledgers
//! that add up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use windrow_ports::Log;
use windrow_protocol::marker::{Committed, Complete, Marker};
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, Ledger, PartitionId, WindowId, paths};
use windrow_storage::Store;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong, and where. Empty: everything is proven.
    pub findings: Vec<String>,
    pub windows: u64,
    pub batches: u64,
    pub files: u64,
    pub ledger: Ledger,
}

/// Verifies all that a job has committed.
pub async fn verify(store: &Store, log: &dyn Log, job: &JobName) -> Result<Report> {
    let mut report = Report::default();
    let mut batches: BTreeMap<PartitionId, Vec<Marker>> = BTreeMap::new();
    let mut with_marker: BTreeSet<(WindowId, PartitionId)> = BTreeSet::new();
    let mut complete = Vec::new();
    for object in store.list(&paths::commits(job)).await? {
        match paths::parse_marker(&object.path) {
            None => report.findings.push(format!("{} is no marker", object.path)),
            Some((_, _, Part::Finish, _)) => complete.extend(store.read_marker::<Complete>(&object.path).await?),
            Some((_, window, Part::Partition(partition), _)) => {
                with_marker.insert((window, partition));
                let markers = batches.entry(partition).or_default();
                markers.extend(store.read_marker::<Marker>(&object.path).await?);
            }
        }
    }
    for marker in &complete {
        report.windows += marker.plan.windows;
        let window = marker.plan.window.id();
        for partition in marker.plan.partitions.iter().filter(|p| !with_marker.contains(&(window, **p))) {
            report.findings.push(format!("window {window}: complete, but partition {partition} has no marker"));
        }
        report.files(store, marker).await?;
    }
    for (partition, mut markers) in batches {
        markers.sort_by_key(|marker| marker.plan.owned.end);
        report.partition(log, partition, &markers).await?;
        for marker in &markers {
            report.files(store, marker).await?;
        }
    }
    Ok(report)
}

impl Report {
    async fn partition(&mut self, log: &dyn Log, partition: PartitionId, markers: &[Marker]) -> Result<()> {
        for pair in markers.windows(2) {
            let (before, after) = (&pair[0].plan, &pair[1].plan);
            if before.owned.end != after.owned.start {
                let what = if before.owned.end < after.owned.start { "nobody owns" } else { "two batches own" };
                self.findings.push(format!(
                    "partition {partition}: {what} offsets between {} (window {}) and {} (window {})",
                    before.owned.end,
                    before.window.id(),
                    after.owned.start,
                    after.window.id()
                ));
            }
        }
        for marker in markers {
            self.batches += 1;
            self.ledger = self.ledger.plus(&marker.ledger);
            let window = marker.plan.window.id();
            if let Err(broken) = marker.ledger.check() {
                self.findings.push(format!("window {window} partition {partition}: ledger: {broken}"));
            }
            if marker.ledger.lost_offsets > 0 {
                let lost = marker.ledger.lost_offsets;
                self.findings
                    .push(format!("window {window} partition {partition}: {lost} offsets were lost to retention"));
            }
        }
        if let Some(last) = markers.last() {
            let bounds = log.bounds(&last.plan.topic, &[partition]).await?;
            let high_watermark = bounds.into_iter().next().transpose()?.map(|bounds| bounds.high_watermark);
            if high_watermark.is_some_and(|end| end < last.plan.owned.end) {
                self.findings.push(format!(
                    "partition {partition}: the log ends before the last batch does: is it the same topic?"
                ));
            }
        }
        Ok(())
    }

    async fn files(&mut self, store: &Store, marker: &impl Committed) -> Result<()> {
        for file in marker.files() {
            self.files += 1;
            match store.size(&file.path).await? {
                None => self.findings.push(format!("{} is missing", file.path)),
                Some(_) if store.sha256(&file.path).await? != file.sha256 => {
                    self.findings.push(format!("{} is not what was committed: its checksum differs", file.path));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Prints a report as JSON; an error if it is not clean.
pub fn print(report: &Report) -> Result<()> {
    let value = serde_json::json!({
        "clean": report.findings.is_empty(), "findings": report.findings, "windows": report.windows,
        "batches": report.batches, "files": report.files, "ledger": report.ledger,
    });
    println!("{}", serde_json::to_string_pretty(&value)?);
    anyhow::ensure!(report.findings.is_empty(), "the proof failed: {} findings", report.findings.len());
    Ok(())
}
