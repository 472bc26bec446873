//! The gRPC door: the same refusals and answers as over HTTP; streams are answered in order and end at a drain.

mod support;

use std::time::Duration;

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use prost::Message;
use support::{Doors, PATIENCE, creating, doors};
use tonic::{Code, Request};
use windrow_gateway::Settings;
use windrow_wire::ingest::RawRequest;
use windrow_wire::v1::field::Value;
use windrow_wire::v1::{Field, PublishRequest, PublishResponse, PublishStreamRequest, Reading};

fn field(name: &str, value: Value) -> Field {
    Field { name: name.to_owned(), value: Some(value) }
}

fn reading(device: &str, fields: Vec<Field>) -> Reading {
    Reading { device: device.to_owned(), time_us: 1_441_065_600_000_000, seq: Some(1), fields }
}

fn good() -> Reading {
    reading("d", vec![field("speed", Value::F64(1.5)), field("zone", Value::Text("a".to_owned()))])
}

fn request(topic: &str, readings: Vec<Reading>) -> PublishRequest {
    PublishRequest { topic: topic.to_owned(), readings }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_reading_is_refused_with_index_field_and_reason_and_its_neighbours_are_taken() {
    let doors = doors(creating(1));
    let mut client = doors.client().await;
    let value = |value| reading("d", vec![field("speed", value)]);
    let in_2036 = Reading { time_us: 2_082_844_800_000_000, ..good() };
    for (bad, at, reason) in [
        (reading("", vec![]), "device", "INVALID_DEVICE"),
        (in_2036, "time", "TOO_FAR_AHEAD"),
        (value(Value::F64(f64::NAN)), "values.speed", "NOT_FINITE"),
        (value(Value::F64(f64::INFINITY)), "values.speed", "NOT_FINITE"),
        (value(Value::Text("x".repeat(2 << 20))), "values.speed", "TEXT_TOO_LONG"),
        (reading("d", vec![field("", Value::I64(1))]), "values.", "INVALID_NAME"),
        (reading("d", vec![field("a", Value::I64(1)), field("a", Value::I64(2))]), "values.a", "DUPLICATE_NAME"),
    ] {
        let answer = client.publish(request("traffic", vec![good(), bad, good()])).await.unwrap().into_inner();
        assert_eq!((answer.accepted, answer.refused), (2, 1), "{answer:?}");
        let refusal = &answer.refusals[0];
        assert_eq!((refusal.index, refusal.field.as_str(), refusal.reason.as_str()), (1, at, reason), "{refusal:?}");
    }
    let without_value = reading("d", vec![Field { name: "speed".to_owned(), value: None }]);
    let answer = client.publish(request("traffic", vec![without_value])).await.unwrap().into_inner();
    assert_eq!(answer.accepted, 1, "a field without a value is as good as absent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_not_be_served_says_why() {
    let doors = doors(Settings::default());
    let mut client = doors.client().await;
    let text = |len| reading("d", vec![field("v", Value::Text("x".repeat(len)))]);
    for (request, code, part) in [
        (request("traffic", vec![good()]), Code::NotFound, "traffic does not exist"),
        (request("a b", vec![good()]), Code::InvalidArgument, "topic name \"a b\" is not valid"),
        (
            request("traffic", vec![good(); 100_001]),
            Code::ResourceExhausted,
            "100001 readings; a request has at most 100000",
        ),
        (request("traffic", vec![text(9 << 20); 2]), Code::ResourceExhausted, "at most 16777216 bytes"),
    ] {
        let status = client.publish(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_down_is_unavailable_and_the_message_says_what_to_do() {
    let doors = doors(creating(1));
    let mut client = doors.client().await;
    doors.log.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let status = client.publish(request("traffic", vec![good()])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(support::CAUSE) && status.message().contains("send the request again"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_reading_spoil_that_reading_alone() {
    let doors = doors(creating(1));
    let good = Bytes::from(good().encode_to_vec());
    for bad in [&b"\x0a\x01\xff"[..], b"\x0a\x7f", b"\x08\x01", b"\xff"] {
        let readings = vec![good.clone(), Bytes::from_static(bad), good.clone()];
        let request = RawRequest { topic: "traffic".to_owned(), readings, surplus: 0 };
        let mut client = tonic::client::Grpc::new(doors.channel().await);
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/windrow.v1.IngestService/Publish");
        let codec = tonic_prost::ProstCodec::<RawRequest, PublishResponse>::default();
        let answer = client.unary(Request::new(request), path, codec).await.unwrap().into_inner();
        let refusal = &answer.refusals[0];
        assert_eq!((answer.accepted, refusal.index, refusal.reason.as_str()), (2, 1, "MALFORMED_PROTOBUF"), "{bad:?}");
    }
}

/// Requests as a stream sends them, with as many readings as their number.
fn numbered(numbers: std::ops::Range<u64>) -> Vec<PublishStreamRequest> {
    let request = |number| request("traffic", vec![good(); number as usize]);
    numbers.map(|number| PublishStreamRequest { number, request: Some(request(number)) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_answered_in_order_with_several_requests_in_flight() {
    let doors = doors(creating(4));
    let requests = tokio_stream::iter(numbered(0..100));
    let mut answers = doors.client().await.publish_stream(requests).await.unwrap().into_inner();
    for number in 0..100 {
        let answer = answers.message().await.unwrap().expect("an answer to each request");
        assert_eq!((answer.number, answer.response.unwrap().accepted), (number, number));
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_tells_why_and_ends() {
    let doors = doors(Settings::default());
    let mut answers =
        doors.client().await.publish_stream(tokio_stream::iter(numbered(1..3))).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
}

/// Whether the request whose answer the log still holds back has reached the lanes.
async fn asked(doors: &Doors) {
    support::until("an append waits", || async { doors.log.held.receiver_count() > 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_turns_readiness_false_answers_what_was_asked_and_ends_streams() {
    let doors = doors(creating(1));
    support::until("ready", || async { doors.readyz().await.0 == 200 }).await;
    doors.log.held.send_replace(true);
    let (ask, asks) = tokio::sync::mpsc::channel(8);
    ask.send(numbered(7..8).remove(0)).await.unwrap();
    let mut client = doors.client().await;
    let answers = client.publish_stream(tokio_stream::wrappers::ReceiverStream::new(asks));
    let mut answers = tokio::time::timeout(PATIENCE, answers).await.unwrap().unwrap().into_inner();
    asked(&doors).await;
    doors.gateway.drain();
    assert_eq!(doors.readyz().await, (axum::http::StatusCode::SERVICE_UNAVAILABLE, "shutting down".to_owned()));
    doors.log.held.send_replace(false);
    let answer = answers.message().await.unwrap().expect("what was asked before is answered");
    assert_eq!((answer.number, answer.response.unwrap().accepted), (7, 7));
    let end = tokio::time::timeout(Duration::from_secs(10), answers.message()).await.expect("the stream ends");
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}
