//! What the leader does with batches: takes in what workers report, takes back what dead workers had, and hands out what
//! waits, first results before revisions. No I/O: a view in, one guarded write out, of as many steps as fit. The caller
//! repeats until nothing is left.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op};
use windrow_protocol::plan::{FinishPlan, Part};
use windrow_protocol::revise::WishId;
use windrow_protocol::state::{Assignment, BatchRecord, BatchState, Outcome, Progress, Task, Wish, WorkerRecord, keys};
use windrow_protocol::{JobName, Revision, Timestamp, WorkerId};

use crate::planner::Write;
use crate::scheduler::{Queue, Turns, Waiting};
use crate::view::{Versioned, View, encode};
use crate::{outcomes, scheduler};

pub(crate) mod volume;
use volume::Ended;

/// Conditions and operations of one write, leaving room for the leader's own condition.
const MOST: usize = MAX_TXN_OPS - 8;

/// The write that takes in reports and takes back what is lost; empty when there is nothing to do.
pub fn settle(view: &View, now: Timestamp) -> Write {
    let mut settling = Settling { view, write: Write::default(), progress: BTreeMap::new() };
    for (key, assignment) in &view.assignments {
        if settling.is_full() {
            break;
        }
        // What is reported of a job that can't be judged now stays until it can.
        if let Some(outcome) = &assignment.value.outcome
            && view.unreadable(&assignment.value.id.job).is_none()
        {
            settling.report(key, assignment, outcome, now);
        }
    }
    settling.take_back(now);
    settling.finish()
}

struct Settling<'a> {
    view: &'a View,
    write: Write,
    /// Windows that are complete by this write.
    progress: BTreeMap<JobName, u64>,
}

impl Settling<'_> {
    /// A report has up to four conditions and as many operations, and each job's progress is one more of both; what does not
    /// fit what is left is within the room that `MOST` keeps.
    fn is_full(&self) -> bool {
        let used = self.write.when.len().max(self.write.then.len());
        used + self.progress.len() + 4 > MOST || self.write.is_large()
    }

    fn report(&mut self, key: &str, assignment: &Versioned<Assignment>, outcome: &Outcome, now: Timestamp) {
        self.write.when.push(Compare::Modified(key.to_owned(), assignment.revision));
        self.write.then.push(Op::Delete { key: key.to_owned() });
        let id = &assignment.value.id;
        let Some(batch) = self.view.batches.get(&id.job).and_then(|batches| batches.get(&(id.window, id.part))) else {
            return;
        };
        // The batch may be another one's by now: taken back and given away, or of a job that was made anew.
        let theirs = |worker: &WorkerId| keys::assignment(worker, id) == key;
        if !matches!(&batch.value.state, BatchState::Assigned { worker } if theirs(worker))
            || batch.value.task != assignment.value.task
        {
            return;
        }
        let after = outcomes::after(&batch.value, outcome, assignment.value.spec.max_attempts, now);
        let key = keys::batch(&id.job, id.window, id.part);
        self.write.when.push(Compare::Modified(key.clone(), batch.revision));
        match (&after.task, &after.state) {
            // A finished window leaves the store: its history is in the markers.
            (Task::Finish(plan), BatchState::Committed(_)) => {
                // What is run again has been counted before, and what met late readings has said so before.
                let is_first = plan.revision == Revision::default();
                *self.progress.entry(id.job.clone()).or_default() += if is_first { plan.windows } else { 0 };
                let prefix = format!("{}{}/", keys::batches(&id.job), id.window);
                self.write.then.push(Op::DeletePrefix { prefix });
                if is_first {
                    self.wish(&id.job, plan, now);
                }
            }
            _ => self.put(key, &after),
        }
        self.end_volume(&after);
    }

    /// Where a window of volume ends is known once it is committed: there the partition's next one begins, and its own last
    /// step can be planned. In the write that commits it, so that no window is ever without one or has two.
    fn end_volume(&mut self, batch: &BatchRecord) {
        let Some(Ended { partition, cursor, revision, last_step }) = volume::ended(self.view, batch) else { return };
        let (cursor_key, id) = (keys::cursor(&batch.id.job, partition), &last_step.id);
        self.write.when.push(Compare::Modified(cursor_key.clone(), revision));
        self.write.then.push(Op::put(cursor_key, encode(&cursor)));
        let key = keys::batch(&id.job, id.window, id.part);
        self.write.when.push(Compare::Absent(key.clone()));
        self.put(key, &last_step);
    }

    /// The wish that amends what a window's batches have met late. It is written with what takes their reports away, so
    /// that neither is without the other.
    fn wish(&mut self, job: &JobName, plan: &FinishPlan, now: Timestamp) {
        let window = plan.window.id();
        let batches = self.view.batches.get(job).into_iter().flatten();
        let met = batches.filter_map(|((of, part), batch)| match (part, &batch.value.state) {
            (Part::Partition(partition), BatchState::Committed(summary)) if *of == window => {
                Some((*partition, summary.amends.as_ref()?))
            }
            _ => None,
        });
        if let Some(wish) = Wish::of_late(met, now) {
            self.write.then.push(Op::put(keys::wish(job, &WishId::Late(window)), encode(&wish)));
        }
    }

    /// Batches that are said to be with a worker, but whose assignment went with the worker's lease.
    fn take_back(&mut self, now: Timestamp) {
        for (job, queue) in &self.view.queues {
            for at in &queue.assigned {
                let Some(batch) = self.view.batches.get(job).and_then(|batches| batches.get(at)) else { continue };
                let BatchState::Assigned { worker } = &batch.value.state else { continue };
                if self.is_full() {
                    return;
                }
                if !self.view.is_assigned(&keys::assignment(worker, &batch.value.id)) {
                    let spec = self.view.specs.get(&(job.clone(), batch.value.task.spec_hash().to_owned()));
                    let back = outcomes::lost(&batch.value, worker, spec.map_or(1, |spec| spec.max_attempts), now);
                    let key = keys::batch(job, at.0, at.1);
                    self.write.when.push(Compare::Modified(key.clone(), batch.revision));
                    self.put(key, &back);
                }
            }
        }
    }

    fn put(&mut self, key: String, batch: &BatchRecord) {
        self.write.then.push(Op::put(key, encode(batch)));
    }

    fn finish(mut self) -> Write {
        for (job, windows) in self.progress {
            // Without progress the job is being removed, and its windows count no more.
            let Some(progress) = self.view.progress.get(&job) else { continue };
            let windows_complete = progress.value.windows_complete + windows;
            let next = Progress { windows_complete, ..progress.value.clone() };
            let key = keys::progress(&job);
            self.write.when.push(Compare::Modified(key.clone(), progress.revision));
            self.write.then.push(Op::put(key, encode(&next)));
        }
        self.write
    }
}

/// Batches beyond the room that are looked at for one whose home has some.
const AHEAD: u32 = 256;

/// The write that hands out what waits to workers that have room; empty when nothing waits or nobody has room.
pub fn assign(view: &View, turns: &mut Turns, now: Timestamp) -> Write {
    turns.keep(|job| view.jobs.contains_key(job));
    let mut free = free_slots(view);
    let room: u32 = free.values().sum();
    let mut write = Write::default();
    let mut running: BTreeMap<&JobName, usize> = BTreeMap::new();
    for assignment in view.assignments.values() {
        *running.entry(&assignment.value.id.job).or_default() += 1;
    }
    let waiting = |again: bool, room: u32| {
        let of = |(job, _): (&JobName, _)| {
            let (mut first, mut n) = (None, 0);
            let ahead = if room > 0 { AHEAD } else { 0 };
            // Of the oldest window more than there is room for: one of them may have its home where there is some.
            let ready = runnable(view, job, again, now).take_while(|batch| {
                let is_first = *first.get_or_insert(batch.value.id.window) == batch.value.id.window;
                n += 1;
                n <= room || (is_first && n <= room.saturating_add(ahead))
            });
            let waiting = ready.map(|batch| Waiting { batch, home: home(view, &batch.value.task) }).collect();
            Queue { running: running.get(job).copied().unwrap_or(0), waiting }
        };
        let mut jobs: Vec<_> = view.running().collect();
        jobs.sort_by_key(|(job, _)| turns.of(job));
        jobs.into_iter().map(of).collect::<Vec<Queue<_>>>()
    };
    let first = scheduler::solve(scheduler::Problem { free: free.clone(), queues: waiting(false, room) });
    // What is run again takes the room that first results leave.
    for (_, worker) in &first {
        free.entry(worker.clone()).and_modify(|slots| *slots -= 1);
    }
    let queues = waiting(true, free.values().sum());
    let again = scheduler::solve(scheduler::Problem { free, queues });
    let mut given = Vec::new();
    for (batch, worker) in first.into_iter().chain(again) {
        if write.when.len() + 3 > MOST || write.is_large() {
            break;
        }
        let Some(holder) = view.workers.get(&worker) else { continue };
        hand(view, batch, &holder.value, holder.revision, &mut write);
        given.push(&batch.value.id.job);
    }
    given.into_iter().for_each(|job| turns.took(job));
    write
}

/// The worker that reads a partition: always the same one, while the workers are the same (rendezvous hashing), so that
/// what its windows have in common, and what a log sends behind a window, is read once.
fn home(view: &View, task: &Task) -> Option<WorkerId> {
    let Task::Map(plan) = task else { return None };
    let weight = |worker: &&WorkerId| {
        let mut hasher = std::hash::DefaultHasher::new();
        (worker, &plan.topic_id, plan.partition).hash(&mut hasher);
        hasher.finish()
    };
    if plan.read.is_empty() {
        return None;
    }
    let ready = view.workers.iter().filter(|(_, worker)| !worker.value.draining).map(|(worker, _)| worker);
    ready.max_by_key(weight).cloned()
}

fn free_slots(view: &View) -> BTreeMap<WorkerId, u32> {
    let ready = view.workers.iter().filter(|(_, worker)| !worker.value.draining);
    let mut free: BTreeMap<WorkerId, u32> = ready.map(|(id, worker)| (id.clone(), worker.value.slots)).collect();
    for key in view.assigned() {
        let worker = key.strip_prefix(keys::ASSIGNMENTS).and_then(|rest| rest.split('/').next());
        if let Some(slots) = worker.and_then(|id| WorkerId::new(id).ok()).and_then(|id| free.get_mut(&id)) {
            *slots = slots.saturating_sub(1);
        }
    }
    free
}

/// A job's batches that may run now, oldest window first: a last step only after its window's other batches. `again`: of
/// revisions, or else of first results.
fn runnable<'v>(
    view: &'v View,
    job: &JobName,
    again: bool,
    now: Timestamp,
) -> impl Iterator<Item = &'v Versioned<BatchRecord>> + use<'v> {
    let (queue, batches) = (view.queues.get(job), view.batches.get(job));
    queue.into_iter().zip(batches).flat_map(move |(queue, batches)| {
        let ready =
            queue.pending.iter().filter(|(window, part)| *part != Part::Finish || !queue.open.contains_key(window));
        let found = ready.filter_map(|at| batches.get(at));
        let found = found.filter(move |batch| (batch.value.id.revision != Revision::default()) == again);
        let found = found.filter(|batch| !batch.value.waits_for_readings());
        found.filter(move |batch| batch.value.not_before.is_none_or(|not_before| not_before <= now))
    })
}

/// Adds an assignment to a write.
fn hand(view: &View, batch: &Versioned<BatchRecord>, worker: &WorkerRecord, revision: i64, write: &mut Write) {
    let record = &batch.value;
    let Some(spec) = view.specs.get(&(record.id.job.clone(), record.task.spec_hash().to_owned())) else {
        tracing::error!(batch = %record.id, "the spec that the batch was planned with is not stored");
        return;
    };
    // How long it may take says nothing of what it comes to: the job as it is now decides, also over what was planned before.
    let mut spec = spec.clone();
    if let Some(job) = view.jobs.get(&record.id.job) {
        spec.attempt_timeout = job.value.spec.attempt_timeout;
    }
    let assignment =
        Assignment { id: record.id.clone(), task: record.task.clone(), spec, skip: record.skip.clone(), outcome: None };
    let assigned = BatchRecord { state: BatchState::Assigned { worker: worker.id.clone() }, ..record.clone() };
    let key = keys::batch(&record.id.job, record.id.window, record.id.part);
    let assignment_key = keys::assignment(&worker.id, &record.id);
    // The worker still has one of this name, of a job that was deleted and made anew: it goes with that one's end.
    if view.is_assigned(&assignment_key) {
        return;
    }
    write.when.extend([
        Compare::Modified(key.clone(), batch.revision),
        Compare::Modified(keys::worker(&worker.id), revision),
        Compare::Absent(assignment_key.clone()),
    ]);
    write.then.push(Op::put(key, encode(&assigned)));
    write.then.push(Op::Put { key: assignment_key, value: encode(&assignment).into(), lease: worker.lease });
}

#[cfg(test)]
mod homes;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod turns;
