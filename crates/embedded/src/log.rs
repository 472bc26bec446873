//! `Log` on redb, with Kafka's semantics.
//!
//! Appends go through one thread that makes whatever has queued up durable in one database transaction (group commit)
//! before it answers. Readers use snapshots and never wait for it. Each record carries the largest timestamp of its
//! partition up to and including it; that prefix maximum is monotone, so a time look-up is a binary search.

use std::sync::{Arc, mpsc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::oneshot;
use windrow_ports::log::{Append, Bounds, Log, LogError, NewTopic, Record, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

mod append;
mod tables;

use tables::{Tables, Topic};

/// Records per chunk of a read.
const CHUNK: i64 = 256;

/// Chunks that are read ahead.
const READ_AHEAD: usize = 4;

/// The largest record, as Kafka's default `message.max.bytes` is near 1 MiB.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// The most partitions of one topic.
const MAX_PARTITIONS: i32 = 100_000;

/// The embedded log. Cheap to share; its thread ends when the last handle is dropped.
#[derive(Debug)]
pub struct EmbeddedLog {
    tables: Tables,
    appends: mpsc::Sender<append::Request>,
}

impl EmbeddedLog {
    /// Makes the tables if they are not there, and starts the thread.
    pub fn new(db: Arc<redb::Database>) -> Result<Self, redb::Error> {
        let tables = Tables::open(db)?;
        let (appends, inbox) = mpsc::channel();
        let writer = tables.clone();
        std::thread::Builder::new().name("embedded-log".to_owned()).spawn(move || append::run(&writer, &inbox))?;
        Ok(Self { tables, appends })
    }

    /// Runs database work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tables) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let tables = self.tables.clone();
        tokio::task::spawn_blocking(move || work(&tables)).await.map_err(|error| unavailable(&error))?
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> LogError {
    LogError::Unavailable(format!("embedded log: {error}"))
}

fn partition_of(topic: &Topic, name: &TopicName, partition: PartitionId) -> Result<(u32, i32), LogError> {
    if (0..topic.partitions).contains(&partition.0) {
        Ok((topic.number, partition.0))
    } else {
        Err(LogError::NoTopic(format!("{name}, partition {partition}")))
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        if !(1..=MAX_PARTITIONS).contains(&topic.partitions) {
            let what = format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {}", topic.partitions);
            return Err(LogError::Refused(what));
        }
        let topic = topic.clone();
        self.blocking(move |tables| tables.create(&topic)).await
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        let topic = topic.clone();
        self.blocking(move |tables| tables.delete(&topic)).await
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        let name = topic.clone();
        self.blocking(move |tables| tables.topic(&name).map(|topic| topic.info())).await
    }

    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError> {
        if let Some(large) = records.iter().find(|record| record.payload.len() > MAX_RECORD_BYTES) {
            let what = format!("a record has {} bytes; at most {MAX_RECORD_BYTES} are allowed", large.payload.len());
            return Err(LogError::Refused(what));
        }
        let (reply, answer) = oneshot::channel();
        let request = append::Request { topic: topic.clone(), partition, records, reply };
        let stopped = || unavailable(&"it has stopped");
        self.appends.send(request).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let (name, times) = (topic.clone(), times.to_vec());
        self.blocking(move |tables| {
            let topic = tables.topic(&name)?;
            let snapshot = tables.snapshot()?;
            Ok(times
                .iter()
                .map(|(partition, time)| snapshot.look_up(partition_of(&topic, &name, *partition)?, time.millis()))
                .collect())
        })
        .await
    }

    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        let (name, partitions) = (topic.clone(), partitions.to_vec());
        self.blocking(move |tables| {
            let topic = tables.topic(&name)?;
            let snapshot = tables.snapshot()?;
            Ok(partitions.iter().map(|p| snapshot.bounds(partition_of(&topic, &name, *p)?)).collect())
        })
        .await
    }

    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        let (tell, told) = tokio::sync::mpsc::channel(READ_AHEAD);
        let (tables, topic) = (self.tables.clone(), topic.clone());
        let reading = tokio::task::spawn_blocking(move || read_chunks(&tables, &topic, partition, range, &tell));
        windrow_ports::log::until_done(told, reading)
    }

    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        let name = topic.clone();
        self.blocking(move |tables| {
            let topic = tables.topic(&name)?;
            tables.truncate(partition_of(&topic, &name, partition)?, before.0)
        })
        .await
    }

    async fn ping(&self) -> Result<(), LogError> {
        self.blocking(|tables| tables.expect_writable()).await
    }
}

/// Sends the range in chunks, each from a snapshot of its own so that a slow reader holds none open.
fn read_chunks(
    tables: &Tables,
    name: &TopicName,
    partition: PartitionId,
    range: OffsetRange,
    tell: &tokio::sync::mpsc::Sender<Result<Vec<Record>, LogError>>,
) -> Result<(), LogError> {
    let topic = tables.topic(name)?;
    let place = partition_of(&topic, name, partition)?;
    let mut at = range.start.0;
    while at < range.end.0 {
        let snapshot = tables.snapshot()?;
        let bounds = snapshot.bounds(place)?;
        if at < bounds.log_start.0 || range.end > bounds.high_watermark {
            let held = OffsetRange::new(bounds.log_start, bounds.high_watermark);
            return Err(LogError::OutOfRange { wanted: OffsetRange::new(Offset(at), range.end), held });
        }
        let until = range.end.0.min(at + CHUNK);
        let records = snapshot.records(place, at..until)?;
        if tell.blocking_send(Ok(records)).is_err() {
            return Ok(());
        }
        at = until;
    }
    Ok(())
}
