//! Windows of volume on the command line.

use serde_json::Value;

use crate::JOB;
use crate::dev::Dev;

/// The hourly job with windows of 50 readings, which only what is sent can fill.
fn job(map: &str) -> String {
    let volume = JOB.replace("{every: 1h, timeZone: America/Chicago}", "{every: volume, readings: 50}");
    let volume = volume.replace("  lateness: 10m\n", "");
    let (head, _) = volume.split_once("  map: |").unwrap();
    format!("{head}  map: {map}\n")
}

const COUNT: &str = "SELECT count(*) AS n FROM readings";

#[test]
fn windows_of_volume_are_listed_printed_waited_for_and_proven() {
    let dev = Dev::start();
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &job(COUNT)).to_str().unwrap()]).ok();
    dev.send("fleet", 5);
    dev.run(&["wait", "fleet", "--windows", "2"]).ok();
    let said = dev.run(&["wait", "fleet", "--until", "2015-09-01T05:00:00Z"]).fails(1);
    assert!(said.contains("use --windows N"), "{said}");
    let listed = dev.run(&["get", "windows", "--job", "fleet", "--all", "-o", "json"]).json();
    let windows = listed.as_array().unwrap();
    let complete: Vec<&Value> = windows.iter().filter(|window| window["state"] == "complete").collect();
    assert!(complete.len() >= 2);
    for window in &complete {
        assert!(window["ledger"]["kept"].as_u64() >= Some(50), "{window}");
        let start = window["batches"][0]["offsets"]["start"].as_u64().unwrap();
        assert!(window["window"].as_str().unwrap().ends_with(&format!("-o{start}")), "{window}");
        assert!(window["start"].as_str().unwrap().starts_with("2015-09-01T"), "{window}");
    }
    let first = complete[0]["window"].as_str().unwrap();
    let rows = dev.run(&["cat", "fleet", "--window", first, "-o", "json"]).json();
    assert_eq!(rows[0]["n"], complete[0]["ledger"]["kept"]);
    let all = dev.run(&["cat", "fleet", "--all", "-o", "json"]).json();
    assert!(all.as_array().unwrap().iter().any(|row| row["window"] == first), "{all}");
    assert_eq!(dev.run(&["cat", "fleet", "-o", "json"]).json().as_array().unwrap().len(), 1, "the newest");
    let described = dev.run(&["describe", "fleet"]).ok();
    assert!(described.contains("50 readings of a partition"), "{described}");
    let proof = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!((&proof["clean"], &proof["logChecked"]), (&Value::Bool(true), &Value::Bool(true)), "{proof}");
}

#[test]
fn a_parked_window_is_given_up_and_the_partition_goes_on_behind_it() {
    let dev = Dev::start();
    let bad = job("SELECT CAST(device AS BIGINT) AS n FROM readings");
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &bad).to_str().unwrap()]).ok();
    dev.send("fleet", 5);
    let said = dev.run(&["wait", "fleet", "--windows", "1"]).fails(1);
    assert!(said.contains("parked") && said.contains("retry fleet p"), "{said}");
    let parked = said.split_once("window ").unwrap().1.split(' ').next().unwrap().to_owned();
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &job(COUNT)).to_str().unwrap()]).ok();
    dev.run(&["skip", "fleet", &parked, "--reason", "bad SQL"]).ok();
    dev.run(&["wait", "fleet", "--windows", "1"]).ok();
    let proof = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!(proof["clean"], true, "{proof}");
    assert!(proof["notes"][0].as_str().unwrap().contains("without a result: bad SQL"), "{proof}");
}
