//! The settings of a topic that decide whether a job can work on it are seen as they are. `cargo xtask test` starts Kafka.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::log::{Append, Record, TopicInfo};
use windrow_ports::{Log, LogError};
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

/// The addresses of the broker of the tests, and the log that it is.
async fn kafka() -> (String, KafkaLog) {
    let brokers =
        std::env::var("WINDROW_TEST_KAFKA").expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test");
    let kafka = KafkaLog::connect(KafkaSettings::new(&brokers)).await.expect("Kafka answers");
    (brokers, kafka)
}

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
    let (brokers, kafka) = kafka().await;
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
async fn the_times_that_a_topic_takes_are_seen() {
    let (brokers, kafka) = kafka().await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let name = TopicName::new(format!("test-{}", uuid::Uuid::new_v4())).unwrap();
    let topic = NewTopic::new(name.as_str(), 1, TopicReplication::Fixed(1))
        .set("message.timestamp.before.max.ms", "86400000")
        .set("message.timestamp.after.max.ms", "9223372036854775807");
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let info = described(&kafka, &name).await;
    assert_eq!((info.max_behind_ms, info.max_ahead_ms), (Some(86_400_000), None));
    let old = vec![Append { key: None, payload: "r".into(), timestamp: Timestamp::from_millis(1) }];
    let refused = kafka.append(&name, PartitionId(0), old).await;
    assert!(matches!(refused, Err(LogError::Refused(_))), "that is what the limit means: {refused:?}");
    kafka.delete_topic(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_a_topic_has_just_got_takes_records_from_who_knew_the_topic_without_it() {
    let (brokers, kafka) = kafka().await;
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

/// A range, whole: its offsets in order.
async fn offsets_of(kafka: &KafkaLog, name: &TopicName, range: OffsetRange) -> Vec<i64> {
    let chunks: Vec<Vec<Record>> = kafka.read(name, PartitionId(0), range).try_collect().await.expect("it is read");
    chunks.iter().flatten().map(|record| record.offset.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_ends_in_markers_of_transactions_is_complete_without_a_record_behind_it() {
    let (brokers, kafka) = kafka().await;
    let name = TopicName::new(format!("test-{}", uuid::Uuid::new_v4())).unwrap();
    let topic = windrow_ports::log::NewTopic {
        name: name.clone(),
        partitions: 1,
        replication: 1,
        retention_ms: None,
        max_ahead_ms: None,
    };
    kafka.create_topic(&topic).await.unwrap();
    let sent = name.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("transactional.id", sent.as_str())
            .create()
            .unwrap();
        let timeout = Duration::from_secs(30);
        producer.init_transactions(timeout).unwrap();
        for commit in [true, false] {
            producer.begin_transaction().unwrap();
            producer.send(BaseRecord::<(), [u8]>::to(sent.as_str()).payload(b"1")).unwrap();
            producer.flush(timeout).unwrap();
            if commit {
                producer.commit_transaction(timeout).unwrap();
            } else {
                producer.abort_transaction(timeout).unwrap();
            }
        }
    })
    .await
    .unwrap();
    // A record, its marker, and both once more.
    let ranges = [(0, 2, vec![0]), (0, 4, vec![0, 2]), (1, 2, vec![]), (3, 4, vec![]), (2, 4, vec![2])];
    for (start, end, expected) in ranges {
        let range = OffsetRange::new(Offset(start), Offset(end));
        assert_eq!(offsets_of(&kafka, &name, range).await, expected, "{start}..{end}");
    }
}

/// A broker that is behind says "no more" where it ends. What it says of its end later, when it has caught up, is not of
/// that place: a reader that took both together would end its range early, without an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_behind_for_a_moment_leaves_out_nothing() {
    const BEHIND: i64 = 20_000;
    const ALL: i64 = 20_500;
    let cluster = MockCluster::new(2).unwrap();
    let name = TopicName::new("behind").unwrap();
    cluster.create_topic(name.as_str(), 1, 2).unwrap();
    cluster.partition_leader(name.as_str(), 0, Some(1)).unwrap();
    cluster.partition_follower(name.as_str(), 0, 2).unwrap();
    cluster.follower_watermarks(name.as_str(), 0, Some(0), Some(BEHIND)).unwrap();
    let brokers = cluster.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    // No batch spans the place where the follower ends.
    for records in [BEHIND, ALL - BEHIND] {
        for _ in 0..records {
            producer.send(BaseRecord::<(), [u8]>::to(name.as_str()).payload(b"1")).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    // The follower is read from. Nobody takes what was read for a while, so the word that there is no more has to wait.
    let kafka = KafkaLog::new(KafkaSettings::new(&brokers)).unwrap();
    let mut chunks = kafka.read(&name, PartitionId(0), OffsetRange::new(Offset(0), Offset(ALL)));
    let mut seen = chunks.next().await.expect("it goes on").expect("it is read");
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.follower_watermarks(name.as_str(), 0, None, None).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    while let Some(chunk) = chunks.next().await {
        seen.extend(chunk.expect("it is read"));
    }
    let offsets: Vec<i64> = seen.iter().map(|record| record.offset.0).collect();
    assert!(offsets.iter().copied().eq(0..ALL), "{} of {ALL}, the last {:?}", offsets.len(), offsets.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_is_an_outage_and_one_that_is_not_there_is_none() {
    let cluster = MockCluster::new(1).unwrap();
    let name = TopicName::new("led").unwrap();
    cluster.create_topic(name.as_str(), 2, 1).unwrap();
    let kafka = KafkaLog::new(KafkaSettings::new(cluster.bootstrap_servers())).unwrap();
    let range = OffsetRange::new(Offset(0), Offset(1));
    let read = async |partition| kafka.read(&name, partition, range).try_collect::<Vec<_>>().await.unwrap_err();
    let found = kafka.bounds(&name, &[PartitionId(0), PartitionId(1)]).await.unwrap();
    assert!(found.iter().all(Result::is_ok), "{found:?}");

    // Beside one that has a leader, and alone.
    cluster.partition_leader(name.as_str(), 0, None).unwrap();
    for asked in [vec![PartitionId(0), PartitionId(1)], vec![PartitionId(0)]] {
        let found = kafka.bounds(&name, &asked).await.and_then(|mut found| found.remove(0)).unwrap_err();
        assert!(matches!(found, LogError::Unavailable(_)), "{found:?}");
    }
    let of_the_first = read(PartitionId(0)).await;
    assert!(matches!(of_the_first, LogError::Unavailable(_)), "{of_the_first:?}");
    let of_none = kafka.bounds(&name, &[PartitionId(7)]).await.and_then(|mut found| found.remove(0)).unwrap_err();
    assert!(matches!(of_none, LogError::NoTopic(_)), "{of_none:?}");
}
