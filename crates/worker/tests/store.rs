//! All workers of a cluster write to one store.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windrow_embedded::Database;
use windrow_ports::{MetaStore, SystemClock};
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
