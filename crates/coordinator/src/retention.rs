//! Retention: removes the windows of a job that are older than it wants to keep, oldest first.
//!
//! Before anything of a window goes, the record of what is gone tells of it (`_commits/_expired/`): a proof goes on from
//! there. Then its `_complete` markers, so that nobody begins to read it; its files; and last its partitions' markers, by
//! which a removal that was stopped is found again. A record has a number and is put only if there is none of that number,
//! so that of two leaders that don't know of each other one decides.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use windrow_ports::meta::{Compare, Op, Txn};
use windrow_protocol::job::LatePolicy;
use windrow_protocol::marker::{Complete, Expired, MARKER_VERSION, Marker};
use windrow_protocol::plan::Part;
use windrow_protocol::state::{BatchRecord, JobRecord, Task, keys};
use windrow_protocol::{PartitionId, Revision, Timestamp, WindowId, paths};

use crate::view::{self, View, encode};
use crate::{Parts, TickError};

/// Windows that one record tells of more than the one before it, and those within a run of empty ones that begins among
/// them. The job may be changed meanwhile.
const MOST: usize = 200;

/// Markers that are read at a time.
const READS: usize = 16;

/// Removes what a job no longer keeps, while it `leads`; how many windows went.
pub async fn expire(parts: &Parts, job: &JobRecord, leads: &Compare) -> Result<u64, TickError> {
    let before = parts.store.expired(&job.name).await?;
    if before.is_none() && job.spec.output.retention.is_none() {
        return Ok(0);
    }
    let is_gone = |window: &WindowId| before.as_ref().is_some_and(|(_, expired)| expired.covers(*window));
    let mut gone = parts.store.windows(&job.name).await?;
    gone.retain(is_gone);
    // Somebody was stopped while removing them.
    if !gone.is_empty() {
        remove(parts, job, leads, gone).await?;
    }
    let Some(retention) = job.spec.output.retention else { return Ok(0) };
    // After what may have taken long, and before the folders: a window that completes between the two is in flight or listed,
    // never neither.
    let plans = plans(parts, job).await?;
    let mut left = parts.store.windows(&job.name).await?;
    left.retain(|window| !is_gone(window));
    let keep = Keep::of(parts, job, retention.micros(), &plans, &left).await?;
    let (number, mut expired) = before.unwrap_or_default();
    expired.version = MARKER_VERSION;
    let mut old = Vec::new();
    for (window, complete) in keep.old(parts, job, retention.micros(), &expired, &left).await? {
        expired.add(&complete, &markers(parts, job, window).await?);
        old.push(window);
    }
    if old.is_empty() || !retire(parts, job, leads, expired.through).await? {
        return Ok(0);
    }
    if !parts.store.expire(&job.name, number + 1, &expired).await? {
        return Ok(0);
    }
    let expired = old.len() as u64;
    remove(parts, job, leads, old).await?;
    Ok(expired)
}

/// What holds while this leader leads and the job is the one that it was; `None` once that is gone, or about to go.
async fn guard(
    parts: &Parts,
    job: &JobRecord,
    leads: &Compare,
) -> Result<Option<(JobRecord, Vec<Compare>)>, TickError> {
    let key = keys::job(&job.name);
    let Some(item) = parts.meta.get(&key).await? else { return Ok(None) };
    let found = serde_json::from_slice::<JobRecord>(&item.value).ok();
    let found = found.filter(|found| found.created_at == job.created_at && !found.deleting);
    Ok(found.map(|found| (found, vec![Compare::Modified(key, item.mod_revision), leads.clone()])))
}

/// Tells whoever changes the job that windows are about to go, if the job is there and keeps its windows for as long as it
/// did: whether they may.
async fn retire(
    parts: &Parts,
    job: &JobRecord,
    leads: &Compare,
    through: Option<Timestamp>,
) -> Result<bool, TickError> {
    let Some((found, when)) = guard(parts, job, leads).await? else { return Ok(false) };
    if found.spec.output != job.spec.output {
        return Ok(false);
    }
    let then = vec![Op::put(keys::retired(&job.name), encode(&through))];
    Ok(parts.meta.txn(Txn { when, then }).await?.applied)
}

/// What a job still has to do.
async fn plans(parts: &Parts, job: &JobRecord) -> Result<View, TickError> {
    let mut listing = view::plans(&*parts.meta, &job.name).await?;
    listing.items.extend(parts.meta.list(&keys::specs(&job.name)).await?.items);
    Ok(View::new(&listing))
}

/// What must be kept whatever its age.
struct Keep {
    /// The newest complete end of each partition of windows of volume; of all partitions, where windows are of time.
    newest: BTreeMap<Option<PartitionId>, Timestamp>,
    /// Windows with a batch in flight.
    in_flight: Vec<WindowId>,
}

impl Keep {
    async fn of(
        parts: &Parts,
        job: &JobRecord,
        retention_us: i64,
        view: &View,
        windows: &[WindowId],
    ) -> Result<Self, TickError> {
        if view.unreadable(&job.name).is_some() {
            // It may be a batch of a newer version.
            return Ok(Self { newest: BTreeMap::new(), in_flight: Vec::new() });
        }
        let in_flight: Vec<WindowId> =
            view.batches.get(&job.name).into_iter().flatten().map(|((window, _), _)| *window).collect();
        let wishes = view.wishes.get(&job.name).into_iter().flatten().map(|(_, wish)| &wish.value);
        let wished = wishes.filter(|wish| !wish.is_done()).map(|wish| wish.next).min();
        // A batch amends by the rule that it was planned with, which may go farther back than the job keeps windows now.
        let farther = |batch: &BatchRecord| {
            let spec = view.specs.get(&(job.name.clone(), batch.task.spec_hash().to_owned()))?;
            let rule = spec.late_rule();
            let amends = rule.policy == LatePolicy::Amend && matches!(batch.task, Task::Map(_));
            Some(if amends { rule.reach.micros().saturating_sub(retention_us).max(0) } else { 0 })
        };
        let flying = view.batches.get(&job.name).into_iter().flatten().filter_map(|((window, _), batch)| {
            let start = window.time()?;
            Some(farther(&batch.value).map_or(Timestamp::MIN, |us| start.plus_micros(-us)))
        });
        // Windows of time that end a retention before this, or later, a batch or a wish is to look at.
        let needed_from = wished.into_iter().chain(flying).min().unwrap_or(Timestamp::MAX);
        let mut newest = BTreeMap::new();
        if job.spec.window.volume().is_some() {
            // By partition and offset: the last of a partition is its newest.
            for window in windows.iter().rev() {
                let of = window.volume().map(|id| id.partition);
                if of.is_some()
                    && !newest.contains_key(&of)
                    && let Some(complete) = complete(parts, job, *window).await?
                {
                    newest.insert(of, ended(&complete));
                }
            }
        } else if let Some(progress) = view.progress.get(&job.name) {
            newest.insert(None, progress.value.finish_planned_through.min(needed_from));
        }
        Ok(Self { newest, in_flight })
    }

    /// The windows that are too old, oldest first, with their newest `_complete` markers: of time from the first on, of
    /// volume from each partition's first on, so that what is left begins where the record says.
    ///
    /// `told`: the record as it is.
    async fn old(
        &self,
        parts: &Parts,
        job: &JobRecord,
        retention_us: i64,
        told: &Expired,
        windows: &[WindowId],
    ) -> Result<Vec<(WindowId, Complete)>, TickError> {
        let now = parts.clock.now();
        let (mut old, mut done) = (Vec::new(), Vec::new());
        // Of windows of time: up to where the record will tell of them, and whether one of them is counted by it.
        let (mut through, mut has_counted) = (told.through, told.windows > 0);
        for window in windows {
            let of = window.volume().map(|id| id.partition);
            let is_within = window.time().is_some_and(|start| Some(start) < through);
            if (old.len() >= MOST && !is_within) || done.contains(&of) {
                continue;
            }
            // What is missing before it would be told of without being counted. Windows from before the job's first one, which
            // have late readings only, are not one after the other.
            if let Some((start, through)) = window.time().zip(through)
                && has_counted
                && start > through
            {
                tracing::warn!(job = %job.name, %through, %start, "windows from there on stay: the markers of those in between are missing");
                break;
            }
            let limit = self.newest.get(&of).map(|newest| now.min(*newest).plus_micros(-retention_us));
            let complete = match limit {
                Some(limit) if !self.in_flight.contains(window) => {
                    complete(parts, job, *window).await?.filter(|it| ended(it) < limit)
                }
                _ => None,
            };
            match complete {
                Some(complete) => {
                    through = through.max(Some(complete.plan.until));
                    has_counted |= complete.plan.windows > 0;
                    old.push((*window, complete));
                }
                None => done.push(of),
            }
        }
        Ok(old)
    }
}

/// When a window was over. One of volume that has lost all its records has no times but that of its commit.
fn ended(complete: &Complete) -> Timestamp {
    if complete.plan.until == Timestamp::MAX { complete.committed_at } else { complete.plan.until }
}

async fn complete(parts: &Parts, job: &JobRecord, window: WindowId) -> Result<Option<Complete>, TickError> {
    Ok(parts.store.newest_marker(&job.name, window, Part::Finish).await?)
}

/// All markers of a window's partitions, by partition and revision.
async fn markers(parts: &Parts, job: &JobRecord, window: WindowId) -> Result<Vec<Marker>, TickError> {
    let listed = parts.store.list(&paths::window_commits(&job.name, window)).await?;
    let names = listed.iter().filter_map(|object| paths::parse_marker(&object.path));
    let mut names: Vec<(Part, Revision)> = names.map(|(_, _, part, revision)| (part, revision)).collect();
    names.retain(|(part, _)| *part != Part::Finish);
    names.sort();
    let read = |(part, revision): (Part, Revision)| async move {
        parts.store.read_marker::<Marker>(&paths::marker(&job.name, window, part, revision)).await
    };
    let found: Vec<Option<Marker>> = futures::stream::iter(names).map(read).buffered(READS).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Removes windows that the record tells of. One of which a revision was planned before anybody knew of the record stays
/// until that has ended: it may be reading what stands. Each is removed only while this leader leads: one that has slept
/// may find windows of another job under the name.
async fn remove(parts: &Parts, job: &JobRecord, leads: &Compare, windows: Vec<WindowId>) -> Result<(), TickError> {
    let view = View::new(&parts.meta.list(&keys::batches(&job.name)).await?);
    let in_flight = view.batches.get(&job.name);
    for window in windows {
        if in_flight.is_some_and(|batches| batches.keys().any(|(other, _)| *other == window)) {
            continue;
        }
        let Some((_, when)) = guard(parts, job, leads).await? else { return Ok(()) };
        if !parts.meta.txn(Txn { when, then: Vec::new() }).await?.applied {
            return Ok(());
        }
        remove_window(parts, job, window).await?;
    }
    Ok(())
}

async fn remove_window(parts: &Parts, job: &JobRecord, window: WindowId) -> Result<(), TickError> {
    let listed = parts.store.list(&paths::window_commits(&job.name, window)).await?;
    let (complete, others): (Vec<String>, Vec<String>) = listed
        .into_iter()
        .map(|object| object.path)
        .partition(|path| paths::parse_marker(path).is_some_and(|(_, _, part, _)| part == Part::Finish));
    parts.store.delete(complete).await?;
    for folder in paths::window_folders(&job.name, window) {
        parts.store.delete_folder(&folder).await?;
    }
    parts.store.delete(others).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
