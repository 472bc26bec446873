//! `get partitions`: how far a job's partitions are cut.

use anyhow::Result;
use serde_json::{Value, json};
use windrow_protocol::JobName;
use windrow_wire::{convert, v1};

use super::{ServerArgs, last_segment, said};
use crate::output::{self, OutputArgs};

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The job.
    #[arg(long)]
    job: JobName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub const HEADER: [&str; 6] = ["PARTITION", "LOG START", "SEALED END", "HIGH WATERMARK", "LAG", "SEALED THROUGH"];

/// Records that no window owns yet.
fn lag(partition: &v1::Partition) -> Option<i64> {
    let from = partition.sealed_end_offset.or(partition.log_start_offset)?;
    Some((partition.high_watermark? - from).max(0))
}

pub fn value(partition: &v1::Partition) -> Value {
    json!({"partition": last_segment(&partition.name).parse::<i32>().ok(), "logStart": partition.log_start_offset,
        "highWatermark": partition.high_watermark, "sealedEnd": partition.sealed_end_offset, "lag": lag(partition),
        "sealedThrough": partition.sealed_through_time.as_ref().map(convert::time)})
}

pub fn cells(partition: &v1::Partition) -> Vec<String> {
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
pub async fn get(args: GetArgs) -> Result<()> {
    let (found, _) = args.server.connect().await?.partitions(args.job.as_str()).await.map_err(said)?;
    if found.is_empty() {
        tell!("no partitions: the job's topic does not exist yet");
    }
    let names: Vec<String> = found.iter().map(|partition| last_segment(&partition.name).to_owned()).collect();
    let values = found.iter().map(value).collect();
    let rows = found.iter().map(cells).collect();
    output::print(args.output.output, &Value::Array(values), &names, || output::table(&HEADER, rows))
}
