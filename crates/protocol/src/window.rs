//! Windows of event time: half-open intervals that tile the time line without gap or overlap. And windows of volume, which
//! tile a partition's offsets, see [`crate::volume`].
//!
//! Nothing outside this module assumes that a window has a fixed length.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use serde::{Deserialize, Serialize};

use crate::duration::{DAY_MS, Length};
use crate::size::Size;
use crate::volume::{Amount, Times, Until};
use crate::{Offset, PartitionId, Timestamp};

pub mod id;
pub mod shifts;
pub use id::{InvalidWindowId, VolumeId, WindowId};
use shifts::{LocalDate, Shift};

/// A half-open interval [start, end) of event time; or a window of volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// First moment inside. Of a window of volume: the earliest timestamp of its records, once it has been read.
    pub start: Timestamp,
    /// First moment after. Of a window of volume: right after the latest timestamp.
    pub end: Timestamp,
    /// Where a window of volume begins; nothing of such a window is decided by its times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
}

impl Window {
    /// A window of event time.
    pub fn new(start: Timestamp, end: Timestamp) -> Self {
        Self { start, end, volume: None }
    }

    /// A window of volume that has not been read yet.
    pub fn of_volume(partition: PartitionId, offset: Offset) -> Self {
        Self { volume: Some(VolumeId { partition, offset }), ..Self::new(Timestamp::MIN, Timestamp::MAX) }
    }

    /// The window of volume with the times of its records.
    #[must_use]
    pub fn with_times(self, times: Option<Times>) -> Self {
        match times {
            Some(times) => Self { start: times.earliest, end: times.latest.plus_micros(1_000), ..self },
            None => self,
        }
    }

    /// Whether the moment lies inside. A window of volume has all readings of its records.
    pub fn contains(&self, t: Timestamp) -> bool {
        self.volume.is_some() || (self.start <= t && t < self.end)
    }

    /// The window's name: its start.
    pub fn id(&self) -> WindowId {
        self.volume.map_or(WindowId::Time(self.start), WindowId::Volume)
    }
}

/// The length of a job's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// Elapsed time, counted from 1970-01-01T00:00:00Z. At least a second, at most 366 days.
    Fixed(Length),
    /// From midnight to midnight in the zone: 23, 24 or 25 hours.
    Day,
    /// From Monday to Monday in the zone (ISO 8601).
    Week,
    /// A calendar month in the zone.
    Month,
    /// The shifts of the spec, in the zone, and the time between them.
    Shift,
    /// So many readings or bytes of a partition, as the spec says.
    Volume,
}

/// What `every` may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a window; expected a length such as 15m or 1h (1s to 366d), or day, week, month, shift or volume"
)]
pub struct InvalidEvery(pub String);

impl std::str::FromStr for Every {
    type Err = InvalidEvery;
    fn from_str(text: &str) -> Result<Self, InvalidEvery> {
        let bad = || InvalidEvery(text.to_owned());
        match text {
            "day" => Ok(Self::Day),
            "week" => Ok(Self::Week),
            "month" => Ok(Self::Month),
            "shift" => Ok(Self::Shift),
            "volume" => Ok(Self::Volume),
            "hour" => Ok(Self::Fixed(Length::from_secs(3_600))),
            _ => {
                let length: Length = text.parse().map_err(|_| bad())?;
                let fits = (1_000..=366 * DAY_MS).contains(&length.millis());
                if fits { Ok(Self::Fixed(length)) } else { Err(bad()) }
            }
        }
    }
}

impl std::fmt::Display for Every {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(length) => length.fmt(f),
            Self::Day => f.write_str("day"),
            Self::Week => f.write_str("week"),
            Self::Month => f.write_str("month"),
            Self::Shift => f.write_str("shift"),
            Self::Volume => f.write_str("volume"),
        }
    }
}

impl TryFrom<String> for Every {
    type Error = InvalidEvery;
    fn try_from(text: String) -> Result<Self, InvalidEvery> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> String {
        every.to_string()
    }
}

/// How a job cuts its readings into windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSpec {
    /// Length of a window.
    pub every: Every,
    /// IANA name of the zone in which days, weeks, months and shifts begin. Default UTC.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// With `every: shift`: the shifts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shifts: Vec<Shift>,
    /// With `every: shift`: days on which no shift begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holidays: Vec<LocalDate>,
    /// With `every: volume`: a window ends with the record that brings its readings to so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readings: Option<u64>,
    /// With `every: volume`: or the bytes of its records' payloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// With `every: volume`: or before the first record that is this much later than its first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Length>,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A zone name that the time zone database does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("time zone {0:?} is not known; expected an IANA name such as Europe/Berlin or America/Chicago")]
pub struct UnknownZone(pub String);

/// A [`WindowSpec`] with its zone looked up: answers in which window a moment lies.
#[derive(Debug, Clone)]
pub struct Calendar {
    every: Every,
    zone: TimeZone,
    shifts: Vec<Shift>,
    holidays: Vec<LocalDate>,
}

impl WindowSpec {
    /// Windows without shifts.
    pub fn new(every: Every, time_zone: impl Into<String>) -> Self {
        Self {
            every,
            time_zone: time_zone.into(),
            shifts: Vec::new(),
            holidays: Vec::new(),
            readings: None,
            bytes: None,
            within: None,
        }
    }

    /// Until when a window of volume lasts; `None` for windows of time.
    pub fn volume(&self) -> Option<Until> {
        let amount = match (self.every, self.readings, self.bytes) {
            (Every::Volume, Some(readings), _) => Amount::Readings(readings),
            (Every::Volume, None, Some(bytes)) => Amount::Bytes(bytes.bytes()),
            _ => return None,
        };
        Some(Until { amount, within: self.within })
    }

    /// Looks the zone up in the database that is built into the program.
    pub fn calendar(&self) -> Result<Calendar, UnknownZone> {
        let zone = TimeZone::get(&self.time_zone).map_err(|_| UnknownZone(self.time_zone.clone()))?;
        Ok(Calendar { every: self.every, zone, shifts: self.shifts.clone(), holidays: self.holidays.clone() })
    }

    /// The longest that a window can be in event time, for checks against a topic's retention.
    pub fn longest(&self) -> Length {
        match self.every {
            Every::Fixed(length) => length,
            Every::Day | Every::Shift => Length::from_secs(25 * 3_600),
            Every::Week => Length::from_secs((7 * 24 + 1) * 3_600),
            Every::Month => Length::from_secs((31 * 24 + 1) * 3_600),
            // Without a time it lasts as long as its partition takes to fill it.
            Every::Volume => self.within.unwrap_or_default(),
        }
    }
}

impl Calendar {
    /// The window in which a moment lies. Total: at the ends of the calendar windows are clamped to it.
    pub fn window_of(&self, t: Timestamp) -> Window {
        match self.every {
            Every::Fixed(length) => {
                let start = t.micros() - t.micros().rem_euclid(length.micros());
                Window::new(
                    Timestamp::from_micros(start),
                    Timestamp::from_micros(start.saturating_add(length.micros())),
                )
            }
            Every::Day | Every::Week | Every::Month => self.calendar_window(t),
            Every::Shift => self.shift_of(t).0,
            // Windows of volume have no place in time.
            Every::Volume => Window::new(Timestamp::MIN, Timestamp::MAX),
        }
    }

    /// The name of the shift that a window is; `None` for time without a shift, and for other calendars.
    pub fn shift_name(&self, window: Window) -> Option<&str> {
        let shift = if self.every == Every::Shift { self.shift_of(window.start).1 } else { None };
        shift.and_then(|i| self.shifts.get(i)).map(|shift| shift.name.as_str())
    }

    fn shift_of(&self, t: Timestamp) -> (Window, Option<usize>) {
        let date = t.jiff().to_zoned(self.zone.clone()).date();
        shifts::window_of(t, date, self.calendar_window(t), &self.shifts, &self.holidays, &self.zone)
    }

    /// The window that follows.
    pub fn next(&self, window: Window) -> Window {
        self.window_of(window.end)
    }

    /// How many windows tile [from, until); both must be bounds of windows.
    pub fn count(&self, from: Timestamp, until: Timestamp) -> u64 {
        if let Every::Fixed(length) = self.every {
            return u64::try_from(until.since(from) / length.micros()).unwrap_or(0);
        }
        let mut window = self.window_of(from);
        let mut count = 0;
        // At most the days of the calendar's 20,000 years. What follows the last window is that window again.
        while window.end <= until {
            count += 1;
            if window.end == Timestamp::MAX {
                break;
            }
            window = self.next(window);
        }
        count
    }

    /// The window that begins where another has ended. The same as [`Self::window_of`], except when the rules of the time
    /// zone have changed since: then it begins there all the same, or two windows would hold the same moments.
    pub fn window_from(&self, start: Timestamp) -> Window {
        Window { start, ..self.window_of(start) }
    }

    fn calendar_window(&self, t: Timestamp) -> Window {
        let local = t.jiff().to_zoned(self.zone.clone());
        let window = self.window_of_days(self.first_day(local.date()));
        // Where a clock change removes or repeats midnight, the local date alone may name the neighbour.
        if t < window.start {
            self.window_of_days(self.first_day(local.date().yesterday().unwrap_or(Date::MIN)))
        } else if t >= window.end {
            self.window_of_days(self.first_day(local.date().tomorrow().unwrap_or(Date::MAX)))
        } else {
            window
        }
    }

    fn first_day(&self, date: Date) -> Date {
        match self.every {
            Every::Week => {
                let since_monday = date.weekday().since(Weekday::Monday);
                date.checked_sub(i64::from(since_monday).days()).unwrap_or(Date::MIN)
            }
            Every::Month => date.first_of_month(),
            Every::Day | Every::Shift | Every::Fixed(_) | Every::Volume => date,
        }
    }

    fn window_of_days(&self, first: Date) -> Window {
        let span = match self.every {
            Every::Week => 7.days(),
            Every::Month => 1.month(),
            Every::Day | Every::Shift | Every::Fixed(_) | Every::Volume => 1.day(),
        };
        let end = first.checked_add(span).map_or(Timestamp::MAX, |after| self.midnight(after, Timestamp::MAX));
        Window::new(self.midnight(first, Timestamp::MIN), end)
    }

    /// The first moment of a local day. A midnight that a clock change skips becomes the first moment after the gap,
    /// one that it repeats the earlier of the two (jiff's "compatible").
    fn midnight(&self, date: Date, beyond: Timestamp) -> Timestamp {
        date.to_zoned(self.zone.clone()).map_or(beyond, |t: Zoned| Timestamp::from_jiff(t.timestamp()))
    }
}

#[cfg(test)]
mod tests;
