//! The thread that appends: group commit.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;

use tokio::sync::oneshot;
use windrow_ports::log::{Append, LogError};
use windrow_protocol::{Offset, PartitionId, TopicName};

use super::partition_of;
use super::tables::Tables;

/// Requests that are made durable together.
const BATCH: usize = 512;

pub struct Request {
    pub topic: TopicName,
    pub partition: PartitionId,
    pub records: Vec<Append>,
    pub reply: oneshot::Sender<Result<Vec<Offset>, LogError>>,
}

/// Runs until all handles are dropped.
pub fn run(tables: &Tables, inbox: &Receiver<Request>) {
    while let Ok(first) = inbox.recv() {
        let requests: Vec<Request> = std::iter::once(first).chain(inbox.try_iter().take(BATCH)).collect();
        append(tables, requests);
    }
}

fn append(tables: &Tables, requests: Vec<Request>) {
    let mut topics = HashMap::new();
    let mut good = Vec::new();
    for request in requests {
        // Looked up anew for each batch: a topic that was deleted takes no more records.
        let topic = topics.entry(request.topic.clone()).or_insert_with(|| tables.topic(&request.topic));
        match topic
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|topic| partition_of(topic, &request.topic, request.partition))
        {
            Ok(place) => good.push((place, request)),
            Err(error) => drop(request.reply.send(Err(error))),
        }
    }
    let lists: Vec<_> = good.iter().map(|(place, request)| (*place, request.records.as_slice())).collect();
    let results: Vec<Result<Vec<Offset>, LogError>> = match tables.append(&lists) {
        Ok(offsets) => offsets.into_iter().map(Ok).collect(),
        Err(error) => {
            tracing::error!(%error, "embedded log could not append");
            good.iter().map(|_| Err(error.clone())).collect()
        }
    };
    for ((_, request), result) in good.into_iter().zip(results) {
        // Whoever asked may have stopped waiting.
        let _ = request.reply.send(result);
    }
}
