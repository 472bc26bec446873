//! A field's value as it stands in the message.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use windrow_protocol::job::ValueType;

use super::Value;

#[derive(Debug, Clone, Default)]
pub enum Raw<'a> {
    #[default]
    Absent,
    Null,
    Bool(bool),
    /// Whole and not negative.
    U64(u64),
    /// Whole and negative.
    I64(i64),
    F64(f64),
    Text(Cow<'a, str>),
    Array,
    Object,
}

impl<'a> Raw<'a> {
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::U64(n) => Some(n as f64),
            Self::I64(n) => Some(n as f64),
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U64(n) => i64::try_from(n).ok(),
            Self::I64(n) => Some(n),
            _ => None,
        }
    }

    /// The value for a column; `None` if it is of another type.
    pub fn value(&self, declared: ValueType) -> Option<Value<'a>> {
        match (declared, self) {
            (_, Self::Absent | Self::Null) => Some(Value::Null),
            (ValueType::F64, _) => self.as_f64().map(Value::F64),
            (ValueType::I64, _) => self.as_i64().map(Value::I64),
            (ValueType::Bool, Self::Bool(value)) => Some(Value::Bool(*value)),
            (ValueType::String, Self::Text(text)) => Some(Value::Text(text.clone())),
            _ => None,
        }
    }

    /// In words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "missing",
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::U64(_) | Self::I64(_) | Self::F64(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::U64(n) => n.fmt(f),
            Self::I64(n) => n.fmt(f),
            // As JSON writes it: 7.0, not 7.
            Self::F64(n) => fmt::Debug::fmt(n, f),
            Self::Text(text) => fmt::Debug::fmt(text, f),
            other => f.write_str(other.kind()),
        }
    }
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
        Ok(Raw::U64(n))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
        Ok(Raw::I64(n))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Self::Value, E> {
        Ok(Raw::F64(n))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Raw::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Raw::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Raw::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Raw::Object)
    }
}
