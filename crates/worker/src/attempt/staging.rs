//! What an attempt has in the store before its marker stands: under names that no reader looks at.

use std::path::Path;

use arrow::datatypes::SchemaRef;
use windrow_processing::parquet::{WrittenFile, without_rows};
use windrow_processing::{map_schema, readings_schema, reduce_schema};
use windrow_protocol::marker::FileEntry;
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::revise::Amends;
use windrow_protocol::volume::Seen;
use windrow_protocol::{AttemptId, JobSpec, Ledger, OffsetRange, Revision};
use windrow_storage::{Store, StoreError};

use super::AttemptError;
use crate::intake::quarantine_schema;

/// What an attempt has in the store, not committed yet, and what its marker says beside it.
pub(super) struct Staged {
    pub(super) files: Vec<FileEntry>,
    pub(super) ledger: Ledger,
    pub(super) quarantine_reasons: Vec<String>,
    pub(super) absent: Vec<String>,
    pub(super) amends: Option<Amends>,
    pub(super) carried: Option<OffsetRange>,
    /// Files of the result before it that nothing is kept of.
    pub(super) damaged: Vec<String>,
    /// The batch was given up before, and is not made up for.
    pub(super) skipped: Option<String>,
    /// Of a window of volume: where it ends.
    pub(super) found: Option<Seen>,
}

impl Staged {
    pub(super) fn nothing(ledger: Ledger) -> Self {
        let (files, quarantine_reasons, absent, damaged) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (amends, carried, skipped, found) = (None, None, None, None);
        Self { files, ledger, quarantine_reasons, absent, amends, carried, damaged, skipped, found }
    }
}

/// The files of the marker that is revised.
pub(super) struct Before {
    pub(super) revision: Revision,
    pub(super) files: Vec<FileEntry>,
}

impl Before {
    pub(super) fn of(&self, staging: &Staging, dataset: Dataset) -> usize {
        self.files.iter().filter(|file| file.is_in(&staging.id.job, dataset)).count()
    }
}

/// Brings an attempt's files to the store. Blocks on disk.
pub(super) struct Staging {
    pub(super) store: Store,
    pub(super) id: BatchId,
    pub(super) attempt: AttemptId,
}

impl Staging {
    /// `first`: the number of the first file.
    pub(super) async fn stage(
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

    /// Stages a dataset's files, and one without rows for each that the revision before had beyond them.
    pub(super) async fn stage_in_place(
        &self,
        dataset: Dataset,
        mut written: Vec<WrittenFile>,
        before: Option<&Before>,
        spec: &JobSpec,
        folder: &Path,
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
    /// revision has no marker nobody replaces them; if they are something else already, another attempt has won. Also the
    /// paths of those that are damaged: nothing can be kept of them.
    pub(super) async fn keep(&self, before: Option<&Before>) -> Result<(Vec<FileEntry>, Vec<String>), AttemptError> {
        let (mut files, mut damaged) = (Vec::new(), Vec::new());
        let Some(before) = before else { return Ok((files, damaged)) };
        for (number, file) in (0..).zip(before.files.iter().filter(|file| file.rows > 0)) {
            let Some(path) = paths::kept(&self.id.job, self.id.window, before.revision, &file.path) else { continue };
            let staged = paths::staged_copy(&self.id.job, self.id.window, self.id.part, &self.attempt, number);
            match self.store.stage_copy(file, &staged, &path).await {
                Ok(Some(copy)) => files.push(copy),
                Ok(None) | Err(StoreError::NotFound(_)) => {
                    self.expect_no_winner(file).await?;
                    damaged.push(file.path.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((files, damaged))
    }

    /// Of a file that is gone, or not what its marker says: an attempt that has won replaces it, once its marker stands.
    /// Otherwise the file was damaged: there is nothing to keep of it, and the new result mends it.
    async fn expect_no_winner(&self, file: &FileEntry) -> Result<(), AttemptError> {
        let own = paths::marker(&self.id.job, self.id.window, self.id.part, self.id.revision);
        if self.store.size(&own).await?.is_some() {
            return Err(AttemptError::Retry(format!("{} is being replaced by another attempt", file.path)));
        }
        tracing::error!(batch = %self.id, file = file.path, "the result that is replaced is damaged: nothing is kept of it");
        Ok(())
    }
}
