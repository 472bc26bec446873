//! What became of the files, as a person or a program reads it.

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::cell::{Kind, Seen};
use super::columns::Mapping;
use super::time::Local;

/// How many rows of a kind are told one by one.
pub const MAX_SHOWN: usize = 20;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

/// A row that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRow {
    pub file: String,
    pub row: u64,
    pub line: Option<u64>,
    pub column: String,
    pub reason: String,
}

/// A row that the gateway did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRow {
    pub file: String,
    pub row: u64,
    pub field: String,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct FileCount {
    file: String,
    rows: u64,
    good: u64,
    sorted: bool,
}

#[derive(Debug, Clone, Serialize)]
struct ColumnReport {
    name: String,
    /// None without any value.
    #[serde(rename = "type")]
    kind: Option<Kind>,
    missing: u64,
}

/// The summary.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    topic: String,
    files: Vec<FileCount>,
    columns: Vec<ColumnReport>,
    pub rows: u64,
    /// Rows that can't be read, and the first of them.
    pub bad: u64,
    bad_rows: Vec<BadRow>,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    refused_rows: Vec<RefusedRow>,
    /// Cells without a value.
    missing_cells: u64,
    /// Times without an offset; those that the clock showed twice, and never.
    pub local_times: u64,
    ambiguous_times: u64,
    skipped_times: u64,
    /// Rows with the device and the time of a row before them.
    pub duplicate_times: u64,
    first_time: Option<String>,
    last_time: Option<String>,
    /// Requests that were sent again.
    pub retries: u64,
    #[serde(skip)]
    span_us: Option<(i64, i64)>,
    #[serde(skip)]
    hints: Vec<String>,
}

impl Report {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), ..Self::default() }
    }

    pub fn time(&mut self, us: i64, local: Local) {
        let (first, last) = self.span_us.unwrap_or((us, us));
        self.span_us = Some((first.min(us), last.max(us)));
        self.local_times += u64::from(local != Local::No);
        match local {
            Local::No | Local::Plain => {}
            Local::Ambiguous => self.ambiguous_times += 1,
            Local::Skipped => self.skipped_times += 1,
        }
    }

    pub fn bad(&mut self, row: BadRow) {
        self.bad += 1;
        if self.bad_rows.len() < MAX_SHOWN {
            self.bad_rows.push(row);
        }
    }

    pub fn refused(&mut self, row: RefusedRow) {
        if self.refused_rows.len() < MAX_SHOWN {
            self.refused_rows.push(row);
        }
    }

    pub fn file(&mut self, name: &str, rows: u64, good: u64, sorted: bool) {
        self.rows += rows;
        self.files.push(FileCount { file: name.to_owned(), rows, good, sorted });
    }

    pub fn columns(&mut self, mapping: &Mapping, kinds: &[Option<Kind>], seen: &[Seen]) {
        for ((field, kind), seen) in mapping.fields.iter().zip(kinds).zip(seen) {
            self.missing_cells += seen.absent;
            self.columns.push(ColumnReport { name: field.name.clone(), kind: *kind, missing: seen.absent });
        }
        let time = |us| Timestamp::from_microsecond(us).map(|time| time.to_string()).ok();
        self.first_time = self.span_us.and_then(|(first, _)| time(first));
        self.last_time = self.span_us.and_then(|(_, last)| time(last));
    }

    pub fn hint(&mut self, hint: &str) {
        self.hints.push(hint.to_owned());
    }

    /// Hints, and the rows that are told one by one, to stderr.
    pub fn explain(&self) {
        self.hints.iter().for_each(|hint| tell!("note: {hint}"));
        for row in &self.bad_rows {
            let line = row.line.map(|line| format!(" (line {line})")).unwrap_or_default();
            let column = if row.column.is_empty() { String::new() } else { format!(", column {}", row.column) };
            tell!("bad row: {}: row {}{line}{column}: {}", row.file, row.row, row.reason);
        }
        for row in &self.refused_rows {
            let RefusedRow { file, row, field, reason, message } = row;
            tell!("refused: {file}: row {row}, {field}: {message} [{reason}]");
        }
        let shown = (self.bad_rows.len() + self.refused_rows.len()) as u64;
        let more = (self.bad + self.refused).saturating_sub(shown);
        if more > 0 {
            tell!("and {more} more");
        }
    }

    /// The summary to stdout.
    pub fn print(&self, output: Output) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(self)?)?,
            Output::Yaml => write!(out, "{}", serde_saphyr::to_string(self)?)?,
            Output::Table => {
                let mut table = comfy_table::Table::new();
                table.load_preset(comfy_table::presets::NOTHING);
                for (name, value) in self.lines() {
                    table.add_row([name.to_owned(), value]);
                }
                writeln!(out, "{table}")?;
            }
        }
        Ok(())
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let columns = self.columns.iter().map(|column| {
            let kind = column.kind.map_or("no values", Kind::name);
            let missing = if column.missing > 0 { format!(", {} missing", column.missing) } else { String::new() };
            format!("{} ({kind}{missing})", column.name)
        });
        let columns: Vec<String> = columns.collect();
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            ("topic", self.topic.clone()),
            ("files", self.files.len().to_string()),
            ("columns", columns.join("\n")),
            ("first time", time(&self.first_time)),
            ("last time", time(&self.last_time)),
            ("rows", self.rows.to_string()),
            ("bad rows", self.bad.to_string()),
            ("sent", self.sent.to_string()),
            ("accepted", self.accepted.to_string()),
            ("refused", self.refused.to_string()),
            ("missing cells", self.missing_cells.to_string()),
            ("duplicate times", self.duplicate_times.to_string()),
            ("ambiguous local times", self.ambiguous_times.to_string()),
            ("skipped local times", self.skipped_times.to_string()),
            ("requests repeated", self.retries.to_string()),
        ]
    }
}
