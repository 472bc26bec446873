//! Which windows are sealed on all partitions, and what their last step joins. Pure.

use std::collections::{BTreeMap, BTreeSet};

use windrow_ports::log::TopicInfo;
use windrow_ports::meta::{Compare, Op};
use windrow_protocol::plan::{BatchId, FinishPlan, Part};
use windrow_protocol::revise::SpecRef;
use windrow_protocol::state::{BatchRecord, JobRecord, Progress, Task, keys};
use windrow_protocol::window::Calendar;
use windrow_protocol::{PartitionId, Revision, Timestamp, TopicId, TopicName, Window, WindowId};

use crate::planner::Write;
use crate::view::{View, encode};

/// Last steps that are planned at a time.
const MOST: usize = 40;

/// Windows in flight that began with another spec than the job's now, with that one.
pub fn pinned(view: &View, job: &JobRecord) -> BTreeMap<WindowId, SpecRef> {
    let now = job.spec.hash();
    let batches = view.batches.get(&job.name).into_iter().flatten();
    let others = batches.filter_map(|((window, _), batch)| match &batch.value.task {
        Task::Map(plan) if plan.spec_hash != now => {
            let spec = SpecRef { hash: plan.spec_hash.clone(), generation: plan.generation };
            Some((*window, spec))
        }
        _ => None,
    });
    others.collect()
}

/// The write that plans a job's next last steps, or its first progress; empty when there is nothing to plan.
pub fn step(view: &View, job: &JobRecord, calendar: &Calendar, topic: &TopicInfo) -> Write {
    let mut write = Write::default();
    // A window of volume has its last step planned with the commit of its only batch.
    if job.spec.window.volume().is_some() {
        return write;
    }
    let Some(cursors) = view.cursors.get(&job.name).filter(|cursors| cursors.len() as i32 == topic.partitions) else {
        return write;
    };
    let Some(through) = cursors.values().map(|cursor| cursor.value.sealed_through).min() else { return write };
    let none = BTreeMap::new();
    let batches = view.batches.get(&job.name).unwrap_or(&none);
    let progress_key = keys::progress(&job.name);
    let Some(progress) = view.progress.get(&job.name) else {
        let first_batch = batches.keys().filter_map(|(window, _)| window.time()).min();
        let origin = first_batch.map_or(through, |first| first.min(through));
        let progress = Progress { origin, finish_planned_through: origin, windows_complete: 0 };
        write.when.push(Compare::Absent(progress_key.clone()));
        write.then.push(Op::put(progress_key, encode(&progress)));
        return write;
    };
    let sealed = Sealed {
        calendar,
        topic: job.spec.source.topic.clone(),
        topic_id: topic.id.clone(),
        spec_hash: job.spec.hash(),
        generation: job.generation,
        from: progress.value.finish_planned_through,
        through,
        partitions: cursors.keys().copied().collect(),
        batches: by_window(batches.keys()),
    };
    let (plans, mut through) = plan(&sealed);
    if plans.is_empty() {
        return write;
    }
    let pinned = pinned(view, job);
    for mut plan in plans {
        // A plan names every partition, and etcd takes 1.5 MiB a request.
        if write.is_large() {
            through = plan.window.start;
            break;
        }
        if let Some(spec) = pinned.get(&plan.window.id()) {
            (plan.spec_hash, plan.generation) = (spec.hash.clone(), spec.generation);
        }
        let id =
            BatchId { job: job.name.clone(), window: plan.window.id(), part: Part::Finish, revision: plan.revision };
        let key = keys::batch(&job.name, id.window, id.part);
        let task = Task::Finish(plan);
        let record = BatchRecord::new(id, task);
        write.when.push(Compare::Absent(key.clone()));
        write.then.push(Op::put(key, encode(&record)));
    }
    let next = Progress { finish_planned_through: through, ..progress.value.clone() };
    write.when.push(Compare::Modified(progress_key.clone(), progress.revision));
    write.then.push(Op::put(progress_key, encode(&next)));
    write
}

/// What a job's last steps are planned from.
#[derive(Debug)]
pub struct Sealed<'a> {
    pub calendar: &'a Calendar,
    pub topic: TopicName,
    pub topic_id: TopicId,
    pub spec_hash: String,
    pub generation: u64,
    /// Windows before this have their last step already.
    pub from: Timestamp,
    /// Windows that end by this are sealed on all partitions.
    pub through: Timestamp,
    pub partitions: BTreeSet<PartitionId>,
    /// Windows with the partitions that have a batch in them.
    pub batches: BTreeMap<WindowId, BTreeSet<PartitionId>>,
}

/// The next last steps in order, and up to where windows then have one. A run of windows in which no partition has a
/// batch is one step.
pub fn plan(sealed: &Sealed<'_>) -> (Vec<FinishPlan>, Timestamp) {
    let mut plans = Vec::new();
    let mut at = sealed.from;
    let until = WindowId::Time(sealed.through.max(sealed.from));
    let within = sealed.batches.range(WindowId::Time(sealed.from)..until);
    for (window, with_batch) in within {
        if plans.len() >= MOST {
            return (plans, at);
        }
        let Some(start) = window.time() else { continue };
        if at < start {
            plans.push(empty_run(sealed, at, start));
        }
        let window = sealed.calendar.window_from(start);
        plans.push(last_step(sealed, window, window.end, 1, with_batch));
        at = window.end;
    }
    if at < sealed.through {
        plans.push(empty_run(sealed, at, sealed.through));
        at = sealed.through;
    }
    (plans, at)
}

fn empty_run(sealed: &Sealed<'_>, from: Timestamp, until: Timestamp) -> FinishPlan {
    let windows = sealed.calendar.count(from, until);
    last_step(sealed, sealed.calendar.window_from(from), until, windows, &BTreeSet::new())
}

fn last_step(
    sealed: &Sealed<'_>,
    window: Window,
    until: Timestamp,
    windows: u64,
    with_batch: &BTreeSet<PartitionId>,
) -> FinishPlan {
    FinishPlan {
        topic: sealed.topic.clone(),
        topic_id: sealed.topic_id.clone(),
        window,
        until,
        windows,
        shift: sealed.calendar.shift_name(window).map(str::to_owned),
        partitions: with_batch.iter().copied().collect(),
        empty: sealed.partitions.difference(with_batch).copied().collect(),
        revision: Revision(0),
        revisions: BTreeMap::new(),
        spec_hash: sealed.spec_hash.clone(),
        generation: sealed.generation,
    }
}

/// The windows that have batches, with their partitions.
pub fn by_window<'a>(parts: impl Iterator<Item = &'a (WindowId, Part)>) -> BTreeMap<WindowId, BTreeSet<PartitionId>> {
    let mut windows: BTreeMap<WindowId, BTreeSet<PartitionId>> = BTreeMap::new();
    for (window, part) in parts {
        if let Part::Partition(partition) = part {
            windows.entry(*window).or_default().insert(*partition);
        }
    }
    windows
}

#[cfg(test)]
mod tests;
