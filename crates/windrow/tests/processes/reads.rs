//! How often the log is read: what a worker has Kafka send it, counted on the way.

use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::Log;
use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::{PartitionId, TopicName};

use crate::deployment::{Deployment, Services, free_port, hour_start, until, variable};
use crate::proxy::Proxy;

const HOURS: u64 = 1;
const PARTITIONS: i32 = 2;
/// Readings of a partition in a minute.
const PER_MINUTE: u64 = 20;

/// The messages of a minute: text that does not shrink, so that what is sent is about what is read.
fn minute(minute: u64) -> Vec<Append> {
    let time = hour_start(0).plus_micros(minute as i64 * 60_000_000);
    let message = |n: u64| {
        let noise: String = (0..40).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        let payload = format!(r#"{{"speed": {n}.5, "noise": "{noise}"}}"#).into();
        Append { key: Some(format!("d{n}").into()), payload, timestamp: time }
    };
    (0..PER_MINUTE).map(message).collect()
}

/// A backlog of small windows, whose ranges overlap by ten of them: each record would be read by eleven batches, and with
/// each of them all that Kafka sends at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_small_windows_that_overlap_is_fetched_about_once() {
    let deployment = Deployment::new(Services::direct());
    let mut way = Proxy::to_kafka().await;
    way.open().await;
    let kafka = KafkaLog::connect(KafkaSettings::new(variable("WINDROW_TEST_KAFKA"))).await.unwrap();
    let topic = TopicName::new(&deployment.topic).unwrap();
    let new = NewTopic {
        name: topic.clone(),
        partitions: PARTITIONS,
        replication: 1,
        retention_ms: None,
        max_ahead_ms: None,
    };
    kafka.create_topic(&new).await.unwrap();
    let all: Vec<PartitionId> = (0..PARTITIONS).map(PartitionId).collect();
    let have_leaders = || async { kafka.bounds(&topic, &all).await.is_ok_and(|all| all.iter().all(Result::is_ok)) };
    until("the partitions have leaders", have_leaders).await;
    let mut written = 0;
    for partition in 0..PARTITIONS {
        // The last minute closes the hours before it.
        for n in (0..HOURS * 60).chain([(HOURS + 1) * 60]) {
            let messages = minute(n);
            written += messages.iter().map(|message| message.payload.len() as u64).sum::<u64>();
            kafka.append(&topic, PartitionId(partition), messages).await.unwrap();
        }
    }

    let server = free_port();
    let servers = [server; 2];
    let _coordinator = deployment.coordinator(server);
    let _worker = deployment.worker_with(&["--slots", "2", "--kafka", &way.listen.to_string()]);
    let source = "source: {topic: TOPIC, values: {speed: f64}, format: json}";
    let file = deployment.job_file_of(source, "window: {every: 1m}\n  lateness: 10m");
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;
    let end = hour_start(HOURS).to_string();
    deployment.run(&["wait", &deployment.job, "--until", &end, "--timeout", "110s"], servers).await;

    let (kept, aside) = deployment.verified(servers).await;
    assert_eq!((kept, aside), (HOURS * 60 * PER_MINUTE * PARTITIONS as u64, 0));
    let fetched = way.came_back();
    println!("{fetched} bytes were sent for {written} that were written");
    assert!(fetched < 3 * written, "{fetched} bytes were sent for {written} that were written");
}
