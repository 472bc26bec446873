//! Rows of several files under one header: a job whose SQL was changed has windows of other columns.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// The columns of all, by name, in the order in which they come first. One that has two types is text.
pub fn union(schemas: impl IntoIterator<Item = SchemaRef>) -> SchemaRef {
    let mut fields: Vec<Field> = Vec::new();
    for schema in schemas {
        for field in schema.fields() {
            match fields.iter_mut().find(|known| known.name() == field.name()) {
                Some(known) if known.data_type() == field.data_type() => {}
                Some(known) => {
                    // As text, bytes that are none would be NULL.
                    let are_bytes = [known.data_type(), field.data_type()]
                        .iter()
                        .all(|kind| matches!(kind, DataType::Utf8 | DataType::Binary));
                    let kind = if are_bytes { DataType::Binary } else { DataType::Utf8 };
                    *known = Field::new(known.name(), kind, true);
                }
                None => fields.push(field.as_ref().clone().with_nullable(true)),
            }
        }
    }
    Arc::new(Schema::new(fields))
}

/// A batch with these columns: what it does not have is NULL.
pub fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |field: &Arc<Field>| -> Result<ArrayRef> {
        Ok(match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type())?,
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn bytes_stay_what_they_are_beside_text() {
        let text = Arc::new(arrow::array::StringArray::from(vec!["a"])) as ArrayRef;
        let bytes = Arc::new(arrow::array::BinaryArray::from(vec![&b"\xff"[..]])) as ArrayRef;
        let batches = [text, bytes].map(|column| RecordBatch::try_from_iter([("payload", column)]).unwrap());
        let all = union(batches.iter().map(RecordBatch::schema));
        let read = batches.map(|batch| fit(&batch, &all).unwrap().column(0).as_binary::<i32>().value(0).to_vec());
        assert_eq!(read, [b"a".to_vec(), vec![0xff]]);
    }

    #[test]
    fn columns_are_found_by_name_whatever_their_order_and_those_that_a_file_has_not_are_null() {
        let int = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let float = Arc::new(Float64Array::from(vec![1.5])) as ArrayRef;
        let first = RecordBatch::try_from_iter([("a", int(1)), ("b", int(2)), ("c", int(3))]).unwrap();
        let second =
            RecordBatch::try_from_iter([("b", int(20)), ("a", int(10)), ("c", float), ("d", int(40))]).unwrap();
        let all = union([first.schema(), second.schema()]);
        let names: Vec<_> = all.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        let (first, second) = (fit(&first, &all).unwrap(), fit(&second, &all).unwrap());
        let ints = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
        assert_eq!((ints(&second, 0), ints(&second, 1)), (Int64Array::from(vec![10]), Int64Array::from(vec![20])));
        assert_eq!(ints(&first, 3), Int64Array::from(vec![None]));
        assert_eq!(
            (first.column(2).as_string::<i32>().value(0), second.column(2).as_string::<i32>().value(0)),
            ("3", "1.5")
        );
    }
}
