//! The commands that talk to a coordinator.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use windrow_protocol::Timestamp;
use windrow_wire::v1::job_service_client::JobServiceClient;
use windrow_wire::v1::window_service_client::WindowServiceClient;
use windrow_wire::v1::worker_service_client::WorkerServiceClient;
use windrow_wire::{convert, v1};

use crate::job;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often `wait` looks.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// Where the coordinator is.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// URL of a coordinator.
    #[arg(long, env = "WINDROW_SERVER", default_value = "http://127.0.0.1:7070")]
    server: String,
}

impl ServerArgs {
    async fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.server.clone()).context("--server")?;
        let connected = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
        connected.with_context(|| format!("no coordinator at {} (start one: windrow dev)", self.server))
    }

    async fn jobs(&self) -> Result<JobServiceClient<Channel>> {
        Ok(JobServiceClient::new(self.channel().await?))
    }

    async fn job(&self, name: &str) -> Result<v1::Job> {
        let request = v1::GetJobRequest { name: format!("jobs/{name}") };
        let answer = self.jobs().await?.get_job(request).await.map_err(said)?;
        answer.into_inner().job.context("the coordinator sent no job")
    }
}

/// The message alone: codes are for programs.
fn said(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
    Name,
}

/// What `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Jobs,
    Windows,
    Workers,
}

/// `windrow apply`: creates jobs, or brings those that exist to what the files say.
pub async fn apply(server: &ServerArgs, files: &[PathBuf], dry_run: bool) -> Result<()> {
    let mut jobs = server.jobs().await?;
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = job::read(&text).with_context(|| path.display().to_string())?;
        let message = v1::Job {
            name: format!("jobs/{}", file.metadata.name),
            labels: file.metadata.labels.clone(),
            spec: Some(convert::spec(&file.spec)),
            ..Default::default()
        };
        let known = jobs.get_job(v1::GetJobRequest { name: message.name.clone() }).await;
        let (verb, warnings) = match known {
            Ok(known) => {
                let known = known.into_inner().job.unwrap_or_default();
                if known.spec == message.spec && known.labels == message.labels {
                    ("unchanged", vec![])
                } else {
                    let request = v1::UpdateJobRequest { job: Some(message), validate_only: dry_run };
                    let answer =
                        jobs.update_job(request).await.map_err(said).with_context(|| path.display().to_string())?;
                    ("configured", answer.into_inner().warnings)
                }
            }
            Err(status) if status.code() == Code::NotFound => {
                let request_id = uuid::Uuid::now_v7().to_string();
                let request = v1::CreateJobRequest { job: Some(message), request_id, validate_only: dry_run };
                let answer =
                    jobs.create_job(request).await.map_err(said).with_context(|| path.display().to_string())?;
                ("created", answer.into_inner().warnings)
            }
            Err(status) => return Err(said(status)),
        };
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        println!("job/{} {verb}{}", file.metadata.name, if dry_run { " (dry run)" } else { "" });
    }
    Ok(())
}

fn job_value(job: &v1::Job) -> Value {
    let status = job.status.clone().unwrap_or_default();
    let through = status.complete_through.as_ref().map(|time| convert::time(time).to_string());
    // The spec goes back through the job file's own types, so that it reads as it was written.
    let spec = convert::job_file(job).ok().and_then(|file| serde_json::to_value(file.spec).ok());
    json!({
        "apiVersion": "windrow/v1", "kind": "Job",
        "metadata": {"name": job.name.trim_start_matches("jobs/"), "labels": job.labels, "generation": job.generation},
        "spec": spec,
        "status": {
            "state": job.state().as_str_name().trim_start_matches("JOB_STATE_").to_lowercase(),
            "windowsComplete": status.windows_complete, "completeThrough": through,
            "batchesPending": status.batches_pending, "batchesRunning": status.batches_running,
            "batchesFailed": status.batches_failed, "problem": status.problem, "pauseNote": status.pause_note,
        },
    })
}

fn print(value: &Value, output: Output, header: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(value)?)?,
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(value)?)?,
        Output::Name => rows.iter().try_for_each(|row| writeln!(out, "{}", row[0]))?,
        Output::Table => {
            let mut table = comfy_table::Table::new();
            table.load_preset(comfy_table::presets::NOTHING).set_header(header.iter().copied());
            for row in rows {
                table.add_row(row);
            }
            writeln!(out, "{table}")?;
        }
    }
    Ok(())
}

/// `windrow get`.
pub async fn get(server: &ServerArgs, kind: Kind, job: Option<&str>, output: Output) -> Result<()> {
    match kind {
        Kind::Jobs => jobs(server, job, output).await,
        Kind::Windows => windows(server, job.context("get windows needs --job NAME")?, output).await,
        Kind::Workers => workers(server, output).await,
    }
}

async fn jobs(server: &ServerArgs, only: Option<&str>, output: Output) -> Result<()> {
    let mut found = Vec::new();
    if let Some(name) = only {
        found.push(server.job(name).await?);
    } else {
        let (mut client, mut page_token) = (server.jobs().await?, String::new());
        loop {
            let request = v1::ListJobsRequest { page_size: 0, page_token };
            let answer = client.list_jobs(request).await.map_err(said)?.into_inner();
            found.extend(answer.jobs);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    let values: Vec<Value> = found.iter().map(job_value).collect();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned).replace("null", "-");
    let rows = values.iter().map(|value| {
        let status = &value["status"];
        let fields =
            ["state", "windowsComplete", "completeThrough", "batchesPending", "batchesRunning", "batchesFailed"];
        std::iter::once(&value["metadata"]["name"]).chain(fields.iter().map(|field| &status[field])).map(text).collect()
    });
    let rows = rows.collect();
    let header = ["NAME", "STATE", "WINDOWS", "COMPLETE THROUGH", "PENDING", "RUNNING", "FAILED"];
    print(&Value::Array(values), output, &header, rows)
}

async fn windows(server: &ServerArgs, job: &str, output: Output) -> Result<()> {
    let mut client = WindowServiceClient::new(server.channel().await?);
    let (mut values, mut rows, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListWindowsRequest { parent: format!("jobs/{job}"), page_size: 0, page_token };
        let answer = client.list_windows(request).await.map_err(said)?.into_inner();
        for window in &answer.windows {
            let name = window.name.rsplit('/').next().unwrap_or_default().to_owned();
            for batch in &window.batches {
                let part = batch.name.rsplit('/').next().unwrap_or_default().to_owned();
                let state = batch.state().as_str_name().trim_start_matches("BATCH_STATE_").to_lowercase();
                rows.push(vec![
                    name.clone(),
                    part.clone(),
                    state.clone(),
                    batch.worker.clone(),
                    batch.failures.to_string(),
                    batch.last_error.clone(),
                ]);
                values.push(json!({"window": name, "batch": part, "state": state, "worker": batch.worker,
                    "startOffset": batch.start_offset, "endOffset": batch.end_offset,
                    "failures": batch.failures, "lastError": batch.last_error}));
            }
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    print(&Value::Array(values), output, &["WINDOW", "BATCH", "STATE", "WORKER", "FAILURES", "LAST ERROR"], rows)
}

async fn workers(server: &ServerArgs, output: Output) -> Result<()> {
    let mut client = WorkerServiceClient::new(server.channel().await?);
    let found = client.list_workers(v1::ListWorkersRequest {}).await.map_err(said)?.into_inner().workers;
    let name = |worker: &v1::Worker| worker.name.trim_start_matches("workers/").to_owned();
    let values = found.iter().map(|worker| {
        json!({"name": name(worker), "slots": worker.slots, "running": worker.running, "version": worker.version,
            "draining": worker.draining})
    });
    let values = Value::Array(values.collect());
    let rows = found.iter().map(|w| vec![name(w), w.slots.to_string(), w.running.to_string(), w.version.clone()]);
    print(&values, output, &["NAME", "SLOTS", "RUNNING", "VERSION"], rows.collect())
}

/// `windrow describe`.
pub async fn describe(server: &ServerArgs, name: &str) -> Result<()> {
    print(&job_value(&server.job(name).await?), Output::Yaml, &[], vec![])?;
    println!("windows in flight:");
    windows(server, name, Output::Table).await
}

/// `windrow delete`.
pub async fn delete(server: &ServerArgs, name: &str) -> Result<()> {
    let request = v1::DeleteJobRequest { name: format!("jobs/{name}") };
    server.jobs().await?.delete_job(request).await.map_err(said)?;
    println!("job/{name} deleted; its output stays in the store");
    Ok(())
}

/// `windrow pause`.
pub async fn pause(server: &ServerArgs, name: &str, note: String) -> Result<()> {
    let request = v1::PauseJobRequest { name: format!("jobs/{name}"), note };
    server.jobs().await?.pause_job(request).await.map_err(said)?;
    println!("job/{name} paused");
    Ok(())
}

/// `windrow resume`.
pub async fn resume(server: &ServerArgs, name: &str) -> Result<()> {
    let request = v1::ResumeJobRequest { name: format!("jobs/{name}") };
    server.jobs().await?.resume_job(request).await.map_err(said)?;
    println!("job/{name} resumed");
    Ok(())
}

/// `windrow retry`.
pub async fn retry(server: &ServerArgs, name: &str, window: &str) -> Result<()> {
    let request = v1::RetryWindowRequest { name: format!("jobs/{name}/windows/{window}") };
    let mut client = WindowServiceClient::new(server.channel().await?);
    let batches = client.retry_window(request).await.map_err(said)?.into_inner().batches;
    println!("{batches} batches of window {window} are tried again");
    Ok(())
}

/// `windrow watch`: a line whenever the job changes.
pub async fn watch(server: &ServerArgs, name: &str) -> Result<()> {
    let request = v1::WatchJobRequest { name: format!("jobs/{name}") };
    let mut changes = server.jobs().await?.watch_job(request).await.map_err(said)?.into_inner();
    while let Some(change) = changes.message().await.map_err(said)? {
        let value = job_value(&change.job.unwrap_or_default());
        println!("{}", serde_json::to_string(&value["status"])?);
    }
    Ok(())
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// As many windows are complete, empty ones included.
    Windows(u64),
    /// All windows that end by this time are complete.
    Time(Timestamp),
}

/// `windrow wait`.
pub async fn wait(server: &ServerArgs, name: &str, until: Until, timeout: Duration) -> Result<()> {
    let mut last = String::new();
    let reached = async {
        loop {
            let status = server.job(name).await?.status.unwrap_or_default();
            let through = status.complete_through.as_ref().map(convert::time);
            last = format!(
                "{} windows complete, through {}; {} batches failed",
                status.windows_complete,
                through.map_or_else(|| "-".to_owned(), |time| time.to_string()),
                status.batches_failed
            );
            let done = match until {
                Until::Windows(wanted) => status.windows_complete >= wanted,
                Until::Time(wanted) => through.is_some_and(|through| through >= wanted),
            };
            if done {
                return anyhow::Ok(());
            }
            tokio::time::sleep(WAIT_INTERVAL).await;
        }
    };
    match tokio::time::timeout(timeout, reached).await {
        Ok(result) => {
            result?;
            println!("job/{name}: {last}");
            Ok(())
        }
        Err(_) => bail!("job {name} did not get there within {} s: {last}", timeout.as_secs()),
    }
}
