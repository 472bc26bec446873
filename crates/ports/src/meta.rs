//! The metadata store: a small, linearizable, ordered key-value store with transactions, leases and watches.
//! etcd in a cluster, an embedded database in `dev`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// Why a call failed, by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Not now: retry with backoff. For a transaction the outcome is unknown: read it back.
    #[error("metadata store is unavailable: {0}")]
    Unavailable(String),
    /// The watch's revision is compacted: list, then watch from the listing's revision + 1.
    #[error("watch is behind the oldest kept revision {0}")]
    Compacted(i64),
    /// The lease does not exist (any more): whatever was bound to it is gone.
    #[error("lease {0} does not exist")]
    NoLease(i64),
    /// The request as such is wrong (too many operations, too large). Retrying can't help.
    #[error("metadata store refused the request: {0}")]
    Refused(String),
}

/// The most operations of one transaction (etcd's default).
pub const MAX_TXN_OPS: usize = 128;

/// Bytes of values in one transaction from which on a writer begins another: etcd takes 1.5 MiB a request.
pub const ENOUGH_TXN_BYTES: usize = 512 * 1024;

/// A key with its value and versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// Store revision at which the key was created (since its last deletion).
    pub create_revision: i64,
    /// Store revision of the last put.
    pub mod_revision: i64,
    /// The lease it is bound to; 0 for none.
    pub lease: i64,
}

/// Keys under a prefix, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of keys.
    pub items: Vec<KeyValue>,
    /// The revision that the listing shows: watch from here + 1.
    pub revision: i64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key's create revision is this.
    Created(String, i64),
    /// The key's mod revision is this.
    Modified(String, i64),
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Put a key; `lease` 0 binds it to none.
    Put { key: String, value: Bytes, lease: i64 },
    /// Delete a key; deleting what is not there is fine.
    Delete { key: String },
    /// Delete all keys under a prefix.
    DeletePrefix { prefix: String },
}

impl Op {
    /// A put that is bound to no lease.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0 }
    }
}

/// All operations, if all conditions hold; none otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub when: Vec<Compare>,
    pub then: Vec<Op>,
}

/// How a transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether the conditions held.
    pub applied: bool,
    /// The store's revision after it.
    pub revision: i64,
}

/// A change under a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Delete { key: String, revision: i64 },
}

/// The changes of one revision or several; never split within a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    pub events: Vec<Event>,
    /// The newest revision among them: resume from here + 1. Also sent without events, as progress.
    pub revision: i64,
}

/// A key-value store with transactions, leases and watches.
#[async_trait]
pub trait MetaStore: Send + Sync + std::fmt::Debug {
    /// A key, linearizably.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError>;

    /// Keys under a prefix in order, linearizably. An adapter pages internally, at one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, MetaError>;

    /// A transaction of at most [`MAX_TXN_OPS`] operations.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError>;

    /// All changes under a prefix from a revision on (inclusive), in order. `Compacted` as the last item when the
    /// revision is no longer kept, `Unavailable` as the last item when the connection is lost.
    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>>;

    /// A new lease. Keys bound to it vanish when it expires or is revoked.
    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError>;

    /// Renews a lease; the remaining time, counted from when the request was SENT. `NoLease` once it is gone.
    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError>;

    /// Ends a lease and deletes its keys.
    async fn revoke(&self, lease: i64) -> Result<(), MetaError>;

    /// Forgets history before a revision (watches that far behind end with `Compacted`).
    async fn compact(&self, revision: i64) -> Result<(), MetaError>;

    /// Whether the store answers at all, for readiness.
    async fn ping(&self) -> Result<(), MetaError>;
}
