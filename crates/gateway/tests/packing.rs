//! Requests share blocks: whatever their interleaving and whatever the log does, what is acknowledged is in the log once,
//! in the order of its device, in blocks within their limits.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use proptest::prelude::*;
use support::{Doors, Fault, creating, doors};
use windrow_gateway::{Batch, Limits, PublishError, Reading, Receipt, Settings, Value, partition_of};
use windrow_protocol::TopicName;
use windrow_protocol::duration::Length;
use windrow_wire::block;

const PARTITIONS: i32 = 3;
/// Readings of one request: device, second, whether its value is a text.
type Rows = Vec<(u8, i64, bool)>;

fn topic() -> TopicName {
    TopicName::new("traffic").unwrap()
}

fn with_limits(limits: Limits) -> Settings {
    Settings { limits, ..creating(PARTITIONS) }
}

fn one(device: &str, seq: u64) -> Batch {
    let mut batch = Batch::default();
    batch.push(&Reading { device, time_us: 1_000_000, seq: Some(seq), fields: vec![("v", Value::F64(1.0))] });
    batch
}

/// Submits the requests of one sender one after the other, without waiting for answers.
async fn send(doors: &Doors, sender: usize, requests: &[Rows]) -> Vec<(Vec<(String, u64)>, Receipt)> {
    let mut seqs: HashMap<u8, u64> = HashMap::new();
    let mut receipts = Vec::new();
    for rows in requests {
        let (mut batch, mut sent) = (Batch::default(), Vec::new());
        for (device, second, text) in rows {
            let seq = seqs.entry(*device).and_modify(|seq| *seq += 1).or_default();
            let name = format!("sender{sender}-device{device}");
            let value = if *text { Value::Text("x") } else { Value::F64(1.0) };
            let fields = vec![("v", value)];
            batch.push(&Reading { device: &name, time_us: (1 + second) * 1_000_000, seq: Some(*seq), fields });
            sent.push((name, *seq));
        }
        let room = doors.gateway.room(batch.bytes()).await.unwrap();
        receipts.push((sent, doors.gateway.submit(&topic(), batch, room).await.unwrap()));
        tokio::task::yield_now().await;
    }
    receipts
}

/// Where each reading lies in its partition, in the log's order; checks every block on the way.
async fn check_blocks(doors: &Doors, limits: &Limits) -> HashMap<String, Vec<u64>> {
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for (partition, records) in doors.records("traffic").await {
        for record in records {
            let block = block::decode(&record.payload).unwrap();
            let (first, last) = (block.times_us.iter().min().unwrap(), block.times_us.iter().max().unwrap());
            assert!(block.row_count <= limits.rows && last - first <= limits.span.micros());
            assert_eq!(record.timestamp.millis(), last / 1_000, "the latest event time");
            let seqs: Vec<_> = block.seqs.as_ref().unwrap().rows(block.row_count).collect();
            for (device, seq) in block.device_index.iter().zip(seqs) {
                let device = block.devices[*device as usize];
                assert_eq!(partition_of(device, PARTITIONS), partition);
                found.entry(device.to_owned()).or_default().push(seq.unwrap());
            }
        }
    }
    found
}

async fn whatever_happens(senders: Vec<Vec<Rows>>, faults: Vec<Option<Fault>>) {
    let limits = Limits { rows: 7, span: Length::from_secs(60), linger: Duration::from_millis(1), ..Limits::default() };
    let doors = doors(with_limits(limits.clone()));
    doors.log.script.lock().unwrap().extend(&faults);
    let sent = senders.iter().enumerate().map(|(sender, requests)| send(&doors, sender, requests));
    let receipts = join_all(sent).await.into_iter().flatten();
    let answers = join_all(receipts.map(|(sent, receipt)| receipt.answer().map(|answer| (sent, answer)))).await;
    let found = check_blocks(&doors, &limits).await;
    for (device, seqs) in &found {
        assert!(seqs.is_sorted_by(|a, b| a < b), "{device} is out of order or repeated: {seqs:?}");
    }
    for (sent, answer) in answers {
        match answer {
            Ok(answer) => assert!(answer.accepted == sent.len() as u64 && answer.refused == 0),
            Err(error) => {
                assert!(matches!(error, PublishError::Again(_)) && faults.iter().any(Option::is_some), "{error}");
                continue;
            }
        }
        for (device, seq) in sent {
            assert!(found[&device].contains(&seq), "{device} {seq} was acknowledged and is not in the log");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_acknowledged_is_in_the_log_once_in_device_order_in_blocks_within_limits(
        senders in prop::collection::vec(
            prop::collection::vec(prop::collection::vec((0u8..4, 0i64..150, prop::bool::weighted(0.1)), 0..20), 1..6),
            1..4,
        ),
        faults in prop::collection::vec(
            prop_oneof![6 => Just(None), 1 => Just(Some(Fault::Lost)), 1 => Just(Some(Fault::AnswerLost))],
            0..12,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(whatever_happens(senders, faults));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_share_a_block() {
    // Only the fiftieth reading closes the block.
    let limits = Limits { rows: 50, linger: Duration::from_secs(3_600), ..Limits::default() };
    let doors = doors(with_limits(limits));
    let publish = |seq| doors.gateway.publish(&TOPIC, one("d", seq));
    static TOPIC: std::sync::LazyLock<TopicName> = std::sync::LazyLock::new(topic);
    let answers = join_all((0..50).map(publish)).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().accepted == 1));
    let records: usize = doors.records("traffic").await.iter().map(|(_, records)| records.len()).sum();
    assert_eq!(records, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_fails_fails_every_request_in_the_block_and_no_other() {
    let limits = Limits { rows: 2, linger: Duration::from_secs(3_600), ..Limits::default() };
    let doors = doors(with_limits(limits));
    doors.log.script.lock().unwrap().push_back(Some(Fault::Lost));
    let (topic, gateway) = (topic(), &doors.gateway);
    let (a, b) = tokio::join!(gateway.publish(&topic, one("d", 1)), gateway.publish(&topic, one("d", 2)));
    for answer in [a, b] {
        let error = answer.unwrap_err();
        assert!(error.to_string().contains("send the request again"), "{error}");
    }
    let (c, d) = tokio::join!(gateway.publish(&topic, one("d", 1)), gateway.publish(&topic, one("d", 2)));
    assert!(c.is_ok() && d.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_room_waits_until_another_is_in_the_log() {
    let settings = Settings { max_in_flight_bytes: 16 << 20, ..creating(PARTITIONS) };
    let doors = doors(settings);
    doors.log.held.send_replace(true);
    let room = doors.gateway.room(16 << 20).await.unwrap();
    let receipt = doors.gateway.submit(&topic(), one("d", 1), room).await.unwrap();
    let mut next = Box::pin(doors.gateway.room(1));
    assert!((&mut next).now_or_never().is_none(), "the first one is not in the log yet");
    doors.log.held.send_replace(false);
    receipt.answer().await.unwrap();
    next.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_gives_its_room_back_when_its_readings_are_in_the_log() {
    let doors = doors(Settings { max_in_flight_bytes: 16 << 20, ..creating(PARTITIONS) });
    let room = doors.gateway.room(16 << 20).await.unwrap();
    drop(doors.gateway.submit(&topic(), one("d", 1), room).await.unwrap());
    doors.gateway.room(16 << 20).await.unwrap();
    assert_eq!(doors.records("traffic").await.iter().map(|(_, records)| records.len()).sum::<usize>(), 1);
}
