//! The settings of a topic that decide whether a job can work on it are seen as they are. `cargo xtask test` starts Kafka.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::log::{Append, TopicInfo};
use windrow_ports::{Log, LogError};
use windrow_protocol::{Offset, PartitionId, Timestamp, TopicName};

/// A topic that another client made a moment ago is known to all brokers soon.
async fn described(kafka: &KafkaLog, name: &TopicName) -> TopicInfo {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match kafka.topic(name).await {
            Err(LogError::NoTopic(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            result => return result.unwrap(),
        }
    }
}

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
        let info = described(&kafka, &name).await;
        assert_eq!(
            (info.compacted, info.append_time, info.retention_ms),
            (compacted, append_time, retention_ms),
            "{settings:?}"
        );
        kafka.delete_topic(&name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_a_topic_has_just_got_takes_records_from_who_knew_the_topic_without_it() {
    let brokers =
        std::env::var("WINDROW_TEST_KAFKA").expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test");
    let kafka = KafkaLog::connect(KafkaSettings::new(&brokers)).await.expect("Kafka answers");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let name = TopicName::new(format!("test-{}", uuid::Uuid::new_v4())).unwrap();
    let topic = NewTopic::new(name.as_str(), 1, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    described(&kafka, &name).await;
    let record = || vec![Append { key: None, payload: "r".into(), timestamp: Timestamp::from_millis(1) }];
    assert_eq!(kafka.append(&name, PartitionId(0), record()).await, Ok(vec![Offset(0)]));
    let grown = NewPartitions::new(name.as_str(), 2);
    admin.create_partitions([&grown], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while described(&kafka, &name).await.partitions < 2 {
        assert!(Instant::now() < deadline, "the broker tells of the new partition");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(kafka.append(&name, PartitionId(1), record()).await, Ok(vec![Offset(0)]));
    kafka.delete_topic(&name).await.unwrap();
}
