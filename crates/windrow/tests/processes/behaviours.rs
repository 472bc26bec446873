//! What jobs promise besides their results, over the real services: what a topic does to a job, batches that fail, windows
//! that grow old.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::Log;
use windrow_ports::log::NewTopic;
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::{JobName, Offset, PartitionId, TopicName, WindowId};

use crate::deployment::{
    BLOCKS, DEVICES, Deployment, PER_HOUR, Process, Services, free_port, hour_start, until, variable,
};

const HOURLY: &str = "window: {every: 1h}\n  lateness: 10m";
const SUMS: &str =
    "SELECT device, count(*) AS n FROM readings GROUP BY device\n  reduce: SELECT sum(n) AS n FROM parts";
const AN_HOUR: u64 = DEVICES * PER_HOUR;

/// One of each role.
struct Roles {
    servers: [u16; 2],
    gates: [u16; 2],
    coordinator: Process,
    _gateway: Process,
    worker: Process,
}

impl Roles {
    fn start(deployment: &Deployment) -> Self {
        Self::with_slots(deployment, "2")
    }

    fn with_slots(deployment: &Deployment, slots: &str) -> Self {
        let (server, gate) = (free_port(), free_port());
        Self {
            servers: [server; 2],
            gates: [gate; 2],
            coordinator: deployment.coordinator(server),
            _gateway: deployment.gateway(gate),
            worker: deployment.worker_with(&["--slots", slots]),
        }
    }
}

impl Deployment {
    async fn apply(&self, window: &str, idle: &str, map: &str, roles: &Roles) {
        let file = self.job_file_with(&self.job, BLOCKS, window, idle, map);
        self.run(&["apply", "-f", file.to_str().unwrap()], roles.servers).await;
    }

    async fn wait(&self, hour: u64, roles: &Roles) {
        let end = hour_start(hour).to_string();
        self.run(&["wait", &self.job, "--until", &end, "--timeout", "60s"], roles.servers).await;
    }

    async fn kafka(&self) -> (KafkaLog, TopicName) {
        let kafka = KafkaLog::connect(KafkaSettings::new(variable("WINDROW_TEST_KAFKA"))).await.unwrap();
        (kafka, TopicName::new(&self.topic).unwrap())
    }

    /// The state of a window in flight, and what its batches say went wrong.
    async fn window(&self, hour: u64, roles: &Roles) -> (String, String) {
        let name = WindowId::Time(hour_start(hour)).to_string();
        let windows = self.json(&["get", "windows", "--job", &self.job], roles.servers).await;
        let window = windows.as_array().unwrap().iter().find(|window| window["window"] == *name).cloned();
        let text = |field: &str| window.as_ref().map_or("", |window| window[field].as_str().unwrap()).to_owned();
        (text("state"), text("note"))
    }
}

/// Behind a partition's last record; 0 while nobody knows the partition.
async fn end(kafka: &KafkaLog, topic: &TopicName, partition: i32) -> Offset {
    let bounds = kafka.bounds(topic, &[PartitionId(partition)]).await.unwrap().pop().unwrap();
    bounds.map_or(Offset(0), |bounds| bounds.high_watermark)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_is_followed_and_what_it_loses_is_counted_or_stops_the_job() {
    let deployment = Deployment::new(Services::direct());
    let roles = Roles::start(&deployment);
    deployment.send(roles.gates, 0, PER_HOUR).await;
    deployment.apply(HOURLY, "3s", SUMS, &roles).await;
    let (kafka, topic) = deployment.kafka().await;

    // It gets a fifth partition, and devices there.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", variable("WINDROW_TEST_KAFKA"));
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let grown = admin.create_partitions([&NewPartitions::new(&deployment.topic, 5)], &AdminOptions::new()).await;
    assert!(grown.unwrap().iter().all(Result::is_ok));
    let mut hour = 1;
    until("a device is written to the new partition", || {
        let (deployment, kafka, topic, n) = (&deployment, &kafka, &topic, hour);
        hour += 1;
        async move {
            deployment.send(roles.gates, n, PER_HOUR).await;
            end(kafka, topic, 4).await > Offset(0)
        }
    })
    .await;
    deployment.wait(hour, &roles).await;
    // With so short an idle time the hour may be over before anybody has heard of the partition: then it is late there.
    let (kept, aside) = deployment.verified(roles.servers).await;
    assert_eq!(kept + aside, hour * AN_HOUR);

    // Retention takes what nobody has read: it is counted, and verify does not call it clean.
    deployment.run(&["pause", &deployment.job], roles.servers).await;
    let before = end(&kafka, &topic, 0).await;
    deployment.send(roles.gates, hour, PER_HOUR).await;
    let after = end(&kafka, &topic, 0).await;
    assert!(before < after, "the partition has devices");
    kafka.truncate(&topic, PartitionId(0), after).await.unwrap();
    deployment.run(&["resume", &deployment.job], roles.servers).await;
    // The hour after it tells the partition that it is over.
    deployment.send(roles.gates, hour + 2, PER_HOUR).await;
    deployment.wait(hour + 1, &roles).await;
    let lost = || async {
        let (ended, said) = deployment.ends(&["verify", &deployment.job, "-o", "json"], roles.servers[0]);
        assert_eq!(ended, Some(1), "{said}");
        let report: Value = serde_json::from_str(&said).unwrap();
        report["ledger"]["lostOffsets"].as_i64() == Some(after.0 - before.0)
    };
    until("what is lost is counted", lost).await;

    // It is deleted and made anew: the job reads none of it, and says so.
    kafka.delete_topic(&topic).await.unwrap();
    let new = NewTopic { name: topic.clone(), partitions: 4, replication: 1, retention_ms: None, max_ahead_ms: None };
    until("the name is free", || async { kafka.create_topic(&new).await.is_ok() }).await;
    until("the job tells of it", || async {
        let job = deployment.json(&["describe", &deployment.job], roles.servers).await;
        job["status"]["problem"].as_str().is_some_and(|problem| problem.contains("made again"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_or_never_ends_holds_nobody_back_and_is_tried_again_or_given_up() {
    let deployment = Deployment::new(Services::direct());
    let mut roles = Roles::start(&deployment);
    // Fails where a speed is 7.5: in the first hour.
    let fails = "SELECT device, CAST(CASE WHEN speed = 7.5 THEN device ELSE '0' END AS BIGINT) AS n FROM readings";
    deployment.apply(HOURLY, "3s", fails, &roles).await;
    deployment.send(roles.gates, 0, PER_HOUR).await;
    // Five minutes of others.
    for hour in 1..4 {
        deployment.send(roles.gates, hour, 5).await;
    }
    until("the first hour is parked", || async { deployment.window(0, &roles).await.0 == "failed" }).await;
    let job = deployment.json(&["describe", &deployment.job], roles.servers).await;
    assert!(job["status"]["batchesFailed"].as_i64() >= Some(1), "{job}");
    until("the hours behind it are complete", || async {
        let hours = futures::future::join_all((1..4).map(|hour| deployment.window(hour, &roles))).await;
        hours.iter().all(|(state, _)| state == "complete")
    })
    .await;
    let report = deployment.verify(&deployment.job, roles.servers).await;
    assert_eq!(report["clean"], true, "what is parked is no gap, also where a partition begins: {report}");

    // Mended SQL, tried again.
    deployment.apply(HOURLY, "3s", "SELECT device, 1 AS n FROM readings", &roles).await;
    let first = WindowId::Time(hour_start(0)).to_string();
    deployment.run(&["retry", &deployment.job, &first], roles.servers).await;
    deployment.wait(4, &roles).await;

    // Nobody works: what waits is cancelled, and given up with a reason.
    roles.worker.kill();
    deployment.send(roles.gates, 4, PER_HOUR).await;
    deployment.send(roles.gates, 6, 1).await;
    until("the hour waits", || async { deployment.window(4, &roles).await.0 == "running" }).await;
    let fifth = WindowId::Time(hour_start(4)).to_string();
    until("all of it is cancelled", || async {
        deployment.run(&["cancel", &deployment.job, &fifth, "--reason", "a bad day"], roles.servers).await;
        let (state, note) = deployment.window(4, &roles).await;
        state == "failed" && note.contains("cancelled: a bad day")
    })
    .await;
    deployment.run(&["skip", &deployment.job, &fifth, "--reason", "a bad day"], roles.servers).await;
    let _worker = deployment.worker();
    deployment.wait(5, &roles).await;
    let report = deployment.verify(&deployment.job, roles.servers).await;
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["notes"].to_string().contains("a bad day"), "{report}");
    assert!(roles.coordinator.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_end_is_cancelled_and_its_worker_goes_on() {
    let deployment = Deployment::new(Services::direct());
    // One slot: a query that burned on would keep the worker from all else.
    let roles = Roles::with_slots(&deployment, "1");
    let endless = "SELECT speed FROM readings\n  reduce: SELECT count(*) AS n FROM parts a, parts b, parts c, parts d \
                   WHERE a.speed + b.speed < c.speed - d.speed - 999";
    deployment.apply(HOURLY, "3s", endless, &roles).await;
    deployment.send(roles.gates, 0, PER_HOUR).await;
    let workers = || async { deployment.json(&["get", "workers"], roles.servers).await[0]["running"].as_i64() };
    until("the reduce runs", || async {
        workers().await == Some(1) && deployment.window(0, &roles).await.1 == "4 of 5 batches committed"
    })
    .await;
    let first = WindowId::Time(hour_start(0)).to_string();
    until("all of it is cancelled", || async {
        deployment.run(&["cancel", &deployment.job, &first], roles.servers).await;
        workers().await == Some(0) && deployment.window(0, &roles).await.0 == "failed"
    })
    .await;
    let mended = "SELECT speed FROM readings\n  reduce: SELECT count(*) AS n FROM parts";
    deployment.apply(HOURLY, "3s", mended, &roles).await;
    deployment.run(&["retry", &deployment.job, &first], roles.servers).await;
    deployment.wait(1, &roles).await;
    assert_eq!(deployment.verified(roles.servers).await, (AN_HOUR, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_come_late_are_set_aside_or_dropped_and_counted_either_way() {
    let deployment = Deployment::new(Services::direct());
    let roles = Roles::start(&deployment);
    deployment.send(roles.gates, 0, PER_HOUR).await;
    deployment.send(roles.gates, 1, PER_HOUR).await;
    deployment.apply(HOURLY, "3s", SUMS, &roles).await;
    let dropping = format!("{}-drop", deployment.job);
    let file = deployment.job_file_with(&dropping, BLOCKS, &format!("{HOURLY}\n  late: drop"), "3s", SUMS);
    deployment.run(&["apply", "-f", file.to_str().unwrap()], roles.servers).await;
    let wait = async |hour| {
        let end = hour_start(hour).to_string();
        deployment.wait(hour, &roles).await;
        deployment.run(&["wait", &dropping, "--until", &end, "--timeout", "60s"], roles.servers).await;
    };
    wait(1).await;
    deployment.send(roles.gates, 0, PER_HOUR).await;
    deployment.send(roles.gates, 3, PER_HOUR).await;
    wait(4).await;
    let store = deployment.store();
    for (job, is_kept) in [(&deployment.job, true), (&dropping, false)] {
        let report = deployment.verify(job, roles.servers).await;
        assert_eq!(report["clean"], true, "{report}");
        let count = |field: &str| report["ledger"][field].as_u64().unwrap();
        assert_eq!((count("kept"), count("late")), (3 * AN_HOUR, AN_HOUR), "{report}");
        let files = store.list(&paths::dataset(&JobName::new(job).unwrap(), Dataset::Late)).await.unwrap();
        assert_eq!(!files.is_empty(), is_kept, "{job}: {files:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twice_counts_once_and_old_windows_go_with_their_files() {
    let deployment = Deployment::new(Services::direct());
    let roles = Roles::start(&deployment);
    deployment.send(roles.gates, 0, PER_HOUR).await;
    deployment.send(roles.gates, 0, PER_HOUR).await;
    deployment.apply(HOURLY, "3s", SUMS, &roles).await;
    deployment.wait(1, &roles).await;
    let report = deployment.verify(&deployment.job, roles.servers).await;
    assert_eq!(
        (report["ledger"]["kept"].as_u64(), report["ledger"]["duplicate"].as_u64()),
        (Some(AN_HOUR), Some(AN_HOUR))
    );

    deployment.apply(&format!("{HOURLY}\n  output: {{retention: 119m}}"), "3s", SUMS, &roles).await;
    for hour in 1..7 {
        deployment.send(roles.gates, hour, PER_HOUR).await;
    }
    deployment.wait(7, &roles).await;
    let (store, job) = (deployment.store(), JobName::new(&deployment.job).unwrap());
    until("two hours are left", || async {
        let report = deployment.verify(&deployment.job, roles.servers).await;
        assert_eq!(report["clean"], true, "while windows go, too: {report}");
        store.list(&paths::dataset(&job, Dataset::Data)).await.unwrap().len() == 2
    })
    .await;
    let first = WindowId::Time(hour_start(0));
    until("nothing of the first hour is left", || async {
        let mut left = store.list(&paths::window_commits(&job, first)).await.unwrap().len();
        for folder in paths::window_folders(&job, first) {
            left += store.list(&folder).await.unwrap().len();
        }
        left == 0
    })
    .await;
    let kept: Vec<i64> = deployment.counted().await.into_values().collect();
    assert_eq!(kept, [AN_HOUR as i64; 2]);
}

/// The suites of the adapters, as a user runs them against services of his own.
#[test]
fn doctor_examines_the_services_and_finds_them_sound() {
    let (ended, said) = Deployment::new(Services::direct()).ends(&["doctor", "-o", "json"], 0);
    assert_eq!(ended, Some(0), "{said}");
    let checks: Vec<Value> = serde_json::from_str(&said).unwrap();
    let examined =
        |part: &str| checks.iter().filter(|check| check["part"] == part && check["result"] == "holds").count();
    assert!(["kafka", "etcd", "store"].iter().all(|part| examined(part) >= 2), "{said}");
}
