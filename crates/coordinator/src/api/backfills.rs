//! `BackfillService`.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use windrow_ports::LogError;
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op, Txn};
use windrow_protocol::plan::Plan;
use windrow_protocol::revise::{self, Ground, Known, Span, SpecRef, Wish, WishId};
use windrow_protocol::state::{BatchRecord, BatchState, JobRecord, Progress, Task, keys};
use windrow_protocol::{BackfillName, JobName, Offset, PartitionId, Window, WindowId};
use windrow_storage::StoreError;
use windrow_wire::convert;
use windrow_wire::status::{error, invalid_field};
use windrow_wire::v1::backfill_service_server::BackfillService;
use windrow_wire::v1::{self, BackfillState};

use super::partitions::unavailable;
use super::windows::{is_in_part, times};
use super::{Api, encode, job_name, meta, page, store};
use crate::revising;
use crate::view::{self, Versioned, View};

/// Batches that a check lists.
const MOST_LISTED: usize = 10_000;

/// Windows whose markers are read at a time.
const READS: usize = 16;

/// Backfills that are done and stay for a look; the oldest others go when one is created.
const KEPT: usize = 10;

/// How often a change is tried that others keep changing what it looked at.
const TRIES: usize = 20;

/// A job's backfills, and what of them is in flight.
struct Of {
    job: JobRecord,
    view: View,
}

impl Of {
    fn all(&self) -> impl Iterator<Item = (&BackfillName, &Versioned<Wish>)> {
        let wishes = self.view.wishes.get(&self.job.name).into_iter().flatten();
        wishes.filter_map(|(id, wish)| match id {
            WishId::Backfill(name) => Some((name, wish)),
            WishId::Late(_) => None,
        })
    }

    /// The windows that are run again for a backfill, with their batches, last steps included.
    fn flying(&self, name: &BackfillName) -> BTreeMap<WindowId, Vec<&Versioned<BatchRecord>>> {
        let batches = || self.view.batches.get(&self.job.name).into_iter().flatten();
        let id = WishId::Backfill(name.clone());
        let mine = batches().filter(|(_, batch)| match &batch.value.task {
            Task::Map(plan) => plan.revises.as_ref().is_some_and(|revises| revises.cause == id),
            Task::Finish(_) => false,
        });
        let windows: BTreeSet<WindowId> = mine.map(|((window, _), _)| *window).collect();
        let mut flying: BTreeMap<WindowId, Vec<&Versioned<BatchRecord>>> = BTreeMap::new();
        for ((window, _), batch) in batches().filter(|((window, _), _)| windows.contains(window)) {
            flying.entry(*window).or_default().push(batch);
        }
        flying
    }

    fn message(&self, name: &BackfillName, wish: &Wish) -> v1::Backfill {
        let flying = self.flying(name);
        let failed = flying.values().filter(|batches| batches.iter().any(|it| it.value.state == BatchState::Failed));
        let failed = failed.count() as u64;
        let state = match () {
            () if wish.is_done() && flying.is_empty() => BackfillState::Done,
            () if wish.paused => BackfillState::Paused,
            () => BackfillState::Running,
        };
        let time = |time| Some(convert::timestamp(time));
        let job = &self.job.name;
        v1::Backfill {
            name: format!("jobs/{job}/backfills/{name}"),
            from_time: wish.spans.first().and_then(|span| time(span.from)),
            until_time: wish.spans.last().and_then(|span| time(span.until)),
            state: state.into(),
            spec_hash: wish.spec.as_ref().map(|spec| spec.hash.clone()).unwrap_or_default(),
            windows_planned: wish.planned,
            windows_running: flying.len() as u64 - failed,
            windows_failed: failed,
            windows_refused: wish.refused,
            refusals: wish.refusals.iter().map(|refusal| refusal_message(job, refusal)).collect(),
            planned_until_time: time(wish.next),
            create_time: time(wish.created_at),
        }
    }

    /// Operations that make room for one more: the oldest that are done go.
    fn make_room(&self) -> Vec<Op> {
        let done = self.all().filter(|(name, wish)| wish.value.is_done() && self.flying(name).is_empty());
        let mut done: Vec<_> = done.map(|(name, wish)| (wish.value.created_at, name)).collect();
        done.sort();
        let gone = done.len().saturating_sub(KEPT - 1);
        let key = |name: &BackfillName| keys::wish(&self.job.name, &WishId::Backfill(name.clone()));
        done.iter().take(gone).take(MAX_TXN_OPS / 2).map(|(_, name)| Op::Delete { key: key(name) }).collect()
    }
}

fn refusal_message(job: &JobName, refusal: &revise::Refusal) -> v1::BackfillRefusal {
    v1::BackfillRefusal {
        window: format!("jobs/{job}/windows/{}", refusal.window),
        reason: refusal.reason.clone(),
        lost_offsets: refusal.lost_offsets,
    }
}

/// `jobs/{job}/backfills/{backfill}`.
fn backfill_name(name: &str) -> Result<(JobName, BackfillName), Status> {
    let bad = || invalid_field("name", "INVALID_NAME", format!("{name:?} is not of the form jobs/NAME/backfills/NAME"));
    let (job, backfill) = name.split_once("/backfills/").ok_or_else(bad)?;
    let backfill =
        BackfillName::new(backfill).map_err(|error| invalid_field("name", "INVALID_NAME", error.to_string()))?;
    Ok((job_name("name", job)?, backfill))
}

impl Api {
    async fn backfills(&self, job: &JobName) -> Result<Of, Status> {
        let job = self.job(job).await?.value;
        let mut listing = view::plans(&*self.parts.meta, &job.name).await.map_err(meta)?;
        listing.items.extend(self.parts.meta.list(&keys::specs(&job.name)).await.map_err(meta)?.items);
        Ok(Of { view: View::new(&listing), job })
    }

    async fn backfill(&self, name: &str) -> Result<(Of, BackfillName, Versioned<Wish>), Status> {
        let (job, backfill) = backfill_name(name)?;
        let of = self.backfills(&job).await?;
        let found = of.all().find(|(name, _)| **name == backfill).map(|(_, wish)| wish.clone());
        let Some(wish) = found else {
            let message =
                format!("job {job} has no backfill {backfill}; `windrow get backfills` lists those that it has");
            return Err(error(Code::NotFound, "NO_SUCH_BACKFILL", message));
        };
        Ok((of, backfill, wish))
    }

    async fn set_paused(&self, name: &str, paused: bool) -> Result<v1::Backfill, Status> {
        // It may go on meanwhile, with each window that it plans.
        for _ in 0..TRIES {
            let (of, backfill, wish) = self.backfill(name).await?;
            let changed = Wish { paused, ..wish.value.clone() };
            let key = keys::wish(&of.job.name, &WishId::Backfill(backfill.clone()));
            let then = vec![Op::put(key.clone(), encode(&changed))];
            let txn = Txn { when: vec![Compare::Modified(key, wish.revision)], then };
            if changed == wish.value || self.parts.meta.txn(txn).await.map_err(meta)?.applied {
                return Ok(of.message(&backfill, &changed));
            }
        }
        Err(error(Code::Aborted, "CHANGED", "the backfill has gone on meanwhile; try again"))
    }

    async fn begin_backfill(&self, request: v1::CreateBackfillRequest) -> Result<v1::CreateBackfillResponse, Status> {
        let of = self.backfills(&job_name("parent", &request.parent)?).await?;
        if of.job.deleting {
            let message = format!("job {} is being deleted", of.job.name);
            return Err(error(Code::FailedPrecondition, "JOB_DELETING", message));
        }
        if of.job.spec.window.volume().is_some() {
            let message = format!("job {} has windows of volume, which can't be run again yet", of.job.name);
            return Err(error(Code::FailedPrecondition, "WINDOWS_OF_VOLUME", message));
        }
        let span = span(&of, &request.backfill.unwrap_or_default())?;
        let name = match request.backfill_id.as_str() {
            "" => self.now().compact().to_lowercase().replace('.', "-"),
            given => given.to_owned(),
        };
        let name =
            BackfillName::new(name).map_err(|error| invalid_field("backfill_id", "INVALID_NAME", error.to_string()))?;
        if of.all().any(|(known, _)| *known == name) {
            return Err(exists(&of.job.name, &name));
        }
        let spec = SpecRef { hash: of.job.spec.hash(), generation: of.job.generation };
        let wish = Wish::backfill(span, spec, self.now());
        let windows = self.windows_in(&of.job.name, span).await?;
        if windows.is_empty() {
            let message =
                format!("no window of job {} between {} and {} is complete", of.job.name, span.from, span.until);
            return Err(error(Code::FailedPrecondition, "NOTHING_TO_DO", message));
        }
        // What a preview refuses as a whole is refused before anything is planned.
        if request.validate_only || self.reduce_came_or_went(&of) {
            let log_starts = if request.validate_only { self.log_starts(&of.job).await? } else { BTreeMap::new() };
            let preview = self.preview(&of, &name, &wish, windows, &log_starts).await?;
            if request.validate_only {
                return Ok(preview);
            }
        }
        let backfill = Some(of.message(&name, &wish));
        let key = keys::wish(&of.job.name, &WishId::Backfill(name));
        let job = keys::job(&of.job.name);
        let mut then = of.make_room();
        then.push(Op::put(key.clone(), encode(&wish)));
        // Of a job that is deleted meanwhile nothing may be left behind.
        let current = self.job(&of.job.name).await?;
        let when = vec![Compare::Absent(key), Compare::Modified(job, current.revision)];
        if current.value != of.job || !self.parts.meta.txn(Txn { when, then }).await.map_err(meta)?.applied {
            return Err(error(Code::Aborted, "CHANGED", "the job has changed meanwhile; try again"));
        }
        Ok(v1::CreateBackfillResponse { backfill, batches: vec![], batches_total: 0 })
    }

    /// The batches that a backfill would run by what stands now. A window whose result is damaged is refused, and keeps no
    /// other from being run; one whose first result is still to come is run after that.
    async fn preview(
        &self,
        of: &Of,
        name: &BackfillName,
        wish: &Wish,
        windows: Vec<WindowId>,
        log_starts: &BTreeMap<PartitionId, Offset>,
    ) -> Result<v1::CreateBackfillResponse, Status> {
        let (mut batches, mut batches_total, mut shown) = (Vec::new(), 0, wish.clone());
        let id = WishId::Backfill(name.clone());
        let flying = of.view.batches.get(&of.job.name);
        let is_flying = |window| flying.is_some_and(|batches| batches.keys().any(|(other, _)| *other == window));
        // One after the other: a long span has more markers than a memory should hold.
        let mut all = std::pin::pin!(self.all_known(&of.job.name, wish, windows));
        while let Some((window, known)) = all.next().await {
            let known = match known {
                Ok(known) => known,
                Err(StoreError::NotFound(_)) if is_flying(window) => continue,
                Err(cause @ (StoreError::NotFound(_) | StoreError::Broken(_))) => {
                    let Some(start) = window.time() else { continue };
                    shown.refuse(Window::new(start, start), format!("its result is damaged: {cause}"), 0);
                    continue;
                }
                Err(cause) => return Err(store(cause)),
            };
            self.expect_same_dataset(of, wish, window, &known)?;
            let plans = self.planned(&of.job, &id, wish, window, &known)?;
            if let (Some(start), Some((reason, lost))) = (window.time(), revising::dropped(&plans, log_starts)) {
                shown.refuse(Window::new(start, start), reason, lost);
                continue;
            }
            batches_total += plans.len() as u64;
            let left = MOST_LISTED.saturating_sub(batches.len());
            batches.extend(plans.iter().take(left).map(|plan| v1::BackfillBatch {
                window: format!("jobs/{}/windows/{window}", of.job.name),
                partition: plan.partition.0,
                start_offset: plan.read.start.0,
                end_offset: plan.read.end.0,
                revision: plan.revision.0,
            }));
        }
        // Nothing has been done of it yet.
        shown.next = wish.next;
        let backfill = Some(of.message(name, &shown));
        Ok(v1::CreateBackfillResponse { backfill, batches, batches_total })
    }

    /// The windows with markers that a span holds.
    async fn windows_in(&self, job: &JobName, span: Span) -> Result<Vec<WindowId>, Status> {
        let mut windows = self.parts.store.windows(job).await.map_err(store)?;
        let gone = self.parts.store.expired(job).await.map_err(store)?.map(|(_, expired)| expired).unwrap_or_default();
        windows.retain(|window| !gone.covers(*window) && window.time().is_some_and(|at| span.holds(at)));
        Ok(windows)
    }

    fn all_known<'a>(
        &'a self,
        job: &'a JobName,
        wish: &'a Wish,
        windows: Vec<WindowId>,
    ) -> impl Stream<Item = (WindowId, Result<Known, StoreError>)> + use<'a> {
        let known = move |window| async move { (window, revising::known(&self.parts.store, job, window, wish).await) };
        futures::stream::iter(windows).map(known).buffered(READS)
    }

    /// Whether the job has had specs that differ in having a reduce.
    fn reduce_came_or_went(&self, of: &Of) -> bool {
        of.view.specs.values().any(|spec| spec.reduce.is_some() != of.job.spec.reduce.is_some())
    }

    fn expect_same_dataset(&self, of: &Of, wish: &Wish, window: WindowId, known: &Known) -> Result<(), Status> {
        let has_reduce = |hash: &str| {
            let spec = of.view.specs.get(&(of.job.name.clone(), hash.to_owned()));
            spec.map(|spec| spec.reduce.is_some())
        };
        match revising::refusal(wish, known, has_reduce) {
            None => Ok(()),
            Some(why) => Err(error(Code::FailedPrecondition, "OTHER_DATASET", format!("window {window}: {why}"))),
        }
    }

    /// Where the log of each partition begins now. Of a topic that is gone nothing is known: its job is blocked, and says so.
    async fn log_starts(&self, job: &JobRecord) -> Result<BTreeMap<PartitionId, Offset>, Status> {
        let topic = &job.spec.source.topic;
        let partitions = match self.parts.log.topic(topic).await {
            Ok(info) => (0..info.partitions).map(PartitionId).collect(),
            Err(LogError::NoTopic(_)) => Vec::new(),
            Err(error) => return Err(unavailable(error)),
        };
        let bounds = self.bounds(topic, partitions).await?;
        Ok(bounds.into_iter().map(|(partition, bounds)| (partition, bounds.log_start)).collect())
    }

    /// The batches of a window, as they would be planned now.
    fn planned(
        &self,
        job: &JobRecord,
        id: &WishId,
        wish: &Wish,
        window: WindowId,
        known: &Known,
    ) -> Result<Vec<Plan>, Status> {
        let calendar = job
            .spec
            .window
            .calendar()
            .map_err(|cause| error(Code::Internal, "UNKNOWN_TIME_ZONE", cause.to_string()))?;
        let rules = BTreeMap::new();
        let Some(complete) = &known.complete else { return Ok(Vec::new()) };
        let ground = Ground {
            job: &job.name,
            topic: &complete.plan.topic,
            topic_id: &complete.plan.topic_id,
            partitions: Vec::<PartitionId>::new(),
            spec: SpecRef { hash: job.spec.hash(), generation: job.generation },
            late: job.spec.late_rule(),
            shift: None,
            rules: &rules,
        };
        let Some(start) = window.time() else { return Ok(Vec::new()) };
        let batches = revise::revise(id, wish, calendar.window_from(start), known, &ground);
        let maps = batches.into_iter().filter_map(|batch| match batch.task {
            Task::Map(plan) => Some(plan),
            Task::Finish(_) => None,
        });
        Ok(maps.collect())
    }

    /// Takes back the windows of which no batch has begun; how many.
    async fn take_back(&self, of: &Of, name: &BackfillName) -> Result<u32, Status> {
        let mut taken = 0;
        for batches in of.flying(name).into_values() {
            // What is larger than a write is left to finish, and so is a window that goes on meanwhile, or is still planned.
            let now = self.parts.clock.now();
            let waits = |batch: &BatchRecord| match batch.state {
                BatchState::Pending | BatchState::Failed => !batch.may_still_run(now),
                BatchState::Assigned { .. } | BatchState::Committed(_) => false,
            };
            let all_wait = batches.iter().all(|batch| waits(&batch.value));
            let Some(first) = batches.first() else { continue };
            if is_in_part(&batches) || !all_wait || batches.len() > MAX_TXN_OPS {
                continue;
            }
            // What is committed is finished, or the next revision would find a marker of another plan in its place.
            if !self.made(&first.value.id).await?.is_empty() {
                continue;
            }
            let key = |batch: &BatchRecord| keys::batch(&batch.id.job, batch.id.window, batch.id.part);
            let when = batches.iter().map(|batch| Compare::Modified(key(&batch.value), batch.revision)).collect();
            let then = batches.iter().map(|batch| Op::Delete { key: key(&batch.value) }).collect();
            taken += u32::from(self.parts.meta.txn(Txn { when, then }).await.map_err(meta)?.applied);
        }
        Ok(taken)
    }
}

fn exists(job: &JobName, name: &BackfillName) -> Status {
    error(Code::AlreadyExists, "BACKFILL_EXISTS", format!("job {job} has a backfill {name} already"))
}

/// The windows of a request's span, as far as they are planned: whatever is planned later runs the spec of now.
fn span(of: &Of, backfill: &v1::Backfill) -> Result<Span, Status> {
    let field = |name: &str, time: &Option<_>| {
        time.as_ref()
            .map(convert::time)
            .ok_or_else(|| invalid_field(name, "MISSING_FIELD", format!("{name} is missing")))
    };
    let (from, until) = (field("from_time", &backfill.from_time)?, field("until_time", &backfill.until_time)?);
    if from >= until {
        let message = format!("until_time {until} is not after from_time {from}");
        return Err(invalid_field("until_time", "OUT_OF_RANGE", message));
    }
    let zone =
        |cause: windrow_protocol::window::UnknownZone| error(Code::Internal, "UNKNOWN_TIME_ZONE", cause.to_string());
    let calendar = of.job.spec.window.calendar().map_err(zone)?;
    let through = of.view.progress.get(&of.job.name).map(|progress| &progress.value);
    let through = through.map(|Progress { finish_planned_through, .. }| *finish_planned_through).unwrap_or_default();
    let from = calendar.window_of(from).start;
    // The window that holds the last moment before `until`.
    let until = calendar.window_of(until.plus_micros(-1)).end.min(through);
    if from >= until {
        let message = format!("no window of job {} from {from} on is complete", of.job.name);
        return Err(error(Code::FailedPrecondition, "NOTHING_TO_DO", message));
    }
    Ok(Span { from, until })
}

#[tonic::async_trait]
impl BackfillService for Api {
    async fn create_backfill(
        &self,
        request: Request<v1::CreateBackfillRequest>,
    ) -> Result<Response<v1::CreateBackfillResponse>, Status> {
        Ok(Response::new(self.begin_backfill(request.into_inner()).await?))
    }

    async fn get_backfill(
        &self,
        request: Request<v1::GetBackfillRequest>,
    ) -> Result<Response<v1::GetBackfillResponse>, Status> {
        let (of, name, wish) = self.backfill(&request.into_inner().name).await?;
        Ok(Response::new(v1::GetBackfillResponse { backfill: Some(of.message(&name, &wish.value)) }))
    }

    async fn list_backfills(
        &self,
        request: Request<v1::ListBackfillsRequest>,
    ) -> Result<Response<v1::ListBackfillsResponse>, Status> {
        let request = request.into_inner();
        let of = self.backfills(&job_name("parent", &request.parent)?).await?;
        let all = of.all().map(|(name, wish)| (name.to_string(), of.message(name, &wish.value))).collect();
        let (backfills, next_page_token) = page(all, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListBackfillsResponse { backfills, next_page_token }))
    }

    async fn pause_backfill(
        &self,
        request: Request<v1::PauseBackfillRequest>,
    ) -> Result<Response<v1::PauseBackfillResponse>, Status> {
        let backfill = Some(self.set_paused(&request.into_inner().name, true).await?);
        Ok(Response::new(v1::PauseBackfillResponse { backfill }))
    }

    async fn resume_backfill(
        &self,
        request: Request<v1::ResumeBackfillRequest>,
    ) -> Result<Response<v1::ResumeBackfillResponse>, Status> {
        let backfill = Some(self.set_paused(&request.into_inner().name, false).await?);
        Ok(Response::new(v1::ResumeBackfillResponse { backfill }))
    }

    async fn cancel_backfill(
        &self,
        request: Request<v1::CancelBackfillRequest>,
    ) -> Result<Response<v1::CancelBackfillResponse>, Status> {
        let name = request.into_inner().name;
        let (of, backfill, wish) = self.backfill(&name).await?;
        let key = keys::wish(&of.job.name, &WishId::Backfill(backfill.clone()));
        // A window that is planned in part must be planned whole; after it, nothing more is.
        let flying = of.flying(&backfill);
        let then = match flying.values().find(|batches| is_in_part(batches)).and_then(|batches| batches.first()) {
            None => Op::Delete { key: key.clone() },
            Some(batch) => {
                let until = times(&batch.value).map_or(wish.value.next, |(_, end)| end);
                let spans =
                    wish.value.spans.iter().map(|span| Span { until: span.until.min(until), ..*span }).collect();
                Op::put(key.clone(), encode(&Wish { spans, paused: false, ..wish.value.clone() }))
            }
        };
        let gone = Txn { when: vec![Compare::Modified(key, wish.revision)], then: vec![then] };
        if !self.parts.meta.txn(gone).await.map_err(meta)?.applied {
            return Err(error(Code::Aborted, "CHANGED", "the backfill has gone on meanwhile; try again"));
        }
        // Looked at anew: nothing is planned for it any more.
        let of = self.backfills(&of.job.name).await?;
        let windows_taken_back = self.take_back(&of, &backfill).await?;
        Ok(Response::new(v1::CancelBackfillResponse { windows_taken_back }))
    }
}

#[cfg(test)]
mod tests;
