//! The metadata store as a node sees it, over a way that has faults.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use windrow_ports::meta::{Events, KeyValue, Listing, MetaError, MetaStore, Op, Txn, TxnOutcome};
use windrow_protocol::state::keys;

use crate::faults::Fault;
use crate::link::{Call, Link};
use crate::node::Trust;

/// A metadata store behind a [`Link`].
#[derive(Debug, Clone)]
pub struct FaultyMeta {
    pub inner: Arc<dyn MetaStore>,
    pub link: Link,
}

fn unavailable(what: &str) -> MetaError {
    MetaError::Unavailable(what.to_owned())
}

type Told = Result<Events, MetaError>;

impl FaultyMeta {
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        key: &str,
        run: impl Fn(Arc<dyn MetaStore>) -> BoxFuture<'static, Result<T, MetaError>>,
    ) -> Result<T, MetaError> {
        self.link.call(Call::new(name, key), || run(self.inner.clone()), unavailable).await
    }

    /// The next news of a watch: late, or the last.
    async fn next_news(&self, changes: &mut BoxStream<'static, Told>) -> Option<Told> {
        let item = changes.next().await;
        let world = &self.link.world;
        let late = if world.strikes(Fault::WatchDelayed) { world.millis(500, 15_000) } else { world.millis(0, 5) };
        world.time().sleep(late).await;
        self.link.hears().await;
        if world.strikes(Fault::StreamBroken) {
            return Some(Err(unavailable("the watch broke")));
        }
        let node = self.link.node.name();
        match &item {
            Some(Ok(events)) => world.trace(format_args!("{node} meta told {}", events.revision)),
            other => world.trace(format_args!("{node} meta watch ends {other:?}")),
        }
        item
    }
}

struct Watching {
    meta: FaultyMeta,
    changes: BoxStream<'static, Told>,
    is_over: bool,
}

/// What a transaction is about, for the trace.
fn subject(txn: &Txn) -> &str {
    match txn.then.first() {
        Some(Op::Put { key, .. } | Op::Delete { key }) => key,
        Some(Op::DeletePrefix { prefix }) => prefix,
        None => "",
    }
}

#[async_trait]
impl MetaStore for FaultyMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let run = |meta: Arc<dyn MetaStore>| {
            let key = key.to_owned();
            async move { meta.get(&key).await }.boxed()
        };
        self.call("get", key, run).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let run = |meta: Arc<dyn MetaStore>| {
            let prefix = prefix.to_owned();
            async move { meta.list(&prefix).await }.boxed()
        };
        self.call("list", prefix, run).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        // Who registers, or stands for election, finds out first thing whether its lease is one.
        if !(subject(&txn).starts_with(keys::WORKERS) || subject(&txn) == keys::LEADER) {
            self.link.acts_on_lease();
        }
        let run = |meta: Arc<dyn MetaStore>| {
            let txn = txn.clone();
            async move { meta.txn(txn).await }.boxed()
        };
        self.call("txn", subject(&txn), run).await
    }

    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Told> {
        let (meta, inner, prefix) = (self.clone(), self.inner.clone(), prefix.to_owned());
        let open = async move {
            // The watch begins at the store when the request arrives.
            let call = Call::new("watch", &prefix);
            match meta.link.call(call, || futures::future::ok(()).boxed(), unavailable).await {
                Ok(()) => {
                    let changes = inner.watch(&prefix, from_revision);
                    let watching = Watching { meta, changes, is_over: false };
                    futures::stream::unfold(watching, |mut watching| async move {
                        if watching.is_over {
                            return None;
                        }
                        let item = watching.meta.next_news(&mut watching.changes).await?;
                        watching.is_over = item.is_err();
                        Some((item, watching))
                    })
                    .boxed()
                }
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(open).flatten().boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        let sent = self.link.world.time().now();
        let run = |meta: Arc<dyn MetaStore>| async move { meta.grant(ttl).await }.boxed();
        let lease = self.call("grant", "", run).await?;
        self.link.node.set_trust(Some(Trust { sent, ttl }));
        Ok(lease)
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        let sent = self.link.world.time().now();
        let run = |meta: Arc<dyn MetaStore>| async move { meta.keep_alive(lease).await }.boxed();
        let ttl = self.call("keep_alive", "", run).await?;
        self.link.node.set_trust(Some(Trust { sent, ttl }));
        Ok(ttl)
    }

    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        // Whatever the answer, nothing rests on the lease any more.
        self.link.node.set_trust(None);
        self.call("revoke", "", |meta| async move { meta.revoke(lease).await }.boxed()).await
    }

    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        self.call("compact", "", |meta| async move { meta.compact(revision).await }.boxed()).await
    }

    async fn ping(&self) -> Result<(), MetaError> {
        self.call("ping", "", |meta| async move { meta.ping().await }.boxed()).await
    }
}
