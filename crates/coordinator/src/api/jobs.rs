//! `JobService`.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status};
use windrow_ports::meta::{Compare, Op, Txn};
use windrow_protocol::job::{JobSpec, LatePolicy};
use windrow_protocol::state::{BatchRecord, BatchState, JobRecord, keys};
use windrow_protocol::{JobName, Revision, Timestamp, paths};
use windrow_wire::convert;
use windrow_wire::status::error;
use windrow_wire::v1::job_service_server::JobService;
use windrow_wire::v1::{self, JobState};

use super::{Api, encode, job_name, meta, page};
use crate::view::{Versioned, View};

/// How often a watched job is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How long a look into the store may keep a job from being applied.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Tries of a change that meets another one.
const CHANGE_TRIES: usize = 8;

/// A job with what is known of it.
pub fn message(job: &Versioned<JobRecord>, view: &View) -> v1::Job {
    let record = &job.value;
    let progress = view.progress.get(&record.name).map(|progress| &progress.value);
    let batches = || view.batches.get(&record.name).into_iter().flatten();
    let count =
        |wanted: fn(&BatchState) -> bool| batches().filter(|(_, batch)| wanted(&batch.value.state)).count() as u64;
    // A window that is run again stays complete.
    let first = batches().filter(|(_, batch)| batch.value.id.revision == Revision::default());
    let first_open = first.filter_map(|((window, _), _)| window.time()).min();
    // Windows of volume are not in the order of time.
    let by_time = record.spec.window.volume().is_none();
    let through = progress.filter(|_| by_time).map(|progress| progress.finish_planned_through);
    let problem = view.problems.get(&record.name).cloned().unwrap_or_default();
    let state = match () {
        () if record.deleting => JobState::Deleting,
        () if record.paused.is_some() => JobState::Paused,
        () if !problem.is_empty() => JobState::Blocked,
        () => JobState::Running,
    };
    v1::Job {
        name: format!("jobs/{}", record.name),
        labels: record.labels.clone(),
        spec: Some(convert::spec(&record.spec)),
        state: state.into(),
        generation: record.generation,
        etag: job.revision.to_string(),
        create_time: Some(convert::timestamp(record.created_at)),
        update_time: Some(convert::timestamp(record.updated_at)),
        status: Some(v1::JobStatus {
            windows_complete: progress.map_or(0, |progress| progress.windows_complete),
            complete_through: through.map(|t| convert::timestamp(first_open.map_or(t, |open| open.min(t)))),
            batches_pending: count(|state| *state == BatchState::Pending),
            batches_running: count(|state| matches!(state, BatchState::Assigned { .. })),
            batches_failed: count(|state| *state == BatchState::Failed),
            problem,
            pause_note: record.paused.clone().unwrap_or_default(),
            revisions_pending: view.revisions_pending(&record.name),
        }),
    }
}

fn exists(job: &JobRecord) -> Status {
    let gone = if job.deleting { " and is being deleted; try again when it is gone" } else { "" };
    error(Code::AlreadyExists, "JOB_EXISTS", format!("job {} exists already{gone}", job.name))
}

/// A job that is on its way out takes no changes.
fn alive(job: &JobRecord) -> Result<(), Status> {
    if !job.deleting {
        return Ok(());
    }
    Err(error(Code::FailedPrecondition, "JOB_DELETING", format!("job {} is being deleted", job.name)))
}

/// How a change of a job is made.
#[derive(Debug, Clone, Copy, Default)]
struct How<'a> {
    /// The revision that the change is meant for; empty: whatever is there.
    etag: &'a str,
    /// Make it, or only see whether it could be made.
    validate_only: bool,
    /// What else must hold.
    when: Option<&'a Compare>,
}

impl Api {
    /// Changes a stored job; done again when another change came between. The record as it then is.
    async fn change(
        &self,
        name: &JobName,
        how: How<'_>,
        mut change: impl FnMut(&mut JobRecord) -> Result<(), Status>,
    ) -> Result<Versioned<JobRecord>, Status> {
        for _ in 0..CHANGE_TRIES {
            let mut job = self.job(name).await?;
            if !how.etag.is_empty() && how.etag != job.revision.to_string() {
                let message = format!("job {name} was changed since: get it again, and repeat your change");
                return Err(error(Code::Aborted, "ETAG_MISMATCH", message));
            }
            change(&mut job.value)?;
            if how.validate_only {
                return Ok(job);
            }
            job.value.updated_at = self.now();
            let key = keys::job(name);
            let then = vec![
                Op::put(key.clone(), encode(&job.value)),
                Op::put(keys::spec(name, &job.value.spec.hash()), encode(&job.value.spec)),
            ];
            let when = [Compare::Modified(key, job.revision)].into_iter().chain(how.when.cloned()).collect();
            let done = self.parts.meta.txn(Txn { when, then }).await;
            let done = done.map_err(meta)?;
            if done.applied {
                return Ok(Versioned { value: job.value, revision: done.revision });
            }
        }
        let message = format!("job {name} is being changed by others; try again");
        Err(error(Code::Aborted, "CONTENDED", message))
    }

    async fn create(&self, request: v1::CreateJobRequest) -> Result<(v1::Job, Vec<String>), Status> {
        let job = request.job.unwrap_or_default();
        let (file, checked) = self.check(&job).await;
        let mut warnings = checked.into_result()?;
        // Without a file there was a violation.
        let Some(file) = file else { return Err(Status::internal("a job without file or violation")) };
        let taken = self.parts.meta.get(&keys::job(&file.metadata.name)).await.map_err(meta)?;
        if taken.is_none() {
            warnings.extend(self.expect_no_output(&file.metadata.name).await?);
        }
        if request.validate_only {
            let taken = taken.and_then(|item| serde_json::from_slice::<JobRecord>(&item.value).ok());
            let again = |taken: &JobRecord| !request.request_id.is_empty() && taken.request_id == request.request_id;
            return match taken {
                Some(taken) if !again(&taken) => Err(exists(&taken)),
                _ => Ok((job, warnings)),
            };
        }
        let now = self.now();
        let windrow_protocol::job::Metadata { name, labels } = file.metadata;
        let request_id = request.request_id.clone();
        let record = JobRecord { labels, request_id, ..JobRecord::new(name, file.spec, now) };
        let key = keys::job(&record.name);
        let then = vec![
            Op::put(key.clone(), encode(&record)),
            Op::put(keys::spec(&record.name, &record.spec.hash()), encode(&record.spec)),
        ];
        let made = self.parts.meta.txn(Txn { when: vec![Compare::Absent(key)], then }).await.map_err(meta)?.applied;
        let stored = self.job(&record.name).await?;
        let same = !request.request_id.is_empty() && stored.value.request_id == request.request_id;
        if !made && !same {
            return Err(exists(&stored.value));
        }
        Ok((self.message(&stored).await?, warnings))
    }

    /// Refuses a job to amend farther back than to the windows that are left: readings that come late for those that have
    /// gone would count as amended, and be in no set. What must hold until the job is changed.
    async fn expect_within_reach(&self, name: &JobName, spec: &JobSpec) -> Result<Option<Compare>, Status> {
        let rule = spec.late_rule();
        if rule.policy != LatePolicy::Amend {
            return Ok(None);
        }
        let key = keys::retired(name);
        let Some(item) = self.parts.meta.get(&key).await.map_err(meta)? else { return Ok(Some(Compare::Absent(key))) };
        let unread = |error| Status::internal(format!("{key}: {error}; leave amendReach as it was"));
        let gone: Option<Timestamp> = serde_json::from_slice(&item.value).map_err(unread)?;
        let view = self.job_view(name).await?;
        let planned = view.progress.get(name).map(|progress| progress.value.finish_planned_through);
        // Batches that may run by the new rule: those that say what is late, and have not said so.
        let runs = |batch: &BatchRecord| {
            batch.id.revision == Revision::default() && !matches!(batch.state, BatchState::Committed(_))
        };
        let flying = view.batches.get(name).into_iter().flatten().filter(|(_, batch)| runs(&batch.value));
        let oldest = flying.filter_map(|((window, _), _)| window.time()).chain(planned).min();
        if let (Some(gone), Some(oldest)) = (gone, oldest)
            && gone >= oldest.plus_micros(-rule.reach.micros())
        {
            let message = format!(
                "spec.late: amend with spec.amendReach {} goes back to windows that spec.output.retention has removed (those \
                 before {gone}): late readings of them would be in no set. Keep the reach as it was, or make it longer \
                 when that time is out of its reach (the oldest window to come starts at {oldest})",
                rule.reach
            );
            return Err(error(Code::FailedPrecondition, "BEYOND_RETENTION", message));
        }
        Ok(Some(Compare::Modified(key, item.mod_revision)))
    }

    /// Refuses a new job where an earlier one of its name has left its output: some windows would be taken for done, the
    /// others would be mixed in. A warning if nobody can tell.
    async fn expect_no_output(&self, name: &JobName) -> Result<Option<String>, Status> {
        let looking = tokio::time::timeout(STORE_PATIENCE, self.parts.store.folders(name.as_str()));
        let unknown = |why: String| {
            Ok(Some(format!("nobody could look whether an earlier job {name} has left output in the store: {why}")))
        };
        // What attempts have staged is no output.
        let staging = paths::staging(name).rsplit('/').next().unwrap_or_default().to_owned();
        let output = |folders: Vec<String>| folders.into_iter().filter(|folder| *folder != staging).collect::<Vec<_>>();
        match looking.await.map(|found| found.map(output)) {
            Ok(Ok(folders)) if folders.is_empty() => Ok(None),
            Ok(Ok(folders)) => {
                let message = format!(
                    "the store holds the output of an earlier job {name} ({} under {}/{name}/): move or delete that \
                     folder first, or apply the job under another name",
                    folders.join(", "),
                    self.parts.store.url()
                );
                Err(error(Code::FailedPrecondition, "OUTPUT_EXISTS", message))
            }
            Ok(Err(cause)) => unknown(cause.to_string()),
            Err(_) => unknown(format!("no answer within {} s", STORE_PATIENCE.as_secs())),
        }
    }

    async fn update(&self, request: v1::UpdateJobRequest) -> Result<(v1::Job, Vec<String>), Status> {
        let job = request.job.unwrap_or_default();
        let (file, checked) = self.check(&job).await;
        let mut warnings = checked.into_result()?;
        let Some(file) = file else { return Err(Status::internal("a job without file or violation")) };
        let within_reach = self.expect_within_reach(&file.metadata.name, &file.spec).await?;
        let mut changes_kind = false;
        let change = |record: &mut JobRecord| {
            alive(record)?;
            let fixed = [
                ("spec.source.topic", record.spec.source.topic == file.spec.source.topic),
                ("spec.window", record.spec.window == file.spec.window),
                // Which window a record belongs to: two batches with different answers would both leave it to the other.
                ("spec.source.format", record.spec.source.format == file.spec.source.format),
                ("spec.source.json", record.spec.source.json == file.spec.source.json),
            ];
            if let Some((path, _)) = fixed.iter().find(|(_, same)| !same) {
                let message = format!(
                    "{path} can't change while a job lives: its windows are counted by it; apply a job of another name"
                );
                return Err(error(Code::FailedPrecondition, "FIXED_FIELD", message));
            }
            if record.spec != file.spec {
                record.generation += 1;
            }
            changes_kind = record.spec.reduce.is_some() != file.spec.reduce.is_some();
            record.spec = file.spec.clone();
            record.labels = file.metadata.labels.clone();
            Ok(())
        };
        let how = How { etag: &job.etag, validate_only: request.validate_only, when: within_reach.as_ref() };
        let changed = self.change(&file.metadata.name, how, change).await?;
        if changes_kind {
            let what = if file.spec.reduce.is_some() { "gets a reduce" } else { "loses its reduce" };
            warnings.push(format!(
                "the job {what}: from now on its results are of another kind than those that it has, and those can't be run \
                 again; apply it under another name to keep one kind"
            ));
        }
        Ok((self.message(&changed).await?, warnings))
    }
}

#[tonic::async_trait]
impl JobService for Api {
    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::CreateJobResponse>, Status> {
        let (job, warnings) = self.create(request.into_inner()).await?;
        Ok(Response::new(v1::CreateJobResponse { job: Some(job), warnings }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let job = self.response(&job_name("name", &request.into_inner().name)?).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let view = View::new(&self.parts.meta.list(keys::JOBS).await.map_err(meta)?);
        let jobs = view.jobs.into_iter().map(|(name, job)| (name.to_string(), job)).collect();
        let (page, next_page_token) = page(jobs, request.page_size, &request.page_token)?;
        let mut jobs = Vec::with_capacity(page.len());
        for job in &page {
            jobs.push(self.message(job).await?);
        }
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token }))
    }

    async fn update_job(
        &self,
        request: Request<v1::UpdateJobRequest>,
    ) -> Result<Response<v1::UpdateJobResponse>, Status> {
        let (job, warnings) = self.update(request.into_inner()).await?;
        Ok(Response::new(v1::UpdateJobResponse { job: Some(job), warnings }))
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let request = request.into_inner();
        let mark = |record: &mut JobRecord| {
            record.deleting = true;
            Ok(())
        };
        let how = How { validate_only: request.validate_only, ..How::default() };
        self.change(&job_name("name", &request.name)?, how, mark).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    async fn pause_job(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::PauseJobResponse>, Status> {
        let request = request.into_inner();
        let pause = |record: &mut JobRecord| {
            alive(record)?;
            record.paused = Some(request.note.clone());
            Ok(())
        };
        let how = How { validate_only: request.validate_only, ..How::default() };
        let paused = self.change(&job_name("name", &request.name)?, how, pause).await?;
        Ok(Response::new(v1::PauseJobResponse { job: Some(self.message(&paused).await?) }))
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::ResumeJobResponse>, Status> {
        let request = request.into_inner();
        let resume = |record: &mut JobRecord| {
            alive(record)?;
            record.paused = None;
            Ok(())
        };
        let how = How { validate_only: request.validate_only, ..How::default() };
        let resumed = self.change(&job_name("name", &request.name)?, how, resume).await?;
        Ok(Response::new(v1::ResumeJobResponse { job: Some(self.message(&resumed).await?) }))
    }

    async fn validate_job(
        &self,
        request: Request<v1::ValidateJobRequest>,
    ) -> Result<Response<v1::ValidateJobResponse>, Status> {
        let (_, checked) = self.check(&request.into_inner().job.unwrap_or_default()).await;
        Ok(Response::new(v1::ValidateJobResponse { checks: checked.checks }))
    }

    type WatchJobStream = BoxStream<'static, Result<v1::WatchJobResponse, Status>>;

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let name = job_name("name", &request.into_inner().name)?;
        let first = self.response(&name).await?;
        let (api, clock, stop) = (self.clone(), self.parts.clock.clone(), self.stop.clone());
        let changes = futures::stream::unfold((first.clone(), false), move |(last, over)| {
            let (api, clock, name) = (api.clone(), clock.clone(), name.clone());
            async move {
                if over {
                    return None;
                }
                loop {
                    clock.sleep(WATCH_INTERVAL).await;
                    match api.response(&name).await {
                        Ok(job) if job == last => {}
                        Ok(job) => return Some((Ok(v1::WatchJobResponse { job: Some(job.clone()) }), (job, false))),
                        Err(status) => return Some((Err(status), (last, true))),
                    }
                }
            }
        });
        let first = futures::stream::iter([Ok(v1::WatchJobResponse { job: Some(first) })]);
        // A server that shuts down waits for its streams, and this one has no end of its own.
        Ok(Response::new(first.chain(changes).take_until(stop.cancelled_owned()).boxed()))
    }
}
