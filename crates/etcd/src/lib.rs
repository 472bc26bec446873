//! `MetaStore` over etcd. The only crate that knows `etcd-client`.
//!
//! Every call has a deadline: a hung connection is `Unavailable`, not a wait. Nothing is retried here, since only the
//! caller knows whether an unknown outcome may be repeated.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions, PutOptions,
    Txn as EtcdTxn, TxnOp, WatchOptions, WatchResponse,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use windrow_ports::meta::{
    Compare, Event, Events, KeyValue, Listing, MAX_TXN_OPS, MetaError, MetaStore, Op, Txn, TxnOutcome,
};

/// Keys per page of a listing.
const PAGE: i64 = 500;
/// The largest answer: a page of values of 500 KiB each, which is beyond what windrow writes.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// gRPC codes that say that the request itself is wrong.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;

/// Revisions that a watch is ahead of its reader at most.
const WATCH_QUEUE: usize = 1_024;

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct EtcdSettings {
    /// Base URLs of the members, e.g. `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Deadline of every request. Default 5 s.
    pub timeout: Duration,
    /// Put before every key, so that several clusters can share one etcd. Default none.
    pub prefix: String,
}

impl EtcdSettings {
    /// Defaults for these members.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, timeout: Duration::from_secs(5), prefix: String::new() }
    }
}

/// A connection to an etcd cluster.
pub struct EtcdStore {
    client: Client,
    endpoints: String,
    timeout: Duration,
    prefix: Prefix,
}

/// The cluster's place in etcd: on the way in keys get it, on the way out they lose it.
#[derive(Clone)]
struct Prefix(String);

impl Prefix {
    fn add(&self, key: &str) -> String {
        format!("{}{key}", self.0)
    }

    fn remove(&self, key: &[u8]) -> String {
        let key = String::from_utf8_lossy(key);
        key.strip_prefix(self.0.as_str()).unwrap_or(&key).to_owned()
    }

    fn key_value(&self, item: &etcd_client::KeyValue) -> KeyValue {
        KeyValue {
            key: self.remove(item.key()),
            value: item.value().to_vec().into(),
            create_revision: item.create_revision(),
            mod_revision: item.mod_revision(),
            lease: item.lease(),
        }
    }

    fn compare(&self, compare: Compare) -> EtcdCompare {
        match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(self.add(&key), CompareOp::Equal, 0),
            Compare::Created(key, revision) => EtcdCompare::create_revision(self.add(&key), CompareOp::Equal, revision),
            Compare::Modified(key, revision) => EtcdCompare::mod_revision(self.add(&key), CompareOp::Equal, revision),
        }
    }

    fn operation(&self, op: Op) -> TxnOp {
        match op {
            Op::Put { key, value, lease: 0 } => TxnOp::put(self.add(&key), value.to_vec(), None),
            Op::Put { key, value, lease } => {
                TxnOp::put(self.add(&key), value.to_vec(), Some(PutOptions::new().with_lease(lease)))
            }
            Op::Delete { key } => TxnOp::delete(self.add(&key), None),
            Op::DeletePrefix { prefix } => TxnOp::delete(self.add(&prefix), Some(DeleteOptions::new().with_prefix())),
        }
    }

    /// The events of a response, one piece per revision; progress if it has none.
    fn by_revision(&self, response: &WatchResponse) -> Vec<Events> {
        let mut pieces: Vec<Events> = Vec::new();
        for event in response.events() {
            let Some(item) = event.kv() else { continue };
            let revision = item.mod_revision();
            let event = match event.event_type() {
                EventType::Put => Event::Put(self.key_value(item)),
                EventType::Delete => Event::Delete { key: self.remove(item.key()), revision },
            };
            match pieces.last_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => pieces.push(Events { events: vec![event], revision }),
            }
        }
        if pieces.is_empty() {
            let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            pieces.push(Events { events: Vec::new(), revision });
        }
        pieces
    }
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects, and reads the server's version to see that somebody is there.
    pub async fn connect(settings: &EtcdSettings) -> Result<Self, MetaError> {
        let endpoints = settings.endpoints.join(",");
        let options = ConnectOptions::new()
            .with_connect_timeout(settings.timeout)
            .with_keep_alive(settings.timeout, settings.timeout)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others ends its watches instead of keeping silent.
            .with_require_leader(true);
        let connecting = Client::connect(&settings.endpoints, Some(options));
        let gone = |what: &dyn std::fmt::Display| MetaError::Unavailable(format!("etcd at {endpoints}: {what}"));
        let client = match tokio::time::timeout(settings.timeout, connecting).await {
            Ok(client) => client.map_err(|error| gone(&error))?,
            Err(_) => return Err(gone(&"no connection in time")),
        };
        let prefix = Prefix(settings.prefix.clone());
        let store = Self { client, endpoints: endpoints.clone(), timeout: settings.timeout, prefix };
        let status = store.call(async { store.client.clone().status().await }).await?;
        tracing::info!(version = status.version(), %endpoints, "connected to etcd");
        Ok(store)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, MetaError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map_err(|error| self.error(&error)),
            Err(_) => {
                Err(MetaError::Unavailable(format!("etcd at {}: no answer in {:?}", self.endpoints, self.timeout)))
            }
        }
    }

    fn error(&self, error: &Error) -> MetaError {
        match error {
            Error::GRpcStatus(status) if status.code() as i32 == INVALID_ARGUMENT => {
                MetaError::Refused(status.message().to_owned())
            }
            error => MetaError::Unavailable(format!("etcd at {}: {error}", self.endpoints)),
        }
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == NOT_FOUND)
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let key = self.prefix.add(key);
        let found = self
            .call(async { self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES).get(key, None).await })
            .await?;
        Ok(found.kvs().first().map(|item| self.prefix.key_value(item)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let prefix = self.prefix.add(prefix);
        let mut items: Vec<KeyValue> = Vec::new();
        let mut revision = 0;
        loop {
            // The first page shows the newest revision; the others are pinned to it.
            let mut options = GetOptions::new().with_limit(PAGE).with_revision(revision);
            let from = match items.last() {
                None => {
                    options = options.with_prefix();
                    prefix.clone()
                }
                Some(last) => {
                    options = options.with_range(prefix_end(&prefix));
                    format!("{}\0", self.prefix.add(&last.key))
                }
            };
            let page = self
                .call(async {
                    self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES).get(from, Some(options)).await
                })
                .await?;
            if revision == 0 {
                revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            items.extend(page.kvs().iter().map(|item| self.prefix.key_value(item)));
            if !page.more() {
                return Ok(Listing { items, revision });
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        if txn.when.len() > MAX_TXN_OPS || txn.then.len() > MAX_TXN_OPS {
            let what = format!("a transaction has at most {MAX_TXN_OPS} conditions and operations");
            return Err(MetaError::Refused(what));
        }
        let lease = txn.then.iter().find_map(|op| match op {
            Op::Put { lease, .. } if *lease != 0 => Some(*lease),
            _ => None,
        });
        let when: Vec<EtcdCompare> = txn.when.into_iter().map(|compare| self.prefix.compare(compare)).collect();
        let then: Vec<TxnOp> = txn.then.into_iter().map(|op| self.prefix.operation(op)).collect();
        let request = EtcdTxn::new().when(when).and_then(then);
        let call = async {
            match self.client.kv_client().txn(request).await {
                // The only thing that a transaction can miss is a lease.
                Err(error) if is_missing(&error) => Ok(None),
                result => result.map(Some),
            }
        };
        let response = self.call(call).await?.ok_or(MetaError::NoLease(lease.unwrap_or(0)))?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(TxnOutcome { applied: response.succeeded(), revision })
    }

    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        let (tell, told) = tokio::sync::mpsc::channel(WATCH_QUEUE);
        let (client, endpoints) = (self.client.clone(), self.endpoints.clone());
        let (place, prefix) = (self.prefix.clone(), self.prefix.add(prefix));
        tokio::spawn(async move {
            let end = follow(client, &place, prefix, from_revision, &tell).await;
            let end = end.unwrap_or_else(|error| MetaError::Unavailable(format!("etcd at {endpoints}: {error}")));
            // Nobody may be listening any more.
            let _ = tell.send(Err(end)).await;
        });
        futures::stream::unfold(told, |mut told| async move { told.recv().await.map(|item| (item, told)) }).boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        Ok(self.call(async { self.client.lease_client().grant(seconds, None).await }).await?.id())
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        // The client only enqueues the request; the answer renews.
        let call = async {
            let (mut keeper, mut answers) = match self.client.lease_client().keep_alive(lease).await {
                Err(Error::LeaseKeepAliveError(_)) => return Ok(None),
                result => result?,
            };
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.call(call).await? {
            Some(answer) if answer.ttl() > 0 => Ok(Duration::from_secs(answer.ttl().unsigned_abs())),
            _ => Err(MetaError::NoLease(lease)),
        }
    }

    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        let call = async {
            match self.client.lease_client().revoke(lease).await {
                Err(error) if is_missing(&error) => Ok(false),
                result => result.map(|_| true),
            }
        };
        if self.call(call).await? { Ok(()) } else { Err(MetaError::NoLease(lease)) }
    }

    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        self.call(async { self.client.kv_client().compact(revision, None).await }).await.map(drop)
    }

    async fn ping(&self) -> Result<(), MetaError> {
        self.get("/").await.map(drop)
    }
}

/// The first key after all keys that begin with a prefix of ASCII text.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Passes a watch on until it ends; what it ended with.
async fn follow(
    client: Client,
    place: &Prefix,
    prefix: String,
    from: i64,
    tell: &tokio::sync::mpsc::Sender<Result<Events, MetaError>>,
) -> Result<MetaError, Error> {
    let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
    let mut watch =
        client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES).watch(prefix, Some(options)).await?;
    while let Some(response) = watch.message().await? {
        if response.compact_revision() > 0 {
            return Ok(MetaError::Compacted(response.compact_revision()));
        }
        if response.canceled() {
            return Ok(MetaError::Unavailable(format!("the watch was cancelled: {}", response.cancel_reason())));
        }
        if response.created() && response.events().is_empty() {
            continue;
        }
        for events in place.by_revision(&response) {
            if tell.send(Ok(events)).await.is_err() {
                break;
            }
        }
        if tell.is_closed() {
            break;
        }
    }
    Ok(MetaError::Unavailable("the watch ended".to_owned()))
}
