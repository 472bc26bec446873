//! Parquet, by the reader of `windrow-processing`: only that crate knows the format.

use std::path::Path;

use anyhow::{Result, ensure};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use windrow_processing::parquet;

use super::{Record, Records};
use crate::send::cell::Raw;

pub fn columns(path: &Path) -> Result<Vec<String>> {
    let schema = parquet::read(path)?.schema();
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    for (i, name) in names.iter().enumerate() {
        ensure!(!names[..i].contains(name), "the file has the column {name:?} twice");
    }
    Ok(names)
}

pub fn records(path: &Path, columns: &[String]) -> Result<Records> {
    let (columns, mut row) = (columns.to_vec(), 0);
    let batches = parquet::read(path)?.map(move |batch| -> Result<Vec<Record>> {
        let batch = batch?;
        let arrays: Vec<Option<ArrayRef>> =
            columns.iter().map(|column| plain(&batch, column)).collect::<Result<_, _>>()?;
        let records = (0..batch.num_rows()).map(|index| {
            row += 1;
            let cells = arrays.iter().map(|array| array.as_ref().map_or(Raw::Absent, |array| cell(array, index)));
            Record { row, line: None, cells: Ok(cells.collect()) }
        });
        Ok(records.collect())
    });
    Ok(Box::new(batches.flat_map(|records| match records {
        Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    })))
}

/// A column as one of the few types that cells are made of.
fn plain(batch: &RecordBatch, column: &str) -> Result<Option<ArrayRef>, arrow::error::ArrowError> {
    let Some(array) = batch.column_by_name(column) else { return Ok(None) };
    let mut to = array.data_type();
    if let DataType::Dictionary(_, value) = to {
        to = value;
    }
    let us = |zone: &Option<std::sync::Arc<str>>| DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    let to = match to {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        // Whole numbers of many digits are ids or sequence numbers more often than not: as text they stay what they are.
        DataType::Decimal128(_, ..=0) | DataType::Decimal256(_, ..=0) => DataType::Utf8,
        DataType::UInt64 if cast(array, &DataType::Int64)?.null_count() > array.null_count() => DataType::Utf8,
        DataType::Float16 | DataType::Float32 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            DataType::Float64
        }
        kind if kind.is_integer() => DataType::Int64,
        DataType::Timestamp(_, zone) => us(zone),
        DataType::Date32 | DataType::Date64 => us(&None),
        other => other.clone(),
    };
    cast(array, &to).map(Some)
}

fn cell(array: &ArrayRef, row: usize) -> Raw {
    if array.is_null(row) {
        return Raw::Absent;
    }
    match array.data_type() {
        DataType::Utf8 => Raw::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Int64 => Raw::I64(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Raw::F64(array.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => Raw::Bool(array.as_boolean().value(row)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(row);
            if zone.is_some() { Raw::Instant(us) } else { Raw::Local(us) }
        }
        _ => Raw::Unfit("a value of a type that no reading has"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, UInt64Array};

    use super::*;

    #[test]
    fn whole_numbers_that_no_i64_holds_keep_all_their_digits() {
        let id = 12_345_678_901_234_567_890_u64;
        let ids = Arc::new(UInt64Array::from(vec![id, id + 1, 7])) as ArrayRef;
        let long = [id, id + 1, 7].map(|id| i128::from(id) * 10);
        let long = Decimal128Array::from(long.to_vec()).with_precision_and_scale(21, 0).unwrap();
        let batch = RecordBatch::try_from_iter([("id", ids), ("long", Arc::new(long) as ArrayRef)]).unwrap();
        let texts = |column| {
            let array = plain(&batch, column).unwrap().unwrap();
            (0..3).map(|row| cell(&array, row).text().unwrap().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(texts("id"), ["12345678901234567890", "12345678901234567891", "7"]);
        assert_eq!(texts("long"), ["123456789012345678900", "123456789012345678910", "70"]);
    }
}
