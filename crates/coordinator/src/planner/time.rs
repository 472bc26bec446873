//! Cutting partitions into windows of time.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt};
use windrow_ports::log::Bounds;
use windrow_ports::meta::{Compare, Op};
use windrow_protocol::cut::{
    Cursor, Cut, Lookup, Observed, Seal, advance, begun, cut, first_window, may_seal_idle, skip_to,
};
use windrow_protocol::duration::Length;
use windrow_protocol::plan::SealedBy;
use windrow_protocol::revise::SpecRef;
use windrow_protocol::state::keys;
use windrow_protocol::window::Calendar;
use windrow_protocol::{Offset, PartitionId, Timestamp, Window, WindowId};

use super::{Ends, InFlight, Planned, READS, Silence, Silent, Site, Write};
use crate::TickError;
use crate::view::encode;

/// What is known of the record that follows a sealed window; up to it a run of empty windows is skipped.
#[derive(Debug, Clone, Copy)]
enum NextRecord {
    /// The one that proved the window over.
    At(Lookup),
    /// There is none: the partition is idle, as of now, while the topic's latest record is this.
    None { newest: Option<Timestamp>, now: Timestamp },
}

/// Cursors that one write makes at most.
const NEW_CURSORS: usize = 100;

/// A job whose windows are of time.
pub struct TimePlanner<'a> {
    pub site: &'a Site<'a>,
    pub calendar: Calendar,
    pub pinned: BTreeMap<WindowId, SpecRef>,
}

impl TimePlanner<'_> {
    /// What one step writes.
    pub async fn writes(&self, ends: &Ends, silent: &Silent, silence: &mut Silence) -> Result<Vec<Write>, TickError> {
        let mut writes = self.new_cursors(ends, silent).await;
        let newest = self.newest(ends, silent, silence).await?;
        let windows = self.next_windows();
        let spec = &self.site.job.spec;
        let (lateness, bound) = (spec.lateness, spec.time_bound());
        let after = lateness.micros() + bound.micros();
        // The end first, then the start: see `windrow_protocol::cut`.
        let at_ends = self.site.look_up(windows.iter().map(|(p, w)| (*p, w.end.plus_micros(after)))).await?;
        let at_nexts = self.site.look_up(windows.iter().map(|(p, w)| (*p, w.end.plus_micros(-bound.micros())))).await?;
        let (now, furthest) = (self.site.parts.clock.now(), self.furthest());
        for (partition, window) in windows {
            let (Some(bounds), Some(at_end), Some(at_next)) =
                (ends.get(&partition), at_ends.get(&partition), at_nexts.get(&partition))
            else {
                continue;
            };
            let silent_for = silent.get(&partition).copied().unwrap_or_default();
            let Bounds { log_start, high_watermark } = *bounds;
            let cursor = &self.site.cursors[&partition].value;
            let begun = begun(cursor, high_watermark, newest, furthest);
            let lateness = Length::from_millis(after / 1_000);
            let idle = may_seal_idle(window, lateness, spec.idle_timeout, silent_for, begun, now);
            let seen = Observed { log_start, high_watermark, at_end: *at_end, at_next: *at_next, idle };
            if let Cut::Seal(seal) = cut(cursor, seen) {
                let next_record = match seal.sealed_by {
                    SealedBy::Watermark => NextRecord::At(*at_end),
                    // A cut in time is never of volume.
                    SealedBy::Idle | SealedBy::Volume(_) => NextRecord::None { newest, now },
                };
                writes.push(self.seal(partition, window, &seal, next_record).await?);
            }
        }
        Ok(writes)
    }

    /// Up to where the partition that is furthest is sealed, but for those that wait for a time to come.
    fn furthest(&self) -> Option<Timestamp> {
        let all = self.site.cursors.values().map(|cursor| cursor.value.sealed_through);
        all.filter(|through| !self.site.is_to_come(*through)).max()
    }

    /// The next window of each partition that may be cut. When much is in flight already, only windows up to the newest
    /// that is: those that are planned in part wait for them. What is beyond waits for the workers. At the end of the
    /// calendar no window follows.
    fn next_windows(&self) -> Vec<(PartitionId, Window)> {
        let InFlight { batches, newest, .. } = self.site.in_flight;
        let all = self.site.cursors.iter().map(|(partition, cursor)| (*partition, cursor.value.sealed_through));
        let all = all.filter(|(_, through)| *through < Timestamp::MAX);
        let chosen = all.filter(|(_, through)| batches < self.site.max_in_flight || Some(*through) <= newest);
        chosen.map(|(partition, through)| (partition, self.calendar.window_from(through))).collect()
    }

    /// The write that seals a window, and the cursor after it.
    async fn seal(
        &self,
        partition: PartitionId,
        window: Window,
        seal: &Seal,
        next_record: NextRecord,
    ) -> Result<Write, TickError> {
        let mut next = advance(&self.site.cursors[&partition].value, window, seal);
        let mut write = Write::default();
        if seal.read.is_empty() {
            let (lateness, bound) = (self.site.job.spec.lateness, self.site.job.spec.time_bound());
            let skip = match next_record {
                NextRecord::At(Lookup::At(offset)) => {
                    let time = self.site.readable_time_of(partition, offset).await;
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
            let spec = self.pinned.get(&window.id()).cloned().unwrap_or_else(|| self.site.spec());
            let Seal { read, owned, lost, sealed_by, .. } = *seal;
            let record = self.site.batch(partition, window, Planned { read, owned, lost, sealed_by }, spec);
            let key = keys::batch(&self.site.job.name, window.id(), record.id.part);
            write.when.push(Compare::Absent(key.clone()));
            write.then.push(Op::put(key, encode(&record)));
        }
        let key = keys::cursor(&self.site.job.name, partition);
        write.when.push(Compare::Modified(key.clone(), self.site.cursors[&partition].revision));
        write.then.push(Op::put(key, encode(&next)));
        Ok(write)
    }

    /// The writes that make cursors of partitions that have none: where their first record lies, or, for one that stays empty, where the
    /// others begin.
    async fn new_cursors(&self, ends: &Ends, silent: &Silent) -> Vec<Write> {
        let others = self.site.cursors.values().map(|cursor| cursor.value.sealed_through).min();
        let mut new = Vec::new();
        for (partition, bounds) in ends {
            if self.site.cursors.contains_key(partition) {
                continue;
            }
            let first = match self.site.first_time(*partition, bounds).await {
                Ok(first) => first,
                Err(error) => {
                    self.site.left_out(*partition, &error);
                    continue;
                }
            };
            let is_silent = silent.get(partition).is_some_and(|silent| *silent >= self.site.job.spec.idle_timeout);
            let start = match (first, bounds.log_start == bounds.high_watermark) {
                (Some(first), false) => {
                    first_window(&self.calendar, self.site.job.spec.lateness, self.site.job.spec.time_bound(), first)
                        .start
                }
                (_, true) if is_silent => match others {
                    Some(start) => start,
                    None => continue,
                },
                _ => continue,
            };
            // Windows that are finished stay finished: a new partition joins after them.
            let start =
                self.site.progress.as_ref().map_or(start, |progress| start.max(progress.value.finish_planned_through));
            let cursor = Cursor {
                topic_id: self.site.topic.id.clone(),
                sealed_through: start,
                end: bounds.log_start,
                next_start: bounds.log_start,
                pace: None,
            };
            new.push((keys::cursor(&self.site.job.name, *partition), encode(&cursor)));
            // What changes progress is one write at a time.
            if self.site.progress.is_some() && new.len() >= NEW_CURSORS {
                break;
            }
        }
        new.chunks(NEW_CURSORS).map(|new| self.join(new)).collect()
    }

    /// The write that makes cursors.
    fn join(&self, new: &[(String, Vec<u8>)]) -> Write {
        let mut write = Write {
            when: new.iter().map(|(key, _)| Compare::Absent(key.clone())).collect(),
            then: new.iter().map(|(key, cursor)| Op::put(key.clone(), cursor.clone())).collect(),
        };
        // Progress may have gone on since: a partition that joins behind it would be read by nobody. And last steps that
        // were planned without the partition, by a write that is still on its way, must not come after it: they compare
        // progress, too, which is put anew.
        let key = keys::progress(&self.site.job.name);
        match &self.site.progress {
            Some(progress) => {
                write.when.push(Compare::Modified(key.clone(), progress.revision));
                write.then.push(Op::put(key, encode(&progress.value)));
            }
            None => write.when.push(Compare::Absent(key)),
        }
        write
    }

    /// The latest record timestamp over all partitions, needed only where one may be idle. The last record of a
    /// partition is near it; from there look-ups climb.
    async fn newest(
        &self,
        ends: &Ends,
        silent: &Silent,
        silence: &mut Silence,
    ) -> Result<Option<Timestamp>, TickError> {
        if silent.values().all(|silent| *silent < self.site.job.spec.idle_timeout) {
            return Ok(None);
        }
        // High watermarks only grow: with the same sum nothing has come.
        let sum = ends.values().map(|bounds| bounds.high_watermark.0).sum();
        if let Some((at, newest)) = silence.newest
            && at == sum
        {
            return Ok(newest);
        }
        let mut reads = Vec::new();
        for (partition, bounds) in ends {
            if bounds.log_start < bounds.high_watermark {
                let last = Offset(bounds.high_watermark.0 - 1);
                reads.push(self.site.readable_time_of(*partition, last).boxed());
            }
        }
        // One that can't be read makes what is known older than it is, and seals nothing early.
        let last_times: Vec<Option<Timestamp>> = futures::stream::iter(reads).buffer_unordered(READS).collect().await;
        // A broker may lag behind what another has said of the log's end.
        let mut all_are_known = ends.len() == self.site.partitions().len() && last_times.iter().all(Option::is_some);
        let mut newest = last_times.into_iter().flatten().max();
        while let Some(known) = newest {
            let next = self.calendar.window_of(known).end;
            let partitions = self.site.partitions();
            let found = self.site.look_up(partitions.iter().map(|partition| (*partition, next))).await?;
            all_are_known &= found.len() == partitions.len();
            let mut later = None;
            for (partition, answer) in found {
                if let Lookup::At(offset) = answer {
                    let time = self.site.readable_time_of(partition, offset).await;
                    all_are_known &= time.is_some();
                    later = later.max(time);
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

#[cfg(test)]
mod tests;
