//! What a request waits for: that the log has acknowledged every block that holds one of its readings.
//!
//! Only readings that were acknowledged explicitly count, so a block that is lost on the way, whatever the reason, can
//! never look like one that was written.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use windrow_ports::LogError;

/// Held by each block with readings of the request. The last one that lets go tells the outcome.
#[derive(Debug)]
pub struct Ticket {
    acknowledged: AtomicU64,
    error: OnceLock<LogError>,
    tell: Option<oneshot::Sender<(u64, Option<LogError>)>>,
    /// Given back when nothing of the request is in flight any more, also if its sender has stopped waiting.
    _room: OwnedSemaphorePermit,
}

/// The other end.
#[derive(Debug)]
pub struct Outcome(oneshot::Receiver<(u64, Option<LogError>)>);

impl Ticket {
    pub fn new(room: OwnedSemaphorePermit) -> (Self, Outcome) {
        let (tell, told) = oneshot::channel();
        let ticket = Self { acknowledged: AtomicU64::new(0), error: OnceLock::new(), tell: Some(tell), _room: room };
        (ticket, Outcome(told))
    }

    /// The log has that many of the request's readings.
    pub fn acknowledge(&self, readings: u64) {
        self.acknowledged.fetch_add(readings, Ordering::Relaxed);
    }

    /// The log may or may not have some of them.
    pub fn fail(&self, error: LogError) {
        // One of several reasons is enough.
        let _ = self.error.set(error);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            // Whoever asked may have stopped waiting.
            let _ = tell.send((*self.acknowledged.get_mut(), self.error.take()));
        }
    }
}

impl Outcome {
    /// Waits until the fate of all readings is known; an error unless `expected` of them were acknowledged.
    pub async fn of(self, expected: u64) -> Result<(), LogError> {
        match self.0.await {
            Ok((acknowledged, None)) if acknowledged == expected => Ok(()),
            Ok((_, Some(error))) => Err(error),
            _ => Err(LogError::Unavailable("the gateway stopped before the log had acknowledged it".to_owned())),
        }
    }
}
