//! What must hold when all is healed and all is done: every reading is where it belongs, once, and the counts say so.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use bytes::Bytes;
use windrow_processing::parquet;
use windrow_protocol::marker::{Committed, FileEntry, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::{JobName, JobSpec, PartitionId, Revision, TopicId, WindowId};

use super::oracle::{self, Key};
use super::{Audit, Checked, Seen, must, volume};
use crate::locked;
use crate::workload::Sent;

/// What the end is judged by.
#[derive(Debug)]
pub struct End<'a> {
    pub sent: &'a Sent,
    pub topic_id: TopicId,
    pub partitions: i32,
    /// Folder for files that are looked into.
    pub scratch: &'a Path,
    /// The topic is gone: what was not committed by then never will be.
    pub is_cut_short: bool,
}

impl Audit {
    /// Judges the end of a run.
    pub fn end(&self, end: &End<'_>) {
        let seen = locked(&self.seen);
        let judged = self.acknowledged(end);
        self.report(judged);
        for (job, spec) in self.jobs.iter() {
            let mut owned: BTreeMap<PartitionId, Vec<&Marker>> = BTreeMap::new();
            for marker in seen.files.maps.values().filter(|marker| marker.job == *job) {
                owned.entry(marker.plan.partition).or_default().push(marker);
            }
            for (partition, mut markers) in owned {
                markers.sort_by_key(|marker| (marker.plan.window.start, marker.plan.revision));
                let judged = self.partition(&seen, job, spec, partition, &markers, end);
                self.report(judged);
            }
            let judged = windows(&seen, job, spec, end);
            self.report(judged);
        }
    }

    /// What was acknowledged is in the log; from there the auditors follow it.
    fn acknowledged(&self, end: &End<'_>) -> Checked {
        let mut held: BTreeMap<Bytes, u64> = BTreeMap::new();
        for partition in (0..end.partitions).map(PartitionId) {
            self.log.history(&end.topic_id, partition, |history| {
                history.records.iter().for_each(|record| *held.entry(record.payload.clone()).or_default() += 1);
            });
        }
        let missing = end.sent.acknowledged().into_iter().find(|(payload, n)| held.get(payload).is_none_or(|m| m < n));
        must!(missing.is_none() || end.is_cut_short, "a record was acknowledged but is not in the log: {missing:?}");
        Ok(())
    }

    /// A partition's batches own its offsets without gap or overlap, and made what they must.
    fn partition(
        &self,
        seen: &Seen,
        job: &JobName,
        spec: &JobSpec,
        partition: PartitionId,
        markers: &[&Marker],
        end: &End<'_>,
    ) -> Checked {
        let Some(begun) = seen.begun.get(&(job.clone(), partition)) else {
            return Err(format!("{job}/{partition} has markers but never had a cursor"));
        };
        let mut at = begun.end;
        let mut first: Vec<&&Marker> = markers.iter().filter(|marker| marker.plan.revision == Revision(0)).collect();
        first.sort_by_key(|marker| (marker.plan.owned.end, marker.plan.window.start));
        for marker in first {
            let whole = end.is_cut_short || marker.plan.owned.start == at;
            must!(whole, "{job}/{partition}: nobody, or two, own offsets from {at} to {}", marker.plan.owned.start);
            at = marker.plan.owned.end;
        }
        // A job that began late has never known the first topic.
        let topic_id = markers.first().map_or(&end.topic_id, |marker| &marker.plan.topic_id);
        let judged = self.log.history(topic_id, partition, |history| {
            let held = history.records.len() as i64;
            match spec.window.volume() {
                Some(until) if !end.is_cut_short => {
                    volume::rest_is_open(&format!("{job}/{partition}"), history, end.sent, &until, at)?;
                }
                Some(_) => {}
                None => must!(end.is_cut_short || at.0 == held, "{job}/{partition} ends at {at}, the log at {held}"),
            }
            let mut windows: BTreeMap<WindowId, Vec<&Marker>> = BTreeMap::new();
            markers.iter().for_each(|marker| windows.entry(marker.plan.window.id()).or_default().push(marker));
            let newest: Vec<&Marker> = windows.values().filter_map(|all| all.last()).copied().collect();
            let calendar = spec.window.calendar().map_err(|error| error.to_string())?;
            let all = oracle::Partition { windows, spec, calendar, history, sent: end.sent };
            if !end.is_cut_short {
                all.each_once()?;
            }
            for marker in markers {
                volume::ends_rightly(marker, history, end.sent)?;
                let expected = all.expected(marker)?;
                let name = format!("{job}/{}/{partition}/{}", marker.plan.window.id(), marker.plan.revision);
                let ledger = (marker.ledger, expected.ledger);
                must!(ledger.0 == ledger.1, "{name}: the ledger is {:?} but must be {:?}", ledger.0, ledger.1);
                let kept = if spec.reduce.is_some() { Dataset::Parts } else { Dataset::Data };
                if !newest.contains(marker) {
                    // Of what was replaced the result alone is kept.
                    if kept == Dataset::Data {
                        let found = keys_in(seen, &replaced(marker), end.scratch)?;
                        same(&format!("{name} as it was"), found, expected.kept)?;
                    }
                    continue;
                }
                for (dataset, expected) in [(kept, expected.kept), (Dataset::Late, expected.late)] {
                    let found = readings(seen, marker.files(), job, dataset, end.scratch)?;
                    same(&format!("{name} {}", dataset.folder()), found, expected)?;
                }
                let quarantined: u64 = of(marker.files(), job, Dataset::Quarantine).map(|entry| entry.rows).sum();
                must!(quarantined == expected.quarantined, "{name} has {quarantined} rows in quarantine");
            }
            Ok(())
        });
        judged.unwrap_or(Ok(()))
    }
}

/// Windows are complete one after the other, and reduces have joined what their parts hold.
fn windows(seen: &Seen, job: &JobName, spec: &JobSpec, end: &End<'_>) -> Checked {
    let mut completes: Vec<_> = seen.files.completes.values().filter(|complete| complete.job == *job).collect();
    completes.sort_by_key(|complete| (complete.plan.window.id(), complete.plan.revision));
    let completes: Vec<_> = completes
        .chunk_by(|a, b| a.plan.window.id() == b.plan.window.id())
        .filter_map(|all| all.last())
        .copied()
        .collect();
    let Some(progress) = seen.progress.get(job) else { return Ok(()) };
    let (mut at, of_volume) = (progress.origin, spec.window.volume().is_some());
    for complete in &completes {
        // Within a run of empty windows, the run has counted it.
        if complete.plan.windows > 0 {
            let in_order = of_volume || end.is_cut_short || complete.plan.window.start == at;
            must!(in_order, "{job}: no window from {at} on is complete");
            at = complete.plan.until;
        }
        // A revision that was cut short may have replaced some parts.
        if spec.reduce.is_none() || end.is_cut_short {
            continue;
        }
        let mut parts = Vec::new();
        for marker in seen.files.maps.values().filter(|m| m.job == *job && m.plan.window == complete.plan.window) {
            if marker.plan.revision == complete.plan.revision_of(marker.plan.partition) {
                parts.extend(readings(seen, marker.files(), job, Dataset::Parts, end.scratch)?);
            }
        }
        let reduced = readings(seen, complete.files(), job, Dataset::Data, end.scratch)?;
        same(&format!("{job}/{} reduced", complete.plan.window.id()), reduced, parts)?;
    }
    if !end.is_cut_short {
        let through = of_volume || at == progress.finish_planned_through;
        must!(through, "{job}: windows are complete up to {at}, of {progress:?}");
        let n: u64 = completes.iter().map(|complete| complete.plan.windows).sum();
        must!(n == progress.windows_complete, "{job}: {n} windows are complete, of {progress:?}");
        let gone = seen.expired.get(job).map(|(_, expired)| expired);
        let left = completes.iter().filter(|it| gone.is_none_or(|gone| !gone.covers(it.plan.window.id())));
        let told = gone.map_or(0, |gone| gone.windows) + left.map(|it| it.plan.windows).sum::<u64>();
        must!(told == n, "{job}: record and markers tell of {told} windows, but {n} were complete");
    }
    Ok(())
}

/// The files of a superseded marker, by where its result is kept.
fn replaced(marker: &Marker) -> Vec<FileEntry> {
    let (window, revision) = (marker.plan.window.id(), marker.plan.revision);
    let kept = marker.files.iter().filter(|file| file.rows > 0).filter_map(|file| {
        let path = paths::kept(&marker.job, window, revision, &file.path)?;
        Some(FileEntry { path, ..file.clone() })
    });
    kept.collect()
}

fn same(name: &str, mut found: Vec<Key>, mut expected: Vec<Key>) -> Checked {
    found.sort_unstable();
    expected.sort_unstable();
    let missing = expected.iter().find(|key| !found.contains(key));
    must!(found == expected, "{name}: {} readings, must be {}; missing: {missing:?}", found.len(), expected.len());
    Ok(())
}

fn of<'a>(files: &'a [FileEntry], job: &JobName, dataset: Dataset) -> impl Iterator<Item = &'a FileEntry> {
    files.iter().filter(move |entry| entry.is_in(job, dataset))
}

/// Device and sequence number of all readings in a marker's files of a dataset.
fn readings(
    seen: &Seen,
    files: &[FileEntry],
    job: &JobName,
    dataset: Dataset,
    scratch: &Path,
) -> Result<Vec<Key>, String> {
    keys_in(seen, of(files, job, dataset), scratch)
}

/// Device and sequence number of all readings in files.
fn keys_in<'a>(
    seen: &Seen,
    files: impl IntoIterator<Item = &'a FileEntry>,
    scratch: &Path,
) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for entry in files {
        let bytes = seen
            .objects
            .get(&entry.path)
            .or_else(|| seen.gone.get(&entry.path))
            .ok_or_else(|| format!("{} is not there", entry.path))?;
        let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", entry.path);
        let local = scratch.join("looked-into.parquet");
        std::fs::write(&local, bytes).map_err(|error| unreadable(&error))?;
        let before = keys.len();
        for batch in parquet::read(&local).map_err(|error| unreadable(&error))? {
            let batch = batch.map_err(|error| unreadable(&error))?;
            let column = |name: &str, kind: &DataType| {
                let column = batch.column_by_name(name).ok_or_else(|| unreadable(&"a column is missing"))?;
                cast(column, kind).map_err(|error| unreadable(&error))
            };
            let (devices, seqs) = (column("device", &DataType::Utf8)?, column("seq", &DataType::UInt64)?);
            let (devices, seqs) = (devices.as_string::<i32>(), seqs.as_primitive::<UInt64Type>());
            for row in 0..batch.num_rows() {
                let device = devices.value(row).trim_start_matches('d').parse();
                keys.push((device.map_err(|error| unreadable(&error))?, seqs.value(row)));
            }
        }
        must!((keys.len() - before) as u64 == entry.rows, "{} has other rows than its marker says", entry.path);
    }
    Ok(keys)
}
