//! `windrow wait`: until windows are complete; at once when they can't be.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tonic::{Code, Status};
use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;
use windrow_wire::{convert, v1};

use super::jobs::{self, JobArgs};
use super::windows::{InFlight, in_flight};
use super::{Client, said};
use crate::output;
use crate::progress::Progress;

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("goal").required(true).args(["windows", "until"])))]
pub struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// As many windows are complete, empty ones included.
    #[arg(long)]
    windows: Option<u64>,
    /// All windows that end by this time (RFC 3339) are complete. Not for windows of volume.
    #[arg(long)]
    until: Option<Timestamp>,
    /// How long to wait at most, e.g. `60s`, `5m`, `1h`.
    #[arg(long, default_value = "60s")]
    timeout: Length,
}

/// What is waited for; clap sees to it that one of the two is there.
fn reached(args: &Args, status: &v1::JobStatus) -> bool {
    let through = status.complete_through.as_ref().map(convert::time);
    args.windows.is_none_or(|wanted| status.windows_complete >= wanted)
        && args.until.is_none_or(|wanted| through.is_some_and(|through| through >= wanted))
}

fn is_of_volume(job: &v1::Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.window.as_ref()).is_some_and(|window| window.every == "volume")
}

/// A parked batch of a first result that was to come before the time that is waited for; where a number of windows is,
/// any.
async fn hopeless(client: &Client, args: &Args) -> Result<Option<InFlight>, Status> {
    let windows = in_flight(&client.windows_in_flight(&args.job.job).await?);
    // A window that is run again is complete.
    let in_the_way = |window: &InFlight| {
        let before = |until| window.start.is_some_and(|start| start < until);
        window.revision == 0 && args.until.is_none_or(before)
    };
    Ok(windows.into_iter().find(|window| in_the_way(window) && window.failed().is_some()))
}

fn summary(job: &v1::Job) -> String {
    let status = job.status.clone().unwrap_or_default();
    let through = status.complete_through.as_ref().map(|t| format!(", through {}", convert::time(t)));
    let through = through.unwrap_or_default();
    let mut text = format!("{} complete{through}", output::count(status.windows_complete, "window"));
    let waiting = status.batches_pending + status.batches_running;
    if waiting > 0 {
        text += &format!("; {} in flight", output::count(waiting, "batch"));
    }
    if status.batches_failed > 0 {
        text += &format!("; {} failed", output::count(status.batches_failed, "batch"));
    }
    match job.state() {
        v1::JobState::Paused => text += "; the job is paused",
        v1::JobState::Deleting => text += "; the job is being deleted",
        _ if !status.problem.is_empty() => text += &format!("; {}", status.problem),
        _ => {}
    }
    text
}

pub async fn run(args: Args) -> Result<()> {
    let (name, server) = (&args.job.job, &args.job.server);
    let client = server.connect().await?;
    let deadline = Instant::now() + args.timeout.std();
    let (mut progress, mut heard) = (Progress::spinner("waiting"), false);
    loop {
        let last = match client.job(name).await {
            Ok(job) => {
                heard = true;
                if args.until.is_some() && is_of_volume(&job) {
                    bail!(
                        "the windows of job {name} are counted in readings or bytes: they are complete up to no time; use \
                         --windows N"
                    );
                }
                let status = job.status.clone().unwrap_or_default();
                let said_now = summary(&job);
                if reached(&args, &status) {
                    drop(progress);
                    let text = || format!("job/{name}: {said_now}");
                    return output::print(args.job.output.output, &jobs::value(&job), std::slice::from_ref(name), text);
                }
                if status.batches_failed > 0 {
                    match hopeless(&client, &args).await {
                        Ok(Some(window)) => bail!(parked(&args, &window)),
                        Err(status) if status.code() != Code::Unavailable => return Err(said(status)),
                        Ok(None) | Err(_) => {}
                    }
                }
                said_now
            }
            // Another coordinator takes over, or this one comes back.
            Err(status) if heard && status.code() == Code::Unavailable => status.message().to_owned(),
            Err(status) => return Err(said(status)),
        };
        progress.say(last.clone());
        if Instant::now() >= deadline {
            bail!("job {name} did not get there within {}: {last}", args.timeout);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn parked(args: &Args, window: &InFlight) -> String {
    let (name, server) = (&args.job.job, &args.job.server);
    let failed = window.failed().map(|batch| (batch.name(), batch.last_error().unwrap_or_default()));
    let (part, error) = failed.unwrap_or_default();
    format!(
        "job {name}: a batch of window {} ({part}) has failed and is parked: {error}\ntry it again: {}",
        window.window,
        server.command(&["retry", name, &window.window.to_string()])
    )
}
