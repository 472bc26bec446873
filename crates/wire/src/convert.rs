//! Between the messages and `protocol`. The messages have the fields of the job file, so a spec goes through the same
//! reader as the file: one place says what a field may hold.

use prost_types::Timestamp as PbTimestamp;
use serde_json::{Value, json};
use windrow_protocol::job::{API_VERSION, Violation};
use windrow_protocol::window::shifts::Shift;
use windrow_protocol::{JobFile, JobSpec, Ledger, Timestamp};

use crate::{job_file, v1};

/// Microseconds as the well-known type.
pub fn timestamp(time: Timestamp) -> PbTimestamp {
    let micros = time.micros();
    // Below 1e9, so it fits.
    let nanos = (micros.rem_euclid(1_000_000) * 1_000) as i32;
    PbTimestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// Back, rounded down to microseconds.
pub fn time(timestamp: &PbTimestamp) -> Timestamp {
    Timestamp::from_micros(
        timestamp.seconds.saturating_mul(1_000_000).saturating_add(i64::from(timestamp.nanos) / 1_000),
    )
}

/// The ledger of counts.
pub fn counts(counts: &v1::LedgerCounts) -> Ledger {
    Ledger {
        records: counts.records,
        undecodable: counts.undecodable,
        read: counts.read,
        on_time: counts.on_time,
        late: counts.late,
        skipped: counts.skipped,
        kept: counts.kept,
        quarantined: counts.quarantined,
        duplicate: counts.duplicate,
        lost_offsets: counts.lost_offsets,
        amended: counts.amended,
    }
}

/// A ledger's counts.
pub fn ledger(ledger: &Ledger) -> v1::LedgerCounts {
    v1::LedgerCounts {
        records: ledger.records,
        undecodable: ledger.undecodable,
        read: ledger.read,
        on_time: ledger.on_time,
        late: ledger.late,
        skipped: ledger.skipped,
        kept: ledger.kept,
        quarantined: ledger.quarantined,
        duplicate: ledger.duplicate,
        lost_offsets: ledger.lost_offsets,
        amended: ledger.amended,
    }
}

/// A job message as a job file. The violation names the field.
pub fn job_file(job: &v1::Job) -> Result<JobFile, Violation> {
    let Some(name) = job.name.strip_prefix("jobs/") else {
        let message = format!("name {:?} is not of the form jobs/NAME", job.name);
        return Err(Violation::new("metadata.name", "INVALID_VALUE", message));
    };
    let Some(spec) = &job.spec else { return Err(Violation::new("spec", "MISSING_FIELD", "field `spec` is missing")) };
    job_file::read(json!({
        "apiVersion": API_VERSION,
        "kind": "Job",
        "metadata": {"name": name, "labels": job.labels},
        "spec": spec_value(spec),
    }))
}

/// Absent fields are left out, so that the job file's defaults apply.
fn spec_value(spec: &v1::JobSpec) -> Value {
    let mut out = json!({"map": spec.map});
    let mut set = |key: &str, value: &str| {
        if !value.is_empty() {
            out[key] = json!(value);
        }
    };
    set("lateness", &spec.lateness);
    set("idleTimeout", &spec.idle_timeout);
    set("late", &spec.late);
    set("amendReach", &spec.amend_reach);
    set("attemptTimeout", &spec.attempt_timeout);
    if let Some(reduce) = &spec.reduce {
        out["reduce"] = json!(reduce);
    }
    if spec.max_attempts > 0 {
        out["maxAttempts"] = json!(spec.max_attempts);
    }
    if let Some(output) = &spec.output {
        for (key, text) in [("format", &output.format), ("retention", &output.retention)] {
            if !text.is_empty() {
                out["output"][key] = json!(text);
            }
        }
    }
    if let Some(window) = &spec.window {
        out["window"] = json!({"every": window.every});
        if !window.time_zone.is_empty() {
            out["window"]["timeZone"] = json!(window.time_zone);
        }
        if !window.shifts.is_empty() {
            out["window"]["shifts"] = window.shifts.iter().map(shift_value).collect();
        }
        if !window.holidays.is_empty() {
            out["window"]["holidays"] = json!(window.holidays);
        }
        if let Some(readings) = window.readings {
            out["window"]["readings"] = json!(readings);
        }
        for (key, value) in [("bytes", &window.bytes), ("within", &window.within)] {
            if !value.is_empty() {
                out["window"][key] = json!(value);
            }
        }
    }
    if let Some(source) = &spec.source {
        out["source"] = json!({"topic": source.topic, "values": source.values, "tags": source.tags});
        if !source.format.is_empty() {
            out["source"]["format"] = json!(source.format);
        }
        if let Some(json) = &source.json {
            out["source"]["json"] = json_source(json);
        }
    }
    out
}

fn shift_value(shift: &v1::Shift) -> Value {
    let mut out = json!({"name": shift.name, "from": shift.from, "to": shift.to});
    if !shift.days.is_empty() {
        out["days"] = json!(shift.days);
    }
    out
}

fn shift(shift: &Shift) -> v1::Shift {
    v1::Shift {
        name: shift.name.clone(),
        from: shift.from.to_string(),
        to: shift.to.to_string(),
        days: shift.days.iter().map(|day| day.name().to_owned()).collect(),
    }
}

fn json_source(source: &v1::JsonSource) -> Value {
    let mut out = json!({});
    for (key, value) in [("device", &source.device), ("seq", &source.seq)] {
        if let Some(value) = value {
            out[key] = json!(value);
        }
    }
    if let Some(time) = &source.time {
        out["time"] = json!({"field": time.field, "format": time.format});
        if !time.bound.is_empty() {
            out["time"]["bound"] = json!(time.bound);
        }
    }
    out
}

/// A spec as a message.
pub fn spec(spec: &JobSpec) -> v1::JobSpec {
    // A spec is a struct of strings, numbers and maps with text keys: it always has a JSON form.
    let value = serde_json::to_value(spec).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let maybe = |value: &Value| value.as_str().map(str::to_owned);
    let source = &value["source"];
    let json = source.get("json").filter(|json| json.is_object()).map(|json| v1::JsonSource {
        device: maybe(&json["device"]),
        seq: maybe(&json["seq"]),
        time: json.get("time").filter(|time| time.is_object()).map(|time| v1::JsonTime {
            field: text(&time["field"]),
            format: text(&time["format"]),
            bound: text(&time["bound"]),
        }),
    });
    v1::JobSpec {
        source: Some(v1::Source {
            topic: text(&source["topic"]),
            values: spec.source.values.iter().map(|(name, kind)| (name.clone(), kind.name().to_owned())).collect(),
            tags: spec.source.tags.clone(),
            format: text(&source["format"]),
            json,
        }),
        window: Some(v1::WindowSpec {
            every: text(&value["window"]["every"]),
            time_zone: text(&value["window"]["timeZone"]),
            shifts: spec.window.shifts.iter().map(shift).collect(),
            holidays: spec.window.holidays.iter().map(ToString::to_string).collect(),
            readings: spec.window.readings,
            bytes: text(&value["window"]["bytes"]),
            within: text(&value["window"]["within"]),
        }),
        lateness: text(&value["lateness"]),
        idle_timeout: text(&value["idleTimeout"]),
        late: text(&value["late"]),
        amend_reach: text(&value["amendReach"]),
        attempt_timeout: text(&value["attemptTimeout"]),
        map: spec.map.clone(),
        reduce: spec.reduce.clone(),
        output: Some(v1::Output {
            format: text(&value["output"]["format"]),
            retention: text(&value["output"]["retention"]),
        }),
        max_attempts: spec.max_attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"source": {"topic": "t", "values": {"v": "f64"}, "tags": ["zone"], "format": "json",
        "json": {"device": "d", "time": {"field": "ts", "format": "unix_millis", "bound": "5m"}}},
        "window": {"every": "day", "timeZone": "America/Chicago"}, "lateness": "10m", "idleTimeout": "5s",
        "late": "drop", "map": "SELECT 1", "reduce": "SELECT 2", "maxAttempts": 7, "attemptTimeout": "20m"}"#;

    const SHIFTS: &str = r#"{"source": {"topic": "t"}, "window": {"every": "shift", "timeZone": "Europe/Berlin",
        "shifts": [{"name": "early", "from": "06:00", "to": "14:00", "days": ["mon", "sun"]},
        {"name": "night", "from": "22:00", "to": "06:00"}], "holidays": ["2026-12-25"]}, "map": "SELECT 1"}"#;

    const VOLUMES: [&str; 2] = [
        r#"{"source": {"topic": "t"}, "window": {"every": "volume", "readings": 5, "within": "1h"}, "map": "SELECT 1"}"#,
        r#"{"source": {"topic": "t"}, "window": {"every": "volume", "bytes": "64MiB"}, "map": "SELECT 1"}"#,
    ];

    #[test]
    fn a_spec_goes_there_and_back() {
        let amend = FULL.replace(r#""late": "drop""#, r#""late": "amend", "amendReach": "3d""#);
        let kept = FULL.replace(r#""late": "drop""#, r#""output": {"format": "parquet", "retention": "90d"}"#);
        let [readings, bytes] = VOLUMES;
        for text in [
            FULL,
            &amend,
            &kept,
            SHIFTS,
            readings,
            bytes,
            r#"{"source": {"topic": "t"}, "window": {"every": "1h"}, "map": "SELECT 1"}"#,
        ] {
            let before: JobSpec = serde_json::from_str(text).unwrap();
            let job = v1::Job { name: "jobs/j".to_owned(), spec: Some(spec(&before)), ..Default::default() };
            assert_eq!(job_file(&job).unwrap().spec, before);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let job = |spec| v1::Job { name: "jobs/j".to_owned(), spec, ..Default::default() };
        assert_eq!(job_file(&job(None)).unwrap_err().path, "spec");
        assert_eq!(job_file(&job(Some(v1::JobSpec::default()))).unwrap_err().path, "spec.source");
        assert!(job_file(&v1::Job::default()).unwrap_err().message.contains("jobs/NAME"));
    }

    #[test]
    fn times_keep_their_microseconds() {
        for micros in [0, -1, 1_441_065_600_123_456] {
            assert_eq!(time(&timestamp(Timestamp::from_micros(micros))).micros(), micros);
        }
    }
}
