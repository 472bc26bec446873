use std::sync::Arc;

use windrow_embedded::Database;
use windrow_ports::{MetaStore, SystemClock};
use windrow_storage::{S3Settings, Store};

use super::*;

#[tokio::test]
async fn a_leader_that_is_told_to_stop_gives_its_place_up_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("db")).unwrap();
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let parts = Parts { log: db.log(), meta: db.meta(), clock: Arc::new(SystemClock::default()), store };
    let seen = db.meta().list(keys::LEADER).await.unwrap().revision;
    let mut leads = db.meta().watch(keys::LEADER, seen + 1);
    let stop = CancellationToken::new();
    let lease_ttl = Duration::from_secs(3_600);
    let leading = tokio::spawn(run(parts, Settings { lease_ttl, ..Settings::default() }, stop.clone()));
    leads.next().await.unwrap().unwrap();
    stop.cancel();
    leading.await.unwrap();
    assert!(db.meta().get(keys::LEADER).await.unwrap().is_none(), "its lease would have kept the place for an hour");
}
