//! Newtypes for everything that has a name or a number, so that they can't be mixed up.
//!
//! String ids are valid object-key segments and etcd-key segments by construction: whoever holds one may put it
//! into a path without escaping.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that can't be used as an id, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {reason}")]
pub struct InvalidId {
    /// What the id was meant for, e.g. `job name`.
    pub kind: &'static str,
    /// The refused text, shortened to 80 characters.
    pub value: String,
    /// What is allowed instead.
    pub reason: &'static str,
}

fn check(
    kind: &'static str,
    value: &str,
    max: usize,
    allowed: fn(char) -> bool,
    rule: &'static str,
) -> Result<(), InvalidId> {
    let fits = !value.is_empty() && value.len() <= max && value.chars().all(allowed);
    // Command lines would take it for an option. Topics of others may be called so.
    let fits = fits && (kind == "topic name" || !value.starts_with('-'));
    // `.` and `..` walk directories in a local object store, and names of Kafka topics exclude them too.
    if fits && value != "." && value != ".." {
        return Ok(());
    }
    Err(InvalidId { kind, value: value.chars().take(80).collect(), reason: rule })
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text; the error says what is allowed.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                check($kind, &value, $max, $allowed, $rule)?;
                Ok(Self(value))
            }

            /// The text as given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }
    };
}

fn is_label(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

fn is_topic(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

string_id!(
    /// Name of a job, unique in a cluster. 1 to 63 of `a-z 0-9 -`, as Kubernetes names objects.
    JobName, "job name", 63, is_label, "1 to 63 characters of a-z, 0-9 and -, not beginning with -"
);
string_id!(
    /// Name of a Kafka topic: 1 to 249 of `a-z A-Z 0-9 . _ -`.
    TopicName, "topic name", 249, is_topic, "1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
);
string_id!(
    /// Name of a worker process, unique while it lives (host name plus a random suffix by default).
    WorkerId, "worker id", 128, is_topic, "1 to 128 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
);
string_id!(
    /// One worker's try at a batch. Random, so that two tries never share a staged file.
    AttemptId, "attempt id", 64, is_topic, "1 to 64 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
);
string_id!(
    /// Name of a backfill, unique in its job. 1 to 63 of `a-z 0-9 -`.
    BackfillName, "backfill name", 63, is_label, "1 to 63 characters of a-z, 0-9 and -"
);
string_id!(
    /// The identity of a topic that survives renaming and ends with deletion (Kafka's topic UUID, base64url).
    TopicId, "topic id", 64, is_topic, "1 to 64 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
);

/// A partition of a topic, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub i32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in a partition. Offsets count log records (blocks), not readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Revision {
    /// The one that takes this one's place.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Offset {
    /// The offset right after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a window's result has been replaced; the first result is revision 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Revision(pub u32);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_path_are_refused_with_the_rule() {
        for bad in ["", "a/b", "..", "A", "ä", &"x".repeat(64)] {
            let error = JobName::new(bad).unwrap_err();
            assert!(error.to_string().contains("1 to 63 characters"), "{error}");
        }
        assert!(JobName::new("-x").is_err() && TopicName::new("-x").is_ok());
        assert_eq!(JobName::new("congestion-2").unwrap().as_str(), "congestion-2");
    }

    #[test]
    fn a_stored_id_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<TopicName>("\"a b\"").is_err());
        assert_eq!(serde_json::from_str::<TopicName>("\"plant.1_a\"").unwrap().as_str(), "plant.1_a");
    }
}
