//! Wall clock and timers, so that tests and simulations can own time.

use std::time::Duration;

use async_trait::async_trait;
use windrow_protocol::Timestamp;

/// Time as a role sees it.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall clock, UTC. May jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never runs backwards. For timeouts and idleness.
    fn elapsed(&self) -> Duration;
    /// Waits for that long by `elapsed`.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: tokio::time::Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
