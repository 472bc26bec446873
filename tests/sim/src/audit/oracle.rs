//! Where each reading must be, worked out from the plans and the log alone, the slow and obvious way.

use std::collections::{BTreeMap, BTreeSet};

use windrow_protocol::job::LatePolicy;
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::OffsetRange;
use windrow_protocol::revise::added;
use windrow_protocol::window::Calendar;
use windrow_protocol::{JobSpec, Ledger, Offset, Plan, Revision, WindowId};

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

/// The batches of one partition: all revisions of each window, in order.
pub struct Partition<'a> {
    pub windows: BTreeMap<WindowId, Vec<&'a Marker>>,
    pub spec: &'a JobSpec,
    pub calendar: Calendar,
    pub history: &'a History,
    pub sent: &'a Sent,
}

/// The offsets that a batch reports as lost.
fn lost(marker: &Marker) -> OffsetRange {
    let start = marker.plan.read.start;
    OffsetRange { start, end: Offset(start.0 + marker.ledger.lost_offsets as i64) }
}

fn describe(marker: &Marker) -> String {
    let Plan { window, partition, read, owned, sealed_by, revision, .. } = &marker.plan;
    let (window, lost, more) = (window.id(), lost(marker), marker.plan.more());
    let carried = marker.carried;
    format!(
        "{}/{window}/{partition}/{revision} reads {read} and {more:?} owns {owned} lost {lost} carried {carried:?} by \
         {sealed_by:?}",
        marker.job
    )
}

impl Partition<'_> {
    /// Each reading of the offsets that are owned belongs to one batch. To none only if its record was lost before its
    /// window was planned: then the batch that was planned next after the loss reports it, since look-ups no longer see
    /// what is gone; or before the revision that was to take it in.
    pub fn each_once(&self) -> Checked {
        let first = || self.windows.values().filter_map(|all| all.first()).filter(|it| it.plan.revision == Revision(0));
        let (Some(begin), Some(end)) =
            (first().map(|it| it.plan.owned.start).min(), first().map(|it| it.plan.owned.end).max())
        else {
            return Ok(());
        };
        let covered = OffsetRange { start: begin, end };
        let newest: Vec<&Marker> = self.windows.values().filter_map(|all| all.last()).copied().collect();
        for record in self.history.records.iter().filter(|record| covered.contains(record.offset)) {
            let offset = record.offset;
            let is_lost = first().any(|marker| lost(marker).contains(offset));
            for sample in self.sent.samples(&record.payload).into_iter().flatten() {
                let n = newest.iter().filter(|marker| self.has(marker, offset, &sample)).count();
                let of_window = || newest.iter().filter(|marker| marker.plan.window.contains(sample.time));
                let is_late_lost = of_window().any(|marker| marker.carried.is_some_and(|lost| lost.contains(offset)));
                if n == 1 || (n == 0 && (is_lost || is_late_lost)) {
                    continue;
                }
                let near =
                    newest.iter().filter(|m| m.plan.window.contains(sample.time) || m.plan.owned.contains(offset));
                let near: Vec<String> = near.map(|m| describe(m)).collect();
                return Err(format!("{sample:?} at offset {offset} belongs to {n} batches; near it are {near:?}"));
            }
        }
        Ok(())
    }

    fn base(&self, marker: &Marker) -> Option<&Marker> {
        let base = marker.plan.revises.as_ref()?.base?;
        self.windows.get(&marker.plan.window.id())?.iter().find(|other| other.plan.revision == base).copied()
    }

    /// What of late readings a revision could still set aside that could not be computed.
    fn set_aside(&self, marker: &Marker) -> Vec<OffsetRange> {
        let Some(lost) = marker.carried else { return Vec::new() };
        let added = added(marker.plan.more(), self.base(marker).map_or(&[], |base| base.plan.more()));
        let there = added.into_iter().map(|range| OffsetRange::new(range.start.max(lost.end), range.end));
        there.filter(|range| !range.is_empty()).collect()
    }

    /// Whether a reading is in a batch's result, or in what it sets aside.
    fn has(&self, marker: &Marker, offset: Offset, sample: &Sample) -> bool {
        if marker.carried.is_some() {
            let aside = self.set_aside(marker).iter().any(|range| range.contains(offset));
            let here = aside && marker.plan.window.contains(sample.time);
            return here || self.base(marker).is_some_and(|base| self.has(base, offset, sample));
        }
        match is_late(marker, offset, sample) {
            true => !self.amends(marker, sample),
            false => is_on_time(marker, offset, sample),
        }
    }

    fn amends(&self, marker: &Marker, sample: &Sample) -> bool {
        marker.plan.late_rule(self.spec).amends(marker.plan.window, self.calendar.window_of(sample.time))
    }

    /// What a batch must have made of the log.
    pub fn expected(&self, marker: &Marker) -> Result<Expected, String> {
        if marker.carried.is_some() {
            return self.expected_carried(marker);
        }
        let (plan, lost, history) = (&marker.plan, lost(marker), self.history);
        must!(
            lost.is_empty() || lost.end <= history.log_start,
            "{} but the log begins at {}",
            describe(marker),
            history.log_start
        );
        let mut expected = Expected::default();
        expected.ledger.lost_offsets = marker.ledger.lost_offsets;
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        let read = history.records.iter().filter(|record| plan.reads(record.offset));
        for record in read.filter(|record| !lost.contains(record.offset)) {
            expected.ledger.records += 1;
            let Some(samples) = self.sent.samples(&record.payload) else {
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
                } else if is_late(marker, record.offset, sample) && self.amends(marker, sample) {
                    expected.ledger.late += 1;
                    expected.ledger.amended += 1;
                } else if is_late(marker, record.offset, sample) {
                    expected.take_late(sample, marker.plan.late_rule(self.spec).policy);
                } else {
                    expected.ledger.skipped += 1;
                }
            }
        }
        Ok(expected)
    }

    fn expected_carried(&self, marker: &Marker) -> Result<Expected, String> {
        let mut expected = self.base(marker).map(|base| self.expected(base)).transpose()?.unwrap_or_default();
        let lost = marker.carried.unwrap_or_default();
        must!(
            !lost.is_empty() && lost.end <= self.history.log_start,
            "{} but the log begins at {}",
            describe(marker),
            self.history.log_start
        );
        let aside = self.set_aside(marker);
        let within = |offset| aside.iter().any(|range| range.contains(offset));
        for record in self.history.records.iter().filter(|record| within(record.offset)) {
            expected.ledger.records += 1;
            for sample in self.sent.samples(&record.payload).iter().flatten() {
                expected.ledger.read += 1;
                match marker.plan.window.contains(sample.time) {
                    true => expected.take_late(sample, LatePolicy::Side),
                    false => expected.ledger.skipped += 1,
                }
            }
        }
        Ok(expected)
    }
}

fn is_on_time(marker: &Marker, offset: Offset, sample: &Sample) -> bool {
    marker.plan.reads(offset) && marker.plan.window.contains(sample.time)
}

fn is_late(marker: &Marker, offset: Offset, sample: &Sample) -> bool {
    marker.plan.owned.contains(offset) && sample.time < marker.plan.window.start
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
            (true, LatePolicy::Side | LatePolicy::Amend) => self.late.push((sample.device, sample.seq)),
            (true, LatePolicy::Drop) => {}
        }
    }
}
