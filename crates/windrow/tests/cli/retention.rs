//! Windows whose retention has ended.

use std::time::{Duration, Instant};

use crate::JOB;
use crate::dev::Dev;

#[test]
fn old_windows_go_and_what_is_left_is_proven() {
    let dev = Dev::start_with(&["--janitor-seconds", "1"]);
    let job = format!("{JOB}  output: {{retention: 119m}}\n");
    dev.run(&["apply", "-f", dev.write("fleet.yaml", &job).to_str().unwrap()]).ok();
    dev.send("fleet", 5);
    dev.run(&["wait", "fleet", "--until", "2015-09-01T05:00:00Z", "--timeout", "1m"]).ok();
    let (mut report, deadline) = (serde_json::Value::Null, Instant::now() + Duration::from_secs(60));
    while report["windowsExpired"].as_u64() < Some(3) {
        assert!(Instant::now() < deadline, "{report}");
        report = dev.run(&["verify", "fleet", "-o", "json"]).json();
    }
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["ledger"]["kept"].as_u64() >= Some(240), "two hours at least are left: {report}");
    assert!(dev.run(&["cat", "fleet", "--window", "2015-09-01T00:00:00Z"]).fails(1).contains("is gone: its retention"));
    assert_eq!(dev.run(&["cat", "fleet", "-o", "json"]).json().as_array().unwrap().len(), 2, "the newest one is there");
    let backfill = dev.run(&["backfill", "fleet", "--from", "2015-09-01T00:00:00Z", "--to", "2015-09-01T01:00:00Z"]);
    assert!(backfill.fails(1).contains("is complete"));
}
