//! Commands about jobs: `get jobs`, `watch`, `delete`, `pause`, `resume`, `retry`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tonic::Code;
use windrow_wire::{convert, v1};

use super::{Client, ServerArgs, job_name, last_segment, said, state_name};
use crate::output::{self, Output, OutputArgs};

/// How long `delete` waits for a job to be gone, and how often it looks.
const DELETE_PATIENCE: Duration = Duration::from_secs(30);
const DELETE_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Only this job; it must exist.
    name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// A job, and where to ask.
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    pub job: String,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    job: JobArgs,
    /// See whether it could be done, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Why, for those who wonder later.
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    job: String,
    /// Start of the window, e.g. `20150901T050000Z` or `2015-09-01T05:00:00Z`; or a window of volume, e.g. `p3-o1234`.
    window: windrow_protocol::WindowId,
    /// Say how many batches it would be, change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
pub struct SkipArgs {
    #[command(flatten)]
    window: RetryArgs,
    /// Why; kept in the window's markers.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    #[command(flatten)]
    window: RetryArgs,
    /// Why; shown as the batches' error.
    #[arg(long, default_value = "")]
    reason: String,
}

/// A job in the form of its file, with its status.
pub fn value(job: &v1::Job) -> Value {
    let status = job.status.clone().unwrap_or_default();
    let time = |time: &Option<_>| time.as_ref().map(|time| convert::time(time).to_string());
    // The spec goes back through the job file's own types, so that it reads as it was written.
    let spec = convert::job_file(job).ok().and_then(|file| serde_json::to_value(file.spec).ok());
    json!({
        "apiVersion": "windrow/v1", "kind": "Job",
        "metadata": {"name": last_segment(&job.name), "labels": job.labels, "generation": job.generation, "etag": job.etag,
            "createTime": time(&job.create_time), "updateTime": time(&job.update_time)},
        "spec": spec,
        "status": {
            "state": state_name(job.state().as_str_name(), "JOB_STATE_"),
            "windowsComplete": status.windows_complete, "completeThrough": time(&status.complete_through),
            "batchesPending": status.batches_pending, "batchesRunning": status.batches_running,
            "batchesFailed": status.batches_failed, "problem": status.problem, "pauseNote": status.pause_note,
            "revisionsPending": status.revisions_pending,
        },
    })
}

const HEADER: [&str; 7] = ["NAME", "STATE", "WINDOWS", "COMPLETE THROUGH", "PENDING", "RUNNING", "FAILED"];

fn row(value: &Value) -> Vec<String> {
    let status = &value["status"];
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let fields = ["state", "windowsComplete", "completeThrough", "batchesPending", "batchesRunning", "batchesFailed"];
    std::iter::once(&value["metadata"]["name"]).chain(fields.iter().map(|field| &status[*field])).map(text).collect()
}

/// `windrow get jobs`.
pub async fn get(args: GetArgs) -> Result<()> {
    let client = args.server.connect().await?;
    let jobs = match &args.name {
        Some(name) => vec![client.job(name).await.map_err(said)?],
        None => list(&client).await?,
    };
    let values: Vec<Value> = jobs.iter().map(value).collect();
    let names: Vec<String> = jobs.iter().map(|job| last_segment(&job.name).to_owned()).collect();
    if jobs.is_empty() {
        tell!("no jobs; create one: {}", args.server.command(&["apply", "-f", "FILE"]));
    }
    let rows = values.iter().map(row).collect();
    output::print(args.output.output, &Value::Array(values), &names, || output::table(&HEADER, rows))
}

/// All jobs.
pub async fn list(client: &Client) -> Result<Vec<v1::Job>> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListJobsRequest { page_size: 0, page_token };
        let answer = client.jobs().list_jobs(request).await.map_err(said)?.into_inner();
        found.extend(answer.jobs);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// `windrow watch`: prints a job now and whenever it changes, until it is gone.
pub async fn watch(args: JobArgs) -> Result<()> {
    let client = args.server.connect().await?;
    let request = v1::WatchJobRequest { name: job_name(&args.job) };
    let mut changes = client.jobs().watch_job(request).await.map_err(said)?.into_inner();
    let mut first = true;
    loop {
        let job = match changes.message().await {
            Ok(Some(change)) => value(&change.job.unwrap_or_default()),
            Ok(None) => bail!("the coordinator ended the watch"),
            Err(status) if status.code() == Code::NotFound && !first => {
                tell!("job {} was deleted", args.job);
                return Ok(());
            }
            Err(status) => return Err(said(status)),
        };
        print_change(args.output.output, &job, std::mem::take(&mut first))?;
    }
}

fn print_change(output: Output, job: &Value, first: bool) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string(job)?)?,
        Output::Yaml => write!(out, "---\n{}", output::yaml(job)?)?,
        Output::Name => writeln!(out, "{}", job["metadata"]["name"].as_str().unwrap_or_default())?,
        Output::Table => {
            let pad = |cells: Vec<String>| {
                let widths = [20, 9, 8, 21, 8, 8, 8];
                let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
                cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
            };
            if first {
                writeln!(out, "{}", pad(HEADER.map(str::to_owned).to_vec()))?;
            }
            writeln!(out, "{}", pad(row(job)))?;
        }
    }
    Ok(out.flush()?)
}

/// `windrow delete`: returns when the job is gone.
pub async fn delete(args: ChangeArgs) -> Result<()> {
    let client = args.job.server.connect().await?;
    let name = &args.job.job;
    let request = v1::DeleteJobRequest { name: job_name(name), validate_only: args.dry_run };
    client.jobs().delete_job(request).await.map_err(said)?;
    let deadline = Instant::now() + DELETE_PATIENCE;
    let mut gone = args.dry_run;
    while !gone {
        match client.job(name).await {
            Err(status) if status.code() == Code::NotFound => gone = true,
            Err(status) => return Err(said(status)),
            Ok(_) if Instant::now() > deadline => {
                bail!("job {name} is marked for deletion, but no coordinator has removed it yet");
            }
            Ok(_) => tokio::time::sleep(DELETE_INTERVAL).await,
        }
    }
    let value = json!({"job": name, "result": "deleted", "dryRun": args.dry_run});
    output::print(args.job.output.output, &value, std::slice::from_ref(name), || match args.dry_run {
        true => format!("job/{name} deleted (dry run)"),
        false => format!(
            "job/{name} deleted; its output stays in the store: move it away before a job of this name is applied again"
        ),
    })
}

/// `windrow pause`.
pub async fn pause(args: PauseArgs) -> Result<()> {
    let PauseArgs { change: ChangeArgs { job, dry_run }, note } = args;
    let client = job.server.connect().await?;
    let request = v1::PauseJobRequest { name: job_name(&job.job), note, validate_only: dry_run };
    let answer = client.jobs().pause_job(request).await.map_err(said)?.into_inner();
    print_changed(&job, answer.job, "paused", dry_run)
}

/// `windrow resume`.
pub async fn resume(args: ChangeArgs) -> Result<()> {
    let ChangeArgs { job, dry_run } = args;
    let client = job.server.connect().await?;
    let request = v1::ResumeJobRequest { name: job_name(&job.job), validate_only: dry_run };
    let answer = client.jobs().resume_job(request).await.map_err(said)?.into_inner();
    print_changed(&job, answer.job, "resumed", dry_run)
}

fn print_changed(args: &JobArgs, job: Option<v1::Job>, verb: &str, dry_run: bool) -> Result<()> {
    let name = &args.job;
    let text = || format!("job/{name} {verb}{}", if dry_run { " (dry run)" } else { "" });
    output::print(args.output.output, &value(&job.unwrap_or_default()), std::slice::from_ref(name), text)
}

/// `windrow retry`.
pub async fn retry(args: RetryArgs) -> Result<()> {
    let client = args.server.connect().await?;
    let request = v1::RetryWindowRequest { name: args.name(), validate_only: args.dry_run };
    let v1::RetryWindowResponse { batches, note } =
        client.windows().retry_window(request).await.map_err(said)?.into_inner();
    if !note.is_empty() {
        tell!("note: {note}");
    }
    args.print(batches, "has failed: nothing to try again", "tried again")
}

/// `windrow skip`.
pub async fn skip(args: SkipArgs) -> Result<()> {
    let SkipArgs { window, reason } = args;
    let client = window.server.connect().await?;
    let request = v1::SkipWindowRequest { name: window.name(), reason, validate_only: window.dry_run };
    let batches = client.windows().skip_window(request).await.map_err(said)?.into_inner().batches;
    window.print(batches, "has failed: nothing to give up", "given up")
}

/// `windrow cancel`.
pub async fn cancel(args: CancelArgs) -> Result<()> {
    let CancelArgs { window, reason } = args;
    let client = window.server.connect().await?;
    let request = v1::CancelWindowRequest { name: window.name(), reason, validate_only: window.dry_run };
    let batches = client.windows().cancel_window(request).await.map_err(said)?.into_inner().batches;
    window.print(batches, "waits or runs: nothing to cancel", "cancelled, and parked: try again, or give up with skip")
}

impl RetryArgs {
    /// The window's resource name.
    fn name(&self) -> String {
        format!("jobs/{}/windows/{}", self.job, self.window)
    }

    /// Says how many batches something was `done` to; or that `none`.
    fn print(&self, batches: u32, none: &str, done: &str) -> Result<()> {
        let Self { job, window, dry_run, output, .. } = self;
        let value = json!({"job": job, "window": window.to_string(), "batches": batches, "dryRun": dry_run});
        output::print(output.output, &value, &[window.to_string()], || {
            let dry = if *dry_run { " (dry run)" } else { "" };
            match batches {
                0 => format!("no batch of window {window} {none}"),
                n => format!("window {window}: {} {done}{dry}", output::count(n.into(), "batch")),
            }
        })
    }
}
