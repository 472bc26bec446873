//! The columns of table `readings`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use windrow_protocol::JobSpec;
use windrow_protocol::job::ValueType;

/// The type of column `time`.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The Arrow type of a declared value. Strings are views: a dictionary's entry is shared by all its rows.
pub fn value_type(value: ValueType) -> DataType {
    match value {
        ValueType::F64 => DataType::Float64,
        ValueType::I64 => DataType::Int64,
        ValueType::Bool => DataType::Boolean,
        ValueType::String => DataType::Utf8View,
    }
}

/// Table `readings` of a job: device, time, seq, then declared values by name, then tags as declared.
/// Values and tags are null where a reading has none.
pub fn readings_schema(spec: &JobSpec) -> SchemaRef {
    let mut fields = vec![
        Field::new("device", DataType::Utf8View, false),
        Field::new("time", time_type(), false),
        Field::new("seq", DataType::UInt64, true),
    ];
    fields.extend(spec.source.values.iter().map(|(name, value)| Field::new(name, value_type(*value), true)));
    fields.extend(spec.source.tags.iter().map(|name| Field::new(name, DataType::Utf8View, true)));
    Arc::new(Schema::new(fields))
}
