//! Messages that others write: one JSON object, an array of them, or one per line.

use serde_json::{Map, Value as Json};
use windrow_ports::log::Record;
use windrow_protocol::job::{JsonSource, JsonTime, TimeFormat, ValueType};
use windrow_protocol::{JobSpec, Timestamp};
use windrow_wire::block::{BlockBuilder, Reading, Value};

/// What a message holds.
#[derive(Debug, Default)]
pub struct Message {
    /// Its good readings, as blocks (several where a field changes its type).
    pub blocks: Vec<BlockBuilder>,
    pub unfit: Vec<Unfit>,
}

/// A reading that can't be used, and why.
#[derive(Debug)]
pub struct Unfit {
    pub time: Option<Timestamp>,
    pub reason: String,
}

/// Reads a message; an error if it is no JSON at all.
pub fn parse(record: &Record, spec: &JobSpec, columns: &[(String, ValueType)]) -> Result<Message, String> {
    let mut message = Message::default();
    let values = serde_json::Deserializer::from_slice(&record.payload).into_iter::<Json>();
    let default = JsonSource::default();
    let source = spec.source.json.as_ref().unwrap_or(&default);
    for value in values {
        let items = match value.map_err(|error| format!("not JSON: {error}"))? {
            Json::Array(items) => items,
            item => vec![item],
        };
        for item in &items {
            if let Err(unfit) = push(&mut message, record, source, columns, item) {
                message.unfit.push(unfit);
            }
        }
    }
    Ok(message)
}

fn push(
    message: &mut Message,
    record: &Record,
    source: &JsonSource,
    columns: &[(String, ValueType)],
    item: &Json,
) -> Result<(), Unfit> {
    let unfit = |time: Option<Timestamp>, reason: String| Unfit { time, reason };
    let Json::Object(object) = item else {
        return Err(unfit(None, format!("expected an object, found {}", kind(item))));
    };
    let time = match &source.time {
        Some(time) => event_time(object, time, record.timestamp)?,
        None => record.timestamp,
    };
    let failed = |reason: String| unfit(Some(time), reason);
    let device = device(object, source, record).map_err(failed)?;
    let seq = match source.seq.as_ref().and_then(|field| object.get(field)) {
        None | Some(Json::Null) => None,
        Some(seq) => Some(seq.as_u64().ok_or_else(|| failed(format!("seq {seq} is not a whole number from 0 on")))?),
    };
    let mut fields = Vec::new();
    for (name, declared) in columns {
        let value = match object.get(name) {
            None | Some(Json::Null) => continue,
            Some(value) => value,
        };
        let fits = match declared {
            ValueType::F64 => value.as_f64().map(Value::F64),
            ValueType::I64 => value.as_i64().map(Value::I64),
            ValueType::Bool => value.as_bool().map(Value::Bool),
            ValueType::String => value.as_str().map(Value::Text),
        };
        let fits = fits.ok_or_else(|| failed(format!("field {name:?} is {}, not {}", kind(value), declared.name())))?;
        fields.push((name.as_str(), fits));
    }
    let reading = Reading { device: &device, time_us: time.micros(), seq, fields };
    match message.blocks.last_mut() {
        Some(block) if block.accepts(&reading) => block.push(&reading),
        _ => {
            let mut block = BlockBuilder::default();
            block.push(&reading);
            message.blocks.push(block);
        }
    }
    Ok(())
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

fn device(object: &Map<String, Json>, source: &JsonSource, record: &Record) -> Result<String, String> {
    let device = match &source.device {
        Some(field) => match object.get(field) {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Number(number)) => number.to_string(),
            Some(other) => return Err(format!("device field {field:?} is {}", kind(other))),
            None => return Err(format!("device field {field:?} is missing")),
        },
        None => record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default(),
    };
    if device.is_empty() { Err("the device is empty".to_owned()) } else { Ok(device) }
}

fn event_time(object: &Map<String, Json>, time: &JsonTime, stamp: Timestamp) -> Result<Timestamp, Unfit> {
    let failed = |reason: String| Unfit { time: None, reason };
    let value = object.get(&time.field).ok_or_else(|| failed(format!("time field {:?} is missing", time.field)))?;
    let number = |scale: f64| value.as_f64().map(|n| Timestamp::from_micros((n * scale).round() as i64));
    let parsed = match time.format {
        TimeFormat::Rfc3339 => value.as_str().and_then(|text| text.parse::<Timestamp>().ok()),
        TimeFormat::UnixSeconds => number(1e6),
        TimeFormat::UnixMillis => number(1e3),
        TimeFormat::UnixMicros => value.as_i64().map(Timestamp::from_micros),
    };
    let parsed = parsed.ok_or_else(|| failed(format!("time {value} is not of the declared format")))?;
    if parsed.since(stamp).abs() > time.bound.micros() {
        let reason = format!("time {parsed} is further than {} from the message's timestamp {stamp}", time.bound);
        return Err(Unfit { time: Some(parsed), reason });
    }
    Ok(parsed)
}
