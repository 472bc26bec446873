//! Of windows of volume: each begins where the one before was found to end, and ends where the log says.

use std::collections::BTreeMap;

use bytes::Bytes;
use windrow_protocol::cut::Cursor;
use windrow_protocol::marker::Marker;
use windrow_protocol::plan::{Part, Plan};
use windrow_protocol::state::{BatchRecord, BatchState, Task, keys};
use windrow_protocol::volume::{Amount, Until, VolumeCut};
use windrow_protocol::{JobName, Offset, OffsetRange, PartitionId, audit};

use super::{Audit, Checked, Seen, must, parse};
use crate::log::History;
use crate::node::Node;
use crate::workload::Sent;

/// The batch of a window of volume, with its plan and its rule.
fn of_volume(task: &Task) -> Option<(&Plan, &VolumeCut)> {
    let Task::Map(plan) = task else { return None };
    plan.volume().map(|cut| (plan, cut))
}

/// A new plan must begin where the cursor stands, and not know its end.
pub fn planned(seen: &Seen, job: &JobName, plan: &Plan, cut: &VolumeCut) -> Checked {
    let name = format!("plan of {job}/{}", plan.window.id());
    let Some(cursor) = seen.cursors.get(&(job.clone(), plan.partition)) else {
        return Err(format!("{name} without a cursor"));
    };
    let start = OffsetRange::new(cursor.end, cursor.end);
    must!(plan.owned == start && plan.read == start, "{name} owns {} but the cursor is at {}", plan.owned, cursor.end);
    must!(cut.found.is_none(), "{name} knows its end before anybody has read it");
    let volume = plan.window.volume.map(|id| (id.partition, id.offset));
    must!(volume == Some((plan.partition, cursor.end)), "{name} is not named after its beginning");
    Ok(())
}

/// A batch that was there before may only be sealed: once, and not while a worker has it.
pub fn changed(before: &Task, state: Option<&BatchState>, batch: &BatchRecord) -> Result<Option<Offset>, String> {
    let (Some((_, old)), Some((_, new))) = (of_volume(before), of_volume(&batch.task)) else {
        return Err(format!("the plan of {} changes from {before:?} to {:?}", batch.id, batch.task));
    };
    let (Task::Map(was), Task::Map(is)) = (before, &batch.task) else { return Ok(None) };
    let sealed = VolumeCut { sealed_at: new.sealed_at, ..*old };
    let same = Plan { sealed_by: windrow_protocol::plan::SealedBy::Volume(sealed), ..was.clone() } == *is;
    must!(same && old.sealed_at.is_none(), "the plan of {} changes from {was:?} to {is:?}", batch.id);
    must!(state == Some(&BatchState::Pending), "{} is sealed while it is {state:?}", batch.id);
    Ok(new.sealed_at)
}

/// A commit moves the cursor to the end that was found, and plans the window's last step, all at once.
pub fn committed(seen: &Seen, batch: &BatchRecord, puts: &BTreeMap<&str, &Bytes>) -> Checked {
    let (Some((plan, _)), BatchState::Committed(summary)) = (of_volume(&batch.task), &batch.state) else {
        return Ok(());
    };
    let id = &batch.id;
    let Some(found) = summary.found else { return Err(format!("{id} is committed without an end")) };
    let Some(cursor) = puts.get(keys::cursor(&id.job, plan.partition).as_str()) else {
        return Err(format!("{id} is committed, but the cursor stays"));
    };
    let cursor: Cursor = parse(cursor)?;
    must!(cursor.end == found.through, "{id} ends at {}, but the cursor moves to {}", found.through, cursor.end);
    let last_step = puts.contains_key(keys::batch(&id.job, id.window, Part::Finish).as_str());
    must!(last_step, "{id} is committed, but its window has no last step");
    let path = windrow_protocol::paths::marker(&id.job, id.window, id.part, id.revision);
    let stands = seen.files.maps.get(&path).and_then(|marker| marker.plan.volume()).and_then(|cut| cut.found);
    must!(stands == Some(found), "{id} is committed as {found:?}, but its marker says {stands:?}");
    Ok(())
}

/// Whether the cursor's move is that of a commit.
pub fn moves(
    puts: &BTreeMap<&str, &Bytes>,
    job: &JobName,
    partition: PartitionId,
    before: &Cursor,
    to: Offset,
) -> bool {
    let prefix = format!("/windrow/v1/batches/{job}/");
    puts.iter().filter(|(key, _)| key.starts_with(&prefix)).any(|(_, value)| {
        let Ok(batch) = parse::<BatchRecord>(value) else { return false };
        let found = match &batch.state {
            BatchState::Committed(summary) => summary.found,
            _ => None,
        };
        of_volume(&batch.task).is_some_and(|(plan, _)| plan.partition == partition && plan.owned.start == before.end)
            && found.is_some_and(|found| found.through == to)
    })
}

/// A marker is of the plan; it may not know that it is sealed.
pub fn marked(path: &str, plan: &Plan, cut: &VolumeCut, marker: &Marker) -> Checked {
    must!(marker.plan.is_same_work(plan), "{path} says {:?} but the plan is {plan:?}", marker.plan);
    let sealed_at = marker.plan.volume().and_then(|cut| cut.sealed_at);
    must!(sealed_at.is_none() || sealed_at == cut.sealed_at, "{path} is sealed at {sealed_at:?}, its plan {cut:?}");
    let found = audit::marker(marker);
    must!(found.is_empty(), "{path}: {found:?}");
    Ok(())
}

impl Audit {
    /// A seal must have had reason: silence, and a wall clock that is past the window's time.
    pub(super) fn sealed(&self, batch: &BatchRecord, end: Offset, by: Option<&Node>) -> Checked {
        let (Some((plan, cut)), id) = (of_volume(&batch.task), &batch.id) else { return Ok(()) };
        let Some(within) = cut.until.within else { return Err(format!("{id} is sealed, but has no time")) };
        let Some(spec) = self.jobs.get(&id.job) else { return Err(format!("{id}: nobody made this job")) };
        let now = self.world.time().now();
        let judged = self.log.history(&plan.topic_id, plan.partition, |history| {
            must!(plan.owned.start < end && end.0 as usize <= history.records.len(), "{id} is sealed at {end}");
            let silent_us = now.saturating_sub(history.appended[end.0 as usize - 1]).as_micros() as i64;
            must!(silent_us >= spec.idle_timeout.micros(), "{id} is sealed, but its last record is {silent_us} us old");
            let wall = by.map(|node| node.clock().now());
            // Whoever sealed it may have known another first record, if retention has taken some.
            let records = &history.records[plan.owned.start.0 as usize..end.0 as usize];
            let is_over = records.iter().any(|r| wall >= Some(r.timestamp.plus_micros(within.micros())));
            must!(is_over, "{id} is sealed at {wall:?}, before its time is over");
            Ok(())
        });
        judged.unwrap_or_else(|| Err(format!("{id} is of a topic that never was")))
    }
}

/// Where a window that begins at `start` ends, the slow and obvious way; none if it does not.
fn end_of(history: &History, sent: &Sent, until: &Until, start: Offset) -> Option<Offset> {
    let mut sum = 0;
    let first = history.records.get(start.0 as usize)?.timestamp;
    for record in &history.records[start.0 as usize..] {
        let is_late = until.within.is_some_and(|within| record.timestamp >= first.plus_micros(within.micros()));
        if record.offset > start && is_late {
            return Some(record.offset);
        }
        sum += match until.amount {
            Amount::Readings(_) => sent.samples(&record.payload).map_or(0, |samples| samples.len() as u64),
            Amount::Bytes(_) => record.payload.len() as u64,
        };
        if sum >= until.amount.number() {
            return Some(record.offset.next());
        }
    }
    None
}

/// A window ends where the log says, or where silence has sealed it before that.
pub fn ends_rightly(marker: &Marker, history: &History, sent: &Sent) -> Checked {
    let Some(cut) = marker.plan.volume() else { return Ok(()) };
    let (owned, name) = (marker.plan.owned, format!("{}/{}", marker.job, marker.plan.window.id()));
    // Of a window that was given up, or whose first records were gone, only what was read counts.
    let begin = Offset(owned.start.0 + marker.ledger.lost_offsets as i64);
    let natural = end_of(history, sent, &cut.until, begin);
    let right = match cut.sealed_at {
        Some(sealed) => owned.end == natural.unwrap_or(sealed).min(sealed.max(begin)),
        None => natural == Some(owned.end),
    };
    must!(right, "{name} ends at {}, read from {begin} on it must end at {natural:?} ({cut:?})", owned.end);
    Ok(())
}

/// Behind the last window lies one that is open: not full, and without a time that could end it.
pub fn rest_is_open(name: &str, history: &History, sent: &Sent, until: &Until, at: Offset) -> Checked {
    if at.0 as usize >= history.records.len() {
        return Ok(());
    }
    must!(until.within.is_none(), "{name}: nothing ends what lies from {at} on");
    let end = end_of(history, sent, until, at.max(history.log_start));
    must!(end.is_none(), "{name}: the window at {at} would end at {end:?}, but is open");
    Ok(())
}
