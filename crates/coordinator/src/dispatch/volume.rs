//! What the commit of a window of volume means for what comes next. Pure.

use std::collections::BTreeMap;

use windrow_protocol::cut::Cursor;
use windrow_protocol::plan::{BatchId, FinishPlan, Part};
use windrow_protocol::state::{BatchRecord, BatchState, Task};
use windrow_protocol::{PartitionId, Plan};

use crate::view::View;

/// A window of volume that has ended.
pub struct Ended {
    pub partition: PartitionId,
    /// Where the partition's next window begins.
    pub cursor: Cursor,
    /// At which the cursor before it was seen.
    pub revision: i64,
    pub last_step: BatchRecord,
}

/// What follows from a batch, if it is that of a window of volume and is committed now.
pub fn ended(view: &View, batch: &BatchRecord) -> Option<Ended> {
    let (Task::Map(plan), BatchState::Committed(summary)) = (&batch.task, &batch.state) else { return None };
    let found = plan.volume().and(summary.found)?;
    // Without a cursor the job is being removed.
    let cursor = view.cursors.get(&batch.id.job)?.get(&plan.partition)?;
    if cursor.value.end != plan.owned.start || found.through <= plan.owned.start {
        tracing::error!(batch = %batch.id, end = %found.through, cursor = %cursor.value.end, "a window ends where none began");
        return None;
    }
    Some(Ended {
        partition: plan.partition,
        cursor: cursor.value.after(&found),
        revision: cursor.revision,
        last_step: last_step(batch, &plan.with_end(found)),
    })
}

/// The last step of a window that one partition has to itself.
fn last_step(batch: &BatchRecord, read: &Plan) -> BatchRecord {
    let plan = FinishPlan {
        revisions: BTreeMap::new(),
        topic: read.topic.clone(),
        topic_id: read.topic_id.clone(),
        window: read.window,
        until: read.window.end,
        windows: 1,
        shift: None,
        partitions: vec![read.partition],
        empty: vec![],
        revision: read.revision,
        spec_hash: read.spec_hash.clone(),
        generation: read.generation,
    };
    let id = BatchId { part: Part::Finish, ..batch.id.clone() };
    BatchRecord::new(id, Task::Finish(plan))
}

#[cfg(test)]
pub(crate) mod tests;
