//! `WindowService` and `WorkerService`.

use std::collections::BTreeMap;

use tonic::{Code, Request, Response, Status};
use windrow_ports::meta::{Compare, Op, Txn};
use windrow_protocol::state::{BatchRecord, BatchState, Task, keys};
use windrow_protocol::{JobName, Timestamp, WindowId};
use windrow_wire::status::{error, invalid_field};
use windrow_wire::v1::window_service_server::WindowService;
use windrow_wire::v1::worker_service_server::WorkerService;
use windrow_wire::{convert, v1};

use super::{Api, encode, job_name, meta, page};
use crate::view::View;

fn batch(parent: &str, record: &BatchRecord) -> v1::Batch {
    let (start, end) = match &record.task {
        Task::Map(plan) => (plan.read.start.0, plan.read.end.0),
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
    }
}

/// First moment after what a batch's task covers.
fn end(task: &Task) -> Timestamp {
    match task {
        Task::Map(plan) => plan.window.end,
        Task::Finish(plan) => plan.until,
    }
}

/// `jobs/{job}/windows/{window}`.
fn window_name(name: &str) -> Result<(JobName, WindowId), Status> {
    let bad = || {
        let message =
            format!("{name:?} is not of the form jobs/NAME/windows/START, e.g. jobs/a/windows/20150901T050000Z");
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
            let message = windows.entry(*window).or_insert_with(|| v1::Window {
                name: name.clone(),
                start_time: Some(convert::timestamp(window.0)),
                state: v1::WindowState::Running.into(),
                batches: Vec::new(),
                end_time: Some(convert::timestamp(end(&record.value.task))),
            });
            if record.value.state == BatchState::Failed {
                message.state = v1::WindowState::Failed.into();
            }
            message.batches.push(batch(&name, &record.value));
        }
        let windows = windows.into_iter().map(|(window, message)| (window.to_string(), message)).collect();
        let (windows, next_page_token) = page(windows, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListWindowsResponse { windows, next_page_token }))
    }

    async fn retry_window(
        &self,
        request: Request<v1::RetryWindowRequest>,
    ) -> Result<Response<v1::RetryWindowResponse>, Status> {
        let request = request.into_inner();
        let (job, window) = window_name(&request.name)?;
        let job = self.job(&job).await?.value;
        let view = self.job_view(&job.name).await?;
        let batches = view.batches.get(&job.name).into_iter().flatten().filter(|((w, _), _)| *w == window);
        let batches: Vec<_> = batches.map(|((_, part), record)| (part, record)).collect();
        if batches.is_empty() {
            let message =
                format!("window {window} of job {} is not in flight; `windrow get windows` lists windows", job.name);
            return Err(error(Code::NotFound, "NO_SUCH_WINDOW", message));
        }
        let failed = batches.into_iter().filter(|(_, record)| record.value.state == BatchState::Failed);
        if request.validate_only {
            return Ok(Response::new(v1::RetryWindowResponse { batches: failed.count() as u32 }));
        }
        let mut batches = 0;
        for (part, record) in failed {
            let again =
                BatchRecord { state: BatchState::Pending, failures: 0, not_before: None, ..record.value.clone() };
            let key = keys::batch(&job.name, window, *part);
            let when = vec![Compare::Modified(key.clone(), record.revision)];
            let txn = Txn { when, then: vec![Op::put(key, encode(&again))] };
            batches += u32::from(self.parts.meta.txn(txn).await.map_err(meta)?.applied);
        }
        Ok(Response::new(v1::RetryWindowResponse { batches }))
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        Ok(Response::new(self.partitions(request.into_inner()).await?))
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
