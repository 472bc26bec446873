//! The metadata store under a prefix, so that a run sees nothing of what else lives in the same etcd.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::MetaStore;
use windrow_ports::meta::{Compare, Event, Events, KeyValue, Listing, MetaError, Op, Txn, TxnOutcome};

use crate::variable;

#[derive(Debug)]
pub struct Prefixed {
    inner: EtcdStore,
    prefix: String,
}

impl Prefixed {
    /// The etcd of this run, under a random prefix.
    pub async fn connect() -> Result<Arc<Self>> {
        let inner = EtcdStore::connect(&EtcdSettings::new(vec![variable("WINDROW_TEST_ETCD")?])).await?;
        Ok(Arc::new(Self { inner, prefix: format!("/bench-{}", uuid::Uuid::new_v4().simple()) }))
    }

    /// Deletes everything of this run.
    pub async fn clear(&self) -> Result<()> {
        let then = vec![Op::DeletePrefix { prefix: self.prefix.clone() }];
        Ok(self.inner.txn(Txn { when: vec![], then }).await.map(drop)?)
    }

    fn outer(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn strip(prefix: &str, item: KeyValue) -> KeyValue {
    KeyValue { key: strip_key(prefix, item.key), ..item }
}

fn strip_key(prefix: &str, key: String) -> String {
    key.strip_prefix(prefix).map(str::to_owned).unwrap_or(key)
}

#[async_trait]
impl MetaStore for Prefixed {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        Ok(self.inner.get(&self.outer(key)).await?.map(|item| strip(&self.prefix, item)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let listing = self.inner.list(&self.outer(prefix)).await?;
        let items = listing.items.into_iter().map(|item| strip(&self.prefix, item)).collect();
        Ok(Listing { items, ..listing })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        let when = txn.when.into_iter().map(|compare| match compare {
            Compare::Absent(key) => Compare::Absent(self.outer(&key)),
            Compare::Created(key, revision) => Compare::Created(self.outer(&key), revision),
            Compare::Modified(key, revision) => Compare::Modified(self.outer(&key), revision),
        });
        let then = txn.then.into_iter().map(|op| match op {
            Op::Put { key, value, lease } => Op::Put { key: self.outer(&key), value, lease },
            Op::Delete { key } => Op::Delete { key: self.outer(&key) },
            Op::DeletePrefix { prefix } => Op::DeletePrefix { prefix: self.outer(&prefix) },
        });
        self.inner.txn(Txn { when: when.collect(), then: then.collect() }).await
    }

    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        let own = self.prefix.clone();
        let changes = self.inner.watch(&self.outer(prefix), from_revision);
        let inside = move |change: Result<Events, MetaError>| {
            let change = change?;
            let events = change.events.into_iter().map(|event| match event {
                Event::Put(item) => Event::Put(strip(&own, item)),
                Event::Delete { key, revision } => Event::Delete { key: strip_key(&own, key), revision },
            });
            Ok(Events { events: events.collect(), revision: change.revision })
        };
        changes.map(inside).boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.inner.revoke(lease).await
    }

    async fn compact(&self, _: i64) -> Result<(), MetaError> {
        // Compaction is the whole server's, not this run's.
        Ok(())
    }

    async fn ping(&self) -> Result<(), MetaError> {
        self.inner.ping().await
    }
}
