//! Holding a lease: renew it in time, and know for certain when it can no longer be relied on.
//!
//! Only an answer renews, and its time counts from when the request was sent. Work must stop at two thirds of the TTL
//! without an answer, well before the store would let somebody else in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::meta::{MetaError, MetaStore};

/// A lease that a background task keeps alive until this is dropped or [`HeldLease::revoke`]d.
#[derive(Debug)]
pub struct HeldLease {
    id: i64,
    meta: Arc<dyn MetaStore>,
    lost: watch::Receiver<bool>,
    keeper: tokio::task::JoinHandle<()>,
}

impl HeldLease {
    /// Gets a lease and keeps it alive. Renews every third of `ttl`.
    pub async fn acquire(meta: Arc<dyn MetaStore>, clock: Arc<dyn Clock>, ttl: Duration) -> Result<Self, MetaError> {
        let sent = clock.elapsed();
        let id = meta.grant(ttl).await?;
        let (tell, lost) = watch::channel(false);
        let keeper = tokio::spawn(keep(id, meta.clone(), clock, ttl, sent, tell));
        Ok(Self { id, meta, lost, keeper })
    }

    /// The lease's id, to bind keys to.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Waits until the lease can no longer be relied on.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that the keeper is gone, and nothing renews the lease any more.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Gives the lease up at once, so that others need not wait for it to expire.
    pub async fn revoke(self) -> Result<(), MetaError> {
        self.keeper.abort();
        self.meta.revoke(self.id).await
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(
    id: i64,
    meta: Arc<dyn MetaStore>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    granted: Duration,
    tell: watch::Sender<bool>,
) {
    let trust = ttl * 2 / 3;
    let mut trusted_until = granted + trust;
    loop {
        let now = clock.elapsed();
        if now >= trusted_until {
            tracing::warn!(lease = id, "lease could not be renewed in time");
            break;
        }
        clock.sleep((ttl / 3).min(trusted_until - now)).await;
        let sent = clock.elapsed();
        let left = trusted_until.saturating_sub(sent);
        tokio::select! {
            // An answer that is there counts, also when it is just in time.
            biased;
            answer = meta.keep_alive(id) => match answer {
                Ok(remaining) if !remaining.is_zero() => trusted_until = sent + trust.min(remaining * 2 / 3),
                Ok(_) | Err(MetaError::NoLease(_)) => {
                    tracing::warn!(lease = id, "lease is gone");
                    break;
                }
                Err(error) => {
                    tracing::debug!(lease = id, %error, "lease was not renewed; trying again");
                    // The pause keeps a refusing store from being hammered; it must not outlast the trust.
                    clock.sleep((ttl / 20).min(trusted_until.saturating_sub(clock.elapsed()))).await;
                }
            },
            () = clock.sleep(left) => {}
        }
    }
    // Nobody listens once the lease is dropped.
    let _ = tell.send(true);
}
