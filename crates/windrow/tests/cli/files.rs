//! Job files: what is wrong with them is said at its place, and then nothing is stored.

use crate::JOB;
use crate::dev::Dev;
use crate::outcome::{outcome, windrow};

#[test]
fn each_mistake_is_shown_at_its_place_by_validate_and_apply_and_nothing_is_stored() {
    let dev = Dev::start();
    for (right, wrong, place, advice) in [
        ("lateness:", "latenes:", "fleet.yaml:9:3: spec.latenes: ", "did you mean `lateness`?"),
        ("lateness: 10m", "lateness: 30s", "fleet.yaml:9:13: spec.lateness: ", "must exceed 1m30s"),
        ("America/Chicago", "Mars/Olympus", "fleet.yaml:8:33: spec.window.timeZone: ", "Europe/Berlin"),
        ("sum(speed)", "sum(sped)", "fleet.yaml:12:39: spec.map: ", "speed"),
        ("GROUP BY", "GROUP", "fleet.yaml:13:19: spec.map: ", "found: GROUP [SQL_SYNTAX]"),
        ("kind: Job", "kind: Jobb", "fleet.yaml:2:7: kind: ", "`Job`"),
    ] {
        let file = dev.write("fleet.yaml", &JOB.replace(right, wrong));
        let file = file.to_str().unwrap();
        let checked = outcome(windrow(&["validate", "-f", file]), None);
        assert!(checked.stdout.contains(place) && checked.stdout.contains(advice), "{wrong}: {checked:?}");
        assert!(checked.fails(1).contains("failed"));
        let applied = dev.run(&["apply", "-f", file]).fails(1);
        assert!(applied.contains(place) && applied.contains("nothing is applied"), "{applied}");
        assert_eq!(dev.run(&["get", "jobs", "-o", "json"]).ok().trim(), "[]");
    }
}

#[test]
fn sql_that_writes_reads_files_or_sets_options_fails_validate() {
    for (sql, reason) in [
        ("COPY readings TO 'x.parquet'", "NOT_A_QUERY"),
        ("INSERT INTO readings VALUES (1)", "NOT_A_QUERY"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "NOT_A_QUERY"),
        ("SET datafusion.execution.batch_size = 1", "NOT_A_QUERY"),
        ("SELECT * FROM '/etc/passwd'", "SQL_INVALID"),
        ("SELECT * FROM read_csv('/etc/passwd')", "SQL_INVALID"),
        ("SELECT random() AS r FROM readings", "NOT_REPEATABLE"),
    ] {
        let (head, _) = JOB.split_once("  map: |").unwrap();
        let text = format!("{head}  map: |\n    {sql}\n");
        let checked = outcome(windrow(&["validate", "-f", "-", "-o", "json"]), Some(&text));
        let report: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
        let violation = &report[0]["checks"][1]["violations"][0];
        assert_eq!((checked.code, violation["reason"].as_str()), (1, Some(reason)), "{sql}: {report}");
        assert_eq!((&violation["path"], &report[0]["result"]), (&"spec.map".into(), &"fail".into()), "{sql}");
    }
}

#[test]
fn validate_says_how_each_check_of_each_file_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(outcome(windrow(&["validate", "-f", path]), None).fails(1).contains("no job files"));
    std::fs::write(folder.path().join("good.yaml"), JOB).unwrap();
    std::fs::write(
        folder.path().join("two.yaml"),
        format!("{}---\n{}", JOB.replace("fleet}", "second}"), JOB.replace("fleet}", "other}")),
    )
    .unwrap();
    let checked = outcome(windrow(&["validate", "-f", path]), None);
    assert!(checked.stderr.contains("3 jobs in 2 files passed"), "{checked:?}");
    let text = checked.ok();
    for line in [
        "good.yaml: job fleet",
        "two.yaml: job other",
        "pass     fields",
        "pass     SQL",
        "skipped  topic: it needs a cluster",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let twice = outcome(windrow(&["validate", "-f", "-"]), Some(&format!("{JOB}---\n{JOB}")));
    assert!(twice.stdout.contains("<stdin>:17:18: metadata.name: job fleet is in <stdin>:1 already"), "{twice:?}");
    assert!(twice.fails(1).contains("1 of 2 jobs"));
    std::fs::write(folder.path().join("empty.yaml"), "").unwrap();
    assert!(outcome(windrow(&["validate", "-f", path]), None).fails(1).contains("1 of 4 jobs"));
}

#[test]
fn apply_takes_stdin_and_several_jobs_and_stores_none_if_one_is_wrong() {
    let dev = Dev::start();
    let other = JOB.replace("fleet}", "other}");
    let wrong = format!("{JOB}---\n{}", other.replace("f64", "f46"));
    let said = dev.feed(&["apply", "-f", "-"], &wrong).fails(1);
    assert!(said.contains("<stdin>:21:21: spec.source.values.speed: "), "{said}");
    assert_eq!(dev.run(&["get", "jobs", "-o", "name"]).ok(), "");
    let twice = dev.feed(&["apply", "-f", "-"], &format!("{JOB}---\n{JOB}")).fails(1);
    assert!(twice.contains("job fleet is in <stdin>:1 already"), "{twice}");
    let both = format!("{JOB}---\n{other}");
    assert!(dev.feed(&["apply", "--dry-run", "-f", "-"], &both).ok().contains("job/other created (dry run)"));
    assert_eq!(dev.run(&["get", "jobs", "-o", "name"]).ok(), "");
    let made = dev.feed(&["apply", "-f", "-"], &both);
    assert!(made.stderr.contains("does not exist yet; the job waits for it"), "{made:?}");
    assert_eq!(made.ok(), "job/fleet created\njob/other created\n");
    let changed = dev.feed(&["apply", "-f", "-"], &both.replace("sum(speed)", "max(speed)")).ok();
    assert_eq!(changed, "job/fleet configured\njob/other configured\n");
    let moved = dev.feed(&["apply", "-f", "-"], &JOB.replace("every: 1h", "every: 2h")).fails(1);
    assert!(moved.contains("spec.window can't change"), "{moved}");
}
