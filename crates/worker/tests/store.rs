//! A worker and its cluster: all workers write to one store, and a metadata store that is away for a moment takes no work
//! from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use windrow_embedded::Database;
use windrow_ports::meta::{Events, KeyValue, Listing, Txn, TxnOutcome};
use windrow_ports::{MetaError, MetaStore, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::WorkerId;
use windrow_protocol::state::keys;
use windrow_storage::{S3Settings, Store};
use windrow_worker::{Settings, Tools, WorkerError, run};

#[tokio::test]
async fn a_worker_with_another_store_than_its_cluster_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    let start = |name: &str, store: &str| {
        let store =
            Store::open(&format!("file://{}/{store}", folder.path().display()), &S3Settings::default()).unwrap();
        let scratch = folder.path().join(name);
        let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
        let tools = Tools::new(db.log(), store, Arc::new(SystemClock::default()), engine, scratch);
        let id = WorkerId::new(name).unwrap();
        let settings = Settings { id, slots: 1, lease_ttl: Duration::from_secs(10), grace: Duration::from_secs(1) };
        let stop = CancellationToken::new();
        (tokio::spawn(run(tools, db.meta(), settings, stop.clone())), stop)
    };
    let (first, stop_first) = start("first", "output");
    let registered = async {
        while db.meta().get(&keys::worker(&WorkerId::new("first").unwrap())).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), registered).await.expect("the first worker registers");
    let (other, _) = start("other", "elsewhere");
    let refused = other.await.unwrap().unwrap_err();
    assert!(matches!(&refused, WorkerError::OtherStore(other) if other.cluster.ends_with("output")), "{refused}");
    let (same, stop_same) = start("same", "output");
    stop_first.cancel();
    stop_same.cancel();
    first.await.unwrap().unwrap();
    same.await.unwrap().unwrap();
}

/// A metadata store whose connections break: the first watch ends, and so many lists after it fail.
#[derive(Debug)]
struct Breaking {
    inner: Arc<dyn MetaStore>,
    watches: AtomicUsize,
    lists_to_fail: AtomicUsize,
    ends: Arc<tokio::sync::Notify>,
}

#[async_trait]
impl MetaStore for Breaking {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let fails = self.watches.load(Ordering::SeqCst) > 0
            && self.lists_to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Err(MetaError::Unavailable("broken".to_owned())) } else { self.inner.list(prefix).await }
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.inner.txn(txn).await
    }
    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        let watch = self.inner.watch(prefix, from_revision);
        if self.watches.fetch_add(1, Ordering::SeqCst) > 0 {
            return watch;
        }
        let ends = self.ends.clone();
        let broken = futures::stream::once(async { Err(MetaError::Unavailable("broken".to_owned())) });
        watch.take_until(async move { ends.notified().await }).chain(broken).boxed()
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

#[tokio::test]
async fn a_watch_that_breaks_takes_no_work_from_a_worker_whose_lease_holds() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    let ends = Arc::new(tokio::sync::Notify::new());
    let (watches, lists_to_fail) = (AtomicUsize::new(0), AtomicUsize::new(2));
    let meta = Arc::new(Breaking { inner: db.meta(), watches, lists_to_fail, ends: ends.clone() });
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let scratch = folder.path().join("scratch");
    let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
    let tools = Tools::new(db.log(), store, Arc::new(SystemClock::default()), engine, scratch);
    let id = WorkerId::new("w").unwrap();
    let settings =
        Settings { id: id.clone(), slots: 1, lease_ttl: Duration::from_secs(30), grace: Duration::from_secs(1) };
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run(tools, meta.clone(), settings, stop.clone()));
    let watched = async |times: usize| {
        let reached = async {
            while meta.watches.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("it watches its assignments");
        db.meta().get(&keys::worker(&id)).await.unwrap().expect("it is registered").create_revision
    };
    let registered = watched(1).await;
    ends.notify_one();
    assert_eq!(watched(2).await, registered, "it did not give its work up");
    assert_eq!(meta.lists_to_fail.load(Ordering::SeqCst), 0);
    stop.cancel();
    worker.await.unwrap().unwrap();
}
