//! Cutting partitions into windows of volume. Of each partition one window at most has no end yet: its batch is planned as
//! soon as the log holds something of it, and handed out when it is likely to be full or over, see
//! `windrow_protocol::volume`. Partitions run beside each other.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt};
use windrow_ports::meta::{Compare, Op};
use windrow_protocol::cut::Cursor;
use windrow_protocol::plan::{Part, SealedBy};
use windrow_protocol::state::{BatchRecord, BatchState, Progress, Task, keys};
use windrow_protocol::volume::{Observed, Offer, Seen, Until, VolumeCut, Waiting, likely_full_at, offer};
use windrow_protocol::{JobName, Offset, OffsetRange, PartitionId, Plan, Timestamp, Window};

use super::{Ends, Planned, READS, Silent, Site, Write};
use crate::TickError;
use crate::view::{Versioned, View, encode};

/// Per partition the batch of the window that has no end yet.
pub type OpenBatches = BTreeMap<PartitionId, Versioned<BatchRecord>>;

/// A job's open batches of volume.
pub fn open_batches(view: &View, job: &JobName) -> OpenBatches {
    let batches = view.batches.get(job).into_iter().flatten();
    let open = batches.filter_map(|(_, batch)| match &batch.value.task {
        Task::Map(plan) if plan.volume().is_some() && !matches!(batch.value.state, BatchState::Committed(_)) => {
            Some((plan.partition, batch.clone()))
        }
        _ => None,
    });
    open.collect()
}

/// A batch that may be handed out.
struct Candidate {
    record: BatchRecord,
    plan: Plan,
    /// Its revision, if it is stored.
    stored: Option<i64>,
}

impl Candidate {
    fn of(record: BatchRecord, stored: Option<i64>) -> Option<Self> {
        let Task::Map(plan) = &record.task else { return None };
        Some(Self { plan: plan.clone(), record, stored })
    }

    /// The moment to look up: when its window is over, if that is known.
    fn over(&self) -> Option<(PartitionId, Timestamp)> {
        let (cut, waiting) = (self.plan.volume()?, self.record.waiting.as_ref()?);
        Some((self.plan.partition, waiting.seen.over(&cut.until)?))
    }
}

/// A job whose windows are of volume.
pub struct VolumePlanner<'a> {
    pub site: &'a Site<'a>,
    pub until: Until,
    pub open: OpenBatches,
}

impl VolumePlanner<'_> {
    /// What one step writes.
    pub async fn writes(&self, ends: &Ends, silent: &Silent) -> Result<Vec<Write>, TickError> {
        if self.site.progress.is_none() {
            return Ok(vec![self.first_progress()]);
        }
        let mut writes = self.new_cursors(ends);
        let mut candidates = self.unread(ends);
        candidates.extend(self.new_batches(ends).await?);
        // After the bounds: what comes in between is beyond the high watermark that was read.
        let found = self.site.look_up(candidates.iter().filter_map(Candidate::over)).await?;
        for candidate in candidates {
            let partition = candidate.plan.partition;
            let Some(bounds) = ends.get(&partition) else { continue };
            let idle_timeout = self.site.job.spec.idle_timeout;
            let observed = Observed {
                high_watermark: bounds.high_watermark,
                at_over: found.get(&partition).copied(),
                silent: silent.get(&partition).is_some_and(|silent| *silent >= idle_timeout),
                now: self.site.parts.clock.now(),
            };
            writes.extend(self.offered(candidate, observed));
        }
        Ok(writes)
    }

    /// Without it no window would be counted.
    fn first_progress(&self) -> Write {
        let key = keys::progress(&self.site.job.name);
        let none = Timestamp::default();
        let progress = Progress { origin: none, finish_planned_through: none, windows_complete: 0 };
        Write { when: vec![Compare::Absent(key.clone())], then: vec![Op::put(key, encode(&progress))] }
    }

    /// Cursors of partitions that have none: windows begin where the log does.
    fn new_cursors(&self, ends: &Ends) -> Vec<Write> {
        let new = ends.iter().filter(|(partition, _)| !self.site.cursors.contains_key(partition));
        let write = |(partition, bounds): (&PartitionId, &windrow_ports::log::Bounds)| {
            let key = keys::cursor(&self.site.job.name, *partition);
            let cursor = Cursor::of_volume(self.site.topic.id.clone(), bounds.log_start);
            Write { when: vec![Compare::Absent(key.clone())], then: vec![Op::put(key, encode(&cursor))] }
        };
        new.map(write).collect()
    }

    /// Batches that wait in nobody's hands, and are not sealed yet.
    fn unread(&self, ends: &Ends) -> Vec<Candidate> {
        let waiting = self.open.values().filter(|batch| batch.value.state == BatchState::Pending);
        let candidates = waiting.filter_map(|batch| Candidate::of(batch.value.clone(), Some(batch.revision)));
        let may_change = |candidate: &Candidate| {
            let is_sealed = candidate.plan.volume().is_none_or(|cut| cut.sealed_at.is_some());
            !is_sealed && ends.contains_key(&candidate.plan.partition)
        };
        candidates.filter(may_change).collect()
    }

    /// Batches of partitions that have no open window and something to begin one with. Not while very much is in flight:
    /// last steps that fail must not pile up without end.
    async fn new_batches(&self, ends: &Ends) -> Result<Vec<Candidate>, TickError> {
        if self.site.in_flight.batches.saturating_sub(self.open.len()) >= self.site.max_in_flight {
            return Ok(Vec::new());
        }
        let mut reads = Vec::new();
        for (partition, cursor) in &self.site.cursors {
            let Some(bounds) = ends.get(partition) else { continue };
            let start = cursor.value.end;
            if self.open.contains_key(partition) || bounds.high_watermark <= start {
                continue;
            }
            let first = start.max(bounds.log_start);
            let look = async move {
                let time = match self.until.within {
                    None => Ok(None),
                    Some(_) => self.site.time_of(*partition, first).await,
                };
                match time {
                    Ok(time) => self.new_batch(*partition, &cursor.value, bounds.log_start, time),
                    Err(error) => {
                        self.site.left_out(*partition, &error);
                        None
                    }
                }
            };
            reads.push(look.boxed());
        }
        let new: Vec<Option<Candidate>> = futures::stream::iter(reads).buffered(READS).collect().await;
        Ok(new.into_iter().flatten().collect())
    }

    fn new_batch(
        &self,
        partition: PartitionId,
        cursor: &Cursor,
        log_start: Offset,
        first: Option<Timestamp>,
    ) -> Option<Candidate> {
        let start = cursor.end;
        let lost = (log_start > start).then(|| OffsetRange::new(start, log_start));
        let range = OffsetRange::new(start, start);
        let sealed_by = SealedBy::Volume(VolumeCut::new(self.until));
        let planned = Planned { read: range, owned: range, lost, sealed_by };
        let record = self.site.batch(partition, Window::of_volume(partition, start), planned, self.site.spec());
        let seen = Seen::nothing(start.max(log_start), first);
        let full_at = likely_full_at(self.until.amount, &seen, cursor.pace.unwrap_or_default());
        let waiting = Some(Waiting { seen, until: full_at });
        Candidate::of(BatchRecord { waiting, ..record }, None)
    }

    /// The write that stores a new batch, or hands out or seals one that waits. A worker that takes it meanwhile makes the
    /// write fail: what it reads is not sealed under its hands.
    fn offered(&self, candidate: Candidate, observed: Observed) -> Option<Write> {
        let Candidate { mut record, mut plan, stored } = candidate;
        let start = plan.owned.start;
        let mut waiting = record.waiting.unwrap_or(Waiting { seen: Seen::nothing(start, None), until: None });
        let SealedBy::Volume(cut) = &mut plan.sealed_by else { return None };
        let offered = offer(&cut.until, start, &waiting, observed);
        match offered {
            Offer::Wait if stored.is_some() => return None,
            Offer::Wait => {}
            Offer::HandOut => waiting.until = None,
            Offer::Seal(end) => {
                (waiting.until, cut.sealed_at) = (None, Some(end));
                record.task = Task::Map(plan);
            }
        }
        record.waiting = Some(waiting);
        let partition = match record.id.part {
            Part::Partition(partition) => partition,
            Part::Finish => return None,
        };
        let key = keys::batch(&self.site.job.name, record.id.window, record.id.part);
        let mut write = Write::default();
        match stored {
            Some(revision) => write.when.push(Compare::Modified(key.clone(), revision)),
            // The cursor stands where this window begins: it was not read and done with meanwhile.
            None => {
                let cursor = keys::cursor(&self.site.job.name, partition);
                write.when.push(Compare::Absent(key.clone()));
                write.when.push(Compare::Modified(cursor, self.site.cursors.get(&partition)?.revision));
            }
        }
        write.then.push(Op::put(key, encode(&record)));
        Some(write)
    }
}

#[cfg(test)]
mod tests;
