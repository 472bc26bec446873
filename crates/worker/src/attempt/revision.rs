//! Tries at a revision. The result that stands must never become less by it: what can't be computed whole is carried
//! forward, what is replaced is kept aside, and no published file is ever deleted; one that the new result does not have
//! is replaced by one without rows.

use windrow_protocol::marker::Marker;
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{Part, Plan, Revises};
use windrow_protocol::revise::WishId;
use windrow_protocol::{Ledger, Offset, OffsetRange, Revision, revise};

use super::staging::{Before, Staged};
use super::{AttemptError, Run, rows_of};
use crate::compute::Computed;
use crate::intake::MAX_REASONS;

impl Run<'_> {
    /// Runs the map of a revision, or carries forward what stands.
    pub(super) async fn revise(&self, plan: &Plan, revises: &Revises) -> Result<Staged, AttemptError> {
        let base = self.before(plan, revises.base).await?;
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

    /// The marker of the result that a revision is to replace. A partition that had nothing for the window has none; if
    /// one stands all the same, it was not seen by whoever planned this.
    async fn before(&self, plan: &Plan, base: Option<Revision>) -> Result<Option<Marker>, AttemptError> {
        let (partition, revision) = (Part::Partition(plan.partition), base.unwrap_or_default());
        let path = paths::marker(&self.id.job, self.id.window, partition, revision);
        let marker = self.tools.store.read_marker::<Marker>(&path).await?;
        match (base, &marker) {
            (None, None) | (Some(_), Some(_)) => Ok(marker),
            (Some(_), None) => Err(AttemptError::Retry(format!("marker {path}, which is to be revised, is not there"))),
            (None, Some(_)) => Err(AttemptError::Park(format!(
                "{path} stands, but the revision was planned as if it did not: the coordinator looks into another store, \
                 or did. Nothing was changed"
            ))),
        }
    }

    async fn compute_anew(&self, plan: &Plan, base: Option<Marker>) -> Result<Staged, AttemptError> {
        let work = self.work(plan, plan.ranges().collect(), false);
        let (staging, result, spec) = (self.staging(), self.result(), self.spec.clone());
        let folder = self.scratch.folder().to_owned();
        let staged = async move {
            let Computed { outputs, ledger, quarantine_reasons, absent, .. } = work.run().await?;
            ledger.check().map_err(AttemptError::Park)?;
            let mut files = Vec::new();
            let before = base.map(|base| Before { revision: base.plan.revision, files: base.files });
            for (dataset, written) in outputs {
                let written = rows_of(dataset == result, &ledger, written);
                files.extend(staging.stage_in_place(dataset, written, before.as_ref(), &spec, &folder).await?);
            }
            let (kept, damaged) = staging.keep(before.as_ref()).await?;
            files.extend(kept);
            Ok(Staged { files, quarantine_reasons, absent, damaged, ..Staged::nothing(ledger) })
        };
        self.run_in_time(staged).await
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
            let (mut reasons, mut absent) = (Vec::new(), Vec::new());
            let sides =
                outputs.into_iter().filter(|(dataset, _)| matches!(dataset, Dataset::Late | Dataset::Quarantine));
            let here = Before { revision: Revision::default(), files: carried };
            for (dataset, written) in sides {
                let first = here.of(&staging, dataset) as u32;
                files.extend(staging.stage(dataset, first, written).await?);
            }
            if let Some(base) = base {
                let data = Before { revision: base.plan.revision, files: base.files };
                // What is damaged stays named by this marker, too.
                files.extend(staging.keep(Some(&data)).await?.0);
                (before, skipped) = (base.ledger, base.skipped);
                (reasons, absent) = (base.quarantine_reasons, base.absent);
            }
            let ledger = before.plus(&ledger);
            ledger.check().map_err(AttemptError::Park)?;
            reasons.extend(quarantine_reasons);
            reasons.truncate(MAX_REASONS);
            Ok(Staged {
                files,
                quarantine_reasons: reasons,
                absent,
                carried: Some(lost),
                skipped,
                ..Staged::nothing(ledger)
            })
        };
        self.run_in_time(staged).await
    }
}
