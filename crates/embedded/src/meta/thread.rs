//! The thread that owns the state.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use windrow_ports::meta::{Events, KeyValue, Listing, MetaError, Txn, TxnOutcome};

use super::state::{State, pick};
use super::store::Store;

/// Commands that are made durable together.
const BATCH: usize = 1_024;

/// How long to wait for commands when no lease is about to expire.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

type Reply<T> = oneshot::Sender<Result<T, MetaError>>;

pub enum Command {
    Get { key: String, reply: Reply<Option<KeyValue>> },
    List { prefix: String, reply: Reply<Listing> },
    Txn { txn: Txn, reply: Reply<TxnOutcome> },
    Grant { ttl: Duration, reply: Reply<i64> },
    KeepAlive { lease: i64, reply: Reply<Duration> },
    Revoke { lease: i64, reply: Reply<()> },
    Compact { revision: i64, reply: Reply<()> },
    Watch(Watcher),
}

pub struct Watcher {
    pub prefix: String,
    pub from: i64,
    pub tell: tokio::sync::mpsc::Sender<Result<Events, MetaError>>,
}

/// An answer that is sent once the state that it speaks of is durable.
type Answer = Box<dyn FnOnce()>;

/// Runs until all handles are dropped, or the database fails: then callers are told that the store has stopped.
pub fn run(store: Store, inbox: &Receiver<Command>) {
    let mut state = match store.load() {
        Ok(state) => state,
        Err(error) => {
            tracing::error!(%error, "embedded metadata store cannot be read");
            return;
        }
    };
    let started = Instant::now();
    let mut watchers: Vec<Watcher> = Vec::new();
    loop {
        let now = started.elapsed();
        let wait = state.next_expiry().map_or(LONGEST_WAIT, |at| at.saturating_sub(now));
        let first = match inbox.recv_timeout(wait) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let before = state.revision;
        state.expire(started.elapsed());
        let mut answers: Vec<Answer> = Vec::new();
        let mut new_watchers = Vec::new();
        for command in first.into_iter().chain(inbox.try_iter().take(BATCH)) {
            apply(command, &mut state, started.elapsed(), &mut answers, &mut new_watchers);
        }
        if state.revision > before {
            let events = state.since(before).flat_map(|(_, events)| events);
            if let Err(error) = store.save(state.revision, events) {
                tracing::error!(%error, "embedded metadata store cannot be written; stopping it");
                return;
            }
        }
        for answer in answers {
            answer();
        }
        watchers.retain(|watcher| tell_news(watcher, &state, before));
        watchers.extend(new_watchers.into_iter().filter(|watcher| start(watcher, &state)));
    }
}

fn apply(command: Command, state: &mut State, now: Duration, answers: &mut Vec<Answer>, watchers: &mut Vec<Watcher>) {
    match command {
        Command::Get { key, reply } => answer(answers, reply, Ok(state.keys.get(&key).cloned())),
        Command::List { prefix, reply } => answer(answers, reply, Ok(state.list(&prefix))),
        Command::Txn { txn, reply } => answer(answers, reply, state.txn(&txn)),
        Command::Grant { ttl, reply } => answer(answers, reply, Ok(state.grant(ttl, now))),
        Command::KeepAlive { lease, reply } => answer(answers, reply, state.keep_alive(lease, now)),
        Command::Revoke { lease, reply } => answer(answers, reply, state.revoke(lease)),
        Command::Compact { revision, reply } => {
            state.compact(revision);
            answer(answers, reply, Ok(()));
        }
        Command::Watch(watcher) => watchers.push(watcher),
    }
}

fn answer<T: 'static>(answers: &mut Vec<Answer>, reply: Reply<T>, result: Result<T, MetaError>) {
    answers.push(Box::new(move || {
        // Whoever asked may have stopped waiting.
        let _ = reply.send(result);
    }));
}

/// Tells a watcher what happened after a revision; whether it still listens and keeps up.
fn tell_news(watcher: &Watcher, state: &State, after: i64) -> bool {
    let after = after.max(watcher.from - 1);
    let mut news = state.since(after).filter_map(|(revision, events)| pick(&watcher.prefix, *revision, events));
    !watcher.tell.is_closed() && news.all(|events| watcher.tell.try_send(Ok(events)).is_ok())
}

/// Tells a new watcher what it missed; whether it goes on.
fn start(watcher: &Watcher, state: &State) -> bool {
    match state.replay(&watcher.prefix, watcher.from) {
        Ok(missed) => missed.into_iter().all(|events| watcher.tell.try_send(Ok(events)).is_ok()),
        Err(error) => {
            let _ = watcher.tell.try_send(Err(error));
            false
        }
    }
}
