//! To the gateway: requests one after the other over a stream, each held until it is answered.
//!
//! The log must have the rows in order of time, or windows close before all their rows are in. The gateway keeps the order of
//! a stream's requests in each partition; a request that failed is sent again before those that have no answer yet.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use windrow_wire::v1;
use windrow_wire::v1::ingest_service_client::IngestServiceClient;

use super::report::{RefusedRow, Report};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may take before the request is sent again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries without any progress before giving up: about a minute.
const TRIES: usize = 12;
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Readings with where they came from: index of the file and row.
#[derive(Debug, Default)]
pub struct Chunk {
    pub readings: Vec<v1::Reading>,
    pub origins: Vec<(usize, u64)>,
}

#[derive(Debug)]
struct Pending {
    request: v1::PublishStreamRequest,
    origins: Vec<(usize, u64)>,
}

/// Why a stream ended.
enum Ended {
    /// The gateway or the way to it: worth another try.
    Again(Status),
    /// The files or the request.
    Broken(anyhow::Error),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status.code() {
            // Exhausted: a request has one reading at least, and this one is too large.
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::OutOfRange
            | Code::ResourceExhausted => {
                Self::Broken(anyhow::anyhow!("the gateway refused the request: {}", status.message()))
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::Broken(anyhow::anyhow!("the gateway does not let you: {}", status.message()))
            }
            Code::Unimplemented => {
                Self::Broken(anyhow::anyhow!("what answers there is no gateway: --server is its gRPC address"))
            }
            _ => Self::Again(status),
        }
    }
}

/// One sending.
pub struct Sender<'a> {
    endpoint: Endpoint,
    server: String,
    topic: String,
    in_flight: usize,
    files: Vec<String>,
    report: &'a mut Report,
    pending: VecDeque<Pending>,
    next_number: u64,
    progress: indicatif::ProgressBar,
}

impl<'a> Sender<'a> {
    /// `in_flight`: requests that wait for their answer at once. `files`: names, for what is refused.
    pub fn new(
        server: &str,
        topic: &str,
        in_flight: usize,
        files: Vec<String>,
        report: &'a mut Report,
        progress: indicatif::ProgressBar,
    ) -> Result<Self> {
        let endpoint = endpoint(server)?;
        Ok(Self {
            endpoint,
            server: server.to_owned(),
            topic: topic.to_owned(),
            in_flight,
            files,
            report,
            pending: VecDeque::new(),
            next_number: 0,
            progress,
        })
    }

    /// Sends all chunks; ends when the last one is answered.
    pub async fn run(&mut self, chunks: &mut mpsc::Receiver<Result<Chunk>>) -> Result<()> {
        let pauses = || ExponentialBuilder::default().with_max_delay(MAX_PAUSE).with_max_times(TRIES).build();
        let (mut left, mut ended) = (pauses(), false);
        loop {
            let answered = self.report.accepted + self.report.refused;
            let status = match self.stream(chunks, &mut ended).await {
                Ok(()) => return Ok(()),
                Err(Ended::Broken(error)) => return Err(error),
                Err(Ended::Again(status)) => status,
            };
            if self.report.accepted + self.report.refused > answered {
                left = pauses();
            }
            let Some(pause) = left.next() else {
                bail!("the gateway at {} does not take any more: {}", self.server, status.message());
            };
            self.report.retries += self.pending.len() as u64;
            self.progress.suspend(|| {
                tell!("trying again in {:.1} s: {}", pause.as_secs_f64(), status.message());
            });
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream: first what has no answer yet, then what comes.
    async fn stream(&mut self, chunks: &mut mpsc::Receiver<Result<Chunk>>, ended: &mut bool) -> Result<(), Ended> {
        let unreachable = |error: tonic::transport::Error| Status::unavailable(format!("{}: {error}", self.server));
        let channel = self.endpoint.connect().await.map_err(unreachable)?;
        let (requests, outgoing) = mpsc::channel(self.in_flight);
        let gone = |_| Ended::Again(Status::unavailable("the stream broke"));
        for pending in &self.pending {
            requests.send(pending.request.clone()).await.map_err(gone)?;
        }
        let mut client = IngestServiceClient::new(channel);
        let mut answers = client.publish_stream(ReceiverStream::new(outgoing)).await?.into_inner();
        loop {
            if *ended && self.pending.is_empty() {
                return Ok(());
            }
            tokio::select! {
                chunk = chunks.recv(), if !*ended && self.pending.len() < self.in_flight => match chunk {
                    None => *ended = true,
                    Some(Err(error)) => return Err(Ended::Broken(error)),
                    Some(Ok(chunk)) => {
                        let request = self.hold(chunk);
                        requests.send(request).await.map_err(gone)?;
                    }
                },
                answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.message()), if !self.pending.is_empty() => {
                    let answer = answer.map_err(|_| Status::unavailable("the gateway does not answer"))??;
                    self.answered(answer.ok_or_else(|| Status::unavailable("the gateway ended the stream"))?)?;
                }
            }
        }
    }

    fn hold(&mut self, chunk: Chunk) -> v1::PublishStreamRequest {
        let number = self.next_number;
        self.next_number += 1;
        self.report.sent += chunk.readings.len() as u64;
        let request = v1::PublishRequest { topic: self.topic.clone(), readings: chunk.readings };
        let request = v1::PublishStreamRequest { number, request: Some(request) };
        self.pending.push_back(Pending { request: request.clone(), origins: chunk.origins });
        request
    }

    fn answered(&mut self, answer: v1::PublishStreamResponse) -> Result<(), Ended> {
        let mixed = || Ended::Broken(anyhow::anyhow!("the gateway answered a request that was not sent"));
        let pending = self.pending.pop_front().filter(|pending| pending.request.number == answer.number);
        let (pending, response) = (pending.ok_or_else(mixed)?, answer.response.unwrap_or_default());
        self.report.accepted += response.accepted;
        self.report.refused += response.refused;
        for refusal in response.refusals {
            let Some((file, row)) = usize::try_from(refusal.index).ok().and_then(|i| pending.origins.get(i)) else {
                continue;
            };
            let (field, reason, message) = (refusal.field, refusal.reason, refusal.message);
            self.report.refused(RefusedRow { file: self.files[*file].clone(), row: *row, field, reason, message });
        }
        self.progress.inc(response.accepted + response.refused);
        Ok(())
    }
}

fn endpoint(server: &str) -> Result<Endpoint> {
    let endpoint = crate::client::endpoint(server)?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(Duration::from_secs(20)))
}

/// Fails at once if nothing listens there: better before a large file is read than after.
pub async fn reach(server: &str) -> Result<()> {
    let connected = endpoint(server)?.connect().await;
    connected.map(drop).with_context(|| format!("no gateway at {server} (start one: windrow dev, or windrow gateway)"))
}
