//! The names of windows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Offset, PartitionId, Timestamp};

/// The name of a window within its job.
///
/// Windows of one job are of one kind. They sort by time, or by partition and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WindowId {
    /// A window of event time by its start in UTC, written `20150901T050000Z`.
    Time(Timestamp),
    /// A window of volume by its partition and first offset, written `p3-o1234`.
    Volume(VolumeId),
}

/// Where a window of volume begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeId {
    pub partition: PartitionId,
    pub offset: Offset,
}

/// Text that names no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no window; expected its start, e.g. 20150901T050000Z or 2015-09-01T05:00:00Z, or p3-o1234")]
pub struct InvalidWindowId(pub String);

impl WindowId {
    /// When a window of event time starts.
    pub fn time(self) -> Option<Timestamp> {
        match self {
            Self::Time(start) => Some(start),
            Self::Volume(_) => None,
        }
    }

    /// Where a window of volume begins.
    pub fn volume(self) -> Option<VolumeId> {
        match self {
            Self::Time(_) => None,
            Self::Volume(id) => Some(id),
        }
    }

    /// Text in whose order windows are in theirs, years before the first apart.
    pub fn sort_key(self) -> String {
        match self {
            Self::Time(start) => start.compact(),
            Self::Volume(VolumeId { partition, offset }) => format!("p{:010}-o{:020}", partition.0, offset.0),
        }
    }
}

impl VolumeId {
    /// The inverse of `Display`; takes no other spelling.
    fn parse(text: &str) -> Option<Self> {
        let (partition, offset) = text.strip_prefix('p')?.split_once("-o")?;
        let id = Self { partition: PartitionId(partition.parse().ok()?), offset: Offset(offset.parse().ok()?) };
        (id.partition.0 >= 0 && id.offset.0 >= 0 && id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}-o{}", self.partition, self.offset)
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(start) => f.write_str(&start.compact()),
            Self::Volume(id) => id.fmt(f),
        }
    }
}

impl std::str::FromStr for WindowId {
    type Err = InvalidWindowId;
    /// Reads what is written, and RFC 3339 as well, since people type that.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(id) = VolumeId::parse(text) {
            return Ok(Self::Volume(id));
        }
        let time = Timestamp::from_compact(text).or_else(|_| text.parse());
        time.map(Self::Time).map_err(|_| InvalidWindowId(text.to_owned()))
    }
}

impl TryFrom<String> for WindowId {
    type Error = InvalidWindowId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WindowId> for String {
    fn from(id: WindowId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = WindowId> {
        let times = (Timestamp::from_millis(-62_000_000_000_000).micros()..Timestamp::MAX.micros())
            .prop_map(|us| WindowId::Time(Timestamp::from_micros(us / 1_000_000 * 1_000_000)));
        let volumes = (0..i32::MAX, prop_oneof![0i64..2_000, 0..i64::MAX]).prop_map(|(partition, offset)| {
            WindowId::Volume(VolumeId { partition: PartitionId(partition), offset: Offset(offset) })
        });
        prop_oneof![times, volumes]
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_is_written_also_in_records(id in ids()) {
            prop_assert_eq!(id.to_string().parse::<WindowId>().unwrap(), id);
            prop_assert_eq!(serde_json::from_value::<WindowId>(serde_json::to_value(id).unwrap()).unwrap(), id);
        }

        #[test]
        fn pages_of_windows_are_in_their_order(a in ids(), b in ids()) {
            prop_assert_eq!(a.cmp(&b), a.sort_key().cmp(&b.sort_key()), "{} {}", a, b);
        }
    }

    #[test]
    fn a_window_has_one_name_and_what_is_none_is_refused_with_examples() {
        assert_eq!("p3-o1234".parse::<WindowId>().unwrap().to_string(), "p3-o1234");
        assert_eq!("2015-09-01T05:00:00Z".parse::<WindowId>().unwrap().to_string(), "20150901T050000Z");
        for text in ["", "p3", "p03-o1", "p3-o01", "p-1-o1", "p3-o-1", "p+3-o1", "p3-o1 ", "P3-o1", "p3-o1/x"] {
            assert!(text.parse::<WindowId>().unwrap_err().to_string().contains("p3-o1234"), "{text}");
        }
    }
}
