//! Windows that are run again: late readings that amend theirs, and backfills.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::JOB;
use crate::dev::Dev;

const FIRST: &str = "2015-09-01T00:00:00Z";
const LATE: &str = "device,time,speed
a,2015-09-01T00:10:30Z,3
a,2015-09-01T00:11:30Z,4
b,2015-09-01T00:12:30Z,5
";

impl Dev {
    fn apply(&self, text: &str) {
        self.run(&["apply", "-f", self.write("fleet.yaml", text).to_str().unwrap()]).ok();
    }

    fn send_late(&self) {
        let file = self.write("late.csv", LATE);
        let columns = ["--device-column", "device", "--time-column", "time"];
        self.run(&[&["send", file.to_str().unwrap(), "--topic", "fleet"][..], &columns].concat()).ok();
    }

    /// Asks for a job until it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let job = self.run(&["get", "jobs", "fleet", "-o", "json"]).json()[0].clone();
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "{what}: {job}");
        }
    }

    fn window(&self, start: &str) -> Value {
        let windows = self.run(&["get", "windows", "--job", "fleet", "--all", "-o", "json"]).json();
        windows.as_array().unwrap().iter().find(|window| window["start"] == start).unwrap().clone()
    }

    fn counts(&self, more: &[&str]) -> Vec<u64> {
        let cat = ["cat", "fleet", "--window", FIRST, "-o", "json"];
        let mut rows = self.run(&[&cat[..], more].concat()).json();
        let rows = rows.as_array_mut().unwrap();
        rows.sort_by_key(|row| row["device"].to_string());
        rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
    }
}

#[test]
fn late_readings_amend_their_window_and_what_it_was_stays_to_be_seen() {
    let dev = Dev::start();
    dev.apply(&JOB.replace("idleTimeout: 1s\n", "idleTimeout: 1s\n  late: amend\n"));
    dev.send("fleet", 5);
    dev.run(&["wait", "fleet", "--until", "2015-09-01T05:00:00Z", "--timeout", "1m"]).ok();
    assert!(dev.run(&["diff", "fleet", FIRST]).fails(1).contains("nothing to compare"));
    dev.send_late();
    let amended = |job: &Value| dev.window(FIRST)["revision"] == 1 && job["status"]["revisionsPending"] == 0;
    dev.until("the first window is amended", amended);
    assert_eq!(dev.counts(&[]), [62, 61]);
    assert_eq!(dev.counts(&["--revision", "0"]), [60, 60]);
    assert_eq!(dev.counts(&["--revision", "1"]), [62, 61]);
    assert!(dev.run(&["cat", "fleet", "--window", FIRST, "--revision", "7"]).fails(1).contains("has no revision 7"));
    let diff = dev.run(&["diff", "fleet", FIRST, "-o", "json"]).json();
    let changed = |of: &str| diff[of].as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((changed("removed"), changed("added")), (120, 123), "{diff}");
    assert!(dev.run(&["diff", "fleet", FIRST, "--from", "0", "--to", "1"]).ok().contains("62"));
    assert!(dev.run(&["get", "windows", "--job", "fleet"]).ok().contains("REVISION"));
    assert!(dev.run(&["cat", "fleet", "--window", FIRST, "--dataset", "late"]).stderr.contains("no rows"));
    let report = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!(report["clean"], true, "{report}");
    let ledger = &report["ledger"];
    assert_eq!((&ledger["kept"], &ledger["late"], &ledger["amended"]), (&603.into(), &3.into(), &3.into()));
    assert_eq!(report["notes"].as_array().unwrap().len(), 0, "{report}");
    what_vanishes_is_found(&dev);
}

/// Each file of the amended window in turn, and markers that nobody wrote.
fn what_vanishes_is_found(dev: &Dev) {
    let store = dev.folder.path().join("data/store/fleet");
    let elsewhere = dev.folder.path().join("elsewhere");
    let in_folder = |folder: &str| {
        let files = std::fs::read_dir(store.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.collect::<Vec<_>>()
    };
    let mut files = in_folder("_commits/20150901T000000Z");
    files.extend(in_folder("data/window=20150901T000000Z"));
    files.extend([store.join("revisions")]);
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        std::fs::rename(&file, &elsewhere).unwrap();
        let verified = dev.run(&["verify", "fleet"]);
        std::fs::rename(&elsewhere, &file).unwrap();
        assert!(verified.fails(1).contains("the proof failed"), "{}", file.display());
    }
    let commits = store.join("_commits/20150901T000000Z");
    let (first, seventh) = (commits.join("_complete.r0.json"), commits.join("_complete.r7.json"));
    std::fs::copy(&first, &seventh).unwrap();
    assert!(dev.run(&["verify", "fleet"]).stdout.contains("another window, partition or revision"));
    std::fs::remove_file(&seventh).unwrap();
    let is_joined = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".r1.json") && !name.starts_with("_complete")
    };
    std::fs::remove_file(in_folder("_commits/20150901T000000Z").into_iter().find(is_joined).unwrap()).unwrap();
    assert!(dev.run(&["cat", "fleet", "--window", FIRST]).fails(1).contains("is missing, which window"));
}

#[test]
fn a_backfill_is_seen_before_it_runs_and_runs_the_windows_that_it_shows() {
    let dev = Dev::with_windows();
    let backfill = ["backfill", "fleet", "--from", "2015-09-01T01:00:00Z", "--to", "2015-09-01T03:00:00Z"];
    let run = |more: &[&str]| dev.run(&[&backfill[..], more].concat());
    dev.apply(&JOB.replace("count(*) AS n", "10 * count(*) AS n"));
    let dry = run(&["--dry-run", "-o", "json"]).json();
    let windows: Vec<&Value> = dry["batches"].as_array().unwrap().iter().map(|batch| &batch["window"]).collect();
    assert_eq!((windows[0], *windows.last().unwrap()), (&"20150901T010000Z".into(), &"20150901T020000Z".into()));
    assert_eq!(dry["batchesTotal"].as_u64(), Some(windows.len() as u64));
    assert!(dry["batches"][0]["offsets"]["end"].as_u64() > Some(0), "{dry}");
    assert!(run(&["--dry-run"]).ok().contains("would be run again"));
    assert!(
        dev.run(&["get", "backfills", "--job", "fleet"]).stderr.contains("no backfills"),
        "a dry run changes nothing"
    );
    let done = run(&["--name", "tenfold", "--wait", "-o", "json"]).json();
    assert_eq!(
        (&done["state"], &done["windowsPlanned"], &done["windowsRefused"]),
        (&"done".into(), &2.into(), &0.into())
    );
    let hours = ["00", "01", "02", "03"].map(|hour| {
        let start = format!("2015-09-01T{hour}:00:00Z");
        let rows = dev.run(&["cat", "fleet", "--window", &start, "-o", "json"]).json();
        (rows[0]["n"].as_u64().unwrap(), dev.window(&start)["revision"].as_u64().unwrap())
    });
    assert_eq!(hours, [(60, 0), (600, 1), (600, 1), (60, 0)]);
    assert!(run(&["--name", "tenfold"]).fails(1).contains("has a backfill tenfold already"));
    assert!(dev.run(&["get", "backfills"]).ok().contains("tenfold"));
    let report = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!((&report["clean"], &report["ledger"]["kept"]), (&true.into(), &600.into()), "{report}");
    // A file that is gone is found, and computed anew.
    let hour = dev.folder.path().join("data/store/fleet/data/window=20150901T000000Z");
    std::fs::remove_dir_all(&hour).unwrap();
    assert!(dev.run(&["verify", "fleet"]).fails(1).contains("the proof failed"));
    dev.run(&["backfill", "fleet", "--from", FIRST, "--to", "2015-09-01T01:00:00Z", "--wait"]).ok();
    let report = dev.run(&["verify", "fleet", "-o", "json"]).json();
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["notes"][0].as_str().unwrap().contains("was damaged and has been computed anew"), "{report}");
    let later = dev.run(&["backfill", "fleet", "--from", "2031-01-01T00:00:00Z", "--to", "2032-01-01T00:00:00Z"]);
    assert!(later.fails(1).contains("is complete"));
    let reduce = "  reduce: SELECT sum(n) AS n FROM parts\n";
    dev.apply(&format!("{JOB}{reduce}"));
    assert!(run(&["--dry-run"]).fails(1).contains("apply the changed job as a new one"));
}

#[test]
fn a_backfill_pauses_goes_on_and_can_be_cancelled() {
    let dev = Dev::with_windows();
    dev.run(&["pause", "fleet"]).ok();
    let span = ["--from", FIRST, "--to", "2015-09-01T05:00:00Z", "--name", "again"];
    dev.run(&[&["backfill", "fleet"][..], &span].concat()).ok();
    let change = |verb: &str| dev.run(&["backfill", verb, "--job", "fleet", "again", "-o", "json"]).json();
    assert_eq!(change("pause")["state"], "paused");
    dev.run(&["resume", "fleet"]).ok();
    assert_eq!(change("resume")["state"], "running");
    dev.until("it is done", |job| job["status"]["revisionsPending"] == 0);
    let found = dev.run(&["get", "backfills", "--job", "fleet", "-o", "json"]).json();
    assert_eq!((&found[0]["state"], &found[0]["windowsPlanned"]), (&"done".into(), &5.into()));
    assert_eq!(change("cancel")["windowsTakenBack"], 0);
    assert!(dev.run(&["backfill", "cancel", "--job", "fleet", "again"]).fails(1).contains("has no backfill again"));
    // Of a job that is paused no batch begins.
    dev.run(&["pause", "fleet"]).ok();
    dev.run(&[&["backfill", "fleet"][..], &span].concat()).ok();
    change("cancel");
    dev.run(&["resume", "fleet"]).ok();
    assert_eq!(dev.run(&["verify", "fleet", "-o", "json"]).json()["clean"], true);
    assert_eq!(dev.window(FIRST)["revision"], 1);
}
