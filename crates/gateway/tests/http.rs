//! The HTTP door, over the embedded log: each kind of bad reading is refused by name while its neighbours are taken.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use tower::ServiceExt;
use windrow_embedded::Database;
use windrow_gateway::{Gateway, Settings, http};
use windrow_ports::SystemClock;
use windrow_ports::log::{Log, NewTopic};
use windrow_protocol::{PartitionId, TopicName};

struct Door {
    router: axum::Router,
    db: Database,
    _folder: tempfile::TempDir,
}

async fn door(create_partitions: Option<i32>) -> Door {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    let settings = Settings { create_partitions, ..Settings::default() };
    let gateway = Gateway::new(db.log(), Arc::new(SystemClock::default()), settings);
    Door { router: http::router(gateway), db, _folder: folder }
}

impl Door {
    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, serde_json::Value) {
        let request = Request::post(path).body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn records(&self, topic: &str) -> i64 {
        let topic = TopicName::new(topic).unwrap();
        let partitions = self.db.log().topic(&topic).await.unwrap().partitions;
        let all: Vec<PartitionId> = (0..partitions).map(PartitionId).collect();
        let bounds = self.db.log().bounds(&topic, &all).await.unwrap();
        bounds.into_iter().map(|bounds| bounds.unwrap().high_watermark.0).sum()
    }
}

const GOOD: &str = r#"{"device": "d", "time": "2015-09-01T00:00:00Z", "seq": 1, "values": {"speed": 1.5, "on": true}, "tags": {"zone": "a"}}"#;
const PATH: &str = "/v1/topics/traffic/readings";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_an_array_and_lines_are_taken() {
    let door = door(Some(3)).await;
    for (body, n) in [(GOOD.to_owned(), 1), (format!("[{GOOD},{GOOD}]"), 2), (format!("{GOOD}\n{GOOD}\n\n{GOOD}\n"), 3)]
    {
        let (status, answer) = door.post(PATH, body).await;
        assert_eq!(
            (status, &answer["accepted"], &answer["refused"]),
            (StatusCode::OK, &n.into(), &0.into()),
            "{answer}"
        );
    }
    assert_eq!(door.records("traffic").await, 3, "one block per request");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_reading_is_refused_with_field_and_reason_and_its_neighbours_are_taken() {
    let door = door(Some(1)).await;
    let long =
        format!(r#"{{"device": "d", "time": "2015-09-01T00:00:00Z", "values": {{"s": "{}"}}}}"#, "x".repeat(2 << 20));
    let reading = |from: &str, to: &str| GOOD.replace(from, to);
    for (bad, field, reason) in [
        (r#"{"device": "d""#.to_owned(), "", "MALFORMED_JSON"),
        (reading("1.5", "NaN"), "", "MALFORMED_JSON"),
        (reading("\"seq\"", "\"sequence\""), "sequence", "UNKNOWN_FIELD"),
        (reading("\"d\"", "7"), "device", "WRONG_TYPE"),
        (reading("1.5", "[1]"), "values.speed", "WRONG_TYPE"),
        (reading("2015", "2036"), "time", "TOO_FAR_AHEAD"),
        (reading("2015-09-01T00", "yesterday"), "time", "INVALID_TIME"),
        (reading("\"d\"", "\"\""), "device", "INVALID_DEVICE"),
        (reading("\"zone\"", "\"speed\""), "values.speed", "DUPLICATE_NAME"),
        (r#"{"time": "2015-09-01T00:00:00Z"}"#.to_owned(), "device", "MISSING"),
        ("7".to_owned(), "", "NOT_AN_OBJECT"),
        (long, "values.s", "TEXT_TOO_LONG"),
    ] {
        let (status, answer) = door.post(PATH, format!("{GOOD}\n{bad}\n{GOOD}")).await;
        assert_eq!(
            (status, &answer["accepted"], &answer["refused"]),
            (StatusCode::OK, &2.into(), &1.into()),
            "{reason}: {answer}"
        );
        let refusal = &answer["refusals"][0];
        let found = (refusal["index"].as_u64(), refusal["field"].as_str(), refusal["reason"].as_str());
        assert_eq!(found, (Some(1), Some(field), Some(reason)), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_older_than_the_topic_keeps_are_refused() {
    let door = door(None).await;
    let name = TopicName::new("traffic").unwrap();
    let topic =
        NewTopic { name, partitions: 1, replication: 1, retention_ms: Some(7 * 86_400_000), max_ahead_ms: None };
    door.db.log().create_topic(&topic).await.unwrap();
    let (_, answer) = door.post(PATH, GOOD).await;
    assert_eq!(answer["refusals"][0]["reason"], "TOO_OLD", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named() {
    let door = door(None).await;
    let (status, answer) = door.post(PATH, GOOD).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(answer["error"].as_str().unwrap().contains("traffic does not exist"), "{answer}");
    let (status, _) = door.post("/v1/topics/a%20b/readings", GOOD).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
