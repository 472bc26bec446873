//! `get windows` (those that are complete, from the store, and those in flight, from the coordinator), `get partitions`,
//! `get workers`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use windrow_protocol::window::{Calendar, Every};
use windrow_protocol::{JobName, Ledger, Timestamp, Window, WindowId};
use windrow_wire::{convert, v1};

use super::{ServerArgs, last_segment, said, state_name};
use crate::history::{self, Filter, Past};
use crate::output::{self, Output, OutputArgs};
use crate::place::StoreFrom;

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The job.
    #[arg(long)]
    job: JobName,
    /// Show the newest so many.
    #[arg(long, default_value_t = 100, conflicts_with = "all", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show all.
    #[arg(long)]
    all: bool,
    /// Only windows that end after this time (RFC 3339).
    #[arg(long)]
    from: Option<Timestamp>,
    /// Only windows that start before this time (RFC 3339).
    #[arg(long)]
    until: Option<Timestamp>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    store: StoreFrom,
}

/// A window that is planned and not complete.
#[derive(Debug)]
pub struct InFlight {
    pub window: WindowId,
    /// None of a window of volume that has not been read.
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    /// Which result of the window is being made; of a window that is run again one stands.
    pub revision: u32,
    pub batches: Vec<Batch>,
}

#[derive(Debug)]
pub struct Batch {
    /// `partition 3`, or `finish`.
    pub part: String,
    partition: Option<i32>,
    state: String,
    offsets: Option<(i64, i64)>,
    worker: String,
    failures: u32,
    pub last_error: String,
    rows: u64,
    ledger: Option<v1::LedgerCounts>,
    volume: Option<v1::Volume>,
}

impl InFlight {
    /// Whether the window is asked for; one that has no times yet may be.
    fn is_in(&self, filter: &Filter) -> bool {
        self.start.zip(self.end).is_none_or(|(start, end)| filter.takes(start, end))
    }

    /// A batch that is parked, if one is.
    pub fn failed(&self) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.state == "failed")
    }
}

/// What the coordinator says of windows in flight.
pub fn in_flight(windows: &[v1::Window]) -> Vec<InFlight> {
    let batch = |batch: &v1::Batch| {
        let partition: Option<i32> = last_segment(&batch.name).parse().ok();
        Batch {
            part: partition.map_or_else(|| "finish".to_owned(), |partition| format!("partition {partition}")),
            partition,
            state: state_name(batch.state().as_str_name(), "BATCH_STATE_"),
            offsets: partition.map(|_| (batch.start_offset, batch.end_offset)),
            worker: batch.worker.clone(),
            failures: batch.failures,
            last_error: batch.last_error.clone(),
            rows: batch.rows,
            ledger: batch.ledger,
            volume: batch.volume.clone(),
        }
    };
    let window = |window: &v1::Window| {
        let start = window.start_time.as_ref().map(convert::time);
        let end = window.end_time.as_ref().map(convert::time).or(start);
        // A name that is not known here is of a coordinator of another version.
        let id = last_segment(&window.name).parse().ok()?;
        let batches = window.batches.iter().map(batch).collect();
        Some(InFlight { window: id, start, end, revision: window.revision, batches })
    };
    windows.iter().filter_map(window).collect()
}

/// One window as it is shown.
struct Row {
    window: WindowId,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    state: &'static str,
    revision: u32,
    windows: u64,
    rows: u64,
    files: u64,
    ledger: Ledger,
    note: String,
    batches: Vec<Value>,
}

fn past(past: &Past) -> Row {
    let (complete, plan) = (&past.complete, &past.complete.plan);
    let batch = |marker: &windrow_protocol::marker::Marker| {
        json!({"partition": marker.plan.partition, "step": "map", "state": "committed", "skipped": marker.skipped,
            "offsets": {"start": marker.plan.read.start, "end": marker.plan.read.end},
            "rows": marker.files.iter().map(|file| file.rows).sum::<u64>(), "ledger": marker.ledger,
            "files": marker.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "worker": null, "failures": null, "lastError": null})
    };
    let mut batches: Vec<Value> = past.partitions.iter().map(batch).collect();
    batches.push(json!({"partition": null, "step": "finish", "state": "committed",
        "skipped": complete.skipped, "offsets": null, "rows": complete.rows,
        "files": complete.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "worker": null, "failures": null, "lastError": null}));
    let files = complete.files.len() + past.partitions.iter().map(|marker| marker.files.len()).sum::<usize>();
    Row {
        window: plan.window.id(),
        // A window of volume whose records were all lost has no times.
        start: Some(plan.window.start).filter(|start| *start > Timestamp::MIN),
        end: Some(plan.until).filter(|end| *end < Timestamp::MAX),
        state: "complete",
        revision: plan.revision.0,
        windows: plan.windows,
        rows: complete.rows,
        files: files as u64,
        ledger: complete.ledger,
        note: skipped(past),
        batches,
    }
}

/// What was given up of a window, and why.
fn skipped(past: &Past) -> String {
    let partitions = past.complete.inputs.iter().filter_map(|input| {
        let reason = input.skipped.as_ref()?;
        Some(format!("partition {} was skipped: {reason}", input.partition))
    });
    let last = past.complete.skipped.iter().map(|reason| format!("the reduce was skipped: {reason}"));
    partitions.chain(last).collect::<Vec<_>>().join("; ")
}

fn volume(volume: &v1::Volume) -> Value {
    json!({"amount": volume.amount, "wanted": volume.wanted, "unit": volume.unit})
}

fn flying(window: &InFlight) -> Row {
    let ledger = |counts: &v1::LedgerCounts| Ledger {
        records: counts.records,
        undecodable: counts.undecodable,
        read: counts.read,
        on_time: counts.on_time,
        late: counts.late,
        skipped: counts.skipped,
        kept: counts.kept,
        quarantined: counts.quarantined,
        duplicate: counts.duplicate,
        lost_offsets: counts.lost_offsets,
        amended: counts.amended,
    };
    let batch = |batch: &Batch| {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({"partition": batch.partition, "step": if batch.partition.is_some() { "map" } else { "finish" },
            "state": batch.state, "offsets": batch.offsets.map(|(start, end)| json!({"start": start, "end": end})),
            "rows": batch.rows, "ledger": batch.ledger.as_ref().map(ledger), "worker": text(&batch.worker),
            "failures": batch.failures, "lastError": text(&batch.last_error), "volume": batch.volume.as_ref().map(volume)})
    };
    let done = window.batches.iter().filter(|batch| batch.state == "committed").count();
    let volume = window.batches.iter().find_map(|batch| batch.volume.as_ref().filter(|_| batch.state != "committed"));
    let note = match (window.failed(), volume) {
        (Some(failed), _) => format!("{}: {}", failed.part, output::brief(&failed.last_error)),
        (None, Some(v1::Volume { amount, wanted, unit })) => format!("{amount} of {wanted} {unit} seen"),
        (None, None) => format!("{done} of {} committed", output::count(window.batches.len() as u64, "batch")),
    };
    let zero = Ledger::default();
    Row {
        window: window.window,
        start: window.start,
        end: window.end,
        state: if window.failed().is_some() { "failed" } else { "running" },
        revision: window.revision,
        windows: 1,
        rows: window.batches.iter().map(|batch| batch.rows).sum(),
        files: 0,
        ledger: window.batches.iter().filter_map(|b| b.ledger.as_ref()).fold(zero, |sum, b| sum.plus(&ledger(b))),
        note,
        batches: window.batches.iter().map(batch).collect(),
    }
}

/// A moment as people in a zone write it, with its offset from UTC.
pub fn local(time: Option<Timestamp>, zone: &TimeZone) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let utc = jiff::Timestamp::from_microsecond(time.micros()).unwrap_or_default();
    utc.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The zone of a job's windows; UTC if the stored name is not known here.
pub fn zone(job: &v1::Job) -> TimeZone {
    let name = job.spec.as_ref().and_then(|spec| spec.window.as_ref()).map_or("", |window| window.time_zone.as_str());
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

fn row_value(row: &Row, zone: &TimeZone, shifts: Option<&Calendar>) -> Value {
    json!({"window": row.window, "start": row.start, "end": row.end, "localStart": row.start.map(|start| local(Some(start), zone)),
        "localEnd": row.end.map(|end| local(Some(end), zone)), "shift": shift(row, shifts), "state": row.state, "revision": row.revision, "windows": row.windows, "rows": row.rows,
        "files": row.files, "ledger": row.ledger, "batches": row.batches})
}

/// The columns of a table of windows; `SHIFT` only where windows are shifts.
fn header(shifts: Option<&Calendar>) -> Vec<&'static str> {
    let shift = shifts.map(|_| "SHIFT");
    let rest = ["ROWS", "KEPT", "LATE", "QUARANTINED", "NOTE"];
    ["WINDOW", "STARTS", "ENDS", "STATE", "REVISION"].into_iter().chain(shift).chain(rest).collect()
}

/// The calendar of a job whose windows are shifts.
fn shifts(job: &v1::Job) -> Option<Calendar> {
    let window = convert::job_file(job).ok()?.spec.window;
    if window.every == Every::Shift { window.calendar().ok() } else { None }
}

/// The name of the shift that a window is; none for time without a shift.
fn shift<'a>(row: &Row, shifts: Option<&'a Calendar>) -> Option<&'a str> {
    shifts?.shift_name(Window::new(row.start?, row.end?))
}

fn row_cells(row: &Row, zone: &TimeZone, shifts: Option<&Calendar>) -> Vec<String> {
    let run = |windows: u64| match row.revision {
        0 => format!("a run of {windows} windows without readings"),
        _ => format!("begins a run of {windows} windows, the others without readings"),
    };
    let note = if row.windows > 1 && row.note.is_empty() { run(row.windows) } else { row.note.clone() };
    let counts = [row.rows, row.ledger.kept, row.ledger.late, row.ledger.quarantined].map(|n| n.to_string());
    let (state, revision) = (row.state.to_owned(), row.revision.to_string());
    let head = [row.window.to_string(), local(row.start, zone), local(row.end, zone), state, revision];
    let shift = shifts.map(|_| shift(row, shifts).unwrap_or("-").to_owned());
    head.into_iter().chain(shift).chain(counts).chain([note]).collect()
}

/// `windrow get windows`.
pub async fn get(args: GetArgs) -> Result<()> {
    let filter = Filter { limit: (!args.all).then_some(args.limit as usize), from: args.from, until: args.until };
    let client = args.store.server.connect().await?;
    let job = client.job(args.job.as_str()).await.map_err(said)?;
    // The store is looked at second: what becomes complete in between is in both, and never in neither.
    let current = in_flight(&client.windows_in_flight(args.job.as_str()).await.map_err(said)?);
    let store = args.store.open(Some(&client)).await.context("the complete windows lie in the object store")?;
    let markers = matches!(args.output.output, Output::Json | Output::Yaml);
    let (complete, folders) = history::windows(&store, &args.job, &filter, markers).await?;
    let mut rows: BTreeMap<WindowId, Row> = BTreeMap::new();
    let current = current.iter().filter(|window| window.is_in(&filter)).map(flying);
    for row in current.chain(complete.iter().map(past)) {
        let again = rows.get(&row.window).filter(|flying| flying.revision > row.revision);
        // The result that stands is shown while the next one is made.
        let note = again.map(|flying| format!("revision {} is {}: {}", flying.revision, flying.state, flying.note));
        rows.insert(row.window, Row { note: note.unwrap_or_else(|| row.note.clone()), ..row });
    }
    let all = folders.max(rows.len());
    let skipped = filter.limit.map_or(0, |limit| rows.len().saturating_sub(limit));
    let mut rows: Vec<Row> = rows.into_values().collect();
    // Windows of time are in this order already; those of volume that have no end yet are the newest.
    rows.sort_by_key(|row| row.end.unwrap_or(Timestamp::MAX));
    rows.drain(..skipped);
    let (zone, shifts) = (zone(&job), shifts(&job));
    if rows.is_empty() {
        eprintln!("no windows yet; {}", args.store.server.command(&["describe", args.job.as_str()]));
    } else if rows.len() < all && !args.all {
        eprintln!("the newest {} of about {all} windows; --all shows all, --from and --until a time", rows.len());
    }
    let values = rows.iter().map(|row| row_value(row, &zone, shifts.as_ref())).collect();
    let names: Vec<String> = rows.iter().map(|row| row.window.to_string()).collect();
    let cells = rows.iter().map(|row| row_cells(row, &zone, shifts.as_ref())).collect();
    output::print(args.output.output, &Value::Array(values), &names, || output::table(&header(shifts.as_ref()), cells))
}

#[derive(Debug, clap::Args)]
pub struct PartitionsArgs {
    /// The job.
    #[arg(long)]
    job: JobName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub const PARTITIONS: [&str; 6] = ["PARTITION", "LOG START", "SEALED END", "HIGH WATERMARK", "LAG", "SEALED THROUGH"];

/// Records that no window owns yet.
fn lag(partition: &v1::Partition) -> Option<i64> {
    let from = partition.sealed_end_offset.or(partition.log_start_offset)?;
    Some((partition.high_watermark? - from).max(0))
}

pub fn partition_value(partition: &v1::Partition) -> Value {
    json!({"partition": last_segment(&partition.name).parse::<i32>().ok(), "logStart": partition.log_start_offset,
        "highWatermark": partition.high_watermark, "sealedEnd": partition.sealed_end_offset, "lag": lag(partition),
        "sealedThrough": partition.sealed_through_time.as_ref().map(convert::time)})
}

pub fn partition_cells(partition: &v1::Partition) -> Vec<String> {
    let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let through = partition.sealed_through_time.as_ref().map(convert::time);
    vec![
        last_segment(&partition.name).to_owned(),
        number(partition.log_start_offset),
        number(partition.sealed_end_offset),
        number(partition.high_watermark),
        number(lag(partition)),
        through.map_or_else(|| "-".to_owned(), |through| through.to_string()),
    ]
}

/// `windrow get partitions`.
pub async fn partitions(args: PartitionsArgs) -> Result<()> {
    let found = args.server.connect().await?.partitions(args.job.as_str()).await.map_err(said)?;
    if found.is_empty() {
        eprintln!("no partitions: the job's topic does not exist yet");
    }
    let names: Vec<String> = found.iter().map(|partition| last_segment(&partition.name).to_owned()).collect();
    let value = found.iter().map(partition_value).collect();
    let cells = found.iter().map(partition_cells).collect();
    output::print(args.output.output, &Value::Array(value), &names, || output::table(&PARTITIONS, cells))
}

#[derive(Debug, clap::Args)]
pub struct WorkersArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// `windrow get workers`.
pub async fn workers(args: WorkersArgs) -> Result<()> {
    let found = args.server.connect().await?.workers().await.map_err(said)?;
    if found.is_empty() {
        eprintln!("no workers are alive: batches wait until one is (windrow worker)");
    }
    let names: Vec<String> = found.iter().map(|worker| last_segment(&worker.name).to_owned()).collect();
    let state = |worker: &v1::Worker| if worker.draining { "draining" } else { "ready" };
    let value = |w: &v1::Worker| {
        json!({"name": last_segment(&w.name), "state": state(w), "slots": w.slots, "running": w.running,
            "version": w.version, "draining": w.draining})
    };
    let cells = |w: &v1::Worker| {
        let counts = [w.slots, w.running].map(|n| n.to_string());
        [last_segment(&w.name).to_owned(), state(w).to_owned()]
            .into_iter()
            .chain(counts)
            .chain([w.version.clone()])
            .collect()
    };
    let rows = found.iter().map(cells).collect();
    let header = ["NAME", "STATE", "SLOTS", "RUNNING", "VERSION"];
    output::print(args.output.output, &found.iter().map(value).collect(), &names, || output::table(&header, rows))
}
