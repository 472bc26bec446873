//! The benchmarks: readings per CPU-second of the whole process that does the work, medians of several repeats, beside a
//! roofline measured in the same run. `cargo xtask bench` starts the real services and runs this.

mod control;
mod dev;
mod fleet;
mod gateway;
mod measure;
mod parts;
mod process;
mod table;

mod worker;
mod worker_lines;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::table::markdown;

/// Measures windrow's paths and prints a Markdown table.
#[derive(Debug, Parser)]
#[command(name = "windrow-bench")]
pub struct Options {
    /// Paths to measure; all if none is named.
    #[arg(value_enum)]
    paths: Vec<Path>,
    /// Readings of the topic of blocks.
    #[arg(long, default_value_t = 10_000_000)]
    readings: u64,
    /// Readings of the topic of JSON messages.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// How often each path is run.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Readings that are sent to a gateway.
    #[arg(long, default_value_t = 400_000)]
    requests: u64,
    /// Partitions of the window that is planned.
    #[arg(long, default_value_t = 10_000)]
    partitions: i32,
    /// Batches without readings.
    #[arg(long, default_value_t = 1_000)]
    batches: u64,
    /// Batches that a worker runs at once.
    #[arg(long, default_value_t = 4)]
    slots: usize,
    /// Runs one worker process; used by the benchmark itself.
    #[arg(long, hide = true)]
    obey: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Path {
    /// Blocks in Kafka to filtered rows in Parquet; also the worker's memory.
    BlocksRows,
    /// Blocks in Kafka to aggregates by device and minute.
    BlocksAggregates,
    /// One JSON message per reading to filtered rows in Parquet.
    JsonRows,
    /// One JSON message per reading to aggregates.
    JsonAggregates,
    /// gRPC to a gateway, acknowledged by Kafka.
    Grpc,
    /// HTTP NDJSON to a gateway, acknowledged by Kafka.
    Http,
    /// Planning one window over many partitions.
    Planning,
    /// Batches without readings.
    Batches,
    /// `windrow dev` at rest.
    Dev,
}

/// A variable that `cargo xtask bench` sets.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set: `cargo xtask bench` starts the services and sets it"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(order) = &options.obey {
        let report = worker::obey(serde_json::from_slice(&std::fs::read(order)?)?).await?;
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    let mut lines = Vec::new();
    lines.extend(worker_lines::measure(&options, false).await?);
    lines.extend(worker_lines::measure(&options, true).await?);
    lines.extend(gateway::grpc(&options).await?);
    lines.extend(gateway::http(&options).await?);
    lines.extend(control::planning(&options).await?);
    lines.extend(control::batches(&options).await?);
    lines.extend(dev::idle(&options).await?);
    print!("{}", markdown(&lines));
    Ok(())
}

impl Options {
    fn wants(&self, path: Path) -> bool {
        self.paths.is_empty() || self.paths.contains(&path)
    }
}
