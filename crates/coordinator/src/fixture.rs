//! What a coordinator works with, for tests: the embedded parts, in a folder of their own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tempfile::TempDir;
use windrow_embedded::Database;
use windrow_ports::log::{Append, Bounds, NewTopic, Record, TopicInfo};
use windrow_ports::meta::{Events, KeyValue, Listing, Txn, TxnOutcome};
use windrow_ports::{Log, LogError, MetaError, MetaStore, SystemClock};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};
use windrow_storage::{S3Settings, Store};

use crate::Parts;

/// The parts go with the folder.
pub fn parts() -> (TempDir, Parts) {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("db")).unwrap();
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let parts = Parts { log: db.log(), meta: db.meta(), clock: Arc::new(SystemClock::default()), store };
    (folder, parts)
}

/// A store of metadata in which something happens once wishes were listed for the first time.
pub struct Meanwhile {
    inner: Arc<dyn MetaStore>,
    happens: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Meanwhile {
    pub fn new(inner: Arc<dyn MetaStore>, happens: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Arc::new(Self { inner, happens: Mutex::new(Some(Box::pin(happens))) })
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meanwhile").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl MetaStore for Meanwhile {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let listing = self.inner.list(prefix).await?;
        let happens = if prefix.contains("/revisions/") { self.happens.lock().unwrap().take() } else { None };
        if let Some(happens) = happens {
            happens.await;
        }
        Ok(listing)
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.inner.txn(txn).await
    }
    fn watch(&self, prefix: &str, from: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        self.inner.watch(prefix, from)
    }
    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.inner.revoke(lease).await
    }
    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        self.inner.compact(revision).await
    }
    async fn ping(&self) -> Result<(), MetaError> {
        self.inner.ping().await
    }
}

/// A call to the log that a partition does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Bounds,
    LookUp,
    /// It answers that it has no such record (yet).
    Read,
    /// Its disk is broken: it can't be read, but says where it ends.
    BrokenRead,
}

/// A log of which some partitions don't answer some calls.
#[derive(Debug)]
pub struct Deaf {
    inner: Arc<dyn Log>,
    pub to: Mutex<Vec<(Call, PartitionId)>>,
    /// Ranges that were read.
    pub reads: AtomicUsize,
}

impl Deaf {
    pub fn new(inner: Arc<dyn Log>) -> Arc<Self> {
        Arc::new(Self { inner, to: Mutex::default(), reads: AtomicUsize::default() })
    }

    fn answer<T>(&self, call: Call, partition: PartitionId, answer: Result<T, LogError>) -> Result<T, LogError> {
        let is_deaf = self.to.lock().unwrap().contains(&(call, partition));
        if is_deaf { Err(LogError::Unavailable("deaf".to_owned())) } else { answer }
    }
}

#[async_trait]
impl Log for Deaf {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        self.inner.create_topic(topic).await
    }
    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        self.inner.delete_topic(topic).await
    }
    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        self.inner.topic(topic).await
    }
    async fn append(&self, topic: &TopicName, of: PartitionId, records: Vec<Append>) -> Result<Vec<Offset>, LogError> {
        self.inner.append(topic, of, records).await
    }
    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        let found = self.inner.look_up(topic, times).await?;
        Ok(times.iter().zip(found).map(|((of, _), answer)| self.answer(Call::LookUp, *of, answer)).collect())
    }
    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        let found = self.inner.bounds(topic, partitions).await?;
        Ok(partitions.iter().zip(found).map(|(of, answer)| self.answer(Call::Bounds, *of, answer)).collect())
    }
    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        wanted: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let nothing = || Err(LogError::OutOfRange { wanted, held: OffsetRange::default() });
        let answer = self.answer(Call::BrokenRead, partition, Ok(()));
        let answer = answer.and_then(|()| self.answer(Call::Read, partition, Ok(())).or_else(|_| nothing()));
        match answer {
            Ok(()) => self.inner.read(topic, partition, wanted),
            Err(error) => Box::pin(futures::stream::iter([Err(error)])),
        }
    }
    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        self.inner.truncate(topic, partition, before).await
    }
    async fn ping(&self) -> Result<(), LogError> {
        self.inner.ping().await
    }
}
