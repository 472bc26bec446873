use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::JobName;
use windrow_protocol::state::keys;

use super::*;
use crate::fixture;

/// A job over a topic of one partition whose records have these timestamps, cut until there is nothing to cut.
async fn cut_all(times: &[Timestamp]) -> Cursor {
    let (_folder, parts) = fixture::parts();
    let name = TopicName::new("t").unwrap();
    let new = NewTopic { name: name.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    parts.log.create_topic(&new).await.unwrap();
    let record = |timestamp: &Timestamp| Append { timestamp: *timestamp, key: None, payload: "x".into() };
    parts.log.append(&name, PartitionId(0), times.iter().map(record).collect()).await.unwrap();
    let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
    let job = JobRecord::new(JobName::new("j").unwrap(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
    let mut site = Site {
        parts: &parts,
        job: &job,
        topic: parts.log.topic(&name).await.unwrap(),
        cursors: BTreeMap::new(),
        progress: None,
        in_flight: 0,
        max_in_flight: 1_000,
    };
    let cursor_key = keys::cursor(&job.name, PartitionId(0));
    for revision in 0..100 {
        let windows = Windows::OfTime { calendar: job.spec.window.calendar().unwrap(), pinned: BTreeMap::new() };
        let writes = step(&site, windows, &mut Silence::default()).await.unwrap().writes;
        let Some(write) = writes.first() else { return site.cursors[&PartitionId(0)].value.clone() };
        let cursor = write.then.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if *key == cursor_key => serde_json::from_slice(value).ok(),
            _ => None,
        });
        site.cursors.insert(PartitionId(0), Versioned { value: cursor.unwrap(), revision });
    }
    panic!("it is cut on and on, at {:?}", site.cursors)
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
