//! What a proof is made from: the store, who knows where the log ends, and what the job says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use tonic::Code;
use windrow_ports::{Log, LogError};
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicId, TopicName};
use windrow_storage::Store;
use windrow_wire::convert;

use super::Args;
use crate::client::said;
use crate::place;

/// Who knows where the log ends.
pub enum Ends {
    /// The log itself.
    Log(Arc<dyn Log>),
    /// The coordinator has said so, by partition: first offset, and the first that is not there yet. And of the topic.
    Told(BTreeMap<PartitionId, OffsetRange>, Topic),
    /// Nobody; why.
    Unknown(String),
}

/// The topic of a name as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// One that is deleted and made again is another.
    Is(TopicId),
    Gone,
    /// Nobody has said.
    Unknown,
}

impl Ends {
    /// First offset of a partition, and the first that is not there yet; `None` if nobody knows.
    pub async fn of(&self, topic: &TopicName, partition: PartitionId) -> Result<Option<OffsetRange>> {
        // A topic that has gone since, or a partition that the log does not have, holds nothing.
        let nothing = OffsetRange::new(Offset(0), Offset(0));
        match self {
            Self::Log(log) => {
                let bounds = log.bounds(topic, &[partition]).await;
                match bounds.and_then(|bounds| bounds.into_iter().next().transpose()) {
                    Ok(bounds) => Ok(bounds.map(|bounds| OffsetRange::new(bounds.log_start, bounds.high_watermark))),
                    Err(LogError::NoTopic(_)) => Ok(Some(nothing)),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Told(ends, _) => Ok(Some(ends.get(&partition).copied().unwrap_or(nothing))),
            Self::Unknown(_) => Ok(None),
        }
    }

    pub async fn topic(&self, topic: &TopicName) -> Result<Topic> {
        match self {
            Self::Log(log) => match log.topic(topic).await {
                Ok(info) => Ok(Topic::Is(info.id)),
                Err(LogError::NoTopic(_)) => Ok(Topic::Gone),
                Err(error) => Err(error.into()),
            },
            Self::Told(_, topic) => Ok(topic.clone()),
            Self::Unknown(_) => Ok(Topic::Unknown),
        }
    }
}

/// What a proof is made from.
pub struct Parts {
    pub store: Store,
    pub ends: Ends,
    /// Whether the job is known to exist.
    pub known: bool,
    pub state: State,
}

/// What the job has said of itself, before the markers are looked at. Nothing, where there is nobody to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// Up to where its windows are complete.
    pub through: Option<Timestamp>,
    /// How many it has completed.
    pub windows_complete: Option<u64>,
    /// Windows, or runs of them, that are to be run again or are being so.
    pub revisions_pending: Option<u64>,
    /// Batches that have failed and wait for somebody.
    pub batches_failed: u64,
}

fn state(status: windrow_wire::v1::JobStatus) -> State {
    State {
        through: status.complete_through.map(|time| convert::time(&time)),
        windows_complete: Some(status.windows_complete),
        revisions_pending: Some(status.revisions_pending),
        batches_failed: status.batches_failed,
    }
}

pub async fn parts(args: &Args) -> Result<Parts> {
    if let Some(folder) = &args.data_dir {
        let (store, database) = (place::store_in(folder)?, place::database_in(folder)?);
        let known = place::knows(&database, &args.job).await?;
        let revisions_pending = Some(place::revisions_pending(&database, &args.job).await?);
        let windows_complete = place::windows_complete(&database, &args.job).await?;
        let state = State { windows_complete, revisions_pending, ..State::default() };
        return Ok(Parts { store, ends: Ends::Log(database.log()), known, state });
    }
    if let Some(log) = args.kafka.reach("windrow-verify").await? {
        let client = args.store.server.connect().await.ok();
        let store = args.store.open(client.as_ref()).await?;
        let status = match &client {
            Some(client) => client.job(args.job.as_str()).await.ok().and_then(|job| job.status),
            None => None,
        };
        let known = status.is_some();
        return Ok(Parts { store, ends: Ends::Log(log), known, state: status.map(state).unwrap_or_default() });
    }
    let client = args.store.server.connect().await?;
    let store = args.store.open(Some(&client)).await?;
    match client.partitions(args.job.as_str()).await {
        Ok((partitions, topic_id)) => {
            let end = |partition: windrow_wire::v1::Partition| {
                let number = partition.name.rsplit('/').next().and_then(|number| number.parse().ok());
                let (start, end) = (Offset(partition.log_start_offset?), Offset(partition.high_watermark?));
                Some((PartitionId(number?), OffsetRange::new(start, end)))
            };
            let topic = if topic_id.is_empty() { Topic::Gone } else { Topic::Is(TopicId::new(topic_id)?) };
            let ends = Ends::Told(partitions.into_iter().filter_map(end).collect(), topic);
            let status = client.job(args.job.as_str()).await.map_err(said)?.status;
            Ok(Parts { store, ends, known: true, state: state(status.unwrap_or_default()) })
        }
        Err(status) if status.code() == Code::NotFound => {
            let why = "the coordinator does not know the job (any more), so it can't say; give --kafka";
            Ok(Parts { store, ends: Ends::Unknown(why.to_owned()), known: false, state: State::default() })
        }
        Err(status) => Err(said(status)),
    }
}

#[cfg(test)]
mod tests {
    use windrow_embedded::Database;
    use windrow_ports::log::NewTopic;

    use super::*;

    #[tokio::test]
    async fn a_topic_that_is_gone_holds_nothing_and_is_known_to_be_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = Database::open(&folder.path().join("windrow.redb")).unwrap().log();
        let name = TopicName::new("t").unwrap();
        let topic =
            NewTopic { name: name.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
        log.create_topic(&topic).await.unwrap();
        let ends = Ends::Log(log.clone());
        assert!(matches!(ends.topic(&name).await.unwrap(), Topic::Is(_)));
        log.delete_topic(&name).await.unwrap();
        let nothing = OffsetRange::new(Offset(0), Offset(0));
        assert_eq!(ends.of(&name, PartitionId(0)).await.unwrap(), Some(nothing));
        assert_eq!(ends.topic(&name).await.unwrap(), Topic::Gone);
    }
}
