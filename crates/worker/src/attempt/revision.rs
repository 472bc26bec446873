//! Tries at a revision. The result that stands must never become less by it: what can't be computed whole is carried
//! forward, what is replaced is kept aside, and no published file is ever deleted; one that the new result does not have
//! is replaced by one without rows.

use arrow::datatypes::SchemaRef;
use windrow_processing::parquet::{WrittenFile, without_rows};
use windrow_processing::{map_schema, readings_schema, reduce_schema};
use windrow_protocol::marker::{Complete, FileEntry, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{FinishPlan, Part, Plan, Revises};
use windrow_protocol::revise::WishId;
use windrow_protocol::{JobSpec, Ledger, Offset, OffsetRange, Revision, revise};

use super::{AttemptError, Run, Staged, Staging, fetch};
use crate::compute::{self, Computed};
use crate::intake::quarantine_schema;

/// The files of the marker that is revised.
struct Before {
    revision: Revision,
    files: Vec<FileEntry>,
}

impl Before {
    fn of(&self, staging: &Staging, dataset: Dataset) -> usize {
        self.files.iter().filter(|file| file.is_in(&staging.id.job, dataset)).count()
    }
}

impl Run<'_> {
    /// Runs the map of a revision, or carries forward what stands.
    pub(super) async fn revise(&self, plan: &Plan, revises: &Revises) -> Result<Staged, AttemptError> {
        let base = match revises.base {
            None => None,
            Some(revision) => Some(self.marker_before(plan, revision).await?),
        };
        let log_start = match self.log_start(plan).await {
            // Whoever gives a revision up may do so because its topic is gone.
            Err(AttemptError::Park(_)) if self.skip.is_some() => Offset(i64::MAX),
            found => found?,
        };
        let lost = revise::lost(plan, log_start);
        // Late readings of what was given up make no result of it.
        let was_given_up = base.as_ref().is_some_and(|base| base.skipped.is_some());
        let was_given_up = was_given_up && matches!(revises.cause, WishId::Late(_));
        if lost.is_none() && self.skip.is_none() && !was_given_up {
            return self.compute_anew(plan, base).await;
        }
        if let Some(lost) = lost {
            tracing::error!(batch = %self.id, %lost, "the log has dropped what the revision reads: the result stays as it is");
        }
        let nothing = OffsetRange::new(plan.read.start, plan.read.start);
        self.carry(plan, base, log_start, lost.unwrap_or(nothing)).await
    }

    async fn marker_before(&self, plan: &Plan, revision: Revision) -> Result<Marker, AttemptError> {
        let path = paths::marker(&self.id.job, self.id.window, Part::Partition(plan.partition), revision);
        let missing = || AttemptError::Retry(format!("marker {path}, which is to be revised, is not there"));
        self.tools.store.read_marker::<Marker>(&path).await?.ok_or_else(missing)
    }

    /// The marker that a revision of a window's last step takes the place of; `None` for a first result, and within a run
    /// of empty windows.
    pub(super) async fn complete_before(&self, plan: &FinishPlan) -> Result<Option<Complete>, AttemptError> {
        let Some(before) = plan.revision.0.checked_sub(1) else { return Ok(None) };
        let path = paths::marker(&self.id.job, self.id.window, Part::Finish, Revision(before));
        match self.tools.store.read_marker::<Complete>(&path).await? {
            None if before > 0 => {
                Err(AttemptError::Retry(format!("marker {path}, which is to be revised, is not there")))
            }
            found => Ok(found),
        }
    }

    async fn compute_anew(&self, plan: &Plan, base: Option<Marker>) -> Result<Staged, AttemptError> {
        let work = self.work(plan, plan.ranges().collect(), false);
        let (staging, result, spec) = (self.staging(), self.result(), self.spec.clone());
        let folder = self.scratch.clone();
        let staged = async move {
            let Computed { outputs, ledger, quarantine_reasons, absent, .. } = work.run().await?;
            ledger.check().map_err(AttemptError::Park)?;
            let mut files = Vec::new();
            let before = base.map(|base| Before { revision: base.plan.revision, files: base.files });
            for (dataset, written) in outputs {
                let written = if dataset == result && ledger.kept == 0 { Vec::new() } else { written };
                files.extend(staging.stage_in_place(dataset, written, before.as_ref(), &spec, &folder).await?);
            }
            files.extend(staging.keep(before.as_ref()).await?);
            Ok(Staged { files, quarantine_reasons, absent, ..Staged::nothing(ledger) })
        };
        self.tools.place.run(staged).await
    }

    /// Leaves the result as it is, and sets aside what of the late readings can still be read.
    async fn carry(
        &self,
        plan: &Plan,
        base: Option<Marker>,
        log_start: Offset,
        lost: OffsetRange,
    ) -> Result<Staged, AttemptError> {
        let added = revise::added(plan.more(), base.as_ref().map_or(&[], |base| base.plan.more()));
        let there = added.into_iter().map(|range| OffsetRange::new(range.start.max(log_start), range.end));
        let work = self.work(plan, there.filter(|range| !range.is_empty()).collect(), true);
        let (staging, carried) = (self.staging(), self.results(base.as_ref().map_or(&[], |base| &base.files)));
        let staged = async move {
            let Computed { outputs, ledger, quarantine_reasons, .. } = work.run().await?;
            let (mut files, mut before, mut skipped) = (carried.clone(), Ledger::default(), None);
            let sides =
                outputs.into_iter().filter(|(dataset, _)| matches!(dataset, Dataset::Late | Dataset::Quarantine));
            let here = Before { revision: Revision::default(), files: carried };
            for (dataset, written) in sides {
                let first = here.of(&staging, dataset) as u32;
                files.extend(staging.stage(dataset, first, written).await?);
            }
            if let Some(base) = base {
                let data = Before { revision: base.plan.revision, files: base.files };
                files.extend(staging.keep(Some(&data)).await?);
                (before, skipped) = (base.ledger, base.skipped);
            }
            let ledger = before.plus(&ledger);
            ledger.check().map_err(AttemptError::Park)?;
            Ok(Staged { files, quarantine_reasons, carried: Some(lost), skipped, ..Staged::nothing(ledger) })
        };
        self.tools.place.run(staged).await
    }

    /// Of a marker's files those that readers look at now; not what it has kept of the revision before it.
    pub(super) fn results(&self, files: &[FileEntry]) -> Vec<FileEntry> {
        files.iter().filter(|file| !file.is_kept(&self.id.job)).cloned().collect()
    }

    /// Runs the reduce and stages what it made. `kept`: readings of the window; without any it has no rows.
    pub(super) async fn reduce(
        &self,
        parts: Vec<FileEntry>,
        kept: u64,
        base: Option<Complete>,
    ) -> Result<Vec<FileEntry>, AttemptError> {
        let (engine, spec, folder) = (self.tools.engine.clone(), self.spec.clone(), self.scratch.clone());
        let staging = self.staging();
        let reduce = async move {
            let mut written = Vec::new();
            if kept > 0 {
                let local = fetch(&staging.store, &folder, &parts).await?;
                let output = engine.reduce(&spec, local).await?;
                written = compute::write(&folder, Dataset::Data, output).await?;
            }
            let before = base.map(|base| Before { revision: base.plan.revision, files: base.files });
            let mut files = staging.stage_in_place(Dataset::Data, written, before.as_ref(), &spec, &folder).await?;
            files.extend(staging.keep(before.as_ref()).await?);
            Ok(files)
        };
        self.tools.place.run(reduce).await
    }
}

impl Staging {
    /// Stages a dataset's files, and one without rows for each that the revision before had beyond them.
    async fn stage_in_place(
        &self,
        dataset: Dataset,
        mut written: Vec<WrittenFile>,
        before: Option<&Before>,
        spec: &JobSpec,
        folder: &std::path::Path,
    ) -> Result<Vec<FileEntry>, AttemptError> {
        let had = before.map_or(0, |before| before.of(self, dataset));
        for number in written.len()..had {
            let path = folder.join(format!("no-rows-{}-{number:03}.parquet", dataset.folder()));
            without_rows(&path, &self.schema(dataset, spec).await?)?;
            written.push(WrittenFile { path, rows: 0 });
        }
        self.stage(dataset, 0, written).await
    }

    async fn schema(&self, dataset: Dataset, spec: &JobSpec) -> Result<SchemaRef, AttemptError> {
        let planned = match dataset {
            Dataset::Late => return Ok(readings_schema(spec)),
            Dataset::Quarantine => return Ok(quarantine_schema()),
            Dataset::Data if self.id.part == Part::Finish => reduce_schema(spec).await,
            Dataset::Data | Dataset::Parts => map_schema(spec).await,
        };
        planned.map_err(|refusal| AttemptError::Park(refusal.message))
    }

    /// Copies the files of the result that is about to be replaced, for those who want to see what it was. While this
    /// revision has no marker nobody replaces them; if they are something else already, another attempt has won.
    async fn keep(&self, before: Option<&Before>) -> Result<Vec<FileEntry>, AttemptError> {
        let Some(before) = before else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for (number, file) in (0..).zip(before.files.iter().filter(|file| file.rows > 0)) {
            let Some(path) = paths::kept(&self.id.job, self.id.window, before.revision, &file.path) else { continue };
            let staged = paths::staged_copy(&self.id.job, self.id.window, self.id.part, &self.attempt, number);
            let Some(copy) = self.store.stage_copy(file, &staged, &path).await? else {
                let what = format!("{} is not what its marker says: another attempt may have replaced it", file.path);
                return Err(AttemptError::Retry(what));
            };
            files.push(copy);
        }
        Ok(files)
    }
}
