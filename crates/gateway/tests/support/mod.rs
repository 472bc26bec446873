//! What the gateway's tests share: a gateway with both doors over a log that can be told to fail.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::transport::Channel;
use tower::ServiceExt;
use windrow_embedded::Database;
use windrow_gateway::{Gateway, Settings, grpc, http};
use windrow_ports::log::{Append, Bounds, Log, NewTopic, Record, TopicInfo};
use windrow_ports::{LogError, SystemClock};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};
use windrow_wire::v1::ingest_service_client::IngestServiceClient;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What an append does, other than to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Lost,
    /// It is in the log, but nobody hears of it.
    AnswerLost,
}

/// A log that fails as it is told.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Log>,
    /// Nothing answers.
    pub down: AtomicBool,
    /// Appends wait while this is true.
    pub held: watch::Sender<bool>,
    /// How many looks at a topic that exists find none.
    pub hidden: AtomicUsize,
    /// What the next appends do.
    pub script: Mutex<VecDeque<Option<Fault>>>,
}

pub const CAUSE: &str = "kafka at 192.0.2.1:9092: connection refused";

impl Faulty {
    pub fn new(inner: Arc<dyn Log>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            down: AtomicBool::new(false),
            held: watch::Sender::new(false),
            hidden: AtomicUsize::new(0),
            script: Mutex::default(),
        })
    }

    fn check(&self) -> Result<(), LogError> {
        if self.down.load(Ordering::SeqCst) { Err(LogError::Unavailable(CAUSE.to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl Log for Faulty {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        self.check()?;
        self.inner.create_topic(topic).await
    }
    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        self.inner.delete_topic(topic).await
    }
    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        self.check()?;
        let info = self.inner.topic(topic).await?;
        let hidden = self.hidden.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |looks| looks.checked_sub(1));
        if hidden.is_ok() { Err(LogError::NoTopic(topic.to_string())) } else { Ok(info) }
    }
    async fn append(&self, topic: &TopicName, p: PartitionId, records: Vec<Append>) -> Result<Vec<Offset>, LogError> {
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        self.check()?;
        let fault = self.script.lock().unwrap().pop_front().flatten();
        let lost = Err(LogError::Unavailable("the test says so".to_owned()));
        match fault {
            None => self.inner.append(topic, p, records).await,
            Some(Fault::Lost) => lost,
            Some(Fault::AnswerLost) => self.inner.append(topic, p, records).await.and(lost),
        }
    }
    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        self.inner.look_up(topic, times).await
    }
    async fn bounds(&self, topic: &TopicName, p: &[PartitionId]) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        self.inner.bounds(topic, p).await
    }
    fn read(&self, t: &TopicName, p: PartitionId, r: OffsetRange) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        self.inner.read(t, p, r)
    }
    async fn truncate(&self, topic: &TopicName, p: PartitionId, before: Offset) -> Result<(), LogError> {
        self.inner.truncate(topic, p, before).await
    }
    async fn ping(&self) -> Result<(), LogError> {
        self.check()?;
        self.inner.ping().await
    }
}

/// A gateway with both doors.
pub struct Doors {
    pub gateway: Arc<Gateway>,
    pub log: Arc<Faulty>,
    router: axum::Router,
    _folder: Option<tempfile::TempDir>,
}

/// Over the embedded log.
pub fn doors(settings: Settings) -> Doors {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    Doors { _folder: Some(folder), ..doors_over(db.log(), settings) }
}

pub fn doors_over(log: Arc<dyn Log>, settings: Settings) -> Doors {
    let log = Faulty::new(log);
    let gateway = Gateway::new(log.clone(), Arc::new(SystemClock::default()), settings);
    Doors { router: http::router(gateway.clone()), gateway, log, _folder: None }
}

/// A gateway that makes topics.
pub fn creating(partitions: i32) -> Settings {
    Settings { create_partitions: Some(partitions), ..Settings::default() }
}

impl Doors {
    pub async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, serde_json::Value) {
        let (status, _, answer) = self.send(Request::post(path).body(body.into()).unwrap()).await;
        (status, answer)
    }

    pub async fn send(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, serde_json::Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = || serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (status, headers, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    pub async fn readyz(&self) -> (StatusCode, String) {
        let (status, _, said) = self.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
        (status, said.as_str().unwrap_or_default().to_owned())
    }

    pub async fn client(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(self.channel().await)
    }

    /// A connection to a gRPC server of its own.
    pub async fn channel(&self) -> Channel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(grpc::service(self.gateway.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
    }

    /// All records of a topic, by partition.
    pub async fn records(&self, topic: &str) -> Vec<(PartitionId, Vec<Record>)> {
        let topic = TopicName::new(topic).unwrap();
        let partitions = self.log.inner.topic(&topic).await.unwrap().partitions;
        let all: Vec<PartitionId> = (0..partitions).map(PartitionId).collect();
        let bounds = self.log.inner.bounds(&topic, &all).await.unwrap();
        let mut records = Vec::new();
        for (partition, bounds) in all.into_iter().zip(bounds) {
            let range = OffsetRange::new(Offset(0), bounds.unwrap().high_watermark);
            let chunks: Vec<_> = self.log.inner.read(&topic, partition, range).try_collect().await.unwrap();
            records.push((partition, chunks.concat()));
        }
        records
    }
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}
