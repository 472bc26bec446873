//! The log: partitioned, append-only, with a time index. Kafka in a cluster, an embedded database in `dev`.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicId, TopicName};

/// Why a call to the log failed, by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not now: retry with backoff. For an append the outcome is unknown: the record may be in the log.
    #[error("log is unavailable: {0}")]
    Unavailable(String),
    /// The topic or partition does not exist.
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// The range's start is gone from the log (retention or DeleteRecords passed it), or its end is not there (yet):
    /// data loss for a planned range. Never retried silently.
    #[error("offsets {wanted} are not in the log, which holds {held}")]
    OutOfRange { wanted: OffsetRange, held: OffsetRange },
    /// The log refuses the request as such: too large, bad timestamp, not authorised. Retrying can't help.
    #[error("log refused the request: {0}")]
    Refused(String),
    /// The topic exists already (create only).
    #[error("topic {0} exists already")]
    Exists(String),
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: TopicName,
    /// At least 1.
    pub partitions: i32,
    /// Copies of each partition (Kafka); -1 takes the broker's default.
    pub replication: i32,
    /// Milliseconds of event time after which records are dropped; `None` keeps by time for ever.
    pub retention_ms: Option<i64>,
    /// `message.timestamp.after.max.ms`: how far ahead of the broker's clock a record may be. `None`: broker default.
    pub max_ahead_ms: Option<i64>,
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub id: TopicId,
    pub partitions: i32,
    /// `None`: records are kept by time for ever.
    pub retention_ms: Option<i64>,
    /// How far behind and ahead of the broker's clock a record's timestamp may be; `None`: as far as it likes. The broker
    /// refuses records beyond it, together with those that are sent with them.
    pub max_behind_ms: Option<i64>,
    pub max_ahead_ms: Option<i64>,
    /// `cleanup.policy` contains `compact`: offsets vanish, so counting is impossible.
    pub compacted: bool,
    /// The log sets timestamps itself (`LogAppendTime`), so the time index is not of event time.
    pub append_time: bool,
}

impl TopicInfo {
    /// A topic that keeps everything and takes every timestamp.
    pub fn new(id: TopicId, partitions: i32) -> Self {
        let (retention_ms, max_behind_ms, max_ahead_ms) = (None, None, None);
        Self { id, partitions, retention_ms, max_behind_ms, max_ahead_ms, compacted: false, append_time: false }
    }
}

/// First offset in the log and first offset not in it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
}

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub key: Option<Bytes>,
    pub payload: Bytes,
    /// Event time; the log keeps whole milliseconds, rounded down.
    pub timestamp: Timestamp,
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    /// Whole milliseconds.
    pub timestamp: Timestamp,
    pub key: Option<Bytes>,
    pub payload: Bytes,
}

/// What a task that reads tells chunk by chunk, and then how the task ended. Without its end nothing says that the range
/// is whole: of a task that panicked, or that never ran, the chunks just stop.
pub fn until_done(
    mut told: mpsc::Receiver<Result<Vec<Record>, LogError>>,
    reading: JoinHandle<Result<(), LogError>>,
) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
    let chunks = futures::stream::poll_fn(move |cx| told.poll_recv(cx));
    let end = futures::stream::once(async {
        match reading.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            Err(error) => Some(Err(LogError::Unavailable(format!("the reading task has ended: {error}")))),
        }
    });
    chunks.chain(end.filter_map(std::future::ready)).boxed()
}

/// A partitioned log with a time index.
#[async_trait]
pub trait Log: Send + Sync + std::fmt::Debug {
    /// Makes a topic. `Exists` if there is one of that name.
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError>;

    /// Deletes a topic with all its records.
    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError>;

    /// What is known of a topic now. `NoTopic` if there is none.
    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError>;

    /// Appends records to one partition in order; returns the offset of each once all are durable (acks=all).
    /// On `Unavailable` any of them may have been appended.
    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError>;

    /// For each (partition, time): the first offset whose record has a timestamp >= time (`offsetsForTimes`).
    /// A partition may occur once per call. Each element has its own result.
    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError>;

    /// The bounds of partitions, in the order asked.
    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError>;

    /// The records of a range, in order, in chunks. Ends after the range's last record. Offsets inside the range may be
    /// missing (aborted or compacted); completeness is never a matter of counting. `OutOfRange` as the first item if the
    /// log no longer has the range's start or does not reach its end.
    /// The timestamp of a single record is read with a range of one.
    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>>;

    /// As [`read`](Self::read), for those who will want the records behind the range soon: after the range's last record,
    /// records behind it may follow, without a gap, that the log has at hand anyway. For nobody else: they take time.
    fn read_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.read(topic, partition, range)
    }

    /// Drops all records before `before` (`DeleteRecords`).
    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError>;

    /// Whether the log answers at all, for readiness.
    async fn ping(&self) -> Result<(), LogError>;
}
