use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::v1;

#[derive(Debug, Clone, PartialEq)]
enum Owned {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(String),
}

#[derive(Debug, Clone)]
struct Row {
    device: String,
    time_us: i64,
    seq: Option<u64>,
    fields: Vec<(&'static str, Owned)>,
}

impl Row {
    fn reading(&self) -> Reading<'_> {
        let fields = self.fields.iter().map(|(name, value)| (*name, borrow(value))).collect();
        Reading { device: &self.device, time_us: self.time_us, seq: self.seq, fields }
    }
}

fn borrow(value: &Owned) -> Value<'_> {
    match value {
        Owned::F64(v) => Value::F64(*v),
        Owned::I64(v) => Value::I64(*v),
        Owned::Bool(v) => Value::Bool(*v),
        Owned::Text(v) => Value::Text(v),
    }
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let fields = (
        prop::option::of((-1e300f64..1e300).prop_map(Owned::F64)),
        prop::option::of(any::<i64>().prop_map(Owned::I64)),
        prop::option::of(any::<bool>().prop_map(Owned::Bool)),
        prop::option::of("[a-zä]{0,5}".prop_map(Owned::Text)),
    )
        .prop_map(|(f, i, b, t)| {
            [("speed", f), ("count", i), ("on", b), ("zone", t)]
                .into_iter()
                .filter_map(|(n, v)| Some((n, v?)))
                .collect()
        });
    let row = ("[a-c]{1,2}", any::<i64>(), prop::option::of(any::<u64>()), fields)
        .prop_map(|(device, time_us, seq, fields)| Row { device, time_us, seq, fields });
    prop::collection::vec(row, 0..60)
}

fn encode(rows: &[Row]) -> bytes::Bytes {
    let mut builder = BlockBuilder::default();
    for row in rows {
        assert!(builder.accepts(&row.reading()));
        builder.push(&row.reading());
    }
    builder.finish()
}

/// Reads a decoded block back into rows.
fn to_rows(block: &Decoded<'_>) -> Vec<Row> {
    let seqs: Vec<Option<u64>> = match &block.seqs {
        Some(seqs) => seqs.rows(block.row_count).collect(),
        None => vec![None; block.row_count],
    };
    let mut rows: Vec<Row> = (0..block.row_count)
        .map(|i| Row {
            device: block.devices[block.device_index[i] as usize].to_owned(),
            time_us: block.times_us[i],
            seq: seqs[i],
            fields: Vec::new(),
        })
        .collect();
    for name in ["speed", "count", "on", "zone"] {
        let Some(column) = block.columns.iter().find(|column| column.name == name) else { continue };
        let values: Vec<Option<Owned>> = match &column.values {
            Values::F64(v) => v.rows(block.row_count).map(|v| v.map(Owned::F64)).collect(),
            Values::I64(v) => v.rows(block.row_count).map(|v| v.map(Owned::I64)).collect(),
            Values::Bool(v) => v.rows(block.row_count).map(|v| v.map(Owned::Bool)).collect(),
            Values::Text { dictionary, index } => {
                index.rows(block.row_count).map(|i| i.map(|i| Owned::Text(dictionary[i as usize].to_owned()))).collect()
            }
        };
        for (row, value) in rows.iter_mut().zip(values) {
            row.fields.extend(value.map(|value| (name, value)));
        }
    }
    rows
}

proptest! {
    #[test]
    fn what_is_written_is_read(rows in rows()) {
        let bytes = encode(&rows);
        let block = decode(&bytes).unwrap();
        prop_assert_eq!(format!("{:?}", to_rows(&block)), format!("{rows:?}"));
    }

    #[test]
    fn any_protobuf_library_reads_what_is_written_and_its_output_is_read(rows in rows()) {
        let bytes = encode(&rows);
        let message = v1::Block::decode(bytes.as_ref()).unwrap();
        prop_assert_eq!(message.row_count as usize, rows.len());
        let again = message.encode_to_vec();
        prop_assert_eq!(decode(&again).unwrap(), decode(&bytes).unwrap());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_block_never_panics(rows in rows(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode(&rows).to_vec();
        let i = at.index(bytes.len());
        bytes[i] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }
}

fn refused(change: impl FnOnce(&mut v1::Block)) -> String {
    let column = v1::Column { name: "speed".into(), r#type: 1, f64_values: vec![1.0, 2.0], ..Default::default() };
    let mut block = v1::Block {
        version: 1,
        row_count: 2,
        devices: vec!["a".into(), "b".into()],
        device_index: vec![0, 1],
        time_delta_us: vec![5, 1],
        columns: vec![column],
        ..Default::default()
    };
    assert!(decode(&block.encode_to_vec()).is_ok());
    change(&mut block);
    decode(&block.encode_to_vec()).unwrap_err().to_string()
}

#[test]
fn contradictions_are_named() {
    assert!(refused(|b| b.version = 2).contains("version 2"));
    assert!(refused(|b| b.row_count = 3).contains("3 rows"));
    assert!(refused(|b| b.row_count = u32::MAX).contains("at most"));
    assert!(refused(|b| b.device_index = vec![0, 2]).contains("device index 2"));
    assert!(refused(|b| b.device_index.clear()).contains("0 have a device"));
    assert!(refused(|b| b.devices[0].clear()).contains("device id is empty"));
    assert!(refused(|b| b.columns.push(b.columns[0].clone())).contains("twice"));
    assert!(refused(|b| b.columns[0].f64_values[0] = f64::NAN).contains("NaN"));
    assert!(refused(|b| b.columns[0].f64_values.truncate(1)).contains("1 values for 2 rows"));
    assert!(refused(|b| b.columns[0].presence = vec![0b111]).contains("beyond the last row"));
    assert!(refused(|b| b.columns[0].r#type = 9).contains("unknown type"));
    assert!(refused(|b| b.columns[0].name.clear()).contains("no name"));
    assert!(refused(|b| b.seq_delta = vec![1]).contains("1 values for 2 rows"));
}

#[test]
fn a_value_of_another_type_starts_a_new_block() {
    let mut builder = BlockBuilder::default();
    let reading = |value| Reading { device: "a", time_us: 0, seq: None, fields: vec![("x", value)] };
    builder.push(&reading(Value::F64(1.0)));
    assert!(!builder.accepts(&reading(Value::Text("1"))));
    assert!(builder.accepts(&reading(Value::F64(2.0))));
    builder.finish();
    assert_eq!(builder.rows(), 0);
    assert!(builder.accepts(&reading(Value::Text("1"))));
}
