//! Windows of volume: the next N readings, or N bytes of record payloads, of one partition.
//!
//! Offsets count records, not readings, so nobody knows where such a window ends before it is read. Its plan says where it
//! begins and until when it lasts; the end is a pure function of the log from there on, [`Fill`], which every attempt finds
//! alike. The marker records the end that was found, and the partition's next window begins there: what a batch reads is
//! what it owns, and no reading is late.
//!
//! The coordinator reads no data: whether a window is likely to be full it estimates ([`likely_full_at`]), and a worker that
//! finds too little says how much ([`Seen`]).

use serde::{Deserialize, Serialize};

use crate::cut::Lookup;
use crate::duration::Length;
use crate::{Offset, Timestamp};

/// How much a window takes, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// Readings, decoded ones: a record that can't be decoded counts none.
    Readings(u64),
    /// Bytes of record payloads, as they lie in the log.
    Bytes(u64),
}

impl Amount {
    /// How many readings, or bytes.
    pub fn number(self) -> u64 {
        match self {
            Self::Readings(n) | Self::Bytes(n) => n,
        }
    }

    /// What of a record is counted.
    fn of(self, readings: u64, bytes: u64) -> u64 {
        match self {
            Self::Readings(_) => readings,
            Self::Bytes(_) => bytes,
        }
    }
}

/// Until when a window lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Until {
    /// It ends after the first record at which the sum reaches this.
    pub amount: Amount,
    /// Or before the first record, after its first, whose timestamp is at least this much later than the first's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Length>,
}

/// Timestamps of the records of a window: each is the latest event time that its record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Of the first record.
    pub first: Timestamp,
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// What was seen of a window: all of it, or as much as the log held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// First offset that was not looked at; of a window that has ended, its end.
    pub through: Offset,
    pub records: u64,
    /// Readings or bytes, whatever the window counts.
    pub amount: u64,
    /// None without a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
}

impl Seen {
    /// Nothing, of a window that begins at `start`; `first` is the timestamp of its first record, if that is known.
    pub fn nothing(start: Offset, first: Option<Timestamp>) -> Self {
        let times = first.map(|first| Times { first, earliest: first, latest: first });
        Self { through: start, records: 0, amount: 0, times }
    }

    /// When the window is over by the clock of its records, if `within` says so and its first record is known.
    pub fn over(&self, until: &Until) -> Option<Timestamp> {
        Some(self.times?.first.plus_micros(until.within?.micros()))
    }
}

/// The part of a plan that decides where its window ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeCut {
    pub until: Until,
    /// The window ends here at the latest: its partition was silent. Stored once, while no worker has the batch. An attempt
    /// that began before knows nothing of it and may commit with another end: whichever marker stands decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_at: Option<Offset>,
    /// In a marker: what the attempt found, the window's end above all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Seen>,
}

impl VolumeCut {
    /// What a plan says before anything was read.
    pub fn new(until: Until) -> Self {
        Self { until, sealed_at: None, found: None }
    }
}

/// A window while its records are read, in order.
#[derive(Debug, Clone)]
pub struct Fill {
    until: Until,
    seen: Seen,
    ended: bool,
}

impl Fill {
    /// An empty window that begins at `start`.
    pub fn new(until: Until, start: Offset) -> Self {
        Self { until, seen: Seen::nothing(start, None), ended: false }
    }

    /// Whether the next record is the window's. If it is not, the window ends before it.
    pub fn admits(&mut self, offset: Offset, timestamp: Timestamp) -> bool {
        if self.ended {
            return false;
        }
        if self.seen.over(&self.until).is_some_and(|over| timestamp >= over) {
            self.seen.through = offset;
            self.ended = true;
            return false;
        }
        let times = self.seen.times.get_or_insert(Times { first: timestamp, earliest: timestamp, latest: timestamp });
        times.earliest = times.earliest.min(timestamp);
        times.latest = times.latest.max(timestamp);
        self.seen.through = offset.next();
        true
    }

    /// Counts the record that was admitted last: the readings that it holds and the bytes of its payload.
    pub fn add(&mut self, readings: u64, bytes: u64) {
        self.seen.records += 1;
        self.seen.amount = self.seen.amount.saturating_add(self.until.amount.of(readings, bytes));
        self.ended = self.seen.amount >= self.until.amount.number();
    }

    /// Whether the window has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What was seen when all records up to `end` were offered: `Ok` if the window has ended.
    pub fn close(self, end: Offset) -> Result<Seen, Seen> {
        if self.ended { Ok(self.seen) } else { Err(Seen { through: end, ..self.seen }) }
    }
}

/// What the last windows of a partition held, older ones counting less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    pub records: u64,
    /// Readings or bytes.
    pub amount: u64,
}

impl Pace {
    /// After one more window.
    #[must_use]
    pub fn after(self, found: &Seen) -> Self {
        Self {
            records: (self.records / 2).saturating_add(found.records),
            amount: (self.amount / 2).saturating_add(found.amount),
        }
    }
}

/// A window that is read again because it was not full is read this part of its records later at the soonest. So it is read
/// some tens of times in the worst case, and found full that much late.
const LEAST_GROWTH: u64 = 64;

/// The offset that the log must reach until a window is likely to be full; `None` if nothing is known.
///
/// `seen`: what is known of the window itself; `pace`: of the ones before it.
pub fn likely_full_at(amount: Amount, seen: &Seen, pace: Pace) -> Option<Offset> {
    let left = u128::from(amount.number().saturating_sub(seen.amount));
    let (records, counted) = match seen.amount {
        0 => (pace.records, pace.amount),
        _ => (seen.records, seen.amount),
    };
    let least = u128::from((seen.records / LEAST_GROWTH).max(1));
    let records = match counted {
        // Records without a reading in them: as many again.
        0 if seen.records > 0 => u128::from(seen.records),
        0 => return None,
        _ => (left * u128::from(records)).div_ceil(u128::from(counted)),
    };
    let records = i64::try_from(records.max(least)).unwrap_or(i64::MAX);
    Some(Offset(seen.through.0.saturating_add(records)))
}

/// What a batch waits for whose window is not full, or not likely to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub seen: Seen,
    /// It is not handed out before the log reaches this offset. None: it may be handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Offset>,
}

/// What the leader sees of a partition while the batch of its open window is in nobody's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub high_watermark: Offset,
    /// Look-up of the time at which the window is over ([`Seen::over`]), where that is known.
    pub at_over: Option<Lookup>,
    /// The partition was silent for the job's idle timeout.
    pub silent: bool,
    pub now: Timestamp,
}

/// What to do with the batch of an open window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Wait,
    /// Hand it out: its window is likely to be full, or to be over.
    HandOut,
    /// Nothing more comes: end its window here at the latest, and hand it out.
    Seal(Offset),
}

/// Decides the batch of an open window that begins at `start`. Never hands a batch out again before the log has grown
/// beyond what was seen of it.
///
/// As with windows of time, silence ends a window only once the wall clock itself has passed its end: a quiet hour is no
/// reason to end a day.
pub fn offer(until: &Until, start: Offset, waiting: &Waiting, observed: Observed) -> Offer {
    let Observed { high_watermark, at_over, silent, now } = observed;
    let Waiting { seen, until: full_at } = waiting;
    let over = seen.over(until);
    let may_seal = until.within.is_some() && over.is_none_or(|over| now >= over);
    if silent && may_seal && high_watermark > start && high_watermark >= seen.through {
        return Offer::Seal(high_watermark);
    }
    let Some(full_at) = full_at else { return Offer::Wait };
    if high_watermark <= seen.through {
        return Offer::Wait;
    }
    let is_over = until.within.is_some()
        && match at_over {
            Some(Lookup::At(at)) if at >= seen.through => at < high_watermark,
            Some(Lookup::Beyond) => false,
            // A record before the window has a later timestamp than its end, or its first record is not known: the
            // index can't tell. It is looked at as the log doubles.
            Some(Lookup::At(_)) | None => {
                high_watermark.0 - seen.through.0 >= i64::try_from(seen.records.max(1)).unwrap_or(i64::MAX)
            }
        };
    // In silence an estimate may wait for what never comes.
    if silent || is_over || high_watermark >= *full_at { Offer::HandOut } else { Offer::Wait }
}

#[cfg(test)]
mod tests;
