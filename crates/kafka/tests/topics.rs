//! The settings of a topic that decide whether a job can work on it are seen as they are. `cargo xtask test` starts Kafka.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::Log;
use windrow_protocol::TopicName;

#[tokio::test(flavor = "multi_thread")]
async fn compaction_append_time_and_retention_are_seen() {
    let brokers =
        std::env::var("WINDROW_TEST_KAFKA").expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test");
    let kafka = KafkaLog::connect(KafkaSettings::new(&brokers)).await.expect("Kafka answers");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    for (settings, compacted, append_time, retention_ms) in [
        (&[("retention.ms", "3600000")][..], false, false, Some(3_600_000)),
        (&[("retention.ms", "-1")], false, false, None),
        (&[("cleanup.policy", "compact"), ("retention.ms", "-1")], true, false, None),
        (&[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")], true, false, None),
        (&[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1")], false, true, None),
    ] {
        let name = TopicName::new(format!("test-{}", uuid::Uuid::new_v4())).unwrap();
        let mut topic = NewTopic::new(name.as_str(), 1, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        let info = kafka.topic(&name).await.unwrap();
        assert_eq!(
            (info.compacted, info.append_time, info.retention_ms),
            (compacted, append_time, retention_ms),
            "{settings:?}"
        );
        kafka.delete_topic(&name).await.unwrap();
    }
}
