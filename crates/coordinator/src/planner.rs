//! Cutting a job's partitions: looks into the log, decides with `windrow_protocol::cut`, and returns what to write.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use windrow_ports::log::{Bounds, TopicInfo};
use windrow_ports::meta::{Compare, Op};
use windrow_ports::{Log, LogError};
use windrow_protocol::cut::{
    Cursor, Cut, Lookup, Observed, Seal, advance, begun, cut, first_window, may_seal_idle, skip_to,
};
use windrow_protocol::duration::Length;
use windrow_protocol::plan::{BatchId, Part, SealedBy};
use windrow_protocol::state::{BatchRecord, JobRecord, Progress, Task, keys};
use windrow_protocol::window::Calendar;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicName, Window, WindowId};

use crate::view::{Versioned, encode};
use crate::{Parts, TickError};

mod volume;
pub use volume::{OpenBatches, open_batches};

/// Single records that are read at a time.
const READS: usize = 32;

/// The shortest time between two looks that tells of a log that was away.
const LEAST_GAP: Duration = Duration::from_secs(2);

/// Since when each partition's high watermark has stood still; kept between two looks at a job.
#[derive(Debug, Default)]
pub struct Silence {
    seen: HashMap<PartitionId, Seen>,
    /// The latest record timestamp of the topic, and the sum of the high watermarks that it was found at.
    newest: Option<(i64, Option<Timestamp>)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    high_watermark: Offset,
    since: Duration,
    last_look: Duration,
}

impl Silence {
    /// How long a partition has been silent while it was looked at. Nobody could write while the log was away, so a gap
    /// of half the idle timeout between two looks begins the silence anew; but at least of [`LEAST_GAP`], since looks
    /// take time too, and with a short timeout a slow leader would never find a partition silent.
    fn note(&mut self, partition: PartitionId, high_watermark: Offset, now: Duration, idle_timeout: Length) -> Length {
        let first = Seen { high_watermark, since: now, last_look: now };
        let seen = self.seen.entry(partition).or_insert(first);
        let gap = now.saturating_sub(seen.last_look);
        let longest = LEAST_GAP.max(Duration::from_millis(idle_timeout.millis().unsigned_abs() / 2));
        if seen.high_watermark != high_watermark || gap > longest {
            *seen = first;
        }
        seen.last_look = now;
        Length::from_millis(i64::try_from(now.saturating_sub(seen.since).as_millis()).unwrap_or(i64::MAX))
    }
}

/// A guarded write: all of it or nothing.
#[derive(Debug, Default)]
pub struct Write {
    pub when: Vec<Compare>,
    pub then: Vec<Op>,
}

/// What is known of the record that follows a sealed window; up to it a run of empty windows is skipped.
#[derive(Debug, Clone, Copy)]
enum NextRecord {
    /// The one that proved the window over.
    At(Lookup),
    /// There is none: the partition is idle, as of now, while the topic's latest record is this.
    None { newest: Option<Timestamp>, now: Timestamp },
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

/// A job, its topic and its cursors, while it is being cut.
pub struct Planner<'a> {
    pub parts: &'a Parts,
    pub job: &'a JobRecord,
    pub calendar: Calendar,
    pub topic: TopicInfo,
    pub cursors: Cursors,
    pub progress: Option<Versioned<Progress>>,
    /// Windows in flight that began with another spec than the job's now: hash and generation. A window is computed by
    /// one spec on all partitions, and in its last step.
    pub pinned: BTreeMap<WindowId, (String, u64)>,
    /// Of windows of volume: each partition's batch whose window has no end yet.
    pub open: OpenBatches,
    /// The job's batches in the store.
    pub in_flight: usize,
    /// From this many on, only partitions that are behind others are cut.
    pub max_in_flight: usize,
}

impl Planner<'_> {
    fn name(&self) -> &TopicName {
        &self.job.spec.source.topic
    }

    fn partitions(&self) -> Vec<PartitionId> {
        (0..self.topic.partitions).map(PartitionId).collect()
    }

    /// Up to where the partition that is furthest is sealed.
    fn furthest(&self) -> Option<Timestamp> {
        self.cursors.values().map(|cursor| cursor.value.sealed_through).max()
    }

    /// One step: a window, or a run of empty ones, of each partition that has one to seal; and cursors of partitions
    /// that have none yet. Empty when there is nothing to do.
    pub async fn step(&self, silence: &mut Silence) -> Result<Step, TickError> {
        let (bounds, silent) = self.look_at_ends(silence).await?;
        if let Some(until) = self.job.spec.window.volume() {
            return self.volume_step(until, &bounds, &silent).await;
        }
        let mut writes = self.new_cursors(&bounds, &silent).await?;
        let newest = self.newest(&bounds, &silent, silence).await?;
        let windows = self.next_windows();
        let (lateness, bound) = (self.job.spec.lateness, self.job.spec.time_bound());
        let after = lateness.micros() + bound.micros();
        // The end first, then the start: see `windrow_protocol::cut`.
        let ends = self.look_up(windows.iter().map(|(p, w)| (*p, w.end.plus_micros(after)))).await?;
        let nexts = self.look_up(windows.iter().map(|(p, w)| (*p, w.end.plus_micros(-bound.micros())))).await?;
        let now = self.parts.clock.now();
        for (((partition, window), at_end), at_next) in windows.into_iter().zip(ends).zip(nexts) {
            let Some(bounds) = bounds.get(&partition) else { continue };
            let silent_for = silent.get(&partition).copied().unwrap_or_default();
            let Bounds { log_start, high_watermark } = *bounds;
            let cursor = &self.cursors[&partition].value;
            let begun = begun(cursor, high_watermark, newest, self.furthest());
            let lateness = Length::from_millis(after / 1_000);
            let idle = may_seal_idle(window, lateness, self.job.spec.idle_timeout, silent_for, begun, now);
            let seen = Observed { log_start, high_watermark, at_end, at_next, idle };
            if let Cut::Seal(seal) = cut(cursor, seen) {
                let next_record = match seal.sealed_by {
                    SealedBy::Watermark => NextRecord::At(at_end),
                    // A cut in time is never of volume.
                    SealedBy::Idle | SealedBy::Volume(_) => NextRecord::None { newest, now },
                };
                writes.push(self.seal(partition, window, &seal, next_record).await?);
            }
        }
        Ok(Step { writes, problem: self.lost_end(&bounds) })
    }

    /// Where the partitions begin and end, and how long each has been silent.
    async fn look_at_ends(&self, silence: &mut Silence) -> Result<(Ends, Silent), TickError> {
        let (mut ends, mut silent, partitions) = (Ends::new(), Silent::new(), self.partitions());
        let found = self.parts.log.bounds(self.name(), &partitions).await?;
        let (elapsed, idle_timeout) = (self.parts.clock.elapsed(), self.job.spec.idle_timeout);
        for (partition, bounds) in partitions.into_iter().zip(found) {
            let bounds = bounds?;
            ends.insert(partition, bounds);
            silent.insert(partition, silence.note(partition, bounds.high_watermark, elapsed, idle_timeout));
        }
        Ok((ends, silent))
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

    /// The next window of each partition that may be cut. When much is in flight already, only those of partitions that
    /// are behind others: windows that are planned in part wait for them. What is level waits for the workers. At the end
    /// of the calendar no window follows.
    fn next_windows(&self) -> Vec<(PartitionId, Window)> {
        let furthest = self.furthest();
        let all = self.cursors.iter().map(|(partition, cursor)| (*partition, cursor.value.sealed_through));
        let all = all.filter(|(_, through)| *through < Timestamp::MAX);
        let chosen = all.filter(|(_, through)| self.in_flight < self.max_in_flight || Some(*through) < furthest);
        chosen.map(|(partition, through)| (partition, self.calendar.window_from(through))).collect()
    }

    async fn look_up(&self, times: impl Iterator<Item = (PartitionId, Timestamp)>) -> Result<Vec<Lookup>, TickError> {
        let times: Vec<_> = times.collect();
        if times.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.parts.log.look_up(self.name(), &times).await?;
        found.into_iter().map(|answer| answer.map_err(TickError::from)).collect()
    }

    /// The write that seals a window, and the cursor after it.
    async fn seal(
        &self,
        partition: PartitionId,
        window: Window,
        seal: &Seal,
        next_record: NextRecord,
    ) -> Result<Write, TickError> {
        let mut next = advance(&self.cursors[&partition].value, window, seal);
        let mut write = Write::default();
        if seal.read.is_empty() {
            let (lateness, bound) = (self.job.spec.lateness, self.job.spec.time_bound());
            let skip = match next_record {
                NextRecord::At(Lookup::At(offset)) => {
                    let time = time_of(&*self.parts.log, self.name(), partition, offset).await?;
                    time.map(|time| skip_to(&self.calendar, lateness, bound, time))
                }
                NextRecord::None { newest: Some(newest), now } => {
                    let by_clock = now.plus_micros(-lateness.micros() - bound.micros());
                    let by_clock = self.calendar.window_of(by_clock).start;
                    Some(by_clock.min(self.calendar.window_of(newest).end))
                }
                NextRecord::At(Lookup::Beyond) | NextRecord::None { newest: None, .. } => None,
            };
            next.sealed_through = next.sealed_through.max(skip.unwrap_or(next.sealed_through));
        } else {
            let record = self.batch(partition, window, seal);
            let key = keys::batch(&self.job.name, window.id(), record.id.part);
            write.when.push(Compare::Absent(key.clone()));
            write.then.push(Op::put(key, encode(&record)));
        }
        let key = keys::cursor(&self.job.name, partition);
        write.when.push(Compare::Modified(key.clone(), self.cursors[&partition].revision));
        write.then.push(Op::put(key, encode(&next)));
        Ok(write)
    }

    fn batch(&self, partition: PartitionId, window: Window, seal: &Seal) -> BatchRecord {
        if let Some(lost) = seal.lost {
            tracing::error!(job = %self.job.name, %partition, %lost, window = %window.id(), "data loss: retention passed offsets that were not planned yet");
        }
        let now = || (self.job.spec.hash(), self.job.generation);
        let (spec_hash, generation) = self.pinned.get(&window.id()).cloned().unwrap_or_else(now);
        let plan = Plan {
            topic: self.name().clone(),
            topic_id: self.topic.id.clone(),
            partition,
            window,
            read: seal.read,
            owned: seal.owned,
            lost: seal.lost,
            sealed_by: seal.sealed_by,
            revision: Revision(0),
            spec_hash,
            generation,
            revises: None,
        };
        let part = Part::Partition(partition);
        let id = BatchId { job: self.job.name.clone(), window: window.id(), part, revision: Revision(0) };
        BatchRecord::new(id, Task::Map(plan))
    }

    /// Cursors of partitions that have none: where their first record lies, or, for one that stays empty, where the
    /// others begin.
    async fn new_cursors(&self, bounds: &Ends, silent: &Silent) -> Result<Vec<Write>, TickError> {
        let others = self.cursors.values().map(|cursor| cursor.value.sealed_through).min();
        let mut writes = Vec::new();
        for (partition, bounds) in bounds {
            if self.cursors.contains_key(partition) {
                continue;
            }
            let first = time_of(&*self.parts.log, self.name(), *partition, bounds.log_start).await?;
            let is_silent = silent.get(partition).is_some_and(|silent| *silent >= self.job.spec.idle_timeout);
            let start = match (first, bounds.log_start == bounds.high_watermark) {
                (Some(first), false) => {
                    first_window(&self.calendar, self.job.spec.lateness, self.job.spec.time_bound(), first).start
                }
                (_, true) if is_silent => match others {
                    Some(start) => start,
                    None => continue,
                },
                _ => continue,
            };
            // Windows that are finished stay finished: a new partition joins after them.
            let start =
                self.progress.as_ref().map_or(start, |progress| start.max(progress.value.finish_planned_through));
            let cursor = Cursor {
                topic_id: self.topic.id.clone(),
                sealed_through: start,
                end: bounds.log_start,
                next_start: bounds.log_start,
                pace: None,
            };
            let key = keys::cursor(&self.job.name, *partition);
            // Progress may have gone on since: a partition that joins behind it would be read by nobody.
            let progress_key = keys::progress(&self.job.name);
            let as_seen = match &self.progress {
                Some(progress) => Compare::Modified(progress_key, progress.revision),
                None => Compare::Absent(progress_key),
            };
            let when = vec![Compare::Absent(key.clone()), as_seen];
            writes.push(Write { when, then: vec![Op::put(key, encode(&cursor))] });
        }
        Ok(writes)
    }

    /// The latest record timestamp over all partitions, needed only where one may be idle. The last record of a
    /// partition is near it; from there look-ups climb.
    async fn newest(
        &self,
        bounds: &Ends,
        silent: &Silent,
        silence: &mut Silence,
    ) -> Result<Option<Timestamp>, TickError> {
        if silent.values().all(|silent| *silent < self.job.spec.idle_timeout) {
            return Ok(None);
        }
        // High watermarks only grow: with the same sum nothing has come.
        let sum = bounds.values().map(|bounds| bounds.high_watermark.0).sum();
        if let Some((at, newest)) = silence.newest
            && at == sum
        {
            return Ok(newest);
        }
        let mut reads = Vec::new();
        for (partition, bounds) in bounds {
            if bounds.log_start < bounds.high_watermark {
                let last = Offset(bounds.high_watermark.0 - 1);
                reads.push(time_of(&*self.parts.log, self.name(), *partition, last).boxed());
            }
        }
        let last_times: Vec<Option<Timestamp>> =
            futures::stream::iter(reads).buffer_unordered(READS).try_collect().await?;
        // A broker may lag behind what another has said of the log's end.
        let all_are_known = last_times.iter().all(Option::is_some);
        let mut newest = last_times.into_iter().flatten().max();
        while let Some(known) = newest {
            let next = self.calendar.window_of(known).end;
            let partitions = self.partitions();
            let found = self.look_up(partitions.iter().map(|partition| (*partition, next))).await?;
            let mut later = None;
            for (partition, answer) in partitions.iter().zip(found) {
                if let Lookup::At(offset) = answer {
                    later = later.max(time_of(&*self.parts.log, self.name(), *partition, offset).await?);
                }
            }
            match later {
                Some(later) if later > known => newest = Some(later),
                _ => break,
            }
        }
        if all_are_known {
            silence.newest = Some((sum, newest));
        }
        Ok(newest)
    }
}

/// The timestamp of the record at an offset; `None` if the log has no record there (any more, or yet).
async fn time_of(
    log: &dyn Log,
    topic: &TopicName,
    partition: PartitionId,
    offset: Offset,
) -> Result<Option<Timestamp>, LogError> {
    let mut records = log.read(topic, partition, OffsetRange::new(offset, offset.next()));
    match records.next().await.transpose() {
        Ok(chunk) => Ok(chunk.and_then(|chunk| chunk.first().map(|record| record.timestamp))),
        Err(LogError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
