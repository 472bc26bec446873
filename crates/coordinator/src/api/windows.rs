//! `WindowService` and `WorkerService`.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use tonic::{Code, Request, Response, Status};
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op, Txn};
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::revise::WishId;
use windrow_protocol::state::{BatchRecord, BatchState, JobRecord, Task, keys};
use windrow_protocol::volume::{Amount, Seen};
use windrow_protocol::{JobName, JobSpec, Offset, Revision, Timestamp, WindowId, paths};
use windrow_wire::status::{error, invalid_field};
use windrow_wire::v1::window_service_server::WindowService;
use windrow_wire::v1::worker_service_server::WorkerService;
use windrow_wire::{convert, v1};

use super::{Api, encode, job_name, meta, page, store};
use crate::view::{Versioned, View};

/// The longest reason of a skip.
const MAX_REASON_BYTES: usize = 500;

/// How full a batch's window of volume is, and the first offset that was not looked at.
fn volume(record: &BatchRecord) -> Option<(v1::Volume, Offset)> {
    let Task::Map(plan) = &record.task else { return None };
    let cut = plan.volume()?;
    let seen = match &record.state {
        BatchState::Committed(summary) => summary.found?,
        _ => record.waiting.map_or(Seen::nothing(plan.owned.start, None), |waiting| waiting.seen),
    };
    let unit = match cut.until.amount {
        Amount::Readings(_) => "readings",
        Amount::Bytes(_) => "bytes",
    };
    let wanted = cut.until.amount.number();
    Some((v1::Volume { amount: seen.amount, wanted, unit: unit.to_owned() }, seen.through))
}

fn batch(parent: &str, record: &BatchRecord) -> v1::Batch {
    let volume = volume(record);
    let (start, end) = match &record.task {
        Task::Map(plan) => (plan.read.start.0, volume.as_ref().map_or(plan.read.end.0, |(_, through)| through.0)),
        Task::Finish(_) => (0, 0),
    };
    let (state, worker, summary) = match &record.state {
        BatchState::Pending => (v1::BatchState::Pending, String::new(), None),
        BatchState::Assigned { worker } => (v1::BatchState::Running, worker.to_string(), None),
        BatchState::Committed(summary) => (v1::BatchState::Committed, String::new(), Some(summary)),
        BatchState::Failed => (v1::BatchState::Failed, String::new(), None),
    };
    v1::Batch {
        name: format!("{parent}/batches/{}", record.id.part),
        state: state.into(),
        start_offset: start,
        end_offset: end,
        worker,
        failures: record.failures,
        last_error: record.last_error.clone().unwrap_or_default(),
        rows: summary.map_or(0, |summary| summary.rows),
        ledger: summary.map(|summary| convert::ledger(&summary.ledger)),
        volume: volume.map(|(volume, _)| volume),
    }
}

/// First moment that a batch covers and the first after; none for a window of volume that has not been read.
pub(super) fn times(record: &BatchRecord) -> Option<(Timestamp, Timestamp)> {
    match (&record.task, &record.state) {
        (Task::Map(plan), BatchState::Committed(summary)) if plan.volume().is_some() => {
            let times = summary.found?.times?;
            Some((times.earliest, plan.window.with_times(Some(times)).end))
        }
        (Task::Map(plan), _) => plan.volume().is_none().then_some((plan.window.start, plan.window.end)),
        (Task::Finish(plan), _) => Some((plan.window.start, plan.until)),
    }
}

/// Whether only some of a window's batches are planned yet: its last step comes with the last of them.
pub(super) fn is_in_part(batches: &[impl Borrow<Versioned<BatchRecord>>]) -> bool {
    !batches.iter().any(|batch| batch.borrow().value.id.part == Part::Finish)
}

/// `jobs/{job}/windows/{window}`.
fn window_name(name: &str) -> Result<(JobName, WindowId), Status> {
    let bad = || {
        let message =
            format!("{name:?} is not of the form jobs/NAME/windows/WINDOW, e.g. jobs/a/windows/20150901T050000Z");
        invalid_field("name", "INVALID_NAME", message)
    };
    let (job, window) = name.split_once("/windows/").ok_or_else(bad)?;
    Ok((job_name("name", job)?, window.parse().map_err(|_| bad())?))
}

#[tonic::async_trait]
impl WindowService for Api {
    async fn list_windows(
        &self,
        request: Request<v1::ListWindowsRequest>,
    ) -> Result<Response<v1::ListWindowsResponse>, Status> {
        let request = request.into_inner();
        let job = self.job(&job_name("parent", &request.parent)?).await?.value;
        let view = self.job_view(&job.name).await?;
        let mut windows: BTreeMap<WindowId, v1::Window> = BTreeMap::new();
        for ((window, _), record) in view.batches.get(&job.name).into_iter().flatten() {
            let name = format!("jobs/{}/windows/{window}", job.name);
            let (start, end) = times(&record.value).unzip();
            let message = windows.entry(*window).or_insert_with(|| v1::Window {
                name: name.clone(),
                start_time: start.map(convert::timestamp),
                state: v1::WindowState::Running.into(),
                batches: Vec::new(),
                end_time: end.map(convert::timestamp),
                revision: record.value.id.revision.0,
            });
            if record.value.state == BatchState::Failed {
                message.state = v1::WindowState::Failed.into();
            }
            message.batches.push(batch(&name, &record.value));
        }
        let windows = windows.into_iter().map(|(window, message)| (window.sort_key(), message)).collect();
        let (windows, next_page_token) = page(windows, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListWindowsResponse { windows, next_page_token }))
    }

    async fn retry_window(
        &self,
        request: Request<v1::RetryWindowRequest>,
    ) -> Result<Response<v1::RetryWindowResponse>, Status> {
        let request = request.into_inner();
        let (job, batches) = self.window_batches(&request.name).await?;
        if batches.iter().all(|record| record.value.state != BatchState::Failed) {
            return Ok(Response::new(v1::RetryWindowResponse { batches: 0, note: String::new() }));
        }
        let now = self.parts.clock.now();
        let (spec, generation) = (job.value.spec.hash(), job.value.generation);
        let stopping = batches.iter().find(|record| record.value.may_still_run(now)).map(|record| &record.value);
        if let Some(batch) = stopping.filter(|batch| batch.task.spec_hash() != spec) {
            let message = format!(
                "{} was cancelled a moment ago, and its worker may still be at it with the spec of before; try again after {}",
                batch.id,
                batch.stops_at.unwrap_or(now)
            );
            return Err(error(Code::Unavailable, "STILL_STOPPING", message));
        }
        let mut anew = self.takes_new_spec(&job.value, &batches).await?;
        let mut fence = Txn::default();
        if !anew.is_empty() && batches.iter().any(|record| record.value.task.spec_hash() != spec) {
            fence = self.fence(&job, &batches).await?;
            // Of very many partitions not all can be compared: the window stays with its spec until it is planned whole.
            if fence.when.len() + batches.len() > MAX_TXN_OPS {
                (anew, fence) = (Vec::new(), Txn::default());
            }
        }
        let again = batches.iter().filter_map(|record| {
            let anew = anew.contains(&record.value.id.part);
            if !anew && record.value.state != BatchState::Failed {
                return None;
            }
            let mut again = record.value.again();
            if anew {
                again.task.run_with(&spec, generation);
            }
            Some((again, record))
        });
        let again: Vec<_> = again.collect();
        let old = again.iter().filter(|(again, _)| again.task.spec_hash() != spec).count();
        let note = if old == 0 {
            String::new()
        } else {
            format!(
                "{old} run by the job as it was when they were planned, since a window is computed by one, and a part or an \
                 earlier result of this one stands; for the job of now give them up (`windrow skip`), then `windrow backfill`"
            )
        };
        let batches = if request.validate_only { again.len() as u32 } else { self.write_batches(fence, again).await? };
        Ok(Response::new(v1::RetryWindowResponse { batches, note }))
    }

    async fn skip_window(
        &self,
        request: Request<v1::SkipWindowRequest>,
    ) -> Result<Response<v1::SkipWindowResponse>, Status> {
        let request = request.into_inner();
        if !(1..=MAX_REASON_BYTES).contains(&request.reason.trim().len()) {
            let message =
                format!("a reason has 1 to {MAX_REASON_BYTES} bytes: whoever finds the gap will want to know");
            return Err(invalid_field("reason", "INVALID_VALUE", message));
        }
        let (_, batches) = self.window_batches(&request.name).await?;
        let failed = batches.iter().filter(|record| record.value.state == BatchState::Failed);
        let given_up = failed.map(|record| {
            let skip = Some(request.reason.trim().to_owned());
            (BatchRecord { skip, ..record.value.again() }, record)
        });
        let given_up: Vec<_> = given_up.collect();
        let batches = if request.validate_only {
            given_up.len() as u32
        } else {
            self.write_batches(Txn::default(), given_up).await?
        };
        Ok(Response::new(v1::SkipWindowResponse { batches }))
    }

    async fn cancel_window(
        &self,
        request: Request<v1::CancelWindowRequest>,
    ) -> Result<Response<v1::CancelWindowResponse>, Status> {
        let request = request.into_inner();
        let reason = request.reason.trim();
        if reason.len() > MAX_REASON_BYTES {
            return Err(invalid_field(
                "reason",
                "INVALID_VALUE",
                format!("a reason has up to {MAX_REASON_BYTES} bytes"),
            ));
        }
        let error = if reason.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {reason}") };
        let (_, batches) = self.window_batches(&request.name).await?;
        // A last step that waits for its parts holds nobody: parked, it would be given up with them.
        let is_done = |record: &&Versioned<BatchRecord>| matches!(record.value.state, BatchState::Committed(_));
        let waits_for_parts = batches.iter().filter(|record| !is_done(record)).count() > 1;
        let is_left = |record: &&Versioned<BatchRecord>| match record.value.state {
            BatchState::Pending => record.value.id.part != Part::Finish || !waits_for_parts,
            BatchState::Assigned { .. } => true,
            BatchState::Committed(_) | BatchState::Failed => false,
        };
        let now = self.parts.clock.now();
        let stopped = batches.iter().filter(is_left);
        let stopped: Vec<_> = stopped.map(|record| (record.value.cancelled(error.clone(), now), record)).collect();
        let batches = if request.validate_only {
            stopped.len() as u32
        } else {
            self.write_batches(Txn::default(), stopped).await?
        };
        Ok(Response::new(v1::CancelWindowResponse { batches }))
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        Ok(Response::new(self.partitions(request.into_inner()).await?))
    }
}

impl Api {
    /// A window's job and its batches; an error if it is not in flight.
    async fn window_batches(&self, name: &str) -> Result<(Versioned<JobRecord>, Vec<Versioned<BatchRecord>>), Status> {
        let (job, window) = window_name(name)?;
        let job = self.job(&job).await?;
        let name = &job.value.name;
        let mut view = self.job_view(name).await?;
        let batches = view.batches.remove(name).into_iter().flatten().filter(|((w, _), _)| *w == window);
        let batches: Vec<_> = batches.map(|(_, record)| record).collect();
        if batches.is_empty() {
            let message = format!(
                "window {window} of job {name} is not in flight: nothing of it waits, runs or is parked. `windrow get windows \
                 --job {name} --all` says whether it is complete, `windrow backfill` runs a complete one again"
            );
            return Err(error(Code::NotFound, "NO_SUCH_WINDOW", message));
        }
        Ok((job, batches))
    }

    /// What keeps a window of one spec while its batches take a new one: a leader that has looked at the job before plans
    /// no more of the window's partitions after it, since the job is put anew, and has planned none since they were seen.
    pub(super) async fn fence(
        &self,
        job: &Versioned<JobRecord>,
        batches: &[Versioned<BatchRecord>],
    ) -> Result<Txn, Status> {
        let name = &job.value.name;
        let key = keys::job(name);
        let mut fence = Txn {
            when: vec![Compare::Modified(key.clone(), job.revision)],
            then: vec![Op::put(key, encode(&job.value))],
        };
        let Some(first) = batches.first().filter(|_| is_in_part(batches)) else { return Ok(fence) };
        let window = first.value.id.window;
        let cursors = View::new(&self.parts.meta.list(&keys::cursors(name)).await.map_err(meta)?).cursors;
        for partition in cursors.get(name).into_iter().flatten().map(|(partition, _)| Part::Partition(*partition)) {
            if batches.iter().all(|batch| batch.value.id.part != partition) {
                fence.when.push(Compare::Absent(keys::batch(name, window, partition)));
            }
        }
        Ok(fence)
    }

    /// Writes batches that are still as they were seen, and takes them from the workers that have them, if what else is
    /// given holds, too; how many. Very many in several transactions, in order; those that are of one only, since a new spec
    /// is for all of them at once, are no more than fit.
    async fn write_batches(
        &self,
        mut txn: Txn,
        batches: Vec<(BatchRecord, &Versioned<BatchRecord>)>,
    ) -> Result<u32, Status> {
        for (batch, before) in &batches {
            let key = keys::batch(&batch.id.job, batch.id.window, batch.id.part);
            let mut ops = vec![Op::put(key.clone(), encode(batch))];
            if let BatchState::Assigned { worker } = &before.value.state {
                ops.push(Op::Delete { key: keys::assignment(worker, &batch.id) });
            }
            if txn.then.len() + ops.len() > MAX_TXN_OPS {
                self.expect_unchanged(std::mem::take(&mut txn)).await?;
            }
            txn.when.push(Compare::Modified(key, before.revision));
            txn.then.extend(ops);
        }
        self.expect_unchanged(txn).await?;
        Ok(batches.len() as u32)
    }

    async fn expect_unchanged(&self, txn: Txn) -> Result<(), Status> {
        if txn.then.is_empty() || self.parts.meta.txn(txn).await.map_err(meta)?.applied {
            return Ok(());
        }
        Err(error(Code::Aborted, "CHANGED", "the window has changed meanwhile; try again"))
    }

    /// The parts of a window that have a marker of a batch's revision: a worker may have died before it could say so.
    pub(super) async fn made(&self, id: &BatchId) -> Result<Vec<Part>, Status> {
        let markers = self.parts.store.list(&paths::window_commits(&id.job, id.window)).await.map_err(store)?;
        let markers = markers.iter().filter_map(|object| paths::parse_marker(&object.path));
        Ok(markers.filter(|(_, _, _, of)| *of == id.revision).map(|(_, _, part, _)| part).collect())
    }

    /// The spec that a batch was planned with, if it is stored and understood.
    async fn planned_spec(&self, batch: &BatchRecord) -> Result<Option<JobSpec>, Status> {
        let stored = self.parts.meta.get(&keys::spec(&batch.id.job, batch.task.spec_hash())).await.map_err(meta)?;
        Ok(stored.and_then(|item| serde_json::from_slice(&item.value).ok()))
    }

    /// The batches of a window that can run the job's spec of now when they are tried again: all of them while none has
    /// run to its marker, and the last step alone if only the reduce has changed. Otherwise a window would mix two specs;
    /// and a revision by a spec that has a reduce, or none, unlike the one before, would leave the files of both.
    async fn takes_new_spec(&self, job: &JobRecord, batches: &[Versioned<BatchRecord>]) -> Result<Vec<Part>, Status> {
        let waits = |record: &BatchRecord| matches!(record.state, BatchState::Failed | BatchState::Pending);
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let made = self.made(&first.value.id).await?;
        // Late readings amend some partitions; the others keep the spec that they have.
        let amends = |record: &BatchRecord| match &record.task {
            Task::Map(plan) => plan.revises.as_ref().is_some_and(|it| matches!(it.cause, WishId::Late(_))),
            Task::Finish(_) => false,
        };
        let is_whole = !batches.iter().any(|record| amends(&record.value));
        let planned = self.planned_spec(&first.value).await?;
        let same_kind = planned.as_ref().is_some_and(|spec| spec.reduce.is_some() == job.spec.reduce.is_some());
        let is_new = made.is_empty() && is_whole && (same_kind || first.value.id.revision == Revision::default());
        // With them the job is put.
        if is_new && batches.len() < MAX_TXN_OPS && batches.iter().all(|record| waits(&record.value)) {
            return Ok(batches.iter().map(|record| record.value.id.part).collect());
        }
        let last = batches.iter().find(|record| record.value.id.part == Part::Finish && waits(&record.value));
        let Some(last) = last.filter(|_| !made.contains(&Part::Finish)) else { return Ok(Vec::new()) };
        let planned = self.planned_spec(&last.value).await?;
        // What is no part of the last step may differ as it likes.
        let only_reduce_differs = planned.is_some_and(|planned| {
            let parts = |spec: &JobSpec| (spec.source.clone(), spec.window.clone(), spec.map.clone());
            planned.reduce.is_some() == job.spec.reduce.is_some() && parts(&planned) == parts(&job.spec)
        });
        Ok(if only_reduce_differs { vec![Part::Finish] } else { Vec::new() })
    }
}

#[tonic::async_trait]
impl WorkerService for Api {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let mut listing = self.parts.meta.list(keys::WORKERS).await.map_err(meta)?;
        listing.items.extend(self.parts.meta.list(keys::ASSIGNMENTS).await.map_err(meta)?.items);
        let view = View::new(&listing);
        let workers = view.workers.values().map(|worker| {
            let prefix = keys::assignments(&worker.value.id);
            v1::Worker {
                name: format!("workers/{}", worker.value.id),
                slots: worker.value.slots,
                running: view.assignments.keys().filter(|key| key.starts_with(&prefix)).count() as u32,
                version: worker.value.version.clone(),
                draining: worker.value.draining,
            }
        });
        Ok(Response::new(v1::ListWorkersResponse { workers: workers.collect() }))
    }
}
