//! Cutting a job's partitions: looks into the log, decides with `windrow_protocol::cut`, and returns what to write.

use std::collections::BTreeMap;

use futures::StreamExt;
use windrow_ports::LogError;
use windrow_ports::log::{Bounds, TopicInfo};
use windrow_ports::meta::{Compare, ENOUGH_TXN_BYTES, Op};
use windrow_protocol::cut::{Cursor, Lookup};
use windrow_protocol::duration::Length;
use windrow_protocol::plan::{BatchId, Part, SealedBy};
use windrow_protocol::revise::SpecRef;
use windrow_protocol::state::{BatchRecord, JobRecord, Progress, Task};
use windrow_protocol::volume::Until;
use windrow_protocol::window::Calendar;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicName, Window, WindowId};

use crate::view::Versioned;
use crate::{Parts, TickError};

mod silence;
mod time;
mod volume;

pub use silence::Silence;
use time::TimePlanner;
use volume::VolumePlanner;
pub use volume::{OpenBatches, open_batches};

/// Single records that are read at a time.
const READS: usize = 32;

/// How far the clocks of producers, brokers and coordinators may be apart, in microseconds: as much as Kafka allows a
/// record to be ahead by default.
const CLOCKS_DIFFER_MICROS: i64 = 3_600_000_000;

/// A guarded write: all of it or nothing.
#[derive(Debug, Default)]
pub struct Write {
    pub when: Vec<Compare>,
    pub then: Vec<Op>,
}

impl Write {
    /// Of the values that it puts.
    pub fn bytes(&self) -> usize {
        self.then.iter().map(|op| if let Op::Put { value, .. } = op { value.len() } else { 0 }).sum()
    }

    /// Whether what follows belongs into another write.
    pub fn is_large(&self) -> bool {
        self.bytes() >= ENOUGH_TXN_BYTES
    }
}

/// Where partitions begin and end.
type Ends = BTreeMap<PartitionId, Bounds>;

/// How long partitions have been silent.
type Silent = BTreeMap<PartitionId, Length>;

/// A job's cursors.
pub type Cursors = BTreeMap<PartitionId, Versioned<Cursor>>;

/// What a look at a job comes to.
#[derive(Debug, Default)]
pub struct Step {
    pub writes: Vec<Write>,
    /// What keeps the job from going on.
    pub problem: Option<String>,
}

/// A job's batches of first results in the metadata store.
#[derive(Debug, Clone, Copy, Default)]
pub struct InFlight {
    pub batches: usize,
    /// Those that have failed and wait for somebody.
    pub failed: usize,
    /// Start of the newest window that has one.
    pub newest: Option<Timestamp>,
}

/// A job, its topic and what is stored of it, while it is looked at.
pub struct Site<'a> {
    pub parts: &'a Parts,
    pub job: &'a JobRecord,
    pub topic: TopicInfo,
    pub cursors: Cursors,
    pub progress: Option<Versioned<Progress>>,
    pub in_flight: InFlight,
    /// From this many on, no further ahead is cut.
    pub max_in_flight: usize,
}

/// The windows that a job is cut into.
pub enum Windows {
    OfTime {
        calendar: Calendar,
        /// Windows in flight that began with another spec than the job's now. A window is computed by one spec on all
        /// partitions, and in its last step.
        pinned: BTreeMap<WindowId, SpecRef>,
    },
    OfVolume {
        until: Until,
        /// Each partition's batch whose window has no end yet.
        open: OpenBatches,
    },
}

/// One step: of each partition a window, or a run of empty ones, if there is one to seal; and cursors of partitions that
/// have none yet. Empty when there is nothing to do.
pub async fn step(site: &Site<'_>, windows: Windows, silence: &mut Silence) -> Result<Step, TickError> {
    let (ends, silent) = site.look_at_ends(silence).await?;
    let problem = site.lost_end(&ends).or_else(|| site.ahead(&ends)).or_else(|| site.held_up());
    let writes = match windows {
        Windows::OfTime { calendar, pinned } => {
            TimePlanner { site, calendar, pinned }.writes(&ends, &silent, silence).await?
        }
        Windows::OfVolume { until, open } => VolumePlanner { site, until, open }.writes(&ends, &silent).await?,
    };
    Ok(Step { writes, problem })
}

impl Site<'_> {
    fn name(&self) -> &TopicName {
        &self.job.spec.source.topic
    }

    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.topic.partitions).map(PartitionId).collect()
    }

    /// The timestamp of the record at an offset; `None` if the log has no record there (any more, or yet).
    async fn time_of(&self, partition: PartitionId, offset: Offset) -> Result<Option<Timestamp>, LogError> {
        self.first_of(partition, OffsetRange::new(offset, offset.next())).await
    }

    /// The timestamp of the record at an offset, if there is one that can be read. A partition that answers where it ends,
    /// but can't be read there, holds up no other.
    async fn readable_time_of(&self, partition: PartitionId, offset: Offset) -> Option<Timestamp> {
        self.time_of(partition, offset).await.unwrap_or_else(|error| {
            self.left_out(partition, &error);
            None
        })
    }

    fn left_out(&self, partition: PartitionId, error: &LogError) {
        tracing::warn!(job = %self.job.name, %partition, %error, "the partition can't be read; the others go on");
    }

    async fn first_of(&self, partition: PartitionId, range: OffsetRange) -> Result<Option<Timestamp>, LogError> {
        let mut records = self.parts.log.read(self.name(), partition, range);
        match records.next().await.transpose() {
            Ok(chunk) => Ok(chunk.and_then(|chunk| chunk.first().map(|record| record.timestamp))),
            Err(LogError::OutOfRange { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a time is further ahead than clocks differ.
    fn is_to_come(&self, time: Timestamp) -> bool {
        time > self.parts.clock.now().plus_micros(CLOCKS_DIFFER_MICROS)
    }

    /// A partition that a record with a time to come has sealed through it: what comes after that record is of windows that
    /// nothing will end before that time.
    fn ahead(&self, ends: &Ends) -> Option<String> {
        let (partition, cursor) = self.cursors.iter().find(|(partition, cursor)| {
            let waits = ends.get(partition).is_some_and(|bounds| bounds.high_watermark > cursor.value.end);
            self.is_to_come(cursor.value.sealed_through) && waits
        })?;
        let cursor = &cursor.value;
        Some(format!(
            "partition {partition} of topic {}: a record at offset {} or after it says that it is of {} or later, so what \
             comes with it and after it waits until then. Somebody's clock is wrong, or counts another unit. Set the \
             topic's message.timestamp.after.max.ms; for what is there, apply the job under another name once the record \
             is gone",
            self.name(),
            cursor.end,
            cursor.sealed_through
        ))
    }

    /// Why nothing more is planned, if that needs somebody.
    fn held_up(&self) -> Option<String> {
        let InFlight { batches, failed, .. } = self.in_flight;
        (batches >= self.max_in_flight && failed > 0).then(|| {
            format!(
                "{batches} batches are in flight, as many as a job may have, and {failed} of them have failed: no more is \
                 planned until they are tried again (`windrow retry`) or given up (`windrow skip`)"
            )
        })
    }

    /// The timestamp of a partition's first record. Markers of transactions may lie before it.
    async fn first_time(&self, partition: PartitionId, bounds: &Bounds) -> Result<Option<Timestamp>, LogError> {
        let all = OffsetRange::new(bounds.log_start, bounds.high_watermark);
        match self.time_of(partition, all.start).await? {
            None if all.len() > 1 => self.first_of(partition, all).await,
            found => Ok(found),
        }
    }

    /// Where the partitions begin and end, and how long each has been silent. A partition that does not answer is left
    /// out: the others go on.
    async fn look_at_ends(&self, silence: &mut Silence) -> Result<(Ends, Silent), TickError> {
        let partitions = self.partitions();
        let found = self.parts.log.bounds(self.name(), &partitions).await?;
        let ends: Ends = self.answered(partitions.into_iter().zip(found))?;
        let (elapsed, idle_timeout) = (self.parts.clock.elapsed(), self.job.spec.idle_timeout);
        let note = |(partition, bounds): (&PartitionId, &Bounds)| {
            (*partition, silence.note(*partition, bounds.high_watermark, elapsed, idle_timeout))
        };
        let silent = ends.iter().map(note).collect();
        Ok((ends, silent))
    }

    /// First offsets by time, of the partitions that answer.
    async fn look_up(
        &self,
        times: impl Iterator<Item = (PartitionId, Timestamp)>,
    ) -> Result<BTreeMap<PartitionId, Lookup>, TickError> {
        let times: Vec<_> = times.collect();
        if times.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.parts.log.look_up(self.name(), &times).await?;
        self.answered(times.into_iter().map(|(partition, _)| partition).zip(found))
    }

    /// What partitions have answered; an error if none has.
    fn answered<T>(
        &self,
        found: impl Iterator<Item = (PartitionId, Result<T, LogError>)>,
    ) -> Result<BTreeMap<PartitionId, T>, TickError> {
        let (mut answers, mut failed) = (BTreeMap::new(), None);
        for (partition, answer) in found {
            match answer {
                Ok(answer) => drop(answers.insert(partition, answer)),
                Err(error) => {
                    tracing::warn!(job = %self.job.name, %partition, %error, "the partition does not answer; the others go on");
                    failed = Some(error);
                }
            }
        }
        match failed.filter(|_| answers.is_empty()) {
            Some(error) => Err(error.into()),
            None => Ok(answers),
        }
    }

    /// A log that ends before what is planned already has lost acknowledged records, and would give their offsets anew.
    fn lost_end(&self, bounds: &Ends) -> Option<String> {
        let (partition, cursor, bounds) = self.cursors.iter().find_map(|(partition, cursor)| {
            let bounds = bounds.get(partition).filter(|bounds| bounds.high_watermark < cursor.value.end)?;
            Some((partition, &cursor.value, bounds))
        })?;
        Some(format!(
            "partition {partition} of topic {} ends at offset {}, but offsets up to {} are planned: the log has lost its \
             end (an unclean election?) or a broker lags; the job goes on once the log is that long again",
            self.name(),
            bounds.high_watermark,
            cursor.end
        ))
    }

    /// The batch of a first result.
    fn batch(&self, partition: PartitionId, window: Window, cut: Planned, spec: SpecRef) -> BatchRecord {
        if let Some(lost) = cut.lost {
            tracing::error!(job = %self.job.name, %partition, %lost, window = %window.id(), "data loss: retention passed offsets that were not planned yet");
        }
        let plan = Plan {
            topic: self.name().clone(),
            topic_id: self.topic.id.clone(),
            partition,
            window,
            read: cut.read,
            owned: cut.owned,
            lost: cut.lost,
            sealed_by: cut.sealed_by,
            revision: Revision(0),
            spec_hash: spec.hash,
            generation: spec.generation,
            revises: None,
        };
        let part = Part::Partition(partition);
        let id = BatchId { job: self.job.name.clone(), window: window.id(), part, revision: Revision(0) };
        BatchRecord::new(id, Task::Map(plan))
    }

    /// The job's spec of now.
    fn spec(&self) -> SpecRef {
        SpecRef { hash: self.job.spec.hash(), generation: self.job.generation }
    }
}

/// What is decided of a batch's offsets.
struct Planned {
    read: OffsetRange,
    owned: OffsetRange,
    lost: Option<OffsetRange>,
    sealed_by: SealedBy,
}

#[cfg(test)]
mod tests;
