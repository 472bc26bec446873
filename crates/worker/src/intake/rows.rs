//! Rows of `readings`, and of quarantine.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, BinaryBuilder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType, UInt64Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use windrow_ports::log::Record;
use windrow_processing::schema::time_type;
use windrow_protocol::job::ValueType;
use windrow_protocol::{Offset, Timestamp};
use windrow_wire::block::{Decoded, Values};

use super::columns::{Chosen, Column, Numbers, Texts};
use super::json::{Reading, Value};

/// Rows of `readings`.
#[derive(Debug)]
pub struct Rows {
    schema: SchemaRef,
    device: Texts,
    time: Numbers<TimestampMicrosecondType>,
    seq: Numbers<UInt64Type>,
    columns: Vec<Column>,
}

impl Rows {
    pub fn new(schema: SchemaRef, columns: &[(String, ValueType)]) -> Self {
        Self {
            schema,
            device: Texts::default(),
            time: Numbers::default(),
            seq: Numbers::default(),
            columns: columns.iter().map(|(_, kind)| Column::new(*kind)).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Bytes of strings so far: a row may bring a long one.
    pub fn text_bytes(&self) -> usize {
        self.device.bytes() + self.columns.iter().map(Column::text_bytes).sum::<usize>()
    }

    /// Appends the chosen rows of a block; `columns` are its columns for the declared ones.
    pub fn append(&mut self, block: &Decoded<'_>, columns: &[Option<&Values<'_>>], chosen: Chosen<'_>) {
        let rows = block.row_count;
        self.device.extend(&block.devices, &block.device_index, chosen);
        self.time.extend(&block.times_us, chosen);
        match &block.seqs {
            Some(seqs) => self.seq.append(rows, seqs, chosen, |seq| seq),
            None => self.seq.append_nulls(chosen.count(rows)),
        }
        for (to, from) in self.columns.iter_mut().zip(columns) {
            to.append(rows, *from, chosen);
        }
    }

    /// Appends one reading with its values in the order of the declared columns.
    pub fn push(&mut self, reading: &Reading<'_>, values: &[Value<'_>]) {
        self.device.push(Some(reading.device.as_ref()));
        self.time.push(Some(reading.time.micros()));
        self.seq.push(reading.seq);
        for (column, value) in self.columns.iter_mut().zip(values) {
            match (column, value) {
                (Column::F64(to), Value::F64(value)) => to.push(Some(*value)),
                (Column::I64(to), Value::I64(value)) => to.push(Some(*value)),
                (to @ Column::Bool { .. }, Value::Bool(value)) => to.push_bool(Some(*value)),
                (Column::Text(to), Value::Text(value)) => to.push(Some(value.as_ref())),
                (to, _) => to.append_nulls(1),
            }
        }
    }

    pub fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.len() == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> =
            vec![self.device.finish()?, self.time.finish(time_type())?, self.seq.finish(DataType::UInt64)?];
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        RecordBatch::try_new(self.schema.clone(), arrays).map(Some)
    }
}

/// The columns of the quarantine dataset: where the record lies, what is known of the reading, why it is here, and the
/// record as it was, or, of a reading of a block, its values as JSON.
pub fn quarantine_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("offset", DataType::Int64, false),
        Field::new("device", DataType::Utf8, true),
        Field::new("time", time_type(), true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("payload", DataType::Binary, false),
    ]))
}

#[derive(Debug)]
pub struct Quarantine {
    offset: Int64Builder,
    device: StringBuilder,
    time: TimestampMicrosecondBuilder,
    reason: StringBuilder,
    payload: BinaryBuilder,
    /// Offset of the newest record that was kept as it is.
    last: Option<Offset>,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            offset: Int64Builder::new(),
            device: StringBuilder::new(),
            time: TimestampMicrosecondBuilder::new().with_data_type(time_type()),
            reason: StringBuilder::new(),
            payload: BinaryBuilder::new(),
            last: None,
        }
    }
}

impl Quarantine {
    pub fn len(&self) -> usize {
        self.offset.len()
    }

    /// Bytes of reasons and records so far.
    pub fn bytes(&self) -> usize {
        self.payload.values_slice().len() + self.reason.values_slice().len()
    }

    /// Keeps a record as it is, for a reading of it or for all.
    pub fn push(&mut self, record: &Record, time: Option<Timestamp>, reason: &str) {
        let payload = self.once(record);
        self.add(record, None, time, reason, payload);
    }

    /// Keeps a reading of a block: its values as JSON, or the block, which holds them.
    pub fn push_reading(&mut self, record: &Record, device: &str, time: Timestamp, reason: &str, values: Option<&str>) {
        let payload = values.map_or_else(|| self.once(record), str::as_bytes);
        self.add(record, Some(device), Some(time), reason, payload);
    }

    /// A record's bytes, the first time. Its further readings are found by its offset; repeating the record for each of
    /// them would multiply it.
    fn once<'a>(&mut self, record: &'a Record) -> &'a [u8] {
        let first = self.last.replace(record.offset) != Some(record.offset);
        if first { record.payload.as_ref() } else { b"" }
    }

    fn add(&mut self, record: &Record, device: Option<&str>, time: Option<Timestamp>, reason: &str, payload: &[u8]) {
        self.offset.append_value(record.offset.0);
        self.device.append_option(device);
        self.time.append_option(time.map(Timestamp::micros));
        self.reason.append_value(reason);
        self.payload.append_value(payload);
    }

    pub fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.len() == 0 {
            return Ok(None);
        }
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.offset.finish()),
            Arc::new(self.device.finish()),
            Arc::new(self.time.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.payload.finish()),
        ];
        RecordBatch::try_new(quarantine_schema(), arrays).map(Some)
    }
}
