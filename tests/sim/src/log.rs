//! The log in memory: every record that was ever appended is kept for the auditors, also behind the log's start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use windrow_ports::log::{Append, Bounds, Log, LogError, NewTopic, Record, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicId, TopicName};

use crate::locked;
use crate::time::Time;

/// Records per chunk of a read: few, so that the log can change in the middle of one.
const CHUNK: usize = 16;
/// Records behind a range that come along with it, at most.
const BEHIND: i64 = 12;

/// A log without faults. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SimLog {
    topics: Arc<Mutex<Topics>>,
    time: Time,
}

#[derive(Debug, Default)]
struct Topics {
    made: u64,
    topics: BTreeMap<TopicName, Topic>,
    /// Topics that were deleted.
    gone: Vec<Topic>,
}

/// What became of a partition, with everything that it ever held.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub log_start: Offset,
    pub records: Vec<Record>,
    /// When each was appended.
    pub appended: Vec<Duration>,
}

#[derive(Debug)]
struct Topic {
    info: TopicInfo,
    partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    history: History,
    /// The latest timestamp among the records up to each one.
    latest: Vec<Timestamp>,
}

impl Partition {
    fn bounds(&self) -> Bounds {
        Bounds { log_start: self.history.log_start, high_watermark: Offset(self.history.records.len() as i64) }
    }

    fn look_up(&self, time: Timestamp) -> Lookup {
        let reached = self.latest.partition_point(|latest| *latest < time);
        let kept = self.history.records.iter().enumerate().skip(reached.max(self.history.log_start.0 as usize));
        // Only behind a truncation is the first one not at once the right one.
        let mut kept = kept;
        let found = kept.find(|(_, record)| record.timestamp >= time);
        found.map_or(Lookup::Beyond, |(at, _)| Lookup::At(Offset(at as i64)))
    }

    fn chunk(&self, range: OffsetRange) -> Result<Vec<Record>, LogError> {
        let Bounds { log_start, high_watermark } = self.bounds();
        if range.start < log_start || range.end > high_watermark {
            return Err(LogError::OutOfRange { wanted: range, held: OffsetRange::new(log_start, high_watermark) });
        }
        let (start, end) = (range.start.0 as usize, range.end.0 as usize);
        Ok(self.history.records[start..end.min(start + CHUNK)].to_vec())
    }
}

impl Topics {
    fn topic(&self, name: &TopicName) -> Result<&Topic, LogError> {
        self.topics.get(name).ok_or_else(|| LogError::NoTopic(name.to_string()))
    }

    fn partition(&self, name: &TopicName, partition: PartitionId) -> Result<&Partition, LogError> {
        let known = self.topic(name)?.partitions.get(partition.0 as usize);
        known.ok_or_else(|| LogError::NoTopic(format!("{name}, partition {partition}")))
    }

    fn partition_mut(&mut self, name: &TopicName, partition: PartitionId) -> Result<&mut Partition, LogError> {
        let topic = self.topics.get_mut(name);
        let known = topic.and_then(|topic| topic.partitions.get_mut(partition.0 as usize));
        known.ok_or_else(|| LogError::NoTopic(format!("{name}, partition {partition}")))
    }
}

impl SimLog {
    pub fn new(time: Time) -> Self {
        Self { topics: Arc::default(), time }
    }

    fn chunks(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> impl Stream<Item = Result<Vec<Record>, LogError>> + use<> {
        let (log, topic) = (self.clone(), topic.clone());
        futures::stream::unfold(Some(range), move |left| {
            let next = left.filter(|left| !left.is_empty()).map(|left| {
                let found =
                    locked(&log.topics).partition(&topic, partition).and_then(|partition| partition.chunk(left));
                let rest = match &found {
                    Ok(chunk) => Some(OffsetRange::new(Offset(left.start.0 + chunk.len() as i64), left.end)),
                    Err(_) => None,
                };
                (found, rest)
            });
            futures::future::ready(next)
        })
    }

    /// Looks at a partition of a topic, also of one that is deleted.
    pub fn history<T>(&self, id: &TopicId, partition: PartitionId, look: impl FnOnce(&History) -> T) -> Option<T> {
        let log = locked(&self.topics);
        let topic = log.topics.values().chain(&log.gone).find(|topic| topic.info.id == *id)?;
        topic.partitions.get(partition.0 as usize).map(|partition| look(&partition.history))
    }
}

/// The log keeps whole milliseconds.
fn whole_millis(time: Timestamp) -> Timestamp {
    Timestamp::from_millis(time.millis())
}

#[async_trait]
impl Log for SimLog {
    async fn create_topic(&self, new: &NewTopic) -> Result<(), LogError> {
        let mut log = locked(&self.topics);
        if log.topics.contains_key(&new.name) {
            return Err(LogError::Exists(new.name.to_string()));
        }
        if new.partitions < 1 {
            return Err(LogError::Refused("a topic has at least one partition".to_owned()));
        }
        log.made += 1;
        let id = TopicId::new(format!("topic-{}", log.made)).map_err(|error| LogError::Refused(error.to_string()))?;
        let info = TopicInfo { retention_ms: new.retention_ms, ..TopicInfo::new(id, new.partitions) };
        let partitions = (0..new.partitions).map(|_| Partition::default()).collect();
        log.topics.insert(new.name.clone(), Topic { info, partitions });
        Ok(())
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        let mut log = locked(&self.topics);
        let gone = log.topics.remove(topic).ok_or_else(|| LogError::NoTopic(topic.to_string()))?;
        log.gone.push(gone);
        Ok(())
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        locked(&self.topics).topic(topic).map(|topic| topic.info.clone())
    }

    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError> {
        let mut log = locked(&self.topics);
        let partition = log.partition_mut(topic, partition)?;
        let mut offsets = Vec::with_capacity(records.len());
        for Append { key, payload, timestamp } in records {
            let (offset, timestamp) = (partition.bounds().high_watermark, whole_millis(timestamp));
            let latest = partition.latest.last().map_or(timestamp, |latest| timestamp.max(*latest));
            partition.latest.push(latest);
            partition.history.appended.push(self.time.now());
            partition.history.records.push(Record { offset, timestamp, key, payload });
            offsets.push(offset);
        }
        Ok(offsets)
    }

    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let log = locked(&self.topics);
        log.topic(topic)?;
        // A question is asked in whole milliseconds, too.
        let answer = |(partition, time): &(PartitionId, Timestamp)| {
            log.partition(topic, *partition).map(|partition| partition.look_up(whole_millis(*time)))
        };
        Ok(times.iter().map(answer).collect())
    }

    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        let log = locked(&self.topics);
        log.topic(topic)?;
        Ok(partitions.iter().map(|partition| log.partition(topic, *partition).map(Partition::bounds)).collect())
    }

    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.chunks(topic, partition, range).boxed()
    }

    fn read_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        if range.is_empty() {
            return futures::stream::empty().boxed();
        }
        let (log, name) = (self.clone(), topic.clone());
        // What is there when the range has been read.
        let behind = futures::stream::once(async move {
            let log = locked(&log.topics);
            let found = log.partition(&name, partition)?;
            let end = found.bounds().high_watermark.min(Offset(range.end.0 + BEHIND));
            found.chunk(OffsetRange::new(range.end, end.max(range.end)))
        });
        self.chunks(topic, partition, range).chain(behind).boxed()
    }

    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        let mut log = locked(&self.topics);
        let partition = log.partition_mut(topic, partition)?;
        let Bounds { log_start, high_watermark } = partition.bounds();
        partition.history.log_start = log_start.max(before.min(high_watermark));
        Ok(())
    }

    async fn ping(&self) -> Result<(), LogError> {
        Ok(())
    }
}
