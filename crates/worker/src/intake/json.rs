//! Messages that others write: one JSON object, an array of them, or one per line.
//!
//! Read in one pass, without a tree: the fields that a job declares are picked up, strings borrow from the message,
//! everything else is skipped. A key that is there twice counts as its last, as in most JSON libraries.

use std::borrow::Cow;

use windrow_ports::log::Record;
use windrow_protocol::job::{JsonSource, JsonTime, TimeFormat, ValueType};
use windrow_protocol::{JobSpec, Timestamp};

mod raw;
mod read;

use raw::Raw;

/// What a message holds.
#[derive(Debug, Default)]
pub struct Message<'a> {
    readings: Vec<Reading<'a>>,
    /// Of each reading one value per declared column.
    values: Vec<Value<'a>>,
    pub unfit: Vec<Unfit>,
}

impl<'a> Message<'a> {
    /// Its good readings, each with its values in the order of the declared columns.
    pub fn readings(&self) -> impl Iterator<Item = (&Reading<'a>, &[Value<'a>])> {
        let columns = self.values.len() / self.readings.len().max(1);
        let values = move |i: usize| self.values.get(i * columns..(i + 1) * columns).unwrap_or_default();
        self.readings.iter().enumerate().map(move |(i, reading)| (reading, values(i)))
    }
}

/// A good reading, without its values.
#[derive(Debug)]
pub struct Reading<'a> {
    pub device: Cow<'a, str>,
    pub time: Timestamp,
    pub seq: Option<u64>,
}

/// A value of its column's type.
#[derive(Debug)]
pub enum Value<'a> {
    Null,
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(Cow<'a, str>),
}

/// A reading that can't be used, and why.
#[derive(Debug)]
pub struct Unfit {
    pub time: Option<Timestamp>,
    pub reason: String,
}

/// Which fields of an object a job wants, and what for.
#[derive(Debug)]
pub struct Fields {
    /// Each once, whatever it is wanted for.
    names: Vec<String>,
    device: Option<usize>,
    seq: Option<usize>,
    time: Option<(usize, JsonTime)>,
    columns: Vec<(usize, ValueType)>,
}

impl Fields {
    pub fn new(spec: &JobSpec, columns: &[(String, ValueType)]) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut place = |name: &str| {
            let found = names.iter().position(|known| known == name);
            found.unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            })
        };
        let JsonSource { device, seq, time } = spec.source.json.clone().unwrap_or_default();
        let device = device.as_deref().map(&mut place);
        let seq = seq.as_deref().map(&mut place);
        let time = time.map(|time| (place(&time.field), time));
        let columns = columns.iter().map(|(name, kind)| (place(name), *kind)).collect();
        Self { names, device, seq, time, columns }
    }

    /// Makes a reading of what an object has for the names, and adds its values.
    fn reading<'a>(
        &self,
        found: &[Raw<'a>],
        record: &'a Record,
        values: &mut Vec<Value<'a>>,
    ) -> Result<Reading<'a>, Unfit> {
        let time = match &self.time {
            Some((place, time)) => event_time(&found[*place], time, record.timestamp)?,
            None => record.timestamp,
        };
        let failed = |reason: String| Unfit { time: Some(time), reason };
        let device = self.device(found, record).map_err(failed)?;
        let seq = match self.seq.map(|place| &found[place]) {
            None | Some(Raw::Absent | Raw::Null) => None,
            Some(Raw::U64(seq)) => Some(*seq),
            Some(other) => return Err(failed(format!("seq {other} is not a whole number from 0 on"))),
        };
        for (place, declared) in &self.columns {
            let value = found[*place].value(*declared).ok_or_else(|| {
                let (name, kind) = (&self.names[*place], found[*place].kind());
                failed(format!("field {name:?} is {kind}, not {}", declared.name()))
            })?;
            values.push(value);
        }
        Ok(Reading { device, time, seq })
    }

    fn device<'a>(&self, found: &[Raw<'a>], record: &'a Record) -> Result<Cow<'a, str>, String> {
        let device = match self.device {
            Some(place) => match &found[place] {
                Raw::Text(text) => text.clone(),
                number @ (Raw::U64(_) | Raw::I64(_) | Raw::F64(_)) => Cow::Owned(number.to_string()),
                Raw::Absent => return Err(format!("device field {:?} is missing", self.names[place])),
                other => return Err(format!("device field {:?} is {}", self.names[place], other.kind())),
            },
            // Another spelling of bytes that are no text would make one device of many.
            None => match std::str::from_utf8(record.key.as_deref().unwrap_or_default()) {
                Ok(key) => Cow::Borrowed(key),
                Err(_) => return Err("the message's key, which names the device, is no UTF-8 text".to_owned()),
            },
        };
        if device.is_empty() { Err("the device is empty".to_owned()) } else { Ok(device) }
    }
}

fn event_time(value: &Raw<'_>, time: &JsonTime, stamp: Timestamp) -> Result<Timestamp, Unfit> {
    if matches!(value, Raw::Absent) {
        return Err(Unfit { time: None, reason: format!("time field {:?} is missing", time.field) });
    }
    let number = |scale: f64| value.as_f64().map(|n| Timestamp::from_micros((n * scale).round() as i64));
    let parsed = match (time.format, value) {
        (TimeFormat::Rfc3339, Raw::Text(text)) => text.parse::<Timestamp>().ok(),
        (TimeFormat::Rfc3339, _) => None,
        (TimeFormat::UnixSeconds, _) => number(1e6),
        (TimeFormat::UnixMillis, _) => number(1e3),
        (TimeFormat::UnixMicros, _) => value.as_i64().map(Timestamp::from_micros),
    };
    let Some(parsed) = parsed else {
        return Err(Unfit { time: None, reason: format!("time {value} is not of the declared format") });
    };
    if parsed.since(stamp).abs() > time.bound.micros() {
        let reason = format!("time {parsed} is further than {} from the message's timestamp {stamp}", time.bound);
        // By its own time it would belong to a window that does not look this far for it.
        return Err(Unfit { time: None, reason });
    }
    Ok(parsed)
}

/// Reads a message; an error if any of it is no JSON.
pub fn parse<'a>(record: &'a Record, fields: &Fields) -> Result<Message<'a>, String> {
    read::message(record, fields).map_err(|error| format!("not JSON: {error}"))
}
