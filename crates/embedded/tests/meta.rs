//! The embedded metadata store passes the suite that etcd passes, and survives a restart.

use std::sync::Arc;
use std::time::Duration;

use windrow_embedded::Database;
use windrow_ports::MetaStore;
use windrow_ports::conformance::meta;
use windrow_ports::meta::{Op, Txn};

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    meta::all(db.meta() as Arc<dyn MetaStore>, "/test/").await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart_and_leased_keys_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/windrow.redb");
    let db = Database::open(&path).unwrap();
    let lease = db.meta().grant(Duration::from_secs(3_600)).await.unwrap();
    let leased = Op::Put { key: "/b".into(), value: "2".into(), lease };
    let written = db.meta().txn(Txn { when: vec![], then: vec![Op::put("/a", "1"), leased] }).await.unwrap();
    let before = db.meta().get("/a").await.unwrap().unwrap();
    drop(db);
    let db = reopen(&path).await;
    assert_eq!(db.meta().get("/a").await.unwrap(), Some(before));
    let listing = db.meta().list("/").await.unwrap();
    assert_eq!(listing.items.len(), 1, "the holder of the lease is gone, and so is its key");
    assert!(listing.revision > written.revision);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("windrow.redb");
    let _db = Database::open(&path).unwrap();
    assert!(Database::open(&path).unwrap_err().to_string().contains("in use by another process"));
}

/// The threads of a dropped database end soon after; the file is free then.
async fn reopen(path: &std::path::Path) -> Database {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match Database::open(path) {
            Ok(db) => return db,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
