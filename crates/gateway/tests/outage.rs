//! The log is down at the start or in between: the gateway goes on, says so, answers in time, and recovers by itself.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Request, StatusCode};
use support::{CAUSE, creating, doors, doors_over, until};
use windrow_gateway::Settings;
use windrow_kafka::{KafkaLog, KafkaSettings};

const GOOD: &str = r#"{"device": "d", "time": "2015-09-01T00:00:00Z", "values": {"speed": 1.5}}"#;

fn brokers() -> String {
    std::env::var("WINDROW_TEST_KAFKA").expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_down_readiness_is_false_and_requests_are_told_to_come_again_at_once() {
    let doors = doors(creating(1));
    until("ready", || async { doors.readyz().await.0 == StatusCode::OK }).await;
    doors.log.down.store(true, Ordering::SeqCst);
    until("not ready", || async { doors.readyz().await.0 == StatusCode::SERVICE_UNAVAILABLE }).await;
    assert!(doors.readyz().await.1.contains(CAUSE), "the address and the cause are named");
    let request = Request::post("/v1/topics/traffic/readings").body(GOOD.into()).unwrap();
    let (status, headers, answer) = doors.send(request).await;
    assert_eq!(
        (status, headers.get("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, Some(&HeaderValue::from_static("1")))
    );
    assert!(answer["error"].as_str().unwrap().contains(CAUSE), "{answer}");
    doors.log.down.store(false, Ordering::SeqCst);
    until("ready again", || async { doors.readyz().await.0 == StatusCode::OK }).await;
    assert_eq!(doors.post("/v1/topics/traffic/readings", GOOD).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_hangs_is_answered_in_time() {
    let doors = doors(Settings { answer_within: Duration::from_millis(200), ..creating(1) });
    doors.log.held.send_replace(true);
    let started = Instant::now();
    let (status, answer) = doors.post("/v1/topics/traffic/readings", GOOD).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert!(started.elapsed() < Duration::from_secs(10));
    doors.log.held.send_replace(false);
    until("goes on", || async { doors.post("/v1/topics/traffic/readings", GOOD).await.0 == StatusCode::OK }).await;
}

/// Forwards connections; Kafka's clients ask it only where the brokers are.
async fn forward(listener: tokio::net::TcpListener, to: String) {
    while let Ok((mut from, _)) = listener.accept().await {
        let to = to.clone();
        tokio::spawn(async move {
            let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_takes_connections_and_says_nothing_is_down_and_named() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let log = KafkaLog::new(KafkaSettings::new(address.clone())).unwrap();
    let doors = doors_over(std::sync::Arc::new(log), creating(2));
    until("not ready", || async { doors.readyz().await.1.contains(&address) }).await;
    let (status, answer) = doors.post("/v1/topics/silent/readings", GOOD).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_before_kafka_takes_readings_once_kafka_is_there() {
    let kafka = brokers();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let log = KafkaLog::new(KafkaSettings::new(address.to_string())).unwrap();
    let doors = doors_over(std::sync::Arc::new(log), creating(2));
    let path = format!("/v1/topics/outage-{}/readings", uuid::Uuid::new_v4());
    until("not ready", || async { doors.readyz().await.1.contains(&address.to_string()) }).await;
    let (status, answer) = doors.post(&path, GOOD).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(forward(listener, kafka));
    until("ready", || async { doors.readyz().await.0 == StatusCode::OK }).await;
    until("taken", || async { doors.post(&path, GOOD).await.0 == StatusCode::OK }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_kafka_has_acknowledged_can_be_read_from_it() {
    let kafka = std::sync::Arc::new(KafkaLog::connect(KafkaSettings::new(brokers())).await.expect("Kafka answers"));
    let doors = doors_over(kafka, creating(3));
    let topic = format!("gateway-{}", uuid::Uuid::new_v4());
    let lines: Vec<String> = (0..3_000)
        .map(|i| {
            let (device, minute) = (i % 7, i / 60 % 60);
            format!(r#"{{"device": "d{device}", "time": "2015-09-01T00:{minute:02}:00Z", "seq": {i}, "values": {{"v": {i}}}}}"#)
        })
        .collect();
    let posts = lines.chunks(100).map(|lines| {
        let path = format!("/v1/topics/{topic}/readings");
        let (doors, body) = (&doors, lines.join("\n"));
        async move {
            let (_, answer) = doors.post(&path, body).await;
            answer["accepted"].as_u64().unwrap_or_else(|| panic!("{answer}"))
        }
    });
    assert_eq!(futures::future::join_all(posts).await.into_iter().sum::<u64>(), 3_000);
    let mut rows = 0;
    for (_, records) in doors.records(&topic).await {
        rows += records.iter().map(|r| windrow_wire::block::decode(&r.payload).unwrap().row_count).sum::<usize>();
    }
    assert_eq!(rows, 3_000);
}
