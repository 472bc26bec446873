//! The log as a node sees it, over a way that has faults.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use windrow_ports::log::{Append, Bounds, Log, LogError, NewTopic, Record, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

use crate::faults::Fault;
use crate::link::{Call, Link};

/// A log behind a [`Link`].
#[derive(Debug, Clone)]
pub struct FaultyLog {
    pub inner: Arc<dyn Log>,
    pub link: Link,
}

fn unavailable(what: &str) -> LogError {
    LogError::Unavailable(what.to_owned())
}

impl FaultyLog {
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        key: &str,
        run: impl Fn(Arc<dyn Log>) -> BoxFuture<'static, Result<T, LogError>>,
    ) -> Result<T, LogError> {
        self.link.call(Call::new(name, key), || run(self.inner.clone()), unavailable).await
    }

    fn faulty(
        &self,
        chunks: BoxStream<'static, Result<Vec<Record>, LogError>>,
        key: String,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        let reading = Reading { chunks, key, is_over: false };
        futures::stream::unfold((self.clone(), reading), |(log, mut reading)| async move {
            let item = log.next_chunk(&mut reading).await?;
            Some((item, (log, reading)))
        })
        .boxed()
    }

    /// The next item of a read, or `None` after the last.
    async fn next_chunk(&self, reading: &mut Reading) -> Option<Result<Vec<Record>, LogError>> {
        let Reading { chunks, key, is_over } = reading;
        if *is_over {
            return None;
        }
        let broken = self.link.world.strikes(Fault::StreamBroken);
        let opened = self.link.call(Call::new("read", key), || futures::future::ok(()).boxed(), unavailable).await;
        let item = match opened {
            Ok(()) if broken => Some(Err(unavailable("the connection broke while reading"))),
            Ok(()) => chunks.next().await,
            Err(error) => Some(Err(error)),
        };
        *is_over = !matches!(item, Some(Ok(_)));
        item
    }
}

struct Reading {
    chunks: BoxStream<'static, Result<Vec<Record>, LogError>>,
    key: String,
    is_over: bool,
}

#[async_trait]
impl Log for FaultyLog {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        let run = |log: Arc<dyn Log>| {
            let topic = topic.clone();
            async move { log.create_topic(&topic).await }.boxed()
        };
        self.call("create", topic.name.as_str(), run).await
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        let run = |log: Arc<dyn Log>| {
            let topic = topic.clone();
            async move { log.delete_topic(&topic).await }.boxed()
        };
        self.call("delete", topic.as_str(), run).await
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        let run = |log: Arc<dyn Log>| {
            let topic = topic.clone();
            async move { log.topic(&topic).await }.boxed()
        };
        self.call("topic", topic.as_str(), run).await
    }

    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError> {
        let run = |log: Arc<dyn Log>| {
            let (topic, records) = (topic.clone(), records.clone());
            async move { log.append(&topic, partition, records).await }.boxed()
        };
        self.call("append", &format!("{topic}/{partition}"), run).await
    }

    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let run = |log: Arc<dyn Log>| {
            let (topic, times) = (topic.clone(), times.to_vec());
            async move { log.look_up(&topic, &times).await }.boxed()
        };
        self.call("look_up", topic.as_str(), run).await
    }

    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        let run = |log: Arc<dyn Log>| {
            let (topic, partitions) = (topic.clone(), partitions.to_vec());
            async move { log.bounds(&topic, &partitions).await }.boxed()
        };
        self.call("bounds", topic.as_str(), run).await
    }

    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.faulty(self.inner.read(topic, partition, range), format!("{topic}/{partition}{range}"))
    }

    fn read_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.faulty(self.inner.read_ahead(topic, partition, range), format!("{topic}/{partition}{range}+"))
    }

    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        let run = |log: Arc<dyn Log>| {
            let topic = topic.clone();
            async move { log.truncate(&topic, partition, before).await }.boxed()
        };
        self.call("truncate", topic.as_str(), run).await
    }

    async fn ping(&self) -> Result<(), LogError> {
        self.call("ping", "", |log| async move { log.ping().await }.boxed()).await
    }
}
