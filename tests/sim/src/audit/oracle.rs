//! Where each reading must be, worked out from the plans and the log alone, the slow and obvious way.

use std::collections::BTreeSet;

use windrow_protocol::job::LatePolicy;
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::OffsetRange;
use windrow_protocol::{Ledger, Offset, Plan};

use super::{Checked, must};
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

/// Each reading of the offsets that are owned belongs to one batch. To none only if its record was lost before its window
/// was planned: then the batch that was planned next after the loss reports it, since look-ups no longer see what is gone.
pub fn each_once(markers: &[&Marker], history: &History, sent: &Sent) -> Checked {
    let (Some(begin), Some(end)) = (markers.first(), markers.last()) else { return Ok(()) };
    let covered = OffsetRange { start: begin.plan.owned.start, end: end.plan.owned.end };
    for record in history.records.iter().filter(|record| covered.contains(record.offset)) {
        let is_lost = markers.iter().any(|marker| lost(marker).contains(record.offset));
        for sample in sent.samples(&record.payload).into_iter().flatten() {
            let offset = record.offset;
            let mine = |m: &&&Marker| is_on_time(m, offset, &sample) || is_late(m, offset, &sample);
            let n = markers.iter().filter(mine).count();
            if n == 1 || (n == 0 && is_lost) {
                continue;
            }
            let near = markers.iter().filter(|m| m.plan.window.contains(sample.time) || m.plan.owned.contains(offset));
            let near: Vec<String> = near.map(|m| describe(m)).collect();
            return Err(format!("{sample:?} at offset {offset} belongs to {n} batches; near it are {near:?}"));
        }
    }
    Ok(())
}

fn is_on_time(marker: &Marker, offset: Offset, sample: &Sample) -> bool {
    marker.plan.read.contains(offset) && marker.plan.window.contains(sample.time)
}

fn is_late(marker: &Marker, offset: Offset, sample: &Sample) -> bool {
    marker.plan.owned.contains(offset) && sample.time < marker.plan.window.start
}

fn describe(marker: &Marker) -> String {
    let Plan { window, partition, read, owned, sealed_by, .. } = &marker.plan;
    let (window, lost) = (window.id(), lost(marker));
    format!("{}/{window}/{partition} reads {read} owns {owned} lost {lost} by {sealed_by:?}", marker.job)
}

/// What a batch must have made of the log.
pub fn expected(marker: &Marker, history: &History, sent: &Sent, late_policy: LatePolicy) -> Result<Expected, String> {
    let (plan, lost) = (&marker.plan, lost(marker));
    must!(
        lost.is_empty() || lost.end <= history.log_start,
        "{} but the log begins at {}",
        describe(marker),
        history.log_start
    );
    let mut expected = Expected::default();
    expected.ledger.lost_offsets = marker.ledger.lost_offsets;
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    let read = history.records.iter().filter(|record| plan.read.contains(record.offset));
    for record in read.filter(|record| !lost.contains(record.offset)) {
        expected.ledger.records += 1;
        let Some(samples) = sent.samples(&record.payload) else {
            let kept = u64::from(plan.owned.contains(record.offset));
            expected.ledger.undecodable += kept;
            expected.quarantined += kept;
            continue;
        };
        for sample in &samples {
            expected.ledger.read += 1;
            if is_on_time(marker, record.offset, sample) {
                let is_repeated = !seen.insert((sample.device, sample.seq));
                expected.take_on_time(sample, is_repeated);
            } else if is_late(marker, record.offset, sample) {
                expected.take_late(sample, late_policy);
            } else {
                expected.ledger.skipped += 1;
            }
        }
    }
    Ok(expected)
}

impl Expected {
    fn take_on_time(&mut self, sample: &Sample, is_repeated: bool) {
        self.ledger.on_time += 1;
        if is_repeated {
            self.ledger.duplicate += 1;
        } else if sample.is_fit {
            self.ledger.kept += 1;
            self.kept.push((sample.device, sample.seq));
        } else {
            self.ledger.quarantined += 1;
            self.quarantined += 1;
        }
    }

    fn take_late(&mut self, sample: &Sample, late_policy: LatePolicy) {
        self.ledger.late += 1;
        match (sample.is_fit, late_policy) {
            (false, _) => self.quarantined += 1,
            (true, LatePolicy::Side) => self.late.push((sample.device, sample.seq)),
            (true, LatePolicy::Drop) => {}
        }
    }
}
