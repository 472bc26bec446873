//! Revisions: windows that are complete are run again, because readings of them came late or because somebody wants it.
//!
//! A [`Wish`] names windows. The leader turns it into work window by window: from a window's markers (its history) and the
//! wish, [`revise`] decides the plans of the next revision. A window has at most one revision in flight, and the next one
//! begins when that is complete, hence published: the files of revision n are nowhere staged any more when n+1 is
//! planned, so nobody can publish n over n+1.
//!
//! Who reports readings that amend their windows: only the first result of a window, once. A revision never does, so
//! revisions cause no revisions.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::job::LateRule;
use crate::marker::{Complete, Marker};
use crate::plan::{BatchId, FinishPlan, Part, Plan, Revises, SealedBy};
use crate::state::{BatchRecord, Task};
use crate::window::Calendar;
use crate::{
    BackfillName, JobName, Offset, OffsetRange, PartitionId, Revision, Timestamp, TopicId, TopicName, Window, WindowId,
};

/// Runs of windows that a batch or a wish names at most; of more, the nearest are merged. Running an untouched window
/// again changes nothing in it.
pub const MAX_SPANS: usize = 64;

/// Refusals that a wish keeps for people to read.
pub const MAX_REFUSALS: usize = 10;

/// A run of windows, tiled without gap: [from, until).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Start of the first window.
    pub from: Timestamp,
    /// End of the last window.
    pub until: Timestamp,
}

impl Span {
    /// Whether a window that starts then is one of them.
    pub fn holds(&self, start: Timestamp) -> bool {
        self.from <= start && start < self.until
    }
}

/// The late readings of a batch that amend their windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Amends {
    /// From the first offset that holds one to the first after the last.
    pub offsets: OffsetRange,
    /// Their windows: ascending, disjoint, at most [`MAX_SPANS`].
    pub spans: Vec<Span>,
}

impl Amends {
    /// Takes in a reading.
    pub fn add(this: &mut Option<Self>, offset: Offset, window: Window) {
        let span = Span { from: window.start, until: window.end };
        match this {
            None => *this = Some(Self { offsets: OffsetRange::new(offset, offset.next()), spans: vec![span] }),
            Some(amends) => {
                let OffsetRange { start, end } = amends.offsets;
                amends.offsets = OffsetRange { start: start.min(offset), end: end.max(offset.next()) };
                // Spans are whole windows.
                if !amends.spans.iter().any(|span| span.holds(window.start)) {
                    amends.spans.push(span);
                    amends.spans = merged(std::mem::take(&mut amends.spans), MAX_SPANS);
                }
            }
        }
    }
}

/// The spans in order, those that touch each other joined; of more than `most` those that are nearest to each other, too.
pub fn merged(mut spans: Vec<Span>, most: usize) -> Vec<Span> {
    spans.sort_by_key(|span| (span.from, span.until));
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.from <= last.until => last.until = last.until.max(span.until),
            _ => joined.push(span),
        }
    }
    while joined.len() > most.max(1) {
        let gap = |i: &usize| joined[i + 1].from.since(joined[*i].until);
        let Some(nearest) = (0..joined.len() - 1).min_by_key(gap) else { break };
        let after = joined.remove(nearest + 1);
        joined[nearest].until = after.until;
    }
    joined
}

/// Names a wish within its job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WishId {
    /// Of the late readings that a window's batches have met.
    Late(WindowId),
    Backfill(BackfillName),
}

impl fmt::Display for WishId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(window) => write!(f, "late-{window}"),
            Self::Backfill(name) => write!(f, "backfill-{name}"),
        }
    }
}

impl TryFrom<String> for WishId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<WishId> for String {
    fn from(id: WishId) -> String {
        id.to_string()
    }
}

impl std::str::FromStr for WishId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} names no wish");
        if let Some(window) = text.strip_prefix("late-") {
            return Timestamp::from_compact(window).map(|start| Self::Late(WindowId::Time(start))).map_err(|_| bad());
        }
        let name = text.strip_prefix("backfill-").ok_or_else(bad)?;
        BackfillName::new(name).map(Self::Backfill).map_err(|_| bad())
    }
}

/// A spec among those that a job has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecRef {
    /// [`crate::JobSpec::hash`].
    pub hash: String,
    /// The job's generation when it was taken.
    pub generation: u64,
}

/// Windows that are to be run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// The windows: ascending, disjoint.
    pub spans: Vec<Span>,
    /// Windows that start before this have become work, or were refused.
    pub next: Timestamp,
    /// Of late readings: where each partition has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offsets: BTreeMap<PartitionId, OffsetRange>,
    /// Of a backfill: the spec that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecRef>,
    /// No window becomes work while this is set.
    #[serde(default)]
    pub paused: bool,
    /// Windows that have become work.
    #[serde(default)]
    pub planned: u64,
    /// Windows that could not be run again and keep the result that they have.
    #[serde(default)]
    pub refused: u64,
    /// Why, of the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    pub created_at: Timestamp,
}

/// A window that keeps its result although a backfill names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub window: WindowId,
    /// What keeps it from being run again.
    pub reason: String,
    /// Offsets that the log has dropped.
    #[serde(default)]
    pub lost_offsets: u64,
}

impl Wish {
    /// The wish of a window whose batches have met late readings; `None` if they have not.
    pub fn of_late<'a>(met: impl IntoIterator<Item = (PartitionId, &'a Amends)>, now: Timestamp) -> Option<Self> {
        let (mut offsets, mut spans) = (BTreeMap::new(), Vec::new());
        for (partition, amends) in met {
            offsets.insert(partition, amends.offsets);
            spans.extend_from_slice(&amends.spans);
        }
        let spans = merged(spans, MAX_SPANS);
        let next = spans.first()?.from;
        Some(Self { offsets, ..Self::new(spans, next, None, now) })
    }

    /// A backfill of the windows in a span.
    pub fn backfill(span: Span, spec: SpecRef, now: Timestamp) -> Self {
        Self::new(vec![span], span.from, Some(spec), now)
    }

    fn new(spans: Vec<Span>, next: Timestamp, spec: Option<SpecRef>, created_at: Timestamp) -> Self {
        Self {
            spans,
            next,
            offsets: BTreeMap::new(),
            spec,
            paused: false,
            planned: 0,
            refused: 0,
            refusals: Vec::new(),
            created_at,
        }
    }

    /// The first window that is still to become work.
    pub fn next_window(&self, calendar: &Calendar) -> Option<Window> {
        let span = self.spans.iter().find(|span| self.next < span.until)?;
        Some(calendar.window_of(self.next.max(span.from)))
    }

    /// Whether all windows have become work, or were refused.
    pub fn is_done(&self) -> bool {
        self.spans.last().is_none_or(|span| span.until <= self.next)
    }

    /// Goes on behind a window that has become work, or has nothing to be run again.
    pub fn pass(&mut self, until: Timestamp, planned: bool) {
        self.next = self.next.max(until);
        self.planned += u64::from(planned);
    }

    /// Goes on behind a window that can't be run again.
    pub fn refuse(&mut self, window: Window, reason: String, lost_offsets: u64) {
        self.next = self.next.max(window.end);
        self.refused += 1;
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push(Refusal { window: window.id(), reason, lost_offsets });
        }
    }
}

/// The markers of a window, as far as they decide its next revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// The newest `_complete` marker; none within a run of empty windows.
    pub complete: Option<Complete>,
    /// The markers that it has joined: of the partitions that are run again, and of one at least.
    pub markers: BTreeMap<PartitionId, Marker>,
}

impl Known {
    /// The revision of the window's result.
    pub fn revision(&self) -> Revision {
        self.complete.as_ref().map(|complete| complete.plan.revision).unwrap_or_default()
    }
}

/// What a revision is decided from beside wish and markers.
#[derive(Debug, Clone)]
pub struct Ground<'a> {
    pub job: &'a JobName,
    pub topic: &'a TopicName,
    pub topic_id: &'a TopicId,
    /// The partitions of the topic, in ascending order.
    pub partitions: Vec<PartitionId>,
    /// The job's spec of now: for windows that have none of their own.
    pub spec: SpecRef,
    /// Its rule for late readings.
    pub late: LateRule,
    /// Name of the shift that the window is.
    pub shift: Option<String>,
    /// The rules for late readings of the specs that the job has had, by hash.
    pub rules: &'a BTreeMap<String, LateRule>,
}

/// The partitions that a wish runs again in a window with this `_complete` marker.
pub fn partitions(wish: &Wish, complete: Option<&Complete>) -> Vec<PartitionId> {
    match wish.spec {
        Some(_) => complete.map(|complete| complete.plan.partitions.clone()).unwrap_or_default(),
        None => wish.offsets.keys().copied().collect(),
    }
}

/// The batches of a window's next revision, the last step after the others. Empty if nothing of the window can be run
/// again: for a backfill, a window without readings.
pub fn revise(id: &WishId, wish: &Wish, window: Window, known: &Known, ground: &Ground<'_>) -> Vec<BatchRecord> {
    let chosen = partitions(wish, known.complete.as_ref());
    if chosen.is_empty() {
        return Vec::new();
    }
    let revision = known.revision().next();
    let own = known
        .markers
        .values()
        .next()
        .map(|marker| SpecRef { hash: marker.plan.spec_hash.clone(), generation: marker.plan.generation });
    // Partitions that are not run again keep the spec that they have, and a window has one.
    let spec = wish.spec.clone().or(own).unwrap_or_else(|| ground.spec.clone());
    let next = Next { wish, window, known, ground, revision, spec };
    let plans = chosen.iter().map(|partition| Task::Map(next.plan(*partition, id.clone())));
    let tasks = plans.chain([Task::Finish(next.last_step(&chosen))]);
    tasks.map(|task| record(ground.job, window, task)).collect()
}

/// The next revision of a window.
struct Next<'a> {
    wish: &'a Wish,
    window: Window,
    known: &'a Known,
    ground: &'a Ground<'a>,
    revision: Revision,
    spec: SpecRef,
}

impl Next<'_> {
    fn plan(&self, partition: PartitionId, cause: WishId) -> Plan {
        let late = self.wish.offsets.get(&partition).copied();
        let base = self.known.markers.get(&partition);
        let more = joined(base.map_or(&[], |marker| marker.plan.more()), late);
        let revises =
            Revises { base: base.map(|marker| marker.plan.revision), cause, more, late: rule(base, self.ground) };
        let (topic, topic_id) = match base {
            Some(marker) => (marker.plan.topic.clone(), marker.plan.topic_id.clone()),
            None => (self.ground.topic.clone(), self.ground.topic_id.clone()),
        };
        // Where the partition had no offset for the window it owns none: those of the late readings are another batch's.
        let nothing = late.map_or_else(OffsetRange::default, |late| OffsetRange::new(late.start, late.start));
        Plan {
            topic,
            topic_id,
            partition,
            window: self.window,
            read: base.map_or(nothing, |marker| marker.plan.read),
            owned: base.map_or(nothing, |marker| marker.plan.owned),
            lost: base.and_then(|marker| marker.plan.lost),
            sealed_by: base.map_or(SealedBy::Watermark, |marker| marker.plan.sealed_by),
            revision: self.revision,
            spec_hash: self.spec.hash.clone(),
            generation: self.spec.generation,
            revises: Some(revises),
        }
    }

    fn last_step(&self, chosen: &[PartitionId]) -> FinishPlan {
        let Self { wish, window, known, ground, revision, spec } = self;
        let before = known.complete.as_ref().map(|complete| &complete.plan);
        let mut revisions = before.map(|plan| plan.revisions.clone()).unwrap_or_default();
        revisions.extend(chosen.iter().map(|partition| (*partition, *revision)));
        let mut joined: Vec<PartitionId> = before.map(|plan| plan.partitions.clone()).unwrap_or_default();
        joined.extend(chosen);
        joined.sort_unstable();
        joined.dedup();
        let all = before.map_or_else(|| ground.partitions.clone(), |plan| [&plan.partitions[..], &plan.empty].concat());
        let mut empty: Vec<PartitionId> = all.into_iter().filter(|partition| !joined.contains(partition)).collect();
        empty.sort_unstable();
        // The last step may have run a later spec than the parts: a reduce that was mended. One that had no parts may have
        // run whatever the job was then: those that there are now are of this spec.
        let (spec_hash, generation) = match (&wish.spec, before) {
            (None, Some(plan)) if !plan.partitions.is_empty() => (plan.spec_hash.clone(), plan.generation),
            _ => (spec.hash.clone(), spec.generation),
        };
        FinishPlan {
            topic: before.map_or_else(|| ground.topic.clone(), |plan| plan.topic.clone()),
            topic_id: before.map_or_else(|| ground.topic_id.clone(), |plan| plan.topic_id.clone()),
            window: *window,
            until: before.map_or(window.end, |plan| plan.until),
            // Within a run of empty windows, that run has counted it.
            windows: before.map_or(0, |plan| plan.windows),
            shift: before.map_or_else(|| ground.shift.clone(), |plan| plan.shift.clone()),
            partitions: joined,
            empty,
            revision: *revision,
            revisions,
            spec_hash,
            generation,
        }
    }
}

/// The rule by which the first result has treated late readings. One that was given up has treated none: a backfill that
/// makes up for it sets them aside, since nobody would take in what it called amended.
fn rule(base: Option<&Marker>, ground: &Ground<'_>) -> LateRule {
    let Some(marker) = base else { return ground.late };
    let found = match &marker.plan.revises {
        Some(revises) => revises.late,
        None => ground.rules.get(&marker.plan.spec_hash).copied().unwrap_or(ground.late),
    };
    if marker.skipped.is_some() && marker.plan.revises.is_none() { found.set_aside() } else { found }
}

/// The ranges of a marker with one more. Not merged over gaps: between them lie late readings that others have set aside.
fn joined(before: &[OffsetRange], late: Option<OffsetRange>) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = before.iter().copied().chain(late).filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<OffsetRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn record(job: &JobName, window: Window, task: Task) -> BatchRecord {
    let part = match &task {
        Task::Map(plan) => Part::Partition(plan.partition),
        Task::Finish(_) => Part::Finish,
    };
    let id = BatchId { job: job.clone(), window: window.id(), part, revision: task.revision() };
    BatchRecord::new(id, task)
}

/// What of a plan's ranges a log that begins at `log_start` has dropped; `None` if it has all. A revision that can't read
/// all that it must would replace a whole result by a partial one.
pub fn lost(plan: &Plan, log_start: Offset) -> Option<OffsetRange> {
    let first = plan.ranges().next()?;
    let last = plan.ranges().last()?;
    (first.start < log_start).then(|| OffsetRange::new(first.start, log_start.min(last.end)))
}

/// What of `ranges` is not in `before`. Both are ascending and disjoint.
pub fn added(ranges: &[OffsetRange], before: &[OffsetRange]) -> Vec<OffsetRange> {
    let mut left: Vec<OffsetRange> = ranges.to_vec();
    for known in before {
        let cut = |range: OffsetRange| {
            let low = OffsetRange { end: range.end.min(known.start), ..range };
            let high = OffsetRange { start: range.start.max(known.end), ..range };
            [low, high].into_iter().filter(|part| part.start < part.end)
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}

#[cfg(test)]
mod tests;
