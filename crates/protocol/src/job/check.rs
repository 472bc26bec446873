//! The checks of a job that need nothing but the job. SQL is checked where it can be planned, topics where there is a log.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{API_VERSION, Format, JobFile, JobSpec, LEAST_ATTEMPT_TIMEOUT, LatePolicy, closest};
use crate::WindowSpec;
use crate::duration::{DAY_MS, Length};
use crate::window::Every;
use crate::window::shifts::{self, MAX_HOLIDAYS, MAX_SHIFTS};

mod volume;

/// One thing that is wrong with a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Field in the job file, e.g. `spec.window.timeZone`.
    pub path: String,
    /// Stable code, `UPPER_SNAKE`.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Position within the field's text (SQL), 1-based line and column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(u32, u32)>,
}

impl Violation {
    /// A violation without position.
    pub fn new(path: impl Into<String>, reason: &str, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.to_owned(), message: message.into(), position: None }
    }
}

/// What the gateways of the cluster guarantee about blocks; a job's lateness must cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How far ahead of the gateway's clock an event time may be. Default 30 s.
    pub max_skew: Length,
    /// How much event time one block may span. Default 60 s.
    pub max_block_span: Length,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_skew: Length::from_secs(30), max_block_span: Length::from_secs(60) }
    }
}

/// Columns that every reading has.
const OWN_COLUMNS: [&str; 3] = ["device", "time", "seq"];

/// The most declared columns a job can have.
const MAX_COLUMNS: usize = 1_000;

/// The longest SQL text, in bytes. A job must fit an etcd request (1.5 MiB) several times over.
const MAX_SQL_BYTES: usize = 64 * 1024;

impl JobFile {
    /// Everything that is wrong with the file, in the order of its fields.
    pub fn check(&self, limits: Limits) -> Vec<Violation> {
        let mut violations = Vec::new();
        if self.api_version != API_VERSION {
            let message = format!("apiVersion {:?} is not known; expected {API_VERSION}", self.api_version);
            violations.push(Violation::new("apiVersion", "UNKNOWN_API_VERSION", message));
        }
        violations.extend(self.spec.check(limits));
        violations
    }
}

impl JobSpec {
    /// Everything that is wrong with the spec, in the order of its fields.
    pub fn check(&self, limits: Limits) -> Vec<Violation> {
        let mut violations = Vec::new();
        self.check_columns(&mut violations);
        self.check_format(&mut violations);
        if let Err(error) = self.window.calendar() {
            let zones = jiff::tz::db().available().map(|name| name.to_string());
            let meant = closest(&self.window.time_zone, zones).map(|name| format!("; did you mean {name}?"));
            let message = format!("{error}{}", meant.unwrap_or_default());
            violations.push(Violation::new("spec.window.timeZone", "UNKNOWN_TIME_ZONE", message));
        } else if let Every::Fixed(length) = self.window.every
            && length.millis() % DAY_MS == 0
            && self.window.time_zone != "UTC"
        {
            let WindowSpec { every, time_zone, .. } = &self.window;
            let message = format!(
                "windows of {every} begin at midnight UTC, wherever the zone is; write every: day (or week, month) for those of \
                 {time_zone}, or remove timeZone"
            );
            violations.push(Violation::new("spec.window.timeZone", "NOT_APPLICABLE", message));
        }
        self.check_shifts(&mut violations);
        self.check_volume(&mut violations);
        self.check_times(limits, &mut violations);
        check_sql("spec.map", &self.map, &mut violations);
        if let Some(reduce) = &self.reduce {
            check_sql("spec.reduce", reduce, &mut violations);
        }
        if self.max_attempts == 0 {
            violations.push(Violation::new("spec.maxAttempts", "OUT_OF_RANGE", "maxAttempts must be at least 1"));
        }
        violations
    }

    fn check_columns(&self, violations: &mut Vec<Violation>) {
        let mut seen: BTreeSet<&str> = OWN_COLUMNS.into();
        let values = self.source.values.keys().map(|name| (format!("spec.source.values.{name}"), name));
        let tags = self.source.tags.iter().enumerate().map(|(i, name)| (format!("spec.source.tags[{i}]"), name));
        for (path, name) in values.chain(tags) {
            if name.is_empty() || name.len() > 128 {
                violations.push(Violation::new(&path, "INVALID_COLUMN", "a column's name has 1 to 128 bytes"));
            } else if !seen.insert(name) {
                let message = format!(
                    "column {name:?} is declared twice, or is one of device, time, seq, which every reading has"
                );
                violations.push(Violation::new(&path, "DUPLICATE_COLUMN", message));
            }
        }
        if seen.len() > MAX_COLUMNS {
            let message = format!("{} columns are declared; at most {MAX_COLUMNS} can be", seen.len());
            violations.push(Violation::new("spec.source.values", "TOO_MANY_COLUMNS", message));
        }
    }

    fn check_format(&self, violations: &mut Vec<Violation>) {
        if self.source.json.is_some() && self.source.format != Format::Json {
            let message = "source.json is given but source.format is not json; add format: json or remove it";
            violations.push(Violation::new("spec.source.json", "FORMAT_MISMATCH", message));
        }
    }

    fn check_shifts(&self, violations: &mut Vec<Violation>) {
        let WindowSpec { every, shifts, holidays, .. } = &self.window;
        let mut refuse = |path: &str, reason, message: String| {
            violations.push(Violation::new(format!("spec.window.{path}"), reason, message));
        };
        if *every != Every::Shift {
            for (path, given) in [("shifts", !shifts.is_empty()), ("holidays", !holidays.is_empty())] {
                if given {
                    let message = format!("{path} need every: shift; this job's windows are every: {every}");
                    refuse(path, "NOT_APPLICABLE", message);
                }
            }
            return;
        }
        if !(1..=MAX_SHIFTS).contains(&shifts.len()) {
            let message = format!(
                "every: shift needs 1 to {MAX_SHIFTS} shifts, not {}; e.g. shifts: [{{name: early, from: \"06:00\", to: \
                 \"14:00\"}}]",
                shifts.len()
            );
            refuse("shifts", "OUT_OF_RANGE", message);
        }
        if holidays.len() > MAX_HOLIDAYS {
            let message = format!("{} holidays are given; at most {MAX_HOLIDAYS} can be", holidays.len());
            refuse("holidays", "OUT_OF_RANGE", message);
        }
        for (i, shift) in shifts.iter().enumerate() {
            if shift.name.is_empty() || shift.name.len() > 63 || shift.name.contains(char::is_control) {
                let message = "a shift's name has 1 to 63 bytes, on one line".to_owned();
                refuse(&format!("shifts[{i}].name"), "INVALID_VALUE", message);
            }
            if shift.days.is_empty() {
                let message = "a shift without days never is; leave days out for all days".to_owned();
                refuse(&format!("shifts[{i}].days"), "INVALID_VALUE", message);
            }
        }
        if let Some((first, second)) = shifts::overlap(shifts) {
            let message = format!("shift {first:?} is not over when {second:?} begins; a reading has one shift");
            refuse("shifts", "OVERLAP", message);
        }
    }

    fn check_times(&self, limits: Limits, violations: &mut Vec<Violation>) {
        // Blocks of a windrow topic span event time and may be ahead of the clock; foreign messages are single points.
        let least = match self.source.format {
            Format::Windrow => limits.max_skew.millis() + limits.max_block_span.millis(),
            Format::Json => limits.max_skew.millis(),
        };
        if self.window.every != Every::Volume && self.lateness.millis() <= least {
            let message = format!(
                "lateness {} is too short: it must exceed {}, the clock skew ({}) plus the block span ({}) that gateways allow",
                self.lateness,
                Length::from_millis(least),
                limits.max_skew,
                limits.max_block_span
            );
            violations.push(Violation::new("spec.lateness", "LATENESS_TOO_SHORT", message));
        }
        if self.amend_reach.is_some() && self.late != LatePolicy::Amend {
            let message = "amendReach needs late: amend; add that or remove it";
            violations.push(Violation::new("spec.amendReach", "NOT_APPLICABLE", message));
        }
        if let Some(retention) = self.output.retention {
            let reach = self.late_rule().reach;
            if retention.millis() == 0 {
                let message = "retention must be longer than 0s, e.g. 90d; leave it out to keep all windows";
                violations.push(Violation::new("spec.output.retention", "OUT_OF_RANGE", message));
            } else if self.late == LatePolicy::Amend && retention < reach {
                let message = format!(
                    "retention {retention} is shorter than amendReach {reach}: late readings would amend windows that are \
                     gone; make it longer, or amendReach shorter"
                );
                violations.push(Violation::new("spec.output.retention", "RETENTION_TOO_SHORT", message));
            }
        }
        if self.idle_timeout.millis() == 0 {
            let message = "idleTimeout must be longer than 0s, e.g. 5m";
            violations.push(Violation::new("spec.idleTimeout", "OUT_OF_RANGE", message));
        }
        if self.attempt_timeout() < LEAST_ATTEMPT_TIMEOUT {
            let message = format!(
                "attemptTimeout {} is too short: one request to a store that is away for a moment can take 3 minutes; make it \
                 {LEAST_ATTEMPT_TIMEOUT} or longer",
                self.attempt_timeout()
            );
            violations.push(Violation::new("spec.attemptTimeout", "OUT_OF_RANGE", message));
        }
    }
}

fn check_sql(path: &str, sql: &str, violations: &mut Vec<Violation>) {
    if sql.trim().is_empty() {
        violations.push(Violation::new(
            path,
            "EMPTY_SQL",
            "expected one SELECT statement, e.g. SELECT device, count(*) AS n FROM readings GROUP BY device",
        ));
    } else if sql.len() > MAX_SQL_BYTES {
        let message = format!("the SQL has {} bytes; at most {MAX_SQL_BYTES} are allowed", sql.len());
        violations.push(Violation::new(path, "SQL_TOO_LONG", message));
    }
}
