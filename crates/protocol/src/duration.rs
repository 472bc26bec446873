//! Lengths of time as people write them in a job file: `90s`, `15m`, `1h`, `1h30m`, `7d`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of elapsed time in whole milliseconds. Days have 24 hours here; calendar days are a [`crate::WindowSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Length {
    ms: i64,
}

/// Text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLength {
    #[error("{0:?} is not a length of time; expected digits with ms, s, m, h or d, e.g. 15m, 1h30m, 500ms")]
    NotOne(String),
    #[error("{0:?} is longer than a thousand years, more than any event time allows")]
    TooLong(String),
}

/// A day of 24 hours; days of a time zone may be longer or shorter.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Longest first, so that printing uses as few units as it can.
const UNITS_MS: [(&str, i64); 5] = [("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A thousand years: far from overflow when added to any event time.
const LONGEST_MS: i64 = 1_000 * 366 * DAY_MS;

impl Length {
    /// From milliseconds; negative becomes 0, more than a thousand years becomes that.
    pub fn from_millis(ms: i64) -> Self {
        Self { ms: ms.clamp(0, LONGEST_MS) }
    }

    /// For constants.
    pub(crate) const fn from_whole_millis(ms: i64) -> Self {
        assert!(0 <= ms && ms <= LONGEST_MS, "a length is neither negative nor over a thousand years");
        Self { ms }
    }

    /// From seconds, clamped likewise.
    pub fn from_secs(s: i64) -> Self {
        Self::from_millis(s.saturating_mul(1_000))
    }

    /// In milliseconds.
    pub fn millis(self) -> i64 {
        self.ms
    }

    /// In microseconds.
    pub fn micros(self) -> i64 {
        self.ms * 1_000
    }

    /// As the standard library's type.
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.ms.unsigned_abs())
    }
}

impl std::str::FromStr for Length {
    type Err = InvalidLength;
    fn from_str(text: &str) -> Result<Self, InvalidLength> {
        let bad = || InvalidLength::NotOne(text.to_owned());
        let too_long = || InvalidLength::TooLong(text.to_owned());
        let (mut rest, mut total_ms) = (text.trim(), 0i64);
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let (_, unit_ms) = UNITS_MS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?;
            if number.is_empty() {
                return Err(bad());
            }
            let number: i64 = number.parse().map_err(|_| too_long())?;
            total_ms = number.checked_mul(*unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(too_long)?;
            rest = tail;
        }
        if total_ms > LONGEST_MS { Err(too_long()) } else { Ok(Self { ms: total_ms }) }
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.ms;
        for (unit, unit_ms) in UNITS_MS {
            if rest >= unit_ms {
                write!(f, "{}{unit}", rest / unit_ms)?;
                rest %= unit_ms;
            }
        }
        Ok(())
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_lengths_in_these_ways() {
        for (text, ms) in [("15m", 900_000), ("1h30m", 5_400_000), ("500ms", 500), ("7d", 604_800_000), ("0s", 0)] {
            assert_eq!(text.parse::<Length>().unwrap().millis(), ms, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in ["", "15", "m", "1w", "-5m", "1.5h"] {
            assert!(text.parse::<Length>().unwrap_err().to_string().contains("e.g. 15m"), "{text}");
        }
        for text in ["99999999999999999999h", "2000000d"] {
            assert!(text.parse::<Length>().unwrap_err().to_string().contains("a thousand years"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(ms in 0i64..LONGEST_MS) {
            let length = Length::from_millis(ms);
            prop_assert_eq!(length.to_string().parse::<Length>().unwrap(), length);
        }
    }
}
