//! Whether the gateway can take readings: a look at the log every moment, so that a log that is gone is known before a
//! request has waited for it in vain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use windrow_ports::{Clock, Log};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the log may take to answer one.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not looked yet.
    Unknown,
    Ready,
    /// The log does not answer, and why.
    Down(String),
    /// The gateway is shutting down.
    Draining,
}

/// Looks until nobody wants to know any more.
pub async fn watch(log: Arc<dyn Log>, clock: Arc<dyn Clock>, tell: watch::Sender<Readiness>) {
    loop {
        let found = tokio::select! {
            answer = log.ping() => answer.map_err(|error| error.to_string()),
            () = clock.sleep(PATIENCE) => Err(format!("the log has not answered for {} s", PATIENCE.as_secs())),
            () = tell.closed() => return,
        };
        note(&tell, found);
        tokio::select! {
            () = clock.sleep(PAUSE) => {}
            () = tell.closed() => return,
        }
    }
}

fn note(tell: &watch::Sender<Readiness>, found: Result<(), String>) {
    tell.send_if_modified(|known| match (&*known, found) {
        (Readiness::Ready, Ok(())) | (Readiness::Down(_), Err(_)) => false,
        (before, Ok(())) => {
            if matches!(before, Readiness::Down(_)) {
                tracing::info!("the log answers again");
            }
            *known = Readiness::Ready;
            true
        }
        (_, Err(cause)) => {
            tracing::warn!("readings are answered with 503 until the log answers again: {cause}");
            *known = Readiness::Down(cause);
            true
        }
    });
}
