//! Cutting a partition into windows of time: from two look-ups in the log's time index to the offsets of a batch.
//!
//! Everything is decided from what was observed, in this order: the partition's bounds, then `offsetsForTimes` of
//! window end + lateness, then `offsetsForTimes` of window end. The order matters: a record that is appended in between
//! can then only make the answer "wait", never a hole. Records carry the latest event time they hold, and the look-up
//! finds the first record at or after a time, so:
//!
//! - no record before `look-up(window start)` holds a reading of the window, and the cursor has kept that answer since
//!   the window before was sealed, so that retention can't move it unseen;
//! - a record at `look-up(window end + lateness)` proves that the partition's watermark has passed the window.

use serde::{Deserialize, Serialize};

use crate::duration::Length;
use crate::plan::SealedBy;
use crate::volume::{Pace, Seen};
use crate::window::Calendar;
use crate::{Offset, OffsetRange, Timestamp, TopicId, Window};

/// How far a partition has been cut for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// The topic that the offsets belong to.
    pub topic_id: TopicId,
    /// End of the last sealed window: the next window to seal starts here.
    pub sealed_through: Timestamp,
    /// End of the last batch's offsets: everything from here on is still owned by nobody.
    pub end: Offset,
    /// First offset that can hold a reading at or after `sealed_through`; never beyond `end`.
    pub next_start: Offset,
    /// With windows of volume, of which only `end` counts: what the last ones held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

impl Cursor {
    /// Where windows of volume begin on a partition.
    pub fn of_volume(topic_id: TopicId, start: Offset) -> Self {
        let sealed_through = Timestamp::MIN;
        Self { topic_id, sealed_through, end: start, next_start: start, pace: Some(Pace::default()) }
    }

    /// After a window of volume that was found to be this.
    #[must_use]
    pub fn after(&self, found: &Seen) -> Self {
        let pace = Some(self.pace.unwrap_or_default().after(found));
        Self { end: found.through, next_start: found.through, pace, ..self.clone() }
    }
}

/// Answer of `offsetsForTimes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The first offset whose record is at or after the time.
    At(Offset),
    /// No record is.
    Beyond,
}

/// What was seen of one partition, for one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// First offset that the log still has; asked first.
    pub log_start: Offset,
    /// First offset that the log does not have yet; asked together with `log_start`.
    pub high_watermark: Offset,
    /// Look-up of window end + lateness + bound; asked second.
    pub at_end: Lookup,
    /// Look-up of window end - bound; asked last.
    pub at_next: Lookup,
    /// Whether the partition may be sealed at its high watermark, see [`may_seal_idle`].
    pub idle: bool,
}

/// What to do with a window of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The window is not over yet.
    Wait,
    /// The window is over.
    Seal(Seal),
}

/// The offsets of a sealed window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    pub read: OffsetRange,
    pub owned: OffsetRange,
    pub lost: Option<OffsetRange>,
    pub sealed_by: SealedBy,
    /// The next cursor's `next_start`.
    pub next_start: Offset,
}

/// Whether a silent partition may be sealed for `window` although no record proves it over.
///
/// `lateness`: with the job's time bound. `silent_for`: wall clock since its high watermark last moved. `begun`: the
/// latest moment of which something is known, see [`begun`]. A window that begins after it stays open: nothing is known of it, and sealing it by the wall clock
/// would make every reading of a later replay late.
pub fn may_seal_idle(
    window: Window,
    lateness: Length,
    idle_timeout: Length,
    silent_for: Length,
    begun: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let clock_has_passed = window.end.plus_micros(lateness.micros()) <= now;
    let window_has_begun = begun.is_some_and(|begun| window.start <= begun);
    clock_has_passed && window_has_begun && silent_for >= idle_timeout
}

/// The latest moment of which something is known on a partition.
///
/// `newest`: the latest record timestamp over all partitions of the topic. Beyond it, a window has begun when there are
/// offsets that the next batch must read: stragglers, which came after their window was sealed and wait for an owner; or
/// records that retention has taken since, whose loss nobody has reported. When all is silent, no later window would.
/// And it has begun when another partition is sealed through it (`furthest`): it is complete only when this one is, too.
pub fn begun(
    cursor: &Cursor,
    high_watermark: Offset,
    newest: Option<Timestamp>,
    furthest: Option<Timestamp>,
) -> Option<Timestamp> {
    let unread = (cursor.next_start < high_watermark).then_some(cursor.sealed_through);
    let sealed_elsewhere = furthest.filter(|furthest| cursor.sealed_through < *furthest).map(|_| cursor.sealed_through);
    newest.max(unread).max(sealed_elsewhere)
}

/// Decides one window of one partition.
pub fn cut(cursor: &Cursor, seen: Observed) -> Cut {
    // The log has lost its end (an unclean election), or a broker lags. What comes now at offsets that are owned already
    // would be read by nobody.
    if seen.high_watermark < cursor.end {
        return Cut::Wait;
    }
    let (end, sealed_by) = match seen.at_end {
        // At or beyond the bound that was read first: appended in between, or an answer not to be trusted. Look again.
        Lookup::At(offset) if offset >= seen.high_watermark => return Cut::Wait,
        Lookup::At(offset) => (offset, SealedBy::Watermark),
        Lookup::Beyond if seen.idle => (seen.high_watermark, SealedBy::Idle),
        Lookup::Beyond => return Cut::Wait,
    };
    // Ends are monotone: an earlier idle seal may lie beyond what the look-up finds.
    let end = end.max(cursor.end);
    let next_start = match seen.at_next {
        // The partition got a record while it was being looked at: it is not idle.
        Lookup::At(offset) if sealed_by == SealedBy::Idle && offset >= seen.high_watermark => return Cut::Wait,
        Lookup::At(offset) => offset.min(end),
        Lookup::Beyond => end,
    };
    let first = cursor.next_start.min(cursor.end);
    let lost = (seen.log_start > first && first < end).then(|| OffsetRange::new(first, seen.log_start.min(end)));
    Cut::Seal(Seal {
        read: OffsetRange::new(first, end),
        owned: OffsetRange::new(cursor.end, end),
        lost,
        sealed_by,
        next_start,
    })
}

/// The cursor after a seal.
pub fn advance(cursor: &Cursor, window: Window, seal: &Seal) -> Cursor {
    Cursor {
        topic_id: cursor.topic_id.clone(),
        sealed_through: window.end,
        end: seal.owned.end,
        next_start: seal.next_start,
        pace: None,
    }
}

/// Where a job begins on a partition whose oldest record has timestamp `first`: early enough that no reading which is
/// up to `lateness` out of order counts as late.
pub fn first_window(calendar: &Calendar, lateness: Length, bound: Length, first: Timestamp) -> Window {
    calendar.window_of(first.plus_micros(-lateness.micros() - bound.micros()))
}

/// After an empty window: the start of the first window that the next record, with timestamp `next`, does not seal.
/// All windows before it are empty too, and are recorded as one run.
pub fn skip_to(calendar: &Calendar, lateness: Length, bound: Length, next: Timestamp) -> Timestamp {
    calendar.window_of(next.plus_micros(-lateness.micros() - bound.micros())).start
}

#[cfg(test)]
mod tests;
