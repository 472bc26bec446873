//! The gateway: takes readings, refuses what can't be right, packs the rest into blocks, and acknowledges what the log
//! has acknowledged. Holds no state; keeps nothing that it has not answered for.
//!
//! A request is parsed (`http`, `grpc`) into a [`Batch`], checked, and put into the lanes of its devices' partitions,
//! where it shares blocks with other requests (`lanes`, `open`). Its [`Receipt`] tells when the log has them all.

mod batch;
pub mod grpc;
pub mod http;
mod lanes;
mod open;
mod partition;
mod readiness;
mod refusal;
mod ticket;
mod times;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use windrow_ports::{Clock, Log, LogError};
use windrow_protocol::TopicName;
use windrow_protocol::duration::Length;

pub use batch::{Batch, NewRow};
pub use open::Limits;
pub use partition::partition_of;
pub use readiness::Readiness;
pub use refusal::{MAX_REFUSALS, Refusal, Refusals};
pub use windrow_wire::block::{Reading, Value};
pub use windrow_wire::ingest::MAX_READINGS;

/// The largest request in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// How a gateway works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How far ahead of this clock an event time may be. Default 30 s.
    pub max_skew: Length,
    /// How blocks are cut.
    pub limits: Limits,
    /// Partitions of topics that are made at their first reading; `None`: topics must exist. Default none.
    pub create_partitions: Option<i32>,
    /// Bytes of requests in flight, at least [`MAX_REQUEST_BYTES`]; more requests wait. Default 128 MiB.
    pub max_in_flight_bytes: usize,
    /// How long a request may wait for room, and then for the log, before it is told to come again. Default 30 s each.
    pub answer_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_skew: Length::from_secs(30),
            limits: Limits::default(),
            create_partitions: None,
            max_in_flight_bytes: 128 * 1024 * 1024,
            answer_within: Duration::from_secs(30),
        }
    }
}

/// What became of a request's readings.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Answer {
    /// Durably in the log.
    pub accepted: u64,
    pub refused: u64,
    /// Why, the first [`MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
}

/// Why a whole request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// Send it again, with the same sequence numbers: some of it may be in the log.
    #[error("{0}; send the request again")]
    Again(String),
    /// The topic does not exist.
    #[error("{0}")]
    NoTopic(String),
    /// The request can't be served as it is.
    #[error("{0}")]
    Refused(String),
}

impl From<LogError> for PublishError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => Self::Again(error.to_string()),
            LogError::NoTopic(_) => Self::NoTopic(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Room for a request's bytes, until the log has them.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

/// What a request waits for after its readings are on their way.
#[derive(Debug)]
pub struct Receipt {
    outcome: ticket::Outcome,
    answer: Answer,
    /// What is left of the time to answer.
    within: Duration,
    clock: Arc<dyn Clock>,
}

/// Takes readings for any topic. Cheap to share.
#[derive(Debug)]
pub struct Gateway {
    topics: topics::Topics,
    lanes: Arc<lanes::Lanes>,
    room: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    readiness: watch::Receiver<Readiness>,
    drain: watch::Sender<bool>,
}

impl Gateway {
    /// Must be called on a Tokio runtime; a task there watches the log as long as the gateway lives.
    pub fn new(log: Arc<dyn Log>, clock: Arc<dyn Clock>, settings: Settings) -> Arc<Self> {
        let (tell, readiness) = watch::channel(Readiness::Unknown);
        tokio::spawn(readiness::watch(log.clone(), clock.clone(), tell));
        Arc::new(Self {
            topics: topics::Topics::new(log.clone(), clock.clone()),
            lanes: lanes::Lanes::new(log, clock.clone(), settings.limits.clone()),
            room: Arc::new(Semaphore::new(permits(settings.max_in_flight_bytes.max(MAX_REQUEST_BYTES)) as usize)),
            clock,
            settings,
            readiness,
            drain: watch::Sender::new(false),
        })
    }

    /// Waits for room for a request of that many bytes instead of growing.
    pub async fn room(&self, bytes: usize) -> Result<Room, PublishError> {
        self.refuse_unless_up()?;
        let wanted = permits(bytes.min(MAX_REQUEST_BYTES));
        tokio::select! {
            room = self.room.clone().acquire_many_owned(wanted) => {
                room.map(Room).map_err(|error| PublishError::Again(error.to_string()))
            }
            () = self.clock.sleep(self.settings.answer_within) => Err(PublishError::Again(
                format!("all {} bytes for requests in flight are taken", self.settings.max_in_flight_bytes)
            )),
        }
    }

    /// Puts a request's readings on their way. Those of requests that are submitted one after the other stay in order.
    pub async fn submit(&self, topic: &TopicName, batch: Batch, room: Room) -> Result<Receipt, PublishError> {
        self.refuse_unless_up()?;
        let started = self.clock.elapsed();
        let info = tokio::select! {
            info = self.topics.get(topic, &self.settings) => info?,
            () = self.clock.sleep(self.settings.answer_within) => return Err(self.too_late()),
        };
        let (rows, late) = times::check(&batch, self.clock.now(), self.settings.max_skew, &info);
        let (ticket, outcome) = ticket::Ticket::new(room.0);
        self.lanes.put(topic, info.partitions, &batch, &rows, &Arc::new(ticket));
        let refusals = batch.into_refusals().join(late);
        let answer = Answer { accepted: rows.len() as u64, refused: refusals.count, refusals: refusals.first };
        let within = self.settings.answer_within.saturating_sub(self.clock.elapsed().saturating_sub(started));
        Ok(Receipt { outcome, answer, within, clock: self.clock.clone() })
    }

    /// Publishes a request; answers when the log has all accepted readings.
    pub async fn publish(&self, topic: &TopicName, batch: Batch) -> Result<Answer, PublishError> {
        let room = self.room(batch.bytes()).await?;
        self.submit(topic, batch, room).await?.answer().await
    }

    fn too_late(&self) -> PublishError {
        PublishError::Again(format!("the log has not answered for {} s", self.settings.answer_within.as_secs()))
    }

    /// A request that the log can't take now is told so at once.
    fn refuse_unless_up(&self) -> Result<(), PublishError> {
        match &*self.readiness.borrow() {
            Readiness::Down(cause) => Err(PublishError::Again(cause.clone())),
            _ => Ok(()),
        }
    }

    /// Whether it can take readings.
    pub fn readiness(&self) -> Readiness {
        if self.is_draining() { Readiness::Draining } else { self.readiness.borrow().clone() }
    }

    /// Readiness turns false, and streams end after what they have asked is answered. Requests are served as before:
    /// ending the servers is the caller's.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Ends when the gateway is draining.
    pub(crate) async fn draining(&self) {
        let mut drain = self.drain.subscribe();
        // The sender lives as long as `self`.
        let _ = drain.wait_for(|draining| *draining).await;
    }
}

/// The semaphore's unit is a KiB, since it can't count to all bytes of a machine.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl Room {
    /// Gives back what is not needed for that many bytes.
    fn keep(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(permits(bytes) as usize);
        drop(self.0.split(surplus));
    }
}

impl Receipt {
    /// Waits until the log has all accepted readings.
    pub async fn answer(self) -> Result<Answer, PublishError> {
        tokio::select! {
            outcome = self.outcome.of(self.answer.accepted) => outcome?,
            () = self.clock.sleep(self.within) => {
                return Err(PublishError::Again("the log has not acknowledged it in time".to_owned()));
            }
        }
        Ok(self.answer)
    }
}
