//! What a worker may find in a log: any message is taken in, each of its readings is counted in one place, and what is
//! unfit goes to quarantine. The first byte chooses the job's format.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use windrow_ports::log::Record;
use windrow_protocol::plan::SealedBy;
use windrow_protocol::{
    JobSpec, Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicId, TopicName, Window,
};
use windrow_worker::intake::Intake;

const SPECS: [&str; 5] = [
    r#"{"topic": "t", "values": {"v": "f64", "n": "i64", "b": "bool"}, "tags": ["zone"]}"#,
    r#"{"topic": "t", "format": "json", "values": {"v": "f64", "n": "i64", "b": "bool"}, "tags": ["zone"],
        "json": {"device": "device", "seq": "seq", "time": {"field": "time", "format": "rfc3339", "bound": "1h"}}}"#,
    r#"{"topic": "t", "format": "json", "values": {"v": "f64"},
        "json": {"time": {"field": "time", "format": "unix_seconds", "bound": "1h"}}}"#,
    r#"{"topic": "t", "format": "json", "values": {"v": "f64"},
        "json": {"device": "v", "time": {"field": "time", "format": "unix_micros", "bound": "1h"}}}"#,
    r#"{"topic": "t", "format": "json", "values": {"time": "string"},
        "json": {"time": {"field": "time", "format": "unix_millis", "bound": "1h"}}}"#,
];

fn specs() -> &'static [JobSpec] {
    static READ: OnceLock<Vec<JobSpec>> = OnceLock::new();
    READ.get_or_init(|| {
        let whole =
            |source: &&str| format!(r#"{{"source": {source}, "window": {{"every": "1h"}}, "map": "SELECT 1"}}"#);
        SPECS.iter().map(|source| serde_json::from_str(&whole(source)).expect("a job")).collect()
    })
}

fn plan() -> Plan {
    Plan {
        topic: TopicName::new("t").expect("a name"),
        topic_id: TopicId::new("i").expect("an id"),
        partition: PartitionId(0),
        window: Window::new(Timestamp::from_millis(0), Timestamp::from_millis(3_600_000)),
        read: OffsetRange::new(Offset(0), Offset(10)),
        owned: OffsetRange::new(Offset(0), Offset(10)),
        lost: None,
        sealed_by: SealedBy::Watermark,
        revision: Revision(0),
        spec_hash: String::new(),
        generation: 1,
        revises: None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, payload)) = bytes.split_first() else { return };
    let specs = specs();
    let mut intake = Intake::new(&specs[usize::from(*choice) % specs.len()], &plan()).unwrap();
    let payload = bytes::Bytes::copy_from_slice(payload);
    // Twice, so that repeats are found.
    for offset in 0..2 {
        intake.push(&Record {
            offset: Offset(offset),
            timestamp: Timestamp::from_millis(1_000),
            key: Some(bytes::Bytes::from_static(b"device")),
            payload: payload.clone(),
        });
    }
    let taken = intake.take().expect("batches");
    let (ledger, _) = intake.ledger();
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(taken.on_time.map_or(0, |batch| batch.num_rows() as u64), ledger.kept);
    assert!(taken.late.map_or(0, |batch| batch.num_rows() as u64) <= ledger.late);
    let quarantine = taken.quarantine.map_or(0, |batch| batch.num_rows() as u64);
    assert!(quarantine >= ledger.quarantined + ledger.undecodable);
});
