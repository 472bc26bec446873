//! A window's last step.

use std::path::{Path, PathBuf};

use windrow_protocol::marker::{Complete, FileEntry, Input, MARKER_VERSION, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{FinishPlan, Part};
use windrow_protocol::state::Summary;
use windrow_protocol::{Ledger, Revision};
use windrow_storage::Store;

use super::staging::Before;
use super::{AttemptError, Run};
use crate::compute;

impl Run<'_> {
    /// The window's last step: the reduce over all partitions' outputs, and the `_complete` marker.
    pub(super) async fn finish(&self, plan: &FinishPlan) -> Result<Summary, AttemptError> {
        let store = &self.tools.store;
        let goes_on = |found: &Complete| self.skip.is_some() && found.plan.is_same_parts(plan);
        let is_same = |found: &Complete| found.plan.is_same_work(plan) || goes_on(found);
        if let Some(found) = self.standing(is_same).await? {
            return Ok(summary(&found));
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
        let (mut files, mut damaged) = (Vec::new(), Vec::new());
        if self.spec.reduce.is_some() {
            (files, damaged) = match (self.skip, base) {
                (None, base) => {
                    let staged = self.reduce(parts, ledger.kept, base).await;
                    self.clear_if_failed(&staged).await;
                    staged?
                }
                // What is given up is the revision: the result that stands stays.
                (Some(_), Some(base)) => (self.results(&base.files), Vec::new()),
                (Some(_), None) => (Vec::new(), Vec::new()),
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
            damaged,
            committed_at: self.tools.clock.now(),
        };
        Ok(summary(&self.commit(&complete, is_same).await?))
    }

    /// The marker that a revision of a window's last step takes the place of; `None` for a first result, and within a run
    /// of empty windows.
    async fn complete_before(&self, plan: &FinishPlan) -> Result<Option<Complete>, AttemptError> {
        let Some(before) = plan.revision.0.checked_sub(1) else { return Ok(None) };
        let path = paths::marker(&self.id.job, self.id.window, Part::Finish, Revision(before));
        match self.tools.store.read_marker::<Complete>(&path).await? {
            None if before > 0 => {
                Err(AttemptError::Retry(format!("marker {path}, which is to be revised, is not there")))
            }
            found => Ok(found),
        }
    }

    /// Runs the reduce and stages what it made; also the paths of what it replaces that is damaged. `kept`: readings of the window; without any it has no rows.
    async fn reduce(
        &self,
        parts: Vec<FileEntry>,
        kept: u64,
        base: Option<Complete>,
    ) -> Result<(Vec<FileEntry>, Vec<String>), AttemptError> {
        let (engine, spec, folder) = (self.tools.engine.clone(), self.spec.clone(), self.scratch.folder().to_owned());
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
            let (kept, damaged) = staging.keep(before.as_ref()).await?;
            files.extend(kept);
            Ok((files, damaged))
        };
        self.run_in_time(reduce).await
    }
}

/// Brings published parts to scratch disk: what is not as its marker says is no input. Blocks on the disk.
async fn fetch(store: &Store, folder: &Path, parts: &[FileEntry]) -> Result<Vec<PathBuf>, AttemptError> {
    std::fs::create_dir_all(folder)?;
    let mut local = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let path = folder.join(format!("part-{i}.parquet"));
        store.fetch(part, &path).await?;
        local.push(path);
    }
    Ok(local)
}

fn summary(complete: &Complete) -> Summary {
    let bytes = complete.files.iter().map(|file| file.bytes).sum();
    Summary { rows: complete.rows, bytes, ledger: complete.ledger, amends: None, found: None }
}
