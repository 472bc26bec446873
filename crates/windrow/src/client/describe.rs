//! `windrow describe`: everything about one job, and what to try next.

use anyhow::Result;
use serde_json::{Value, json};
use windrow_wire::{convert, v1};

use super::jobs::{self, JobArgs};
use super::partitions;
use super::windows::{self, BatchRow, InFlight};
use super::{last_segment, said};
use crate::output;

/// Windows in flight that are shown in the table.
const MOST_WINDOWS: usize = 20;

pub async fn run(args: JobArgs) -> Result<()> {
    let client = args.server.connect().await?;
    let job = client.job(&args.job).await.map_err(said)?;
    // Kafka may be what is wrong: all else is known without it.
    let (found, _) = client.partitions(&args.job).await.unwrap_or_else(|status| {
        tell!("warning: the partitions can't be shown: {}", status.message());
        Default::default()
    });
    let flying = windows::in_flight(&client.windows_in_flight(&args.job).await.map_err(said)?);
    let next = next(&args, &job, &flying);
    let mut value = jobs::value(&job);
    value["partitions"] = found.iter().map(partitions::value).collect();
    value["windowsInFlight"] = flying.iter().map(window_value).collect();
    value["next"] = json!(next);
    output::print(args.output.output, &value, std::slice::from_ref(&args.job), || {
        let mut text = head(&job, &flying);
        let cells = found.iter().map(partitions::cells).collect();
        section(&mut text, "Partitions", &output::table(&partitions::HEADER, cells));
        section(&mut text, "Windows in flight", &window_table(&job, &flying));
        section(&mut text, "Next", &next.join("\n"));
        text
    })
}

fn section(text: &mut String, title: &str, body: &str) {
    let body = if body.is_empty() { "none" } else { body };
    *text += &format!("\n{title}:\n");
    body.lines().for_each(|line| *text += &format!("  {line}\n"));
}

fn window_value(window: &InFlight) -> Value {
    let state = window.state().name();
    let error = window.failed().and_then(BatchRow::last_error);
    json!({"window": window.window, "start": window.start, "end": window.end, "state": state,
        "batches": window.batches.len(), "lastError": error})
}

fn window_table(job: &v1::Job, flying: &[InFlight]) -> String {
    let zone = windows::zone(job);
    let cells = |window: &InFlight| {
        let error = window.failed().map(BatchRow::error).unwrap_or_default();
        let batches = window.batches.len().to_string();
        vec![
            window.window.to_string(),
            windows::local(window.start, &zone),
            window.state().name().to_owned(),
            batches,
            error,
        ]
    };
    let rows = flying.iter().take(MOST_WINDOWS).map(cells).collect();
    let mut text = output::table(&["WINDOW", "STARTS", "STATE", "BATCHES", "ERROR"], rows);
    if flying.len() > MOST_WINDOWS {
        text += &format!("\nand {} more", flying.len() - MOST_WINDOWS);
    }
    text
}

/// The error to look at first: a parked batch's, else the last one that is still being tried.
fn last_error(flying: &[InFlight]) -> Option<String> {
    let batches = || flying.iter().flat_map(|window| window.batches.iter().map(move |batch| (window, batch)));
    let parked = flying.iter().find_map(|window| window.failed().map(|batch| (window, batch)));
    let found = parked.or_else(|| batches().find(|(_, batch)| batch.last_error().is_some()));
    found.map(|(window, batch)| {
        format!("window {}, {}: {}", window.window, batch.name(), batch.last_error().unwrap_or_default())
    })
}

/// Windows of volume in words; `None` for those of time.
fn volume(window: &v1::WindowSpec) -> Option<String> {
    let amount = match window.readings {
        Some(readings) => format!("{readings} readings"),
        None if window.bytes.is_empty() => return None,
        None => window.bytes.clone(),
    };
    let within =
        if window.within.is_empty() { String::new() } else { format!(", or what comes within {},", window.within) };
    Some(amount + &within)
}

fn head(job: &v1::Job, flying: &[InFlight]) -> String {
    let (status, spec) = (job.status.clone().unwrap_or_default(), job.spec.clone().unwrap_or_default());
    let (source, window) = (spec.source.unwrap_or_default(), spec.window.unwrap_or_default());
    let zone = windows::zone(job);
    let time = |time: &Option<_>| time.as_ref().map_or_else(|| "-".to_owned(), |t| convert::time(t).to_string());
    let through = status.complete_through.as_ref().map(convert::time);
    let through =
        through.map(|through| format!(", through {}", windows::local(Some(through), &zone))).unwrap_or_default();
    let labels: Vec<String> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut lines = vec![
        ("Name", last_segment(&job.name).to_owned()),
        ("State", super::state_name(job.state().as_str_name(), "JOB_STATE_")),
        (
            "Generation",
            format!("{} (created {}, changed {})", job.generation, time(&job.create_time), time(&job.update_time)),
        ),
        ("Topic", format!("{} ({})", source.topic, source.format)),
        (
            "Windows",
            match volume(&window) {
                Some(volume) => format!("{volume} of a partition, idle timeout {}", spec.idle_timeout),
                None => format!(
                    "{} in {}, lateness {}, idle timeout {}",
                    window.every, window.time_zone, spec.lateness, spec.idle_timeout
                ),
            },
        ),
        ("Complete", format!("{}{through}", output::count(status.windows_complete, "window"))),
        (
            "Batches",
            format!(
                "{} pending, {} running, {} failed",
                status.batches_pending, status.batches_running, status.batches_failed
            ),
        ),
    ];
    let again = match status.revisions_pending {
        0 => String::new(),
        n => format!("{n} pending: late readings that amend their windows, or backfills"),
    };
    let maybe = [
        ("Labels", labels.join(", ")),
        ("Paused", status.pause_note),
        ("Problem", status.problem),
        ("Revisions", again),
    ];
    lines.extend(maybe.into_iter().filter(|(_, text)| !text.is_empty()));
    lines.extend(last_error(flying).map(|error| ("Last error", error)));
    lines.push(("Map", spec.map));
    lines.extend(spec.reduce.map(|reduce| ("Reduce", reduce)));
    let line = |(name, text): (&str, String)| {
        format!("{:<12}{}\n", format!("{name}:"), text.trim_end().replace('\n', "\n            "))
    };
    lines.into_iter().map(line).collect()
}

fn next(args: &JobArgs, job: &v1::Job, flying: &[InFlight]) -> Vec<String> {
    let name = args.job.as_str();
    let mut next = Vec::new();
    if let Some(window) = flying.iter().find(|window| window.failed().is_some()) {
        next.push(args.server.command(&["retry", name, &window.window.to_string()]));
        next.push(args.server.command(&["skip", name, &window.window.to_string(), "--reason", "WHY"]));
    }
    if job.state() == v1::JobState::Paused {
        next.push(args.server.command(&["resume", name]));
    }
    next.push(args.server.command(&["get", "windows", "--job", name]));
    if job.status.as_ref().is_some_and(|status| status.windows_complete > 0) {
        next.push(args.server.command(&["cat", name]));
        next.push(args.server.command(&["verify", name]));
    }
    next
}
