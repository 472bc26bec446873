//! Turning wishes into work: looks at the markers of windows that are to be run again, decides with
//! `windrow_protocol::revise`, and returns what to write.
//!
//! A window is planned only while it has no batch in the metadata store: its newest revision is then complete, and all
//! its files are published. The batches of a revision are written with the wish that they belong to, on the condition that
//! it is as it was seen, so a leader that dies in between, or is deposed, leaves nothing half done and loses nothing. A
//! window with more partitions than fit a write is planned over several, its last step at the end.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use windrow_ports::log::TopicInfo;
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op};
use windrow_protocol::marker::{Complete, Expired, Marker};
use windrow_protocol::plan::{Part, Plan};
use windrow_protocol::revise::{self, Ground, Known, SpecRef, Wish, WishId};
use windrow_protocol::state::{BatchRecord, BatchState, JobRecord, Task, keys};
use windrow_protocol::window::Calendar;
use windrow_protocol::{JobName, JobSpec, Offset, PartitionId, Revision, Timestamp, Window, WindowId, paths};
use windrow_storage::{Store, StoreError};

use crate::planner::Write;
use crate::view::{Versioned, View, encode};
use crate::{Parts, TickError};

/// Windows of a job that are run again at a time.
const MOST_IN_FLIGHT: usize = 16;

/// Parked windows beside which others are run again.
const MOST_PARKED: usize = 1_000;

/// Markers that are read at a time.
const READS: usize = 16;

/// Conditions and operations of one write, leaving room for the wish, the leader's own condition and the job's.
const MOST_OPS: usize = MAX_TXN_OPS - 8;

/// Windows that are looked at in one step without becoming work.
const MOST_PASSED: usize = 64;

/// A job's wishes, and what decides whether they can become work.
#[derive(Debug, Default)]
pub struct Wishes {
    all: BTreeMap<WishId, Versioned<Wish>>,
    flying: BTreeMap<WindowId, Flying>,
    specs: BTreeMap<String, JobSpec>,
    /// Windows that end by this have their last step planned, or done.
    through: Timestamp,
}

/// A window with batches in the metadata store.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Flying {
    parts: BTreeSet<Part>,
    /// The wish that it is run again for.
    cause: Option<WishId>,
    revision: Revision,
    /// Whether one of its batches has failed and waits for somebody.
    parked: bool,
}

impl Wishes {
    /// What a view shows of a job. Nothing is looked for while there is no wish.
    pub fn of(view: &View, job: &JobName) -> Self {
        let all = view.wishes.get(job).cloned().unwrap_or_default();
        if all.is_empty() {
            return Self::default();
        }
        let mut flying: BTreeMap<WindowId, Flying> = BTreeMap::new();
        for ((window, part), batch) in view.batches.get(job).into_iter().flatten() {
            let window = flying.entry(*window).or_default();
            window.parts.insert(*part);
            window.parked |= batch.value.state == BatchState::Failed;
            window.revision = window.revision.max(batch.value.id.revision);
            if let Task::Map(plan) = &batch.value.task
                && let Some(revises) = &plan.revises
            {
                window.cause = Some(revises.cause.clone());
            }
        }
        let specs = view.specs.iter().filter(|((of, _), _)| of == job);
        let specs = specs.map(|((_, hash), spec)| (hash.clone(), spec.clone())).collect();
        let through = view.progress.get(job).map(|progress| progress.value.finish_planned_through).unwrap_or_default();
        Self { all, flying, specs, through }
    }

    /// Windows that may be run again beside those that are: parked ones take no worker, and hold back few.
    fn room(&self) -> usize {
        let again = self.flying.values().filter(|window| window.revision > Revision::default());
        let (parked, others): (Vec<_>, Vec<_>) = again.partition(|window| window.parked);
        MOST_IN_FLIGHT.saturating_sub(others.len()).min(MOST_PARKED.saturating_sub(parked.len()))
    }
}

/// A job whose wishes are turned into work.
pub struct Revising<'a> {
    pub parts: &'a Parts,
    pub job: &'a JobRecord,
    pub calendar: &'a Calendar,
    pub topic: &'a TopicInfo,
    pub wishes: &'a Wishes,
}

/// What a step may still do.
struct Step {
    /// Windows that may become work.
    room: usize,
    /// Those that do by this step, and those that are in flight: no other wish may take them up.
    taken: BTreeSet<WindowId>,
    /// First offsets that the log has, once they are needed.
    log_starts: Option<BTreeMap<PartitionId, Offset>>,
    /// Windows with markers, once they are needed.
    with_markers: Option<BTreeSet<WindowId>>,
    /// What is known of windows that are gone, once it is needed.
    expired: Option<Expired>,
}

impl Revising<'_> {
    /// What of the wishes becomes work now: one write for each wish that goes on.
    pub async fn step(&self) -> Vec<Write> {
        let mut step = Step {
            room: self.wishes.room(),
            taken: self.wishes.flying.keys().copied().collect(),
            log_starts: None,
            with_markers: None,
            expired: None,
        };
        let mut writes = Vec::new();
        for (id, wish) in &self.wishes.all {
            if wish.value.paused || wish.value.is_done() {
                continue;
            }
            match self.go_on(id, wish, &mut step).await {
                Ok(write) => writes.extend(write),
                // Other wishes need not want what this one does.
                Err(error) => {
                    let job = &self.job.name;
                    tracing::warn!(%job, wish = %id, %error, "windows could not be planned to be run again now");
                }
            }
        }
        writes
    }

    /// The write that brings a wish on as far as it can go now.
    async fn go_on(&self, id: &WishId, seen: &Versioned<Wish>, step: &mut Step) -> Result<Option<Write>, TickError> {
        let (mut wish, mut write) = (seen.value.clone(), Write::default());
        for _ in 0..MOST_PASSED {
            // What does not fit is left to the next step, or to another wish.
            if is_full(&write) {
                break;
            }
            let Some(window) = self.next(id, &mut wish, step).await? else { break };
            let begun = self.begun(id, window);
            if window.end > self.wishes.through || (step.taken.contains(&window.id()) && begun.is_none()) {
                break;
            }
            if begun.is_none() && step.room == 0 {
                break;
            }
            let (batches, refused) = match self.batches(id, &wish, window, step).await {
                // A window whose markers are damaged or gone keeps no other from being run again.
                Err(TickError::Store(error @ (StoreError::NotFound(_) | StoreError::Broken(_)))) if begun.is_none() => {
                    (Vec::new(), Some((format!("its result is damaged: {error}"), 0)))
                }
                found => found?,
            };
            // A window that is planned in part must be planned whole; its workers carry on what they can't compute.
            if let Some((reason, lost)) = refused
                && begun.is_none()
            {
                tracing::error!(job = %self.job.name, wish = %id, window = %window.id(), reason, "the window keeps its result");
                wish.refuse(window, reason, lost);
                continue;
            }
            let planned = !batches.is_empty();
            let missing =
                batches.into_iter().filter(|batch| !begun.is_some_and(|begun| begun.parts.contains(&batch.id.part)));
            let mut left = missing.peekable();
            while !is_full(&write)
                && let Some(batch) = left.next()
            {
                add(&mut write, &batch);
            }
            if planned && begun.is_none() {
                step.room -= 1;
                step.taken.insert(window.id());
            }
            if left.peek().is_some() {
                break;
            }
            wish.pass(window.end, planned);
        }
        if wish == seen.value && write.then.is_empty() {
            return Ok(None);
        }
        let key = keys::wish(&self.job.name, id);
        write.when.push(Compare::Modified(key.clone(), seen.revision));
        // What is done with is gone; but who asked for a backfill wants to see how it went.
        write.then.push(match id {
            WishId::Late(_) if wish.is_done() => Op::Delete { key },
            _ => Op::put(key, encode(&wish)),
        });
        Ok(Some(write))
    }

    /// A window that this wish has begun to plan: some of its batches are written, its last step is not.
    fn begun(&self, id: &WishId, window: Window) -> Option<&Flying> {
        let flying = self.wishes.flying.get(&window.id())?;
        (flying.cause.as_ref() == Some(id) && !flying.parts.contains(&Part::Finish)).then_some(flying)
    }

    /// The next window of a wish. A backfill passes over windows that have neither markers nor batches: they lie within
    /// runs of empty ones.
    async fn next(&self, id: &WishId, wish: &mut Wish, step: &mut Step) -> Result<Option<Window>, TickError> {
        if matches!(id, WishId::Late(_)) {
            return Ok(wish.next_window(self.calendar));
        }
        let Some(until) = wish.spans.last().map(|span| span.until) else { return Ok(None) };
        if step.with_markers.is_none() {
            step.with_markers = Some(self.parts.store.windows(&self.job.name).await?.into_iter().collect());
        }
        let range = WindowId::Time(wish.next)..WindowId::Time(until.max(wish.next));
        let with_markers = step.with_markers.as_ref().and_then(|windows| windows.range(range.clone()).next());
        let flying = self.wishes.flying.range(range).map(|(window, _)| window).next();
        match with_markers.into_iter().chain(flying).min() {
            Some(WindowId::Time(start)) => Ok(Some(self.calendar.window_from(*start))),
            Some(WindowId::Volume(_)) | None => {
                wish.pass(until, false);
                Ok(None)
            }
        }
    }

    /// The batches of a window's next revision; and why there should be none, if so, and how many offsets are lost for it.
    async fn batches(
        &self,
        id: &WishId,
        wish: &Wish,
        window: Window,
        step: &mut Step,
    ) -> Result<(Vec<BatchRecord>, Option<(String, u64)>), TickError> {
        let expired = match &mut step.expired {
            Some(expired) => expired,
            none => {
                let found = self.parts.store.expired(&self.job.name).await?;
                none.insert(found.map(|(_, expired)| expired).unwrap_or_default())
            }
        };
        if expired.covers(window.id()) {
            return Ok((Vec::new(), Some(("its retention has ended".to_owned(), 0))));
        }
        let known = known(&self.parts.store, &self.job.name, window.id(), wish).await?;
        let spec = &self.job.spec;
        let rules = self.wishes.specs.iter().map(|(hash, spec)| (hash.clone(), spec.late_rule())).collect();
        let ground = Ground {
            job: &self.job.name,
            topic: &spec.source.topic,
            topic_id: &self.topic.id,
            partitions: (0..self.topic.partitions).map(PartitionId).collect(),
            spec: SpecRef { hash: spec.hash(), generation: self.job.generation },
            late: spec.late_rule(),
            shift: self.calendar.shift_name(window).map(str::to_owned),
            rules: &rules,
        };
        let batches = revise::revise(id, wish, window, &known, &ground);
        if matches!(id, WishId::Late(_)) || batches.is_empty() {
            return Ok((batches, None));
        }
        let has_reduce = |hash: &str| self.wishes.specs.get(hash).map(|spec| spec.reduce.is_some());
        if let Some(refused) = refusal(wish, &known, has_reduce) {
            return Ok((batches, Some((refused, 0))));
        }
        let log_starts = match &mut step.log_starts {
            Some(known) => known,
            none => none.insert(self.log_starts().await?),
        };
        let maps = batches.iter().filter_map(|batch| match &batch.task {
            Task::Map(plan) => Some(plan),
            Task::Finish(_) => None,
        });
        let dropped = dropped(maps, log_starts);
        Ok((batches, dropped))
    }

    async fn log_starts(&self) -> Result<BTreeMap<PartitionId, Offset>, TickError> {
        let partitions: Vec<PartitionId> = (0..self.topic.partitions).map(PartitionId).collect();
        let bounds = self.parts.log.bounds(&self.job.spec.source.topic, &partitions).await?;
        partitions.into_iter().zip(bounds).map(|(partition, bounds)| Ok((partition, bounds?.log_start))).collect()
    }
}

/// Whether no batch more fits a write.
fn is_full(write: &Write) -> bool {
    write.then.len() >= MOST_OPS || write.is_large()
}

/// Adds a new batch to a write.
fn add(write: &mut Write, batch: &BatchRecord) {
    let key = keys::batch(&batch.id.job, batch.id.window, batch.id.part);
    write.when.push(Compare::Absent(key.clone()));
    write.then.push(Op::put(key, encode(batch)));
}

/// Why a backfill can't run a window again, if it can't: it would replace what the job has computed by a later change of it
/// meanwhile; or a result that moves to another dataset would leave its old files standing where readers look.
/// `has_reduce`: of a spec by its hash.
pub fn refusal(wish: &Wish, known: &Known, has_reduce: impl Fn(&str) -> Option<bool>) -> Option<String> {
    let spec = wish.spec.as_ref()?;
    let partitions = known.markers.values().map(|marker| (marker.plan.generation, &marker.plan.spec_hash));
    let last = known.complete.iter().map(|complete| (complete.plan.generation, &complete.plan.spec_hash));
    let other =
        partitions.chain(last).filter(|(generation, hash)| *generation > spec.generation && **hash != spec.hash);
    if let Some((newer, _)) = other.max() {
        return Some(format!(
            "it was computed by generation {newer} of the job, and this backfill is of generation {}",
            spec.generation
        ));
    }
    let wanted = has_reduce(&spec.hash)?;
    let moved = known.markers.values().any(|marker| has_reduce(&marker.plan.spec_hash) != Some(wanted));
    moved.then(|| {
        let what = if wanted {
            "without a reduce, and the job now has one"
        } else {
            "with a reduce, and the job now has none"
        };
        format!("it was computed {what}: its files would be of another dataset; apply the changed job as a new one")
    })
}

/// Why these plans can't be run, if the log has dropped some of what they read, and how many offsets.
pub fn dropped<'a>(
    plans: impl IntoIterator<Item = &'a Plan>,
    log_starts: &BTreeMap<PartitionId, Offset>,
) -> Option<(String, u64)> {
    plans.into_iter().find_map(|plan| {
        let lost = log_starts.get(&plan.partition).and_then(|start| revise::lost(plan, *start))?;
        Some((format!("the log has dropped offsets {lost} of partition {}", plan.partition), lost.len()))
    })
}

/// What decides a window's next revision. The window has no batch in flight.
pub async fn known(store: &Store, job: &JobName, window: WindowId, wish: &Wish) -> Result<Known, StoreError> {
    let listed = store.list(&paths::window_commits(job, window)).await?;
    let newest = paths::newest(listed.iter().map(|object| object.path.as_str()));
    let Some(revision) = newest.get(&Part::Finish) else {
        // Within a run of empty windows there is none.
        let damaged = newest.keys().next().map(|part| {
            format!("{job}/{window}: partition {part} has a marker, but nothing says that the window was complete")
        });
        return damaged.map_or(Ok(Known::default()), |what| Err(StoreError::NotFound(what)));
    };
    let path = paths::marker(job, window, Part::Finish, *revision);
    let there = |found: Option<Complete>| found.ok_or_else(|| StoreError::NotFound(path.clone()));
    let complete = there(store.read_marker::<Complete>(&path).await?)?;
    let mut wanted = revise::partitions(wish, Some(&complete));
    wanted.retain(|partition| complete.plan.partitions.contains(partition));
    if wanted.is_empty() {
        // One tells the spec of all.
        wanted.extend(complete.plan.partitions.first());
    }
    let read = |partition: PartitionId| {
        let path = paths::marker(job, window, Part::Partition(partition), complete.plan.revision_of(partition));
        async move {
            let marker = store.read_marker::<Marker>(&path).await?.ok_or(StoreError::NotFound(path))?;
            Ok::<_, StoreError>((partition, marker))
        }
    };
    let markers = futures::stream::iter(wanted).map(read).buffered(READS).try_collect().await?;
    Ok(Known { complete: Some(complete), markers })
}

#[cfg(test)]
mod tests;
