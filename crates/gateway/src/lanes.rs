//! Packing across requests: a lane per partition that has readings on their way. Requests put readings into its open
//! block; its task closes the block when it is full or has lingered, and appends.
//!
//! One append per lane is in flight, of all blocks that were closed meanwhile: so the order of a lane's readings is the
//! order in which requests put them there, whatever the log does. A lane vanishes with its last block.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use windrow_ports::{Clock, Log, LogError};
use windrow_protocol::{PartitionId, TopicName};
use windrow_wire::block::Reading;

use crate::batch::Batch;
use crate::open::{Limits, OpenBlock};
use crate::partition_of;
use crate::ticket::Ticket;

/// The most blocks of one append.
const MAX_BLOCKS: usize = 64;

type Key = (TopicName, PartitionId);

/// All partitions that have readings on their way.
#[derive(Debug)]
pub struct Lanes {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
}

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<State>,
    /// A block was closed.
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: VecDeque<OpenBlock>,
    open: Option<OpenBlock>,
    /// Its task has ended; nobody would append what came now.
    ended: bool,
}

/// What a lane's task does next.
enum Next {
    Append(Vec<OpenBlock>),
    Wait(Duration),
    End,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    pub fn new(log: Arc<dyn Log>, clock: Arc<dyn Clock>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { log, clock, limits, lanes: Mutex::default() })
    }

    /// Puts the rows of a batch into the lanes of their devices' partitions, in order.
    pub fn put(
        self: &Arc<Self>,
        topic: &TopicName,
        partitions: i32,
        batch: &Batch,
        rows: &[usize],
        ticket: &Arc<Ticket>,
    ) {
        let mut last = ("", PartitionId(0));
        let mut placed = Vec::with_capacity(rows.len());
        for &row in rows {
            // Requests tend to hold runs of one device.
            let device = batch.device(row);
            if device != last.0 {
                last = (device, partition_of(device, partitions));
            }
            placed.push((last.1, row));
        }
        // Rows are numbers in ascending order, so a device's readings stay in order.
        placed.sort_unstable();
        let mut reading = Reading { device: "", time_us: 0, seq: None, fields: Vec::new() };
        for rows in placed.chunk_by(|a, b| a.0 == b.0) {
            let key = (topic.clone(), rows[0].0);
            self.with_lane(key, |lane| {
                for (_, row) in rows {
                    batch.read(*row, &mut reading);
                    lane.put(&reading, ticket, &*self.clock, &self.limits);
                }
            });
        }
    }

    /// Runs `put` on a lane that is not going to end before it sees what was put.
    fn with_lane(self: &Arc<Self>, key: Key, put: impl FnOnce(&mut State)) {
        loop {
            let lane = self.lane(&key);
            let mut state = lock(&lane.state);
            if !state.ended {
                put(&mut state);
                if !state.closed.is_empty() {
                    lane.filled.notify_one();
                }
                return;
            }
        }
    }

    fn lane(self: &Arc<Self>, key: &Key) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(key) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::default());
        lanes.insert(key.clone(), lane.clone());
        let running = Running { lanes: self.clone(), key: key.clone(), lane: lane.clone() };
        tokio::spawn(running.run());
        lane
    }
}

impl State {
    fn put(&mut self, reading: &Reading<'_>, ticket: &Arc<Ticket>, clock: &dyn Clock, limits: &Limits) {
        if self.open.as_ref().is_some_and(|block| !block.has_room_for(reading, limits)) {
            self.closed.extend(self.open.take());
        }
        let open = self.open.get_or_insert_with(|| OpenBlock::new(clock.elapsed()));
        open.push(reading, ticket);
        if open.is_full(limits) {
            self.closed.extend(self.open.take());
        }
    }

    fn next(&mut self, now: Duration, linger: Duration) -> Next {
        let waits = self.open.as_ref().map(|block| linger.saturating_sub(now.saturating_sub(block.since)));
        if waits == Some(Duration::ZERO) {
            self.closed.extend(self.open.take());
        }
        match (self.closed.len(), waits) {
            (0, None) => Next::End,
            (0, Some(time)) => Next::Wait(time),
            (closed, _) => Next::Append(self.closed.drain(..closed.min(MAX_BLOCKS)).collect()),
        }
    }
}

/// A lane's task. However it ends, nothing is put into the lane afterwards.
struct Running {
    lanes: Arc<Lanes>,
    key: Key,
    lane: Arc<Lane>,
}

impl Running {
    async fn run(self) {
        loop {
            let now = self.lanes.clock.elapsed();
            let next = lock(&self.lane.state).next(now, self.lanes.limits.linger);
            match next {
                Next::Append(blocks) => self.append(blocks).await,
                Next::Wait(time) => tokio::select! {
                    () = self.lanes.clock.sleep(time) => {}
                    () = self.lane.filled.notified() => {}
                },
                Next::End => {
                    if self.end(false) {
                        return;
                    }
                }
            }
        }
    }

    async fn append(&self, blocks: Vec<OpenBlock>) {
        let (records, tickets): (Vec<_>, Vec<_>) = blocks.into_iter().map(OpenBlock::close).unzip();
        let (topic, partition) = &self.key;
        let (count, wanted) = (records.len(), tickets.iter().flatten());
        match self.lanes.log.append(topic, *partition, records).await {
            Ok(offsets) if offsets.len() == count => {
                wanted.for_each(|(ticket, readings)| ticket.acknowledge(*readings));
            }
            Ok(_) => {}
            Err(error) => {
                // It was there when the block was made: some broker knows the topic as it was, or it has just gone. Whoever
                // sends again learns which.
                let error = match error {
                    LogError::NoTopic(what) => LogError::Unavailable(format!("a broker does not know {what}")),
                    error => error,
                };
                tracing::warn!(%topic, %partition, blocks = count, "append failed, its senders are asked to send again: {error}");
                wanted.for_each(|(ticket, _)| ticket.fail(error.clone()));
            }
        }
    }

    /// Ends the lane, unless something was put into it meanwhile and it need not end.
    fn end(&self, must: bool) -> bool {
        let mut lanes = lock(&self.lanes.lanes);
        let mut state = lock(&self.lane.state);
        if !must && (state.open.is_some() || !state.closed.is_empty()) {
            return false;
        }
        if !state.ended {
            state.ended = true;
            lanes.remove(&self.key);
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(true);
        // Blocks that are left, as when the runtime stops, drop their tickets unacknowledged.
        let mut state = lock(&self.lane.state);
        (state.open, state.closed) = (None, VecDeque::new());
    }
}

#[cfg(test)]
mod tests {
    use windrow_embedded::Database;
    use windrow_ports::SystemClock;
    use windrow_ports::log::NewTopic;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lane_vanishes_with_its_last_block_and_comes_back_with_the_next_reading() {
        let folder = tempfile::tempdir().unwrap();
        let log = Database::open(&folder.path().join("windrow.redb")).unwrap().log();
        let name = TopicName::new("traffic").unwrap();
        let topic = NewTopic { name, partitions: 4, replication: 1, retention_ms: None, max_ahead_ms: None };
        log.create_topic(&topic).await.unwrap();
        let lanes = Lanes::new(log, Arc::new(SystemClock::default()), Limits::default());
        let room = Arc::new(tokio::sync::Semaphore::new(1));
        for round in 0..3 {
            let mut batch = Batch::default();
            for device in ["a", "b", "c", "d", "e"] {
                batch.push(&Reading { device, time_us: 0, seq: Some(round), fields: vec![] });
            }
            let (ticket, outcome) = Ticket::new(room.clone().acquire_owned().await.unwrap());
            lanes.put(&topic.name, 4, &batch, &[0, 1, 2, 3, 4], &Arc::new(ticket));
            assert!(!lock(&lanes.lanes).is_empty());
            outcome.of(5).await.unwrap();
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            while !lock(&lanes.lanes).is_empty() {
                assert!(tokio::time::Instant::now() < deadline, "lanes are left: {lanes:?}");
                tokio::task::yield_now().await;
            }
        }
    }
}
