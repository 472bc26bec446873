//! One try at one batch: from the plan to a marker that stands.

use windrow_ports::Log;
use windrow_ports::log::{Bounds, LogError};
use windrow_processing::parquet::WrittenFile;
use windrow_protocol::commit::Verdict;
use windrow_protocol::marker::{Committed, FileEntry, MARKER_VERSION, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::BatchId;
use windrow_protocol::state::{Assignment, Summary, Task};
use windrow_protocol::{AttemptId, JobSpec, Ledger, Offset, OffsetRange, Plan};
use windrow_storage::StoreError;

use crate::Tools;
use crate::compute::{self, Computed};
use crate::scratch::AttemptFolder;

mod error;
mod finish;
mod revision;
mod staging;

pub use error::AttemptError;
use staging::{Staged, Staging};

/// Runs an assignment. On success a marker stands, by this attempt or another, and its files are published.
pub async fn run(tools: &Tools, assignment: &Assignment) -> Result<Summary, AttemptError> {
    let attempt = AttemptId::new(tools.names.next()).map_err(|error| AttemptError::Park(error.to_string()))?;
    let scratch = AttemptFolder::new(tools.scratch.join(attempt.as_str()));
    let Assignment { id, spec, skip, .. } = assignment;
    let run = Run { tools, id, spec, skip: skip.as_ref(), attempt, scratch };
    match &assignment.task {
        Task::Map(plan) => run.map(plan).await,
        Task::Finish(plan) => run.finish(plan).await,
    }
}

struct Run<'a> {
    tools: &'a Tools,
    id: &'a BatchId,
    spec: &'a JobSpec,
    /// Why the batch is given up, if it is.
    skip: Option<&'a String>,
    attempt: AttemptId,
    scratch: AttemptFolder,
}

impl Run<'_> {
    fn marker_path(&self) -> String {
        paths::marker(&self.id.job, self.id.window, self.id.part, self.id.revision)
    }

    /// A marker that stands must be this batch's: of the same offsets and the same spec. One of an earlier job of this
    /// name would pass off its readings for those of this job.
    fn expect_same(&self, same: bool) -> Result<(), AttemptError> {
        if same {
            return Ok(());
        }
        Err(AttemptError::Park(format!(
            "{} stands already, with another plan: an earlier job of this name has put its output there, or a worker that \
             was away for long has committed by the spec of before. Nothing was changed. `windrow skip` goes on with what \
             stands, if it is of the same readings, and a backfill then computes the window anew. Otherwise apply the job \
             under another name, or delete it, move {}/ away in the store, and apply it again",
            self.marker_path(),
            self.id.job
        )))
    }

    async fn map(&self, plan: &Plan) -> Result<Summary, AttemptError> {
        let is_same = |found: &Marker| found.plan.is_same_work(plan) || self.goes_on_with(found, plan);
        if let Some(found) = self.standing(is_same).await? {
            return Ok(summary(&found, self.result()));
        }
        let staged = match (&plan.revises, self.skip) {
            (Some(revises), _) => self.revise(plan, revises).await,
            (None, Some(_)) => self.give_up(plan).await,
            (None, None) => self.compute(plan).await,
        };
        self.clear_if_failed(&staged).await;
        let Staged { files, ledger, quarantine_reasons, absent, amends, carried, damaged, skipped, found } = staged?;
        let marker = Marker {
            version: MARKER_VERSION,
            job: self.id.job.clone(),
            plan: found.map_or_else(|| plan.clone(), |found| plan.with_end(found)),
            attempt: self.attempt.clone(),
            ledger,
            files,
            quarantine_reasons,
            absent,
            skipped: self.skip.cloned().or(skipped),
            amends,
            carried,
            damaged,
            committed_at: self.tools.clock.now(),
        };
        Ok(summary(&self.commit(&marker, is_same).await?, self.result()))
    }

    /// Whether who gives the batch up goes on with a marker that stands, although another spec has made it: it is of the
    /// same readings, and its rows are where the last step looks for them.
    fn goes_on_with(&self, found: &Marker, plan: &Plan) -> bool {
        let other = if self.spec.reduce.is_some() { Dataset::Data } else { Dataset::Parts };
        let fits = || !found.files.iter().any(|file| file.is_in(&self.id.job, other));
        self.skip.is_some() && found.plan.is_same_readings(plan) && fits()
    }

    /// The batch's marker, if one stands. Somebody committed before: what they may have left to publish is published.
    async fn standing<M: Committed>(&self, is_same: impl Fn(&M) -> bool) -> Result<Option<M>, AttemptError> {
        let Some(found) = self.tools.store.read_marker::<M>(&self.marker_path()).await? else { return Ok(None) };
        self.expect_same(is_same(&found))?;
        match (self.tools.store.publish(&found).await, self.skip) {
            (Ok(()), _) => {}
            (Err(StoreError::Broken(what)), Some(reason)) => {
                tracing::error!(batch = %self.id, what, reason, "the window goes on without files that its marker names");
            }
            (Err(error @ StoreError::Broken(_)), None) => {
                return Err(AttemptError::Park(format!(
                    "{error}. `windrow skip` lets the window go on without it; a backfill then computes it anew"
                )));
            }
            (Err(error), _) => return Err(error.into()),
        }
        Ok(Some(found))
    }

    /// Puts the marker if none stands, and publishes what the one that stands then names. The one that stands.
    async fn commit<M: Committed>(&self, marker: &M, is_same: impl Fn(&M) -> bool) -> Result<M, AttemptError> {
        let (verdict, stands) = self.tools.store.commit(&self.marker_path(), marker).await?;
        self.conclude(verdict).await;
        self.expect_same(is_same(&stands))?;
        self.tools.store.publish(&stands).await?;
        Ok(stands)
    }

    /// Runs work that may block, apart from what keeps leases. The attempt's folder outlasts it, also when nobody waits
    /// for it any more.
    async fn run_apart<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AttemptError>> + Send + 'static,
    ) -> Result<T, AttemptError> {
        let folder = self.scratch.clone();
        let work = async move {
            let _folder = folder;
            work.await
        };
        self.tools.place.run(work).await
    }

    /// Runs work apart for as long as the job allows. What it may leave behind is its own: no marker names it, and none is
    /// put before it has ended. While the store can't be reached, that is what it has failed by.
    async fn run_in_time<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, AttemptError>> + Send + 'static,
    ) -> Result<T, AttemptError> {
        let limit = self.spec.attempt_timeout();
        // It is large, and would be moved from stack to stack.
        let work = Box::pin(work);
        tokio::select! {
            biased;
            ended = self.run_apart(work) => ended,
            () = self.tools.clock.sleep(limit.std()) => {
                self.tools.store.size(&self.marker_path()).await?;
                Err(AttemptError::Retry(format!(
                    "stopped after {limit}, spec.attemptTimeout: to read, compute and store the result took longer. Mend the SQL if \
                     it has no end; otherwise make that longer"
                )))
            }
        }
    }

    /// What a batch comes to that somebody has given up. He knows that its readings are lost. The count is of offsets: all
    /// that can hold one of them, also those that other windows read, too. Of a window of volume the end must be found all
    /// the same: the next one begins there.
    async fn give_up(&self, plan: &Plan) -> Result<Staged, AttemptError> {
        let found = match plan.volume() {
            Some(_) => {
                let work = self.work(plan, vec![self.check_range(plan).await?], false);
                self.run_apart(work.find()).await?
            }
            None => None,
        };
        let given_up = OffsetRange::new(plan.read.start, found.map_or(plan.read.end, |found| found.through));
        Ok(Staged { found, ..Staged::nothing(Ledger { lost_offsets: given_up.len(), ..Ledger::default() }) })
    }

    /// Work on a plan: the map over some of its ranges.
    fn work(&self, plan: &Plan, ranges: Vec<OffsetRange>, only_aside: bool) -> compute::Map {
        compute::Map {
            log: self.tools.log.clone(),
            shared: self.tools.shared.clone(),
            engine: self.tools.engine.clone(),
            spec: self.spec.clone(),
            plan: plan.clone(),
            ranges,
            only_aside,
            result: self.result(),
            folder: self.scratch.folder().to_owned(),
        }
    }

    /// Runs the map and stages what it made.
    async fn compute(&self, plan: &Plan) -> Result<Staged, AttemptError> {
        let range = self.check_range(plan).await?;
        let work = self.work(plan, vec![range], false);
        let (staging, result) = (self.staging(), self.result());
        let missing = range.start.0.abs_diff(plan.read.start.0);
        let staged = async move {
            let Computed { outputs, mut ledger, quarantine_reasons, absent, amends, found } = work.run().await?;
            ledger.lost_offsets = ledger.lost_offsets.max(missing);
            ledger.check().map_err(AttemptError::Park)?;
            let mut files = Vec::new();
            for (dataset, written) in outputs {
                let written = rows_of(dataset == result, &ledger, written);
                files.extend(staging.stage(dataset, 0, written).await?);
            }
            Ok(Staged { files, quarantine_reasons, absent, amends, found, ..Staged::nothing(ledger) })
        };
        self.run_in_time(staged).await
    }

    /// The dataset that a map's output is.
    fn result(&self) -> Dataset {
        if self.spec.reduce.is_some() { Dataset::Parts } else { Dataset::Data }
    }

    /// What of the topic the log has. The topic must be the planned one, not another of its name.
    async fn bounds(&self, plan: &Plan) -> Result<Bounds, AttemptError> {
        expect_topic(&*self.tools.log, plan).await?;
        let bounds = self.tools.log.bounds(&plan.topic, &[plan.partition]).await?;
        match bounds.into_iter().next() {
            Some(bounds) => Ok(bounds?),
            None => Err(AttemptError::Retry(format!("no bounds of {} partition {}", plan.topic, plan.partition))),
        }
    }

    /// First offset that the log still has.
    async fn log_start(&self, plan: &Plan) -> Result<Offset, AttemptError> {
        Ok(self.bounds(plan).await?.log_start)
    }

    /// What of the planned range the log still has; of a window of volume, where it may lie.
    async fn check_range(&self, plan: &Plan) -> Result<OffsetRange, AttemptError> {
        let Bounds { log_start, high_watermark } = self.bounds(plan).await?;
        let end = match plan.volume() {
            // It may lie anywhere in what the log holds; a broker that lags has less of it than was there already.
            Some(cut) => cut.sealed_at.unwrap_or(high_watermark.max(plan.read.start)),
            None if high_watermark < plan.read.end => {
                let (wanted, held) = (plan.read, OffsetRange::new(log_start, high_watermark));
                return Err(LogError::OutOfRange { wanted, held }.into());
            }
            None => plan.read.end,
        };
        if log_start > plan.read.start {
            let lost = OffsetRange::new(plan.read.start, log_start.min(end));
            tracing::error!(batch = %self.id, %lost, "data loss: the log dropped planned offsets before they were read");
        }
        Ok(OffsetRange::new(log_start.max(plan.read.start), end))
    }

    /// Of a marker's files those that readers look at now; not what it has kept of the revision before it.
    fn results(&self, files: &[FileEntry]) -> Vec<FileEntry> {
        files.iter().filter(|file| !file.is_kept(&self.id.job)).cloned().collect()
    }

    fn staging(&self) -> Staging {
        Staging { store: self.tools.store.clone(), id: self.id.clone(), attempt: self.attempt.clone() }
    }

    /// Clears up after a lost race.
    async fn conclude(&self, verdict: Verdict) {
        if let Verdict::Lost(winner) = verdict {
            tracing::info!(batch = %self.id, %winner, "another attempt has committed this batch");
            self.clear().await;
        }
    }

    /// Clears up after work that failed. Not after a commit that failed: its marker may stand and name the files.
    async fn clear_if_failed<T>(&self, staged: &Result<T, AttemptError>) {
        // Of a window that is not full nothing was staged.
        if staged.as_ref().is_err_and(|error| !matches!(error, AttemptError::Short(_))) {
            self.clear().await;
        }
    }

    /// Deletes this attempt's staged files, which no marker names. What can't be deleted now stays.
    async fn clear(&self) {
        let folder = paths::attempt(&self.id.job, self.id.window, self.id.part, &self.attempt);
        if let Err(error) = self.tools.store.delete_folder(&folder).await {
            tracing::warn!(%folder, %error, "staged files of an attempt without result could not be deleted");
        }
    }
}

/// The topic must be the planned one, not another of its name.
pub(crate) async fn expect_topic(log: &dyn Log, plan: &Plan) -> Result<(), AttemptError> {
    if log.topic(&plan.topic).await?.id == plan.topic_id {
        return Ok(());
    }
    Err(AttemptError::Park(format!(
        "topic {} was deleted and made again since the plan: its offsets {} are lost",
        plan.topic, plan.read
    )))
}

/// A window without readings has no rows in its result, also where an aggregate would give one of nothing.
fn rows_of(is_result: bool, ledger: &Ledger, written: Vec<WrittenFile>) -> Vec<WrittenFile> {
    if is_result && ledger.kept == 0 { Vec::new() } else { written }
}

fn summary(marker: &Marker, result: Dataset) -> Summary {
    let rows = marker.files.iter().filter(|file| file.is_in(&marker.job, result)).map(|file| file.rows).sum();
    let bytes = marker.files.iter().map(|file| file.bytes).sum();
    let found = marker.plan.volume().and_then(|cut| cut.found);
    Summary { rows, bytes, ledger: marker.ledger, amends: marker.amends.clone(), found }
}
