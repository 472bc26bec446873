//! `windrow apply`: creates jobs, or brings those that exist to what the files say. A file that is wrong stops it before
//! anything is sent.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tonic::{Code, Status};
use windrow_protocol::JobFile;
use windrow_wire::{convert, status, v1};

use super::{Client, ServerArgs, job_name};
use crate::job_file::{self, Document};
use crate::output::{self, Output, OutputArgs};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Job files (YAML or JSON, one or several jobs each), folders of them, or `-` for stdin.
    #[arg(short = 'f', long = "file", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Check everything, store nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: Args) -> Result<()> {
    let jobs = read(&args.files).await?;
    let client = args.server.connect().await?;
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for (document, file) in &jobs {
        let name = file.metadata.name.to_string();
        let (result, warnings) = match apply(&client, file, args.dry_run).await {
            Ok(applied) => applied,
            Err(status) => {
                // What was applied before is still said.
                print(args.output.output, args.dry_run, &values, &names)?;
                bail!(explain(document, status));
            }
        };
        warnings.iter().for_each(|warning| tell!("warning: {name}: {warning}"));
        values.push(json!({"job": name, "result": result, "dryRun": args.dry_run, "warnings": warnings}));
        names.push(name);
    }
    print(args.output.output, args.dry_run, &values, &names)
}

fn print(output: Output, dry_run: bool, values: &[Value], names: &[String]) -> Result<()> {
    let line = |value: &Value| {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        format!("job/{} {}{}\n", text("job"), text("result"), if dry_run { " (dry run)" } else { "" })
    };
    output::print(output, &Value::from(values.to_vec()), names, || values.iter().map(line).collect())
}

/// All jobs of the files, once nothing is wrong with any.
async fn read(paths: &[PathBuf]) -> Result<Vec<(Document, JobFile)>> {
    let (mut jobs, mut problems) = (Vec::new(), Vec::new());
    let mut places = job_file::Places::default();
    for source in job_file::sources(paths)? {
        let documents = source.documents().unwrap_or_else(|problem| {
            problems.push(problem.to_string());
            vec![]
        });
        for document in documents {
            match document.job() {
                Err(problem) => problems.push(problem.to_string()),
                Ok(file) => {
                    let wrong = job_file::check(&file).await;
                    problems.extend(wrong.into_iter().map(|violation| document.problem(violation).to_string()));
                    problems.extend(places.second(&document).map(|problem| problem.to_string()));
                    jobs.push((document, file));
                }
            }
        }
    }
    if !problems.is_empty() {
        bail!("nothing is applied:\n{}", problems.join("\n"));
    }
    Ok(jobs)
}

/// What the coordinator says is wrong, at its place in the file.
fn explain(document: &Document, refused: Status) -> String {
    let violations = status::violations(&refused);
    if violations.is_empty() {
        return format!("{}:{}: {}", document.file, document.line(), refused.message());
    }
    let lines: Vec<String> = violations.into_iter().map(|v| document.problem(v).to_string()).collect();
    lines.join("\n")
}

async fn apply(client: &Client, file: &JobFile, dry_run: bool) -> Result<(&'static str, Vec<String>), Status> {
    let name = file.metadata.name.as_str();
    let spec = Some(convert::spec(&file.spec));
    let job = v1::Job { name: job_name(name), labels: file.metadata.labels.clone(), spec, ..Default::default() };
    match client.job(name).await {
        Ok(known) if known.state() == v1::JobState::Deleting => {
            Err(Status::failed_precondition(format!("job {name} is being deleted; apply it again when it is gone")))
        }
        Ok(known) if known.spec == job.spec && known.labels == job.labels => Ok(("unchanged", vec![])),
        Ok(_) => {
            let request = v1::UpdateJobRequest { job: Some(job), validate_only: dry_run };
            let answer = client.jobs().update_job(request).await?;
            Ok(("configured", answer.into_inner().warnings))
        }
        Err(status) if status.code() == Code::NotFound => {
            let request_id = uuid::Uuid::now_v7().to_string();
            let request = v1::CreateJobRequest { job: Some(job), request_id, validate_only: dry_run };
            let answer = client.jobs().create_job(request).await?;
            Ok(("created", answer.into_inner().warnings))
        }
        Err(status) => Err(status),
    }
}
