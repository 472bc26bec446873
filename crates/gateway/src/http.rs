//! `POST /v1/topics/{topic}/readings`: a JSON object, an array of them, or one per line (NDJSON).
//!
//! A reading: `{"device": "d1", "time": "2026-03-29T01:30:00Z", "seq": 7, "values": {"speed": 3.5}, "tags": {"zone": "a"}}`.
//! 200 answers how many were taken and which were refused, and why; 503 means send again.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use windrow_protocol::{Timestamp, TopicName};

use crate::reading::{Field, Reading, Refusal};
use crate::{Gateway, PublishError};

/// The largest request body.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// The gateway's routes.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/topics/{topic}/readings", post(publish))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(gateway)
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> (StatusCode, &'static str) {
    if gateway.is_ready().await {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the log does not answer")
    }
}

async fn publish(State(gateway): State<Arc<Gateway>>, Path(topic): Path<String>, body: Bytes) -> Response {
    let topic = match TopicName::new(topic) {
        Ok(topic) => topic,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let (readings, refused) = parse(&body);
    match gateway.publish(&topic, readings, refused).await {
        Ok(answer) => Json(answer).into_response(),
        Err(PublishError::Again(error)) => {
            let mut response = failed(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; send the request again"));
            response.headers_mut().insert("retry-after", axum::http::HeaderValue::from_static("1"));
            response
        }
        Err(PublishError::Refused(error)) => failed(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

fn failed(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// The readings of a body with their positions, and what is not one.
pub fn parse(body: &[u8]) -> (Vec<(u64, Reading)>, Vec<Refusal>) {
    let (mut readings, mut refused) = (Vec::new(), Vec::new());
    let mut take = |index: u64, value: Result<Value, serde_json::Error>| match value {
        Err(error) => refused.push(Refusal::new(index, "", "MALFORMED_JSON", error.to_string())),
        Ok(value) => match reading(index, value) {
            Ok(reading) => readings.push((index, reading)),
            Err(refusal) => refused.push(refusal),
        },
    };
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(items)) => (0..).zip(items).for_each(|(index, item)| take(index, Ok(item))),
        Ok(item) => take(0, Ok(item)),
        // Lines: one that is malformed does not spoil the others.
        Err(_) => {
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
            (0..).zip(lines).for_each(|(index, line)| take(index, serde_json::from_slice(line)));
        }
    }
    (readings, refused)
}

fn reading(index: u64, value: Value) -> Result<Reading, Refusal> {
    let refuse = |field: &str, reason, message: String| Refusal::new(index, field, reason, message);
    let Value::Object(object) = value else {
        return Err(refuse("", "NOT_AN_OBJECT", "a reading is an object with device, time, values".to_owned()));
    };
    let (mut device, mut time, mut seq, mut fields) = (None, None, None, Vec::new());
    for (name, value) in object {
        match (name.as_str(), value) {
            ("device", Value::String(text)) => device = Some(text),
            ("time", Value::String(text)) => {
                let parsed =
                    text.parse::<Timestamp>().map_err(|error| refuse("time", "INVALID_TIME", error.to_string()))?;
                time = Some(parsed);
            }
            ("seq", Value::Null) => {}
            ("seq", value) if value.is_u64() => seq = value.as_u64(),
            ("values", Value::Object(values)) => fields.extend(named(index, "values", values, false)?),
            ("tags", Value::Object(tags)) => fields.extend(named(index, "tags", tags, true)?),
            ("device" | "time" | "seq" | "values" | "tags", _) => {
                let message = "expected: device and time (RFC 3339) as strings, seq as a whole number, values and tags as objects";
                return Err(refuse(&name, "WRONG_TYPE", message.to_owned()));
            }
            _ => return Err(refuse(&name, "UNKNOWN_FIELD", "known are device, time, seq, values, tags".to_owned())),
        }
    }
    let missing = |field: &str| refuse(field, "MISSING", format!("{field} is required"));
    Ok(Reading {
        device: device.ok_or_else(|| missing("device"))?,
        time: time.ok_or_else(|| missing("time"))?,
        seq,
        fields,
    })
}

fn named(index: u64, part: &str, values: Map<String, Value>, text_only: bool) -> Result<Vec<(String, Field)>, Refusal> {
    let mut fields = Vec::with_capacity(values.len());
    for (name, value) in values {
        let field = match value {
            Value::Null => continue,
            Value::String(text) => Field::Text(text),
            Value::Bool(value) if !text_only => Field::Bool(value),
            Value::Number(number) if !text_only => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Field::I64(value),
                (None, Some(value)) => Field::F64(value),
                _ => return Err(Refusal::new(index, format!("{part}.{name}"), "WRONG_TYPE", "number is out of range")),
            },
            _ => {
                let message =
                    if text_only { "a tag is a string" } else { "a value is a number, true, false or a string" };
                return Err(Refusal::new(index, format!("{part}.{name}"), "WRONG_TYPE", message));
            }
        };
        fields.push((name, field));
    }
    Ok(fields)
}
