//! The lines of the worker paths.

use anyhow::Result;

use crate::parts::{self, Parts};
use crate::table::{Line, megabytes, millions};
use crate::worker::{Backlog, Runs, kafka};
use crate::{Options, Path, fleet};

/// Measures the wanted paths over one kind of topic.
pub async fn measure(options: &Options, json: bool) -> Result<Vec<Line>> {
    let (rows, aggregates) =
        if json { (Path::JsonRows, Path::JsonAggregates) } else { (Path::BlocksRows, Path::BlocksAggregates) };
    let (rows, aggregates) = (options.wants(rows), options.wants(aggregates));
    if !rows && !aggregates {
        return Ok(Vec::new());
    }
    let log = kafka().await?;
    let backlog = Backlog::create(log.as_ref(), if json { options.messages } else { options.readings }, json).await?;
    let result = lines(options, log.as_ref(), &backlog, rows, aggregates).await;
    log.delete_topic(&backlog.topic).await?;
    result
}

async fn lines(
    options: &Options,
    log: &dyn windrow_ports::Log,
    backlog: &Backlog,
    rows: bool,
    aggregates: bool,
) -> Result<Vec<Line>> {
    let parts = parts::measure(log, backlog, options.repeats).await?;
    let mut lines = Vec::new();
    let rows = if rows { Some(Runs::of(backlog, fleet::ROWS_SQL, options).await?) } else { None };
    let aggregates = if aggregates { Some(Runs::of(backlog, fleet::AGGREGATES_SQL, options).await?) } else { None };
    if let Some(runs) = &rows {
        lines.push(line(backlog, true, runs, &parts, options));
        if !backlog.json {
            lines.push(memory(backlog, runs, options));
        }
    }
    if let Some(runs) = &aggregates {
        lines.push(line(backlog, false, runs, &parts, options));
    }
    if let (Some(rows), Some(aggregates)) = (&rows, &aggregates) {
        let cost = rows.cost() + aggregates.cost();
        lines.push(Line {
            path: if backlog.json { "json-rows + json-aggregates" } else { "blocks-rows + blocks-aggregates" },
            what: "the two jobs above, one after the other: the topic is read and decoded twice".to_owned(),
            measured: millions(1.0 / cost),
            floor_and_goal: if backlog.json { "0.6 -> 1.2 M/s" } else { "2 -> 4.5 M/s" },
            roofline: format!("{:.0} %", 100.0 * (parts.rows() + parts.aggregates()) / cost),
        });
    }
    Ok(lines)
}

fn line(backlog: &Backlog, rows: bool, runs: &Runs, parts: &Parts, options: &Options) -> Line {
    let messages = if backlog.json { "JSON messages of one reading" } else { "blocks of 1,000" };
    let sql = if rows { fleet::ROWS_SQL } else { fleet::AGGREGATES_SQL };
    let roofline = if rows { parts.rows() } else { parts.aggregates() };
    Line {
        path: match (backlog.json, rows) {
            (false, true) => "blocks-rows",
            (false, false) => "blocks-aggregates",
            (true, true) => "json-rows",
            (true, false) => "json-aggregates",
        },
        what: format!("{} readings, {messages}, {} slots: `{sql}`", backlog.readings, options.slots),
        measured: format!("{} (wall clock {})", millions(1.0 / runs.cost()), millions(runs.pace())),
        floor_and_goal: match (backlog.json, rows) {
            (false, true) => "2 -> 4.5 M/s",
            (false, false) => "5 -> 12 M/s",
            (true, _) => "0.6 -> 1.2 M/s",
        },
        roofline: format!(
            "{:.0} % of {} ({})",
            100.0 * roofline / runs.cost(),
            millions(1.0 / roofline),
            parts.words(rows)
        ),
    }
}

fn memory(backlog: &Backlog, runs: &Runs, options: &Options) -> Line {
    Line {
        path: "blocks-rows, memory",
        what: format!(
            "highest resident memory of that process, {} slots, {} readings",
            options.slots, backlog.readings
        ),
        measured: megabytes(runs.peak_bytes()),
        floor_and_goal: "500 -> 250 MB",
        roofline: String::new(),
    }
}
