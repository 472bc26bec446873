//! A reading as it comes in, and what is refused.

use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;
use windrow_wire::block;

/// The longest device id, in bytes.
const MAX_DEVICE_BYTES: usize = 256;
/// The longest name of a value, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The longest text value, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The most values of one reading.
const MAX_FIELDS: usize = 1_000;

/// One sample of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub device: String,
    pub time: Timestamp,
    pub seq: Option<u64>,
    pub fields: Vec<(String, Field)>,
}

/// A named value.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(String),
}

/// A reading that was not taken; the others of its request were.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// Position in the request, from 0.
    pub index: u64,
    /// The field that is wrong.
    pub field: String,
    /// Stable code.
    pub reason: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(index: u64, field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { index, field: field.into(), reason, message: message.into() }
    }
}

impl Reading {
    /// Whether it can be right, by this clock and the topic's retention.
    pub(crate) fn check(
        &self,
        index: u64,
        now: Timestamp,
        max_skew: Length,
        retention_ms: Option<i64>,
    ) -> Result<(), Refusal> {
        let refuse = |field: &str, reason, message: String| Err(Refusal::new(index, field, reason, message));
        if self.device.is_empty() || self.device.len() > MAX_DEVICE_BYTES {
            return refuse(
                "device",
                "INVALID_DEVICE",
                format!("a device id has 1 to {MAX_DEVICE_BYTES} bytes, not {}", self.device.len()),
            );
        }
        if self.time.since(now) > max_skew.micros() {
            return refuse(
                "time",
                "TOO_FAR_AHEAD",
                format!(
                    "{} is more than {max_skew} ahead of the gateway's clock ({now}); check the device's clock",
                    self.time
                ),
            );
        }
        if let Some(retention_ms) = retention_ms
            && now.since(self.time) / 1_000 >= retention_ms
        {
            let keeps = Length::from_millis(retention_ms);
            return refuse(
                "time",
                "TOO_OLD",
                format!(
                    "{} is older than the topic's retention ({keeps}): it could vanish before it is read",
                    self.time
                ),
            );
        }
        if self.fields.len() > MAX_FIELDS {
            return refuse(
                "values",
                "TOO_MANY_VALUES",
                format!("{} values; at most {MAX_FIELDS} are allowed", self.fields.len()),
            );
        }
        for (i, (name, value)) in self.fields.iter().enumerate() {
            let field = format!("values.{}", name.chars().take(40).collect::<String>());
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return refuse(&field, "INVALID_NAME", format!("a value's name has 1 to {MAX_NAME_BYTES} bytes"));
            }
            if self.fields[..i].iter().any(|(before, _)| before == name) {
                return refuse(&field, "DUPLICATE_NAME", "each name may occur once among values and tags".to_owned());
            }
            match value {
                Field::F64(value) if !value.is_finite() => {
                    return refuse(
                        &field,
                        "NOT_FINITE",
                        "NaN and infinities are not values; leave the field out".to_owned(),
                    );
                }
                Field::Text(text) if text.len() > MAX_TEXT_BYTES => {
                    return refuse(
                        &field,
                        "TEXT_TOO_LONG",
                        format!("{} bytes; at most {MAX_TEXT_BYTES} are allowed", text.len()),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// As the block codec takes it.
    pub(crate) fn as_block(&self) -> block::Reading<'_> {
        let fields = self.fields.iter().map(|(name, value)| {
            let value = match value {
                Field::F64(value) => block::Value::F64(*value),
                Field::I64(value) => block::Value::I64(*value),
                Field::Bool(value) => block::Value::Bool(*value),
                Field::Text(value) => block::Value::Text(value),
            };
            (name.as_str(), value)
        });
        block::Reading { device: &self.device, time_us: self.time.micros(), seq: self.seq, fields: fields.collect() }
    }
}
