//! Topics of a real Kafka that a job can't work on are refused when it is applied. `cargo xtask test` starts the services.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use rdkafka::admin::{AdminClient, AdminOptions, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::log::{Append, Log, NewTopic};
use windrow_protocol::{PartitionId, Timestamp, TopicName};

use crate::JOB;
use crate::outcome::{Outcome, outcome, windrow};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test starts the services and sets it"))
}

struct Coordinator {
    process: Child,
    server: String,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Coordinator {
    /// Starts one, and waits for the line that says where it listens.
    fn start(id: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let grpc = format!("127.0.0.1:{port}");
        let store = format!("s3://{}/cli-{id}", variable("WINDROW_TEST_S3_BUCKET"));
        let mut command = windrow(&["coordinator", "--grpc", &grpc, "--store", &store]);
        command.env("WINDROW_S3_ENDPOINT", variable("WINDROW_TEST_S3"));
        command.env("AWS_ACCESS_KEY_ID", variable("WINDROW_TEST_S3_ACCESS_KEY"));
        command.env("AWS_SECRET_ACCESS_KEY", variable("WINDROW_TEST_S3_SECRET_KEY"));
        command.env("WINDROW_KAFKA", variable("WINDROW_TEST_KAFKA")).env("WINDROW_ETCD", variable("WINDROW_TEST_ETCD"));
        command.env("WINDROW_ETCD_PREFIX", format!("/cli-{id}"));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("gRPC listens")), "it ended before it listened");
        // Nobody may be kept from writing on.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, server: format!("http://{grpc}") }
    }

    fn apply(&self, topic: &str) -> Outcome {
        let text = JOB.replace("topic: fleet", &format!("topic: {topic}"));
        let mut command = windrow(&["apply", "--dry-run", "-f", "-"]);
        command.env("WINDROW_SERVER", &self.server);
        outcome(command, Some(&text))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_forgets_too_soon_is_refused_and_one_with_old_readings_is_warned_of() {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let kafka = KafkaLog::connect(KafkaSettings::new(variable("WINDROW_TEST_KAFKA"))).await.unwrap();
    let topic = |name: &str| TopicName::new(format!("cli-{name}-{id}")).unwrap();
    for (name, retention_ms) in [("short", Some(3_600_000)), ("old", Some(86_400_000)), ("good", None)] {
        let new = NewTopic { name: topic(name), partitions: 1, replication: 1, retention_ms, max_ahead_ms: None };
        kafka.create_topic(&new).await.unwrap();
    }
    let timestamp: Timestamp = "2015-09-01T00:00:00Z".parse().unwrap();
    let coordinator = Coordinator::start(&id);
    let short = coordinator.apply(topic("short").as_str()).fails(1);
    assert!(short.contains("<stdin>:6:12: spec.source.topic: "), "{short}");
    assert!(short.contains("10m less than a window") && short.contains("[RETENTION_TOO_SHORT]"), "{short}");
    // What the warning is of may happen at once: the broker looks for segments to drop now and then.
    let old = loop {
        let record = Append { key: None, payload: "old".into(), timestamp };
        let offsets = kafka.append(&topic("old"), PartitionId(0), vec![record]).await.unwrap();
        let old = coordinator.apply(topic("old").as_str());
        let bounds = kafka.bounds(&topic("old"), &[PartitionId(0)]).await.unwrap().remove(0).unwrap();
        if bounds.log_start <= offsets[0] {
            break old;
        }
    };
    assert!(old.stderr.contains("vanish as soon as their segment rolls"), "{old:?}");
    assert!(old.ok().contains("created (dry run)"));
    let good = coordinator.apply(topic("good").as_str());
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{good:?}");
    for name in ["short", "old", "good"] {
        kafka.delete_topic(&topic(name)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_forgets_by_key_or_keeps_another_time_is_refused() {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let brokers = variable("WINDROW_TEST_KAFKA");
    let kafka = KafkaLog::connect(KafkaSettings::new(&brokers)).await.unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let coordinator = Coordinator::start(&id);
    for (name, key, value, why) in [
        ("compacted", "cleanup.policy", "compact", "is compacted"),
        ("both", "cleanup.policy", "compact,delete", "is compacted"),
        ("append-time", "message.timestamp.type", "LogAppendTime", "LogAppendTime"),
    ] {
        let topic = TopicName::new(format!("cli-{name}-{id}")).unwrap();
        let new = rdkafka::admin::NewTopic::new(topic.as_str(), 1, TopicReplication::Fixed(1));
        let new = new.set("retention.ms", "-1").set(key, value);
        admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        // The broker tells of it a moment after it has made it; a job may be applied before its topic is there.
        let refused = loop {
            let outcome = coordinator.apply(topic.as_str());
            if !outcome.stderr.contains("does not exist yet") {
                break outcome.fails(1);
            }
        };
        assert!(refused.contains("<stdin>:6:12: spec.source.topic: ") && refused.contains(why), "{refused}");
        kafka.delete_topic(&topic).await.unwrap();
    }
}
