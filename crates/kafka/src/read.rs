//! Reading one planned range. A range is complete when Kafka has shown that nothing of it is missing: by a record at or
//! beyond its last offset, or by markers of the log's own up to there. That a broker has no more is no proof: it may have
//! just become the leader, or be a follower, and have not yet what the broker had that was asked for the end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::mpsc::Sender;
use windrow_ports::LogError;
use windrow_ports::log::Record;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

use crate::KafkaSettings;
use crate::error::{Errors, is_no_topic};

/// Records per chunk at most.
const CHUNK_RECORDS: usize = 1_024;
/// Payload bytes per chunk, above which it is handed on.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Payload bytes behind a range that are handed on. A range with more than that is large beside what a broker sends at once.
const BEHIND_BYTES: usize = 4 * 1024 * 1024;
/// Consumers kept for the next read; connecting anew costs tens of milliseconds.
const IDLE_READERS: usize = 8;
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);

/// Consumers between reads.
pub struct Pool {
    settings: KafkaSettings,
    idle: Mutex<Vec<BaseConsumer>>,
}

impl Pool {
    pub fn new(settings: KafkaSettings) -> Self {
        Self { settings, idle: Mutex::default() }
    }

    fn take(&self) -> Result<BaseConsumer, KafkaError> {
        if let Some(consumer) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(consumer);
        }
        self.settings
            .config(&[
                ("group.id", "windrow"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                // A gone start is an error, never a jump.
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
                ("check.crcs", "true"),
                // A range is all of its offsets, up to a high watermark, whatever a transaction makes of them later.
                ("isolation.level", "read_uncommitted"),
                ("max.partition.fetch.bytes", "4194304"),
                ("queued.max.messages.kbytes", "16384"),
                ("fetch.wait.max.ms", "50"),
            ])
            .create()
    }

    fn give_back(&self, consumer: BaseConsumer) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS {
            idle.push(consumer);
        }
    }
}

/// What becomes of records behind the range. A fetch begins at an offset, and ends where the broker likes: of a small
/// range most of what is sent lies behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Leave,
    Take,
}

/// Reads a range and tells it in chunks. Blocks.
pub fn range(
    pool: &Pool,
    errors: &Errors,
    topic: &TopicName,
    partition: PartitionId,
    range: OffsetRange,
    behind: Behind,
    tell: &Sender<Result<Vec<Record>, LogError>>,
) -> Result<(), LogError> {
    let consumer = pool.take().map_err(|error| errors.of(topic, &error))?;
    let read = Read { consumer: &consumer, timeout: pool.settings.timeout, errors, topic, partition, range, behind };
    let result = read.run(tell);
    // A consumer whose assignment can't be cleared is dropped.
    if result.is_ok() && consumer.unassign().is_ok() {
        pool.give_back(consumer);
    }
    result
}

struct Read<'a> {
    consumer: &'a BaseConsumer,
    timeout: Duration,
    errors: &'a Errors,
    topic: &'a TopicName,
    partition: PartitionId,
    range: OffsetRange,
    behind: Behind,
}

impl Read<'_> {
    fn run(&self, tell: &Sender<Result<Vec<Record>, LogError>>) -> Result<(), LogError> {
        self.expect_held()?;
        let mut list = TopicPartitionList::with_capacity(1);
        let start = rdkafka::Offset::Offset(self.range.start.0);
        list.add_partition_offset(self.topic.as_str(), self.partition.0, start).map_err(|e| self.error(&e))?;
        self.consumer.assign(&list).map_err(|e| self.error(&e))?;
        let mut chunk = Chunk::default();
        let (mut heard, mut bytes) = (Instant::now(), 0);
        loop {
            match self.consumer.poll(POLL) {
                None if heard.elapsed() > self.timeout => {
                    return Err(self.errors.unavailable(&format_args!(
                        "topic {}, partition {}: no record for {:?}",
                        self.topic, self.partition, self.timeout
                    )));
                }
                None => {
                    if tell.is_closed() {
                        return Ok(());
                    }
                }
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let is_behind = message.offset() >= self.range.end.0;
                    if !is_behind {
                        bytes += message.payload_len();
                        chunk.push(&message);
                    }
                    let done = message.offset() >= self.range.end.0 - 1;
                    if !(done || chunk.is_full()) {
                        continue;
                    }
                    if !chunk.hand_on(tell) {
                        return Ok(());
                    }
                    if done {
                        if self.behind == Behind::Take && bytes < BEHIND_BYTES {
                            if is_behind {
                                chunk.push(&message);
                            }
                            self.take_behind(&mut chunk, tell);
                        }
                        return Ok(());
                    }
                }
                // No more for now. Markers, which are not handed out, may have been passed up to the range's end.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if self.passed()? >= self.range.end {
                        chunk.hand_on(tell);
                        return Ok(());
                    }
                    // The broker that is read from is behind the one that knew the range's end: the rest will come.
                    self.expect_held()?;
                }
                Some(Err(error)) => self.tolerate(&error)?,
            }
        }
    }

    /// The offset behind the last record or marker that was taken from librdkafka in this read. Asks nobody.
    ///
    /// librdkafka moves it for what is taken, in order, never for what has only arrived; whatever an earlier read by this
    /// consumer left of it is gone before the first event of this one.
    fn passed(&self) -> Result<Offset, LogError> {
        let positions = self.consumer.position().map_err(|error| self.error(&error))?;
        let found = positions.find_partition(self.topic.as_str(), self.partition.0);
        Ok(match found.map(|place| place.offset()) {
            Some(rdkafka::Offset::Offset(offset)) => Offset(offset),
            _ => self.range.start,
        })
    }

    /// Hands on what was sent behind the range and has arrived, without waiting for more.
    fn take_behind(&self, chunk: &mut Chunk, tell: &Sender<Result<Vec<Record>, LogError>>) {
        let mut bytes = 0;
        while bytes < BEHIND_BYTES
            && let Some(Ok(message)) = self.consumer.poll(Duration::ZERO)
        {
            bytes += message.payload_len();
            chunk.push(&message);
            if chunk.is_full() && !chunk.hand_on(tell) {
                return;
            }
        }
        chunk.hand_on(tell);
    }

    /// Connections come and go; librdkafka reconnects until the deadline. Everything else ends the read.
    fn tolerate(&self, error: &KafkaError) -> Result<(), LogError> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.expect_held()?;
                Err(self.errors.unavailable(&error))
            }
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress,
            ) => {
                tracing::warn!(topic = %self.topic, partition = %self.partition, %error, "reading goes on");
                Ok(())
            }
            _ => Err(self.error(error)),
        }
    }

    /// Fails unless the log holds the whole range.
    fn expect_held(&self) -> Result<(), LogError> {
        let asked = self.consumer.fetch_watermarks(self.topic.as_str(), self.partition.0, self.timeout);
        let (low, high) = asked
            .map_err(|error| self.errors.of_partition(self.topic, is_no_topic(&error) && self.is_there(), &error))?;
        if low <= self.range.start.0 && self.range.end.0 <= high {
            Ok(())
        } else {
            Err(LogError::OutOfRange { wanted: self.range, held: OffsetRange::new(Offset(low), Offset(high)) })
        }
    }

    /// Whether the topic has the partition, whoever leads it.
    fn is_there(&self) -> bool {
        let Ok(metadata) = self.consumer.fetch_metadata(Some(self.topic.as_str()), self.timeout) else { return false };
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        partitions.any(|partition| partition.id() == self.partition.0)
    }

    fn error(&self, error: &KafkaError) -> LogError {
        self.errors.of(self.topic, error)
    }
}

/// Records on their way to the caller. Their bytes lie in one buffer, since messages may be small and many.
#[derive(Default)]
struct Chunk {
    records: Vec<Place>,
    bytes: Vec<u8>,
}

/// Where a record's key and payload end in the chunk's buffer; the payload begins where the key ends.
struct Place {
    offset: Offset,
    timestamp: Timestamp,
    key_end: Option<usize>,
    end: usize,
}

impl Chunk {
    fn push(&mut self, message: &impl Message) {
        let key_end = message.key().map(|key| {
            self.bytes.extend_from_slice(key);
            self.bytes.len()
        });
        self.bytes.extend_from_slice(message.payload().unwrap_or_default());
        self.records.push(Place {
            offset: Offset(message.offset()),
            timestamp: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or(0)),
            key_end,
            end: self.bytes.len(),
        });
    }

    fn is_full(&self) -> bool {
        self.records.len() >= CHUNK_RECORDS || self.bytes.len() >= CHUNK_BYTES
    }

    /// Whether somebody still listens.
    fn hand_on(&mut self, tell: &Sender<Result<Vec<Record>, LogError>>) -> bool {
        if self.records.is_empty() {
            return true;
        }
        // The next chunk will be about as large.
        let next = Vec::with_capacity(self.bytes.len());
        let mut bytes = std::mem::replace(&mut self.bytes, next);
        // Records may be kept for long, and their buffer with them.
        if bytes.capacity() / 2 > bytes.len() {
            bytes.shrink_to_fit();
        }
        let bytes = Bytes::from(bytes);
        let mut start = 0;
        let records = self.records.drain(..).map(|Place { offset, timestamp, key_end, end }| {
            let key = key_end.map(|key_end| bytes.slice(start..key_end));
            let payload = bytes.slice(key_end.unwrap_or(start)..end);
            start = end;
            Record { offset, timestamp, key, payload }
        });
        tell.blocking_send(Ok(records.collect())).is_ok()
    }
}
