//! `POST /v1/topics/{topic}/readings`: a JSON object, an array of them, or one per line (NDJSON).
//!
//! A reading: `{"device": "d1", "time": "2026-03-29T01:30:00Z", "seq": 7, "values": {"speed": 3.5}, "tags": {"zone": "a"}}`.
//! 200 answers how many were taken and which were refused, and why; 503 means send again; every other status says in
//! `error` what is wrong with the request as a whole.

mod elements;
mod json;
mod time;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use windrow_protocol::TopicName;

use crate::{Answer, Gateway, MAX_READINGS, MAX_REQUEST_BYTES, PublishError, Readiness};
pub use json::parse;

/// How long a client may take to send a body: what it holds meanwhile is room that others wait for.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The gateway's routes.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/topics/{topic}/readings", post(publish))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "readings are posted to /v1/topics/TOPIC/readings") })
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(gateway)
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> (StatusCode, String) {
    let not = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    match gateway.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready".to_owned()),
        Readiness::Unknown => not("the log has not answered yet"),
        Readiness::Down(cause) => not(&cause),
        Readiness::Draining => not("shutting down"),
    }
}

async fn publish(
    State(gateway): State<Arc<Gateway>>,
    Path(topic): Path<String>,
    request: Request,
) -> Result<Json<Answer>, Failure> {
    let topic = TopicName::new(topic).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    if let Some(encoding) = request.headers().get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let error = format!("content-encoding {encoding:?} is not understood; send the readings as they are");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    // What doesn't say how long it is may be as long as is allowed.
    let bytes = request.body().size_hint().exact().unwrap_or(MAX_REQUEST_BYTES as u64);
    if bytes > MAX_REQUEST_BYTES as u64 {
        return Err(Failure::too_large());
    }
    let mut room = gateway.room(bytes as usize).await?;
    let body = body(request).await?;
    room.keep(body.len());
    if body.trim_ascii().is_empty() {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "the body is empty; it should hold readings as JSON"));
    }
    // What some programs put before UTF-8.
    let batch = parse(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body));
    drop(body);
    if batch.seen() > MAX_READINGS as u64 {
        let error = format!("{} readings; a request has at most {MAX_READINGS}", batch.seen());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    Ok(Json(gateway.submit(&topic, batch, room).await?.answer().await?))
}

async fn body(request: Request) -> Result<Bytes, Failure> {
    match tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Failure::too_large()),
        Ok(Err(rejection)) => Err(Failure::new(rejection.status(), rejection.body_text())),
        Err(_) => {
            let error = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}

/// An answer about the request as a whole.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    fn too_large() -> Self {
        let error = format!("a request has at most {MAX_REQUEST_BYTES} bytes; send the readings in several");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let status = match error {
            PublishError::Again(_) => StatusCode::SERVICE_UNAVAILABLE,
            PublishError::NoTopic(_) => StatusCode::NOT_FOUND,
            PublishError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.error }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
