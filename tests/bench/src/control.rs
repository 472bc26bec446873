//! Control paths: planning many partitions, and batches without work, through a real etcd. Log and store are local, so
//! that what is measured is the coordinator, etcd and the worker's protocol.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use windrow_coordinator::Parts;
use windrow_embedded::Database;
use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::log::Append;
use windrow_ports::meta::{Event, Op, Txn};
use windrow_ports::{Clock, Log, MetaStore, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::state::{JobRecord, Progress, keys};
use windrow_protocol::{JobName, JobSpec, PartitionId, Timestamp, TopicName, WorkerId, paths};
use windrow_storage::{S3Settings, Store};
use windrow_wire::block::BlockBuilder;
use windrow_worker::Tools;

use crate::fleet::{self, START_US};
use crate::measure::median;
use crate::table::Line;
use crate::{Options, Path, variable};

const MINUTE_US: i64 = 60_000_000;
/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Batches that the worker runs at once; so many that they are not what limits.
const SLOTS: u32 = 64;
/// Partitions over which empty batches are spread.
const SPREAD: i32 = 50;

/// A log, a metadata store and a coordinator that leads.
struct Control {
    folder: tempfile::TempDir,
    db: Database,
    meta: Arc<EtcdStore>,
    clock: Arc<dyn Clock>,
    store: Store,
    stop: CancellationToken,
    job: JobName,
    topic: TopicName,
}

impl Control {
    /// A topic whose partitions hold one block without readings in each of so many minutes.
    async fn start(partitions: i32, minutes: i64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let db = Database::open(&folder.path().join("log.redb"))?;
        let (topic, _) = fleet::create_topic(db.log().as_ref(), partitions).await?;
        for minute in 0..minutes {
            let log = db.log();
            let timestamp = Timestamp::from_micros(START_US + minute * MINUTE_US + MINUTE_US / 2);
            let appends = (0..partitions).map(|partition| {
                let (log, topic) = (log.clone(), topic.clone());
                let record = Append { key: None, payload: BlockBuilder::default().finish(), timestamp };
                async move { log.append(&topic, PartitionId(partition), vec![record]).await.map(drop) }
            });
            stream::iter(appends).buffer_unordered(1_024).try_collect::<()>().await?;
        }
        let mut settings = EtcdSettings::new(vec![variable("WINDROW_TEST_ETCD")?]);
        settings.prefix = format!("/bench-{}", uuid::Uuid::new_v4().simple());
        let meta = Arc::new(EtcdStore::connect(&settings).await?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let stop = CancellationToken::new();
        let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default())?;
        let parts = Parts { log: db.log(), meta: meta.clone(), clock: clock.clone(), store: store.clone() };
        tokio::spawn(windrow_coordinator::run(parts, windrow_coordinator::Settings::default(), stop.clone()));
        let control = Self { folder, db, meta, clock, store, stop, job: JobName::new("bench")?, topic };
        control.until("a leader", async |meta| Ok(meta.get(keys::LEADER).await?.is_some())).await?;
        Ok(control)
    }

    async fn until(&self, what: &str, holds: impl AsyncFn(&EtcdStore) -> Result<bool>) -> Result<()> {
        let wait = async {
            while !holds(&self.meta).await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("no {what} in {PATIENCE:?}"))?
    }

    async fn apply(&self) -> Result<()> {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "source": {"topic": self.topic.as_str()}, "window": {"every": "1m"}, "lateness": "1m",
            "map": "SELECT device, count(*) AS n FROM readings GROUP BY device"
        }))?;
        let record = JobRecord::new(self.job.clone(), spec.clone(), Timestamp::default());
        let then = vec![
            Op::put(keys::job(&self.job), serde_json::to_vec(&record)?),
            Op::put(keys::spec(&self.job, &spec.hash()), serde_json::to_vec(&spec)?),
        ];
        Ok(self.meta.txn(Txn { when: vec![], then }).await.map(drop)?)
    }

    async fn end(self) -> Result<()> {
        self.stop.cancel();
        let then = vec![Op::DeletePrefix { prefix: String::new() }];
        Ok(self.meta.txn(Txn { when: vec![], then }).await.map(drop)?)
    }
}

/// One window over many partitions: from the job's creation to the last batch's plan.
pub async fn planning(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Planning) {
        return Ok(None);
    }
    let mut times = Vec::new();
    for _ in 0..options.repeats {
        let control = Control::start(options.partitions, 3).await?;
        let prefix = keys::batches(&control.job);
        let from = control.meta.list(&prefix).await?.revision + 1;
        let mut changes = control.meta.watch(&prefix, from);
        let began = Instant::now();
        control.apply().await?;
        let mut planned = BTreeSet::new();
        let all = async {
            while planned.len() < usize::try_from(options.partitions)? {
                let change = changes.next().await.context("the watch ended")??;
                planned.extend(change.events.into_iter().filter_map(|event| match event {
                    Event::Put(item) => Some(item.key),
                    Event::Delete { .. } => None,
                }));
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, all).await.context("planning takes too long")??;
        times.push(began.elapsed().as_secs_f64());
        control.end().await?;
    }
    Ok(Some(Line {
        path: "planning",
        what: format!(
            "one window over {} partitions of a new job: cursors and plans into etcd (look-ups in the embedded log)",
            options.partitions
        ),
        measured: format!("{:.2} s", median(times)),
        floor_and_goal: "2 -> 0.5 s",
        roofline: String::new(),
    }))
}

/// Batches without readings, from the job's creation to the last window's `_complete` marker.
pub async fn batches(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Batches) {
        return Ok(None);
    }
    let (mut rates, mut count) = (Vec::new(), 0);
    for _ in 0..options.repeats {
        // The last two minutes only show that those before are over.
        let windows = (options.batches / u64::from(SPREAD.unsigned_abs())).max(1);
        let control = Control::start(SPREAD, i64::try_from(windows)? + 2).await?;
        tokio::spawn(worker(&control)?);
        let began = Instant::now();
        control.apply().await?;
        control
            .until("end of the windows", async |meta| {
                let progress = meta.get(&keys::progress(&control.job)).await?;
                let progress = progress.map(|item| serde_json::from_slice::<Progress>(&item.value)).transpose()?;
                Ok(progress.is_some_and(|progress| progress.windows_complete >= windows))
            })
            .await?;
        let seconds = began.elapsed().as_secs_f64();
        count = control.store.list(&paths::commits(&control.job)).await?.len();
        rates.push(count as f64 / seconds);
        control.end().await?;
    }
    Ok(Some(Line {
        path: "batches",
        what: format!(
            "{count} batches without readings planned, assigned, committed; real etcd, local store, {SLOTS} slots"
        ),
        measured: format!("{:.0} /s", median(rates)),
        floor_and_goal: "500 -> 5,000 /s",
        roofline: String::new(),
    }))
}

fn worker(control: &Control) -> Result<impl Future<Output = Result<(), windrow_worker::WorkerError>> + use<>> {
    let scratch = control.folder.path().join("scratch");
    let engine = Engine::new(EngineSettings { memory_bytes: 256 << 20, scratch: scratch.clone() });
    let log: Arc<dyn Log> = control.db.log();
    let tools = Tools::new(log, control.store.clone(), control.clock.clone(), engine, scratch);
    let settings = windrow_worker::Settings {
        id: WorkerId::new("bench")?,
        slots: SLOTS,
        lease_ttl: Duration::from_secs(10),
        grace: Duration::ZERO,
    };
    Ok(windrow_worker::run(tools, control.meta.clone(), settings, control.stop.clone()))
}
