//! What lives in the metadata store: keys, and the JSON records behind them. Of windows only what is in flight is kept
//! there: history lives in the markers.
//!
//! | key | record | written by |
//! |---|---|---|
//! | `/windrow/v1/jobs/<job>` | [`JobRecord`] | API, compare on mod revision |
//! | `/windrow/v1/specs/<job>/<hash>` | [`JobSpec`] | API, with the job |
//! | `/windrow/v1/cursors/<job>/<partition>` | [`Cursor`](crate::cut::Cursor) | leader |
//! | `/windrow/v1/progress/<job>` | [`Progress`] | leader |
//! | `/windrow/v1/problems/<job>` | text: what keeps the job from going on | leader |
//! | `/windrow/v1/batches/<job>/<window>/<part>` | [`BatchRecord`] | leader; API for retry, skip, cancel and the end of a backfill, compare on mod revision |
//! | `/windrow/v1/revisions/<job>/<wish>` | [`Wish`] | leader; API for backfills, compare on mod revision |
//! | `/windrow/v1/retired/<job>` | [`Timestamp`](crate::Timestamp) or null: up to where windows have gone by age | leader |
//! | `/windrow/v1/workers/<worker>` | [`WorkerRecord`] | worker, bound to its lease |
//! | `/windrow/v1/assignments/<worker>/<job>/<window>/<part>` | [`Assignment`] | leader, bound to the worker's lease; the worker writes the outcome |
//! | `/windrow/v1/store` | text: the object store of the cluster's output | the first worker or coordinator |
//! | `/windrow/v1/leader` | [`LeaderRecord`] | whoever wins the election, bound to its lease |

use serde::{Deserialize, Serialize};

use crate::plan::{BatchId, FinishPlan, Part, Plan};
pub use crate::revise::Wish;
use crate::revise::{Amends, WishId};
use crate::volume::{Seen, Waiting};
use crate::{JobName, JobSpec, Ledger, PartitionId, Revision, Timestamp, WindowId, WorkerId};

/// Root of all keys.
pub const ROOT: &str = "/windrow/v1/";

/// Builders of keys; nothing else formats one.
pub mod keys {
    use super::*;

    pub const JOBS: &str = "/windrow/v1/jobs/";
    pub const WORKERS: &str = "/windrow/v1/workers/";
    pub const ASSIGNMENTS: &str = "/windrow/v1/assignments/";
    pub const LEADER: &str = "/windrow/v1/leader";
    pub const STORE: &str = "/windrow/v1/store";

    pub fn job(job: &JobName) -> String {
        format!("{JOBS}{job}")
    }
    pub fn spec(job: &JobName, hash: &str) -> String {
        format!("{ROOT}specs/{job}/{hash}")
    }
    pub fn specs(job: &JobName) -> String {
        format!("{ROOT}specs/{job}/")
    }
    pub fn cursor(job: &JobName, partition: PartitionId) -> String {
        format!("{ROOT}cursors/{job}/{partition}")
    }
    pub fn cursors(job: &JobName) -> String {
        format!("{ROOT}cursors/{job}/")
    }
    pub fn progress(job: &JobName) -> String {
        format!("{ROOT}progress/{job}")
    }
    /// Up to where the job's windows of time have gone, or are about to: told before the store is, so that a change of the
    /// job and a removal can't miss each other.
    pub fn retired(job: &JobName) -> String {
        format!("{ROOT}retired/{job}")
    }
    pub fn problem(job: &JobName) -> String {
        format!("{ROOT}problems/{job}")
    }
    pub fn batch(job: &JobName, window: WindowId, part: Part) -> String {
        format!("{ROOT}batches/{job}/{window}/{part}")
    }
    pub fn batches(job: &JobName) -> String {
        format!("{ROOT}batches/{job}/")
    }
    pub fn wish(job: &JobName, wish: &WishId) -> String {
        format!("{ROOT}revisions/{job}/{wish}")
    }
    pub fn wishes(job: &JobName) -> String {
        format!("{ROOT}revisions/{job}/")
    }
    pub fn worker(worker: &WorkerId) -> String {
        format!("{WORKERS}{worker}")
    }
    /// All assignments of one worker: what the worker watches.
    pub fn assignments(worker: &WorkerId) -> String {
        format!("{ASSIGNMENTS}{worker}/")
    }
    pub fn assignment(worker: &WorkerId, batch: &BatchId) -> String {
        format!("{ASSIGNMENTS}{worker}/{}/{}/{}", batch.job, batch.window, batch.part)
    }
}

/// A job as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    pub name: JobName,
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    pub spec: JobSpec,
    /// Counts changes of the spec, from 1.
    pub generation: u64,
    /// The note given with pause; `None` while the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Set by delete; the leader then removes the job's keys. Output in the store stays.
    #[serde(default)]
    pub deleting: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// `request_id` of the create, so that a repeated create is the same create.
    #[serde(default)]
    pub request_id: String,
}

impl JobRecord {
    /// A job that is just created: of the first generation, running, without labels.
    pub fn new(name: JobName, spec: JobSpec, now: Timestamp) -> Self {
        Self {
            name,
            labels: Default::default(),
            spec,
            generation: 1,
            paused: None,
            deleting: false,
            created_at: now,
            updated_at: now,
            request_id: String::new(),
        }
    }
}

/// How far a job's windows are, over all partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Start of the job's first window.
    pub origin: Timestamp,
    /// All windows before this have their last step planned (or done).
    pub finish_planned_through: Timestamp,
    /// Windows whose `_complete` marker is written, empty ones included.
    pub windows_complete: u64,
}

/// The work of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Read one partition's offsets and run the map.
    Map(Plan),
    /// Run the reduce, if there is one, and write `_complete`. Runs only when all map batches of the window are committed.
    Finish(FinishPlan),
}

impl Task {
    /// Makes the task run another spec. Only for a task that has never run.
    pub fn run_with(&mut self, spec_hash: &str, generation: u64) {
        let (hash, number) = match self {
            Self::Map(plan) => (&mut plan.spec_hash, &mut plan.generation),
            Self::Finish(plan) => (&mut plan.spec_hash, &mut plan.generation),
        };
        (*hash, *number) = (spec_hash.to_owned(), generation);
    }

    /// Which result of its window the task makes.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Map(plan) => plan.revision,
            Self::Finish(plan) => plan.revision,
        }
    }

    /// The hash of the spec that the task runs.
    pub fn spec_hash(&self) -> &str {
        match self {
            Self::Map(plan) => &plan.spec_hash,
            Self::Finish(plan) => &plan.spec_hash,
        }
    }
}

/// A batch in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchRecord {
    pub id: BatchId,
    pub task: Task,
    pub state: BatchState,
    /// Failed tries since the plan or the last retry by hand.
    #[serde(default)]
    pub failures: u32,
    /// Workers that were lost with the batch, likewise.
    #[serde(default)]
    pub losses: u32,
    /// Error of the last failed try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Not assigned before this moment: backoff after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until then a worker from which it was taken by a cancel may be at it without knowing, whatever becomes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops_at: Option<Timestamp>,
    /// Somebody has given the batch up, and why: it is committed without a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
    /// Of a window of volume: what is known of it, and what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// How long a worker that does not hear of it may go on with what was cancelled: more than two thirds of a lease of 30 s.
const STOPS_WITHIN_US: i64 = 20_000_000;

impl BatchRecord {
    /// The batch as it waits to be tried anew, by somebody's decision: as if it had never failed or been given up.
    pub fn again(&self) -> Self {
        Self { state: BatchState::Pending, failures: 0, losses: 0, not_before: None, skip: None, ..self.clone() }
    }

    /// The batch as it is parked by somebody's decision.
    pub fn cancelled(&self, error: String, now: Timestamp) -> Self {
        let is_assigned = matches!(self.state, BatchState::Assigned { .. });
        let stops_at = if is_assigned { Some(now.plus_micros(STOPS_WITHIN_US)) } else { self.stops_at };
        let state = BatchState::Failed;
        Self { state, last_error: Some(error), skip: None, not_before: None, stops_at, ..self.clone() }
    }

    /// Whether a worker from which it was taken by a cancel may still be at it.
    pub fn may_still_run(&self, now: Timestamp) -> bool {
        self.stops_at > Some(now)
    }

    /// A batch that has just been planned.
    pub fn new(id: BatchId, task: Task) -> Self {
        Self {
            id,
            task,
            state: BatchState::Pending,
            failures: 0,
            losses: 0,
            last_error: None,
            not_before: None,
            stops_at: None,
            skip: None,
            waiting: None,
        }
    }

    /// Whether its window must grow before a worker can do something with it.
    pub fn waits_for_readings(&self) -> bool {
        self.waiting.is_some_and(|waiting| waiting.until.is_some())
    }
}

/// Where a batch is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Waits for a worker (for a finish: also for the window's other batches).
    Pending,
    /// A worker has it. Void once the assignment key is gone.
    Assigned { worker: WorkerId },
    /// Its marker is written and its files are published.
    Committed(Summary),
    /// Failed `maxAttempts` times; waits for a retry by hand while others go on.
    Failed,
}

/// What a committed batch made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub rows: u64,
    pub bytes: u64,
    pub ledger: Ledger,
    /// The late readings that amend their windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amends: Option<Amends>,
    /// Of a window of volume: where it ends, and what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Seen>,
}

/// A live worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRecord {
    pub id: WorkerId,
    /// Batches that it runs at once.
    pub slots: u32,
    pub version: String,
    /// The lease that its key and its assignments are bound to.
    pub lease: i64,
    /// It takes no more work: it is shutting down.
    #[serde(default)]
    pub draining: bool,
}

/// A batch in a worker's hands. Complete in itself: the worker needs to read nothing else to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    pub id: BatchId,
    pub task: Task,
    pub spec: JobSpec,
    /// The batch's [`BatchRecord::skip`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
    /// Written by the worker when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// How a worker's try ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A marker stands (this attempt's or another's) and its files are published.
    Committed(Summary),
    /// The try failed; `retryable: false` parks the batch at once (bad SQL on this data, a re-created topic).
    Failed { error: String, retryable: bool },
    /// Something that the batch needs (log, object store) could not be reached. Tried again until it is there: an outage
    /// is no failure of the batch.
    Unavailable { error: String },
    /// The worker hands the batch back unharmed (it is shutting down). Not counted as a failure.
    Released,
    /// The log does not hold the whole window of volume yet. No failure: the batch waits until the log has grown.
    Short(Seen),
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderRecord {
    pub id: String,
}
