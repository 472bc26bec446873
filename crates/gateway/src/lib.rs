//! The gateway: takes readings, refuses what can't be right, packs the rest into blocks, and acknowledges what the log
//! has acknowledged. Holds no state; keeps nothing that it has not answered for.

pub mod grpc;
pub mod http;
mod pack;
mod partition;
mod reading;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::Semaphore;
use windrow_ports::log::{NewTopic, TopicInfo};
use windrow_ports::{Clock, Log, LogError};
use windrow_protocol::TopicName;
use windrow_protocol::duration::Length;

pub use pack::Limits;
pub use partition::partition_of;
pub use reading::{Field, Reading, Refusal};

/// How long what is known of a topic is taken for true.
const TOPIC_TTL: Duration = Duration::from_secs(5);
/// Topics that are remembered.
const MAX_TOPICS: usize = 1_000;

/// How a gateway works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How far ahead of this clock an event time may be. Default 30 s.
    pub max_skew: Length,
    /// How blocks are cut.
    pub limits: Limits,
    /// Partitions of topics that are made at their first reading; `None`: topics must exist. Default none.
    pub create_partitions: Option<i32>,
    /// Readings in flight at once; more wait. Default 1,000,000.
    pub max_in_flight: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_skew: Length::from_secs(30),
            limits: Limits::default(),
            create_partitions: None,
            max_in_flight: 1_000_000,
        }
    }
}

/// What became of a request's readings.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Answer {
    /// Durably in the log.
    pub accepted: u64,
    pub refused: u64,
    /// Why, the first 100.
    pub refusals: Vec<Refusal>,
}

/// The most refusals that an answer lists.
pub const MAX_REFUSALS: usize = 100;

/// Why a whole request failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Send it again, with the same sequence numbers: some of it may be in the log.
    #[error("{0}; send the request again")]
    Again(String),
    /// The request can't be served as it is.
    #[error("{0}")]
    Refused(String),
}

impl From<LogError> for PublishError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => Self::Again(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Takes readings for any topic. Cheap to share.
#[derive(Debug)]
pub struct Gateway {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    room: Semaphore,
    /// With the moment of the look.
    topics: Mutex<HashMap<TopicName, (Duration, TopicInfo)>>,
}

impl Gateway {
    pub fn new(log: Arc<dyn Log>, clock: Arc<dyn Clock>, settings: Settings) -> Arc<Self> {
        let room = Semaphore::new(settings.max_in_flight as usize);
        Arc::new(Self { log, clock, settings, room, topics: Mutex::default() })
    }

    /// Publishes readings, each with its position in the request; answers when the log has all accepted ones.
    /// `refused`: what did not even parse.
    pub async fn publish(
        &self,
        topic: &TopicName,
        readings: Vec<(u64, Reading)>,
        mut refused: Vec<Refusal>,
    ) -> Result<Answer, PublishError> {
        // Waits for room instead of growing; a request larger than all room takes all of it.
        let wanted = u32::try_from(readings.len()).unwrap_or(u32::MAX).min(self.settings.max_in_flight);
        let _room = self.room.acquire_many(wanted).await.map_err(|error| PublishError::Again(error.to_string()))?;
        let info = self.topic(topic).await?;
        let now = self.clock.now();
        let mut good = Vec::with_capacity(readings.len());
        for (index, reading) in readings {
            match reading.check(index, now, self.settings.max_skew, info.retention_ms) {
                Ok(()) => good.push(reading),
                Err(refusal) => refused.push(refusal),
            }
        }
        let blocks = pack::pack(&good, info.partitions, &self.settings.limits);
        let appends = blocks.into_iter().map(|(partition, records)| self.log.append(topic, partition, records));
        try_join_all(appends).await?;
        refused.sort_by_key(|refusal| refusal.index);
        let count = refused.len() as u64;
        refused.truncate(MAX_REFUSALS);
        Ok(Answer { accepted: good.len() as u64, refused: count, refusals: refused })
    }

    /// What is known of a topic, at most `TOPIC_TTL` old.
    async fn topic(&self, name: &TopicName) -> Result<TopicInfo, PublishError> {
        let now = self.clock.elapsed();
        let known = self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((seen, info)) = known
            && now.saturating_sub(seen) < TOPIC_TTL
        {
            return Ok(info);
        }
        let info = self.look_for_topic(name).await?;
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= MAX_TOPICS {
            topics.clear();
        }
        topics.insert(name.clone(), (now, info.clone()));
        Ok(info)
    }

    async fn look_for_topic(&self, name: &TopicName) -> Result<TopicInfo, PublishError> {
        match (self.log.topic(name).await, self.settings.create_partitions) {
            (Err(LogError::NoTopic(_)), Some(partitions)) => {
                let topic = NewTopic {
                    name: name.clone(),
                    partitions,
                    replication: -1,
                    retention_ms: None,
                    max_ahead_ms: Some(self.settings.max_skew.millis()),
                };
                match self.log.create_topic(&topic).await {
                    // Somebody else was first.
                    Ok(()) | Err(LogError::Exists(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                // Not every broker knows a topic that was made a moment ago.
                self.log.topic(name).await.map_err(|error| PublishError::Again(error.to_string()))
            }
            (result, _) => Ok(result?),
        }
    }

    /// Whether the log answers.
    pub async fn is_ready(&self) -> bool {
        self.log.ping().await.is_ok()
    }
}
