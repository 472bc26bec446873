//! `windrow.v1.IngestService`: the same checks and answers as over HTTP, for clients that batch.
//!
//! INVALID_ARGUMENT: the request can't be served as it is. RESOURCE_EXHAUSTED: it is too large. NOT_FOUND: no such topic.
//! FAILED_PRECONDITION: the topic does not take it. UNAVAILABLE: send it again.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use windrow_protocol::TopicName;
use windrow_wire::block::Reading;
use windrow_wire::ingest::server::PublishStreamRequest;
use windrow_wire::ingest::server::ingest_service_server::{IngestService, IngestServiceServer};
use windrow_wire::ingest::{self, RawRequest};
use windrow_wire::v1::{self, PublishResponse, PublishStreamResponse};

use crate::{Answer, Batch, Gateway, MAX_READINGS, MAX_REQUEST_BYTES, PublishError, Receipt};

/// What the transport takes. More than a request may have, so that one that is a little too large is told by its limit.
const MAX_MESSAGE_BYTES: usize = 2 * MAX_REQUEST_BYTES;
/// Requests of one stream that wait for the log at once; the next one is read when the first is answered.
const STREAM_IN_FLIGHT: usize = 16;

type Answers = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

/// The service, to be added to a server.
pub fn service(gateway: Arc<Gateway>) -> IngestServiceServer<Ingest> {
    IngestServiceServer::new(Ingest { gateway }).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// The gateway behind gRPC.
#[derive(Debug, Clone)]
pub struct Ingest {
    gateway: Arc<Gateway>,
}

#[tonic::async_trait]
impl IngestService for Ingest {
    async fn publish(&self, request: Request<RawRequest>) -> Result<Response<PublishResponse>, Status> {
        let receipt = submit(&self.gateway, request.into_inner()).await?;
        Ok(Response::new(response(receipt.answer().await?)))
    }

    type PublishStreamStream = Answers;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (gateway, draining) = (self.gateway.clone(), self.gateway.clone());
        let requests = request.into_inner().take_until(async move { draining.draining().await });
        // One after the other, so that the readings of a device stay in order.
        let receipts = requests.then(move |numbered| {
            let gateway = gateway.clone();
            async move {
                let PublishStreamRequest { number, request } = numbered?;
                Ok((number, submit(&gateway, request.unwrap_or_default()).await?))
            }
        });
        let answers = receipts.map(|submitted: Result<(u64, Receipt), Status>| async move {
            let (number, receipt) = submitted?;
            Ok(PublishStreamResponse { number, response: Some(response(receipt.answer().await?)) })
        });
        let gateway = self.gateway.clone();
        let goodbye = stream::once(async move { gateway.is_draining() }).filter_map(|draining| async move {
            draining.then(|| Err(Status::unavailable("the gateway is shutting down; connect again")))
        });
        Ok(Response::new(answers.buffered(STREAM_IN_FLIGHT).chain(goodbye).boxed()))
    }
}

/// Puts a request's readings on their way.
async fn submit(gateway: &Gateway, request: RawRequest) -> Result<Receipt, Status> {
    let bytes = request.encoded_len();
    if bytes > MAX_REQUEST_BYTES {
        let limit = format!("a request has at most {MAX_REQUEST_BYTES} bytes; send the readings in several");
        return Err(Status::resource_exhausted(format!("{bytes} bytes; {limit}")));
    }
    if request.surplus > 0 {
        let count = request.readings.len() + request.surplus;
        return Err(Status::resource_exhausted(format!("{count} readings; a request has at most {MAX_READINGS}")));
    }
    let topic = TopicName::new(request.topic).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let room = gateway.room(bytes).await?;
    let batch = batch(&request.readings);
    Ok(gateway.submit(&topic, batch, room).await?)
}

fn batch(readings: &[Bytes]) -> Batch {
    let mut batch = Batch::default();
    let mut reading = Reading { device: "", time_us: 0, seq: None, fields: Vec::new() };
    for bytes in readings {
        match ingest::read(bytes, &mut reading) {
            Ok(()) => batch.push(&reading),
            Err(error) => {
                let mut row = batch.row();
                row.malformed("MALFORMED_PROTOBUF", error.to_string());
                row.finish();
            }
        }
    }
    batch
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
            PublishError::NoTopic(_) => Self::not_found(error.to_string()),
            PublishError::Refused(_) => Self::failed_precondition(error.to_string()),
        }
    }
}
