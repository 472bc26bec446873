//! `get windows`: those that are complete, from the store, and those in flight, from the coordinator.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use windrow_protocol::window::{Calendar, Every};
use windrow_protocol::{JobName, Ledger, Revision, Timestamp, Window, WindowId};
use windrow_wire::v1::BatchState;
use windrow_wire::{convert, v1};

use super::{last_segment, said};
use crate::history::{self, Filter, Past};
use crate::output::{self, Output, OutputArgs};
use crate::place::StoreFrom;

mod batch;

pub use batch::BatchRow;

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
    pub batches: Vec<BatchRow>,
}

impl InFlight {
    /// Whether the window is asked for; one that has no times yet may be.
    fn is_in(&self, filter: &Filter) -> bool {
        self.start.zip(self.end).is_none_or(|(start, end)| filter.takes(start, end))
    }

    /// A batch that is parked, if one is.
    pub fn failed(&self) -> Option<&BatchRow> {
        self.batches.iter().find(|batch| batch.state == BatchState::Failed)
    }

    /// What the window as a whole is.
    pub fn state(&self) -> State {
        if self.failed().is_some() { State::Failed } else { State::Running }
    }
}

/// What a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Complete,
    Running,
    /// A batch of it is parked.
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }
}

/// What the coordinator says of windows in flight.
pub fn in_flight(windows: &[v1::Window]) -> Vec<InFlight> {
    let window = |window: &v1::Window| {
        let start = window.start_time.as_ref().map(convert::time);
        let end = window.end_time.as_ref().map(convert::time).or(start);
        // A name that is not known here is of a coordinator of another version.
        let id = last_segment(&window.name).parse().ok()?;
        let batches = window.batches.iter().map(BatchRow::in_flight).collect();
        Some(InFlight { window: id, start, end, revision: window.revision, batches })
    };
    windows.iter().filter_map(window).collect()
}

/// One window as it is shown.
struct Row {
    window: WindowId,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    state: State,
    revision: u32,
    windows: u64,
    rows: u64,
    files: u64,
    ledger: Ledger,
    note: String,
    batches: Vec<BatchRow>,
}

fn past(past: &Past) -> Row {
    let (complete, plan) = (&past.complete, &past.complete.plan);
    let partitions = past.partitions.iter().map(BatchRow::committed);
    let batches = partitions.chain([BatchRow::completed(complete)]).collect();
    let files = complete.files.len() + past.partitions.iter().map(|marker| marker.files.len()).sum::<usize>();
    Row {
        window: plan.window.id(),
        // A window of volume whose records were all lost has no times.
        start: Some(plan.window.start).filter(|start| *start > Timestamp::MIN),
        end: Some(plan.until).filter(|end| *end < Timestamp::MAX),
        state: State::Complete,
        revision: plan.revision.0,
        windows: plan.windows,
        rows: complete.rows,
        files: files as u64,
        ledger: complete.ledger,
        note: missing(past),
        batches,
    }
}

/// What is missing from a window's result, and why.
fn missing(past: &Past) -> String {
    let partitions = past.complete.inputs.iter().filter_map(|input| {
        let reason = input.skipped.as_ref()?;
        // What has come since is set aside, whether a result stands or not.
        let was_later = past.complete.plan.revision_of(input.partition) > Revision::default();
        let what = if was_later { "was given up, or a revision of it" } else { "was skipped" };
        Some(format!("partition {} {what}: {reason}", input.partition))
    });
    let last = past.complete.skipped.iter().map(|reason| format!("the reduce was skipped: {reason}"));
    let mut missing: Vec<String> = partitions.chain(last).collect();
    let Ledger { lost_offsets, undecodable, .. } = past.complete.ledger;
    if lost_offsets > 0 && missing.is_empty() {
        let lost = output::count(lost_offsets, "offset");
        missing.push(format!("{lost} lost to retention, which may have held readings of later windows, too"));
    }
    if undecodable > 0 {
        missing.push(format!("{} could not be decoded", output::count(undecodable, "record")));
    }
    missing.join("; ")
}

fn flying(window: &InFlight) -> Row {
    let is_done = |batch: &&BatchRow| batch.state == BatchState::Committed;
    let done = window.batches.iter().filter(is_done).count();
    let volume = window.batches.iter().filter(|batch| !is_done(batch)).find_map(|batch| batch.volume.as_ref());
    let note = match (window.failed(), volume) {
        (Some(failed), _) => format!("{}: {}", failed.name(), failed.error()),
        (None, Some(v1::Volume { amount, wanted, unit })) => format!("{amount} of {wanted} {unit} seen"),
        (None, None) => format!("{done} of {} committed", output::count(window.batches.len() as u64, "batch")),
    };
    Row {
        window: window.window,
        start: window.start,
        end: window.end,
        state: window.state(),
        revision: window.revision,
        windows: 1,
        rows: window.batches.iter().map(|batch| batch.rows).sum(),
        files: 0,
        ledger: window.batches.iter().filter_map(|batch| batch.ledger).fold(Ledger::default(), |sum, it| sum.plus(&it)),
        note,
        batches: window.batches.clone(),
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
    let at = |time: Option<Timestamp>| time.map(|time| local(Some(time), zone));
    json!({
        "window": row.window, "start": row.start, "end": row.end, "localStart": at(row.start), "localEnd": at(row.end),
        "shift": shift(row, shifts), "state": row.state.name(), "revision": row.revision, "windows": row.windows,
        "rows": row.rows, "files": row.files, "ledger": row.ledger, "note": row.note,
        "batches": row.batches.iter().map(BatchRow::value).collect::<Vec<_>>(),
    })
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
    let (state, revision) = (row.state.name().to_owned(), row.revision.to_string());
    let head = [row.window.to_string(), local(row.start, zone), local(row.end, zone), state, revision];
    let shift = shifts.map(|_| shift(row, shifts).unwrap_or("-").to_owned());
    head.into_iter().chain(shift).chain(counts).chain([note]).collect()
}

/// `windrow get windows`.
pub async fn get(args: GetArgs) -> Result<()> {
    let filter = Filter { limit: (!args.all).then_some(args.limit as usize), from: args.from, until: args.until };
    if let (Some(from), Some(until)) = (args.from, args.until) {
        ensure!(from < until, "--from {from} is not before --until {until}");
    }
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
        let note =
            again.map(|flying| format!("revision {} is {}: {}", flying.revision, flying.state.name(), flying.note));
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
        let of_time = if (filter.from, filter.until) == (None, None) { "yet" } else { "of that time" };
        tell!("no windows {of_time}; {}", args.store.server.command(&["describe", args.job.as_str()]));
    } else if rows.len() < all && !args.all {
        tell!("the newest {} of about {all} windows; --all shows all, --from and --until a time", rows.len());
    }
    let values = rows.iter().map(|row| row_value(row, &zone, shifts.as_ref())).collect();
    let names: Vec<String> = rows.iter().map(|row| row.window.to_string()).collect();
    let cells = rows.iter().map(|row| row_cells(row, &zone, shifts.as_ref())).collect();
    output::print(args.output.output, &Value::Array(values), &names, || output::table(&header(shifts.as_ref()), cells))
}
