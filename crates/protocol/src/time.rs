//! Event time: microseconds since 1970-01-01 UTC.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC, in microseconds since the Unix epoch. Written as RFC 3339 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

/// A moment outside of what can be shown as a date (years -9999 to 9999), or text that is no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time; expected RFC 3339, e.g. 2026-03-29T01:30:00Z")]
pub struct InvalidTime(pub String);

impl Timestamp {
    /// Before every event time a calendar can hold.
    pub const MIN: Self = Self(-377_705_023_201_000_000);
    /// After every event time a calendar can hold.
    pub const MAX: Self = Self(253_402_207_200_000_000);

    /// From microseconds since the epoch, clamped to what a calendar can hold.
    pub fn from_micros(us: i64) -> Self {
        Self(us.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// From milliseconds since the epoch, the unit of Kafka's timestamps, clamped likewise.
    pub fn from_millis(ms: i64) -> Self {
        Self::from_micros(ms.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down: the timestamp of a log record. Window bounds lie on whole
    /// milliseconds, so rounding down never moves a record over a bound.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// This moment plus microseconds (which may be negative), clamped.
    pub fn plus_micros(self, us: i64) -> Self {
        Self::from_micros(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to this moment; negative if `earlier` is later.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn jiff(self) -> jiff::Timestamp {
        // Both constructors clamp to jiff's range.
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn from_jiff(t: jiff::Timestamp) -> Self {
        Self::from_micros(t.as_microsecond())
    }

    /// The compact form used in object paths: `20150901T050000Z`, with `.ffffff` before the Z when the moment is not on a second.
    pub fn compact(self) -> String {
        let t = self.jiff().to_zoned(jiff::tz::TimeZone::UTC);
        // Four digits also of a year before the first, which `%Y` would shorten to what can't be read back.
        let (sign, year) = (if t.year() < 0 { "-" } else { "" }, t.year().unsigned_abs());
        let rest = t.strftime("%m%dT%H%M%S");
        match self.0.rem_euclid(1_000_000) {
            0 => format!("{sign}{year:04}{rest}Z"),
            us => format!("{sign}{year:04}{rest}.{us:06}Z"),
        }
    }

    /// The inverse of [`Timestamp::compact`]. Takes that one spelling of a moment and no other.
    pub fn from_compact(text: &str) -> Result<Self, InvalidTime> {
        let bad = || InvalidTime(text.to_owned());
        let body = text.strip_suffix('Z').ok_or_else(bad)?;
        let (whole, us) = match body.split_once('.') {
            Some((whole, us)) if us.len() == 6 => (whole, us.parse::<i64>().map_err(|_| bad())?),
            Some(_) => return Err(bad()),
            None => (body, 0),
        };
        let t = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", whole).map_err(|_| bad())?;
        let t = t.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?;
        let t = Self::from_jiff(t.timestamp()).plus_micros(us);
        if t.compact() == text { Ok(t) } else { Err(bad()) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.jiff().fmt(f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        text.parse().map(Self::from_jiff).map_err(|_| InvalidTime(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compact_form_is_the_one_that_paths_use() {
        let t: Timestamp = "2015-09-01T05:00:00Z".parse().unwrap();
        assert_eq!(t.compact(), "20150901T050000Z");
        let before_christ: Timestamp = "-000105-08-31T05:00:00Z".parse().unwrap();
        assert_eq!(before_christ.compact(), "-01050831T050000Z");
    }

    #[test]
    fn a_moment_has_one_compact_form() {
        for other in ["20150901T05000Z", "20150901T050000.000000Z", "+20150901T050000Z", "2015901T050000Z"] {
            assert!(Timestamp::from_compact(other).is_err(), "{other}");
        }
    }

    #[test]
    fn the_bounds_are_those_of_the_calendar() {
        assert_eq!(Timestamp::from_micros(i64::MIN), Timestamp::MIN);
        assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.jiff().as_microsecond(), Timestamp::MAX.micros());
        assert_eq!(Timestamp::MIN.jiff().as_microsecond(), Timestamp::MIN.micros());
    }

    proptest! {
        #[test]
        fn compact_and_rfc3339_round_trip(us in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let t = Timestamp::from_micros(us);
            prop_assert_eq!(Timestamp::from_compact(&t.compact()).unwrap(), t);
            prop_assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        }

        #[test]
        fn rounding_down_moves_no_record_over_a_bound_on_a_whole_millisecond(us in -1_000_000i64..1_000_000, bound_ms in -1_000i64..1_000) {
            let (t, bound) = (Timestamp::from_micros(us), Timestamp::from_millis(bound_ms));
            prop_assert_eq!(t >= bound, t.millis() >= bound.millis());
        }
    }
}
