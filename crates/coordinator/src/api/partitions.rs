//! How far a job's partitions are cut, beside what the log holds of them.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Code, Status};
use windrow_ports::LogError;
use windrow_ports::log::Bounds;
use windrow_protocol::cut::Cursor;
use windrow_protocol::state::keys;
use windrow_protocol::{PartitionId, TopicName};
use windrow_wire::{convert, status, v1};

use super::{Api, job_name, meta, page};
use crate::view::View;

pub fn unavailable(error: LogError) -> Status {
    status::error(Code::Unavailable, "LOG_UNAVAILABLE", error.to_string())
}

fn message(job: &str, partition: PartitionId, cursor: Option<&Cursor>, bounds: Option<&Bounds>) -> v1::Partition {
    v1::Partition {
        name: format!("{job}/partitions/{partition}"),
        log_start_offset: bounds.map(|bounds| bounds.log_start.0),
        high_watermark: bounds.map(|bounds| bounds.high_watermark.0),
        sealed_through_time: cursor
            .filter(|cursor| cursor.pace.is_none())
            .map(|cursor| convert::timestamp(cursor.sealed_through)),
        sealed_end_offset: cursor.map(|cursor| cursor.end.0),
    }
}

impl Api {
    pub(super) async fn partitions(
        &self,
        request: v1::ListPartitionsRequest,
    ) -> Result<v1::ListPartitionsResponse, Status> {
        let job = self.job(&job_name("parent", &request.parent)?).await?.value;
        let view = View::new(&self.parts.meta.list(&keys::cursors(&job.name)).await.map_err(meta)?);
        let none = BTreeMap::new();
        let cursors = view.cursors.get(&job.name).unwrap_or(&none);
        let topic = &job.spec.source.topic;
        let (count, topic_id) = match self.parts.log.topic(topic).await {
            Ok(info) => (info.partitions, info.id.to_string()),
            Err(LogError::NoTopic(_)) => (0, String::new()),
            Err(error) => return Err(unavailable(error)),
        };
        let known: BTreeSet<PartitionId> = (0..count).map(PartitionId).chain(cursors.keys().copied()).collect();
        // The token is a key in the order of text, so numbers have leading zeros.
        let keyed = known.into_iter().map(|partition| (format!("{:010}", partition.0), partition)).collect();
        let (shown, next_page_token) = page(keyed, request.page_size, &request.page_token)?;
        let bounds =
            self.bounds(topic, shown.iter().copied().filter(|partition| partition.0 < count).collect()).await?;
        let partitions = shown.into_iter().map(|partition| {
            let cursor = cursors.get(&partition).map(|cursor| &cursor.value);
            message(&request.parent, partition, cursor, bounds.get(&partition))
        });
        Ok(v1::ListPartitionsResponse { partitions: partitions.collect(), next_page_token, topic_id })
    }

    pub(super) async fn bounds(
        &self,
        topic: &TopicName,
        partitions: Vec<PartitionId>,
    ) -> Result<BTreeMap<PartitionId, Bounds>, Status> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.parts.log.bounds(topic, &partitions).await.map_err(unavailable)?;
        let pairs = partitions.into_iter().zip(found);
        pairs.map(|(partition, bounds)| Ok((partition, bounds.map_err(unavailable)?))).collect()
    }
}
