//! A request's readings in one text buffer and two lists, so that a reading costs no allocation of its own, and the
//! checks that need no clock and no topic.

use std::collections::HashSet;

use windrow_protocol::Timestamp;
use windrow_wire::block::{Reading, Value};

use crate::refusal::{Refusal, Refusals};

/// The longest device id, in bytes.
const MAX_DEVICE_BYTES: usize = 256;
/// The longest name of a value, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The longest text value, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The most values of one reading.
const MAX_FIELDS: usize = 1_000;
/// The largest reading, roughly: it must fit into a block, and a block into a log record.
const MAX_READING_BYTES: usize = 256 * 1024;

/// A piece of the text buffer.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum Stored {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(Span),
}

#[derive(Debug, Clone)]
struct Row {
    index: u64,
    device: Span,
    time: Timestamp,
    seq: Option<u64>,
    /// Where its fields end in the list; they start where those of the row before end.
    fields_end: usize,
}

/// Readings of one request that can be right, and refusals of those that can't.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    text: String,
    rows: Vec<Row>,
    fields: Vec<(Span, Stored)>,
    seen: u64,
    refusals: Refusals,
}

impl Batch {
    /// Starts the next reading. It counts when [`NewRow::finish`] is called.
    pub fn row(&mut self) -> NewRow<'_> {
        let (text_start, fields_start) = (self.text.len(), self.fields.len());
        NewRow { batch: self, text_start, fields_start, device: None, time: None, seq: None, problem: None }
    }

    /// Adds a whole reading.
    pub fn push(&mut self, reading: &Reading<'_>) {
        let mut row = self.row();
        row.device(reading.device);
        row.time(Timestamp::from_micros(reading.time_us));
        if let Some(seq) = reading.seq {
            row.seq(seq);
        }
        for (name, value) in &reading.fields {
            row.field("values", name, *value);
        }
        row.finish();
    }

    /// Readings so far, refused ones included.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Readings that were not refused.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is left to publish.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rough size in memory.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.rows.len() * size_of::<Row>() + self.fields.len() * size_of::<(Span, Stored)>()
    }

    pub(crate) fn into_refusals(self) -> Refusals {
        self.refusals
    }

    pub(crate) fn index(&self, row: usize) -> u64 {
        self.rows[row].index
    }

    pub(crate) fn time(&self, row: usize) -> Timestamp {
        self.rows[row].time
    }

    pub(crate) fn device(&self, row: usize) -> &str {
        self.slice(self.rows[row].device)
    }

    fn slice(&self, span: Span) -> &str {
        &self.text[span.start..span.start + span.len]
    }

    /// The row as the block codec takes it. `reuse` is where its fields are put.
    pub(crate) fn read<'a>(&'a self, row: usize, reuse: &mut Reading<'a>) {
        let fields_start = row.checked_sub(1).map_or(0, |before| self.rows[before].fields_end);
        let row = &self.rows[row];
        (reuse.device, reuse.time_us, reuse.seq) = (self.slice(row.device), row.time.micros(), row.seq);
        reuse.fields.clear();
        reuse.fields.extend(self.fields[fields_start..row.fields_end].iter().map(|(name, value)| {
            let value = match *value {
                Stored::F64(value) => Value::F64(value),
                Stored::I64(value) => Value::I64(value),
                Stored::Bool(value) => Value::Bool(value),
                Stored::Text(span) => Value::Text(self.slice(span)),
            };
            (self.slice(*name), value)
        }));
    }
}

/// A reading that is being taken in, field by field. The first problem decides; without `finish` nothing happened.
#[derive(Debug)]
pub struct NewRow<'a> {
    batch: &'a mut Batch,
    text_start: usize,
    fields_start: usize,
    device: Option<Span>,
    time: Option<Timestamp>,
    seq: Option<u64>,
    problem: Option<Refusal>,
}

impl NewRow<'_> {
    /// Notes a problem, unless there was one before.
    pub fn refuse(&mut self, field: impl FnOnce() -> String, reason: &'static str, message: impl FnOnce() -> String) {
        if self.problem.is_none() {
            let index = self.batch.seen;
            self.problem = Some(Refusal { index, field: field(), reason, message: message() });
        }
    }

    /// The reading can't be read at all, whatever was found in it before.
    pub fn malformed(&mut self, reason: &'static str, message: String) {
        let index = self.batch.seen;
        self.problem = Some(Refusal { index, field: String::new(), reason, message });
    }

    fn store(&mut self, text: &str) -> Span {
        let start = self.batch.text.len();
        self.batch.text.push_str(text);
        Span { start, len: text.len() }
    }

    pub fn device(&mut self, device: &str) {
        let field = || "device".to_owned();
        if self.device.is_some() {
            self.refuse(field, "DUPLICATE_NAME", || "device is given twice".to_owned());
        } else if device.is_empty() || device.len() > MAX_DEVICE_BYTES {
            let message = || format!("a device id has 1 to {MAX_DEVICE_BYTES} bytes, not {}", device.len());
            self.refuse(field, "INVALID_DEVICE", message);
        } else {
            self.device = Some(self.store(device));
        }
    }

    pub fn time(&mut self, time: Timestamp) {
        if self.time.replace(time).is_some() {
            self.refuse(|| "time".to_owned(), "DUPLICATE_NAME", || "time is given twice".to_owned());
        }
    }

    pub fn seq(&mut self, seq: u64) {
        if self.seq.replace(seq).is_some() {
            self.refuse(|| "seq".to_owned(), "DUPLICATE_NAME", || "seq is given twice".to_owned());
        }
    }

    /// Adds a value. `part`: the object that it is in, for the refusal's path.
    pub fn field(&mut self, part: &str, name: &str, value: Value<'_>) {
        let path = || path(part, name);
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            self.refuse(path, "INVALID_NAME", || format!("a value's name has 1 to {MAX_NAME_BYTES} bytes"));
        } else if self.batch.fields.len() - self.fields_start >= MAX_FIELDS {
            let message = || format!("a reading has at most {MAX_FIELDS} values");
            self.refuse(|| part.to_owned(), "TOO_MANY_VALUES", message);
        } else {
            let stored = match value {
                Value::F64(value) if !value.is_finite() => {
                    let message = || "NaN and infinities are not values; leave the field out".to_owned();
                    return self.refuse(path, "NOT_FINITE", message);
                }
                Value::Text(text) if text.len() > MAX_TEXT_BYTES => {
                    let message = || format!("{} bytes; at most {MAX_TEXT_BYTES} are allowed", text.len());
                    return self.refuse(path, "TEXT_TOO_LONG", message);
                }
                Value::F64(value) => Stored::F64(value),
                Value::I64(value) => Stored::I64(value),
                Value::Bool(value) => Stored::Bool(value),
                Value::Text(text) => Stored::Text(self.store(text)),
            };
            let name = self.store(name);
            self.batch.fields.push((name, stored));
        }
    }

    /// Takes or refuses the reading.
    pub fn finish(mut self) {
        self.check_whole();
        match (self.problem.take(), self.device, self.time) {
            (None, Some(device), Some(time)) => {
                let (index, fields_end) = (self.batch.seen, self.batch.fields.len());
                self.batch.rows.push(Row { index, device, time, seq: self.seq, fields_end });
                (self.text_start, self.fields_start) = (self.batch.text.len(), fields_end);
            }
            (problem, ..) => problem.into_iter().for_each(|refusal| self.batch.refusals.add(|| refusal)),
        }
        self.batch.seen += 1;
    }

    /// What only the whole reading shows.
    fn check_whole(&mut self) {
        if self.device.is_none() {
            self.refuse(|| "device".to_owned(), "MISSING", || "device is required".to_owned());
        }
        if self.time.is_none() {
            self.refuse(|| "time".to_owned(), "MISSING", || "time is required".to_owned());
        }
        if let Some(name) = self.repeated_name().map(str::to_owned) {
            let message = || "each name may occur once among values and tags".to_owned();
            self.refuse(|| path("values", &name), "DUPLICATE_NAME", message);
        }
        let bytes = self.batch.text.len() - self.text_start;
        if bytes > MAX_READING_BYTES {
            let message = || format!("{bytes} bytes of text; a reading has at most {MAX_READING_BYTES}");
            self.refuse(String::new, "READING_TOO_LARGE", message);
        }
    }

    fn repeated_name(&self) -> Option<&str> {
        let names = || self.batch.fields[self.fields_start..].iter().map(|(name, _)| self.batch.slice(*name));
        let count = self.batch.fields.len() - self.fields_start;
        // Comparing each with each is fastest for few, and a way to keep a core busy for many.
        if count <= 16 {
            return names()
                .enumerate()
                .find(|(i, name)| names().take(*i).any(|before| before == *name))
                .map(|(_, n)| n);
        }
        let mut seen = HashSet::with_capacity(count);
        names().find(|name| !seen.insert(*name))
    }
}

impl Drop for NewRow<'_> {
    fn drop(&mut self) {
        self.batch.text.truncate(self.text_start);
        self.batch.fields.truncate(self.fields_start);
    }
}

/// `part.name`, of a length that fits into an answer.
pub fn path(part: &str, name: &str) -> String {
    format!("{part}.{}", name.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(fields: Vec<(&str, Value<'_>)>) -> Option<(String, &'static str)> {
        let mut batch = Batch::default();
        batch.push(&Reading { device: "d", time_us: 0, seq: None, fields });
        batch.push(&Reading { device: "good", time_us: 0, seq: None, fields: vec![("v", Value::I64(1))] });
        assert_eq!((batch.seen(), batch.device(batch.len() - 1)), (2, "good"));
        batch.into_refusals().first.into_iter().next().map(|refusal| (refusal.field, refusal.reason))
    }

    #[test]
    fn what_can_not_be_right_is_refused_and_leaves_nothing_behind() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let names: Vec<String> = (0..1_001).map(|i| format!("n{i}")).collect();
        let many = |count: usize| names[..count].iter().map(|name| (name.as_str(), Value::Bool(true))).collect();
        let values = |reason| Some(("values.v".to_owned(), reason));
        assert_eq!(refusal(vec![("v", Value::F64(f64::NAN))]), values("NOT_FINITE"));
        assert_eq!(refusal(vec![("v", Value::Text(&long))]), values("TEXT_TOO_LONG"));
        assert_eq!(refusal(vec![("v", Value::I64(1)), ("v", Value::I64(2))]), values("DUPLICATE_NAME"));
        assert_eq!(refusal(many(1_000)), None);
        assert_eq!(refusal(many(1_001)), Some(("values".to_owned(), "TOO_MANY_VALUES")));
        let mut twice: Vec<_> = many(20);
        twice.push(("n7", Value::Bool(false)));
        assert_eq!(refusal(twice), Some(("values.n7".to_owned(), "DUPLICATE_NAME")));
        let text = "x".repeat(MAX_TEXT_BYTES);
        let large = names[..5].iter().map(|name| (name.as_str(), Value::Text(&text))).collect();
        assert_eq!(refusal(large), Some((String::new(), "READING_TOO_LARGE")));
    }

    #[test]
    fn a_row_that_is_not_finished_did_not_happen() {
        let mut batch = Batch::default();
        let mut row = batch.row();
        row.device("d");
        row.field("values", "v", Value::Text("text"));
        drop(row);
        assert_eq!((batch.seen(), batch.len(), batch.bytes()), (0, 0, 0));
    }
}
