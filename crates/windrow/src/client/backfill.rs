//! `windrow backfill`: runs complete windows again with the job's spec of now; and what there is to do with backfills.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use windrow_protocol::duration::Length;
use windrow_protocol::{BackfillName, JobName, Timestamp};
use windrow_wire::{convert, v1};

use super::{Client, ServerArgs, job_name, last_segment, said, state_name};
use crate::output::{self, OutputArgs};
use crate::progress::Progress;

/// How often `--wait` looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Batches of a dry run that are shown in the table.
const MOST_BATCHES: usize = 100;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Change>,
    #[arg(required = true)]
    job: Option<JobName>,
    /// A moment of the first window (RFC 3339).
    #[arg(long, required = true)]
    from: Option<Timestamp>,
    /// The first moment that is not meant any more (RFC 3339).
    #[arg(long, required = true)]
    to: Option<Timestamp>,
    /// What to call it; the coordinator names it by the time if absent.
    #[arg(long)]
    name: Option<BackfillName>,
    /// List the windows and offsets that would be run again, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Return when it is done; fails if a batch is parked, or a window was refused.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait at most, e.g. `60s`, `5m`, `1h`.
    #[arg(long, default_value = "10m")]
    timeout: Length,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What can be done to a backfill.
#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Plan no more of its windows; those that are being run again are finished.
    Pause(NameArgs),
    /// Go on with a paused one.
    Resume(NameArgs),
    /// End and forget it. Windows of which nothing has begun keep the result that they have.
    Cancel(NameArgs),
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The job.
    #[arg(long)]
    job: JobName,
    /// The backfill, as `windrow get backfills` names it.
    name: BackfillName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Only this job's.
    #[arg(long)]
    job: Option<JobName>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// `windrow backfill`.
pub async fn run(args: Args) -> Result<()> {
    if let (Some(from), Some(to)) = (args.from, args.to) {
        ensure!(from < to, "--from {from} is not before --to {to}");
    }
    match args.command {
        Some(change) => change_it(change).await,
        None => create(args).await,
    }
}

async fn create(args: Args) -> Result<()> {
    // Clap sees to it that there is one where there is no subcommand.
    let job = args.job.as_ref().map(ToString::to_string).unwrap_or_default();
    let client = args.server.connect().await?;
    let backfill = v1::Backfill {
        from_time: args.from.map(convert::timestamp),
        until_time: args.to.map(convert::timestamp),
        ..Default::default()
    };
    let request = v1::CreateBackfillRequest {
        parent: job_name(&job),
        backfill: Some(backfill),
        backfill_id: args.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        validate_only: args.dry_run,
    };
    let answer = client.backfills().create_backfill(request).await.map_err(said)?.into_inner();
    let mut backfill = answer.backfill.clone().unwrap_or_default();
    if args.dry_run {
        return print_dry(&args, &answer, &backfill);
    }
    if args.wait {
        backfill = wait(&client, &args, backfill).await?;
    }
    let name = last_segment(&backfill.name).to_owned();
    let done = backfill.state() == v1::BackfillState::Done;
    output::print(args.output.output, &value(&backfill), std::slice::from_ref(&name), || {
        let what = if done { summary(&backfill) } else { "created".to_owned() };
        format!("backfill/{name} of job/{job} {what}")
    })?;
    ensure!(
        backfill.windows_refused == 0,
        "{} refused: their results stay as they are",
        output::count(backfill.windows_refused, "window")
    );
    Ok(())
}

fn print_dry(args: &Args, answer: &v1::CreateBackfillResponse, backfill: &v1::Backfill) -> Result<()> {
    let batch = |batch: &v1::BackfillBatch| {
        json!({"window": last_segment(&batch.window), "partition": batch.partition, "revision": batch.revision,
            "offsets": {"start": batch.start_offset, "end": batch.end_offset}})
    };
    let mut windows: Vec<String> = answer.batches.iter().map(|batch| last_segment(&batch.window).to_owned()).collect();
    windows.dedup();
    let mut value = value(backfill);
    value["dryRun"] = json!(true);
    value["batches"] = answer.batches.iter().map(batch).collect();
    value["batchesTotal"] = json!(answer.batches_total);
    output::print(args.output.output, &value, &windows, || {
        let cells = |batch: &v1::BackfillBatch| {
            let numbers = [i64::from(batch.partition), batch.start_offset, batch.end_offset, batch.revision.into()];
            let numbers = numbers.map(|n| n.to_string());
            std::iter::once(last_segment(&batch.window).to_owned()).chain(numbers).collect()
        };
        let rows = answer.batches.iter().take(MOST_BATCHES).map(cells).collect();
        let mut text = output::table(&["WINDOW", "PARTITION", "START OFFSET", "END OFFSET", "REVISION"], rows);
        let batches = output::count(answer.batches_total, "batch");
        // Of a list that is cut not all windows are known.
        let windows = match answer.batches_total > answer.batches.len() as u64 {
            true => String::new(),
            false => format!(" of {}", output::count(windows.len() as u64, "window")),
        };
        let first = if answer.batches_total > MOST_BATCHES as u64 {
            format!("; these are the first {MOST_BATCHES} batches, -o json lists more")
        } else {
            String::new()
        };
        text += &format!("\n{batches}{windows} would be run again (dry run){first}");
        if backfill.windows_refused > 0 {
            text += &format!("; {} refused{}", backfill.windows_refused, first_refusal(backfill));
        }
        text
    })
}

async fn wait(client: &Client, args: &Args, created: v1::Backfill) -> Result<v1::Backfill> {
    let (deadline, mut progress) = (Instant::now() + args.timeout.std(), Progress::spinner("waiting"));
    loop {
        let request = v1::GetBackfillRequest { name: created.name.clone() };
        let answer = client.backfills().get_backfill(request).await;
        let backfill = match answer {
            Ok(answer) => answer.into_inner().backfill.unwrap_or_default(),
            Err(status) if status.code() == tonic::Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
            Err(status) => return Err(said(status)),
        };
        if backfill.state() == v1::BackfillState::Done {
            return Ok(backfill);
        }
        let said_now = summary(&backfill);
        if backfill.windows_failed > 0 {
            let windows = ["get", "windows", "--job", job_of(&created)];
            bail!("a batch of the backfill is parked ({said_now}); see {}", args.server.command(&windows));
        }
        if Instant::now() >= deadline {
            bail!("the backfill was not done within {}: {said_now}", args.timeout);
        }
        progress.say(said_now);
        tokio::time::sleep(INTERVAL).await;
    }
}

fn summary(backfill: &v1::Backfill) -> String {
    let state = state_name(backfill.state().as_str_name(), "BACKFILL_STATE_");
    let mut text = format!("{state}: {} run again", output::count(backfill.windows_planned, "window"));
    for (n, what) in [
        (backfill.windows_running, "running"),
        (backfill.windows_failed, "with a parked batch"),
        (backfill.windows_refused, "refused"),
    ] {
        if n > 0 {
            text += &format!(", {n} {what}");
        }
    }
    text + &first_refusal(backfill)
}

fn first_refusal(backfill: &v1::Backfill) -> String {
    let first = backfill.refusals.first();
    first.map_or_else(String::new, |first| format!(" (window {}: {})", last_segment(&first.window), first.reason))
}

async fn change_it(change: Change) -> Result<()> {
    let (args, verb) = match &change {
        Change::Pause(args) => (args, "paused"),
        Change::Resume(args) => (args, "resumed"),
        Change::Cancel(args) => (args, "cancelled"),
    };
    let client = args.server.connect().await?;
    let name = format!("{}/backfills/{}", job_name(args.job.as_str()), args.name);
    let mut client = client.backfills();
    let (value, more) = match &change {
        Change::Pause(_) => {
            let answer = client.pause_backfill(v1::PauseBackfillRequest { name }).await.map_err(said)?;
            (value(&answer.into_inner().backfill.unwrap_or_default()), String::new())
        }
        Change::Resume(_) => {
            let answer = client.resume_backfill(v1::ResumeBackfillRequest { name }).await.map_err(said)?;
            (value(&answer.into_inner().backfill.unwrap_or_default()), String::new())
        }
        Change::Cancel(_) => {
            let answer = client.cancel_backfill(v1::CancelBackfillRequest { name }).await.map_err(said)?;
            let taken_back = answer.into_inner().windows_taken_back;
            let more = format!("; {} taken back", output::count(taken_back.into(), "window"));
            (json!({"backfill": args.name, "job": args.job, "windowsTakenBack": taken_back}), more)
        }
    };
    let names = [args.name.to_string()];
    output::print(args.output.output, &value, &names, || {
        format!("backfill/{} of job/{} {verb}{more}", args.name, args.job)
    })
}

/// A backfill as data.
fn value(backfill: &v1::Backfill) -> Value {
    let time = |time: &Option<_>| time.as_ref().map(|time| convert::time(time).to_string());
    let refusal = |refusal: &v1::BackfillRefusal| json!({"window": last_segment(&refusal.window), "reason": refusal.reason, "lostOffsets": refusal.lost_offsets});
    json!({
        "name": last_segment(&backfill.name), "job": job_of(backfill), "from": time(&backfill.from_time),
        "until": time(&backfill.until_time), "state": state_name(backfill.state().as_str_name(), "BACKFILL_STATE_"),
        "specHash": backfill.spec_hash, "windowsPlanned": backfill.windows_planned,
        "windowsRunning": backfill.windows_running, "windowsFailed": backfill.windows_failed,
        "windowsRefused": backfill.windows_refused, "refusals": backfill.refusals.iter().map(refusal).collect::<Vec<_>>(),
        "plannedUntil": time(&backfill.planned_until_time), "createTime": time(&backfill.create_time),
    })
}

fn job_of(backfill: &v1::Backfill) -> &str {
    backfill.name.split('/').nth(1).unwrap_or_default()
}

/// `windrow get backfills`.
pub async fn get(args: GetArgs) -> Result<()> {
    let client = args.server.connect().await?;
    let jobs = match args.job {
        Some(job) => vec![job.to_string()],
        None => super::jobs::list(&client).await?.iter().map(|job| last_segment(&job.name).to_owned()).collect(),
    };
    let mut found = Vec::new();
    for job in jobs {
        found.extend(list(&client, &job).await.with_context(|| format!("job {job}"))?);
    }
    if found.is_empty() {
        tell!("no backfills");
    }
    let cells = |backfill: &v1::Backfill| {
        let time =
            |time: &Option<_>| time.as_ref().map_or_else(|| "-".to_owned(), |time| convert::time(time).to_string());
        let counts =
            [backfill.windows_planned, backfill.windows_running, backfill.windows_failed, backfill.windows_refused];
        let state = state_name(backfill.state().as_str_name(), "BACKFILL_STATE_");
        let head = [last_segment(&backfill.name).to_owned(), job_of(backfill).to_owned(), state];
        let span = [time(&backfill.from_time), time(&backfill.until_time)];
        head.into_iter().chain(span).chain(counts.map(|n| n.to_string())).collect()
    };
    let names: Vec<String> = found.iter().map(|backfill| last_segment(&backfill.name).to_owned()).collect();
    let rows = found.iter().map(cells).collect();
    let header = ["NAME", "JOB", "STATE", "FROM", "UNTIL", "PLANNED", "RUNNING", "FAILED", "REFUSED"];
    output::print(args.output.output, &found.iter().map(value).collect(), &names, || output::table(&header, rows))
}

async fn list(client: &Client, job: &str) -> Result<Vec<v1::Backfill>> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListBackfillsRequest { parent: job_name(job), page_size: 0, page_token };
        let answer = client.backfills().list_backfills(request).await.map_err(said)?.into_inner();
        found.extend(answer.backfills);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}
