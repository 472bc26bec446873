//! The roofline of the worker paths: each part alone, on one thread, in the same run. What a whole path costs beyond
//! their sum is windrow's own.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result};
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use windrow_ports::Log;
use windrow_ports::log::Record;
use windrow_processing::parquet::{FILE_BYTES, Writer};
use windrow_processing::{Engine, EngineSettings, readings_schema};
use windrow_protocol::{Offset, OffsetRange, PartitionId};
use windrow_wire::block;
use windrow_worker::intake::Intake;

use crate::fleet;
use crate::measure::{median, own_cpu};
use crate::worker::Backlog;

/// CPU-seconds per reading of each part.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub consume: f64,
    /// Blocks: decoding alone. JSON: parsing every message into a tree.
    pub decode: f64,
    pub rows_sql: f64,
    pub rows_parquet: f64,
    pub aggregates_sql: f64,
}

impl Parts {
    pub fn rows(&self) -> f64 {
        self.consume + self.decode + self.rows_sql + self.rows_parquet
    }

    pub fn aggregates(&self) -> f64 {
        self.consume + self.decode + self.aggregates_sql
    }

    /// In words, nanoseconds per reading.
    pub fn words(&self, rows: bool) -> String {
        let ns = |seconds: f64| format!("{:.0}", seconds * 1e9);
        let (sql, parquet) = if rows {
            (self.rows_sql, format!(" + Parquet {}", ns(self.rows_parquet)))
        } else {
            (self.aggregates_sql, String::new())
        };
        format!("consume {} + decode {} + SQL {}{parquet} ns", ns(self.consume), ns(self.decode), ns(sql))
    }
}

/// Measures the parts over one partition of a backlog.
pub async fn measure(log: &dyn Log, backlog: &Backlog, repeats: usize) -> Result<Parts> {
    let mut all = Vec::new();
    for _ in 0..repeats {
        all.push(once(log, backlog).await?);
    }
    let of = |part: fn(&Parts) -> f64| median(all.iter().map(part).collect());
    Ok(Parts {
        consume: of(|p| p.consume),
        decode: of(|p| p.decode),
        rows_sql: of(|p| p.rows_sql),
        rows_parquet: of(|p| p.rows_parquet),
        aggregates_sql: of(|p| p.aggregates_sql),
    })
}

async fn once(log: &dyn Log, backlog: &Backlog) -> Result<Parts> {
    let readings = (backlog.readings / u64::from(fleet::PARTITIONS.unsigned_abs())) as f64;
    let range = OffsetRange::new(Offset(0), Offset(i64::try_from(backlog.records)?));
    let cpu = own_cpu()?;
    let chunks: Vec<Vec<Record>> = log.read(&backlog.topic, PartitionId(0), range).try_collect().await?;
    let consume = (own_cpu()? - cpu).as_secs_f64() / readings;
    let records: Vec<Record> = chunks.into_iter().flatten().collect();
    let cpu = own_cpu()?;
    for record in &records {
        if backlog.json {
            black_box(serde_json::from_slice::<serde_json::Value>(&record.payload)?);
        } else {
            black_box(block::decode(&record.payload)?);
        }
    }
    let decode = (own_cpu()? - cpu).as_secs_f64() / readings;
    let batches = batches(backlog, &records)?;
    drop(records);
    let folder = tempfile::tempdir()?;
    let (rows, rows_sql) = sql(backlog, fleet::ROWS_SQL, &batches, folder.path()).await?;
    let (_, aggregates_sql) = sql(backlog, fleet::AGGREGATES_SQL, &batches, folder.path()).await?;
    let schema = rows.first().context("the map gives no rows")?.schema();
    let cpu = own_cpu()?;
    let mut writer = Writer::new(folder.path(), "rows", schema, FILE_BYTES);
    rows.iter().try_for_each(|batch| writer.write(batch))?;
    writer.finish()?;
    let rows_parquet = (own_cpu()? - cpu).as_secs_f64() / readings;
    Ok(Parts {
        consume,
        decode,
        rows_sql: rows_sql / readings,
        rows_parquet,
        aggregates_sql: aggregates_sql / readings,
    })
}

/// What the worker would hand to SQL.
fn batches(backlog: &Backlog, records: &[Record]) -> Result<Vec<RecordBatch>> {
    let spec = fleet::spec(&backlog.topic, backlog.json, fleet::ROWS_SQL)?;
    let count = i64::try_from(backlog.records)?;
    let mut intake = Intake::new(&spec, &fleet::plan(&backlog.topic, &backlog.topic_id, 0, count, &spec))?;
    let mut batches = Vec::new();
    for record in records {
        intake.push(record);
        if intake.is_ready() {
            batches.extend(intake.take()?.on_time);
        }
    }
    batches.extend(intake.take()?.on_time);
    Ok(batches)
}

/// Runs SQL over batches in memory; the result and the CPU-seconds.
async fn sql(backlog: &Backlog, map: &str, batches: &[RecordBatch], scratch: &Path) -> Result<(Vec<RecordBatch>, f64)> {
    let spec = fleet::spec(&backlog.topic, backlog.json, map)?;
    debug_assert!(batches.iter().all(|batch| batch.schema() == readings_schema(&spec)));
    let engine = Engine::new(EngineSettings { memory_bytes: 256 << 20, scratch: scratch.to_owned() });
    let input = futures::stream::iter(batches.to_vec()).boxed();
    let cpu = own_cpu()?;
    let output = engine.map(&spec, input).await?;
    let rows = output.batches.try_collect().await?;
    Ok((rows, (own_cpu()? - cpu).as_secs_f64()))
}
