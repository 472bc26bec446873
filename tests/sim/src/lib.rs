//! A whole cluster from a seed, in virtual time, on one thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod audit;
pub mod cluster;
pub mod disasters;
pub mod faults;
pub mod faulty_log;
pub mod faulty_meta;
pub mod faulty_store;
pub mod link;
pub mod log;
pub mod meta;
pub mod node;
pub mod random;
pub mod run;
pub mod time;
pub mod workload;
pub mod world;

/// Everything runs on one thread: a lock is never waited for, and a panic under one ends the run anyway.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
