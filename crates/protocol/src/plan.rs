//! The plan of a batch: the exact offsets that every attempt reads, written once before any work.

use std::fmt;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::job::LateRule;
use crate::revise::WishId;
use crate::volume::{Seen, VolumeCut};
use crate::{JobName, JobSpec, Offset, PartitionId, Revision, TopicId, TopicName, Window, WindowId};

/// A half-open range [start, end) of offsets; `start <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset inside.
    pub start: Offset,
    /// First offset after.
    pub end: Offset,
}

impl OffsetRange {
    /// The range from `start` to `end`; empty at `end` where `start` lies beyond it.
    pub fn new(start: Offset, end: Offset) -> Self {
        Self { start: start.min(end), end }
    }

    /// Whether the range holds no offset.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many offsets it spans.
    pub fn len(&self) -> u64 {
        self.end.0.abs_diff(self.start.0)
    }

    /// Whether the offset lies inside.
    pub fn contains(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// What decided where a batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedBy {
    /// The log holds a record at or after window end + lateness.
    Watermark,
    /// The partition was silent for the job's idle timeout; the end is the high watermark of that moment.
    Idle,
    /// The readings themselves: a window of volume ends where the rule says, which whoever reads it finds. Until then the
    /// plan's ranges are empty, at its start.
    Volume(VolumeCut),
}

/// Names one batch of one job: the unit of assignment, retry and commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchId {
    pub job: JobName,
    pub window: WindowId,
    pub part: Part,
    #[serde(default)]
    pub revision: Revision,
}

/// What of a window a batch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The map over one partition's offsets.
    Partition(PartitionId),
    /// The window's end: the reduce over all partitions' outputs if the job has one, then the `_complete` marker.
    Finish,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => partition.fmt(f),
            Self::Finish => f.write_str("finish"),
        }
    }
}

impl std::str::FromStr for Part {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "finish" => Ok(Self::Finish),
            _ => text
                .parse()
                .map(|p| Self::Partition(PartitionId(p)))
                .map_err(|_| format!("{text:?} is neither a partition number nor \"finish\"")),
        }
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.job, self.window, self.part, self.revision)
    }
}

/// The offsets of one partition's batch. Immutable once stored: retention, truncation, unclean elections and topic
/// re-creation all move the answers it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub topic: TopicName,
    /// A topic that is deleted and made again is another topic, whatever its name.
    pub topic_id: TopicId,
    pub partition: PartitionId,
    pub window: Window,
    /// Every offset that can hold a reading of the window (and those that the batch owns).
    pub read: OffsetRange,
    /// The offsets whose late readings this batch alone may emit: [end of the batch before, own end).
    pub owned: OffsetRange,
    /// Offsets to be read that the log had already dropped when the plan was made: lost, and reported as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<OffsetRange>,
    pub sealed_by: SealedBy,
    pub revision: Revision,
    /// Hash of the job's spec at planning, [`crate::JobSpec::hash`]. Attempts run the spec that has it.
    pub spec_hash: String,
    /// The job's generation at planning.
    pub generation: u64,
    /// What a revision revises; none for the first result of a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revises: Option<Revises>,
}

/// What makes a plan the plan of a revision. Its `read` and `owned` are those of the marker that it takes the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revises {
    /// The revision of this partition's marker that it takes the place of; none if the partition had no offset for the
    /// window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Revision>,
    /// The wish that it belongs to.
    pub cause: WishId,
    /// Offsets beyond `read` at which readings of the window came late: ascending, disjoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<OffsetRange>,
    /// How the first result has treated readings that were late at its owned offsets: all revisions treat them alike, or
    /// a changed policy would make them vanish from where they are.
    pub late: LateRule,
}

impl Plan {
    /// Whether most of what it reads is read by batches of other windows, too: windows that are short against the
    /// lateness. Worth reading once for all of them.
    pub fn overlaps_others(&self) -> bool {
        !self.read.is_empty() && self.read.len() >= self.owned.len().saturating_mul(2)
    }

    /// Offsets that are read beside `read`.
    pub fn more(&self) -> &[OffsetRange] {
        self.revises.as_ref().map_or(&[], |revises| &revises.more)
    }

    /// All ranges that are read, in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> {
        std::iter::once(self.read).chain(self.more().iter().copied()).filter(|range| !range.is_empty())
    }

    /// Whether the offset is read.
    pub fn reads(&self, offset: Offset) -> bool {
        self.ranges().any(|range| range.contains(offset))
    }

    /// How late readings are treated. `spec`: the one that the plan names.
    pub fn late_rule(&self, spec: &JobSpec) -> LateRule {
        self.revises.as_ref().map_or_else(|| spec.late_rule(), |revises| revises.late)
    }

    /// Whether both plan the same work: all but the job's generation, which also counts changes that leave the spec as
    /// it is. And but for where a window of volume was found to end, or was sealed: of two ends that are both legal the one
    /// in the marker counts.
    pub fn is_same_work(&self, other: &Self) -> bool {
        Self { generation: other.generation, ..self.unread() } == other.unread()
    }

    /// Whether both are of the same readings, maybe by another spec or for another wish: what stands for one of them
    /// leaves no reading of the other out, nor counts one twice.
    pub fn is_same_readings(&self, other: &Self) -> bool {
        let mut mine = Self { spec_hash: other.spec_hash.clone(), ..self.clone() };
        if let (Some(mine), Some(other)) = (&mut mine.revises, &other.revises) {
            mine.cause = other.cause.clone();
        }
        mine.is_same_work(other)
    }

    /// How the end of a window of volume is found; `None` for windows of time.
    pub fn volume(&self) -> Option<&VolumeCut> {
        match &self.sealed_by {
            SealedBy::Volume(cut) => Some(cut),
            SealedBy::Watermark | SealedBy::Idle => None,
        }
    }

    /// The plan of a window of volume with the end that was found.
    #[must_use]
    pub fn with_end(&self, found: Seen) -> Self {
        let mut plan = self.clone();
        if let SealedBy::Volume(cut) = &mut plan.sealed_by {
            cut.found = Some(found);
            plan.window = plan.window.with_times(found.times);
            (plan.read.end, plan.owned.end) = (found.through, found.through);
        }
        plan
    }

    /// The plan of a window of volume as it was first stored.
    fn unread(&self) -> Self {
        let mut plan = self.clone();
        if let SealedBy::Volume(cut) = &mut plan.sealed_by {
            *cut = VolumeCut::new(cut.until);
            plan.window = Window::of_volume(plan.partition, plan.owned.start);
            (plan.read.end, plan.owned.end) = (plan.read.start, plan.owned.start);
        }
        plan
    }
}

/// The plan of a window's last step: which partitions' results it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FinishPlan {
    pub topic: TopicName,
    pub topic_id: TopicId,
    pub window: Window,
    /// For a run of windows that no partition has any offset for: the end of the last of them. Equals `window.end` otherwise.
    pub until: crate::Timestamp,
    /// How many windows the run counts; 1 otherwise, but 0 for the revision of a window that a run of empty ones counts.
    pub windows: u64,
    /// Name of the shift that the window is; none where windows are no shifts, and for time without a shift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<String>,
    /// The partitions that have a batch, hence a marker, in this window, in ascending order.
    pub partitions: Vec<PartitionId>,
    /// The partitions whose range is empty: nothing to read, nothing to commit.
    pub empty: Vec<PartitionId>,
    pub revision: Revision,
    /// Of the partitions' markers, where it is not 0: only partitions that were run again have newer ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revisions: BTreeMap<PartitionId, Revision>,
    pub spec_hash: String,
    pub generation: u64,
}

impl FinishPlan {
    /// The revision of the partition's marker that is joined.
    pub fn revision_of(&self, partition: PartitionId) -> Revision {
        self.revisions.get(&partition).copied().unwrap_or_default()
    }

    /// Whether both plan the same work: all but the job's generation, which also counts changes that leave the spec as
    /// it is.
    pub fn is_same_work(&self, other: &Self) -> bool {
        Self { generation: other.generation, ..self.clone() } == *other
    }

    /// Whether both join the same results, maybe by another spec.
    pub fn is_same_parts(&self, other: &Self) -> bool {
        Self { spec_hash: other.spec_hash.clone(), ..self.clone() }.is_same_work(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::volume::{Amount, Times, Until};

    fn plan() -> Plan {
        let window = Window::new(crate::Timestamp::from_millis(0), crate::Timestamp::from_millis(1_000));
        Plan {
            topic: TopicName::new("t").unwrap(),
            topic_id: TopicId::new("i").unwrap(),
            partition: PartitionId(3),
            window,
            read: OffsetRange::new(Offset(4), Offset(9)),
            owned: OffsetRange::new(Offset(5), Offset(9)),
            lost: None,
            sealed_by: SealedBy::Watermark,
            revision: Revision(0),
            spec_hash: "h".to_owned(),
            generation: 1,
            revises: None,
        }
    }

    fn last_step() -> FinishPlan {
        let Plan { topic, topic_id, window, revision, spec_hash, generation, .. } = plan();
        FinishPlan {
            topic,
            topic_id,
            window,
            until: window.end,
            windows: 1,
            shift: None,
            partitions: vec![PartitionId(3)],
            empty: vec![],
            revision,
            revisions: BTreeMap::new(),
            spec_hash,
            generation,
        }
    }

    #[test]
    fn work_is_the_same_at_another_generation_and_in_nothing_else() {
        assert!(plan().is_same_work(&Plan { generation: 2, ..plan() }));
        assert!(!plan().is_same_work(&Plan { read: OffsetRange::new(Offset(4), Offset(8)), ..plan() }));
        assert!(!plan().is_same_work(&Plan { spec_hash: "other".to_owned(), ..plan() }));
        assert!(!plan().is_same_work(&Plan { topic_id: TopicId::new("made-again").unwrap(), ..plan() }));
        assert!(last_step().is_same_work(&FinishPlan { generation: 2, ..last_step() }));
        assert!(!last_step().is_same_work(&FinishPlan { partitions: vec![], ..last_step() }));
    }

    #[test]
    fn readings_are_the_same_by_another_spec_and_parts_likewise() {
        let other = |plan: Plan| Plan { spec_hash: "other".to_owned(), ..plan };
        assert!(plan().is_same_readings(&other(plan())));
        assert!(!plan().is_same_readings(&other(Plan { read: OffsetRange::new(Offset(4), Offset(8)), ..plan() })));
        assert!(last_step().is_same_parts(&FinishPlan { spec_hash: "other".to_owned(), ..last_step() }));
        assert!(!last_step().is_same_parts(&FinishPlan { revision: Revision(1), ..last_step() }));
    }

    /// A window of 100 readings that begins at offset 4.
    fn of_volume() -> Plan {
        let until = Until { amount: Amount::Readings(100), within: None };
        let start = OffsetRange::new(Offset(4), Offset(4));
        let sealed_by = SealedBy::Volume(VolumeCut::new(until));
        Plan { window: Window::of_volume(PartitionId(3), Offset(4)), read: start, owned: start, sealed_by, ..plan() }
    }

    fn found(through: i64) -> Seen {
        let times = |first| Times { first, earliest: first, latest: first };
        let (through, times) = (Offset(through), Some(times(crate::Timestamp::from_millis(7))));
        Seen { through, records: 5, amount: 100, times }
    }

    #[test]
    fn attempts_that_find_other_ends_of_a_window_of_volume_do_the_same_work() {
        let sealed = |at| {
            let SealedBy::Volume(cut) = of_volume().sealed_by else { panic!("of volume") };
            Plan { sealed_by: SealedBy::Volume(VolumeCut { sealed_at: Some(Offset(at)), ..cut }), ..of_volume() }
        };
        assert!(of_volume().is_same_work(&of_volume().with_end(found(9))));
        assert!(of_volume().with_end(found(9)).is_same_work(&sealed(7).with_end(found(7))));
        assert!(!of_volume().is_same_work(&Plan { spec_hash: "other".to_owned(), ..of_volume() }));
        assert!(!of_volume().is_same_work(&Plan { owned: OffsetRange::new(Offset(5), Offset(9)), ..of_volume() }));
        assert!(!plan().is_same_work(&of_volume()));
    }

    #[test]
    fn a_plan_that_was_read_says_where_its_window_ends_and_keeps_its_name() {
        let read = of_volume().with_end(found(9));
        assert_eq!((read.read, read.owned), (OffsetRange::new(Offset(4), Offset(9)), read.read));
        assert_eq!(read.window.id().to_string(), "p3-o4");
        assert_eq!(read.window.end, crate::Timestamp::from_millis(8));
        assert_eq!(serde_json::from_value::<Plan>(serde_json::to_value(&read).unwrap()).unwrap(), read);
        assert_eq!(plan().with_end(found(9)), plan(), "a window of time has its end");
    }

    #[test]
    fn a_window_overlaps_others_when_it_reads_twice_what_it_owns() {
        let reads = |start| Plan { read: OffsetRange::new(Offset(start), Offset(9)), ..plan() };
        assert!(!plan().overlaps_others() && !reads(2).overlaps_others());
        assert!(reads(1).overlaps_others() && reads(0).overlaps_others());
    }

    #[test]
    fn a_revision_reads_the_offsets_of_late_readings_beside_those_of_the_first_result() {
        let late = LateRule { policy: crate::job::LatePolicy::Amend, reach: "7d".parse().unwrap() };
        let more = vec![OffsetRange::new(Offset(20), Offset(22))];
        let revises = Revises { base: None, cause: "backfill-b".parse().unwrap(), more, late };
        let plan = Plan { revises: Some(revises), ..plan() };
        let read: Vec<i64> = (0..30).filter(|offset| plan.reads(Offset(*offset))).collect();
        assert_eq!(read, [4, 5, 6, 7, 8, 20, 21]);
    }

    #[test]
    fn ranges_and_batches_are_named_in_messages() {
        assert_eq!(plan().read.to_string(), "[4, 9)");
        let id = BatchId {
            job: JobName::new("j").unwrap(),
            window: plan().window.id(),
            part: Part::Partition(PartitionId(3)),
            revision: Revision(0),
        };
        assert_eq!(id.to_string(), "j/19700101T000000Z/3/r0");
    }

    proptest! {
        #[test]
        fn a_range_holds_as_many_offsets_as_it_is_long(start in -20i64..20, end in -20i64..20) {
            let range = OffsetRange::new(Offset(start), Offset(end));
            let inside = (-30..30).filter(|offset| range.contains(Offset(*offset))).count() as u64;
            prop_assert_eq!(inside, range.len());
            prop_assert_eq!(range.is_empty(), inside == 0);
            prop_assert_eq!(range.end, Offset(end));
        }
    }

    #[test]
    fn a_range_that_would_run_backwards_is_empty_at_its_end() {
        let range = OffsetRange::new(Offset(7), Offset(4));
        assert!(range.is_empty());
        assert_eq!(range.start, Offset(4));
    }

    #[test]
    fn parts_round_trip_through_text() {
        for part in [Part::Finish, Part::Partition(PartitionId(12))] {
            assert_eq!(part.to_string().parse::<Part>().unwrap(), part);
        }
        assert!("reduce".parse::<Part>().is_err());
    }
}
