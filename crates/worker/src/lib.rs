//! The worker: takes batches, reads exactly the planned offsets, runs the job's SQL, commits by marker.
//!
//! Stateless: it owns scratch files and a lease, both of which may vanish at any moment without harm.

pub mod attempt;
mod compute;
pub mod intake;
mod work;

use std::sync::Arc;

pub use work::{Settings, WorkerError, run};

use windrow_ports::{Clock, Log};
use windrow_processing::Engine;
use windrow_storage::Store;

/// What an attempt works with.
#[derive(Debug, Clone)]
pub struct Tools {
    pub log: Arc<dyn Log>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub engine: Engine,
    /// Folder for the files of running attempts.
    pub scratch: std::path::PathBuf,
}
