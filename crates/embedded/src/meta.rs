//! `MetaStore` on redb, with etcd's semantics.
//!
//! One thread owns the state; calls are commands to it. It takes whatever has queued up, applies it in order, makes it
//! durable in one database transaction, and only then answers and tells watchers. So nobody sees what a crash could
//! still undo. Leases are not durable: their holders are in this process and end with it, so their keys are deleted when
//! the file is opened.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::oneshot;
use windrow_ports::meta::{Events, KeyValue, Listing, MetaError, MetaStore, Txn, TxnOutcome};

mod state;
mod store;
mod thread;

use thread::{Command, Watcher};

/// Changes that a watcher may fall behind before its watch ends (and is begun anew by who wants it).
const WATCH_QUEUE: usize = 16_384;

/// The embedded metadata store. Cheap to share; the thread ends when the last handle is dropped.
#[derive(Debug)]
pub struct EmbeddedMeta {
    commands: mpsc::Sender<Command>,
}

impl EmbeddedMeta {
    /// Reads the state and starts the thread.
    pub fn new(db: Arc<redb::Database>) -> Result<Self, redb::Error> {
        let store = store::Store::open(db)?;
        let (commands, inbox) = mpsc::channel();
        std::thread::Builder::new().name("embedded-meta".to_owned()).spawn(move || thread::run(store, &inbox))?;
        Ok(Self { commands })
    }

    /// Sends a command and waits for its answer. The queue is bounded by the callers, each of whom waits.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, MetaError>>) -> Command,
    ) -> Result<T, MetaError> {
        let (reply, answer) = oneshot::channel();
        let gone = || MetaError::Unavailable("the embedded metadata store has stopped".to_owned());
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl MetaStore for EmbeddedMeta {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetaError> {
        let key = key.to_owned();
        self.ask(|reply| Command::Get { key, reply }).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetaError> {
        let prefix = prefix.to_owned();
        self.ask(|reply| Command::List { prefix, reply }).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.ask(|reply| Command::Txn { txn, reply }).await
    }

    fn watch(&self, prefix: &str, from_revision: i64) -> BoxStream<'static, Result<Events, MetaError>> {
        let (tell, told) = tokio::sync::mpsc::channel(WATCH_QUEUE);
        let watcher = Watcher { prefix: prefix.to_owned(), from: from_revision, tell };
        // A stopped thread drops the sender, which ends the stream below as any lost watch does.
        let _ = self.commands.send(Command::Watch(watcher));
        let lost = Err(MetaError::Unavailable("the watch fell behind or the store has stopped".to_owned()));
        let events = tokio_stream::wrappers::ReceiverStream::new(told).chain(futures::stream::iter([lost]));
        // A watch ends with its first error.
        events
            .scan(false, |ended, item| {
                let next = (!*ended).then_some(item);
                *ended = matches!(next, Some(Err(_)));
                futures::future::ready(next)
            })
            .boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<i64, MetaError> {
        self.ask(|reply| Command::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, MetaError> {
        self.ask(|reply| Command::KeepAlive { lease, reply }).await
    }

    async fn revoke(&self, lease: i64) -> Result<(), MetaError> {
        self.ask(|reply| Command::Revoke { lease, reply }).await
    }

    async fn compact(&self, revision: i64) -> Result<(), MetaError> {
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    async fn ping(&self) -> Result<(), MetaError> {
        self.get("/").await.map(drop)
    }
}
