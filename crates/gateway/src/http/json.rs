//! From a body to a [`Batch`], in one pass and without a copy of what is only looked at.
//!
//! The visitors never fail for what a value means, only for what is no JSON: a reading of the wrong shape is read to its
//! end and refused, and the next one is read as if nothing had been.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use windrow_wire::block::Value;

use super::elements::Elements;
use super::time;
use crate::MAX_READINGS;
use crate::batch::{Batch, NewRow, path};

const MALFORMED: &str = "MALFORMED_JSON";

/// The readings of a body: an object, an array of them, or one per line.
pub fn parse(body: &[u8]) -> Batch {
    let body = body.trim_ascii();
    if body.first() == Some(&b'[') {
        return array(body).unwrap_or_else(|_| broken_array(body));
    }
    let mut batch = Batch::default();
    // One object over several lines.
    if body.split(|byte| *byte == b'\n').next().is_some_and(|line| line.len() < body.len() && element(line).is_err())
        && let Ok(one) = element(body)
    {
        return one;
    }
    for line in body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        add(&mut batch, line);
    }
    batch
}

/// A single reading's batch; an error if it is no JSON.
fn element(text: &[u8]) -> serde_json::Result<Batch> {
    let mut batch = Batch::default();
    let mut row = batch.row();
    whole(text, Reading(&mut row))?;
    row.finish();
    Ok(batch)
}

/// Adds the reading that is the whole of a text.
fn add(batch: &mut Batch, text: &[u8]) {
    let mut row = batch.row();
    if let Err(error) = whole(text, Reading(&mut row)) {
        row.malformed(MALFORMED, error.to_string());
    }
    row.finish();
}

fn whole<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> serde_json::Result<S::Value> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = seed.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

fn array(body: &[u8]) -> serde_json::Result<Batch> {
    let mut batch = Batch::default();
    whole(body, Readings(&mut batch))?;
    Ok(batch)
}

/// Elements that are JSON count, whatever lies between them.
fn broken_array(body: &[u8]) -> Batch {
    let mut batch = Batch::default();
    let mut elements = Elements::of(body);
    // One too many is enough to refuse the request.
    while batch.seen() <= MAX_READINGS as u64
        && let Some(element) = elements.next()
    {
        add(&mut batch, element);
    }
    if !elements.ends() {
        let mut row = batch.row();
        row.malformed(MALFORMED, "the array does not end with a bracket".to_owned());
        row.finish();
    }
    batch
}

struct Readings<'b>(&'b mut Batch);

impl<'de> DeserializeSeed<'de> for Readings<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Readings<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of readings")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        loop {
            let mut row = self.0.row();
            if seq.next_element_seed(Reading(&mut row))?.is_none() {
                return Ok(());
            }
            row.finish();
        }
    }
}

/// One reading. Not an object: refused, and read to its end.
struct Reading<'a, 'b>(&'a mut NewRow<'b>);

impl Reading<'_, '_> {
    fn not_an_object(self) {
        let message = || "a reading is an object with device, time, values".to_owned();
        self.0.refuse(String::new, "NOT_AN_OBJECT", message);
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(OrOther(self))
    }
}

impl<'de> Object<'de> for Reading<'_, '_> {
    fn members<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "device" | "time" | "seq" => scalar(self.0, &name, map.next_value()?),
                "values" | "tags" => map.next_value_seed(Values { row: self.0, part: &name })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    let field = || name.chars().take(40).collect();
                    let message = || "known are device, time, seq, values, tags".to_owned();
                    self.0.refuse(field, "UNKNOWN_FIELD", message);
                }
            }
        }
        Ok(())
    }
    fn other(self) {
        self.not_an_object();
    }
}

fn scalar(row: &mut NewRow<'_>, name: &str, value: Scalar<'_>) {
    match (name, value) {
        ("device", Scalar::Text(Text(text))) => row.device(&text),
        ("time", Scalar::Text(Text(text))) => match time::parse(&text) {
            Some(time) => row.time(time),
            None => {
                let shown: String = text.chars().take(40).collect();
                let message = || format!("{shown:?} is not a time; expected RFC 3339, e.g. 2026-03-29T01:30:00Z");
                row.refuse(|| "time".to_owned(), "INVALID_TIME", message);
            }
        },
        ("seq", Scalar::Null) => {}
        ("seq", Scalar::U64(seq)) => row.seq(seq),
        _ => wrong_type(row, name),
    }
}

fn wrong_type(row: &mut NewRow<'_>, name: &str) {
    let message = "expected: device and time (RFC 3339) as strings, seq as a whole number from 0 to 2^64-1, values and tags as objects";
    row.refuse(|| name.to_owned(), "WRONG_TYPE", || message.to_owned());
}

/// The object of values or tags.
struct Values<'a, 'b> {
    row: &'a mut NewRow<'b>,
    part: &'a str,
}

impl<'de> DeserializeSeed<'de> for Values<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(OrOther(self))
    }
}

impl<'de> Object<'de> for Values<'_, '_> {
    fn members<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let tags = self.part == "tags";
        while let Some(Text(name)) = map.next_key()? {
            let value = match map.next_value()? {
                Scalar::Null => continue,
                Scalar::Text(Text(text)) => {
                    self.row.field(self.part, &name, Value::Text(&text));
                    continue;
                }
                Scalar::Bool(value) if !tags => Value::Bool(value),
                Scalar::I64(value) if !tags => Value::I64(value),
                // A whole number that is too large is as good as a float as it is for the sender, in most languages.
                Scalar::U64(value) if !tags => i64::try_from(value).map_or(Value::F64(value as f64), Value::I64),
                Scalar::F64(value) if !tags => Value::F64(value),
                _ => {
                    let message =
                        if tags { "a tag is a string" } else { "a value is a number, true, false or a string" };
                    self.row.refuse(|| path(self.part, &name), "WRONG_TYPE", || message.to_owned());
                    continue;
                }
            };
            self.row.field(self.part, &name, value);
        }
        Ok(())
    }
    fn other(self) {
        wrong_type(self.row, self.part);
    }
}

/// What is read from an object, or noted if there is something else in its place.
trait Object<'de> {
    fn members<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error>;
    fn other(self);
}

struct OrOther<T>(T);

impl<'de, T: Object<'de>> Visitor<'de> for OrOther<T> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.members(map)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.0.other();
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.other();
        Ok(())
    }
}

/// Text, borrowed from the body unless it has escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// Any JSON value; arrays and objects only as that.
enum Scalar<'de> {
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(Text<'de>),
    Nested,
}

impl<'de> serde::Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::I64(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::U64(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::F64(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Text(Cow::Borrowed(text))))
    }
    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Text(Cow::Owned(text.to_owned()))))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_number_is_read_as_the_one_that_was_written(value in proptest::num::f64::NORMAL) {
            let text = format!("{value:?}");
            let read = serde_json::from_str::<Scalar<'_>>(&text).unwrap();
            proptest::prop_assert!(matches!(read, Scalar::F64(read) if read.to_bits() == value.to_bits()), "{value:?}");
        }
    }
}
