//! Shift calendars: named shifts per weekday, over midnight, with holidays. Time without a shift is windows too, one a
//! day, so that every reading has its window.

use std::fmt;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, ToSpan};
use serde::{Deserialize, Serialize};

use super::Window;
use crate::Timestamp;

/// The most shifts of one calendar.
pub const MAX_SHIFTS: usize = 100;

/// The most holidays of one calendar.
pub const MAX_HOLIDAYS: usize = 1_000;

const DAY_MINUTES: i32 = 24 * 60;

/// A shift as a plant plans it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shift {
    /// What people call it: early, late, night.
    pub name: String,
    /// Local time at which it begins, e.g. `06:00`.
    pub from: LocalTime,
    /// Local time at which it ends; at or before `from`, it ends on the next day.
    pub to: LocalTime,
    /// Days on which it begins. Default all.
    #[serde(default = "all_days")]
    pub days: Vec<Day>,
}

fn all_days() -> Vec<Day> {
    vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun]
}

impl Shift {
    /// Length by the clock on the wall, in minutes: 1 to 24 hours.
    fn minutes(&self) -> i32 {
        let minutes = self.to.minutes() - self.from.minutes();
        if minutes > 0 { minutes } else { minutes + DAY_MINUTES }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }

    /// As written in a job file.
    pub fn name(self) -> &'static str {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][self as usize]
    }
}

/// A time of day in whole minutes, written `06:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalTime(Time);

/// A day of the calendar, written `2026-12-25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalDate(Date);

impl LocalTime {
    fn minutes(self) -> i32 {
        i32::from(self.0.hour()) * 60 + i32::from(self.0.minute())
    }
}

impl TryFrom<String> for LocalTime {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let whole = text.parse::<Time>().ok().filter(|time| text.len() == 5 && time.second() == 0);
        whole.map(Self).ok_or_else(|| format!("{text:?} is not a time of day; expected HH:MM, e.g. 06:00 or 22:30"))
    }
}

impl TryFrom<String> for LocalDate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let day = text.parse::<Date>().ok().filter(|_| text.len() == 10);
        day.map(Self).ok_or_else(|| format!("{text:?} is not a day; expected YYYY-MM-DD, e.g. 2026-12-25"))
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

impl fmt::Display for LocalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<LocalTime> for String {
    fn from(time: LocalTime) -> String {
        time.to_string()
    }
}

impl From<LocalDate> for String {
    fn from(date: LocalDate) -> String {
        date.to_string()
    }
}

/// The names of two shifts that overlap on some day.
pub fn overlap(shifts: &[Shift]) -> Option<(&str, &str)> {
    let mut begins: Vec<(i32, &Shift)> = Vec::new();
    for shift in shifts {
        begins.extend(shift.days.iter().map(|day| (*day as i32 * DAY_MINUTES + shift.from.minutes(), shift)));
    }
    begins.sort_by_key(|(minute, _)| *minute);
    // Sunday's last shift against Monday's first, a week on.
    let again = begins.first().map(|(minute, shift)| (minute + 7 * DAY_MINUTES, *shift));
    let followers = begins.iter().skip(1).copied().chain(again);
    let mut pairs = begins.iter().zip(followers);
    pairs
        .find(|((minute, shift), (next, _))| minute + shift.minutes() > *next)
        .map(|((_, shift), (_, next))| (shift.name.as_str(), next.name.as_str()))
}

/// The windows of a shift calendar around a moment. `day`: the local day that holds it; `date`: its date.
pub(super) fn window_of(
    t: Timestamp,
    date: Date,
    day: Window,
    shifts: &[Shift],
    holidays: &[LocalDate],
    zone: &TimeZone,
) -> (Window, Option<usize>) {
    let mut free = day;
    for days in -2..=1 {
        let Ok(begins) = date.checked_add(days.days()) else { continue };
        if holidays.contains(&LocalDate(begins)) {
            continue;
        }
        for (i, shift) in shifts.iter().enumerate() {
            if !shift.days.iter().any(|day| day.weekday() == begins.weekday()) {
                continue;
            }
            let days = if shift.to > shift.from { 0.days() } else { 1.day() };
            let window = Window::new(moment(begins, shift.from, 0.days(), zone), moment(begins, shift.to, days, zone));
            if window.contains(t) {
                return (window, Some(i));
            }
            // A shift that a clock change leaves without time is no window.
            if window.start < window.end {
                if window.end <= t {
                    free.start = free.start.max(window.end);
                } else {
                    free.end = free.end.min(window.start);
                }
            }
        }
    }
    (free, None)
}

/// The moment of a local time: in the gap of a clock change the first after it, where the time comes twice the first.
/// Unlike jiff's "compatible" this keeps the order of local times, so that shifts which touch still do.
fn moment(date: Date, time: LocalTime, later: Span, zone: &TimeZone) -> Timestamp {
    let Ok(local) = date.checked_add(later).map(|date| date.to_datetime(time.0)) else { return Timestamp::MAX };
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let is_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    // Of a time in a gap, "earlier" lies before the change.
    let Ok(earlier) = ambiguous.earlier() else { return Timestamp::MAX };
    let change = is_gap.then(|| zone.following(earlier).next().map(|change| change.timestamp())).flatten();
    Timestamp::from_jiff(change.unwrap_or(earlier))
}

#[cfg(test)]
mod tests;
