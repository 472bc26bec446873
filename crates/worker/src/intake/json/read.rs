//! Walks through a message.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use windrow_ports::log::Record;

use super::raw::Raw;
use super::{Fields, Message, Unfit};

/// Reads all values of a message.
pub fn message<'a>(record: &'a Record, fields: &Fields) -> serde_json::Result<Message<'a>> {
    let mut reader = Reader { message: Message::default(), found: Vec::new(), record, fields };
    let mut rest = skip_space(&record.payload);
    while !rest.is_empty() {
        let mut json = serde_json::Deserializer::from_slice(rest);
        Item { reader: &mut reader, in_array: false }.deserialize(&mut json)?;
        let used = json.into_iter::<IgnoredAny>().byte_offset();
        rest = skip_space(rest.get(used..).unwrap_or_default());
    }
    Ok(reader.message)
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    let first = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    &bytes[first.unwrap_or(bytes.len())..]
}

struct Reader<'a, 'f> {
    message: Message<'a>,
    /// What the object at hand has for each of the wanted names.
    found: Vec<Raw<'a>>,
    record: &'a Record,
    fields: &'f Fields,
}

impl Reader<'_, '_> {
    fn unfit(&mut self, item: &str) {
        self.message.unfit.push(Unfit { time: None, reason: format!("expected an object, found {item}") });
    }

    fn object(&mut self) {
        let before = self.message.values.len();
        match self.fields.reading(&self.found, self.record, &mut self.message.values) {
            Ok(reading) => self.message.readings.push(reading),
            Err(unfit) => {
                self.message.values.truncate(before);
                self.message.unfit.push(unfit);
            }
        }
    }
}

/// A value of the message, or an element of an array in it.
struct Item<'r, 'a, 'f> {
    reader: &'r mut Reader<'a, 'f>,
    in_array: bool,
}

impl<'a> DeserializeSeed<'a> for Item<'_, 'a, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Item<'_, 'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<(), A::Error> {
        let Reader { found, fields, .. } = &mut *self.reader;
        found.clear();
        found.resize(fields.names.len(), Raw::Absent);
        while let Some(place) = entries.next_key_seed(Name(&fields.names))? {
            match place {
                Some(place) => found[place] = entries.next_value()?,
                None => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        self.reader.object();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        if self.in_array {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            self.reader.unfit("an array");
            return Ok(());
        }
        while items.next_element_seed(Item { reader: &mut *self.reader, in_array: true })?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.reader.unfit("null");
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.reader.unfit("a bool");
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.reader.unfit("a number");
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.reader.unfit("a number");
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.reader.unfit("a number");
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.reader.unfit("a string");
        Ok(())
    }
}

/// A key: its place among the wanted names, if it is one of them.
struct Name<'f>(&'f [String]);

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name == key))
    }
}
