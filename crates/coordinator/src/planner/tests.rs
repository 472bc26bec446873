use std::sync::Arc;

use windrow_embedded::Database;
use windrow_ports::SystemClock;
use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::JobName;
use windrow_storage::{S3Settings, Store};

use super::*;

/// How long a partition counts as silent after looks at these times, in ms, with this idle timeout.
fn silent_after(looks: &[(u64, i64)], idle_ms: i64) -> i64 {
    let mut silence = Silence::default();
    let mut note = |(ms, high_watermark): &(u64, i64)| {
        let (end, now) = (Offset(*high_watermark), Duration::from_millis(*ms));
        silence.note(PartitionId(0), end, now, Length::from_millis(idle_ms)).millis()
    };
    looks.iter().map(&mut note).last().unwrap()
}

#[test]
fn silence_lasts_from_the_last_new_record_on() {
    assert_eq!(silent_after(&[(0, 5), (1_000, 5), (2_000, 5)], 10_000), 2_000);
    assert_eq!(silent_after(&[(0, 5), (1_000, 6), (2_000, 6)], 10_000), 1_000);
}

#[test]
fn time_without_looks_is_no_silence() {
    assert_eq!(silent_after(&[(0, 5), (1_000, 5), (7_000, 5), (8_000, 5)], 10_000), 1_000);
}

#[test]
fn a_short_timeout_is_reached_though_looks_are_further_apart() {
    assert_eq!(silent_after(&[(0, 5), (900, 5), (1_800, 5)], 300), 1_800);
}

/// A job over a topic of one partition whose records have these timestamps, cut until there is nothing to cut.
async fn cut_all(times: &[Timestamp]) -> Cursor {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("db")).unwrap();
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let parts = Parts { log: db.log(), meta: db.meta(), clock: Arc::new(SystemClock::default()), store };
    let name = TopicName::new("t").unwrap();
    let new = NewTopic { name: name.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    parts.log.create_topic(&new).await.unwrap();
    let record = |timestamp: &Timestamp| Append { timestamp: *timestamp, key: None, payload: "x".into() };
    parts.log.append(&name, PartitionId(0), times.iter().map(record).collect()).await.unwrap();
    let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
    let job = JobRecord::new(JobName::new("j").unwrap(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
    let mut planner = Planner {
        parts: &parts,
        job: &job,
        calendar: job.spec.window.calendar().unwrap(),
        topic: parts.log.topic(&name).await.unwrap(),
        cursors: BTreeMap::new(),
        progress: None,
        pinned: BTreeMap::new(),
        open: BTreeMap::new(),
        in_flight: 0,
        max_in_flight: 1_000,
    };
    let cursor_key = keys::cursor(&job.name, PartitionId(0));
    for revision in 0..100 {
        let writes = planner.step(&mut Silence::default()).await.unwrap().writes;
        let Some(write) = writes.first() else { return planner.cursors[&PartitionId(0)].value.clone() };
        let cursor = write.then.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if *key == cursor_key => serde_json::from_slice(value).ok(),
            _ => None,
        });
        planner.cursors.insert(PartitionId(0), Versioned { value: cursor.unwrap(), revision });
    }
    panic!("it is cut on and on, at {:?}", planner.cursors)
}

#[tokio::test]
async fn a_record_at_the_end_of_the_calendar_does_not_keep_the_coordinator_cutting_for_ever() {
    // As of a producer that counts microseconds where the log counts milliseconds.
    let poison = Timestamp::from_millis(1_767_225_600_000_000);
    assert_eq!(poison, Timestamp::MAX);
    let day = |day: i64| Timestamp::from_millis(day * 86_400_000 + 1);
    let cursor = cut_all(&[day(0), day(1), poison]).await;
    assert_eq!((cursor.sealed_through, cursor.end), (Timestamp::MAX, Offset(2)));
}
