//! Amounts of bytes as people write them in a job file: `64MiB`, `1GiB`, `4096`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    bytes: u64,
}

/// Text that is no amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of bytes; expected a whole number with B, KiB, MiB, GiB or TiB, e.g. 64MiB")]
pub struct InvalidSize(pub String);

/// Largest first, so that printing uses the largest that fits.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    /// So many bytes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// How many.
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

impl std::str::FromStr for Size {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let bad = || InvalidSize(text.to_owned());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" => 1,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1,
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(unit).map(Self::from_bytes).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, unit)| self.bytes >= *unit && self.bytes.is_multiple_of(*unit));
        let (unit, bytes) = whole.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.bytes / bytes)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A number alone is bytes.
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an amount of bytes, e.g. 64MiB")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self::from_bytes(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_sizes_in_these_ways() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("4096", 4096), ("17B", 17), ("3KiB", 3072)] {
            assert_eq!(text.parse::<Size>().unwrap().bytes(), bytes, "{text}");
        }
        assert_eq!(serde_json::from_str::<Size>("4096").unwrap().to_string(), "4KiB");
        assert_eq!(serde_json::from_str::<Size>("\"64MiB\"").unwrap().bytes(), 64 << 20);
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "MiB", "64MB", "-1", "1.5MiB", "99999999999999999999", "17000000TiB"] {
            assert!(text.parse::<Size>().unwrap_err().to_string().contains("e.g. 64MiB"), "{text}");
        }
        assert!(serde_json::from_str::<Size>("-1").unwrap_err().to_string().contains("e.g. 64MiB"));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(bytes: u64) {
            let size = Size::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
    }
}
