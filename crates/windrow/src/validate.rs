//! `windrow validate`: every check of every job of every file, and how each went. Stores nothing.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use windrow_protocol::job::Violation;
use windrow_protocol::{JobFile, job::Limits};
use windrow_wire::{convert, v1};

use crate::client::{Client, ServerArgs, said};
use crate::job_file::{self, Document};
use crate::output::{self, OutputArgs};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Job files (YAML or JSON, one or several jobs each), folders of them, or `-` for stdin.
    #[arg(short = 'f', long = "file", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// URL of a coordinator, for the checks that need a cluster: the topic.
    #[arg(long, env = "WINDROW_SERVER")]
    server: Option<String>,
}

/// One check of a job, or of a file that holds none.
struct Check {
    name: &'static str,
    result: &'static str,
    note: String,
    problems: Vec<job_file::Problem>,
}

impl Check {
    fn of(name: &'static str, problems: Vec<job_file::Problem>) -> Self {
        let result = if problems.is_empty() { "pass" } else { "fail" };
        Self { name, result, note: String::new(), problems }
    }

    fn skipped(name: &'static str, note: &str) -> Self {
        Self { name, result: "skipped", note: note.to_owned(), problems: vec![] }
    }
}

/// `windrow validate`: every check of every job of every file.
pub async fn run(args: Args) -> Result<()> {
    let client = match args.server {
        Some(server) => Some(ServerArgs { server }.connect().await?),
        None => None,
    };
    let sources = job_file::sources(&args.files)?;
    let (mut checked, mut wrong) = (Vec::new(), 0);
    let mut places = job_file::Places::default();
    for source in &sources {
        match source.documents() {
            Err(problem) => checked.push((source.name.clone(), None, vec![Check::of("file", vec![problem])])),
            Ok(documents) => {
                for document in documents {
                    let mut checks = checks(&document, client.as_ref()).await?;
                    checks.extend(places.second(&document).map(|problem| Check::of("name", vec![problem])));
                    checked.push((source.name.clone(), document.name().map(str::to_owned), checks));
                }
            }
        }
    }
    for (_, _, checks) in &checked {
        wrong += u64::from(checks.iter().any(|check| check.result == "fail"));
    }
    let values: Vec<Value> =
        checked.iter().map(|(file, job, checks)| checks_value(file, job.as_deref(), checks)).collect();
    let names: Vec<String> = checked.iter().filter_map(|(_, job, _)| job.clone()).collect();
    let text = || checked.iter().map(|(file, job, checks)| checks_text(file, job.as_deref(), checks)).collect();
    output::print(args.output.output, &Value::Array(values), &names, text)?;
    let (jobs, files) = (output::count(checked.len() as u64, "job"), output::count(sources.len() as u64, "file"));
    if wrong > 0 {
        bail!("{wrong} of {jobs} in {files} failed");
    }
    tell!("{jobs} in {files} passed");
    Ok(())
}

async fn checks(document: &Document, client: Option<&Client>) -> Result<Vec<Check>> {
    let none = "the fields are wrong";
    let at =
        |violations: Vec<_>| violations.into_iter().map(|violation| document.problem(violation)).collect::<Vec<_>>();
    let file = match document.job() {
        Ok(file) => file,
        Err(problem) => {
            return Ok(vec![
                Check::of("fields", vec![problem]),
                Check::skipped("SQL", none),
                Check::skipped("topic", none),
            ]);
        }
    };
    let fields = at(file.check(Limits::default()));
    let sql = match fields.is_empty() {
        true => Check::of("SQL", at(windrow_processing::validate(&file.spec).await)),
        false => Check::skipped("SQL", none),
    };
    let topic = match client {
        Some(client) => topic(client, document, &file).await?,
        None => Check::skipped("topic", "it needs a cluster: give --server"),
    };
    Ok(vec![Check::of("fields", fields), sql, topic])
}

async fn topic(client: &Client, document: &Document, file: &JobFile) -> Result<Check> {
    let spec = Some(convert::spec(&file.spec));
    let job = v1::Job { name: format!("jobs/{}", file.metadata.name), spec, ..Default::default() };
    let answer = client.jobs().validate_job(v1::ValidateJobRequest { job: Some(job) }).await.map_err(said)?;
    let Some(check) = answer.into_inner().checks.into_iter().find(|check| check.name == "topic") else {
        return Ok(Check::skipped("topic", "the coordinator did not check it"));
    };
    if check.result() == v1::CheckResult::Skipped {
        return Ok(Check::skipped("topic", &check.note));
    }
    let violation = |v: v1::FieldViolation| Violation::new(v.path, &v.reason, v.message);
    let problems = check.violations.into_iter().map(|v| document.problem(violation(v))).collect();
    Ok(Check { note: check.note, ..Check::of("topic", problems) })
}

fn checks_value(file: &str, job: Option<&str>, checks: &[Check]) -> Value {
    let failed = checks.iter().any(|check| check.result == "fail");
    let check = |check: &Check| {
        let violations: Vec<Value> = check.problems.iter().map(job_file::Problem::value).collect();
        json!({"name": check.name, "result": check.result, "note": check.note, "violations": violations})
    };
    let checks: Vec<Value> = checks.iter().map(check).collect();
    json!({"file": file, "job": job, "result": if failed { "fail" } else { "pass" }, "checks": checks})
}

fn checks_text(file: &str, job: Option<&str>, checks: &[Check]) -> String {
    let mut text = format!("{file}: {}\n", job.map_or_else(|| "no job".to_owned(), |job| format!("job {job}")));
    for check in checks {
        let note = if check.note.is_empty() { String::new() } else { format!(": {}", check.note) };
        text += &format!("  {:7}  {}{note}\n", check.result, check.name);
        check.problems.iter().for_each(|problem| text += &format!("           {problem}\n"));
    }
    text
}
