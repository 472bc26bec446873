//! A topic that others write: JSON, one object, an array or lines per message, and something that is none of these.

use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::Log;
use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, PartitionId, Revision, Timestamp, TopicName, WindowId, paths};

use crate::deployment::{Deployment, Services, free_port, variable};

fn message(time: &str, key: &str, payload: &'static [u8]) -> Append {
    Append { key: Some(key.to_owned().into()), payload: payload.into(), timestamp: time.parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_others_write_is_read_and_what_can_not_be_read_is_kept_with_its_reason() {
    let deployment = Deployment::new(Services::direct());
    let kafka = KafkaLog::connect(KafkaSettings::new(variable("WINDROW_TEST_KAFKA"))).await.unwrap();
    let topic = TopicName::new(&deployment.topic).unwrap();
    let new = NewTopic { name: topic.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    kafka.create_topic(&new).await.unwrap();
    let messages = vec![
        message("2015-09-01T00:10:00Z", "d1", br#"{"speed": 1.5}"#),
        message("2015-09-01T00:20:00Z", "d1", br#"[{"speed": 2.5}, {"speed": "fast"}, {"speed": 3}]"#),
        message("2015-09-01T00:30:00Z", "d2", b"{\"speed\": 4.0}\n{\"speed\": 5.0}\n"),
        message("2015-09-01T00:40:00Z", "d2", b"\xff\xfe no JSON at all"),
        // Closes the hour.
        message("2015-09-01T02:00:00Z", "d2", br#"{"speed": 6.0}"#),
    ];
    while kafka.append(&topic, PartitionId(0), messages.clone()).await.is_err() {
        // A topic that was made a moment ago has no leader yet.
        tokio::task::yield_now().await;
    }

    let server = free_port();
    let servers = [server; 2];
    let _coordinator = deployment.coordinator(server);
    let _worker = deployment.worker();
    let file = deployment.job_file("source: {topic: TOPIC, values: {speed: f64}, format: json}");
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;
    deployment.run(&["wait", &deployment.job, "--until", "2015-09-01T01:00:00Z", "--timeout", "60s"], servers).await;

    let job = JobName::new(&deployment.job).unwrap();
    let window = WindowId::Time("2015-09-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let path = paths::marker(&job, window, Part::Partition(PartitionId(0)), Revision(0));
    let marker = deployment.store().read_marker::<Marker>(&path).await.unwrap().expect("the window's marker");
    let ledger = marker.ledger;
    assert_eq!((ledger.kept, ledger.quarantined, ledger.undecodable), (5, 1, 1), "{ledger:?}");
    let reasons = marker.quarantine_reasons.join("\n");
    assert!(reasons.contains("offset 1: ") && reasons.contains("speed"), "{reasons}");
    assert!(reasons.contains("offset 3: ") && reasons.contains("JSON"), "{reasons}");
    let (file, n) = deployment.counted().await.into_iter().next().unwrap();
    assert!(file.contains("window=20150901T000000Z") && n == 5, "{file}: {n}");
    deployment.verified(servers).await;
}
