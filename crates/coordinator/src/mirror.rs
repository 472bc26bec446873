//! The metadata store as the leader sees it: one listing, then every change in the order in which it happened.
//!
//! What is decided from it may be a moment old. That is harmless, since every write compares what it was decided from.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use windrow_ports::meta::{Event, Events};
use windrow_ports::{Clock, MetaError, MetaStore};
use windrow_protocol::state::ROOT;

use crate::view::View;

/// How long one's own write may take to come back as a change before everything is listed anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// A [`View`] that follows the store.
pub struct Mirror {
    meta: Arc<dyn MetaStore>,
    clock: Arc<dyn Clock>,
    view: View,
    /// The view shows the store as of this revision, or a later one.
    revision: i64,
    changes: BoxStream<'static, Result<Events, MetaError>>,
}

impl Mirror {
    /// Lists everything and follows it from there.
    pub async fn load(meta: Arc<dyn MetaStore>, clock: Arc<dyn Clock>) -> Result<Self, MetaError> {
        let listing = meta.list(ROOT).await?;
        let changes = meta.watch(ROOT, listing.revision + 1);
        Ok(Self { meta, clock, view: View::new(&listing), revision: listing.revision, changes })
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Starts again from a listing: a write found something else than the view shows.
    pub async fn reload(&mut self) -> Result<(), MetaError> {
        *self = Self::load(self.meta.clone(), self.clock.clone()).await?;
        Ok(())
    }

    /// Waits for a change and takes in all that are there.
    pub async fn changed(&mut self) -> Result<(), MetaError> {
        let first = self.changes.next().await;
        self.take(first).await?;
        while let Some(more) = self.changes.next().now_or_never() {
            self.take(more).await?;
        }
        Ok(())
    }

    /// Waits until one's own write of this revision is in the view.
    pub async fn reach(&mut self, revision: i64) -> Result<(), MetaError> {
        let (clock, late) = (self.clock.clone(), self.clock.elapsed() + PATIENCE);
        while self.revision < revision {
            let left = late.saturating_sub(clock.elapsed());
            tokio::select! {
                // Every change brings the revision nearer.
                biased;
                changed = self.changed() => changed?,
                () = clock.sleep(left) => return self.reload().await,
            }
        }
        Ok(())
    }

    async fn take(&mut self, change: Option<Result<Events, MetaError>>) -> Result<(), MetaError> {
        match change {
            Some(Ok(events)) => {
                for event in events.events {
                    match event {
                        Event::Put(item) => self.view.put(&item),
                        Event::Delete { key, .. } => self.view.delete(&key),
                    }
                }
                self.revision = self.revision.max(events.revision);
                Ok(())
            }
            Some(Err(MetaError::Compacted(_))) => self.reload().await,
            Some(Err(error)) => Err(error),
            None => Err(MetaError::Unavailable("the watch of the metadata ended".to_owned())),
        }
    }
}
