//! Where each reading must be, worked out from the plans and the log alone, the slow and obvious way.

use std::collections::BTreeMap;

use windrow_protocol::job::LatePolicy;
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::OffsetRange;
use windrow_protocol::{Ledger, Offset, Plan};

use super::must;
use crate::log::History;
use crate::workload::{Sample, Sent};

/// Device and sequence number.
pub type Key = (u32, u64);

/// What a batch's outputs must hold.
#[derive(Debug, Default)]
pub struct Expected {
    pub kept: Vec<Key>,
    pub late: Vec<Key>,
    pub quarantined: u64,
    pub ledger: Ledger,
}

/// The offsets that a batch reports as lost.
fn lost(marker: &Marker) -> OffsetRange {
    let start = marker.plan.read.start;
    OffsetRange { start, end: Offset(start.0 + marker.ledger.lost_offsets as i64) }
}

/// Whose a reading is.
enum Place {
    OnTime(usize),
    Late(usize),
}

/// The one batch that a reading belongs to. None if its record was lost before its window was planned: then the batch
/// that was planned next after the loss reports it, since look-ups no longer see what is gone.
fn place(markers: &[&Marker], offset: Offset, sample: &Sample) -> Result<Option<Place>, String> {
    let of = |at: usize| &markers[at].plan;
    let all = 0..markers.len();
    let on_time = all.clone().filter(|at| of(*at).window.contains(sample.time) && of(*at).read.contains(offset));
    let late = all.filter(|at| of(*at).owned.contains(offset) && sample.time < of(*at).window.start);
    let places: Vec<Place> = on_time.map(Place::OnTime).chain(late.map(Place::Late)).collect();
    let n = places.len();
    match <[Place; 1]>::try_from(places) {
        Ok([place]) => Ok(Some(place)),
        Err(_) if n == 0 && markers.iter().any(|m| lost(m).contains(offset)) => Ok(None),
        Err(_) => {
            let near = markers.iter().filter(|m| m.plan.window.contains(sample.time) || m.plan.owned.contains(offset));
            let near: Vec<String> = near.map(|m| describe(m)).collect();
            Err(format!("{sample:?} at offset {offset} belongs to {n} batches; near it are {near:?}"))
        }
    }
}

fn describe(marker: &Marker) -> String {
    let Plan { window, partition, read, owned, sealed_by, .. } = &marker.plan;
    let (window, lost) = (window.id(), lost(marker));
    format!("{}/{window}/{partition} reads {read} owns {owned} lost {lost} by {sealed_by:?}", marker.job)
}

/// What every batch of a partition must have made; `markers` in the order in which they own offsets, all of them.
pub fn expected(
    markers: &[&Marker],
    history: &History,
    sent: &Sent,
    late_policy: LatePolicy,
) -> Result<Vec<Expected>, String> {
    let mut expected: Vec<Expected> = markers.iter().map(|_| Expected::default()).collect();
    let mut first: Vec<BTreeMap<Key, ()>> = markers.iter().map(|_| BTreeMap::new()).collect();
    let (Some(begin), Some(end)) = (markers.first(), markers.last()) else { return Ok(expected) };
    let covered = begin.plan.owned.start.0..end.plan.owned.end.0;
    for record in history.records.iter().filter(|record| covered.contains(&record.offset.0)) {
        let offset = record.offset;
        let reads: Vec<bool> =
            markers.iter().map(|m| m.plan.read.contains(offset) && !lost(m).contains(offset)).collect();
        for (at, _) in reads.iter().enumerate().filter(|(_, reads)| **reads) {
            expected[at].ledger.records += 1;
        }
        let Some(samples) = sent.samples(&record.payload) else {
            let owner = markers.iter().position(|m| m.plan.owned.contains(offset));
            if let Some(owner) = owner.filter(|owner| reads[*owner]) {
                expected[owner].ledger.undecodable += 1;
                expected[owner].quarantined += 1;
            }
            continue;
        };
        for sample in &samples {
            for (at, _) in reads.iter().enumerate().filter(|(_, reads)| **reads) {
                expected[at].ledger.read += 1;
                expected[at].ledger.skipped += 1;
            }
            let (at, is_late) = match place(markers, offset, sample)? {
                Some(Place::OnTime(at)) => (at, false),
                Some(Place::Late(at)) => (at, true),
                None => continue,
            };
            if reads[at] {
                let repeated = !is_late && first[at].insert((sample.device, sample.seq), ()).is_some();
                expected[at].take(sample, is_late, repeated, late_policy);
            }
        }
    }
    for (at, marker) in markers.iter().enumerate() {
        expected[at].ledger.lost_offsets = marker.ledger.lost_offsets;
        must!(
            lost(marker).is_empty() || lost(marker).end <= history.log_start,
            "{}/{} reports {} as lost, but the log begins at {}",
            marker.plan.window.id(),
            marker.plan.partition,
            lost(marker),
            history.log_start
        );
    }
    Ok(expected)
}

impl Expected {
    /// A reading that is this batch's; it was counted as skipped before.
    fn take(&mut self, sample: &Sample, is_late: bool, is_repeated: bool, late_policy: LatePolicy) {
        self.ledger.skipped -= 1;
        let key = (sample.device, sample.seq);
        if is_late {
            self.ledger.late += 1;
            match (sample.is_fit, late_policy) {
                (false, _) => self.quarantined += 1,
                (true, LatePolicy::Side) => self.late.push(key),
                (true, LatePolicy::Drop) => {}
            }
            return;
        }
        self.ledger.on_time += 1;
        if is_repeated {
            self.ledger.duplicate += 1;
        } else if sample.is_fit {
            self.ledger.kept += 1;
            self.kept.push(key);
        } else {
            self.ledger.quarantined += 1;
            self.quarantined += 1;
        }
    }
}
