use arrow::array::{Array, Float64Array};
use bytes::Bytes;
use proptest::prelude::*;
use windrow_protocol::plan::SealedBy;
use windrow_protocol::volume::{Amount, Until, VolumeCut};
use windrow_protocol::{Offset, PartitionId, Revision, TopicId, TopicName};
use windrow_wire::block::{BlockBuilder, Reading, Value};

use super::*;

const SECOND: i64 = 1_000_000;

fn spec(source: &str) -> JobSpec {
    let json = format!(r#"{{"source": {source}, "window": {{"every": "10s"}}, "map": "SELECT 1 AS x FROM readings"}}"#);
    serde_json::from_str(&json).unwrap()
}

fn blocks() -> JobSpec {
    spec(r#"{"topic": "t", "values": {"speed": "f64"}, "tags": ["zone"]}"#)
}

/// Window [10 s, 20 s), read from offset 0, owned from offset `owned`.
fn plan(owned: i64) -> Plan {
    let window = Window::new(Timestamp::from_micros(10 * SECOND), Timestamp::from_micros(20 * SECOND));
    Plan {
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId::new("id").unwrap(),
        partition: PartitionId(0),
        window,
        read: OffsetRange::new(Offset(0), Offset(100)),
        owned: OffsetRange::new(Offset(owned), Offset(100)),
        lost: None,
        sealed_by: SealedBy::Watermark,
        revision: Revision(0),
        spec_hash: String::new(),
        generation: 1,
        revises: None,
    }
}

fn record(offset: i64, payload: impl Into<Bytes>) -> Record {
    Record {
        offset: Offset(offset),
        timestamp: Timestamp::from_micros(12 * SECOND),
        key: Some("k1".into()),
        payload: payload.into(),
    }
}

/// A record as gateways write them, no earlier than its readings.
fn of_block(offset: i64, payload: impl Into<Bytes>) -> Record {
    Record { timestamp: Timestamp::from_micros(30 * SECOND), ..record(offset, payload) }
}

fn block(readings: &[(i64, Option<u64>, Value<'_>)]) -> Bytes {
    let mut builder = BlockBuilder::default();
    for (second, seq, value) in readings {
        builder.push(&Reading { device: "d", time_us: second * SECOND, seq: *seq, fields: vec![("speed", *value)] });
    }
    builder.finish()
}

#[test]
fn each_reading_goes_where_the_ownership_rule_says() {
    let mut intake = Intake::new(&blocks(), &plan(5)).unwrap();
    let times = [9, 10, 19, 20].map(|s| (s, None, Value::F64(s as f64)));
    intake.push(&of_block(4, block(&times)));
    intake.push(&of_block(5, block(&times)));
    let taken = intake.take().unwrap();
    let speeds =
        |batch: &RecordBatch| batch.column(3).as_any().downcast_ref::<Float64Array>().unwrap().values().to_vec();
    assert_eq!(speeds(&taken.on_time.unwrap()), [10.0, 19.0, 10.0, 19.0]);
    assert_eq!(speeds(&taken.late.unwrap()), [9.0], "late only at an owned offset");
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.read, ledger.on_time, ledger.late, ledger.skipped), (8, 4, 1, 3));
    ledger.check().unwrap();
}

#[test]
fn every_reading_of_a_window_of_volume_is_on_time_whenever_it_was_and_at_whatever_offset() {
    let until = Until { amount: Amount::Readings(9), within: None };
    let start = OffsetRange::new(Offset(3), Offset(3));
    let sealed_by = SealedBy::Volume(VolumeCut::new(until));
    let window = Window::of_volume(PartitionId(0), Offset(3));
    let mut intake = Intake::new(&blocks(), &Plan { window, read: start, owned: start, sealed_by, ..plan(0) }).unwrap();
    let times = [-5, 10, 4_000_000_000, 31].map(|s| (s, None, Value::F64(1.0)));
    assert_eq!(intake.push(&of_block(3, block(&times))), 4, "also readings that are later than their record");
    assert_eq!(intake.push(&of_block(90, block(&[(1, None, Value::Text("warm"))]))), 1, "unfit readings count");
    assert_eq!(intake.push(&of_block(91, "no block")), 0);
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.records, ledger.read, ledger.kept, ledger.quarantined, ledger.undecodable), (3, 5, 4, 1, 1));
    assert_eq!((ledger.late, ledger.skipped), (0, 0));
}

#[test]
fn a_block_with_readings_later_than_its_record_is_quarantined_since_no_window_would_find_them() {
    let mut intake = Intake::new(&blocks(), &plan(0)).unwrap();
    intake.push(&record(0, block(&[(11, None, Value::F64(1.0)), (13, None, Value::F64(1.0))])));
    intake.push(&record(1, block(&[(11, None, Value::F64(1.0)), (12, None, Value::F64(1.0))])));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.undecodable, ledger.kept), (1, 2));
    assert!(reasons[0].contains("later than the record"), "{reasons:?}");
}

#[test]
fn a_json_time_far_beyond_its_bound_is_quarantined_by_the_window_of_its_message() {
    let source = r#"{"topic": "t", "format": "json",
        "json": {"device": "id", "time": {"field": "ts", "format": "unix_seconds", "bound": "5s"}}}"#;
    let mut intake = Intake::new(&spec(source), &plan(0)).unwrap();
    // No other window would read this offset for it.
    intake.push(&record(0, r#"[{"id": "a", "ts": 4070908800}, {"id": "a", "ts": 1}]"#));
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.quarantined, ledger.skipped, ledger.late), (2, 0, 0));
    assert_eq!(intake.take().unwrap().quarantine.unwrap().num_rows(), 2);
}

#[test]
fn repeats_are_removed_and_counted() {
    let mut intake = Intake::new(&blocks(), &plan(0)).unwrap();
    let once = block(&[(11, Some(1), Value::F64(1.0)), (12, Some(2), Value::F64(2.0))]);
    intake.push(&of_block(0, once.clone()));
    intake.push(&of_block(1, once));
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.kept, ledger.duplicate), (2, 2));
}

#[test]
fn a_block_that_does_not_decode_is_quarantined_with_its_bytes_and_the_rest_goes_on() {
    let mut intake = Intake::new(&blocks(), &plan(0)).unwrap();
    intake.push(&of_block(7, "no block"));
    intake.push(&of_block(8, block(&[(11, None, Value::F64(1.0))])));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.records, ledger.undecodable, ledger.kept), (2, 1, 1));
    assert!(reasons[0].starts_with("offset 7: "), "{reasons:?}");
    assert_eq!(intake.take().unwrap().quarantine.unwrap().num_rows(), 1);
}

#[test]
fn whole_numbers_pass_as_floats_and_other_types_are_quarantined() {
    let mut intake = Intake::new(&blocks(), &plan(0)).unwrap();
    intake.push(&of_block(0, block(&[(11, None, Value::I64(3))])));
    intake.push(&of_block(1, block(&[(11, None, Value::Text("fast"))])));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.kept, ledger.quarantined), (1, 1));
    assert!(reasons[0].contains("\"speed\" is string but the job declares f64"), "{reasons:?}");
    ledger.check().unwrap();
    let quarantine = intake.take().unwrap().quarantine.unwrap();
    let kept = quarantine.column(4).as_any().downcast_ref::<arrow::array::BinaryArray>().unwrap();
    assert_eq!(kept.value(0), br#"{"speed":"fast"}"#, "the reading itself is kept, not only the reason");
}

#[test]
fn a_text_that_many_unfit_readings_share_is_not_kept_for_each_of_them() {
    let mut intake = Intake::new(&blocks(), &plan(0)).unwrap();
    let text = "x".repeat(100_000);
    let block = block(&vec![(11, None, Value::Text(&text)); 1_000]);
    intake.push(&of_block(3, block.clone()));
    assert_eq!(intake.ledger().0.quarantined, 1_000);
    let quarantine = intake.take().unwrap().quarantine.unwrap();
    let kept = quarantine.column(4).as_any().downcast_ref::<arrow::array::BinaryArray>().unwrap();
    assert_eq!(quarantine.num_rows(), 1_000);
    assert!(kept.value_data().len() < 8 << 20, "{} bytes", kept.value_data().len());
    let of_the_first_without = (0..1_000).find(|row| !kept.value(*row).starts_with(b"{")).unwrap();
    assert_eq!(kept.value(of_the_first_without), &block[..], "the others are in here");
    let device = quarantine.column(1).as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
    assert_eq!(device.value(999), "d");
}

#[test]
fn json_comes_as_object_array_or_lines_and_what_is_unfit_is_kept_with_its_reason() {
    let mut intake =
        Intake::new(&spec(r#"{"topic": "t", "values": {"speed": "f64"}, "format": "json"}"#), &plan(0)).unwrap();
    intake.push(&record(0, r#"{"speed": 1, "unknown": {}}"#));
    intake.push(&record(1, r#"[{"speed": 2.5}, {"speed": "fast"}, 7, {}]"#));
    intake.push(&record(2, "{\"speed\": 3}\n{\"speed\": 4}\n"));
    intake.push(&record(3, r#"{"speed": "#));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.read, ledger.kept, ledger.quarantined, ledger.undecodable), (7, 5, 2, 1), "{reasons:?}");
    ledger.check().unwrap();
    assert_eq!(intake.take().unwrap().quarantine.unwrap().num_rows(), 3);
}

fn json() -> JobSpec {
    spec(
        r#"{"topic": "t", "values": {"speed": "f64", "count": "i64", "on": "bool", "name": "string"}, "tags": ["zone"],
            "format": "json", "json": {"device": "id", "seq": "n"}}"#,
    )
}

#[test]
fn json_values_of_every_type_arrive_and_of_a_repeated_key_the_last_counts() {
    let mut intake = Intake::new(&json(), &plan(0)).unwrap();
    intake.push(&record(
        0,
        r#"{"id": "a", "n": 1, "speed": 7, "speed": 1.5, "count": -3, "on": true, "name": "\u00e4", "zone": null, "x": [{}]}
           {"id": 5, "n": 1, "zone": "z"} {"id": "a", "n": 1}"#,
    ));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.kept, ledger.duplicate), (2, 1), "{reasons:?}");
    let batch = intake.take().unwrap().on_time.unwrap();
    let shown = arrow::util::pretty::pretty_format_batches(&[batch]).unwrap().to_string();
    for row in ["| 1   | -3    | ä    | true | 1.5   |      |", "| 1   |       |      |      |       | z    |"] {
        assert!(shown.contains(row), "{row} is not in\n{shown}");
    }
}

#[test]
fn keys_that_are_no_text_name_no_device_or_many_devices_would_be_one() {
    let mut intake =
        Intake::new(&spec(r#"{"topic": "t", "values": {"speed": "f64"}, "format": "json"}"#), &plan(0)).unwrap();
    for (offset, key) in [(0, &b"\xff\x01"[..]), (1, b"\xfe\x01"), (2, b"a")] {
        intake.push(&Record { key: Some(Bytes::from_static(key)), ..record(offset, r#"{"speed": 1}"#) });
    }
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.kept, ledger.quarantined), (1, 2));
    assert!(reasons[0].contains("no UTF-8"), "{reasons:?}");
}

#[test]
fn json_that_nests_without_end_is_skipped_or_refused_but_never_a_crash() {
    let mut intake = Intake::new(&json(), &plan(0)).unwrap();
    let bomb = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    intake.push(&record(0, format!(r#"{{"id": "a", "x": {}}}"#, bomb(1_000_000))));
    intake.push(&record(1, format!(r#"{{"id": "a", "zone": {}}}"#, bomb(1_000_000))));
    intake.push(&record(2, bomb(1_000_000)));
    intake.push(&record(3, "[".repeat(1_000_000)));
    let (ledger, _) = intake.ledger();
    assert_eq!(ledger.records, 4);
    ledger.check().unwrap();
}

#[test]
fn a_message_of_many_bad_readings_is_quarantined_with_its_bytes_once() {
    let mut intake = Intake::new(&json(), &plan(0)).unwrap();
    intake.push(&record(0, format!("[{}0]", "0,".repeat(999))));
    let quarantine = intake.take().unwrap().quarantine.unwrap();
    let payloads = quarantine.column(4).as_any().downcast_ref::<arrow::array::BinaryArray>().unwrap();
    assert_eq!((quarantine.num_rows(), payloads.values().len()), (1_000, 2_001));
}

#[test]
fn a_json_time_outside_its_bound_is_quarantined() {
    let source = r#"{"topic": "t", "format": "json", "json": {"device": "id", "seq": "n",
        "time": {"field": "ts", "format": "unix_seconds", "bound": "5s"}}}"#;
    let mut intake = Intake::new(&spec(source), &plan(0)).unwrap();
    intake.push(&record(
        0,
        r#"[{"id": "a", "n": 1, "ts": 10.5}, {"id": 7, "n": 2, "ts": 18}, {"id": "a", "ts": 13}, {"ts": 13}]"#,
    ));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.kept, ledger.quarantined), (2, 2), "{reasons:?}");
    assert!(reasons[0].contains("further than 5s"), "{reasons:?}");
}

/// A block of one reading at each of these seconds.
fn seconds(at: &[i64]) -> Bytes {
    block(&at.iter().map(|second| (*second, None, Value::F64(1.0))).collect::<Vec<_>>())
}

fn amending(reach: &str) -> JobSpec {
    JobSpec { late: LatePolicy::Amend, amend_reach: Some(reach.parse().unwrap()), ..blocks() }
}

#[test]
fn late_readings_within_reach_are_counted_for_their_windows_and_written_nowhere() {
    // Windows of 10 s; the plan's begins at 10.
    let mut intake = Intake::new(&amending("5s"), &plan(5)).unwrap();
    intake.push(&of_block(4, seconds(&[3])));
    intake.push(&of_block(7, seconds(&[3, 12, -4, -11])));
    intake.push(&of_block(9, seconds(&[8])));
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.on_time, ledger.late, ledger.amended, ledger.skipped), (1, 4, 2, 1));
    assert_eq!(ledger.check(), Ok(()));
    let amends = intake.amends().unwrap();
    assert_eq!(amends.offsets, OffsetRange::new(Offset(7), Offset(10)));
    let spans: Vec<_> = amends.spans.iter().map(|span| (span.from.micros(), span.until.micros())).collect();
    assert_eq!(spans, [(0, 10 * SECOND)]);
    assert_eq!(intake.take().unwrap().late.unwrap().num_rows(), 2, "windows that ended more than 5 s before");
}

#[test]
fn a_late_reading_that_amends_is_judged_by_the_revision_that_takes_it_in() {
    let mut intake = Intake::new(&amending("7d"), &plan(0)).unwrap();
    intake.push(&of_block(7, block(&[(3, None, Value::Text("unfit"))])));
    let (ledger, reasons) = intake.ledger();
    assert_eq!((ledger.late, ledger.amended, reasons.len()), (1, 1, 0));
    assert!(intake.take().unwrap().quarantine.is_none());
}

#[test]
fn a_revision_treats_its_own_late_readings_as_the_first_result_did() {
    let revises = windrow_protocol::plan::Revises {
        base: Some(Revision(0)),
        cause: "backfill-b".parse().unwrap(),
        more: vec![],
        late: LateRule { policy: LatePolicy::Side, ..blocks().late_rule() },
    };
    let revision = Plan { revision: Revision(1), revises: Some(revises), ..plan(5) };
    let mut intake = Intake::new(&amending("7d"), &revision).unwrap();
    intake.push(&of_block(7, seconds(&[3])));
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.late, ledger.amended), (1, 0));
    assert_eq!(intake.take().unwrap().late.unwrap().num_rows(), 1);
}

#[test]
fn what_can_only_be_set_aside_is_taken_as_late_and_nothing_else_is() {
    let mut intake = Intake::new(&amending("7d"), &plan(0)).unwrap().only_aside();
    intake.push(&of_block(7, seconds(&[12, 3, 25])));
    intake.push(&of_block(8, &b"no block"[..]));
    let (ledger, _) = intake.ledger();
    assert_eq!((ledger.records, ledger.read, ledger.late, ledger.skipped), (2, 3, 1, 2));
    assert_eq!((ledger.on_time, ledger.amended, ledger.undecodable), (0, 0, 0));
    let taken = intake.take().unwrap();
    assert!(taken.on_time.is_none() && taken.quarantine.is_none());
    assert_eq!(taken.late.unwrap().num_rows(), 1);
}

proptest! {
    #[test]
    fn every_reading_is_counted_in_exactly_one_place(
        records in prop::collection::vec((0i64..10, prop::collection::vec((0i64..30, prop::option::of(0u64..5), any::<bool>()), 0..20)), 0..10)
    ) {
        let mut intake = Intake::new(&blocks(), &plan(5)).unwrap();
        let mut written = 0;
        for (offset, rows) in &records {
            let mut builder = BlockBuilder::default();
            for (second, seq, text) in rows {
                let value = if *text { Value::Text("x") } else { Value::F64(1.0) };
                let reading = Reading { device: "d", time_us: second * SECOND, seq: *seq, fields: vec![("speed", value)] };
                if builder.accepts(&reading) {
                    builder.push(&reading);
                    written += 1;
                }
            }
            intake.push(&of_block(*offset, builder.finish()));
        }
        let (ledger, _) = intake.ledger();
        prop_assert_eq!(ledger.read, written);
        prop_assert_eq!(ledger.check(), Ok(()));
        let taken = intake.take().unwrap();
        let rows = |batch: Option<RecordBatch>| batch.map_or(0, |batch| batch.num_rows() as u64);
        prop_assert_eq!(rows(taken.on_time), ledger.kept);
        // Unfit late readings are in quarantine, counted as late.
        prop_assert_eq!(rows(taken.late) + rows(taken.quarantine), ledger.late + ledger.quarantined);
    }
}

/// Rows of random blocks: mostly on time, now and then late, skipped, repeated, without a number, or of another type.
fn random_block() -> impl Strategy<Value = Vec<(u8, i64, Option<u64>, u8)>> {
    let on_time = prop::collection::vec((0u8..3, 10i64..20, prop::option::weighted(0.9, 0u64..12), 0u8..3), 0..12);
    let any = prop::collection::vec((0u8..3, 0i64..30, prop::option::of(0u64..12), 0u8..4), 0..12);
    prop_oneof![3 => on_time, 1 => any]
}

fn random_record(offset: i64, rows: &[(u8, i64, Option<u64>, u8)]) -> Record {
    let mut builder = BlockBuilder::default();
    for (device, second, seq, value) in rows {
        let device = ["d0", "d1", "a device with a long name"][usize::from(*device)];
        let fields = match value {
            0 => vec![("speed", Value::F64(*second as f64)), ("zone", Value::Text("a zone with a long name"))],
            1 => vec![("zone", Value::Text("z"))],
            2 => vec![],
            _ => vec![("speed", Value::Text("fast"))],
        };
        let reading = Reading { device, time_us: second * SECOND, seq: *seq, fields };
        if builder.accepts(&reading) {
            builder.push(&reading);
        }
    }
    of_block(offset, builder.finish())
}

proptest! {
    #[test]
    fn a_block_taken_as_a_whole_and_reading_by_reading_gives_the_same(
        blocks_of in prop::collection::vec((0i64..10, random_block()), 0..12)
    ) {
        let (mut whole, mut single) = (Intake::new(&blocks(), &plan(5)).unwrap(), Intake::new(&blocks(), &plan(5)).unwrap());
        for (offset, rows) in &blocks_of {
            let record = random_record(*offset, rows);
            whole.push(&record);
            single.ledger.records += 1;
            single.push_block(&record, block::decode(&record.payload).unwrap(), true);
        }
        prop_assert_eq!(whole.ledger(), single.ledger());
        let (whole, single) = (whole.take().unwrap(), single.take().unwrap());
        prop_assert_eq!(whole.on_time, single.on_time);
        prop_assert_eq!(whole.late, single.late);
        prop_assert_eq!(whole.quarantine, single.quarantine);
    }

    #[test]
    fn arbitrary_bytes_and_damaged_json_are_counted_and_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let good = br#"[{"id": "a", "n": 1, "speed": 1.5e3, "name": "\ud83d\ude00"}, {"id": "b", "on": true}]"#;
        let mut damaged = good.to_vec();
        damaged[at.index(good.len())] = bytes.first().copied().unwrap_or(b'"');
        let mut intake = Intake::new(&json(), &plan(0)).unwrap();
        intake.push(&record(0, bytes));
        intake.push(&record(1, damaged));
        intake.push(&record(2, good[..cut.index(good.len())].to_vec()));
        intake.push(&record(3, good.to_vec()));
        let (ledger, _) = intake.ledger();
        prop_assert!(ledger.kept >= 1, "the good one is kept");
        prop_assert_eq!(ledger.check(), Ok(()));
        intake.take().unwrap();
    }
}
