//! What the roles need from the world: a log, a metadata store, a clock. And the conformance suites that every
//! adapter must pass ([`conformance`]).
//!
//! The crate names no adapter. The object store is not among the ports because `object_store` is one already.

pub mod clock;
pub mod cluster;
pub mod conformance;
pub mod lease;
pub mod log;
pub mod meta;

pub use clock::{Clock, SystemClock};
pub use log::{Log, LogError};
pub use meta::{MetaError, MetaStore};
