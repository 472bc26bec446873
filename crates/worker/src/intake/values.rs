//! The values of single readings of a block, as JSON: what quarantine keeps of a reading that does not fit.

use serde_json::{Map, Value};
use windrow_wire::block::{Sparse, Values};

use super::columns::each;

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
