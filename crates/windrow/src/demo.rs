//! `windrow demo`: the main job in small, by the same code that runs in a cluster.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow::util::pretty::pretty_format_batches;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use windrow_gateway::{Batch, Reading, Value};
use windrow_ports::MetaStore;
use windrow_ports::meta::{Compare, Op, Txn};
use windrow_processing::parquet;
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::state::{self, JobRecord, keys};
use windrow_protocol::{JobFile, Timestamp, WindowSpec};

use crate::cluster::Cluster;
use crate::output::command;
use crate::progress::Progress;
use crate::verify::Ends;
use crate::{job_file, verify};

const JOB: &str = include_str!("../../../deploy/examples/congestion.yaml");

/// Device, value, and rows of local time and value.
const SENSORS: [(&str, &str, &str); 2] = [
    ("detector-7578", "speed", include_str!("../data/speed_7578.csv")),
    ("detector-6005", "occupancy", include_str!("../data/occupancy_6005.csv")),
];

const ZONE: &str = "America/Chicago";

/// Readings of one request.
const REQUEST: usize = 250;

/// How long the windows may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo; fails if the proof does.
pub async fn run(data_dir: Option<PathBuf>) -> Result<()> {
    let folder = match data_dir {
        Some(folder) => std::path::absolute(folder)?.join(format!("demo-{}", uuid::Uuid::now_v7())),
        None => tempfile::Builder::new().prefix("windrow-demo-").tempdir()?.keep(),
    };
    let file: JobFile = job_file::built_in(JOB)?;
    let violations = job_file::check(&file).await;
    ensure!(violations.is_empty(), "the demo's job is wrong: {violations:?}");
    let cluster = Cluster::start(&folder, windrow_coordinator::JanitorSettings::default()).await?;
    create(&cluster, &file).await?;
    tell!("job {} runs over topic {}", file.metadata.name, file.spec.source.topic);
    let readings = readings()?;
    let (sent, last) = (readings.len() as u64, readings.last().map_or(0, |reading| reading.time_us));
    send(&cluster, &file, &readings).await?;
    wait(&cluster, &file, Timestamp::from_micros(last)).await?;
    let rows = print(&cluster, &file).await?;
    let report =
        verify::verify(&cluster.store, &Ends::Log(cluster.log.clone()), &file.metadata.name, verify::State::default())
            .await?;
    cluster.stop().await?;
    tell!("\n{rows} rows of the last day above");
    tell_what_is_where(&folder, &file);
    let counted = report.ledger.kept + report.ledger.late + report.ledger.quarantined;
    tell!(
        "\nverified: {} windows, {} batches, {} files; {sent} readings acknowledged, {counted} in the output ({} late, {} quarantined)",
        report.windows,
        report.batches,
        report.files,
        report.ledger.late,
        report.ledger.quarantined
    );
    if !report.findings.is_empty() || counted != sent {
        bail!("the proof failed:\n{}", report.findings.join("\n"));
    }
    tell!("every reading was counted exactly once");
    Ok(())
}

fn tell_what_is_where(folder: &Path, file: &JobFile) {
    let (root, job) = (folder.join("store"), &file.metadata.name);
    let data = root.join(paths::dataset(job, Dataset::Data));
    tell!("all days, as Parquet:  {}", data.display());
    tell!("commit markers:        {}", root.join(paths::commits(job)).display());
    let (name, folder) = (job.as_str(), folder.display().to_string());
    tell!("\ntry next:");
    for args in [
        &["verify", name, "--data-dir", &folder][..],
        &["cat", name, "--all", "--data-dir", &folder],
        &["cat", name, "-o", "csv", "--data-dir", &folder],
        &["dev", "--data-dir", &folder],
    ] {
        tell!("  {}", command(args));
    }
    tell!("  DuckDB: SELECT * FROM read_parquet('{}/**/*.parquet')", data.display());
}

/// Stores the job as the API would.
async fn create(cluster: &Cluster, file: &JobFile) -> Result<()> {
    let now = cluster.clock.now();
    let windrow_protocol::job::Metadata { name, labels } = file.metadata.clone();
    let record = JobRecord { labels, ..JobRecord::new(name, file.spec.clone(), now) };
    let key = keys::job(&record.name);
    let then = vec![
        Op::put(key.clone(), serde_json::to_vec(&record)?),
        Op::put(keys::spec(&record.name, &record.spec.hash()), serde_json::to_vec(&record.spec)?),
    ];
    let outcome = cluster.meta.txn(Txn { when: vec![Compare::Absent(key)], then }).await?;
    ensure!(outcome.applied, "job {} exists already", record.name);
    Ok(())
}

/// Both detectors' readings, by time.
fn readings() -> Result<Vec<Reading<'static>>> {
    let zone = TimeZone::get(ZONE)?;
    let mut readings = Vec::new();
    for (device, value, text) in SENSORS {
        for (seq, row) in (0..).zip(csv::Reader::from_reader(text.as_bytes()).records()) {
            let row = row?;
            let (time, number) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            let place = || format!("{device}, row {seq}: {time},{number}");
            let local = DateTime::strptime("%Y-%m-%d %H:%M:%S", time).with_context(place)?;
            let utc = local.to_zoned(zone.clone()).with_context(place)?.timestamp();
            let fields = vec![(value, Value::F64(number.parse().with_context(place)?))];
            readings.push(Reading { device, time_us: utc.as_microsecond(), seq: Some(seq), fields });
        }
    }
    readings.sort_by_key(|reading| reading.time_us);
    Ok(readings)
}

async fn send(cluster: &Cluster, file: &JobFile, readings: &[Reading<'_>]) -> Result<()> {
    let mut progress = Progress::new("sending", readings.len() as u64, "readings");
    for request in readings.chunks(REQUEST) {
        let mut batch = Batch::default();
        request.iter().for_each(|reading| batch.push(reading));
        let answer = cluster.gateway.publish(&file.spec.source.topic, batch).await?;
        ensure!(answer.refused == 0, "readings were refused: {:?}", answer.refusals);
        progress.inc(answer.accepted);
    }
    tell!("{} readings of two detectors sent through the gateway", readings.len());
    Ok(())
}

/// Waits until the window of the last reading is complete and nothing is in flight.
async fn wait(cluster: &Cluster, file: &JobFile, last: Timestamp) -> Result<()> {
    let name = &file.metadata.name;
    let end = WindowSpec::calendar(&file.spec.window)?.window_of(last).end;
    let mut spinner = Progress::spinner("running");
    let done = async {
        loop {
            let progress = cluster.meta.get(&keys::progress(name)).await?;
            let progress: Option<state::Progress> =
                progress.map(|item| serde_json::from_slice(&item.value)).transpose()?;
            let in_flight = cluster.meta.list(&keys::batches(name)).await?.items.len();
            let (windows, through) =
                progress.map_or((0, Timestamp::MIN), |p| (p.windows_complete, p.finish_planned_through));
            spinner.say(format!("{windows} windows complete, {in_flight} batches in flight"));
            if through >= end && in_flight == 0 {
                return Ok::<_, anyhow::Error>(());
            }
            cluster.clock.sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.context("the windows did not complete in time")??;
    Ok(())
}

/// Prints the result of the last window that has one; its rows.
async fn print(cluster: &Cluster, file: &JobFile) -> Result<usize> {
    let objects = cluster.store.list(&paths::dataset(&file.metadata.name, Dataset::Data)).await?;
    let last = objects.last().context("the job has no output")?;
    let local = tempfile::NamedTempFile::new()?;
    cluster.store.download(&last.path, local.path()).await?;
    let batches = parquet::read(local.path())?.collect::<Result<Vec<_>, _>>()?;
    writeln!(std::io::stdout(), "{}", pretty_format_batches(&batches)?)?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}
