//! The coordinator: cuts partitions into windows, writes each plan once, hands batches to workers, and notes what became
//! of them. Any number may run; one leads. It reads no readings and computes nothing.
//!
//! Over and over: observe (follow the metadata, look up the log, read the markers of windows that are to be run again) -> decide (pure: `dispatch`,
//! `finishing`, `outcomes`, `scheduler`, `windrow_protocol::cut`, `windrow_protocol::revise`) -> write. Every write is a transaction that compares the leader's own key and the revision of
//! what it changes, so a leader that lost its lease without knowing changes nothing.

pub mod api;
mod dispatch;
mod finishing;
#[cfg(test)]
mod fixture;
mod janitor;
mod leader;
mod looks;
mod mirror;
mod outcomes;
mod planner;
mod retention;
mod revising;
mod scheduler;
mod view;

use std::sync::Arc;
use std::time::Duration;

use windrow_ports::{Clock, Log, LogError, MetaError, MetaStore};
use windrow_storage::{Store, StoreError};

pub use janitor::JanitorSettings;
pub use leader::run;
pub use view::View;

/// What the coordinator works with.
#[derive(Debug, Clone)]
pub struct Parts {
    pub log: Arc<dyn Log>,
    pub meta: Arc<dyn MetaStore>,
    pub clock: Arc<dyn Clock>,
    /// Where the workers write: the markers there are the history.
    pub store: Store,
}

/// How the coordinator runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who this replica is, for people.
    pub id: String,
    /// Pause between two looks into the log. What workers report is taken in at once. Default 200 ms.
    pub tick: Duration,
    /// How long leadership outlives its holder. Default 10 s.
    pub lease_ttl: Duration,
    /// Batches that a job has in the metadata store before no further ahead is cut. Default 10,000.
    pub max_in_flight: usize,
    pub janitor: JanitorSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            id: "coordinator".to_owned(),
            tick: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(10),
            max_in_flight: 10_000,
            janitor: JanitorSettings::default(),
        }
    }
}

/// Why a tick failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum TickError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This replica leads no more.
    #[error("leadership is lost")]
    NotLeading,
}
