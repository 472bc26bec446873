//! Worker paths: attempts over a backlog in Kafka, each repeat in a process of its own, from the first look at the log
//! to published files and a marker that stands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::log::Append;
use windrow_ports::{Clock, Log, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::state::{Assignment, Task};
use windrow_protocol::{JobName, JobSpec, PartitionId, Revision, TopicId, TopicName};
use windrow_storage::{S3Settings, Store};
use windrow_worker::{Tools, attempt};

use crate::measure::{median, memory_of, own_cpu};
use crate::{Options, fleet, variable};

/// A filled topic.
pub struct Backlog {
    pub topic: TopicName,
    pub topic_id: TopicId,
    /// Records of one partition.
    pub records: u64,
    pub json: bool,
    pub readings: u64,
}

impl Backlog {
    /// Blocks as a gateway writes them, or one JSON message per reading.
    pub async fn create(log: &dyn Log, readings: u64, json: bool) -> Result<Self> {
        let (topic, topic_id) = fleet::create_topic(log, fleet::PARTITIONS).await?;
        let of_partition = readings / u64::from(fleet::PARTITIONS.unsigned_abs());
        let records = if json { of_partition } else { of_partition / fleet::BLOCK };
        fleet::fill(log, &topic, records, |partition, n| {
            if json {
                let (timestamp, text) = fleet::message(partition, n);
                Append { key: None, payload: text.into(), timestamp }
            } else {
                let (timestamp, payload) = fleet::block(partition, n);
                Append { key: None, payload, timestamp }
            }
        })
        .await?;
        let readings = records * u64::from(fleet::PARTITIONS.unsigned_abs()) * if json { 1 } else { fleet::BLOCK };
        Ok(Self { topic, topic_id, records, json, readings })
    }
}

/// What a process is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    topic: TopicName,
    topic_id: TopicId,
    records: u64,
    spec: JobSpec,
    slots: usize,
    folder: PathBuf,
}

/// What it says when it is done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Report {
    pub read: u64,
    pub kept: u64,
    pub cpu_seconds: f64,
    pub seconds: f64,
    pub peak_bytes: u64,
}

/// The Kafka that the run was given.
pub async fn kafka() -> Result<Arc<dyn Log>> {
    Ok(Arc::new(KafkaLog::connect(KafkaSettings::new(variable("WINDROW_TEST_KAFKA")?)).await?))
}

/// Runs all partitions' batches, `slots` at once.
pub async fn obey(order: Order) -> Result<Report> {
    let log = kafka().await?;
    let store = Store::open(&format!("file://{}", order.folder.join("store").display()), &S3Settings::default())?;
    let scratch = order.folder.join("scratch");
    let engine = Engine::new(EngineSettings { memory_bytes: 256 << 20, scratch: scratch.clone() });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let tools = Tools { log, store, clock, engine, scratch };
    let (cpu, began) = (own_cpu()?, Instant::now());
    let batches = (0..fleet::PARTITIONS).map(|partition| {
        let (tools, assignment) = (tools.clone(), assignment(&order, partition));
        async move {
            tokio::spawn(async move { attempt::run(&tools, &assignment?).await.map_err(anyhow::Error::from) }).await?
        }
    });
    let summaries: Vec<_> = stream::iter(batches).buffer_unordered(order.slots).try_collect().await?;
    Ok(Report {
        read: summaries.iter().map(|summary| summary.ledger.read).sum(),
        kept: summaries.iter().map(|summary| summary.ledger.kept).sum(),
        cpu_seconds: (own_cpu()? - cpu).as_secs_f64(),
        seconds: began.elapsed().as_secs_f64(),
        peak_bytes: memory_of("self", "VmHWM")?,
    })
}

fn assignment(order: &Order, partition: i32) -> Result<Assignment> {
    let records = i64::try_from(order.records)?;
    let plan = fleet::plan(&order.topic, &order.topic_id, partition, records, &order.spec);
    let id = BatchId {
        job: JobName::new("bench")?,
        window: plan.window.id(),
        part: Part::Partition(PartitionId(partition)),
        revision: Revision(0),
    };
    Ok(Assignment { id, task: Task::Map(plan), spec: order.spec.clone(), skip: None, outcome: None })
}

/// Runs a map over a backlog once, in a fresh process.
pub async fn once(backlog: &Backlog, map: &str, slots: usize) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let order = Order {
        topic: backlog.topic.clone(),
        topic_id: backlog.topic_id.clone(),
        records: backlog.records,
        spec: fleet::spec(&backlog.topic, backlog.json, map)?,
        slots,
        folder: folder.path().to_owned(),
    };
    let file = folder.path().join("order.json");
    std::fs::write(&file, serde_json::to_vec(&order)?)?;
    let report = run_child(&file).await?;
    if report.read != backlog.readings || report.kept != backlog.readings {
        bail!("of {} readings {} were read and {} kept", backlog.readings, report.read, report.kept);
    }
    Ok(report)
}

async fn run_child(order: &Path) -> Result<Report> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    let output = command.arg("--obey").arg(order).stderr(std::process::Stdio::inherit()).output().await?;
    if !output.status.success() {
        bail!("the measured process ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the measured process said something else than its report")
}

/// Several repeats of one map.
pub struct Runs(Vec<Report>);

impl Runs {
    pub async fn of(backlog: &Backlog, map: &str, options: &Options) -> Result<Self> {
        let mut reports = Vec::new();
        for _ in 0..options.repeats {
            reports.push(once(backlog, map, options.slots).await?);
        }
        Ok(Self(reports))
    }

    /// CPU-seconds per reading, median.
    pub fn cost(&self) -> f64 {
        median(self.0.iter().map(|report| report.cpu_seconds / report.read as f64).collect())
    }

    /// Readings per second of wall clock, median.
    pub fn pace(&self) -> f64 {
        median(self.0.iter().map(|report| report.read as f64 / report.seconds).collect())
    }

    pub fn peak_bytes(&self) -> u64 {
        median(self.0.iter().map(|report| report.peak_bytes as f64).collect()) as u64
    }
}
