//! What is known of topics, at most a few seconds old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use windrow_ports::log::{NewTopic, TopicInfo};
use windrow_ports::{Clock, Log, LogError};
use windrow_protocol::TopicName;

use crate::{PublishError, Settings};

/// How long what is known of a topic is taken for true.
const TOPIC_TTL: Duration = Duration::from_secs(5);
/// How long a topic that was just made may be unknown, and the pause between two looks.
const NEW_TOPIC_PATIENCE: Duration = Duration::from_secs(5);
const NEW_TOPIC_PAUSE: Duration = Duration::from_millis(20);
/// How much further ahead of its clock a broker lets records be than twice what the gateway does.
const BROKER_SLACK_MS: i64 = 60_000;
/// Topics that are remembered.
const MAX_TOPICS: usize = 1_000;

/// Locked while the log is asked, so that it is asked once, however many requests want to know.
type Known = Arc<tokio::sync::Mutex<Option<(Duration, TopicInfo)>>>;

#[derive(Debug)]
pub struct Topics {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<TopicName, Known>>,
}

impl Topics {
    pub fn new(log: Arc<dyn Log>, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock, known: Mutex::default() }
    }

    pub async fn get(&self, name: &TopicName, settings: &Settings) -> Result<TopicInfo, PublishError> {
        let known = self.entry(name);
        let mut known = known.lock().await;
        let now = self.clock.elapsed();
        if let Some((seen, info)) = &*known
            && now.saturating_sub(*seen) < TOPIC_TTL
        {
            return Ok(info.clone());
        }
        let info = self.ask(name, settings).await?;
        *known = Some((now, info.clone()));
        Ok(info)
    }

    fn entry(&self, name: &TopicName) -> Known {
        let mut topics = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = topics.get(name) {
            return known.clone();
        }
        if topics.len() >= MAX_TOPICS {
            topics.clear();
        }
        topics.entry(name.clone()).or_default().clone()
    }

    async fn ask(&self, name: &TopicName, settings: &Settings) -> Result<TopicInfo, PublishError> {
        match (self.log.topic(name).await, settings.create_partitions) {
            (Err(LogError::NoTopic(_)), Some(partitions)) => {
                let topic = NewTopic {
                    name: name.clone(),
                    partitions,
                    replication: -1,
                    retention_ms: None,
                    // Looser than the gateway's own limit: the broker's clock is another one, and it refuses whole requests.
                    max_ahead_ms: Some(2 * settings.max_skew.millis() + BROKER_SLACK_MS),
                };
                match self.log.create_topic(&topic).await {
                    // Somebody else was first.
                    Ok(()) | Err(LogError::Exists(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                self.await_new(name).await
            }
            (result, _) => Ok(result?),
        }
    }

    /// Not every broker knows a topic that was made a moment ago.
    async fn await_new(&self, name: &TopicName) -> Result<TopicInfo, PublishError> {
        let made = self.clock.elapsed();
        loop {
            match self.log.topic(name).await {
                Err(LogError::NoTopic(_)) if self.clock.elapsed().saturating_sub(made) < NEW_TOPIC_PATIENCE => {
                    self.clock.sleep(NEW_TOPIC_PAUSE).await;
                }
                found => return found.map_err(|error| PublishError::Again(error.to_string())),
            }
        }
    }
}
