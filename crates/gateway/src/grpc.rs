//! `windrow.v1.IngestService`: the same checks and answers as over HTTP, for clients that batch.
//!
//! INVALID_ARGUMENT: the request can't be served as it is. RESOURCE_EXHAUSTED: it is too large. UNAVAILABLE: send it again.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use windrow_protocol::{Timestamp, TopicName};
use windrow_wire::v1::ingest_service_server::{IngestService, IngestServiceServer};
use windrow_wire::v1::{self, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse};

use crate::reading::{Field, Reading};
use crate::{Answer, Gateway, PublishError};

/// The most readings of one request.
pub const MAX_READINGS: usize = 100_000;
/// The largest request in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// Requests of one stream that wait for the log at once; the next one is read when the first is answered.
const STREAM_IN_FLIGHT: usize = 16;

/// The service, to be added to a server.
pub fn service(gateway: Arc<Gateway>) -> IngestServiceServer<Ingest> {
    IngestServiceServer::new(Ingest { gateway }).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// The gateway behind gRPC.
#[derive(Debug, Clone)]
pub struct Ingest {
    gateway: Arc<Gateway>,
}

#[tonic::async_trait]
impl IngestService for Ingest {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.serve(request.into_inner()).await.map(Response::new)
    }

    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let ingest = self.clone();
        let answers = request.into_inner().map(move |numbered| {
            let ingest = ingest.clone();
            async move {
                let PublishStreamRequest { number, request } = numbered?;
                let response = ingest.serve(request.unwrap_or_default()).await?;
                Ok(PublishStreamResponse { number, response: Some(response) })
            }
        });
        Ok(Response::new(answers.buffered(STREAM_IN_FLIGHT).boxed()))
    }
}

impl Ingest {
    async fn serve(&self, request: PublishRequest) -> Result<PublishResponse, Status> {
        let topic = TopicName::new(request.topic).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.readings.len() > MAX_READINGS {
            let given = request.readings.len();
            return Err(Status::invalid_argument(format!("{given} readings; a request has at most {MAX_READINGS}")));
        }
        let readings = (0..).zip(request.readings.into_iter().map(reading)).collect();
        Ok(response(self.gateway.publish(&topic, readings, Vec::new()).await?))
    }
}

fn reading(reading: v1::Reading) -> Reading {
    let fields = reading.fields.into_iter().filter_map(|field| {
        let value = match field.value? {
            v1::field::Value::F64(value) => Field::F64(value),
            v1::field::Value::I64(value) => Field::I64(value),
            v1::field::Value::Flag(value) => Field::Bool(value),
            v1::field::Value::Text(value) => Field::Text(value),
        };
        Some((field.name, value))
    });
    let fields = fields.collect();
    Reading { device: reading.device, time: Timestamp::from_micros(reading.time_us), seq: reading.seq, fields }
}

fn response(answer: Answer) -> PublishResponse {
    let refusals = answer.refusals.into_iter().map(|refusal| v1::Refusal {
        index: refusal.index,
        field: refusal.field,
        reason: refusal.reason.to_owned(),
        message: refusal.message,
    });
    PublishResponse { accepted: answer.accepted, refused: answer.refused, refusals: refusals.collect() }
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Again(_) => Self::unavailable(error.to_string()),
            PublishError::Refused(_) => Self::failed_precondition(error.to_string()),
        }
    }
}
