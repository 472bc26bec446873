//! Windows that are run again, over Kafka, etcd and S3: the job of deploy/examples/amend.yaml, late readings, a backfill.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;

const HOUR: &str = "2026-03-02T05:00:00Z";

/// Readings of two pumps, by minute of two hours from 05:00 UTC on.
fn readings(minutes: impl Iterator<Item = u32>) -> String {
    let mut text = "when,pump,pressure,flow,state\n".to_owned();
    for minute in minutes {
        for pump in ["p1", "p2", "p3"] {
            let (hour, rest) = (5 + minute / 60, minute % 60);
            text += &format!("2026-03-02T{hour:02}:{rest:02}:00Z,{pump},{}.5,{minute},run\n", minute % 5);
        }
    }
    text
}

async fn send(cluster: &Cluster, topic: &str, name: &str, text: &str) {
    let file = cluster.write(name, text);
    let columns = ["--device-column", "pump", "--time-column", "when"];
    cluster.run(&[&["send", "--topic", topic, file.to_str().unwrap()][..], &columns].concat()).await;
}

async fn json(cluster: &Cluster, args: &[&str]) -> Value {
    serde_json::from_str(&cluster.run(&[args, &["-o", "json"]].concat()).await).unwrap()
}

/// Revision of the first hour, and readings that its result counts.
async fn first_hour(cluster: &Cluster) -> (u64, u64) {
    let windows = json(cluster, &["get", "windows", "--job", "amend", "--all"]).await;
    let window = windows.as_array().unwrap().iter().find(|window| window["start"] == HOUR).unwrap();
    let rows = json(cluster, &["cat", "amend", "--window", HOUR]).await;
    let n = rows.as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).sum();
    (window["revision"].as_u64().unwrap(), n)
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readings_and_a_backfill_over_kafka_etcd_and_s3() {
    let cluster = Cluster::real();
    let topic = cluster.named("pumps");
    send(&cluster, &topic, "pumps.csv", &readings(0..120)).await;
    let example = cluster.example("amend", "pumps", &topic);
    cluster.run(&["apply", "-f", cluster.write("amend.yaml", &example).to_str().unwrap()]).await;
    cluster.run(&["wait", "amend", "--until", "2026-03-02T07:00:00Z", "--timeout", "100s"]).await;
    assert_eq!(first_hour(&cluster).await, (0, 180));
    // Twice: the second finds what the first has made.
    for (name, minutes, expected) in [("late.csv", 10..20, (1, 210)), ("later.csv", 30..35, (2, 225))] {
        let half = readings(minutes).replace(":00Z", ":30Z");
        send(&cluster, &topic, name, &half).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        while first_hour(&cluster).await != expected {
            assert!(Instant::now() < deadline, "{name}: {:?}, must be {expected:?}", first_hour(&cluster).await);
        }
    }
    cluster
        .run(&[
            "apply",
            "-f",
            cluster.write("amend.yaml", &example.replace("count(*)", "2 * count(*)")).to_str().unwrap(),
        ])
        .await;
    let span = ["--from", HOUR, "--to", "2026-03-02T06:00:00Z"];
    let dry = json(&cluster, &[&["backfill", "amend", "--dry-run"][..], &span].concat()).await;
    assert!(dry["batchesTotal"].as_u64() >= Some(1), "{dry}");
    let done = json(&cluster, &[&["backfill", "amend", "--wait"][..], &span].concat()).await;
    assert_eq!((&done["state"], &done["windowsPlanned"]), (&"done".into(), &1.into()), "{done}");
    assert_eq!(first_hour(&cluster).await, (3, 450));
    let report = json(&cluster, &["verify", "amend"]).await;
    assert_eq!((&report["clean"], &report["ledger"]["kept"]), (&true.into(), &405.into()), "{report}");
    assert_eq!((&report["ledger"]["amended"], &report["logChecked"]), (&45.into(), &true.into()), "{report}");
    let before = json(&cluster, &["cat", "amend", "--window", HOUR, "--revision", "0"]).await;
    assert_eq!(before.as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).sum::<u64>(), 180);
}
