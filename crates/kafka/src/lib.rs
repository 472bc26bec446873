//! `Log` over Kafka. The only crate that knows `rdkafka`.
//!
//! Appends go through one idempotent producer with `acks=all`. Questions (bounds, look-ups, topics) are single requests
//! with a deadline. Readers are consumers without a group: what was read is noted in markers, never in Kafka. Nothing is
//! retried here beyond what librdkafka does within the deadline.

mod describe;
mod error;
mod heard;
mod read;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Offset as KafkaOffset, types::RDKafkaErrorCode};
use windrow_ports::log::{Append, Bounds, Log, LogError, NewTopic, Record, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

use error::{Errors, code};
use heard::Heard;

/// Chunks that a reader is ahead of its caller.
const READ_AHEAD: usize = 4;

/// Longest wait for an answer about readiness: who asks wants to know soon.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Special "timestamps" of ListOffsets.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// Bootstrap servers, `host:port` with commas.
    pub brokers: String,
    /// Name in the brokers' logs and quotas. Default `windrow`.
    pub client_id: String,
    /// Deadline of a question. Default 10 s.
    pub timeout: Duration,
    /// How long an append is tried before its outcome is unknown. Default 30 s.
    pub append_timeout: Duration,
    /// More librdkafka settings, e.g. `security.protocol`. They can't change what windrow relies on.
    pub more: Vec<(String, String)>,
}

impl KafkaSettings {
    /// Defaults for these brokers.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: "windrow".to_owned(),
            timeout: Duration::from_secs(10),
            append_timeout: Duration::from_secs(30),
            more: Vec::new(),
        }
    }

    fn config(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.more {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        // A broker that comes back is found soon.
        config.set("reconnect.backoff.max.ms", "1000").set("log.connection.close", "false");
        // A topic that was made a moment ago is not "unknown" for long; one that is missing is said so soon.
        config.set("topic.metadata.propagation.max.ms", "1000");
        for (key, value) in own {
            config.set(*key, *value);
        }
        config
    }
}

/// A connection to a Kafka cluster. Cheap to share.
pub struct KafkaLog {
    settings: KafkaSettings,
    errors: Errors,
    /// Replaced when librdkafka says that it can't go on.
    producer: RwLock<FutureProducer<Heard>>,
    queries: Arc<BaseConsumer>,
    admin: AdminClient<DefaultClientContext>,
    readers: Arc<read::Pool>,
    /// Partition counts as last seen, to refuse appends to what does not exist without waiting for a timeout.
    partitions: Mutex<HashMap<TopicName, i32>>,
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog").field("brokers", &self.settings.brokers).finish_non_exhaustive()
    }
}

fn producer(settings: &KafkaSettings, heard: &Heard) -> KafkaResult<FutureProducer<Heard>> {
    let timeout = settings.append_timeout.as_millis().to_string();
    settings
        .config(&[
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("compression.type", "lz4"),
            // Blocks are batches already; this only joins those of one moment.
            ("linger.ms", "2"),
            ("message.timeout.ms", &timeout),
            ("queue.buffering.max.kbytes", "262144"),
            // A topic that is gone must not come back by itself, with settings that nobody chose.
            ("allow.auto.create.topics", "false"),
        ])
        .create_with_context(heard.clone())
}

impl KafkaLog {
    /// Connects when there is something to ask. `Refused` if the settings are wrong.
    pub fn new(settings: KafkaSettings) -> Result<Self, LogError> {
        let errors = Errors { brokers: settings.brokers.clone(), heard: Heard::default() };
        let bad = |error: KafkaError| LogError::Refused(format!("kafka settings: {error}"));
        // A group is only named because librdkafka wants one before it assigns partitions; nothing is stored under it. The
        // log's end is the high watermark, as readers see it: not the start of somebody's open transaction.
        let queries = settings.config(&[("group.id", "windrow"), ("isolation.level", "read_uncommitted")]);
        let queries: BaseConsumer = queries.create().map_err(bad)?;
        Ok(Self {
            producer: RwLock::new(producer(&settings, &errors.heard).map_err(bad)?),
            queries: Arc::new(queries),
            admin: settings.config(&[]).create().map_err(bad)?,
            readers: Arc::new(read::Pool::new(settings.clone())),
            partitions: Mutex::default(),
            errors,
            settings,
        })
    }

    /// Connects, and asks for the cluster's metadata to see that somebody is there.
    pub async fn connect(settings: KafkaSettings) -> Result<Self, LogError> {
        let log = Self::new(settings)?;
        log.ping().await?;
        tracing::info!(brokers = log.settings.brokers, "connected to kafka");
        Ok(log)
    }

    /// Runs a question where it may block.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&BaseConsumer, Duration) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let (consumer, timeout) = (self.queries.clone(), self.settings.timeout);
        let asked = tokio::task::spawn_blocking(move || what(&consumer, timeout)).await;
        asked.unwrap_or(Err(KafkaError::Canceled))
    }

    async fn partition_count(&self, topic: &TopicName) -> Result<i32, LogError> {
        let name = topic.to_string();
        let metadata = self.ask(move |consumer, timeout| {
            let metadata = consumer.fetch_metadata(Some(&name), timeout)?;
            let found = metadata.topics().iter().find(|t| t.name() == name);
            match found.map(|t| (t.error(), t.partitions().len())) {
                Some((None, partitions)) if partitions > 0 => Ok(partitions as i32),
                Some((Some(code), _)) => Err(KafkaError::MetadataFetch(code.into())),
                _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
            }
        });
        let count = metadata.await.map_err(|error| self.errors.of(topic, &error))?;
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone(), count);
        Ok(count)
    }

    async fn expect_partition(&self, topic: &TopicName, partition: PartitionId) -> Result<(), LogError> {
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        if known.is_some_and(|count| (0..count).contains(&partition.0)) {
            return Ok(());
        }
        if (0..self.partition_count(topic).await?).contains(&partition.0) {
            Ok(())
        } else {
            Err(LogError::NoTopic(format!("{topic}, partition {partition}")))
        }
    }

    fn forget(&self, topic: &TopicName) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    fn producer(&self) -> FutureProducer<Heard> {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a producer ask for a topic's partitions, of which it keeps what is answered.
    async fn tell_producer(&self, producer: &FutureProducer<Heard>, topic: &TopicName) -> Result<(), LogError> {
        let (producer, name, timeout) = (producer.clone(), topic.to_string(), self.settings.timeout);
        let asked =
            tokio::task::spawn_blocking(move || producer.client().fetch_metadata(Some(&name), timeout).map(drop));
        asked.await.unwrap_or(Err(KafkaError::Canceled)).map_err(|error| self.errors.of(topic, &error))
    }

    /// After a fatal error a producer refuses everything for ever; another one goes on.
    fn replace_dead_producer(&self) {
        if self.producer().client().fatal_error().is_none() {
            return;
        }
        let mut held = self.producer.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, reason)) = held.client().fatal_error() {
            match producer(&self.settings, &self.errors.heard) {
                Ok(new) => {
                    tracing::warn!(%code, reason, "kafka producer ended; another one takes over");
                    *held = new;
                }
                Err(error) => tracing::error!(%error, "kafka producer can't be made again"),
            }
        }
    }

    /// ListOffsets for each (partition, time); -1 as an answer is "none".
    async fn offsets(
        &self,
        topic: &TopicName,
        times: Vec<(i32, i64)>,
    ) -> Result<Vec<Result<Option<i64>, LogError>>, LogError> {
        if times.is_empty() {
            return Ok(Vec::new());
        }
        let name = topic.to_string();
        let (asked, count) = (times.clone(), times.len());
        let found = self.ask(move |consumer, timeout| {
            let mut list = TopicPartitionList::with_capacity(count);
            for (partition, time) in asked {
                list.add_partition_offset(&name, partition, KafkaOffset::Offset(time.max(0)))?;
                if time < 0 {
                    let special = if time == LATEST { KafkaOffset::End } else { KafkaOffset::Beginning };
                    list.set_partition_offset(&name, partition, special)?;
                }
            }
            let list = consumer.offsets_for_times(list, timeout)?;
            let mut found = HashMap::with_capacity(count);
            for element in list.elements() {
                let offset = match element.offset() {
                    KafkaOffset::Offset(offset) => Some(offset),
                    _ => None,
                };
                found.insert(element.partition(), element.error().map(|()| offset));
            }
            Ok(found)
        });
        let mut found = match found.await {
            Ok(found) => found,
            // A missing topic shows as a timeout of the leaders; ask for the topic itself.
            Err(error) => {
                let count = self.partition_count(topic).await?;
                let all_there = times.iter().all(|(partition, _)| *partition < count);
                return Err(self.errors.of_partition(topic, all_there, &error));
            }
        };
        let is_unknown = |answer: &Result<_, KafkaError>| answer.as_ref().is_err_and(error::is_no_topic);
        let count = if found.values().any(is_unknown) { self.partition_count(topic).await? } else { 0 };
        let answer = |(partition, _): &(i32, i64)| match found.remove(partition) {
            Some(Ok(offset)) => Ok(offset),
            Some(Err(error)) => Err(self.errors.of_partition(topic, *partition < count, &error)),
            None => Err(LogError::NoTopic(format!("{topic}, partition {partition}"))),
        };
        Ok(times.iter().map(answer).collect())
    }

    fn records(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
        behind: read::Behind,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        if range.start >= range.end {
            return futures::stream::empty().boxed();
        }
        let (tell, told) = tokio::sync::mpsc::channel(READ_AHEAD);
        let (pool, errors, topic) = (self.readers.clone(), self.errors.clone(), topic.clone());
        let reading = move || read::range(&pool, &errors, &topic, partition, range, behind, &tell);
        windrow_ports::log::until_done(told, tokio::task::spawn_blocking(reading))
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        let retention = topic.retention_ms.unwrap_or(-1).to_string();
        let ahead = topic.max_ahead_ms.map(|ms| ms.to_string());
        let mut new = rdkafka::admin::NewTopic::new(
            topic.name.as_str(),
            topic.partitions,
            TopicReplication::Fixed(topic.replication),
        )
        .set("cleanup.policy", "delete")
        .set("message.timestamp.type", "CreateTime")
        .set("retention.ms", &retention);
        if let Some(ahead) = &ahead {
            new = new.set("message.timestamp.after.max.ms", ahead);
        }
        let options = AdminOptions::new().operation_timeout(Some(self.settings.timeout));
        let made = self.admin.create_topics([&new], &options).await;
        self.errors.topic_result(&topic.name, made)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        let options = AdminOptions::new().operation_timeout(Some(self.settings.timeout));
        let gone = self.admin.delete_topics(&[topic.as_str()], &options).await;
        self.forget(topic);
        self.errors.topic_result(topic, gone)
    }

    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        let name = topic.to_string();
        let described = self.ask(move |consumer, timeout| describe::topic(consumer, &name, timeout)).await;
        let (id, partitions) = described.map_err(|error| self.errors.of(topic, &error))?;
        let options = AdminOptions::new().request_timeout(Some(self.settings.timeout));
        let resource = ResourceSpecifier::Topic(topic.as_str());
        let configs = self.admin.describe_configs([&resource], &options).await;
        let config = match configs.map_err(|error| self.errors.of(topic, &error))?.into_iter().next() {
            Some(Ok(config)) => config,
            Some(Err(code)) => return Err(self.errors.of(topic, &KafkaError::AdminOp(code))),
            None => return Err(self.errors.unavailable(&"no answer about the topic's settings")),
        };
        let value = |key: &str| config.get(key).and_then(|entry| entry.value.as_deref());
        // The largest number stands for no limit.
        let limit = |key| value(key).and_then(|ms| ms.parse().ok()).filter(|ms| (0..i64::MAX).contains(ms));
        Ok(TopicInfo {
            id,
            partitions,
            retention_ms: limit("retention.ms"),
            max_behind_ms: limit("message.timestamp.before.max.ms"),
            max_ahead_ms: limit("message.timestamp.after.max.ms"),
            compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
            append_time: value("message.timestamp.type") == Some("LogAppendTime"),
        })
    }

    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError> {
        self.expect_partition(topic, partition).await?;
        let producer = self.producer();
        let mut deliveries = Vec::with_capacity(records.len());
        for record in &records {
            let mut message = FutureRecord::<[u8], [u8]>::to(topic.as_str())
                .partition(partition.0)
                .payload(&record.payload)
                .timestamp(record.timestamp.millis());
            message.key = record.key.as_deref();
            let mut sent = producer.send_result(message);
            if let Err((error, message)) = sent {
                // A topic that has grown: the producer would learn of it within minutes only.
                sent = if code(&error) == Some(RDKafkaErrorCode::UnknownPartition) {
                    self.tell_producer(&producer, topic).await?;
                    producer.send_result(message)
                } else {
                    Err((error, message))
                };
            }
            match sent {
                Ok(delivery) => deliveries.push(delivery),
                // The partition was there a moment ago.
                Err((error, _)) if code(&error) == Some(RDKafkaErrorCode::UnknownPartition) => {
                    self.forget(topic);
                    return Err(self
                        .errors
                        .unavailable(&format_args!("topic {topic}, partition {partition}: {error}")));
                }
                Err((error, _)) => {
                    self.replace_dead_producer();
                    return Err(self.errors.of(topic, &error));
                }
            }
        }
        let mut offsets = Vec::with_capacity(records.len());
        for delivery in deliveries {
            match delivery.await {
                Ok(Ok(delivery)) => offsets.push(Offset(delivery.offset)),
                Ok(Err((error, _))) => {
                    self.forget(topic);
                    self.replace_dead_producer();
                    return Err(self.errors.of(topic, &error));
                }
                Err(_) => return Err(self.errors.unavailable(&"the producer has stopped")),
            }
        }
        Ok(offsets)
    }

    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        // Record timestamps are never negative, and negative numbers mean something else here.
        let asked = times.iter().map(|(partition, time)| (partition.0, time.millis().max(0))).collect();
        let found = self.offsets(topic, asked).await?;
        let look_up = |offset: Option<i64>| offset.map_or(Lookup::Beyond, |offset| Lookup::At(Offset(offset)));
        Ok(found.into_iter().map(|answer| answer.map(look_up)).collect())
    }

    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        let all = |time| partitions.iter().map(|partition| (partition.0, time)).collect::<Vec<_>>();
        let starts = self.offsets(topic, all(EARLIEST)).await?;
        let ends = self.offsets(topic, all(LATEST)).await?;
        let bounds = |(start, end): (Result<Option<i64>, _>, Result<Option<i64>, _>)| {
            Ok(Bounds { log_start: Offset(start?.unwrap_or(0)), high_watermark: Offset(end?.unwrap_or(0)) })
        };
        Ok(starts.into_iter().zip(ends).map(bounds).collect())
    }

    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.records(topic, partition, range, read::Behind::Leave)
    }

    fn read_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.records(topic, partition, range, read::Behind::Take)
    }

    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        let of = |error: &KafkaError| self.errors.of(topic, error);
        list.add_partition_offset(topic.as_str(), partition.0, KafkaOffset::Offset(before.0)).map_err(|e| of(&e))?;
        let options = AdminOptions::new().operation_timeout(Some(self.settings.timeout));
        let done = self.admin.delete_records(&list, &options).await.map_err(|e| of(&e))?;
        done.elements().iter().try_for_each(|element| element.error().map_err(|e| of(&e)))
    }

    async fn ping(&self) -> Result<(), LogError> {
        let asked = self.ask(|consumer, timeout| {
            // A name that no topic has: the answer is one broker's, and small.
            consumer.fetch_metadata(Some("windrow-ping"), timeout.min(PING_TIMEOUT)).map(drop)
        });
        match asked.await {
            Ok(()) => Ok(()),
            Err(error) if error::is_no_topic(&error) => Ok(()),
            Err(error) => Err(self.errors.unavailable(&error)),
        }
    }
}
