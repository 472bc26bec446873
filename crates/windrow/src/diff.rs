//! `windrow diff`: what a revision of a window has changed, row by row.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use windrow_processing::parquet;
use windrow_protocol::{JobName, Revision, WindowId};
use windrow_storage::Store;

use crate::cat::holds;
use crate::history;
use crate::output::{self, OutputArgs};
use crate::place::{self, StoreFrom};
use windrow_protocol::paths::Dataset;

#[derive(Debug, clap::Args)]
pub struct Args {
    job: JobName,
    /// Start of the window, e.g. `20150901T050000Z` or `2015-09-01T05:00:00Z`.
    window: WindowId,
    /// The revision before; the one before --to if absent. 0 is the first result.
    #[arg(long)]
    from: Option<u32>,
    /// The revision after; the newest if absent.
    #[arg(long)]
    to: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
    /// Folder of a `windrow dev` or `windrow demo`, running or not, instead of a server.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreFrom,
}

/// A row, and how many of it there are.
type Rows = BTreeMap<String, (Map<String, Value>, i64)>;

pub async fn run(args: Args) -> Result<()> {
    let store = match &args.data_dir {
        Some(folder) => place::store_in(folder)?,
        None => args.store.open(None).await?,
    };
    history::expect_kept(&store, &args.job, args.window).await?;
    let newest = history::window(&store, &args.job, args.window, false).await?;
    let newest = newest.with_context(|| format!("window {} of job {} is not complete", args.window, args.job))?;
    let to = args.to.unwrap_or(newest.complete.plan.revision.0);
    ensure!(to > 0 || args.from.is_some(), "window {} has its first result: there is nothing to compare", args.window);
    let from = args.from.unwrap_or(to.saturating_sub(1));
    let mut rows = Rows::new();
    let mut columns = Vec::new();
    add(&store, &args, from, -1, &mut rows, &mut columns).await?;
    add(&store, &args, to, 1, &mut rows, &mut columns).await?;
    let changed: Vec<(&Map<String, Value>, i64)> =
        rows.values().filter(|(_, n)| *n != 0).map(|(row, n)| (row, *n)).collect();
    let of = |sign: i64| -> Vec<Value> {
        let rows = changed.iter().filter(|(_, n)| n.signum() == sign);
        rows.flat_map(|(row, n)| (0..n.abs()).map(|_| Value::Object((*row).clone()))).collect()
    };
    let (removed, added) = (of(-1), of(1));
    let value =
        json!({"job": args.job, "window": args.window, "from": from, "to": to, "removed": removed, "added": added});
    if removed.is_empty() && added.is_empty() {
        tell!("revisions {from} and {to} have the same rows");
    }
    output::print(args.output.output, &value, &[args.window.to_string()], || {
        let line = |sign: &str, row: &Value| {
            let cells = columns.iter().map(|column| text(row.get(column)));
            std::iter::once(sign.to_owned()).chain(cells).collect()
        };
        let lines = removed.iter().map(|row| line("-", row)).chain(added.iter().map(|row| line("+", row)));
        let header: Vec<&str> = std::iter::once("").chain(columns.iter().map(String::as_str)).collect();
        output::table(&header, lines.collect())
    })
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Counts the rows of a revision, each as often as `sign` says. A window that was empty at first has no revision 0.
async fn add(
    store: &Store,
    args: &Args,
    number: u32,
    sign: i64,
    rows: &mut Rows,
    columns: &mut Vec<String>,
) -> Result<()> {
    let past = history::revision(store, &args.job, args.window, Revision(number)).await?;
    ensure!(past.is_some() || number == 0, "window {} of job {} has no revision {number}", args.window, args.job);
    let local = tempfile::NamedTempFile::new()?;
    let files = past
        .iter()
        .flat_map(|past| past.partitions.iter().flat_map(|marker| &marker.files).chain(&past.complete.files));
    for file in files.filter(|file| holds(&args.job, Dataset::Data, file)) {
        store.fetch(file, local.path()).await?;
        for batch in parquet::read(local.path())? {
            let batch = batch?;
            for field in
                batch.schema().fields().iter().filter(|field| !columns.contains(field.name())).collect::<Vec<_>>()
            {
                columns.push(field.name().clone());
            }
            for row in json_rows(&batch)? {
                let key = serde_json::to_string(&row)?;
                rows.entry(key).or_insert((row, 0)).1 += sign;
            }
        }
    }
    Ok(())
}

fn json_rows(batch: &arrow::record_batch::RecordBatch) -> Result<Vec<Map<String, Value>>> {
    let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(serde_json::from_slice(&writer.into_inner())?)
}
