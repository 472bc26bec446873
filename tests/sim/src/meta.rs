//! The metadata store in memory, with etcd's semantics. Leases expire by the clock that it is given.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use windrow_ports::Clock;
use windrow_ports::meta::{Event, Events, KeyValue, Listing, MetaError, MetaStore, Txn, TxnOutcome};

use crate::locked;

mod keys;

use keys::Keys;

/// Told every change in the moment in which it happens: the changes of one revision.
pub type OnChange = Box<dyn Fn(&[Event]) + Send + Sync>;

/// A metadata store without faults. Cheap to clone.
#[derive(Clone)]
pub struct SimMeta {
    keys: Arc<Mutex<Keys>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SimMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimMeta").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl SimMeta {
    pub fn new(clock: Arc<dyn Clock>, on_change: OnChange) -> Self {
        Self { keys: Arc::new(Mutex::new(Keys::new(on_change))), clock }
    }

    /// The ids of all leases, oldest first.
    pub fn leases(&self) -> Vec<i64> {
        locked(&self.keys).leases.keys().copied().collect()
    }

    /// Lets a lease live on for this long from now, whatever it was granted for.
    pub fn set_remaining(&self, lease: i64, remaining: Duration) {
        let expires = self.clock.elapsed() + remaining;
        let expired = {
            let mut keys = locked(&self.keys);
            let Some(lease) = keys.leases.get_mut(&lease) else { return };
            lease.expires = expires;
            remaining.is_zero()
        };
        if expired {
            // It was there a moment ago.
            let _ = locked(&self.keys).revoke(lease);
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        locked(&self.keys).revision
    }

    async fn expire(keys: std::sync::Weak<Mutex<Keys>>, clock: Arc<dyn Clock>, id: i64) {
        loop {
            let Some(left) = keys.upgrade().and_then(|keys| {
                let mut keys = locked(&keys);
                let left = keys.leases.get(&id)?.expires.saturating_sub(clock.elapsed());
                if left.is_zero() {
                    // It was there just now.
                    let _ = keys.revoke(id);
                }
                Some(left)
            }) else {
                return;
            };
            clock.sleep(left).await;
        }
    }
}

#[async_trait]
impl MetaStore for SimMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        Ok(locked(&self.keys).items.get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        Ok(locked(&self.keys).list(prefix))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        locked(&self.keys).txn(&txn)
    }

    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        let told = locked(&self.keys).watch(prefix, from_revision);
        futures::stream::unfold(told, |mut told| async move { told.recv().await.map(|item| (item, told)) }).boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        let id = locked(&self.keys).grant(ttl, self.clock.elapsed() + ttl);
        tokio::spawn(Self::expire(Arc::downgrade(&self.keys), self.clock.clone(), id));
        Ok(id)
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        let now = self.clock.elapsed();
        let mut keys = locked(&self.keys);
        let lease = keys.leases.get_mut(&lease).ok_or(MetaError::NoLease(lease))?;
        lease.expires = now + lease.ttl;
        Ok(lease.ttl)
    }

    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        locked(&self.keys).revoke(lease)
    }

    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        locked(&self.keys).compact(revision);
        Ok(())
    }

    async fn ping(&self) -> Result<(), MetaError> {
        Ok(())
    }
}
