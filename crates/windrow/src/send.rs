//! `windrow send`: files to the gateway.
//!
//! Each file is read twice: once to check every row and to fix formats and types, once to send. So by default either
//! every row can be read or nothing is sent. Never writes to the log itself, and never makes up a value.

mod cell;
mod columns;
mod input;
mod plan;
mod report;
mod rows;
mod stream;
mod time;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use prost::Message;
use tokio::sync::mpsc;
use windrow_protocol::{Timestamp, TopicName};

use self::cell::{Kind, Reader};
use self::columns::{Mapping, Wanted};
use self::input::{FileFormat, Input};
use self::plan::{Plan, Rules, Seq};
use self::report::{Output, Report};
use self::stream::{Chunk, Sender};
use self::time::{Clock, Format};

/// The most bytes of one request: a quarter of what gRPC takes without being told to take more.
const REQUEST_BYTES: usize = 1024 * 1024;
/// Chunks that are read ahead.
const READ_AHEAD: usize = 4;

/// Send files as readings: CSV, NDJSON or Parquet, merged by time.
///
/// Several files are merged because the second would be late after the first; one that is not in order of time is sorted.
///
/// All rows are checked before the first is sent. Ends with 0 only if the gateway accepted every row that was sent; rows
/// left out by --skip-bad are counted but are no failure. A request that fails is sent again: sequence numbers make the
/// repeat harmless. Sending the same file again adds nothing to windows that are not yet complete; for complete ones its
/// readings are late and go where the job's late policy says.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("device-from").required(true).args(["device", "device_column", "device_from_filename"])))]
pub struct SendArgs {
    /// CSV with a header, NDJSON or Parquet.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Topic to write to.
    #[arg(long)]
    topic: TopicName,
    /// Device of all rows.
    #[arg(long)]
    device: Option<String>,
    /// Column with the device.
    #[arg(long, value_name = "COLUMN")]
    device_column: Option<String>,
    /// The device is the file's name without its extension.
    #[arg(long)]
    device_from_filename: bool,
    /// Column with the event time; several, e.g. `Date,Time`, are joined with a space.
    #[arg(long, value_name = "COLUMNS", value_parser = list)]
    time_column: List,
    /// rfc3339 (or the same without an offset), unix, unix_ms, unix_us, or strptime, e.g. '%d/%m/%Y %H:%M'. Detected from
    /// the first row if absent.
    #[arg(long, value_name = "FORMAT")]
    time_format: Option<Format>,
    /// Time zone of times without an offset, e.g. Europe/Berlin; UTC if absent. Of a time that the clock shows twice the first is taken,
    /// one that it never shows moves on by the jump; both are counted.
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    time_zone: Option<TimeZone>,
    /// What unix times count from, e.g. the start of a recording whose times are seconds since then.
    #[arg(long, value_name = "TIME", default_value = "1970-01-01T00:00:00Z")]
    epoch: Timestamp,
    /// Columns to send as values, NAME=COLUMN to give one another name. All that are left if absent.
    #[arg(long, value_name = "COLUMNS", value_parser = list)]
    values: Option<List>,
    /// Columns to send as tags: texts that rarely change.
    #[arg(long, value_name = "COLUMNS", value_parser = list)]
    tags: Option<List>,
    /// Types of values, e.g. `speed=f64,code=string`; else the narrowest of i64, f64, bool, string that holds the whole column.
    #[arg(long, value_name = "NAME=TYPE", value_delimiter = ',', value_parser = typed)]
    types: Vec<(String, Kind)>,
    /// Texts that mean "no value", e.g. `-200` or `NA`, beside the empty cell and NaN.
    #[arg(long, value_name = "TEXTS", value_delimiter = ',', allow_hyphen_values = true)]
    missing: Vec<String>,
    /// Numbers have a decimal comma.
    #[arg(long)]
    decimal_comma: bool,
    /// What separates cells of CSV, one character or `tab`. Detected from the header if absent.
    #[arg(long, value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Format of the files; by their extension if absent.
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Column with the device's own sequence number.
    #[arg(long, value_name = "COLUMN", conflicts_with = "seq")]
    seq_column: Option<String>,
    /// Sequence numbers of files that have none. `row`: what the file is (name, columns, first row) and the row's number, so
    /// that the same file sent again is known by its rows, also after rows were appended. `time`: the event time; rows of a
    /// device with the same time count once. `none`: repeats count.
    #[arg(long, value_enum, default_value = "row")]
    seq: Seq,
    /// Leave out rows that can't be read instead of sending nothing.
    #[arg(long)]
    skip_bad: bool,
    /// Check everything and say what would be sent.
    #[arg(long)]
    dry_run: bool,
    /// Memory for sorting files that are not in order of time, in MiB.
    #[arg(long, default_value_t = 512)]
    sort_memory_mib: u64,
    /// Readings of one request.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Requests that wait for their answer at once. With 1 nothing after a failed request is in the log before it; with more,
    /// what is sent again may be late.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    in_flight: u16,
    /// How to print the summary.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// gRPC address of a gateway; without it WINDROW_SERVER, then http://127.0.0.1:7070, where `windrow dev` serves both APIs.
    #[arg(long, env = "WINDROW_GATEWAY")]
    server: Option<String>,
}

/// Names, as one option has them.
#[derive(Debug, Clone)]
struct List(Vec<String>);

fn list(text: &str) -> Result<List, String> {
    columns::names(text).map(List)
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "no such time zone; expected an IANA name, e.g. America/Chicago".to_owned())
}

fn typed(text: &str) -> Result<(String, Kind), String> {
    let (name, kind) = text.rsplit_once('=').ok_or("expected NAME=TYPE")?;
    clap::ValueEnum::from_str(kind, true)
        .map(|kind| (name.to_owned(), kind))
        .map_err(|_| format!("{kind:?} is none of the types f64, i64, bool, string"))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        _ if text == "tab" || text == "\\t" => Ok(b'\t'),
        _ => Err("expected one character, or tab".to_owned()),
    }
}

impl SendArgs {
    fn server(&self) -> String {
        let fallback = || std::env::var("WINDROW_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
        self.server.clone().unwrap_or_else(fallback)
    }

    fn wanted(&self) -> Wanted {
        let names = |list: &Option<List>| list.clone().map(|list| list.0).unwrap_or_default();
        Wanted {
            time: self.time_column.0.clone(),
            device: self.device_column.clone(),
            seq: self.seq_column.clone(),
            values: names(&self.values),
            tags: names(&self.tags),
            types: self.types.clone(),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            device: self.device.clone(),
            seq: self.seq,
            time_format: self.time_format.clone(),
            clock: Clock { zone: self.time_zone.clone().unwrap_or(TimeZone::UTC), epoch_us: self.epoch.micros() },
            zone_is_given: self.time_zone.is_some(),
            reader: Reader { decimal_comma: self.decimal_comma, missing: self.missing.clone() },
            skip_bad: self.skip_bad,
        }
    }

    /// The first pass. Blocks.
    fn plan(&self, report: &mut Report) -> Result<Plan> {
        let inputs: Vec<Input> =
            self.files.iter().map(|path| Input::open(path, self.format, self.delimiter)).collect::<Result<_>>()?;
        let named: Vec<(String, Vec<String>)> =
            inputs.iter().map(|input| Ok((input.name.clone(), input.columns()?))).collect::<Result<_>>()?;
        let mapping = Mapping::new(&self.wanted(), &named)?;
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("checking {pos} rows")?);
        let plan = plan::scan(self.rules(), mapping, inputs, report, || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(plan)
    }
}

/// `windrow send`.
pub async fn run(args: SendArgs) -> Result<()> {
    let server = args.server();
    if !args.dry_run {
        stream::reach(&server).await?;
    }
    let args = Arc::new(args);
    let report = Report::new(args.topic.as_str());
    let (planning, mut planned) = (args.clone(), report.clone());
    let plan = tokio::task::spawn_blocking(move || planning.plan(&mut planned).map(|plan| (plan, planned)));
    let (plan, mut report) = plan.await??;
    let result = send(&args, &server, Arc::new(plan), &mut report).await;
    report.explain();
    report.print(args.output)?;
    result
}

/// The second pass.
async fn send(args: &Arc<SendArgs>, server: &str, plan: Arc<Plan>, report: &mut Report) -> Result<()> {
    if report.bad > 0 && !args.skip_bad {
        bail!("nothing was sent: {} of {} rows can't be read; --skip-bad leaves them out", report.bad, report.rows);
    }
    ensure!(plan.rows > 0, "nothing was sent: there are no rows that can be read");
    let bar =
        ProgressBar::new(plan.rows).with_style(ProgressStyle::with_template("sending  {bar:40} {pos}/{len} readings")?);
    let files = plan.files.iter().map(|file| file.input.name.clone()).collect();
    let (to, mut chunks) = mpsc::channel(READ_AHEAD);
    let (reading, own) = (plan.clone(), args.clone());
    let reader = tokio::task::spawn_blocking(move || read(&reading, &own, &to));
    if args.dry_run {
        // The same pass, so that what it counts is counted and what it can't do is found.
        while let Some(chunk) = chunks.recv().await {
            chunk?;
        }
        report.duplicate_times = reader.await?;
        return Ok(());
    }
    let mut sender = Sender::new(server, args.topic.as_str(), args.in_flight.into(), files, report, bar.clone())?;
    let sent = sender.run(&mut chunks).await;
    bar.finish_and_clear();
    drop(chunks);
    report.duplicate_times = reader.await?;
    sent.with_context(|| format!("{} of {} rows were sent and accepted", report.accepted, plan.rows))?;
    ensure!(
        report.sent == plan.rows,
        "{} of {} rows were sent: a file has changed since it was checked; send it again",
        report.sent,
        plan.rows
    );
    ensure!(report.refused == 0, "the gateway refused {} of {} rows", report.refused, report.sent);
    Ok(())
}

/// Reads all rows and hands them on in chunks; how many have the device and time of another before them. Blocks.
fn read(plan: &Plan, args: &SendArgs, to: &mpsc::Sender<Result<Chunk>>) -> u64 {
    let (mut chunk, mut bytes, mut duplicates) = (Chunk::default(), 0, 0);
    let (mut now_us, mut devices) = (i64::MIN, HashSet::new());
    let rows = match plan.rows(args.sort_memory_mib.saturating_mul(1 << 20)) {
        Ok(rows) => rows,
        Err(error) => {
            // Whoever receives has gone: so has the interest in the error.
            let _ = to.blocking_send(Err(error));
            return 0;
        }
    };
    for row in rows {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let _ = to.blocking_send(Err(error));
                return duplicates;
            }
        };
        if row.time_us != now_us {
            now_us = row.time_us;
            devices.clear();
        }
        duplicates += u64::from(!devices.insert(row.device.clone()));
        let origin = (row.file, row.row);
        let reading = plan.reading(row);
        let size = reading.encoded_len();
        if !chunk.readings.is_empty() && (bytes + size > REQUEST_BYTES || chunk.readings.len() >= args.batch as usize) {
            if to.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
                return duplicates;
            }
            bytes = 0;
        }
        bytes += size;
        chunk.readings.push(reading);
        chunk.origins.push(origin);
    }
    if !chunk.readings.is_empty() {
        let _ = to.blocking_send(Ok(chunk));
    }
    duplicates
}
