//! The embedded log passes the suite that Kafka passes, and keeps what it acknowledged.

use windrow_embedded::Database;
use windrow_ports::conformance::log;
use windrow_ports::log::{Append, Log, NewTopic};
use windrow_protocol::{Offset, PartitionId, Timestamp, TopicName};

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    log::all(db.log(), "conformance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_from_many_tasks_are_all_kept_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("windrow.redb");
    let topic = TopicName::new("t").unwrap();
    let db = Database::open(&path).unwrap();
    let new = NewTopic { name: topic.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    db.log().create_topic(&new).await.unwrap();
    let tasks: Vec<_> = (0..50u8)
        .map(|i| {
            let (log, topic) = (db.log(), topic.clone());
            tokio::spawn(async move {
                let record =
                    Append { key: None, payload: vec![i].into(), timestamp: Timestamp::from_millis(i64::from(i)) };
                log.append(&topic, PartitionId(0), vec![record.clone(), record]).await.unwrap()
            })
        })
        .collect();
    let mut offsets = Vec::new();
    for task in tasks {
        offsets.extend(task.await.unwrap());
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (0..100).map(Offset).collect::<Vec<_>>());
    drop(db);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let db = loop {
        match Database::open(&path) {
            Ok(db) => break db,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let bounds = db.log().bounds(&topic, &[PartitionId(0)]).await.unwrap().remove(0).unwrap();
    assert_eq!(bounds.high_watermark, Offset(100));
}
