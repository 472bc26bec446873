//! The values of single readings of a block, as JSON: what quarantine keeps of a reading that does not fit.

use serde_json::{Map, Value};
use windrow_wire::block::{Sparse, Values};

use super::columns::each;

/// The most bytes that the values of one row can have, about; at least 1.
pub fn widest(columns: &[(&str, &Values<'_>)]) -> usize {
    let value = |values: &Values<'_>| match values {
        Values::F64(_) | Values::I64(_) | Values::Bool(_) => 24,
        Values::Text { dictionary, .. } => dictionary.iter().map(|text| text.len()).max().unwrap_or_default(),
    };
    columns.iter().map(|(name, values)| name.len() + 4 + value(values)).sum::<usize>().max(1)
}

/// The values of some of a block's `rows`, in ascending order, each as a JSON object by column.
pub fn of_rows(rows: usize, wanted: &[u32], columns: &[(&str, &Values<'_>)]) -> Vec<String> {
    let mut objects = vec![Map::new(); wanted.len()];
    for (name, values) in columns {
        let objects = &mut objects;
        match values {
            Values::F64(v) => note(rows, v, wanted, name, objects, Value::from),
            Values::I64(v) => note(rows, v, wanted, name, objects, Value::from),
            Values::Bool(v) => note(rows, v, wanted, name, objects, Value::from),
            Values::Text { dictionary, index } => {
                note(rows, index, wanted, name, objects, |entry| dictionary.get(entry as usize).copied().into());
            }
        }
    }
    objects.into_iter().map(|object| Value::Object(object).to_string()).collect()
}

fn note<F: Copy>(
    rows: usize,
    values: &Sparse<'_, F>,
    wanted: &[u32],
    name: &str,
    objects: &mut [Map<String, Value>],
    convert: impl Fn(F) -> Value,
) {
    let mut objects = objects.iter_mut();
    each(rows, values, wanted, |value| {
        if let (Some(object), Some(value)) = (objects.next(), value) {
            object.insert(name.to_owned(), convert(value));
        }
    });
}
