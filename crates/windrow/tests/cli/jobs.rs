//! Commands about jobs that run.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::JOB;
use crate::dev::Dev;
use crate::outcome::{outcome, windrow};

/// Every form of a command's output: valid, and of the same things.
#[track_caller]
fn every_form(dev: &Dev, args: &[&str], names: &str) -> Value {
    let form = |form| dev.run(&[args, &["-o", form]].concat());
    assert_eq!(form("name").ok(), names, "{args:?}");
    assert!(!form("table").ok().is_empty(), "{args:?}");
    let json = form("json").json();
    let yaml: Value = serde_saphyr::from_str(&form("yaml").ok()).unwrap();
    let shape = |value: &Value| match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        other => panic!("{args:?}: {other}"),
    };
    assert_eq!(shape(&yaml), shape(&json), "{args:?}");
    json
}

#[test]
fn every_command_prints_every_form_of_what_is_there() {
    let dev = Dev::with_windows();
    let file = dev.folder.path().join("fleet.yaml");
    let file = file.to_str().unwrap();
    assert_eq!(every_form(&dev, &["apply", "-f", file], "fleet\n")[0]["result"], "unchanged");
    let jobs = every_form(&dev, &["get", "jobs"], "fleet\n");
    assert_eq!(jobs[0]["spec"]["window"]["timeZone"], "America/Chicago");
    assert_eq!(every_form(&dev, &["validate", "-f", file], "fleet\n")[0]["checks"][2]["result"], "pass");
    let described = every_form(&dev, &["describe", "fleet"], "fleet\n");
    assert_eq!(described["partitions"].as_array().unwrap().len(), 4);
    assert_eq!(every_form(&dev, &["get", "partitions", "--job", "fleet"], "0\n1\n2\n3\n").as_array().unwrap().len(), 4);
    let worker = dev.run(&["get", "workers", "-o", "name"]).ok();
    assert_eq!(every_form(&dev, &["get", "workers"], &worker)[0]["state"], "ready");
    assert_eq!(every_form(&dev, &["wait", "fleet", "--windows", "5"], "fleet\n")["status"]["state"], "running");
    assert_eq!(every_form(&dev, &["pause", "fleet", "--note", "harvest"], "fleet\n")["status"]["pauseNote"], "harvest");
    assert_eq!(every_form(&dev, &["resume", "fleet"], "fleet\n")["status"]["state"], "running");
    let proof = every_form(&dev, &["verify", "fleet"], "fleet\n");
    assert_eq!((&proof["clean"], &proof["logChecked"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!((proof["ledger"]["kept"].as_u64(), proof["ledger"]["late"].as_u64()), (Some(600), Some(0)));
    assert_eq!(every_form(&dev, &["delete", "fleet", "--dry-run"], "fleet\n")["dryRun"], true);
    assert_eq!(dev.run(&["delete", "fleet", "-o", "json"]).json()["result"], "deleted");
    assert!(dev.run(&["get", "jobs", "fleet"]).fails(1).contains("does not exist"));
    // What was committed outlives the job.
    assert_eq!(dev.run(&["verify", "fleet", "-o", "json"]).json()["clean"], true);
    assert!(dev.run(&["verify", "fleet"]).stderr.contains("--kafka"), "the log's end is known to nobody");
}

#[test]
fn windows_are_listed_from_their_markers_newest_kept_and_filtered_by_time() {
    let dev = Dev::with_windows();
    let list = |more: &[&str]| {
        let windows = dev.run(&[&["get", "windows", "--job", "fleet", "-o", "json"], more].concat()).json();
        let complete = windows.as_array().unwrap().iter().filter(|window| window["state"] == "complete");
        complete.cloned().collect::<Vec<_>>()
    };
    let with_rows: Vec<Value> = list(&["--all"]).into_iter().filter(|window| window["rows"] == 2).collect();
    assert_eq!(with_rows.len(), 5);
    let first = &with_rows[0];
    assert_eq!(first["window"], "20150901T000000Z");
    assert_eq!((&first["start"], &first["end"]), (&"2015-09-01T00:00:00Z".into(), &"2015-09-01T01:00:00Z".into()));
    assert_eq!(first["localStart"], "2015-08-31T19:00:00-05:00");
    assert_eq!(first["ledger"]["kept"], 120);
    let batches = first["batches"].as_array().unwrap();
    assert!(batches.iter().any(|batch| batch["step"] == "finish"), "{batches:?}");
    assert!(batches.iter().any(|batch| batch["offsets"]["end"].as_u64() > Some(0)), "{batches:?}");
    let between = list(&["--from", "2015-09-01T01:00:00Z", "--until", "2015-09-01T03:00:00Z"]);
    let names: Vec<_> = between.iter().map(|window| window["window"].as_str().unwrap()).collect();
    assert_eq!(names, ["20150901T010000Z", "20150901T020000Z"]);
    let newest = dev.run(&["get", "windows", "--job", "fleet", "--limit", "1", "-o", "name"]);
    assert!(newest.stderr.contains("--all"), "{newest:?}");
    assert_eq!(newest.ok().lines().count(), 1);
}

#[test]
fn cat_prints_what_is_committed_in_every_form() {
    let dev = Dev::with_windows();
    let first = ["cat", "fleet", "--window", "2015-09-01T00:00:00Z"];
    let cat = |more: &[&str]| dev.run(&[&first[..], more].concat());
    let rows = cat(&["-o", "json"]).json();
    assert_eq!((&rows[0]["device"], &rows[0]["n"]), (&"a".into(), &60.into()));
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(cat(&["-o", "csv"]).ok().starts_with("device,n,total\n"));
    assert!(cat(&[]).ok().contains("| device"));
    assert!(cat(&["-o", "yaml"]).ok().contains("device: a"));
    assert!(cat(&["-o", "name"]).ok().lines().all(|line| line.starts_with("file:///") && line.ends_with(".parquet")));
    let all = dev.run(&["cat", "fleet", "--all", "-o", "json"]).json();
    assert_eq!((all.as_array().unwrap().len(), &all[9]["window"]), (10, &"20150901T040000Z".into()));
    assert_eq!(dev.run(&["cat", "fleet", "-o", "json"]).json().as_array().unwrap().len(), 2, "the last one with rows");
    assert!(dev.run(&["cat", "fleet", "--window", "20990101T000000Z"]).fails(1).contains("is not complete"));
}

#[test]
fn cat_names_declared_columns_that_no_reading_has() {
    let dev = Dev::start();
    let file = dev.write("typo.yaml", &JOB.replace("{speed: f64}", "{speed: f64, sped: f64}"));
    dev.run(&["apply", "-f", file.to_str().unwrap()]).ok();
    dev.send("fleet", 1);
    dev.run(&["wait", "fleet", "--until", "2015-09-01T01:00:00Z"]).ok();
    let shown = dev.run(&["cat", "fleet"]);
    assert!(shown.stderr.contains("no reading has sped, which"), "{shown:?}");
}

#[test]
fn watch_prints_the_job_at_once_and_again_when_it_changes() {
    let dev = Dev::start();
    dev.run(&["apply", "-f", dev.write("fleet.yaml", JOB).to_str().unwrap()]).ok();
    let mut command = dev.command(&["watch", "fleet", "-o", "json"]);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut state =
        || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["status"]["state"].clone();
    // Its topic is not there yet, which the leader notes a moment later.
    let first = state();
    assert!(first == "running" || first == "blocked", "{first}");
    dev.run(&["pause", "fleet"]).ok();
    while state() != "paused" {}
    dev.run(&["delete", "fleet"]).ok();
    while lines.next().is_some() {}
    assert!(watching.wait().unwrap().success(), "it ends with the job");
}

#[test]
fn a_parked_batch_ends_waiting_at_once_with_its_error_and_the_way_on() {
    let dev = Dev::start();
    let bad = JOB.replace("SELECT device, count(*) AS n, sum(speed) AS total", "SELECT CAST(device AS BIGINT) AS n");
    let bad = bad.replace("FROM readings GROUP BY device ORDER BY device", "FROM readings");
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &bad).to_str().unwrap()]).ok();
    dev.send("fleet", 2);
    let before = Instant::now();
    let said = dev.run(&["wait", "fleet", "--until", "2015-09-01T01:00:00Z", "--timeout", "1h"]).fails(1);
    assert!(before.elapsed() < Duration::from_secs(60) && said.contains("parked") && said.contains("Cast"), "{said}");
    let retry = said.lines().last().unwrap().split_once(": ").unwrap().1.to_owned();
    assert!(retry.contains("retry fleet 2015"), "{retry}");
    let windows = dev.run(&["get", "windows", "--job", "fleet", "-o", "json"]).json();
    let failed = windows.as_array().unwrap().iter().find(|window| window["state"] == "failed").unwrap();
    let batch = failed["batches"].as_array().unwrap().iter().find(|batch| batch["state"] == "failed").unwrap();
    assert!(batch["lastError"].as_str().unwrap().contains("Cast"), "{batch}");
    let window = failed["window"].as_str().unwrap();
    assert!(dev.run(&["describe", "fleet"]).ok().contains("Last error"));
    let dry = dev.run(&["retry", "fleet", window, "--dry-run", "-o", "json"]).json();
    assert!(dry["batches"].as_u64() >= Some(1), "{dry}");
    // Mended SQL takes the place of what has never run.
    dev.run(&["apply", "-f", dev.write("fleet.yaml", JOB).to_str().unwrap()]).ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    let parked = |batch: &serde_json::Value| batch["step"] == "finish" || batch["state"] == "failed";
    loop {
        let windows = dev.run(&["get", "windows", "--job", "fleet", "-o", "json"]).json();
        let now = windows.as_array().unwrap().iter().find(|found| found["window"] == window).unwrap().clone();
        if now["batches"].as_array().unwrap().iter().all(parked) {
            break;
        }
        assert!(Instant::now() < deadline, "all batches of the window are parked: {now}");
    }
    assert_eq!(dev.run(&["retry", "fleet", window, "-o", "name"]).ok(), format!("{window}\n"));
    dev.run(&["wait", "fleet", "--until", "2015-09-01T01:00:00Z", "--timeout", "60s"]).ok();
    assert!(dev.run(&["retry", "fleet", "20990101T000000Z"]).fails(1).contains("not in flight"));
}

#[test]
fn a_window_that_is_given_up_completes_and_says_why() {
    let dev = Dev::start();
    let bad = JOB.replace("SELECT device, count(*) AS n, sum(speed) AS total", "SELECT CAST(device AS BIGINT) AS n");
    let bad = bad.replace("FROM readings GROUP BY device ORDER BY device", "FROM readings");
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &bad).to_str().unwrap()]).ok();
    dev.send("fleet", 2);
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait = ["wait", "fleet", "--until", "2015-09-01T01:00:00Z", "--timeout", "60s"];
    // Partitions fail one after the other.
    while !dev.command(&wait).output().unwrap().status.success() {
        assert!(Instant::now() < deadline, "all that fails is given up in time");
        let windows = dev.run(&["get", "windows", "--job", "fleet", "-o", "json"]).json();
        for window in windows.as_array().unwrap().iter().filter(|window| window["state"] == "failed") {
            let window = window["window"].as_str().unwrap();
            assert!(dev.run(&["skip", "fleet", window, "--reason", " "]).fails(1).contains("a reason has"));
            dev.run(&["skip", "fleet", window, "--reason", "a poisoned hour", "-o", "name"]).ok();
        }
    }
    assert!(dev.run(&["get", "windows", "--job", "fleet"]).ok().contains("a poisoned hour"));
    let report = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["notes"][0].as_str().unwrap().contains("without a result: a poisoned hour"), "{report}");
    assert!(report["ledger"]["lostOffsets"].as_u64() >= Some(1), "{report}");
    assert!(dev.run(&["skip", "fleet", "20990101T000000Z", "--reason", "r"]).fails(1).contains("not in flight"));
}

#[test]
fn what_is_not_there_is_said_with_exit_code_1_and_a_wrong_command_line_with_2() {
    let dev = Dev::start();
    for args in [
        &["describe", "none"][..],
        &["watch", "none"],
        &["wait", "none", "--windows", "1"],
        &["delete", "none"],
        &["pause", "none"],
        &["resume", "none"],
        &["retry", "none", "20150901T000000Z"],
        &["verify", "none"],
        &["get", "windows", "--job", "none"],
    ] {
        let said = dev.run(args).fails(1);
        assert!(said.contains("job none does not exist"), "{args:?}: {said}");
    }
    for args in [
        &["get", "windows"][..],
        &["get", "clouds"],
        &["wait", "a"],
        &["wait", "a", "--windows", "1", "--timeout", "soon"],
        &["apply"],
    ] {
        dev.run(args).fails(2);
    }
    let nothing = dev.run(&["get", "jobs", "-o", "json"]);
    assert_eq!(nothing.ok().trim(), "[]");
    let hint = dev.run(&["get", "jobs"]);
    assert!(hint.stdout.is_empty() && hint.stderr.contains("no jobs"), "{hint:?}");
    let mut alone = windrow(&["get", "jobs"]);
    alone.env("WINDROW_SERVER", "http://127.0.0.1:1");
    assert!(outcome(alone, None).fails(1).contains("no coordinator at http://127.0.0.1:1"));
}

#[test]
fn a_stopped_dev_is_read_from_its_folder_and_a_running_one_is_not_locked_out_of() {
    let mut dev = Dev::with_windows();
    let data = dev.data_dir();
    let in_use = dev.run(&["verify", "fleet", "--data-dir", &data]).fails(1);
    assert!(in_use.contains("leave --data-dir out"), "{in_use}");
    assert!(dev.run(&["cat", "fleet", "--data-dir", &data]).ok().contains("| device"), "output needs no database");
    let folder = tempfile::tempdir().unwrap();
    let moved = folder.path().join("data");
    let here = dev.folder.path().join("data");
    let mut watching = dev.command(&["watch", "fleet"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(dev.terminate(), 0);
    // Without the process, the folder is all there is.
    std::fs::rename(&here, &moved).unwrap();
    assert!(!watching.wait().unwrap().success(), "a watch ends with its server");
    let moved = moved.to_str().unwrap();
    let proof = outcome(windrow(&["verify", "fleet", "--data-dir", moved, "-o", "json"]), None).json();
    assert_eq!((&proof["clean"], &proof["logChecked"]), (&Value::Bool(true), &Value::Bool(true)));
    assert!(outcome(windrow(&["cat", "fleet", "--all", "--data-dir", moved]), None).ok().contains("20150901T000000Z"));
    let within = ["cat", "fleet", "--window", "2015-09-01T00:30:00Z", "--data-dir", moved];
    let within = outcome(windrow(&within), None).fails(1);
    assert!(within.contains("no window of job fleet begins at 2015-09-01T00:30:00"), "{within}");
    let mut dev = Dev::start_in(folder, &[]);
    let span = ["--from", "2015-09-01T00:00:00Z", "--to", "2015-09-01T01:00:00Z"];
    dev.run(&[&["backfill", "fleet", "--wait"][..], &span].concat()).ok();
    assert_eq!(dev.terminate(), 0);
    std::fs::rename(dev.folder.path().join("data/store"), dev.folder.path().join("store")).unwrap();
    let free = "127.0.0.1:0";
    let mut alone = windrow(&["dev", "--data-dir", &dev.data_dir(), "--grpc", free, "--http", free]);
    let mut alone = alone.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that runs says its address.
    let address = BufReader::new(alone.stdout.take().unwrap()).lines().next();
    let _ = alone.kill();
    let said = String::from_utf8(alone.wait_with_output().unwrap().stderr).unwrap();
    assert!(address.is_none() && said.contains("data/store, and that is not there: put it back"), "{address:?} {said}");
    let missing = outcome(windrow(&["verify", "fleet", "--data-dir", "/nowhere"]), None).fails(1);
    assert!(missing.contains("holds no windrow data"), "{missing}");
}

#[test]
fn the_demo_runs_twice_and_the_commands_that_it_names_work() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let demo = outcome(windrow(&["demo", "--data-dir", folder.path().to_str().unwrap()]), None);
        assert_eq!(demo.code, 0, "{demo:?}");
        assert!(demo.stdout.contains("mean_speed") && demo.stderr.contains("counted exactly once"), "{demo:?}");
        let commands = demo.stderr.lines().map(str::trim).filter(|line| line.contains("--data-dir"));
        let commands: Vec<&str> = commands.filter(|line| !line.contains(" dev ")).collect();
        assert_eq!(commands.len(), 3, "{demo:?}");
        for line in commands {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", line]);
            assert!(!outcome(shell, None).ok().is_empty(), "{line}");
        }
    }
}

#[test]
fn completion_scripts_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = outcome(windrow(&["completion", shell]), None).ok();
        assert!(script.contains("validate") && script.contains("verify"), "{shell}");
    }
}
