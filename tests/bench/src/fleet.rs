//! The readings that the paths are measured with: a fleet at one reading a second per device, its devices interleaved
//! as a gateway packs them. Deterministic, with values that do not compress to nothing.

use anyhow::Result;
use bytes::Bytes;
use windrow_ports::log::{Append, Log, NewTopic};
use windrow_protocol::job::JobSpec;
use windrow_protocol::plan::SealedBy;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicId, TopicName, Window};
use windrow_wire::block::{BlockBuilder, Reading, Value};

pub const PARTITIONS: i32 = 4;
/// Devices of one partition.
const DEVICES: u64 = 250;
/// Readings of one block: four seconds of a partition.
pub const BLOCK: u64 = 1_000;
/// Monday 2026-01-05, 00:00 UTC.
pub const START_US: i64 = 1_767_571_200_000_000;
const DAY_US: i64 = 86_400_000_000;

/// All filtered rows.
pub const ROWS_SQL: &str = "SELECT device, time, seq, speed, level, zone FROM readings WHERE speed > 5";
/// The filtered rows by device and minute.
pub const AGGREGATES_SQL: &str = "SELECT device, date_trunc('minute', time) AS minute, count(*) AS n, \
     avg(speed) AS speed, max(level) AS level FROM readings WHERE speed > 5 GROUP BY 1, 2";

/// One reading of the fleet.
pub struct Sample {
    pub device: String,
    pub zone: String,
    pub time_us: i64,
    pub seq: u64,
    pub speed: f64,
    pub level: f64,
}

/// Reading `i` of a partition.
pub fn sample(partition: i32, i: u64) -> Sample {
    let (second, device) = (i / DEVICES, i % DEVICES);
    let mut noise = (i ^ (u64::from(partition.unsigned_abs()) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    noise ^= noise >> 29;
    noise = noise.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Sample {
        device: format!("unit-{partition:02}-{device:06}-eu"),
        zone: format!("zone-{}", device % 20),
        time_us: START_US + second as i64 * 1_000_000 + (device * 4_000) as i64,
        seq: second,
        speed: (noise % 1_000) as f64 / 10.0,
        level: ((noise >> 32) % 100_000) as f64 / 100.0,
    }
}

/// Block `n` of a partition: its latest event time and its bytes.
pub fn block(partition: i32, n: u64) -> (Timestamp, Bytes) {
    let mut builder = BlockBuilder::default();
    for i in n * BLOCK..(n + 1) * BLOCK {
        let sample = sample(partition, i);
        builder.push(&Reading {
            device: &sample.device,
            time_us: sample.time_us,
            seq: Some(sample.seq),
            fields: vec![
                ("speed", Value::F64(sample.speed)),
                ("level", Value::F64(sample.level)),
                ("zone", Value::Text(&sample.zone)),
            ],
        });
    }
    let last = builder.time_range_us().map_or(START_US, |(_, last)| last);
    (Timestamp::from_micros(last), builder.finish())
}

/// Reading `i` of a partition as a JSON message: its event time and its bytes.
pub fn message(partition: i32, i: u64) -> (Timestamp, String) {
    let Sample { device, zone, time_us, seq, speed, level } = sample(partition, i);
    let time = Timestamp::from_micros(time_us);
    let text = format!(
        r#"{{"device":"{device}","time":"{time}","seq":{seq},"speed":{speed},"level":{level},"zone":"{zone}"}}"#
    );
    (time, text)
}

/// A job over the fleet.
pub fn spec(topic: &TopicName, json: bool, map: &str) -> Result<JobSpec> {
    let mut source = serde_json::json!({
        "topic": topic.as_str(), "values": {"speed": "f64", "level": "f64"}, "tags": ["zone"]
    });
    if json {
        source["format"] = "json".into();
        source["json"] =
            serde_json::json!({"device": "device", "seq": "seq", "time": {"field": "time", "bound": "10s"}});
    }
    let spec = serde_json::json!({"source": source, "window": {"every": "day"}, "map": map});
    Ok(serde_json::from_value(spec)?)
}

/// The plan of a partition's whole day.
pub fn plan(topic: &TopicName, topic_id: &TopicId, partition: i32, records: i64, spec: &JobSpec) -> Plan {
    let range = OffsetRange::new(Offset(0), Offset(records));
    Plan {
        topic: topic.clone(),
        topic_id: topic_id.clone(),
        partition: PartitionId(partition),
        window: day(),
        read: range,
        owned: range,
        lost: None,
        sealed_by: SealedBy::Idle,
        revision: Revision(0),
        spec_hash: spec.hash(),
        generation: 1,
        revises: None,
    }
}

/// The window of all readings.
pub fn day() -> Window {
    Window::new(Timestamp::from_micros(START_US), Timestamp::from_micros(START_US + DAY_US))
}

/// A topic with a random name.
pub async fn create_topic(log: &dyn Log, partitions: i32) -> Result<(TopicName, TopicId)> {
    let name = TopicName::new(format!("bench-{}", uuid::Uuid::new_v4().simple()))?;
    let new = NewTopic { name: name.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
    log.create_topic(&new).await?;
    let mut left = 100;
    loop {
        match log.topic(&name).await {
            Ok(topic) => return Ok((name, topic.id)),
            // A broker that has just started may not know yet what its controller has made.
            Err(windrow_ports::LogError::NoTopic(_)) if left > 0 => left -= 1,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Fills a topic's partitions with `per_partition` records each, made by number.
pub async fn fill(
    log: &dyn Log,
    topic: &TopicName,
    per_partition: u64,
    make: impl Fn(i32, u64) -> Append,
) -> Result<()> {
    for partition in 0..PARTITIONS {
        for first in (0..per_partition).step_by(256) {
            let records = (first..per_partition.min(first + 256)).map(|n| make(partition, n)).collect();
            log.append(topic, PartitionId(partition), records).await?;
        }
    }
    Ok(())
}
