//! A process that dies at a call of the log, the metadata store or the object store: before it, or after it, when the
//! reply is lost. Like a dead process, it never hears of any call again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use tokio::sync::Notify;
use windrow_ports::log::{Append, Bounds, NewTopic, Record, TopicInfo};
use windrow_ports::meta::{Events, KeyValue, Listing, Txn, TxnOutcome};
use windrow_ports::{Log, LogError, MetaError, MetaStore};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, OffsetRange, PartitionId, Timestamp, TopicName};

/// A call at which a process dies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// What is called, without what is drawn at random.
    pub call: String,
    /// The n-th time that it is called, from 1.
    pub nth: usize,
    /// Whether the call is done, and only its reply is lost.
    pub after: bool,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} #{}", if self.after { "after" } else { "before" }, self.call, self.nth)
    }
}

/// Its life.
#[derive(Debug)]
pub struct Life {
    /// Where it ends; `None`: it lives on.
    ends_at: Option<Point>,
    is_over: AtomicBool,
    died: Notify,
    /// What it has called, and how often.
    calls: Mutex<BTreeMap<String, usize>>,
    /// What it held; a lease ends with its holder, a while later.
    leases: Mutex<Vec<i64>>,
}

impl Life {
    pub fn new(ends_at: Option<Point>) -> Arc<Self> {
        Arc::new(Self {
            ends_at,
            is_over: AtomicBool::new(false),
            died: Notify::new(),
            calls: Mutex::default(),
            leases: Mutex::default(),
        })
    }

    /// Its end, if it comes.
    pub async fn end(&self) {
        self.died.notified().await;
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.calls.lock().unwrap().clone()
    }

    pub fn leases(&self) -> Vec<i64> {
        self.leases.lock().unwrap().clone()
    }

    /// Whether it is to die at this call.
    fn dies_at(&self, call: &str) -> bool {
        let mut calls = self.calls.lock().unwrap();
        let n = calls.entry(call.to_owned()).or_default();
        *n += 1;
        self.ends_at.as_ref().is_some_and(|end| end.call == call && end.nth == *n)
    }

    async fn call<T>(&self, name: impl fmt::Display + Send, call: impl Future<Output = T>) -> T {
        let name = name.to_string();
        // The probe of the store at start touches nothing that lasts, a thousand times.
        if name.contains("_probe/") {
            return call.await;
        }
        if self.is_over() {
            return std::future::pending().await;
        }
        if !self.dies_at(&without_chance(&name)) {
            return call.await;
        }
        self.is_over.store(true, Ordering::SeqCst);
        // Whatever becomes of the last call: its caller may give it up, or come to the next call without asking for it.
        let end = End(&self.died);
        if self.ends_at.as_ref().is_some_and(|end| end.after) {
            call.await;
        }
        drop(end);
        std::future::pending().await
    }
}

/// A call without the names of attempts.
fn without_chance(call: &str) -> String {
    let is_drawn = |segment: &&str| segment.len() == 36 && segment.matches('-').count() == 4;
    call.split('/').map(|segment| if is_drawn(&segment) { "*" } else { segment }).collect::<Vec<_>>().join("/")
}

/// Says at its own end that a life has ended.
struct End<'a>(&'a Notify);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A part as a mortal process sees it.
#[derive(Debug)]
pub struct Mortal<T> {
    pub inner: T,
    pub life: Arc<Life>,
}

#[async_trait]
impl MetaStore for Mortal<Arc<dyn MetaStore>> {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        self.life.call(format!("get {key}"), self.inner.get(key)).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        self.life.call(format!("list {prefix}"), self.inner.list(prefix)).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        let name = format!("txn {:?}", txn.then);
        let name: String = name.chars().take(60).collect();
        self.life.call(name, self.inner.txn(txn)).await
    }
    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        self.inner.watch(prefix, from_revision)
    }
    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        let granting = async {
            let lease = self.inner.grant(ttl).await?;
            self.life.leases.lock().unwrap().push(lease);
            Ok(lease)
        };
        self.life.call("grant", granting).await
    }
    // Only the clock decides when it comes: no point of its own.
    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.life.call("revoke", self.inner.revoke(lease)).await
    }
    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        self.inner.compact(revision).await
    }
    async fn ping(&self) -> Result<(), MetaError> {
        self.inner.ping().await
    }
}

#[async_trait]
impl Log for Mortal<Arc<dyn Log>> {
    async fn create_topic(&self, topic: &NewTopic) -> Result<(), LogError> {
        self.inner.create_topic(topic).await
    }
    async fn delete_topic(&self, topic: &TopicName) -> Result<(), LogError> {
        self.inner.delete_topic(topic).await
    }
    async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, LogError> {
        self.life.call("topic", self.inner.topic(topic)).await
    }
    async fn append(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        records: Vec<Append>,
    ) -> Result<Vec<Offset>, LogError> {
        self.inner.append(topic, partition, records).await
    }
    async fn look_up(
        &self,
        topic: &TopicName,
        times: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        self.life.call("look_up", self.inner.look_up(topic, times)).await
    }
    async fn bounds(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
    ) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        self.life.call("bounds", self.inner.bounds(topic, partitions)).await
    }
    fn read(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        let (life, chunks) = (self.life.clone(), self.inner.read(topic, partition, range));
        let chunks = futures::stream::unfold((life, chunks), |(life, mut chunks)| async move {
            let chunk = life.call("read", chunks.next()).await?;
            Some((chunk, (life, chunks)))
        });
        chunks.boxed()
    }
    async fn truncate(&self, topic: &TopicName, partition: PartitionId, before: Offset) -> Result<(), LogError> {
        self.inner.truncate(topic, partition, before).await
    }
    async fn ping(&self) -> Result<(), LogError> {
        self.inner.ping().await
    }
}

impl fmt::Display for Mortal<Arc<dyn ObjectStore>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Mortal<Arc<dyn ObjectStore>> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.life.call(format!("put {location}"), self.inner.put_opts(location, payload, opts)).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let name = if options.head { "head" } else { "get" };
        self.life.call(format!("{name} {location}"), self.inner.get_opts(location, options)).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let (life, inner) = (self.life.clone(), self.inner.clone());
        let deleted = locations.then(move |location| {
            let (life, inner) = (life.clone(), inner.clone());
            async move {
                let location = location?;
                let name = format!("delete {location}");
                let one = futures::stream::iter([Ok(location.clone())]).boxed();
                let deleting = async { inner.delete_stream(one).next().await };
                life.call(name, deleting).await.unwrap_or(Ok(location))
            }
        });
        deleted.boxed()
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (life, listed) = (self.life.clone(), self.inner.list(prefix));
        let all = async move { futures::stream::iter(life.call("list", listed.collect::<Vec<_>>()).await) };
        futures::stream::once(all).flatten().boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.life.call("folders", self.inner.list_with_delimiter(prefix)).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.life.call(format!("copy {to}"), self.inner.copy_opts(from, to, options)).await
    }
}
