//! Column builders for `readings` and for quarantine.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder,
    StringViewBuilder, TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use windrow_ports::log::Record;
use windrow_processing::schema::time_type;
use windrow_protocol::Timestamp;
use windrow_protocol::job::ValueType;
use windrow_wire::block::{Decoded, DecodedColumn, Sparse, Values};

#[derive(Debug)]
enum Column {
    F64(Float64Builder),
    I64(Int64Builder),
    Bool(BooleanBuilder),
    Text(StringViewBuilder),
}

impl Column {
    fn new(kind: ValueType) -> Self {
        match kind {
            ValueType::F64 => Self::F64(Float64Builder::new()),
            ValueType::I64 => Self::I64(Int64Builder::new()),
            ValueType::Bool => Self::Bool(BooleanBuilder::new()),
            ValueType::String => Self::Text(StringViewBuilder::new().with_deduplicate_strings()),
        }
    }

    /// Appends the chosen rows of a block's column; null where a row has no value (or one of another type, which the
    /// caller has sorted out before).
    fn append(&mut self, rows: usize, column: Option<&DecodedColumn<'_>>, chosen: impl Fn(usize) -> bool) {
        match (self, column.map(|column| &column.values)) {
            (Self::F64(to), Some(Values::F64(from))) => each(rows, from, chosen, |v| to.append_option(v)),
            (Self::F64(to), Some(Values::I64(from))) => {
                each(rows, from, chosen, |v| to.append_option(v.map(|v| v as f64)))
            }
            (Self::I64(to), Some(Values::I64(from))) => each(rows, from, chosen, |v| to.append_option(v)),
            (Self::Bool(to), Some(Values::Bool(from))) => each(rows, from, chosen, |v| to.append_option(v)),
            (Self::Text(to), Some(Values::Text { dictionary, index })) => {
                each(rows, index, chosen, |i| to.append_option(i.map(|i| dictionary[i as usize])));
            }
            (to, _) => to.append_nulls((0..rows).filter(|row| chosen(*row)).count()),
        }
    }

    fn append_nulls(&mut self, n: usize) {
        match self {
            Self::F64(to) => to.append_nulls(n),
            Self::I64(to) => to.append_nulls(n),
            Self::Bool(to) => to.append_nulls(n),
            Self::Text(to) => (0..n).for_each(|_| to.append_null()),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::F64(from) => Arc::new(from.finish()),
            Self::I64(from) => Arc::new(from.finish()),
            Self::Bool(from) => Arc::new(from.finish()),
            Self::Text(from) => Arc::new(from.finish()),
        }
    }
}

fn each<T: Copy>(rows: usize, from: &Sparse<T>, chosen: impl Fn(usize) -> bool, mut append: impl FnMut(Option<T>)) {
    for (row, value) in from.rows(rows).enumerate() {
        if chosen(row) {
            append(value);
        }
    }
}

/// Rows of `readings`.
#[derive(Debug)]
pub struct Rows {
    schema: SchemaRef,
    device: StringViewBuilder,
    time: TimestampMicrosecondBuilder,
    seq: UInt64Builder,
    columns: Vec<Column>,
}

impl Rows {
    pub fn new(schema: SchemaRef, columns: &[(String, ValueType)]) -> Self {
        Self {
            schema,
            device: StringViewBuilder::new().with_deduplicate_strings(),
            time: TimestampMicrosecondBuilder::new().with_data_type(time_type()),
            seq: UInt64Builder::new(),
            columns: columns.iter().map(|(_, kind)| Column::new(*kind)).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.time.len()
    }

    pub fn append(
        &mut self,
        block: &Decoded<'_>,
        times: &[Timestamp],
        columns: &[Option<&DecodedColumn<'_>>],
        chosen: impl Fn(usize) -> bool + Copy,
    ) {
        for row in (0..block.row_count).filter(|row| chosen(*row)) {
            self.device.append_value(block.devices[block.device_index[row] as usize]);
            self.time.append_value(times[row].micros());
        }
        match &block.seqs {
            Some(seqs) => each(block.row_count, seqs, chosen, |seq| self.seq.append_option(seq)),
            None => self.seq.append_nulls(self.time.len() - self.seq.len()),
        }
        for (to, from) in self.columns.iter_mut().zip(columns) {
            to.append(block.row_count, *from, chosen);
        }
    }

    pub fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.len() == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(self.device.finish()), Arc::new(self.time.finish()), Arc::new(self.seq.finish())];
        arrays.extend(self.columns.iter_mut().map(Column::finish));
        RecordBatch::try_new(self.schema.clone(), arrays).map(Some)
    }
}

/// The columns of the quarantine dataset: where the record lies, what is known of the reading, why it is here, and the
/// record as it was.
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
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            offset: Int64Builder::new(),
            device: StringBuilder::new(),
            time: TimestampMicrosecondBuilder::new().with_data_type(time_type()),
            reason: StringBuilder::new(),
            payload: BinaryBuilder::new(),
        }
    }
}

impl Quarantine {
    pub fn len(&self) -> usize {
        self.offset.len()
    }

    pub fn push(&mut self, record: &Record, device: Option<&str>, time: Option<Timestamp>, reason: &str) {
        self.offset.append_value(record.offset.0);
        self.device.append_option(device);
        self.time.append_option(time.map(Timestamp::micros));
        self.reason.append_value(reason);
        // A block's readings are found by offset; repeating the block for each of them would multiply it.
        let payload = if device.is_none() { record.payload.as_ref() } else { b"" };
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
