//! The job: what to compute, over which topic, in which windows, written where. The YAML job file is this, field by field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::duration::{DAY_MS, Length};
use crate::{JobName, TopicName, Window, WindowSpec};

mod check;
mod meant;
pub use check::{Limits, Violation};
pub use meant::closest;

/// `apiVersion` of job files.
pub const API_VERSION: &str = "windrow/v1";

/// A job file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobFile {
    /// `windrow/v1`.
    pub api_version: String,
    /// `Job`.
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: JobSpec,
}

/// The kinds of objects that files can declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Job,
}

/// Who the object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    pub name: JobName,
    /// Free key-value pairs for people and tools; windrow decides nothing by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a job computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    pub source: Source,
    pub window: WindowSpec,
    /// How much later than a window's end its readings may still arrive, in event time of the partition. Default 10m.
    #[serde(default = "default_lateness")]
    pub lateness: Length,
    /// Wall clock after which a silent partition no longer holds a window back. Default 5m.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Length,
    /// What becomes of readings that come after their window was sealed. Default `side`.
    #[serde(default)]
    pub late: LatePolicy,
    /// With `late: amend`: how far before a batch's window another may have ended to be amended by its late readings.
    /// Default 7d; what is older is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amend_reach: Option<Length>,
    /// SQL over table `readings` (device, time, seq, declared values and tags), run once per partition of a window.
    pub map: String,
    /// SQL over table `parts` (all map outputs of a window), run once per window. Without it the map's output is the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<String>,
    #[serde(default)]
    pub output: Output,
    /// How often a batch is tried before it is parked as failed. Default 5.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// How long the work of one attempt at a batch may take: reading, SQL, upload. Then it is stopped and counts as failed.
    /// Default 1h, at least 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Length>,
}

fn default_lateness() -> Length {
    Length::from_secs(600)
}

fn default_idle_timeout() -> Length {
    Length::from_secs(300)
}

/// [`JobSpec::amend_reach`] where it is left out: a week.
const DEFAULT_REACH: Length = Length::from_whole_millis(7 * DAY_MS);

/// [`JobSpec::attempt_timeout`] where it is left out: an hour.
const DEFAULT_ATTEMPT_TIMEOUT: Length = Length::from_whole_millis(3_600_000);

/// A client of an object store tries for 3 minutes before it says that the store can't be reached.
const LEAST_ATTEMPT_TIMEOUT: Length = Length::from_whole_millis(300_000);

fn default_max_attempts() -> u32 {
    5
}

/// Where readings come from and what they carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    pub topic: TopicName,
    /// Columns with measured values, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, ValueType>,
    /// Columns of strings that rarely change: zone, site, model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What the topic's messages are. Default `windrow`.
    #[serde(default)]
    pub format: Format,
    /// How to find device and time in JSON messages; only with `format: json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonSource>,
}

/// What a topic's messages hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Blocks that a windrow gateway wrote.
    #[default]
    Windrow,
    /// One JSON object, an array of them, or one per line (NDJSON), as others write them.
    Json,
}

/// Where a JSON message keeps its device, time and sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JsonSource {
    /// Field that names the device. Default: the message's key, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Field that holds the sequence number. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<String>,
    /// Field that holds the event time. Default: the message's timestamp is the event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<JsonTime>,
}

/// An event time inside a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JsonTime {
    pub field: String,
    #[serde(default)]
    pub format: TimeFormat,
    /// Furthest distance of this time from the message's timestamp, either way. Readings outside are quarantined.
    pub bound: Length,
}

/// How an event time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// `2026-03-29T01:30:00Z`, any offset.
    #[default]
    Rfc3339,
    UnixSeconds,
    UnixMillis,
    UnixMicros,
}

/// Type of a declared value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    F64,
    I64,
    Bool,
    String,
}

impl ValueType {
    /// As written in a job file.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

/// What becomes of late readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// Written once to the `late/` dataset.
    #[default]
    Side,
    /// Counted in the ledger, not kept.
    Drop,
    /// Their windows are run again with them, as another revision; those beyond the reach are set aside.
    Amend,
}

/// How a batch treats late readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LateRule {
    pub policy: LatePolicy,
    /// With `amend`: how far before the batch's window another may have ended to be amended.
    pub reach: Length,
}

impl LateRule {
    /// Whether a reading of window `touched` that came late to a batch of `window` amends it.
    pub fn amends(&self, window: Window, touched: Window) -> bool {
        self.policy == LatePolicy::Amend && window.start.plus_micros(-self.reach.micros()) <= touched.end
    }

    /// The same, but that nothing is amended.
    #[must_use]
    pub fn set_aside(self) -> Self {
        let policy = if self.policy == LatePolicy::Amend { LatePolicy::Side } else { self.policy };
        Self { policy, ..self }
    }

    /// Whether late readings that amend nothing are written to the late set.
    pub fn sets_aside(&self) -> bool {
        self.policy != LatePolicy::Drop
    }
}

/// How results are written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    #[serde(default)]
    pub format: OutputFormat,
    /// How far behind the job's newest complete window another may have ended and be kept, files and markers. Default: all
    /// are kept for ever. Event time, but no later than the wall clock: while nothing comes, nothing goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Length>,
}

/// File format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// Parquet, zstd.
    #[default]
    Parquet,
}

impl JobSpec {
    /// SHA-256 (first 16 hex digits) over the canonical JSON: equal specs have the same, others another one,
    /// but for how long an attempt may take, which the job as it is now decides.
    pub fn hash(&self) -> String {
        // Maps are ordered and no float occurs, so the JSON is canonical; a struct of strings and maps always serialises.
        let json = serde_json::to_vec(&Self { attempt_timeout: None, ..self.clone() }).unwrap_or_default();
        Sha256::digest(&json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// How the job's batches treat late readings.
    pub fn late_rule(&self) -> LateRule {
        LateRule { policy: self.late, reach: self.amend_reach.unwrap_or(DEFAULT_REACH) }
    }

    /// How long the work of one attempt at a batch may take.
    pub fn attempt_timeout(&self) -> Length {
        self.attempt_timeout.unwrap_or(DEFAULT_ATTEMPT_TIMEOUT)
    }

    /// How far event times may lie from their record's timestamp (0 unless the event time is a JSON field).
    pub fn time_bound(&self) -> Length {
        self.source.json.as_ref().and_then(|json| json.time.as_ref()).map_or(Length::default(), |time| time.bound)
    }
}

#[cfg(test)]
mod tests;
