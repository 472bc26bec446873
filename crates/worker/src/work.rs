//! The worker's life: registered under a lease, it runs what is assigned to it and reports.
//!
//! The fence is the marker, not the lease; but when the lease can't be relied on any more, somebody else has the work,
//! so it is dropped, and the worker registers anew.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use windrow_ports::cluster::{OtherStore, agree_on_store};
use windrow_ports::lease::HeldLease;
use windrow_ports::meta::{Compare, ENOUGH_TXN_BYTES, Event, KeyValue, MAX_TXN_OPS, Op, Txn};
use windrow_ports::{MetaError, MetaStore};
use windrow_protocol::WorkerId;
use windrow_protocol::state::{Assignment, Outcome, WorkerRecord, keys};
use windrow_storage::StoreError;

use crate::Tools;
use crate::attempt::{AttemptError, run as attempt};

/// Pause before trying again when the metadata store can't be reached.
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes of an error that are kept.
const MAX_ERROR_BYTES: usize = 2_048;

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub id: WorkerId,
    /// Batches that it runs at once. Default: one per core.
    pub slots: u32,
    /// How long its work stays its own when it is gone. Default 10 s.
    pub lease_ttl: Duration,
    /// How long running batches may take to finish at shutdown; then they are handed back. Default 30 s.
    pub grace: Duration,
}

/// Why a worker can't start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The object store can't decide races, or can't be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("scratch folder: {0}")]
    Scratch(#[from] std::io::Error),
    #[error(transparent)]
    OtherStore(#[from] OtherStore),
}

/// An error as it is kept: it may quote a value, and values may be long.
fn shortened(mut error: String) -> String {
    if error.len() > MAX_ERROR_BYTES {
        let end = (0..=MAX_ERROR_BYTES).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
        error.truncate(end);
        error += " ...";
    }
    error
}

/// An outcome written into its assignment, if that is still as it was given.
fn report_of(key: String, revision: i64, assignment: Assignment, outcome: Outcome, lease: i64) -> (Compare, Op) {
    let value = serde_json::to_vec(&Assignment { outcome: Some(outcome), ..assignment }).unwrap_or_default();
    (Compare::Modified(key.clone(), revision), Op::Put { key, value: value.into(), lease })
}

/// A finished task: the assignment's key, the revision at which it was given, and what to report.
type Done = (String, i64, Outcome);

/// An assignment in hand.
#[derive(Debug)]
struct Held {
    assignment: Assignment,
    /// At which it was given.
    revision: i64,
    task: tokio::task::AbortHandle,
}

/// Runs until shutdown. Refuses to start on a store without atomic put-if-absent.
pub async fn run(
    tools: Tools,
    meta: Arc<dyn MetaStore>,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    let ready = async {
        probe(&tools).await?;
        std::fs::create_dir_all(&tools.scratch)?;
        Ok::<_, WorkerError>(agree_on_store(tools.store.url(), &*meta, &*tools.clock).await?)
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        ready = ready => ready?,
    }
    while !shutdown.is_cancelled() {
        let session = Session {
            tools: &tools,
            meta: &meta,
            settings: &settings,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        if let Err(error) = session.run(&shutdown).await {
            tracing::warn!(worker = %settings.id, %error, "registering again");
            tools.clock.sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Finds out whether the store decides races. One that goes away meanwhile has not answered the question.
async fn probe(tools: &Tools) -> Result<(), WorkerError> {
    tracing::info!(store = tools.store.url(), "finding out whether the store decides races");
    loop {
        match tools.store.probe().await {
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, "the store could not be examined; trying again");
                tools.clock.sleep(PAUSE).await;
            }
            probed => return Ok(probed?),
        }
    }
}

/// One registration. Dropping it aborts what it runs.
struct Session<'a> {
    tools: &'a Tools,
    meta: &'a Arc<dyn MetaStore>,
    settings: &'a Settings,
    /// Assignments in hand that are not reported yet, by key.
    running: BTreeMap<String, Held>,
    tasks: JoinSet<Done>,
}

impl Session<'_> {
    async fn run(mut self, shutdown: &CancellationToken) -> Result<(), MetaError> {
        let lease = HeldLease::acquire(self.meta.clone(), self.tools.clock.clone(), self.settings.lease_ttl).await?;
        self.register(lease.id(), false).await?;
        tracing::info!(worker = %self.settings.id, slots = self.settings.slots, "ready for work");
        let result = tokio::select! {
            biased;
            () = lease.lost() => Err(MetaError::NoLease(lease.id())),
            () = shutdown.cancelled() => Ok(()),
            result = self.work(lease.id()) => result,
        };
        let result = match result {
            Ok(()) => tokio::select! {
                biased;
                () = lease.lost() => Err(MetaError::NoLease(lease.id())),
                drained = self.drain(lease.id()) => drained,
            },
            Err(error) => Err(error),
        };
        // Somebody else has the work by now, or soon; giving the lease up may take long.
        self.tasks.abort_all();
        // What is left unreported goes back with the lease; if this fails, when it expires.
        let _ = lease.revoke().await;
        result
    }

    async fn register(&self, lease: i64, draining: bool) -> Result<(), MetaError> {
        let record = WorkerRecord {
            id: self.settings.id.clone(),
            slots: self.settings.slots,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lease,
            draining,
        };
        let value = serde_json::to_vec(&record).unwrap_or_default();
        let put = Op::Put { key: keys::worker(&self.settings.id), value: value.into(), lease };
        self.meta.txn(Txn { when: vec![], then: vec![put] }).await.map(drop)
    }

    /// Takes work and reports, until the lease is gone. A store that does not answer for a moment takes no work away:
    /// whether the lease can be relied on is decided elsewhere.
    async fn work(&mut self, lease: i64) -> Result<(), MetaError> {
        let prefix = keys::assignments(&self.settings.id);
        loop {
            let listing = match self.meta.list(&prefix).await {
                Err(MetaError::Unavailable(why)) => {
                    self.pause(&why).await;
                    continue;
                }
                listed => listed?,
            };
            let taken_away: Vec<String> = self
                .running
                .keys()
                .filter(|key| !listing.items.iter().any(|item| item.key == **key))
                .cloned()
                .collect();
            taken_away.iter().for_each(|key| self.drop(key));
            listing.items.iter().for_each(|item| self.take(item));
            let mut changes = self.meta.watch(&prefix, listing.revision + 1);
            loop {
                tokio::select! {
                    // Changes keep no report waiting for long: no more come than there are slots to fill.
                    biased;
                    change = changes.next() => match change {
                        Some(Ok(change)) => change.events.iter().for_each(|event| match event {
                            Event::Put(item) => self.take(item),
                            Event::Delete { key, .. } => self.drop(key),
                        }),
                        // Behind compaction: list again.
                        Some(Err(MetaError::Compacted(_))) => break,
                        Some(Err(MetaError::Unavailable(why))) => {
                            self.pause(&why).await;
                            break;
                        }
                        Some(Err(error)) => return Err(error),
                        None => {
                            self.pause("the watch of assignments ended").await;
                            break;
                        }
                    },
                    Some(ended) = self.tasks.join_next() => self.report_with_others(ended, lease).await?,
                }
            }
        }
    }

    async fn pause(&self, why: &str) {
        tracing::warn!(worker = %self.settings.id, why, "looking for assignments again");
        self.tools.clock.sleep(PAUSE).await;
    }

    /// Stops what was taken away.
    fn drop(&mut self, key: &str) {
        if let Some(held) = self.running.remove(key) {
            tracing::info!(assignment = key, "assignment was taken away");
            held.task.abort();
        }
    }

    /// Starts an assignment, unless it is in hand or reported already.
    fn take(&mut self, item: &KeyValue) {
        match self.running.get(&item.key) {
            Some(held) if held.revision == item.mod_revision => return,
            // Taken away and given anew while nobody looked.
            Some(_) => self.drop(&item.key),
            None => {}
        }
        let assignment = match serde_json::from_slice::<Assignment>(&item.value) {
            Ok(assignment) if assignment.outcome.is_none() => assignment,
            Ok(_) => return,
            Err(error) => {
                tracing::error!(assignment = item.key, %error, "assignment is not understood; a newer coordinator?");
                return;
            }
        };
        let (tools, key, revision, task) =
            (self.tools.clone(), item.key.clone(), item.mod_revision, assignment.clone());
        let task = self.tasks.spawn(async move {
            // A defect in one batch must be reported like any failure, not leave the batch in nobody's hands.
            let ended = AssertUnwindSafe(attempt(&tools, &task)).catch_unwind().await;
            let outcome = match ended {
                Ok(Ok(summary)) => Outcome::Committed(summary),
                // Nothing went wrong: the log has to grow.
                Ok(Err(AttemptError::Short(seen))) => Outcome::Short(seen),
                Ok(Err(error)) => {
                    tracing::warn!(batch = %task.id, %error, "batch failed");
                    let text = shortened(error.to_string());
                    match error {
                        AttemptError::Unavailable(_) => Outcome::Unavailable { error: text },
                        AttemptError::Retry(_) => Outcome::Failed { error: text, retryable: true },
                        AttemptError::Park(_) => Outcome::Failed { error: text, retryable: false },
                        AttemptError::Short(seen) => Outcome::Short(seen),
                    }
                }
                Err(_) => {
                    tracing::error!(batch = %task.id, "the attempt panicked; this is a defect of windrow");
                    Outcome::Failed { error: "the attempt panicked: see the worker's log".to_owned(), retryable: true }
                }
            };
            (key, revision, outcome)
        });
        self.running.insert(item.key.clone(), Held { assignment, revision: item.mod_revision, task });
    }

    /// Reports a task that has ended, and all that have ended meanwhile.
    async fn report_with_others(&mut self, first: Result<Done, JoinError>, lease: i64) -> Result<(), MetaError> {
        let others = std::iter::from_fn(|| self.tasks.try_join_next());
        // One that was aborted has nothing to report.
        let ended = std::iter::once(first).chain(others).filter_map(Result::ok).collect();
        self.report(ended, lease).await
    }

    /// Writes outcomes into their assignments, as far as these are still this worker's: many in a transaction, since each
    /// costs the store a write to disk.
    async fn report(&mut self, ended: Vec<Done>, lease: i64) -> Result<(), MetaError> {
        let reports = ended.into_iter().filter_map(|(key, of, outcome)| {
            // What was taken away when it had just ended, and given anew, is in hand under the same key.
            self.running.get(&key).filter(|held| held.revision == of)?;
            let Held { assignment, revision, .. } = self.running.remove(&key)?;
            Some(report_of(key, revision, assignment, outcome, lease))
        });
        let mut reports = reports.collect::<Vec<_>>().into_iter();
        loop {
            let (mut group, mut bytes) = (Vec::new(), 0);
            while group.len() < MAX_TXN_OPS && bytes < ENOUGH_TXN_BYTES {
                let Some(report) = reports.next() else { break };
                bytes += if let Op::Put { value, .. } = &report.1 { value.len() } else { 0 };
                group.push(report);
            }
            if group.is_empty() {
                return Ok(());
            }
            if self.write(group.iter().cloned().unzip()).await? || group.len() == 1 {
                continue;
            }
            // One of them was taken away: the others count all the same.
            for (when, then) in group {
                self.write((vec![when], vec![then])).await?;
            }
        }
    }

    /// Writes reports, again until there is an answer; whether they were still wanted. Those that had come through unheard
    /// are not any more.
    async fn write(&self, (when, then): (Vec<Compare>, Vec<Op>)) -> Result<bool, MetaError> {
        loop {
            match self.meta.txn(Txn { when: when.clone(), then: then.clone() }).await {
                Err(MetaError::Unavailable(why)) => self.pause(&why).await,
                written => return Ok(written?.applied),
            }
        }
    }

    /// Hands back what was assigned after the last look at assignments.
    async fn release_untaken(&mut self, lease: i64) -> Result<(), MetaError> {
        for item in self.meta.list(&keys::assignments(&self.settings.id)).await?.items {
            let Ok(assignment) = serde_json::from_slice::<Assignment>(&item.value) else { continue };
            if assignment.outcome.is_none() && !self.running.contains_key(&item.key) {
                let (when, then) = report_of(item.key, item.mod_revision, assignment, Outcome::Released, lease);
                self.meta.txn(Txn { when: vec![when], then: vec![then] }).await?;
            }
        }
        Ok(())
    }

    /// At shutdown: takes no more, finishes what runs within the grace, hands the rest back.
    async fn drain(&mut self, lease: i64) -> Result<(), MetaError> {
        self.register(lease, true).await?;
        self.release_untaken(lease).await?;
        let deadline = self.tools.clock.elapsed() + self.settings.grace;
        while !self.tasks.is_empty() {
            let left = deadline.saturating_sub(self.tools.clock.elapsed());
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => self.report_with_others(ended, lease).await?,
                () = self.tools.clock.sleep(left) => {
                    self.tasks.abort_all();
                    let released = self.running.iter();
                    let released = released.map(|(key, held)| (key.clone(), held.revision, Outcome::Released)).collect();
                    return self.report(released, lease).await;
                }
            }
        }
        Ok(())
    }
}
