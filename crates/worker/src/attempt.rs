//! One try at one batch: from the plan to a marker that stands.

use std::path::{Path, PathBuf};

use windrow_ports::log::Bounds;
use windrow_ports::{Log, LogError};
use windrow_processing::ProcessingError;
use windrow_processing::parquet::{WrittenFile, read};
use windrow_protocol::commit::Verdict;
use windrow_protocol::marker::{Complete, FileEntry, Input, MARKER_VERSION, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{BatchId, FinishPlan, Part};
use windrow_protocol::revise::Amends;
use windrow_protocol::state::{Assignment, Summary, Task};
use windrow_protocol::volume::Seen;
use windrow_protocol::{AttemptId, JobSpec, Ledger, Offset, OffsetRange, Plan};
use windrow_storage::{Store, StoreError};

use crate::Tools;
use crate::compute::{self, Computed};

mod revision;

/// Why a try failed, by what becomes of the batch.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The log or the store can't be reached: works once it can.
    #[error("{0}")]
    Unavailable(String),
    /// May work when it is tried again, here or elsewhere.
    #[error("{0}")]
    Retry(String),
    /// Can't work: the batch is parked at once.
    #[error("{0}")]
    Park(String),
    /// A window of volume does not end in what the log holds.
    #[error("the window does not end before offset {}: it has {} records so far", .0.through, .0.records)]
    Short(Seen),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::NotFound(_) | StoreError::Local(_) => Self::Retry(error.to_string()),
            StoreError::Broken(_) | StoreError::Unusable(_) => Self::Park(error.to_string()),
        }
    }
}

impl From<LogError> for AttemptError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => Self::Unavailable(error.to_string()),
            // A broker may not know a topic for a moment: of its own restart, or a leader's move.
            LogError::OutOfRange { .. } | LogError::NoTopic(_) => Self::Retry(error.to_string()),
            LogError::Refused(_) | LogError::Exists(_) => Self::Park(error.to_string()),
        }
    }
}

impl From<ProcessingError> for AttemptError {
    fn from(error: ProcessingError) -> Self {
        match error {
            ProcessingError::Query(_) => Self::Park(error.to_string()),
            ProcessingError::Resources(_) | ProcessingError::Input(_) => Self::Retry(error.to_string()),
        }
    }
}

impl From<std::io::Error> for AttemptError {
    fn from(error: std::io::Error) -> Self {
        Self::Retry(format!("scratch disk: {error}"))
    }
}

/// Runs an assignment. On success a marker stands, by this attempt or another, and its files are published.
pub async fn run(tools: &Tools, assignment: &Assignment) -> Result<Summary, AttemptError> {
    let attempt = AttemptId::new(tools.names.next()).map_err(|error| AttemptError::Park(error.to_string()))?;
    let scratch = tools.scratch.join(attempt.as_str());
    let _cleared = ClearedAtTheEnd(scratch.clone());
    let Assignment { id, spec, skip, .. } = assignment;
    let run = Run { tools, id, spec, skip: skip.as_ref(), attempt, scratch };
    match &assignment.task {
        Task::Map(plan) => run.map(plan).await,
        Task::Finish(plan) => run.finish(plan).await,
    }
}

/// An attempt's scratch folder, made with its first file and removed when the attempt ends or is aborted.
struct ClearedAtTheEnd(PathBuf);

impl Drop for ClearedAtTheEnd {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.0.display(), %error, "scratch folder could not be removed");
            }
            _ => {}
        }
    }
}

struct Run<'a> {
    tools: &'a Tools,
    id: &'a BatchId,
    spec: &'a JobSpec,
    /// Why the batch is given up, if it is.
    skip: Option<&'a String>,
    attempt: AttemptId,
    scratch: PathBuf,
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
            "{} stands already, with another plan: an earlier job of this name has put its output there. Nothing was \
             changed. Apply the job under another name, or delete it, move {}/ away in the store, and apply it again",
            self.marker_path(),
            self.id.job
        )))
    }

    async fn map(&self, plan: &Plan) -> Result<Summary, AttemptError> {
        let store = &self.tools.store;
        if let Some(found) = store.read_marker::<Marker>(&self.marker_path()).await? {
            self.expect_same(found.plan.is_same_work(plan))?;
            // Somebody committed before: finish what they may have left.
            store.publish(&found).await?;
            return Ok(summary(&found, self.result()));
        }
        let staged = match (&plan.revises, self.skip) {
            (Some(revises), _) => self.revise(plan, revises).await,
            (None, Some(_)) => self.give_up(plan).await,
            (None, None) => self.compute(plan).await,
        };
        self.clear_if_failed(&staged).await;
        let Staged { files, ledger, quarantine_reasons, absent, amends, carried, skipped, found } = staged?;
        let plan = &found.map_or_else(|| plan.clone(), |found| plan.with_end(found));
        let marker = Marker {
            version: MARKER_VERSION,
            job: self.id.job.clone(),
            plan: plan.clone(),
            attempt: self.attempt.clone(),
            ledger,
            files,
            quarantine_reasons,
            absent,
            skipped: self.skip.cloned().or(skipped),
            amends,
            carried,
            committed_at: self.tools.clock.now(),
        };
        let (verdict, stands) = store.commit(&self.marker_path(), &marker).await?;
        self.conclude(verdict).await;
        self.expect_same(stands.plan.is_same_work(plan))?;
        store.publish(&stands).await?;
        Ok(summary(&stands, self.result()))
    }

    /// What a batch comes to that somebody has given up. He knows that its readings are lost. The count is of offsets: all
    /// that can hold one of them, also those that other windows read, too. Of a window of volume the end must be found all
    /// the same: the next one begins there.
    async fn give_up(&self, plan: &Plan) -> Result<Staged, AttemptError> {
        let found = match plan.volume() {
            Some(_) => {
                let work = self.work(plan, vec![self.check_range(plan).await?], false);
                self.tools.place.run(work.find()).await?
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
            folder: self.scratch.clone(),
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
                // A window without readings has no rows, also where an aggregate would give one of nothing.
                let written = if dataset == result && ledger.kept == 0 { Vec::new() } else { written };
                files.extend(staging.stage(dataset, 0, written).await?);
            }
            Ok(Staged { files, quarantine_reasons, absent, amends, found, ..Staged::nothing(ledger) })
        };
        self.tools.place.run(staged).await
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
            None => plan.read.end,
        };
        if log_start > plan.read.start {
            let lost = OffsetRange::new(plan.read.start, log_start.min(end));
            tracing::error!(batch = %self.id, %lost, "data loss: the log dropped planned offsets before they were read");
        }
        Ok(OffsetRange::new(log_start.max(plan.read.start), end))
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

    /// The window's last step: the reduce over all partitions' outputs, and the `_complete` marker.
    async fn finish(&self, plan: &FinishPlan) -> Result<Summary, AttemptError> {
        let store = &self.tools.store;
        if let Some(found) = store.read_marker::<Complete>(&self.marker_path()).await? {
            self.expect_same(found.plan.is_same_work(plan))?;
            store.publish(&found).await?;
            return Ok(complete_summary(&found));
        }
        let base = self.complete_before(plan).await?;
        let mut inputs = Vec::new();
        let (mut ledger, mut rows, mut parts) = (Ledger::default(), 0, Vec::new());
        for partition in &plan.partitions {
            let path =
                paths::marker(&self.id.job, self.id.window, Part::Partition(*partition), plan.revision_of(*partition));
            let missing = || AttemptError::Retry(format!("marker {path} of a committed batch is not there"));
            let marker = store.read_marker::<Marker>(&path).await?.ok_or_else(missing)?;
            ledger = ledger.plus(&marker.ledger);
            let (attempt, skipped) = (marker.attempt.clone(), marker.skipped.clone());
            inputs.push(Input { partition: *partition, attempt, skipped });
            let is_result = |file: &FileEntry| file.is_in(&self.id.job, self.result());
            let results: Vec<FileEntry> = marker.files.into_iter().filter(is_result).collect();
            rows += results.iter().map(|file| file.rows).sum::<u64>();
            parts.extend(results);
        }
        let mut files = Vec::new();
        if self.spec.reduce.is_some() {
            files = match (self.skip, base) {
                (None, base) => {
                    let staged = self.reduce(parts, ledger.kept, base).await;
                    self.clear_if_failed(&staged).await;
                    staged?
                }
                // What is given up is the revision: the result that stands stays.
                (Some(_), Some(base)) => self.results(&base.files),
                (Some(_), None) => Vec::new(),
            };
            rows = files.iter().filter(|file| file.is_in(&self.id.job, Dataset::Data)).map(|file| file.rows).sum();
        }
        let complete = Complete {
            version: MARKER_VERSION,
            job: self.id.job.clone(),
            plan: plan.clone(),
            attempt: self.attempt.clone(),
            files,
            rows,
            ledger,
            inputs,
            skipped: self.skip.cloned(),
            committed_at: self.tools.clock.now(),
        };
        let (verdict, stands) = store.commit(&self.marker_path(), &complete).await?;
        self.conclude(verdict).await;
        self.expect_same(stands.plan.is_same_work(plan))?;
        store.publish(&stands).await?;
        Ok(complete_summary(&stands))
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

/// What an attempt has in the store, not committed yet, and what its marker says beside it.
struct Staged {
    files: Vec<FileEntry>,
    ledger: Ledger,
    quarantine_reasons: Vec<String>,
    absent: Vec<String>,
    amends: Option<Amends>,
    carried: Option<OffsetRange>,
    /// The batch was given up before, and is not made up for.
    skipped: Option<String>,
    /// Of a window of volume: where it ends.
    found: Option<Seen>,
}

impl Staged {
    fn nothing(ledger: Ledger) -> Self {
        let (files, quarantine_reasons, absent) = (Vec::new(), Vec::new(), Vec::new());
        Self { files, ledger, quarantine_reasons, absent, amends: None, carried: None, skipped: None, found: None }
    }
}

/// Brings an attempt's files to the store. Blocks on disk.
struct Staging {
    store: Store,
    id: BatchId,
    attempt: AttemptId,
}

impl Staging {
    /// `first`: the number of the first file.
    async fn stage(
        &self,
        dataset: Dataset,
        first: u32,
        written: Vec<WrittenFile>,
    ) -> Result<Vec<FileEntry>, AttemptError> {
        let mut files = Vec::new();
        for (number, file) in (first..).zip(written) {
            let staged = paths::staged(&self.id.job, self.id.window, self.id.part, &self.attempt, dataset, number);
            let path = paths::file(&self.id.job, dataset, self.id.window, self.id.part, number);
            files.push(self.store.stage(&file.path, &staged, &path, file.rows).await?);
        }
        Ok(files)
    }
}

/// Brings published parts to scratch disk. Blocks on it.
async fn fetch(store: &Store, folder: &Path, parts: &[FileEntry]) -> Result<Vec<PathBuf>, AttemptError> {
    std::fs::create_dir_all(folder)?;
    let mut local = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let path = folder.join(format!("part-{i}.parquet"));
        store.download(&part.path, &path).await?;
        check_rows(&path, part)?;
        local.push(path);
    }
    Ok(local)
}

/// A part must be what its marker says, before anything is computed from it.
fn check_rows(path: &Path, part: &FileEntry) -> Result<(), AttemptError> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes != part.bytes {
        return Err(AttemptError::Park(format!("{} has {bytes} bytes, its marker says {}", part.path, part.bytes)));
    }
    read(path).map(drop).map_err(|error| AttemptError::Park(format!("{}: {error}", part.path)))
}

fn summary(marker: &Marker, result: Dataset) -> Summary {
    let rows = marker.files.iter().filter(|file| file.is_in(&marker.job, result)).map(|file| file.rows).sum();
    let bytes = marker.files.iter().map(|file| file.bytes).sum();
    let found = marker.plan.volume().and_then(|cut| cut.found);
    Summary { rows, bytes, ledger: marker.ledger, amends: marker.amends.clone(), found }
}

fn complete_summary(complete: &Complete) -> Summary {
    let bytes = complete.files.iter().map(|file| file.bytes).sum();
    Summary { rows: complete.rows, bytes, ledger: complete.ledger, amends: None, found: None }
}
