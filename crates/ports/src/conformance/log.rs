//! The suite for [`crate::Log`]. Each function is one property and panics, with the property, where it is broken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

use super::Property;
use crate::log::{Append, Log, LogError, NewTopic, Record};

/// How long a topic may take to appear, vanish or get a leader.
const PATIENCE: Duration = Duration::from_secs(60);

const P0: PartitionId = PartitionId(0);

/// Every property. Each makes a topic of the name that it is given, and leaves it behind.
pub fn properties() -> Vec<Property<dyn Log>> {
    macro_rules! properties {
        ($($name:ident)*) => {
            vec![$(Property {
                name: stringify!($name),
                disturbs: false,
                check: |log: Arc<dyn Log>, place| Box::pin(async move {
                    $name(&*log, &TopicName::new(place).expect("a topic name")).await;
                }),
            }),*]
        };
    }
    properties! {
        records_come_back_as_they_were
        look_ups_find_the_first_record_at_or_after_a_time
        empty_partitions_answer
        many_partitions_are_asked_in_one_call
        truncation_moves_the_start_and_gone_ranges_are_errors
        a_topic_made_again_is_another
        what_does_not_exist_is_said_so
    }
}

/// Checks every property on topics whose names begin with `prefix`, which must be unused.
pub async fn all(log: Arc<dyn Log>, prefix: &str) {
    for (i, property) in properties().iter().enumerate() {
        property.check(log.clone(), format!("{prefix}-{i}")).await;
    }
}

fn new_topic(name: &TopicName, partitions: i32) -> NewTopic {
    NewTopic { name: name.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None }
}

/// Makes a topic and waits until all its partitions answer.
async fn create(log: &dyn Log, name: &TopicName, partitions: i32) {
    log.create_topic(&new_topic(name, partitions)).await.expect("create a topic");
    let all: Vec<PartitionId> = (0..partitions).map(PartitionId).collect();
    let ready = async {
        while !matches!(log.bounds(name, &all).await, Ok(bounds) if bounds.iter().all(Result::is_ok)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the topic's partitions answer in time");
}

fn record(ms: i64, payload: impl Into<Bytes>) -> Append {
    Append { key: None, payload: payload.into(), timestamp: Timestamp::from_millis(ms) }
}

async fn append(log: &dyn Log, topic: &TopicName, records: Vec<Append>) -> Vec<Offset> {
    log.append(topic, P0, records).await.expect("append")
}

async fn read(log: &dyn Log, topic: &TopicName, start: i64, end: i64) -> Result<Vec<Record>, LogError> {
    all_of(log.read(topic, P0, OffsetRange::new(Offset(start), Offset(end)))).await
}

async fn all_of(mut stream: BoxStream<'static, Result<Vec<Record>, LogError>>) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("a read ends in time") {
            Some(chunk) => records.extend(chunk?),
            None => return Ok(records),
        }
    }
}

async fn look_up(log: &dyn Log, topic: &TopicName, ms: i64) -> Lookup {
    let times = [(P0, Timestamp::from_millis(ms))];
    let mut found = log.look_up(topic, &times).await.expect("look up");
    assert_eq!(found.len(), 1, "one answer per question");
    found.remove(0).expect("an answer")
}

async fn bounds(log: &dyn Log, topic: &TopicName) -> (i64, i64) {
    let found = log.bounds(topic, &[P0]).await.expect("bounds").remove(0).expect("bounds of a partition");
    (found.log_start.0, found.high_watermark.0)
}

/// Keys, payloads, times and order are kept; offsets are dense; any range can be read.
pub async fn records_come_back_as_they_were(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 2).await;
    let mut appended = vec![
        Append { key: Some("a".into()), payload: "1".into(), timestamp: Timestamp::from_micros(1_600_000_000_001_999) },
        record(1_500_000_000_000, Bytes::new()),
        record(1_700_000_000_000, vec![7u8; 900_000]),
    ];
    appended.extend((0..700).map(|i| record(1_600_000_000_000 + i, format!("{i}"))));
    let mut offsets = Vec::new();
    for chunk in appended.chunks(100) {
        offsets.extend(append(log, topic, chunk.to_vec()).await);
    }
    assert_eq!(offsets, (0..appended.len() as i64).map(Offset).collect::<Vec<_>>(), "offsets are dense and in order");
    assert_eq!(bounds(log, topic).await, (0, appended.len() as i64));
    let records = read(log, topic, 0, appended.len() as i64).await.expect("read");
    assert_eq!(records.len(), appended.len());
    for ((record, append), offset) in records.iter().zip(&appended).zip(offsets) {
        assert_eq!(record.offset, offset);
        assert_eq!((&record.key, &record.payload), (&append.key, &append.payload));
        assert_eq!(
            record.timestamp.micros(),
            append.timestamp.millis() * 1_000,
            "times are kept in whole milliseconds"
        );
    }
    for (start, end) in [(0, 1), (5, 5), (1, 3), (690, 703)] {
        let part = read(log, topic, start, end).await.expect("read");
        assert_eq!(part, records[start as usize..end as usize], "range [{start}, {end})");
        let range = OffsetRange::new(Offset(start), Offset(end));
        let ahead = all_of(log.read_ahead(topic, P0, range)).await.expect("read ahead");
        assert!(ahead.len() >= part.len(), "ahead of [{start}, {end}) there is the range itself");
        assert_eq!(ahead, records[start as usize..][..ahead.len()], "what is behind [{start}, {end}) has no gap");
    }
    let beyond = read(log, topic, 700, 704).await;
    assert!(matches!(beyond, Err(LogError::OutOfRange { .. })), "a range beyond the log's end is an error: {beyond:?}");
}

/// Timestamps in disorder: jitter, far outliers, repeats. Reproducible; a linear congruential generator is random enough.
fn disorder(len: usize) -> Vec<i64> {
    let mut state = 42u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let base = 1_600_000_000_000i64;
    (0..len as i64)
        .map(|i| match next(20) {
            0 => base + i * 100 - next(86_400_000) as i64,
            1 => base + i * 100 + next(60_000) as i64,
            _ => base + i * 100 + next(500) as i64,
        })
        .collect()
}

fn oracle(times: &[i64], from: usize, ms: i64) -> Lookup {
    let found = times.iter().skip(from).position(|time| *time >= ms);
    found.map_or(Lookup::Beyond, |i| Lookup::At(Offset((from + i) as i64)))
}

/// Against a brute-force oracle, with timestamps in disorder.
pub async fn look_ups_find_the_first_record_at_or_after_a_time(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 1).await;
    let times = disorder(2_000);
    for chunk in times.chunks(137) {
        append(log, topic, chunk.iter().map(|ms| record(*ms, "x")).collect()).await;
    }
    let (min, max) = (*times.iter().min().expect("times"), *times.iter().max().expect("times"));
    let step = (max - min) / 60 + 1;
    let around = times.iter().step_by(40).flat_map(|t| [t - 1, *t, t + 1]);
    for ms in (min - 2..max + 2).step_by(step as usize).chain(around).chain([0, max, max + 1]) {
        assert_eq!(look_up(log, topic, ms).await, oracle(&times, 0, ms), "first record at or after {ms}");
    }
    assert_eq!(look_up(log, topic, max + 1).await, Lookup::Beyond, "a look-up past the end finds nothing");
}

/// A partition without records has bounds and look-ups too.
pub async fn empty_partitions_answer(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 1).await;
    assert_eq!(bounds(log, topic).await, (0, 0));
    assert_eq!(look_up(log, topic, 0).await, Lookup::Beyond);
    assert_eq!(read(log, topic, 0, 0).await.expect("an empty read"), []);
    let info = log.topic(topic).await.expect("topic");
    assert_eq!((info.partitions, info.retention_ms, info.compacted, info.append_time), (1, None, false, false));
}

/// Many partitions in one call get their own answers, in the order asked.
pub async fn many_partitions_are_asked_in_one_call(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 20).await;
    for partition in [3, 11] {
        let records = (0..partition).map(|i| record(1_600_000_000_000 + i64::from(i), "x")).collect();
        log.append(topic, PartitionId(partition), records).await.expect("append");
    }
    let asked: Vec<PartitionId> = (0..20).rev().map(PartitionId).collect();
    let found = log.bounds(topic, &asked).await.expect("bounds");
    for (partition, bounds) in asked.iter().zip(found) {
        let expected = if [3, 11].contains(&partition.0) { i64::from(partition.0) } else { 0 };
        assert_eq!(bounds.expect("bounds").high_watermark, Offset(expected), "partition {partition}");
    }
    let times: Vec<_> = asked.iter().map(|p| (*p, Timestamp::from_millis(1_600_000_000_005))).collect();
    let found = log.look_up(topic, &times).await.expect("look up");
    for (partition, answer) in asked.iter().zip(found) {
        let expected = if partition.0 == 11 { Lookup::At(Offset(5)) } else { Lookup::Beyond };
        assert_eq!(answer.expect("an answer"), expected, "partition {partition}");
    }
}

/// After truncation the start has moved, look-ups see only what is left, and what is gone can't be read silently.
pub async fn truncation_moves_the_start_and_gone_ranges_are_errors(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 1).await;
    let mut times = disorder(300);
    // The largest of all is among those that go.
    times[50] = 1_700_000_000_000;
    append(log, topic, times.iter().map(|ms| record(*ms, "x")).collect()).await;
    log.truncate(topic, P0, Offset(120)).await.expect("truncate");
    assert_eq!(bounds(log, topic).await, (120, 300));
    for ms in times.iter().step_by(7) {
        assert_eq!(look_up(log, topic, *ms).await, oracle(&times, 120, *ms), "first kept record at or after {ms}");
    }
    let gone = read(log, topic, 119, 125).await;
    assert!(matches!(gone, Err(LogError::OutOfRange { .. })), "a gone start is an error: {gone:?}");
    assert_eq!(read(log, topic, 120, 125).await.expect("read").len(), 5);
    let more = append(log, topic, vec![record(1_600_000_000_000, "x")]).await;
    assert_eq!(more, [Offset(300)], "offsets go on after truncation");
}

/// A topic of the same name is not the same topic.
pub async fn a_topic_made_again_is_another(log: &dyn Log, topic: &TopicName) {
    create(log, topic, 1).await;
    append(log, topic, vec![record(1, "x")]).await;
    let first = log.topic(topic).await.expect("topic").id;
    let exists = log.create_topic(&new_topic(topic, 1)).await;
    assert!(matches!(exists, Err(LogError::Exists(_))), "{exists:?}");
    log.delete_topic(topic).await.expect("delete");
    let again = async {
        // Deletion may take a while to be known everywhere.
        while log.create_topic(&new_topic(topic, 1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while !matches!(log.topic(topic).await, Ok(info) if info.id != first)
            || bounds_or_none(log, topic).await != Some((0, 0))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a topic can be made again, empty and with another id");
}

async fn bounds_or_none(log: &dyn Log, topic: &TopicName) -> Option<(i64, i64)> {
    let found = log.bounds(topic, &[P0]).await.ok()?.remove(0).ok()?;
    Some((found.log_start.0, found.high_watermark.0))
}

/// Topics and partitions that do not exist are errors, at once and by name.
pub async fn what_does_not_exist_is_said_so(log: &dyn Log, topic: &TopicName) {
    assert!(matches!(log.topic(topic).await, Err(LogError::NoTopic(_))));
    let appended = log.append(topic, P0, vec![record(1, "x")]).await;
    assert!(matches!(appended, Err(LogError::NoTopic(_))), "{appended:?}");
    create(log, topic, 1).await;
    let appended = log.append(topic, PartitionId(7), vec![record(1, "x")]).await;
    assert!(matches!(appended, Err(LogError::NoTopic(_))), "{appended:?}");
    log.ping().await.expect("the log answers");
}
