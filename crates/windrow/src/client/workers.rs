//! `get workers`: those that live.

use anyhow::Result;
use serde_json::json;
use windrow_wire::v1;

use super::{ServerArgs, last_segment, said};
use crate::output::{self, OutputArgs};

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// `windrow get workers`.
pub async fn get(args: GetArgs) -> Result<()> {
    let found = args.server.connect().await?.workers().await.map_err(said)?;
    if found.is_empty() {
        tell!("no workers are alive: batches wait until one is (windrow worker)");
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
