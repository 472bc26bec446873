use super::*;
use crate::volume::Amount;

const CONGESTION: &str = r#"{
    "apiVersion": "windrow/v1", "kind": "Job", "metadata": {"name": "congestion"},
    "spec": {
        "source": {"topic": "traffic", "values": {"speed": "f64", "occupancy": "f64"}, "tags": ["district"]},
        "window": {"every": "day", "timeZone": "America/Chicago"},
        "lateness": "10m", "idleTimeout": "5s",
        "map": "SELECT device FROM readings", "output": {"format": "parquet"}
    }
}"#;

fn congestion() -> JobFile {
    serde_json::from_str(CONGESTION).unwrap()
}

fn reasons(file: &JobFile) -> Vec<String> {
    file.check(Limits::default()).into_iter().map(|v| format!("{} {}", v.path, v.reason)).collect()
}

#[test]
fn a_good_job_has_no_violations_and_the_documented_defaults() {
    let job = congestion();
    assert_eq!(reasons(&job), Vec::<String>::new());
    assert_eq!((job.spec.late, job.spec.max_attempts), (LatePolicy::Side, 5));
    assert_eq!(job.spec.attempt_timeout(), Length::from_secs(3_600));
    let longer = JobSpec { attempt_timeout: Some(Length::from_secs(7_200)), ..job.spec.clone() };
    assert_eq!(longer.hash(), job.spec.hash(), "batches that are planned already have it, too");
}

#[test]
fn an_unknown_field_is_refused() {
    let error = serde_json::from_str::<JobFile>(&CONGESTION.replace("lateness", "latenes")).unwrap_err();
    assert!(error.to_string().contains("latenes"), "{error}");
}

#[test]
fn each_mistake_is_named_with_its_path() {
    let mut job = congestion();
    job.api_version = "windrow/v2".into();
    job.spec.window.time_zone = "Mars/Olympus".into();
    job.spec.lateness = Length::from_secs(90);
    job.spec.idle_timeout = Length::default();
    job.spec.source.tags.push("time".into());
    job.spec.source.json = Some(JsonSource::default());
    job.spec.map = "  ".into();
    job.spec.max_attempts = 0;
    job.spec.attempt_timeout = Some(Length::default());
    assert_eq!(
        reasons(&job),
        [
            "apiVersion UNKNOWN_API_VERSION",
            "spec.source.tags[1] DUPLICATE_COLUMN",
            "spec.source.json FORMAT_MISMATCH",
            "spec.window.timeZone UNKNOWN_TIME_ZONE",
            "spec.lateness LATENESS_TOO_SHORT",
            "spec.idleTimeout OUT_OF_RANGE",
            "spec.attemptTimeout OUT_OF_RANGE",
            "spec.map EMPTY_SQL",
            "spec.maxAttempts OUT_OF_RANGE",
        ]
    );
}

/// Whoever writes a zone means its days.
#[test]
fn days_of_a_zone_are_not_lengths() {
    let mut job = congestion();
    let mut refused = |every: &str, zone: &str| {
        (job.spec.window.every, job.spec.window.time_zone) = (every.parse().unwrap(), zone.to_owned());
        reasons(&job)
    };
    for every in ["1d", "24h", "7d"] {
        assert_eq!(refused(every, "Europe/Berlin"), ["spec.window.timeZone NOT_APPLICABLE"]);
        assert_eq!(refused(every, "UTC"), [""; 0]);
    }
    for every in ["1h", "day", "week"] {
        assert_eq!(refused(every, "Europe/Berlin"), [""; 0]);
    }
}

#[test]
fn the_hash_changes_with_what_is_computed_and_with_nothing_else() {
    let (job, mut other) = (congestion(), congestion());
    other.metadata.labels.insert("team".into(), "roads".into());
    assert_eq!(job.spec.hash(), other.spec.hash());
    other.spec.map.push_str(" WHERE speed > 0");
    assert_ne!(job.spec.hash(), other.spec.hash());
}

#[test]
fn a_shift_calendar_needs_shifts_that_follow_each_other() {
    let with = |window: &str| {
        let text = CONGESTION.replace(r#"{"every": "day", "timeZone": "America/Chicago"}"#, window);
        reasons(&serde_json::from_str(&text).unwrap())
    };
    let shift = |name: &str, from: &str, to: &str| format!(r#"{{"name": "{name}", "from": "{from}", "to": "{to}"}}"#);
    let shifts = |shifts: &[String]| format!(r#"{{"every": "shift", "shifts": [{}]}}"#, shifts.join(","));
    let (early, night) = (shift("early", "06:00", "14:00"), shift("night", "22:00", "06:00"));
    assert_eq!(with(&shifts(&[early.clone(), night.clone()])), Vec::<String>::new());
    assert_eq!(with(&shifts(&[])), ["spec.window.shifts OUT_OF_RANGE"]);
    assert_eq!(with(&shifts(&[shift("late", "13:59", "22:00"), early, night])), ["spec.window.shifts OVERLAP"]);
    assert_eq!(with(&shifts(&[shift("", "06:00", "14:00")])), ["spec.window.shifts[0].name INVALID_VALUE"]);
    let misplaced = r#"{"every": "day", "holidays": ["2026-12-25"]}"#;
    assert_eq!(with(misplaced), ["spec.window.holidays NOT_APPLICABLE"]);
}

#[test]
fn a_window_of_volume_counts_one_thing_and_knows_no_lateness() {
    let with = |window: &str, rest: &str| {
        let text = CONGESTION.replace(r#"{"every": "day", "timeZone": "America/Chicago"}"#, window);
        let file: JobFile = serde_json::from_str(&text.replace(r#""lateness": "10m", "#, rest)).unwrap();
        (reasons(&file), file.spec.window.volume())
    };
    let sound = [
        (r#"{"every": "volume", "readings": 1000000}"#, Amount::Readings(1_000_000)),
        (r#"{"every": "volume", "bytes": "64MiB", "within": "1h"}"#, Amount::Bytes(64 << 20)),
    ];
    for (window, amount) in sound {
        let (reasons, until) = with(window, "");
        assert_eq!((reasons, until.map(|until| until.amount)), (vec![], Some(amount)));
        assert_eq!(with(window, r#""lateness": "10m", "#).0, Vec::<String>::new(), "the default can't be told");
        assert_eq!(with(window, r#""lateness": "1m", "#).0, ["spec.lateness NOT_APPLICABLE"]);
        assert_eq!(with(window, r#""late": "drop", "#).0, ["spec.late NOT_APPLICABLE"]);
    }
    let wrong = [
        (r#"{"every": "volume"}"#, "spec.window.readings MISSING_FIELD"),
        (r#"{"every": "volume", "readings": 5, "bytes": 5}"#, "spec.window.bytes NOT_APPLICABLE"),
        (r#"{"every": "volume", "readings": 0}"#, "spec.window.readings OUT_OF_RANGE"),
        (r#"{"every": "volume", "readings": 1000000000001}"#, "spec.window.readings OUT_OF_RANGE"),
        (r#"{"every": "volume", "bytes": 0}"#, "spec.window.bytes OUT_OF_RANGE"),
        (r#"{"every": "volume", "bytes": "65TiB"}"#, "spec.window.bytes OUT_OF_RANGE"),
        (r#"{"every": "volume", "readings": 5, "within": "999ms"}"#, "spec.window.within OUT_OF_RANGE"),
        (r#"{"every": "volume", "readings": 5, "within": "367d"}"#, "spec.window.within OUT_OF_RANGE"),
        (r#"{"every": "volume", "readings": 5, "timeZone": "Europe/Berlin"}"#, "spec.window.timeZone NOT_APPLICABLE"),
        (r#"{"every": "volume", "readings": 5, "holidays": ["2026-12-25"]}"#, "spec.window.holidays NOT_APPLICABLE"),
        (r#"{"every": "day", "readings": 5}"#, "spec.window.readings NOT_APPLICABLE"),
        (r#"{"every": "day", "within": "1h"}"#, "spec.window.within NOT_APPLICABLE"),
    ];
    for (window, reason) in wrong {
        assert_eq!(with(window, "").0, [reason], "{window}");
    }
}
