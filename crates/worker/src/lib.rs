//! The worker: takes batches, reads exactly the planned offsets, runs the job's SQL, commits by marker.
//!
//! Stateless: it owns scratch files and a lease, both of which may vanish at any moment without harm.

pub mod attempt;
mod compute;
pub mod intake;
mod scratch;
mod shared;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

pub use compute::Place;
pub use scratch::Scratch;
pub use shared::SharedReads;
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
    pub scratch: PathBuf,
    /// Where the heavy part of a batch runs.
    pub place: Place,
    /// Names the attempts.
    pub names: Arc<dyn AttemptNames>,
    /// Records that batches have in common.
    pub shared: SharedReads,
}

/// Bytes of records that are kept for batches whose ranges overlap.
const SHARED_BYTES: usize = 64 * 1024 * 1024;

impl Tools {
    /// Each batch on a thread of its own, attempts named at random.
    pub fn new(log: Arc<dyn Log>, store: Store, clock: Arc<dyn Clock>, engine: Engine, scratch: PathBuf) -> Self {
        let (names, shared) = (Arc::new(RandomNames), SharedReads::new(SHARED_BYTES));
        Self { log, store, clock, engine, scratch, place: Place::OwnThread, names, shared }
    }
}

/// Names attempts. No name may be given twice in the life of an object store: the name decides whose a marker is.
pub trait AttemptNames: Send + Sync + std::fmt::Debug {
    /// A new name: letters, digits, `-`, `_` and `.`.
    fn next(&self) -> String;
}

/// Names by time and randomness (UUIDv7).
#[derive(Debug, Clone, Copy)]
pub struct RandomNames;

impl AttemptNames for RandomNames {
    fn next(&self) -> String {
        uuid::Uuid::now_v7().to_string()
    }
}
