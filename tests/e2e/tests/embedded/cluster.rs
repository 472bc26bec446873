//! A whole cluster on the embedded parts, and what is looked at of it.

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
use windrow_protocol::cut::Cursor;
use windrow_protocol::marker::{Complete, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::Part;
use windrow_protocol::state::{JobRecord, Progress, Wish, keys};
use windrow_protocol::{
    JobName, JobSpec, Ledger, PartitionId, Revision, Timestamp, TopicName, WindowId, WorkerId, audit,
};
use windrow_storage::{S3Settings, Store};
use windrow_wire::block::{BlockBuilder, Reading, Value};
use windrow_worker::Tools;

pub const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE_US: i64 = 60_000_000;
/// 2015-09-01T00:00:00Z
const BASE_US: i64 = 1_441_065_600_000_000;

pub struct Cluster {
    pub db: Database,
    pub store: Store,
    pub folder: tempfile::TempDir,
    pub topic: TopicName,
    pub job: JobName,
}

/// Hourly sums over all partitions; `more`: further fields of the spec.
pub fn spec(more: &str) -> JobSpec {
    let spec = format!(
        r#"{{"source": {{"topic": "traffic", "values": {{"speed": "f64"}}}}, "window": {{"every": "1h"}},
            "lateness": "10m", "idleTimeout": "1s", {more}
            "map": "SELECT device, count(*) AS n, sum(speed) AS total FROM readings GROUP BY device",
            "reduce": "SELECT sum(n) AS n, sum(total) AS total FROM parts"}}"#
    );
    serde_json::from_str(&spec).unwrap()
}

impl Cluster {
    pub async fn new(partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
        let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
        let topic = TopicName::new("traffic").unwrap();
        let new = NewTopic { name: topic.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
        db.log().create_topic(&new).await.unwrap();
        Self { db, store, folder, topic, job: JobName::new("congestion").unwrap() }
    }

    pub fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock::default())
    }

    pub fn coordinator(&self, id: &str) -> CancellationToken {
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

    pub fn worker(&self, id: &str, grace: Duration) -> CancellationToken {
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

    pub async fn apply(&self, spec: JobSpec) {
        let record = JobRecord::new(self.job.clone(), spec.clone(), Timestamp::default());
        let then = vec![
            Op::put(keys::job(&self.job), serde_json::to_vec(&record).unwrap()),
            Op::put(keys::spec(&self.job, &spec.hash()), serde_json::to_vec(&spec).unwrap()),
        ];
        self.db.meta().txn(Txn { when: vec![], then }).await.unwrap();
    }

    /// Writes one block of ten readings of `device` into a partition; times in minutes after the base.
    pub async fn write(&self, partition: i32, device: &str, minute: i64, seq: u64) {
        self.write_block(partition, device, minute, seq * 10, 10).await;
    }

    /// Writes one block of so many readings, a second apart, numbered from `seq` on.
    pub async fn write_block(&self, partition: i32, device: &str, minute: i64, seq: u64, readings: u64) {
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

    /// Waits for what a look at progress, batches in flight and wishes shows.
    async fn until<T>(&self, what: &str, mut look: impl FnMut(Option<Progress>, usize, usize) -> Option<T>) -> T {
        let done = async {
            loop {
                let progress = self.db.meta().get(&keys::progress(&self.job)).await.unwrap();
                let progress = progress.map(|item| serde_json::from_slice::<Progress>(&item.value).unwrap());
                // Wishes first: what they become is then seen as batches.
                let wishes = self.db.meta().list(&keys::wishes(&self.job)).await.unwrap().items;
                let open = wishes.iter().map(|item| serde_json::from_slice::<Wish>(&item.value).unwrap());
                let open = open.filter(|wish| !wish.is_done()).count();
                let in_flight = self.db.meta().list(&keys::batches(&self.job)).await.unwrap().items.len();
                match look(progress, in_flight, open) {
                    Some(found) => return found,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("{what} in time"))
    }

    /// Waits until as many windows are complete and nothing is in flight, nor to be run again.
    pub async fn complete(&self, windows: u64) -> Progress {
        let done = |progress: Option<Progress>, in_flight, wishes| {
            progress.filter(|progress| progress.windows_complete >= windows && in_flight + wishes == 0)
        };
        self.until("the windows are complete", done).await
    }

    /// Waits until all that was written is owned, everything planned is complete, and nothing is to be run again.
    pub async fn settled(&self) {
        let partitions = self.db.log().topic(&self.topic).await.unwrap().partitions;
        let all: Vec<PartitionId> = (0..partitions).map(PartitionId).collect();
        let is_cut = async || {
            let bounds = self.db.log().bounds(&self.topic, &all).await.unwrap();
            let cursors = self.db.meta().list(&keys::cursors(&self.job)).await.unwrap().items;
            let cursors = cursors.iter().map(|item| serde_json::from_slice::<Cursor>(&item.value).unwrap());
            let cursors: Vec<Cursor> = cursors.collect();
            let ends: Vec<_> = bounds.into_iter().map(|bounds| bounds.unwrap().high_watermark).collect();
            let all_owned = cursors.iter().map(|cursor| cursor.end).collect::<Vec<_>>() == ends;
            all_owned.then(|| cursors.iter().map(|cursor| cursor.sealed_through).min().unwrap())
        };
        let done = async {
            while is_cut().await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("all that was written is owned in time");
        let through = is_cut().await.unwrap();
        let planned = |progress: Option<Progress>, in_flight, wishes| {
            progress.filter(|progress| progress.finish_planned_through >= through && in_flight + wishes == 0)
        };
        // Twice: what a window has met late becomes a wish when the window leaves.
        for _ in 0..2 {
            self.until("everything is complete", planned).await;
        }
    }

    /// All markers of partitions, by partition and window, revisions in order.
    pub async fn markers(&self) -> BTreeMap<(PartitionId, WindowId), Vec<Marker>> {
        let mut markers: BTreeMap<_, Vec<Marker>> = BTreeMap::new();
        for object in self.store.list(&paths::commits(&self.job)).await.unwrap() {
            let (_, window, part, _) = paths::parse_marker(&object.path).expect("only markers among the commits");
            if let Part::Partition(partition) = part {
                let marker = self.store.read_marker::<Marker>(&object.path).await.unwrap().unwrap();
                markers.entry((partition, window)).or_default().push(marker);
            }
        }
        markers.values_mut().for_each(|of| of.sort_by_key(|marker| marker.plan.revision));
        markers
    }

    /// The newest `_complete` markers, by window.
    pub async fn complete_windows(&self) -> BTreeMap<WindowId, Complete> {
        let mut complete: BTreeMap<WindowId, Complete> = BTreeMap::new();
        for object in self.store.list(&paths::commits(&self.job)).await.unwrap() {
            if let Some((_, window, Part::Finish, revision)) = paths::parse_marker(&object.path) {
                let marker = self.store.read_marker::<Complete>(&object.path).await.unwrap().unwrap();
                if complete.get(&window).is_none_or(|held| held.plan.revision < revision) {
                    complete.insert(window, marker);
                }
            }
        }
        complete
    }

    /// All markers, checked: ownership without gap or overlap, every ledger sound, every file there; the sum over the
    /// newest revisions, and how many late readings revisions have taken in.
    pub async fn ledger(&self, all_ended_well: bool) -> (Ledger, i64) {
        let (mut sum, mut taken_in) = (Ledger::default(), 0);
        let mut owned: BTreeMap<PartitionId, Vec<(i64, i64)>> = BTreeMap::new();
        let markers = self.markers().await;
        for ((partition, window), revisions) in &markers {
            let all: Vec<&Marker> = revisions.iter().collect();
            assert_eq!(audit::revisions(&all), Vec::<String>::new(), "{window} {partition}");
            for (i, marker) in revisions.iter().enumerate() {
                assert_eq!(audit::marker(marker), Vec::<String>::new(), "{window} {partition}");
                taken_in += audit::taken_in(i.checked_sub(1).map(|before| &revisions[before]), marker);
                if marker.plan.revision == Revision(0) {
                    let range = (marker.plan.owned.start.0, marker.plan.owned.end.0);
                    owned.entry(*partition).or_default().push(range);
                }
            }
            let newest = revisions.last().unwrap();
            assert_eq!(self.store.unpublished(newest).await.unwrap(), Vec::<String>::new());
            sum = sum.plus(&newest.ledger);
        }
        for (window, complete) in self.complete_windows().await {
            assert_eq!(self.store.unpublished(&complete).await.unwrap(), Vec::<String>::new());
            let parts = complete.plan.partitions.iter().map(|partition| {
                let revision = complete.plan.revision_of(*partition);
                markers[&(*partition, window)].iter().find(|marker| marker.plan.revision == revision).unwrap()
            });
            assert_eq!(audit::window(&complete, &parts.collect::<Vec<_>>()), Vec::<String>::new(), "{window}");
        }
        for (partition, mut ranges) in owned {
            ranges.sort_unstable();
            let touches = ranges.windows(2).all(|pair| pair[0].1 == pair[1].0);
            assert!(touches && ranges[0].0 == 0, "partition {partition}: {ranges:?}");
        }
        let staged = self.store.list(&paths::staging(&self.job)).await.unwrap();
        assert!(!all_ended_well || staged.is_empty(), "nothing is left staged: {staged:?}");
        (sum, taken_in)
    }

    /// Window starts with the counts in the result's files.
    pub async fn counts(&self) -> BTreeMap<String, i64> {
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
