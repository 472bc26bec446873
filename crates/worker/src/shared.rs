//! Reading what batches have in common once. The ranges of consecutive windows overlap by the lateness: with windows of a
//! minute and a lateness of ten, every record is read by eleven batches. And a log sends more than was asked for: of a
//! backlog of small windows, megabytes with each of them. Records that several batches of a partition need, and those
//! behind a range that came along, are kept for a while, up to a bound, and given from memory. Each batch has its own plan
//! and marker all the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use futures::stream::BoxStream;
use windrow_ports::log::Record;
use windrow_ports::{Log, LogError};
use windrow_protocol::{Offset, OffsetRange, PartitionId, Plan, TopicId, TopicName};

/// Bytes that a record takes beside its key and payload, about.
const RECORD_BYTES: usize = 128;

/// Records of a part of a partition, as the log gave them.
#[derive(Debug, Clone)]
struct Segment {
    /// Every offset in here that the log has is in `records`.
    covers: OffsetRange,
    records: Arc<Vec<Record>>,
    bytes: usize,
    /// When it was last used, by the count of uses.
    used: u64,
}

/// A topic that was made anew has other records at the same offsets.
type Of = (TopicId, PartitionId);

#[derive(Debug, Default)]
struct Kept {
    segments: HashMap<Of, BTreeMap<Offset, Segment>>,
    bytes: usize,
    uses: u64,
}

/// Records that were read, for batches that need them again. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedReads {
    kept: Arc<Mutex<Kept>>,
    /// Bytes that may be kept.
    most: usize,
}

/// What the log gives.
type Chunks = BoxStream<'static, Result<Vec<Record>, LogError>>;

/// A range that is being read.
struct Reading {
    shared: SharedReads,
    log: Arc<dyn Log>,
    topic: TopicName,
    of: Of,
    /// What is left to read.
    range: OffsetRange,
    /// Whether other batches need the range, too.
    overlaps: bool,
    from_log: Option<FromLog>,
}

/// A part of a range that the log is giving.
struct FromLog {
    chunks: Chunks,
    /// Up to where the chunks have come.
    at: Offset,
    /// Where the part ends: what comes from here on lies behind it.
    end: Offset,
}

impl Reading {
    /// The next records, and what is left.
    async fn next(mut self) -> Result<Option<(Vec<Record>, Self)>, LogError> {
        loop {
            if let Some(reading) = &mut self.from_log {
                let mut chunk = match reading.chunks.try_next().await {
                    Ok(Some(chunk)) => chunk,
                    // The range's records have been given: nobody misses those behind it.
                    Err(_) if self.range.is_empty() => return Ok(None),
                    Err(error) => return Err(error),
                    Ok(None) => {
                        // The last offsets may hold nothing.
                        self.range.start = reading.end;
                        self.from_log = None;
                        continue;
                    }
                };
                let Some(last) = chunk.last() else { continue };
                let covers = OffsetRange::new(reading.at, last.offset.next());
                reading.at = covers.end;
                let end = reading.end.max(covers.start).min(covers.end);
                let behind = chunk.split_off(chunk.partition_point(|record| record.offset < end));
                if !behind.is_empty() {
                    self.shared.keep(&self.of, OffsetRange::new(end, covers.end), &behind);
                }
                self.range.start = self.range.start.max(end.min(reading.end));
                if !chunk.is_empty() {
                    if self.overlaps {
                        self.shared.keep(&self.of, OffsetRange::new(covers.start, end), &chunk);
                    }
                    return Ok(Some((chunk, self)));
                }
                continue;
            }
            if self.range.is_empty() {
                return Ok(None);
            }
            match self.shared.next(&self.of, self.range) {
                Next::Kept(segment) => {
                    let wanted = OffsetRange::new(self.range.start, segment.covers.end.min(self.range.end));
                    let place = |offset| segment.records.partition_point(|record| record.offset < offset);
                    let records = segment.records[place(wanted.start)..place(wanted.end)].to_vec();
                    self.range.start = wanted.end;
                    return Ok(Some((records, self)));
                }
                Next::Log(end) => {
                    let (part, partition) = (OffsetRange::new(self.range.start, end), self.of.1);
                    let chunks = if end == self.range.end {
                        self.log.read_ahead(&self.topic, partition, part)
                    } else {
                        // What is behind it is kept already.
                        self.log.read(&self.topic, partition, part)
                    };
                    self.from_log = Some(FromLog { chunks, at: part.start, end });
                }
            }
        }
    }
}

/// Where the next records of a range come from.
enum Next {
    Kept(Segment),
    /// The log, up to this offset.
    Log(Offset),
}

impl SharedReads {
    /// Keeps at most `most` bytes of records.
    pub fn new(most: usize) -> Self {
        Self { kept: Arc::default(), most }
    }

    /// Bytes that are kept now.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    /// The records of a part of a plan's range, in order, as [`Log::read`]. Those of a plan whose range is mostly its own
    /// are not kept: no other batch needs them.
    pub fn read(&self, log: &Arc<dyn Log>, plan: &Plan, range: OffsetRange) -> Chunks {
        let reading = Reading {
            shared: self.clone(),
            log: log.clone(),
            topic: plan.topic.clone(),
            of: (plan.topic_id.clone(), plan.partition),
            range,
            overlaps: plan.overlaps_others(),
            from_log: None,
        };
        Box::pin(futures::stream::try_unfold(reading, Reading::next))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What is kept is whole after every statement.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, of: &Of, range: OffsetRange) -> Next {
        let mut kept = self.kept();
        kept.uses += 1;
        let uses = kept.uses;
        let Some(segments) = kept.segments.get_mut(of) else { return Next::Log(range.end) };
        if let Some((_, segment)) = segments.range_mut(..=range.start).next_back()
            && segment.covers.contains(range.start)
        {
            segment.used = uses;
            return Next::Kept(segment.clone());
        }
        let next = segments.range(range.start..).next().map(|(start, _)| *start);
        Next::Log(next.unwrap_or(range.end).min(range.end))
    }

    /// Keeps what was read, and forgets what was not used for longest.
    fn keep(&self, of: &Of, mut covers: OffsetRange, records: &[Record]) {
        let mut kept = self.kept();
        kept.uses += 1;
        let used = kept.uses;
        // Another batch may have read some of it meanwhile.
        let segments = kept.segments.entry(of.clone()).or_default();
        let before = segments.range(..=covers.start).next_back().map(|(_, before)| before.covers.end);
        covers.start = before.map_or(covers.start, |end| end.max(covers.start));
        let after = segments.range(covers.start..).next().map(|(start, _)| *start);
        covers.end = after.map_or(covers.end, |start| start.min(covers.end));
        if covers.start >= covers.end {
            return;
        }
        let place = |offset| records.partition_point(|record| record.offset < offset);
        let records = records[place(covers.start)..place(covers.end)].to_vec();
        let size =
            |record: &Record| record.payload.len() + record.key.as_ref().map_or(0, |key| key.len()) + RECORD_BYTES;
        let bytes = records.iter().map(size).sum();
        segments.insert(covers.start, Segment { covers, records: Arc::new(records), bytes, used });
        kept.bytes += bytes;
        while kept.bytes > self.most {
            let all = kept.segments.iter().flat_map(|(of, segments)| segments.iter().map(move |at| (of, at)));
            let oldest = all.min_by_key(|(_, (_, segment))| segment.used).map(|(of, (start, _))| (of.clone(), *start));
            let Some((of, start)) = oldest else { return };
            let Some(segments) = kept.segments.get_mut(&of) else { return };
            let freed = segments.remove(&start).map_or(0, |segment| segment.bytes);
            if segments.is_empty() {
                kept.segments.remove(&of);
            }
            kept.bytes -= freed;
        }
    }
}

#[cfg(test)]
mod tests;
