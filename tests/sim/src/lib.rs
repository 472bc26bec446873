//! A whole cluster from a seed, in virtual time, on one thread: two coordinators and three workers, under faults.
//!
//! ```text
//! cargo test -p windrow-sim                                        200 seeds, determinism, the fakes' conformance
//! cargo run -p windrow-sim --release -- --seeds 10000 [--from N]   many; failures are printed with their seed
//! cargo run -p windrow-sim --release -- --seed N --trace           one, step by step
//! ```
//!
//! **Real**: `windrow_coordinator::run`, `windrow_worker::run`, `windrow_storage::Store`, leases, block codec, SQL, Parquet.
//!
//! **Fake**: the log ([`log`]), the metadata store ([`meta`]), the object store ([`faulty_store`], over `object_store`'s in
//! memory), clocks ([`node`]), time ([`time`]) and chance ([`random`]). Producers ([`workload`]) and the operator who has
//! parked batches tried again ([`run`]) are the simulation's own. The fakes of the ports pass the adapters' suites.
//!
//! **Faults** ([`faults`]) are drawn per seed: of single calls in [`link`], the way between a node and a service; of the
//! cluster in [`disasters`]. Every tenth seed is a healthy cluster.
//!
//! **Auditors** ([`audit`]) see every change of the metadata and of the store in the moment in which it happens, with the
//! node that caused it, and every act on a lease. When the workload is over all is healed, everything must be done in
//! bounded time, and each reading must be where an oracle says, worked out from plans and log the slow way.
//!
//! A run is a function of its seed as long as the code is: another step anywhere draws other chances. A seed that found a
//! defect is no regression test of it; write one beside the code. `PLANTED.md` lists defects that were put in to see
//! whether the auditors find them.
//!
//! **What it can't show**: torn disks and scratch that is full; threads (everything runs on one, so nothing is seen of data
//! races, and a batch takes no time to compute); etcd, Kafka and S3 being wrong about their own promises (a log that
//! loses acknowledged records, look-ups of a lagging replica, a store whose conditional put is not atomic); gateways;
//! backfills, and other changes of a job while it runs; batches that are given up.

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
