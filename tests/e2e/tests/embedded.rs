//! Coordinators, workers, log, metadata and store together, on the embedded parts: every reading that was written is in
//! exactly one window's result or in the late set, whoever is stopped in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windrow_coordinator::Parts;
use windrow_embedded::Database;
use windrow_ports::log::{Append, Log, NewTopic};
use windrow_ports::meta::{MetaStore, Op, Txn};
use windrow_ports::{Clock, SystemClock};
use windrow_processing::{Engine, EngineSettings, parquet};
use windrow_protocol::marker::{Complete, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::Part;
use windrow_protocol::state::{JobRecord, Progress, keys};
use windrow_protocol::{JobName, JobSpec, Ledger, PartitionId, Timestamp, TopicName, WorkerId};
use windrow_storage::{S3Settings, Store};
use windrow_wire::block::{BlockBuilder, Reading, Value};
use windrow_worker::Tools;

#[path = "embedded/volume.rs"]
mod volume;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE_US: i64 = 60_000_000;
/// 2015-09-01T00:00:00Z
const BASE_US: i64 = 1_441_065_600_000_000;

struct Cluster {
    db: Database,
    store: Store,
    folder: tempfile::TempDir,
    topic: TopicName,
    job: JobName,
}

fn spec() -> JobSpec {
    serde_json::from_str(
        r#"{"source": {"topic": "traffic", "values": {"speed": "f64"}}, "window": {"every": "1h"},
            "lateness": "10m", "idleTimeout": "1s",
            "map": "SELECT device, count(*) AS n, sum(speed) AS total FROM readings GROUP BY device",
            "reduce": "SELECT sum(n) AS n, sum(total) AS total FROM parts"}"#,
    )
    .unwrap()
}

impl Cluster {
    async fn new(partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
        let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
        let topic = TopicName::new("traffic").unwrap();
        let new = NewTopic { name: topic.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
        db.log().create_topic(&new).await.unwrap();
        Self { db, store, folder, topic, job: JobName::new("congestion").unwrap() }
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock::default())
    }

    fn coordinator(&self, id: &str) -> CancellationToken {
        let (log, meta) = (self.db.log(), self.db.meta());
        let parts = Parts { log, meta, clock: Self::clock(), store: self.store.clone() };
        let stop = CancellationToken::new();
        let settings = windrow_coordinator::Settings {
            id: id.to_owned(),
            tick: Duration::from_millis(20),
            ..windrow_coordinator::Settings::default()
        };
        tokio::spawn(windrow_coordinator::run(parts, settings, stop.clone()));
        stop
    }

    fn worker(&self, id: &str, grace: Duration) -> CancellationToken {
        let scratch = self.folder.path().join(format!("scratch-{id}"));
        let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
        let (log, store) = (self.db.log(), self.store.clone());
        let tools = Tools::new(log, store, Self::clock(), engine, scratch);
        let id = WorkerId::new(id).unwrap();
        let settings = windrow_worker::Settings { id, slots: 2, lease_ttl: Duration::from_secs(10), grace };
        let stop = CancellationToken::new();
        tokio::spawn(windrow_worker::run(tools, self.db.meta(), settings, stop.clone()));
        stop
    }

    async fn apply(&self) {
        self.apply_spec(spec()).await;
    }

    async fn apply_spec(&self, spec: JobSpec) {
        let record = JobRecord::new(self.job.clone(), spec.clone(), Timestamp::default());
        let then = vec![
            Op::put(keys::job(&self.job), serde_json::to_vec(&record).unwrap()),
            Op::put(keys::spec(&self.job, &spec.hash()), serde_json::to_vec(&spec).unwrap()),
        ];
        self.db.meta().txn(Txn { when: vec![], then }).await.unwrap();
    }

    /// Writes one block of ten readings of `device` into a partition; times in minutes after the base.
    async fn write(&self, partition: i32, device: &str, minute: i64, seq: u64) {
        self.write_block(partition, device, minute, seq * 10, 10).await;
    }

    /// Writes one block of so many readings, a second apart, numbered from `seq` on.
    async fn write_block(&self, partition: i32, device: &str, minute: i64, seq: u64, readings: u64) {
        let mut builder = BlockBuilder::default();
        let time_us = |i: u64| BASE_US + minute * MINUTE_US + i as i64 * 1_000_000;
        for i in 0..readings {
            let fields = vec![("speed", Value::F64(1.0))];
            builder.push(&Reading { device, time_us: time_us(i), seq: Some(seq + i), fields });
        }
        let timestamp = Timestamp::from_micros(time_us(readings - 1));
        let record = Append { key: None, payload: builder.finish(), timestamp };
        self.db.log().append(&self.topic, PartitionId(partition), vec![record]).await.unwrap();
    }

    /// Waits until as many windows are complete and nothing is in flight.
    async fn complete(&self, windows: u64) -> Progress {
        let done = async {
            loop {
                let progress = self.db.meta().get(&keys::progress(&self.job)).await.unwrap();
                let progress = progress.map(|item| serde_json::from_slice::<Progress>(&item.value).unwrap());
                let in_flight = self.db.meta().list(&keys::batches(&self.job)).await.unwrap().items.len();
                match progress {
                    Some(progress) if progress.windows_complete >= windows && in_flight == 0 => return progress,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("the windows complete in time")
    }

    /// All markers, checked: ownership without gap or overlap, every ledger sound, every file there.
    async fn ledger(&self, all_ended_well: bool) -> Ledger {
        let mut sum = Ledger::default();
        let mut owned: BTreeMap<PartitionId, Vec<(i64, i64)>> = BTreeMap::new();
        for object in self.store.list(&paths::commits(&self.job)).await.unwrap() {
            let (_, _, part, _) = paths::parse_marker(&object.path).expect("only markers among the commits");
            if part == Part::Finish {
                let complete = self.store.read_marker::<Complete>(&object.path).await.unwrap().unwrap();
                assert_eq!(self.store.unpublished(&complete).await.unwrap(), Vec::<String>::new());
                continue;
            }
            let marker = self.store.read_marker::<Marker>(&object.path).await.unwrap().unwrap();
            marker.ledger.check().unwrap();
            assert_eq!(self.store.unpublished(&marker).await.unwrap(), Vec::<String>::new());
            owned.entry(marker.plan.partition).or_default().push((marker.plan.owned.start.0, marker.plan.owned.end.0));
            sum = sum.plus(&marker.ledger);
        }
        for (partition, mut ranges) in owned {
            ranges.sort_unstable();
            let touches = ranges.windows(2).all(|pair| pair[0].1 == pair[1].0);
            assert!(touches && ranges[0].0 == 0, "partition {partition}: {ranges:?}");
        }
        let staged = self.store.list(&paths::staging(&self.job)).await.unwrap();
        assert!(!all_ended_well || staged.is_empty(), "nothing is left staged: {staged:?}");
        sum
    }

    /// Window starts with the counts in the result's files.
    async fn counts(&self) -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        for object in self.store.list(&paths::dataset(&self.job, Dataset::Data)).await.unwrap() {
            let local = self.folder.path().join("result.parquet");
            self.store.download(&object.path, &local).await.unwrap();
            let window = object.path.split("window=").nth(1).unwrap()[..16].to_owned();
            for batch in parquet::read(&local).unwrap() {
                let batch = batch.unwrap();
                let n = batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
                *counts.entry(window.clone()).or_default() += n.iter().flatten().sum::<i64>();
            }
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_is_in_its_window_and_silent_partitions_hold_nothing_back() {
    let cluster = Cluster::new(3).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.apply().await;
    // Two partitions of three hours, one block every five minutes; the third stays empty.
    for minute in (0..180).step_by(5) {
        cluster.write(0, "a", minute, minute as u64).await;
        cluster.write(1, "b", minute, minute as u64).await;
    }
    cluster.complete(4).await;
    let counts: Vec<(String, i64)> = cluster.counts().await.into_iter().collect();
    let expected = [("20150901T000000Z", 240), ("20150901T010000Z", 240), ("20150901T020000Z", 240)];
    assert_eq!(counts, expected.map(|(window, n)| (window.to_owned(), n)));
    let ledger = cluster.ledger(true).await;
    assert_eq!((ledger.kept, ledger.late, ledger.duplicate), (720, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_block_is_written_once_to_the_late_set_and_a_gap_of_months_is_one_run() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.apply().await;
    cluster.write(0, "a", 0, 0).await;
    cluster.write(0, "a", 75, 1).await;
    cluster.complete(1).await;
    // The first hour is sealed by the block at minute 75: this one comes too late for it.
    cluster.write(0, "a", 30, 2).await;
    cluster.write(0, "a", 60 * 24 * 90, 3).await;
    // From the window before the first block (readings may be up to the lateness out of order) through that of the last.
    let progress = cluster.complete(24 * 90 + 2).await;
    assert_eq!(progress.windows_complete, 24 * 90 + 2);
    let markers = cluster.store.list(&paths::commits(&cluster.job)).await.unwrap().len();
    assert!(markers < 20, "a gap of three months costs {markers} markers");
    let ledger = cluster.ledger(true).await;
    assert_eq!((ledger.kept, ledger.late), (30, 10));
    let late = cluster.store.list(&paths::dataset(&cluster.job, Dataset::Late)).await.unwrap();
    assert_eq!(late.len(), 1, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_leader_and_workers_are_stopped_in_turn_nothing_is_lost_or_counted_twice() {
    let cluster = Cluster::new(2).await;
    let mut coordinators = vec![cluster.coordinator("a"), cluster.coordinator("b")];
    let mut workers = vec![cluster.worker("w0", Duration::ZERO), cluster.worker("w1", Duration::ZERO)];
    cluster.apply().await;
    let mut written = 0;
    for hour in 0..12i64 {
        for minute in (0..60).step_by(10) {
            for partition in 0..2 {
                cluster
                    .write(partition, ["a", "b"][partition as usize], hour * 60 + minute, (hour * 60 + minute) as u64)
                    .await;
                written += 10;
            }
        }
        // Stopped without grace, in the middle of whatever it does; another comes in its place.
        workers.remove(0).cancel();
        workers.push(cluster.worker(&format!("w{}", hour + 2), Duration::ZERO));
        if hour % 3 == 0 {
            coordinators.remove(0).cancel();
            coordinators.push(cluster.coordinator(&format!("c{hour}")));
        }
    }
    cluster.complete(13).await;
    let counts = cluster.counts().await;
    assert_eq!(counts.values().sum::<i64>(), written, "{counts:?}");
    assert_eq!(counts.len(), 12);
    // Aborted tries may leave staged files that no marker names; everything else holds as ever.
    assert_eq!(cluster.ledger(false).await.kept, written as u64);
}
