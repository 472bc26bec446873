//! `windrow cat`: prints committed output. Reads what markers name, never what merely lies in a folder.

mod columns;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use serde_json::Value;
use windrow_processing::parquet;
use windrow_protocol::marker::FileEntry;
use windrow_protocol::paths::Dataset;
use windrow_protocol::{JobName, Revision, WindowId};
use windrow_storage::Store;

use crate::client::said;
use crate::history::{self, Filter, Past};
use crate::output;
use crate::place::{self, StoreFrom};

/// Windows that are looked at for the newest one with rows.
const LOOK_BACK: usize = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    job: JobName,
    /// The window that starts then, e.g. `20150901T050000Z` or `2015-09-01T05:00:00Z`; or a window of volume, e.g. `p3-o1234`.
    #[arg(long, conflicts_with_all = ["last", "all"])]
    window: Option<WindowId>,
    /// With --window: this revision of its data; the newest if absent. 0 is the first result.
    #[arg(long, requires = "window")]
    revision: Option<u32>,
    /// The newest complete window; of the data, the newest that has rows (the default).
    #[arg(long, conflicts_with = "all")]
    last: bool,
    /// All complete windows, oldest first, with a column `window`.
    #[arg(long)]
    all: bool,
    /// What of the window.
    #[arg(long, value_enum, default_value_t = What::Data)]
    dataset: What,
    /// Print at most so many rows; 1000 by default as table and YAML, all as JSON and CSV.
    #[arg(long)]
    limit: Option<usize>,
    /// How to print rows; `name` prints the files that hold them.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// Folder of a `windrow dev` or `windrow demo`, running or not, instead of a server.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreFrom,
}

/// A dataset of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// The result.
    Data,
    /// Map outputs behind a reduce.
    Parts,
    /// Readings that came after their window was sealed.
    Late,
    /// What could not be used, with the reason.
    Quarantine,
}

impl What {
    fn dataset(self) -> Dataset {
        match self {
            Self::Data => Dataset::Data,
            Self::Parts => Dataset::Parts,
            Self::Late => Dataset::Late,
            Self::Quarantine => Dataset::Quarantine,
        }
    }
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// One array of objects.
    Json,
    /// A list of objects.
    Yaml,
    /// With a header.
    Csv,
    /// The files' addresses.
    Name,
}

/// Rows are printed as they are read, but for the table, whose columns need to know their widths.
const MOST_ROWS: usize = 1_000;

pub async fn run(args: Args) -> Result<()> {
    let store = match &args.data_dir {
        Some(folder) => place::store_in(folder)?,
        None => args.store.open(None).await?,
    };
    let windows = windows(&store, &args).await?;
    if windows.is_empty() && args.data_dir.is_none() {
        expect_job(&args).await?;
    }
    let files = windows.iter().flat_map(|past| files(past).map(move |file| (past.complete.plan.window.id(), file)));
    let dataset = args.dataset.dataset();
    let files: Vec<(WindowId, FileEntry)> = files.filter(|(_, file)| holds(&args.job, dataset, file)).collect();
    if windows.is_empty() && args.window.is_none() {
        tell!("job {} has no complete window (yet); `windrow describe {}` says how far it is", args.job, args.job);
    } else if files.is_empty() && !windows.is_empty() {
        let (folder, looked) = (args.dataset.dataset().folder(), output::count(windows.len() as u64, "window"));
        let others = if args.all { "" } else { "; --all looks into all windows" };
        tell!("no rows in `{folder}` of {looked}{others}");
    }
    if args.dataset == What::Data {
        note_quarantine(&windows);
        note_absent(&windows);
    }
    if args.output == Form::Name {
        let mut out = std::io::stdout().lock();
        return Ok(files.iter().try_for_each(|(_, file)| writeln!(out, "{}/{}", store.url(), file.path))?);
    }
    print(&store, &args, files).await
}

/// No output is no news of a job; but one that nobody knows is a mistake.
async fn expect_job(args: &Args) -> Result<()> {
    // The store may have been given without a coordinator.
    let Ok(client) = args.store.server.connect().await else { return Ok(()) };
    client.job(args.job.as_str()).await.map(drop).map_err(said)
}

/// Tells of readings that are missing from a result because they could not be used.
fn note_quarantine(windows: &[Past]) {
    let ledgers = windows.iter().map(|past| &past.complete.ledger);
    let count: u64 = ledgers.map(|ledger| ledger.quarantined + ledger.undecodable).sum();
    if count > 0 {
        let reasons = windows.iter().flat_map(|past| &past.partitions).flat_map(|marker| &marker.quarantine_reasons);
        let first = reasons.take(1).map(|reason| format!(", the first of them since {reason}")).collect::<String>();
        tell!("{} could not be used{first}; --dataset quarantine shows them", output::count(count, "reading"));
    }
}

/// Tells of declared columns that no reading had: mostly a name is misspelt, and the result full of NULL.
fn note_absent(windows: &[Past]) {
    let mut markers = windows.iter().flat_map(|past| &past.partitions).filter(|marker| marker.ledger.kept > 0);
    let mut absent = markers.next().map(|marker| marker.absent.clone()).unwrap_or_default();
    markers.for_each(|marker| absent.retain(|name| marker.absent.contains(name)));
    if !absent.is_empty() {
        tell!(
            "no reading has {}, which spec.source of the job declares: is it spelt as in the readings?",
            absent.join(", ")
        );
    }
}

/// The windows that were asked for.
async fn windows(store: &Store, args: &Args) -> Result<Vec<Past>> {
    let job = &args.job;
    if let (Some(window), Some(number)) = (args.window, args.revision) {
        let past = history::revision(store, job, window, Revision(number)).await?;
        return Ok(vec![past.with_context(|| format!("window {window} of job {job} has no revision {number}"))?]);
    }
    if let Some(window) = args.window {
        history::expect_kept(store, job, window).await?;
        if let Some(past) = history::window(store, job, window, true).await? {
            return Ok(vec![past]);
        }
        let around = match window.time() {
            Some(start) => {
                let filter = Filter { limit: None, from: Some(start), until: Some(start.plus_micros(1)) };
                let around = history::windows(store, job, &filter, false).await?.0;
                // Within a run of empty windows some may have been amended.
                around.into_iter().max_by_key(|past| past.complete.plan.window.start)
            }
            None => None,
        };
        let around = around.map(|past| past.complete.plan).filter(|plan| plan.window.volume.is_none());
        let Some(around) = around else {
            bail!("window {window} of job {job} is not complete in {}", store.url());
        };
        ensure!(
            around.windows > 1,
            "no window of job {job} begins at {}: it is in window {}",
            window.time().unwrap_or_default(),
            around.window.id()
        );
        let run = output::count(around.windows, "window");
        tell!("window {window} has no readings: it is in a run of {run}, {} to {}", around.window.start, around.until);
        return Ok(Vec::new());
    }
    if args.all {
        return Ok(history::windows(store, job, &Filter::default(), true).await?.0);
    }
    let mut limit = 1;
    loop {
        // Mostly the newest window has rows; a long quiet time costs a look at more.
        let filter = Filter { limit: Some(limit), ..Filter::default() };
        let (found, folders) = history::windows(store, job, &filter, false).await?;
        if let Some(last) = found.iter().rev().find(|past| args.dataset != What::Data || past.complete.rows > 0) {
            let id = last.complete.plan.window.id();
            return Ok(history::window(store, job, id, true).await?.into_iter().collect());
        }
        if folders == 0 {
            bail!(
                "job {job} has no complete window in {} (yet); `windrow get jobs` lists what jobs there are",
                store.url()
            );
        }
        if limit >= folders.min(LOOK_BACK) {
            return Ok(found.into_iter().next_back().into_iter().collect());
        }
        limit *= 10;
    }
}

/// Whether a file has rows of a dataset: where readers find it, or, of the result, where a later revision has kept it.
pub fn holds(job: &JobName, dataset: Dataset, file: &FileEntry) -> bool {
    file.rows > 0 && (file.is_in(job, dataset) || (dataset == Dataset::Data && file.is_kept(job)))
}

fn files(past: &Past) -> impl Iterator<Item = FileEntry> {
    past.partitions.iter().flat_map(|marker| &marker.files).chain(&past.complete.files).cloned()
}

/// Where rows go.
enum Sink {
    Table(Vec<RecordBatch>),
    Yaml(Vec<RecordBatch>),
    Json(Box<arrow::json::ArrayWriter<std::io::Stdout>>),
    Csv(Box<arrow::csv::Writer<std::io::Stdout>>),
}

impl Sink {
    fn new(form: Form) -> Self {
        let explicit = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
        match form {
            Form::Json => Self::Json(Box::new(explicit.build::<_, arrow::json::writer::JsonArray>(std::io::stdout()))),
            Form::Csv => Self::Csv(Box::new(arrow::csv::Writer::new(std::io::stdout()))),
            Form::Yaml => Self::Yaml(vec![]),
            Form::Table | Form::Name => Self::Table(vec![]),
        }
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        match self {
            Self::Table(batches) | Self::Yaml(batches) => batches.push(batch),
            Self::Json(writer) => writer.write(&batch)?,
            Self::Csv(writer) => writer.write(&batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let mut out = std::io::stdout();
        match self {
            Self::Table(batches) if batches.is_empty() => {}
            Self::Table(batches) => {
                let all = columns::union(batches.iter().map(RecordBatch::schema));
                let batches: Vec<_> = batches.iter().map(|batch| columns::fit(batch, &all)).collect::<Result<_>>()?;
                // What can't be printed is an error, not a cell.
                let options = FormatOptions::new().with_display_error(false);
                writeln!(out, "{}", pretty_format_batches_with_options(&batches, &options)?)?;
            }
            Self::Yaml(batches) => {
                let mut writer = arrow::json::WriterBuilder::new()
                    .with_explicit_nulls(true)
                    .build::<_, arrow::json::writer::JsonArray>(Vec::new());
                batches.iter().try_for_each(|batch| writer.write(batch))?;
                writer.finish()?;
                let rows: Value = serde_json::from_slice(&writer.into_inner())?;
                write!(out, "{}", output::yaml(&rows)?)?;
            }
            Self::Json(mut writer) => {
                writer.finish()?;
                writeln!(out)?;
            }
            Self::Csv(_) => {}
        }
        Ok(out.flush()?)
    }
}

/// With the payloads of quarantine as text, where they are: a reading's values, or a message as it came.
fn readable(batch: RecordBatch) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let as_text = |field: &FieldRef, column: &ArrayRef| {
        let text =
            matches!(field.data_type(), DataType::Binary).then(|| cast_with_options(column, &DataType::Utf8, &strict));
        match text {
            Some(Ok(text)) => (Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)), text),
            _ => (field.clone(), column.clone()),
        }
    };
    let schema = batch.schema();
    let (fields, columns): (Vec<_>, Vec<_>) =
        schema.fields().iter().zip(batch.columns()).map(|(f, c)| as_text(f, c)).unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

async fn print(store: &Store, args: &Args, files: Vec<(WindowId, FileEntry)>) -> Result<()> {
    let bounded = matches!(args.output, Form::Table | Form::Yaml).then_some(MOST_ROWS);
    let mut left = args.limit.or(bounded).unwrap_or(usize::MAX);
    let all: u64 = files.iter().map(|(_, file)| file.rows).sum();
    let mut sink = Sink::new(args.output);
    let local = tempfile::NamedTempFile::new()?;
    let named = |batch: RecordBatch, window| {
        let batch = readable(batch)?;
        if args.all { with_window(&batch, window) } else { Ok(batch) }
    };
    // A header comes before the first row, and has to be that of all: so each file is looked into before, and one alone, too,
    // since of bytes it depends on all rows whether they are text.
    let mut header = None;
    let mut fetched = None;
    if args.output == Form::Csv {
        let mut schemas = Vec::new();
        for (window, file) in &files {
            store.fetch(file, local.path()).await?;
            fetched = Some(file.path.clone());
            schemas.extend(schemas_of(local.path(), |batch| named(batch, *window))?);
        }
        header = Some(columns::union(schemas));
    }
    for (window, file) in files {
        if left == 0 {
            break;
        }
        if fetched.as_ref() != Some(&file.path) {
            store.fetch(&file, local.path()).await?;
            fetched = Some(file.path);
        }
        for batch in parquet::read(local.path())? {
            let batch = batch?;
            let batch = named(batch.slice(0, batch.num_rows().min(left)), window)?;
            left -= batch.num_rows();
            sink.write(header.as_ref().map_or(Ok(batch.clone()), |header| columns::fit(&batch, header))?)?;
            if left == 0 {
                break;
            }
        }
    }
    sink.finish()?;
    let limit = args.limit.or(bounded).unwrap_or(usize::MAX) as u64;
    if all > limit {
        tell!("the first {limit} of {all} rows; --limit N shows more");
    }
    Ok(())
}

/// The schemas of a file's batches, as they are shown. Of bytes it depends on the rows of a batch whether they are text.
fn schemas_of(path: &Path, shown: impl Fn(RecordBatch) -> Result<RecordBatch>) -> Result<Vec<SchemaRef>> {
    let mut schemas = Vec::new();
    for batch in parquet::read(path)? {
        let batch = batch?;
        let has_bytes = batch.schema().fields().iter().any(|field| *field.data_type() == DataType::Binary);
        schemas.push(shown(batch)?.schema());
        if !has_bytes {
            break;
        }
    }
    Ok(schemas)
}

/// The batch with its window as first column.
fn with_window(batch: &RecordBatch, window: WindowId) -> Result<RecordBatch> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![window.to_string(); batch.num_rows()]));
    let field = Arc::new(Field::new("window", DataType::Utf8, false));
    let fields: Vec<_> = std::iter::once(field).chain(batch.schema().fields().iter().cloned()).collect();
    let columns = std::iter::once(column).chain(batch.columns().iter().cloned()).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::BinaryArray;

    use super::*;

    /// Its first batch is all text.
    #[test]
    fn a_payload_far_down_in_a_file_that_is_no_text_makes_the_column_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let payloads = (0..9_000).map(|row| if row == 8_500 { &b"\xff"[..] } else { &b"{}"[..] });
        let column = Arc::new(BinaryArray::from_iter_values(payloads)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("payload", column)]).unwrap();
        let mut writer = parquet::Writer::new(folder.path(), "f", batch.schema(), 1 << 30);
        writer.write(&batch).unwrap();
        let file = writer.finish().unwrap().remove(0);
        let schemas = schemas_of(&file.path, readable).unwrap();
        assert_eq!(columns::union(schemas).field(0).data_type(), &DataType::Binary);
    }
}
