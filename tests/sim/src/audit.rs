//! What must hold at every moment, checked whenever a service changes; what must hold at the end is in [`end`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use windrow_ports::meta::Event;
use windrow_protocol::cut::Cursor;
use windrow_protocol::marker::Expired;
use windrow_protocol::plan::{OffsetRange, SealedBy};
use windrow_protocol::state::{Assignment, BatchRecord, BatchState, LeaderRecord, Outcome, Progress, Task, Wish, keys};
use windrow_protocol::{JobName, JobSpec, PartitionId, Plan, Revision};

use crate::locked;
use crate::log::SimLog;
use crate::node::Node;
use crate::world::World;

pub mod end;
mod oracle;
mod retention;
mod revisions;
mod store;
mod volume;

pub use store::sha256;

/// The auditors of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    world: World,
    log: SimLog,
    jobs: Arc<BTreeMap<JobName, JobSpec>>,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// The work of every batch that was ever planned, by key.
    tasks: BTreeMap<String, Task>,
    /// Where each batch was when it was last seen, by key.
    states: BTreeMap<String, BatchState>,
    /// Keys of batches that were there and are gone.
    ended: BTreeSet<String>,
    cursors: BTreeMap<(JobName, PartitionId), Cursor>,
    /// The first cursor of each partition: where the job began.
    begun: BTreeMap<(JobName, PartitionId), Cursor>,
    progress: BTreeMap<JobName, Progress>,
    leader: Option<String>,
    /// Windows that are to be run again, by key.
    wishes: BTreeMap<String, Wish>,
    /// All objects by path.
    objects: BTreeMap<String, Bytes>,
    /// Published files that are gone since their retention has ended.
    gone: BTreeMap<String, Bytes>,
    /// The newest record of windows that are gone, and its number.
    expired: BTreeMap<JobName, (u64, Expired)>,
    files: store::Files,
}

type Checked = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}
pub(crate) use must;

impl Audit {
    pub fn new(world: World, log: SimLog, jobs: BTreeMap<JobName, JobSpec>) -> Self {
        Self { world, log, jobs: Arc::new(jobs), seen: Arc::default() }
    }

    fn report(&self, checked: Checked) {
        if let Err(what) = checked {
            self.world.violated(what);
        }
    }

    /// The metadata store has changed.
    pub fn meta_changed(&self, events: &[Event]) {
        let by = self.world.acting();
        let checked = self.check_events(&mut locked(&self.seen), events, by.as_ref());
        self.report(checked);
    }

    fn check_events(&self, seen: &mut Seen, events: &[Event], by: Option<&Node>) -> Checked {
        let puts: BTreeMap<&str, &Bytes> = events
            .iter()
            .filter_map(|event| match event {
                Event::Put(item) => Some((item.key.as_str(), &item.value)),
                Event::Delete { .. } => None,
            })
            .collect();
        for event in events {
            let key = match event {
                Event::Put(item) => item.key.as_str(),
                Event::Delete { key, .. } => key.as_str(),
            };
            writer(seen, key, by)?;
            if key == keys::LEADER {
                seen.leader = puts.get(key).and_then(|value| parse::<LeaderRecord>(value).ok()).map(|leader| leader.id);
            } else if key.starts_with("/windrow/v1/batches/") {
                match puts.get(key) {
                    Some(value) => self.batch(seen, key, parse(value)?, events, &puts, by)?,
                    None => ended(seen, key, &puts)?,
                }
            } else if let Some(value) = puts.get(key) {
                if let Some(rest) = key.strip_prefix("/windrow/v1/cursors/") {
                    cursor(seen, rest, parse(value)?, &puts)?;
                } else if let Some(job) = key.strip_prefix("/windrow/v1/progress/") {
                    progress(seen, job, parse(value)?)?;
                } else if key.starts_with(keys::ASSIGNMENTS) {
                    assignment(seen, &parse(value)?)?;
                }
            }
        }
        revisions::wishes(seen, events)?;
        // After all of them: a plan is compared with the cursor before it.
        for (key, value) in &puts {
            if let Some(rest) = key.strip_prefix("/windrow/v1/cursors/") {
                let (at, cursor) = (place(rest)?, parse::<Cursor>(value)?);
                seen.begun.entry(at.clone()).or_insert_with(|| cursor.clone());
                seen.cursors.insert(at, cursor);
            }
        }
        Ok(())
    }

    fn batch(
        &self,
        seen: &mut Seen,
        key: &str,
        batch: BatchRecord,
        events: &[Event],
        puts: &BTreeMap<&str, &Bytes>,
        by: Option<&Node>,
    ) -> Checked {
        let known = seen.tasks.get(key);
        if known.is_none_or(|task| task.revision() < batch.task.revision()) && batch.id.revision > Revision(0) {
            must!(known.is_none() || seen.ended.contains(key), "{key} is planned again while it is in flight");
            revisions::planned(seen, &batch, events)?;
            seen.ended.remove(key);
            seen.tasks.insert(key.to_owned(), batch.task.clone());
        }
        must!(!seen.ended.contains(key), "{key} is planned again after it was done");
        let sealed = match seen.tasks.get(key) {
            Some(task) if *task == batch.task => None,
            Some(task) => volume::changed(task, seen.states.get(key), &batch)?,
            None => {
                let Task::Map(plan) = &batch.task else {
                    seen.tasks.insert(key.to_owned(), batch.task.clone());
                    seen.states.insert(key.to_owned(), batch.state);
                    return Ok(());
                };
                match plan.volume() {
                    Some(cut) => volume::planned(seen, &batch.id.job, plan, cut)?,
                    None => self.plan(seen, &batch.id.job, plan, puts, by)?,
                }
                plan.volume().and_then(|cut| cut.sealed_at)
            }
        };
        if let Some(end) = sealed {
            self.sealed(&batch, end, by)?;
        }
        let is_new = !matches!(seen.states.get(key), Some(BatchState::Committed(_)));
        if is_new {
            volume::committed(seen, &batch, puts)?;
        }
        seen.tasks.insert(key.to_owned(), batch.task.clone());
        seen.states.insert(key.to_owned(), batch.state.clone());
        if let BatchState::Committed(summary) = &batch.state {
            let ledger = seen.files.published(&seen.objects, &batch.id)?;
            must!(ledger == summary.ledger, "{key} is committed with another ledger than its marker's");
        }
        Ok(())
    }

    /// A new plan must take up where the one before ended, and must have had reason to seal its window.
    fn plan(
        &self,
        seen: &Seen,
        job: &JobName,
        plan: &Plan,
        puts: &BTreeMap<&str, &Bytes>,
        by: Option<&Node>,
    ) -> Checked {
        let at = (job.clone(), plan.partition);
        let name = format!("plan of {job}/{}/{}", plan.window.id(), plan.partition);
        let Some(before) = seen.cursors.get(&at) else { return Err(format!("{name} without a cursor")) };
        let Some(after) = puts.get(keys::cursor(job, plan.partition).as_str()) else {
            return Err(format!("{name} does not move the cursor"));
        };
        let after: Cursor = parse(after)?;
        let owned = OffsetRange { start: before.end, end: after.end };
        must!(plan.owned == owned, "{name} owns {}, but the cursor moves over {owned}", plan.owned);
        must!(
            plan.window.start == before.sealed_through && plan.window.end == after.sealed_through,
            "{name} is not the next window after {}",
            before.sealed_through
        );
        must!(
            plan.read.end == plan.owned.end && plan.read.start == before.next_start.min(before.end),
            "{name} reads {} but the cursor was {before:?}",
            plan.read
        );
        let Some(spec) = self.jobs.get(job) else { return Err(format!("{name}: nobody made this job")) };
        let over = plan.window.end.plus_micros(spec.lateness.micros());
        let now = self.world.time().now();
        let reason = self.log.history(&plan.topic_id, plan.partition, |history| match plan.sealed_by {
            SealedBy::Volume(_) => Ok(()),
            SealedBy::Watermark => {
                let up_to = history.records.iter().take(plan.owned.end.0 as usize + 1);
                let proof = up_to.into_iter().any(|record| record.timestamp.millis() >= over.millis());
                must!(proof, "{name} is sealed by a watermark that no record up to its end has reached");
                Ok(())
            }
            SealedBy::Idle => {
                let wall = by.map(|node| node.clock().now());
                must!(wall >= Some(over), "{name} is sealed for silence at {wall:?}, before {over}");
                let last = (plan.owned.end.0 as usize).checked_sub(1).and_then(|last| history.appended.get(last));
                let silent_us = last.map_or(i64::MAX, |last| now.saturating_sub(*last).as_micros() as i64);
                must!(
                    silent_us >= spec.idle_timeout.micros(),
                    "{name} is sealed for silence, but its last record is {silent_us} us old"
                );
                Ok(())
            }
        });
        reason.unwrap_or_else(|| Err(format!("{name} is of a topic that never was")))
    }
}

/// Only who leads writes what leaders write; workers write only what is theirs.
fn writer(seen: &Seen, key: &str, by: Option<&Node>) -> Checked {
    let Some(by) = by.map(Node::name) else { return Ok(()) };
    if key == keys::LEADER {
        return Ok(());
    }
    if by.starts_with('c') {
        let leader = &seen.leader;
        must!(leader.as_deref() == Some(by), "{by} writes {key} while the leader is {leader:?}");
    } else if by.starts_with('w') {
        let own = key == keys::STORE
            || key.strip_prefix(keys::WORKERS) == Some(by)
            || key.strip_prefix(keys::ASSIGNMENTS).is_some_and(|rest| rest.split('/').next() == Some(by));
        must!(own, "{by} writes {key}, which is not its own");
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("a record can't be read: {error}"))
}

/// `<job>/<partition>`.
fn place(rest: &str) -> Result<(JobName, PartitionId), String> {
    let parsed = rest
        .split_once('/')
        .and_then(|(job, partition)| Some((JobName::new(job).ok()?, PartitionId(partition.parse().ok()?))));
    parsed.ok_or_else(|| format!("{rest} names no partition of a job"))
}

/// Cursors only move on, and their end only by a plan.
fn cursor(seen: &Seen, rest: &str, cursor: Cursor, puts: &BTreeMap<&str, &Bytes>) -> Checked {
    must!(cursor.next_start <= cursor.end, "cursor {rest} would read from behind its end: {cursor:?}");
    let at = place(rest)?;
    let Some(before) = seen.cursors.get(&at) else { return Ok(()) };
    let on = before.topic_id == cursor.topic_id
        && before.sealed_through <= cursor.sealed_through
        && before.end <= cursor.end
        && before.next_start <= cursor.next_start;
    must!(on, "cursor {rest} moves from {before:?} to {cursor:?}");
    let plans = format!("/windrow/v1/batches/{}/", at.0);
    let planned = puts.iter().any(|(key, value)| {
        key.starts_with(&plans)
            && parse::<BatchRecord>(value)
                .is_ok_and(|batch| matches!(&batch.task, Task::Map(plan) if plan.owned.end == cursor.end && plan.partition == at.1))
    });
    let planned = planned || volume::moves(puts, &at.0, at.1, before, cursor.end);
    must!(before.end == cursor.end || planned, "cursor {rest} moves to {} without a plan", cursor.end);
    Ok(())
}

fn progress(seen: &mut Seen, job: &str, progress: Progress) -> Checked {
    let job = JobName::new(job).map_err(|error| error.to_string())?;
    if let Some(before) = seen.progress.get(&job) {
        let on = before.origin == progress.origin
            && before.finish_planned_through <= progress.finish_planned_through
            && before.windows_complete <= progress.windows_complete;
        must!(on, "progress of {job} goes from {before:?} to {progress:?}");
    }
    seen.progress.insert(job, progress);
    Ok(())
}

/// A worker may say that it has committed only when everything is published.
fn assignment(seen: &Seen, assignment: &Assignment) -> Checked {
    if let Some(Outcome::Committed(summary)) = &assignment.outcome {
        let ledger = seen.files.published(&seen.objects, &assignment.id)?;
        must!(ledger == summary.ledger, "{} is reported with another ledger than its marker's", assignment.id);
    }
    Ok(())
}

/// Batches leave the store with their window, once that is complete.
fn ended(seen: &mut Seen, key: &str, puts: &BTreeMap<&str, &Bytes>) -> Checked {
    let mut segments = key.rsplitn(3, '/');
    let window = (segments.next(), segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let finish = format!("{}/{}/finish", window.2, window.1);
    let Some(Task::Finish(plan)) = seen.tasks.get(&finish) else {
        return Err(format!("{key} goes without a last step of its window"));
    };
    let job = window.2.rsplit('/').next().unwrap_or_default();
    seen.files.complete(&seen.objects, job, plan)?;
    revisions::told(seen, job, plan, puts)?;
    seen.ended.insert(key.to_owned());
    Ok(())
}
