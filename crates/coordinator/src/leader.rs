//! Campaigning, and the leader's tick.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use windrow_ports::lease::HeldLease;
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op, Txn};
use windrow_ports::{LogError, MetaError};
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::state::{
    Assignment, BatchRecord, BatchState, JobRecord, LeaderRecord, Progress, ROOT, Task, keys,
};
use windrow_protocol::{JobName, WindowId};

use crate::planner::{Planner, Silence, Write};
use crate::view::{Versioned, View, encode};
use crate::{Parts, Settings, TickError, finishing, outcomes, scheduler};

/// Runs until shutdown: campaigns, leads, and campaigns again when leadership is lost.
pub async fn run(parts: Parts, settings: Settings, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = campaign_and_lead(&parts, &settings, &shutdown) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "campaigning again");
                }
                parts.clock.sleep(settings.tick).await;
            }
        }
    }
}

async fn campaign_and_lead(parts: &Parts, settings: &Settings, shutdown: &CancellationToken) -> Result<(), TickError> {
    let current = parts.meta.get(keys::LEADER).await?;
    if let Some(leader) = current {
        // Somebody leads: wait until the key goes, or the watch ends for another reason.
        let mut watch = parts.meta.watch(keys::LEADER, leader.mod_revision + 1);
        watch.next().await;
        return Ok(());
    }
    let lease = HeldLease::acquire(parts.meta.clone(), parts.clock.clone(), settings.lease_ttl).await?;
    let record = LeaderRecord { id: settings.id.clone(), address: String::new() };
    let put = Op::Put { key: keys::LEADER.to_owned(), value: encode(&record).into(), lease: lease.id() };
    let won = parts.meta.txn(Txn { when: vec![Compare::Absent(keys::LEADER.to_owned())], then: vec![put] }).await?;
    if !won.applied {
        return Ok(lease.revoke().await?);
    }
    tracing::info!(id = settings.id, "leading");
    let mut leader = Leader { parts, settings, term: won.revision, silence: Silence::default() };
    let result = tokio::select! {
        () = lease.lost() => Err(TickError::NotLeading),
        () = shutdown.cancelled() => Ok(()),
        result = leader.lead() => result,
    };
    // The next leader need not wait for the lease to expire; if this fails, it expires.
    let _ = lease.revoke().await;
    result
}

struct Leader<'a> {
    parts: &'a Parts,
    settings: &'a Settings,
    /// Create revision of this leader's key: what all its writes compare.
    term: i64,
    silence: Silence,
}

impl Leader<'_> {
    async fn lead(&mut self) -> Result<(), TickError> {
        loop {
            match self.tick().await {
                Ok(()) => {}
                Err(TickError::NotLeading) => return Err(TickError::NotLeading),
                Err(error) => tracing::warn!(%error, "tick failed; trying again"),
            }
            self.parts.clock.sleep(self.settings.tick).await;
        }
    }

    async fn tick(&mut self) -> Result<(), TickError> {
        let view = self.view().await?;
        self.settle(&view).await?;
        for job in view.jobs.values() {
            let job = &job.value;
            if job.deleting {
                self.remove(job).await?;
            } else if job.paused.is_none() {
                // One job's trouble must not keep the others waiting.
                if let Err(error) = self.plan(job).await {
                    match error {
                        TickError::NotLeading => return Err(error),
                        error => tracing::warn!(job = %job.name, %error, "job could not be planned now"),
                    }
                }
            }
        }
        let view = self.view().await?;
        self.schedule(&view).await
    }

    async fn view(&self) -> Result<View, MetaError> {
        Ok(View::new(&self.parts.meta.list(ROOT).await?))
    }

    /// Writes if this replica still leads and nothing of what was seen has changed; whether it was done.
    async fn write(&self, write: Write) -> Result<bool, TickError> {
        let mut when = write.when;
        when.push(Compare::Created(keys::LEADER.to_owned(), self.term));
        let outcome = self.parts.meta.txn(Txn { when, then: write.then }).await?;
        if outcome.applied {
            return Ok(true);
        }
        let leader = self.parts.meta.get(keys::LEADER).await?;
        if leader.is_none_or(|leader| leader.create_revision != self.term) {
            Err(TickError::NotLeading)
        } else {
            Ok(false)
        }
    }

    /// Writes many as few transactions. One that fails is done again, from what then is, by the next tick.
    async fn write_all(&self, writes: Vec<Write>) -> Result<bool, TickError> {
        let (mut all, mut batch) = (true, Write::default());
        for write in writes {
            let full =
                batch.then.len() + write.then.len() > MAX_TXN_OPS || batch.when.len() + write.when.len() >= MAX_TXN_OPS;
            if full {
                all &= self.write(std::mem::take(&mut batch)).await?;
            }
            batch.when.extend(write.when);
            batch.then.extend(write.then);
        }
        if !batch.then.is_empty() {
            all &= self.write(batch).await?;
        }
        Ok(all)
    }

    async fn remove(&self, job: &JobRecord) -> Result<(), TickError> {
        let then = vec![
            Op::DeletePrefix { prefix: keys::cursors(&job.name) },
            Op::DeletePrefix { prefix: keys::batches(&job.name) },
            Op::DeletePrefix { prefix: keys::specs(&job.name) },
            Op::Delete { key: keys::progress(&job.name) },
            Op::Delete { key: keys::job(&job.name) },
        ];
        self.write(Write { when: vec![], then }).await.map(drop)
    }

    /// Cuts a job's partitions as far as they can be cut now, then plans the last steps of windows.
    async fn plan(&mut self, job: &JobRecord) -> Result<(), TickError> {
        let topic = match self.parts.log.topic(&job.spec.source.topic).await {
            Ok(topic) => topic,
            // The topic may come: the job waits for it.
            Err(LogError::NoTopic(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let calendar = match job.spec.window.calendar() {
            Ok(calendar) => calendar,
            Err(error) => {
                tracing::error!(job = %job.name, %error, "stored job can't be planned");
                return Ok(());
            }
        };
        for _ in 0..self.settings.windows_per_tick {
            let view = self.view().await?;
            let cursors = view.cursors.get(&job.name).cloned().unwrap_or_default();
            if let Some(other) = cursors.values().find(|cursor| cursor.value.topic_id != topic.id) {
                tracing::error!(job = %job.name, topic = %job.spec.source.topic, was = %other.value.topic_id, is = %topic.id,
                    "the topic was deleted and made again; delete the job and apply it anew to read the new topic");
                return Ok(());
            }
            let progress = view.progress.get(&job.name).map(|progress| &progress.value);
            let mut planner =
                Planner { parts: self.parts, job, calendar: calendar.clone(), topic: topic.clone(), cursors, progress };
            let writes = planner.step(&mut self.silence).await?;
            if writes.is_empty() || !self.write_all(writes).await? {
                break;
            }
        }
        self.finish(job, &calendar, &topic).await
    }

    async fn finish(
        &self,
        job: &JobRecord,
        calendar: &windrow_protocol::window::Calendar,
        topic: &windrow_ports::log::TopicInfo,
    ) -> Result<(), TickError> {
        let view = self.view().await?;
        let Some(cursors) = view.cursors.get(&job.name).filter(|c| c.len() as i32 == topic.partitions) else {
            return Ok(());
        };
        let Some(through) = cursors.values().map(|cursor| cursor.value.sealed_through).min() else { return Ok(()) };
        let none = BTreeMap::new();
        let batches = view.batches.get(&job.name).unwrap_or(&none);
        let progress_key = keys::progress(&job.name);
        let Some(progress) = view.progress.get(&job.name) else {
            let first_batch = batches.keys().map(|(window, _)| window.0).min();
            let origin = first_batch.map_or(through, |first| first.min(through));
            let progress = Progress { origin, finish_planned_through: origin, windows_complete: 0, problem: None };
            let write = Write {
                when: vec![Compare::Absent(progress_key.clone())],
                then: vec![Op::put(progress_key, encode(&progress))],
            };
            return self.write(write).await.map(drop);
        };
        let sealed = finishing::Sealed {
            calendar,
            topic: job.spec.source.topic.clone(),
            topic_id: topic.id.clone(),
            spec_hash: job.spec.hash(),
            generation: job.generation,
            from: progress.value.finish_planned_through,
            through,
            partitions: cursors.keys().copied().collect::<BTreeSet<_>>(),
            batches: finishing::by_window(batches.keys()),
        };
        let (plans, through) = finishing::plan(&sealed);
        if plans.is_empty() {
            return Ok(());
        }
        let mut write = Write::default();
        for plan in plans {
            let id = BatchId {
                job: job.name.clone(),
                window: plan.window.id(),
                part: Part::Finish,
                revision: plan.revision,
            };
            let key = keys::batch(&job.name, id.window, id.part);
            let task = Task::Finish(plan);
            let record =
                BatchRecord { id, task, state: BatchState::Pending, failures: 0, last_error: None, not_before: None };
            write.when.push(Compare::Absent(key.clone()));
            write.then.push(Op::put(key, encode(&record)));
        }
        let next = Progress { finish_planned_through: through, ..progress.value.clone() };
        write.when.push(Compare::Modified(progress_key.clone(), progress.revision));
        write.then.push(Op::put(progress_key, encode(&next)));
        self.write(write).await.map(drop)
    }

    /// Takes in what workers report, and takes back what dead workers had.
    async fn settle(&self, view: &View) -> Result<(), TickError> {
        for (key, assignment) in &view.assignments {
            let Some(outcome) = &assignment.value.outcome else { continue };
            let id = &assignment.value.id;
            let mut write = Write {
                when: vec![Compare::Modified(key.clone(), assignment.revision)],
                then: vec![Op::Delete { key: key.clone() }],
            };
            if let Some(batch) = view.batches.get(&id.job).and_then(|batches| batches.get(&(id.window, id.part))) {
                let max_attempts = assignment.value.spec.max_attempts;
                let after = outcomes::after(&batch.value, outcome, max_attempts, self.parts.clock.now());
                self.note(view, batch, &after, &mut write);
            }
            self.write(write).await?;
        }
        let held: BTreeSet<&BatchId> = view.assignments.values().map(|assignment| &assignment.value.id).collect();
        for batch in view.batches.values().flat_map(BTreeMap::values) {
            if matches!(batch.value.state, BatchState::Assigned { .. }) && !held.contains(&batch.value.id) {
                let back = BatchRecord { state: BatchState::Pending, ..batch.value.clone() };
                let key = keys::batch(&back.id.job, back.id.window, back.id.part);
                let when = vec![Compare::Modified(key.clone(), batch.revision)];
                self.write(Write { when, then: vec![Op::put(key, encode(&back))] }).await?;
            }
        }
        Ok(())
    }

    /// Adds a batch's new state to a write. A finished window leaves the store: its history is in the markers.
    fn note(&self, view: &View, batch: &Versioned<BatchRecord>, after: &BatchRecord, write: &mut Write) {
        let id = &after.id;
        let key = keys::batch(&id.job, id.window, id.part);
        write.when.push(Compare::Modified(key.clone(), batch.revision));
        match (&after.task, &after.state, view.progress.get(&id.job)) {
            (Task::Finish(plan), BatchState::Committed(_), Some(progress)) => {
                let windows_complete = progress.value.windows_complete + plan.windows;
                let next = Progress { windows_complete, ..progress.value.clone() };
                let progress_key = keys::progress(&id.job);
                write.when.push(Compare::Modified(progress_key.clone(), progress.revision));
                write.then.push(Op::put(progress_key, encode(&next)));
                let prefix = format!("{}{}/", keys::batches(&id.job), id.window);
                write.then.push(Op::DeletePrefix { prefix });
            }
            _ => write.then.push(Op::put(key, encode(after))),
        }
    }

    async fn schedule(&self, view: &View) -> Result<(), TickError> {
        let mut free: BTreeMap<_, _> = view
            .workers
            .iter()
            .filter(|(_, worker)| !worker.value.draining)
            .map(|(id, worker)| (id.clone(), worker.value.slots))
            .collect();
        for key in view.assignments.keys() {
            let worker = key.strip_prefix(keys::ASSIGNMENTS).and_then(|rest| rest.split('/').next());
            if let Some((_, slots)) = free.iter_mut().find(|(id, _)| Some(id.as_str()) == worker) {
                *slots = slots.saturating_sub(1);
            }
        }
        let waiting = view.jobs.values().filter(|job| job.value.paused.is_none() && !job.value.deleting);
        let waiting = waiting.map(|job| self.runnable(view, &job.value.name)).collect();
        for (batch, worker) in scheduler::solve(scheduler::Problem { free, waiting }) {
            let record = &batch.value;
            let Some(spec) = view.specs.get(&(record.id.job.clone(), record.task.spec_hash().to_owned())) else {
                tracing::error!(batch = %record.id, "the spec that the batch was planned with is not stored");
                continue;
            };
            let holder = &view.workers[&worker];
            let assignment =
                Assignment { id: record.id.clone(), task: record.task.clone(), spec: spec.clone(), outcome: None };
            let assigned = BatchRecord { state: BatchState::Assigned { worker: worker.clone() }, ..record.clone() };
            let key = keys::batch(&record.id.job, record.id.window, record.id.part);
            let assignment_key = keys::assignment(&worker, &record.id);
            let when = vec![
                Compare::Modified(key.clone(), batch.revision),
                Compare::Modified(keys::worker(&worker), holder.revision),
                Compare::Absent(assignment_key.clone()),
            ];
            let lease = holder.value.lease;
            let hand = Op::Put { key: assignment_key, value: encode(&assignment).into(), lease };
            match self.write(Write { when, then: vec![Op::put(key, encode(&assigned)), hand] }).await {
                // The worker's lease ended a moment ago.
                Err(TickError::Meta(MetaError::NoLease(_))) => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    /// A job's batches that may run now, oldest window first: a last step only after its window's other batches.
    fn runnable<'v>(&self, view: &'v View, job: &JobName) -> Vec<&'v Versioned<BatchRecord>> {
        let now = self.parts.clock.now();
        let Some(batches) = view.batches.get(job) else { return Vec::new() };
        let unfinished: BTreeSet<WindowId> = batches
            .iter()
            .filter(|((_, part), batch)| {
                *part != Part::Finish && !matches!(batch.value.state, BatchState::Committed(_))
            })
            .map(|((window, _), _)| *window)
            .collect();
        batches
            .iter()
            .filter(|((window, part), _)| *part != Part::Finish || !unfinished.contains(window))
            .map(|(_, batch)| batch)
            .filter(|batch| batch.value.state == BatchState::Pending)
            .filter(|batch| batch.value.not_before.is_none_or(|not_before| not_before <= now))
            .collect()
    }
}
