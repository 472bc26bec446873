//! The HTTP door: each kind of bad reading is refused by name while its neighbours are taken, and each kind of bad
//! request is answered with what is wrong.

mod support;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::FutureExt;
use support::{creating, doors, until};
use windrow_gateway::Settings;
use windrow_ports::log::{Log, NewTopic};
use windrow_protocol::TopicName;

const GOOD: &str = r#"{"device": "d", "time": "2015-09-01T00:00:00Z", "seq": 1, "values": {"speed": 1.5, "on": true}, "tags": {"zone": "a"}}"#;
const PATH: &str = "/v1/topics/traffic/readings";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_an_array_and_lines_are_taken() {
    let doors = doors(creating(3));
    let pretty = GOOD.replace(", ", ",\n");
    let (array, lines) = (format!("[{GOOD},{GOOD}]"), format!("{GOOD}\n{GOOD}\r\n\n{GOOD}\n"));
    let marked = format!("\u{feff}{GOOD}");
    for (body, n) in [(GOOD, 1), (&marked, 1), (&array, 2), (&lines, 3), (&pretty, 1), ("[]", 0)] {
        let (status, answer) = doors.post(PATH, body.to_owned()).await;
        let counts = (&answer["accepted"], &answer["refused"]);
        assert_eq!((status, counts), (StatusCode::OK, (&n.into(), &0.into())), "{answer}");
    }
}

/// A bad reading, the field and the reason of its refusal.
fn bad_readings() -> Vec<(String, &'static str, &'static str)> {
    let long = "x".repeat(2 << 20);
    let nested = "[".repeat(100_000);
    let closed = nested.clone() + &"]".repeat(100_000);
    let reading = |from: &str, to: &str| GOOD.replace(from, to);
    vec![
        (r#"{"device": "d""#.to_owned(), "", "MALFORMED_JSON"),
        (reading("1.5", "NaN"), "", "MALFORMED_JSON"),
        (reading("1.5", "1e999"), "", "MALFORMED_JSON"),
        (reading("1.5", &nested), "", "MALFORMED_JSON"),
        (reading("1.5", &closed), "values.speed", "WRONG_TYPE"),
        (reading("\"seq\"", "\"sequence\""), "sequence", "UNKNOWN_FIELD"),
        (reading("\"d\"", "7"), "device", "WRONG_TYPE"),
        (reading("\"2015-09-01T00:00:00Z\"", "1441065600"), "time", "WRONG_TYPE"),
        (reading("1.5", "[1]"), "values.speed", "WRONG_TYPE"),
        (reading("\"a\"", "1"), "tags.zone", "WRONG_TYPE"),
        (reading("{\"zone\": \"a\"}", "[]"), "tags", "WRONG_TYPE"),
        (reading("\"seq\": 1", "\"seq\": 18446744073709551616"), "seq", "WRONG_TYPE"),
        (reading("\"seq\": 1", "\"seq\": -1"), "seq", "WRONG_TYPE"),
        (reading("2015", "2036"), "time", "TOO_FAR_AHEAD"),
        (reading("2015-09-01T00", "yesterday"), "time", "INVALID_TIME"),
        (reading("2015-09-01", "2015-02-29"), "time", "INVALID_TIME"),
        (reading("\"d\"", "\"\""), "device", "INVALID_DEVICE"),
        (reading("\"d\"", &format!("{:?}", "d".repeat(257))), "device", "INVALID_DEVICE"),
        (reading("\"zone\"", "\"speed\""), "values.speed", "DUPLICATE_NAME"),
        (reading("\"seq\": 1", "\"device\": \"e\""), "device", "DUPLICATE_NAME"),
        (reading("\"speed\"", "\"\""), "values.", "INVALID_NAME"),
        (r#"{"time": "2015-09-01T00:00:00Z"}"#.to_owned(), "device", "MISSING"),
        (r#"{"device": "d"}"#.to_owned(), "time", "MISSING"),
        ("7".to_owned(), "", "NOT_AN_OBJECT"),
        (reading("1.5", &format!("\"{long}\"")), "values.speed", "TEXT_TOO_LONG"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_reading_is_refused_with_index_field_and_reason_and_its_neighbours_are_taken() {
    let doors = doors(creating(1));
    for (bad, field, reason) in bad_readings() {
        let bodies = [("lines", format!("{GOOD}\n{bad}\n{GOOD}")), ("array", format!("[{GOOD},{bad},{GOOD}]"))];
        for (shape, body) in bodies {
            // What is never closed swallows the rest of an array, but not the lines after it.
            if shape == "array" && reason == "MALFORMED_JSON" && !bad.ends_with('}') || bad.contains("[[[[") {
                continue;
            }
            let (status, answer) = doors.post(PATH, body).await;
            let counts = (status, &answer["accepted"], &answer["refused"]);
            assert_eq!(counts, (StatusCode::OK, &2.into(), &1.into()), "{shape}, {reason}: {answer}");
            let refusal = &answer["refusals"][0];
            let found = (refusal["index"].as_u64(), refusal["field"].as_str(), refusal["reason"].as_str());
            assert_eq!(found, (Some(1), Some(field), Some(reason)), "{shape}: {refusal}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_spoils_its_reading_alone() {
    let doors = doors(creating(1));
    for (before, between, after) in [("", "\n", ""), ("[", ",", "]")] {
        let mut body = format!("{before}{GOOD}{between}{GOOD}{between}{GOOD}{after}").into_bytes();
        let middle = before.len() + GOOD.len() + between.len();
        let at = middle + GOOD.find("zone").unwrap();
        body[at] = 0xff;
        let (_, answer) = doors.post(PATH, body).await;
        let refusal = &answer["refusals"][0];
        assert_eq!((&answer["accepted"], &refusal["index"]), (&2.into(), &1.into()), "{answer}");
        assert_eq!(refusal["reason"], "MALFORMED_JSON");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_breaks_off_counts_up_to_there() {
    let doors = doors(creating(1));
    let (_, answer) = doors.post(PATH, format!("[{GOOD},{GOOD},{{\"device\": \"d")).await;
    assert_eq!((&answer["accepted"], &answer["refusals"][0]["index"]), (&2.into(), &2.into()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refusals_all_are_counted_and_the_first_hundred_told() {
    let doors = doors(creating(1));
    let lines: Vec<&str> = (0..500).map(|i| if i % 2 == 0 { "nonsense" } else { GOOD }).collect();
    let (_, answer) = doors.post(PATH, lines.join("\n")).await;
    assert_eq!((&answer["accepted"], &answer["refused"]), (&250.into(), &250.into()));
    let refusals = answer["refusals"].as_array().unwrap();
    assert_eq!((refusals.len(), &refusals[99]["index"]), (100, &198.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_told_the_limit() {
    let doors = doors(creating(1));
    let large = " ".repeat((16 << 20) + 1);
    let (status, answer) = doors.post(PATH, large.clone()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["error"].as_str().unwrap().contains("at most 16777216 bytes"), "{answer}");
    // The same without a length in front.
    let chunks = [Ok::<_, std::io::Error>(large)];
    let (status, answer) = doors.post(PATH, Body::from_stream(futures::stream::iter(chunks))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["error"].as_str().unwrap().contains("at most 16777216 bytes"), "{answer}");
    let (status, answer) = doors.post(PATH, "1\n".repeat(100_001)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["error"].as_str().unwrap().contains("at most 100000"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_holds_room_for_what_it_was_in_the_end() {
    let doors = doors(Settings { max_in_flight_bytes: 16 << 20, ..creating(1) });
    doors.log.held.send_replace(true);
    let body = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(GOOD)]));
    let (answer, ()) = tokio::join!(doors.post(PATH, body), async {
        until("its append waits", || async { doors.log.held.receiver_count() > 0 }).await;
        assert!(doors.gateway.room(15 << 20).now_or_never().is_some());
        doors.log.held.send_replace(false);
    });
    assert_eq!(answer.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_not_be_served_says_why() {
    let doors = doors(Settings::default());
    for (path, body, status, part) in [
        (PATH, GOOD, StatusCode::NOT_FOUND, "traffic does not exist"),
        ("/v1/topics/a%20b/readings", GOOD, StatusCode::BAD_REQUEST, "topic name \"a b\" is not valid"),
        (PATH, " \n", StatusCode::BAD_REQUEST, "the body is empty"),
        ("/v1/topic/x", GOOD, StatusCode::NOT_FOUND, "/v1/topics/TOPIC/readings"),
    ] {
        let (found, answer) = doors.post(path, body).await;
        assert_eq!(found, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{answer}");
    }
    let request = Request::get(PATH).body(Body::empty()).unwrap();
    assert_eq!(doors.send(request).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let zipped = Request::post(PATH).header("content-encoding", "gzip").body(Body::from(GOOD)).unwrap();
    let (status, _, answer) = doors.send(zipped).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answer["error"].as_str().unwrap().contains("gzip"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_just_made_is_waited_for() {
    let doors = doors(creating(1));
    doors.log.hidden.store(3, std::sync::atomic::Ordering::SeqCst);
    let (status, answer) = doors.post(PATH, GOOD).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_older_than_the_topic_keeps_are_refused() {
    let doors = doors(Settings::default());
    let name = TopicName::new("traffic").unwrap();
    let topic =
        NewTopic { name, partitions: 1, replication: 1, retention_ms: Some(7 * 86_400_000), max_ahead_ms: None };
    doors.log.create_topic(&topic).await.unwrap();
    let (_, answer) = doors.post(PATH, GOOD).await;
    assert_eq!(answer["refusals"][0]["reason"], "TOO_OLD", "{answer}");
}
