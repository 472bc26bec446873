//! The server's side of `IngestService`, without a message of its own for each reading.
//!
//! On the wire nothing is different. Generated code makes some six allocations for a reading; this leaves a request's
//! readings as slices of what was received, and reads one at a time, by hand, into a borrowed [`Reading`]. It never trusts
//! a length before it is checked, and never panics.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};

use crate::block::{Reading, Value};

/// The generated server over [`RawRequest`].
#[allow(clippy::all, clippy::too_many_lines, missing_docs, unreachable_pub)]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/raw/windrow.v1.rs"));
}

/// The most readings of one request.
pub const MAX_READINGS: usize = 100_000;

/// A `PublishRequest` whose readings are not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawRequest {
    pub topic: String,
    /// Each an encoded `Reading`; see [`read`]. At most [`MAX_READINGS`], since an empty one is two bytes on the wire and
    /// many more here.
    pub readings: Vec<Bytes>,
    /// Readings beyond those, which are not kept.
    pub surplus: usize,
}

impl prost::Message for RawRequest {
    fn encode_raw(&self, out: &mut impl BufMut) {
        if !self.topic.is_empty() {
            encoding::string::encode(1, &self.topic, out);
        }
        encoding::bytes::encode_repeated(2, &self.readings, out);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::string::merge(wire_type, &mut self.topic, buf, ctx),
            2 if self.readings.len() == MAX_READINGS => {
                self.surplus += 1;
                encoding::skip_field(wire_type, tag, buf, ctx)
            }
            2 => encoding::bytes::merge_repeated(wire_type, &mut self.readings, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let topic = if self.topic.is_empty() { 0 } else { encoding::string::encoded_len(1, &self.topic) };
        topic + encoding::bytes::encoded_len_repeated(2, &self.readings)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Why bytes are no `Reading`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    #[error("text is not UTF-8")]
    NotUtf8,
    #[error("the message ends too early")]
    Short,
    #[error("field {0} has another wire type than the protocol says")]
    WireType(u32),
}

/// Decodes a reading over another one, whose list of fields is used again. After an error its contents mean nothing.
pub fn read<'a>(mut bytes: &'a [u8], into: &mut Reading<'a>) -> Result<(), RawError> {
    (into.device, into.time_us, into.seq) = ("", 0, None);
    into.fields.clear();
    while !bytes.is_empty() {
        match encoding::decode_key(&mut bytes)? {
            (1, WireType::LengthDelimited) => into.device = text(&mut bytes)?,
            (2, WireType::Varint) => into.time_us = encoding::decode_varint(&mut bytes)? as i64,
            (3, WireType::Varint) => into.seq = Some(encoding::decode_varint(&mut bytes)?),
            (4, WireType::LengthDelimited) => {
                // A field without a value is as good as absent.
                if let (name, Some(value)) = field(slice(&mut bytes)?)? {
                    into.fields.push((name, value));
                }
            }
            (tag @ 1..=4, _) => return Err(RawError::WireType(tag)),
            (tag, wire_type) => encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(())
}

fn field(mut bytes: &[u8]) -> Result<(&str, Option<Value<'_>>), RawError> {
    let (mut name, mut value) = ("", None);
    while !bytes.is_empty() {
        match encoding::decode_key(&mut bytes)? {
            (1, WireType::LengthDelimited) => name = text(&mut bytes)?,
            (2, WireType::SixtyFourBit) => {
                let (bits, rest) = bytes.split_first_chunk().ok_or(RawError::Short)?;
                (value, bytes) = (Some(Value::F64(f64::from_le_bytes(*bits))), rest);
            }
            (3, WireType::Varint) => value = Some(Value::I64(encoding::decode_varint(&mut bytes)? as i64)),
            (4, WireType::Varint) => value = Some(Value::Bool(encoding::decode_varint(&mut bytes)? != 0)),
            (5, WireType::LengthDelimited) => value = Some(Value::Text(text(&mut bytes)?)),
            (tag @ 1..=5, _) => return Err(RawError::WireType(tag)),
            (tag, wire_type) => encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok((name, value))
}

fn slice<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], RawError> {
    let len = usize::try_from(encoding::decode_varint(bytes)?).map_err(|_| RawError::Short)?;
    let (slice, rest) = bytes.split_at_checked(len).ok_or(RawError::Short)?;
    *bytes = rest;
    Ok(slice)
}

fn text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, RawError> {
    std::str::from_utf8(slice(bytes)?).map_err(|_| RawError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::v1;

    fn value() -> impl Strategy<Value = Option<v1::field::Value>> {
        use v1::field::Value as V;
        let some = prop_oneof![
            any::<f64>().prop_filter("comparable", |value| !value.is_nan()).prop_map(V::F64),
            any::<i64>().prop_map(V::I64),
            any::<bool>().prop_map(V::Flag),
            ".{0,9}".prop_map(V::Text),
        ];
        prop::option::of(some)
    }

    fn reading() -> impl Strategy<Value = v1::Reading> {
        let fields =
            prop::collection::vec((".{0,5}", value()).prop_map(|(name, value)| v1::Field { name, value }), 0..5);
        (".{0,9}", any::<i64>(), any::<Option<u64>>(), fields).prop_map(|(device, time_us, seq, fields)| v1::Reading {
            device,
            time_us,
            seq,
            fields,
        })
    }

    fn generated(reading: &Reading<'_>) -> v1::Reading {
        let fields = reading.fields.iter().map(|(name, value)| {
            let value = match value {
                Value::F64(value) => v1::field::Value::F64(*value),
                Value::I64(value) => v1::field::Value::I64(*value),
                Value::Bool(value) => v1::field::Value::Flag(*value),
                Value::Text(value) => v1::field::Value::Text((*value).to_owned()),
            };
            v1::Field { name: (*name).to_owned(), value: Some(value) }
        });
        let (device, fields) = (reading.device.to_owned(), fields.collect());
        v1::Reading { device, time_us: reading.time_us, seq: reading.seq, fields }
    }

    const EMPTY: Reading<'static> = Reading { device: "", time_us: 0, seq: None, fields: Vec::new() };

    proptest! {
        #[test]
        fn what_generated_code_writes_is_read_as_generated_code_reads_it(
            topic in ".{0,9}",
            readings in prop::collection::vec(reading(), 0..5),
        ) {
            let request = v1::PublishRequest { topic, readings };
            let raw = RawRequest::decode(request.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(&raw.encode_to_vec(), &request.encode_to_vec());
            prop_assert_eq!(&raw.topic, &request.topic);
            let mut found = EMPTY;
            for (bytes, mut reading) in raw.readings.iter().zip(request.readings) {
                read(bytes, &mut found).unwrap();
                reading.fields.retain(|field| field.value.is_some());
                prop_assert_eq!(generated(&found), reading);
            }
        }

        #[test]
        fn damage_never_panics_and_is_never_taken_where_generated_code_refuses(
            reading in reading(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = reading.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if read(&bytes, &mut EMPTY.clone()).is_ok() {
                prop_assert!(v1::Reading::decode(bytes.as_slice()).is_ok());
            }
        }
    }
}
