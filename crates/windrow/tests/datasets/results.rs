//! What a job has committed: its markers and its Parquet files.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use windrow_processing::parquet;
use windrow_protocol::marker::{Complete, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, Ledger, PartitionId};
use windrow_storage::Store;

use crate::figures::Figures;

/// The sum of all ledgers, after checking that each is sound, that every file is there, and that each offset has one owner.
pub async fn ledger(store: &Store, job: &str) -> Ledger {
    let (mut sum, mut owned) = (Ledger::default(), BTreeMap::<PartitionId, Vec<(i64, i64)>>::new());
    for object in store.list(&paths::commits(&JobName::new(job).unwrap())).await.unwrap() {
        let (_, _, part, _) = paths::parse_marker(&object.path).expect("only markers among the commits");
        if part == Part::Finish {
            let complete = store.read_marker::<Complete>(&object.path).await.unwrap().unwrap();
            assert_eq!(store.unpublished(&complete).await.unwrap(), Vec::<String>::new());
            continue;
        }
        let marker = store.read_marker::<Marker>(&object.path).await.unwrap().unwrap();
        marker.ledger.check().unwrap();
        assert_eq!(store.unpublished(&marker).await.unwrap(), Vec::<String>::new());
        owned.entry(marker.plan.partition).or_default().push((marker.plan.owned.start.0, marker.plan.owned.end.0));
        sum = sum.plus(&marker.ledger);
    }
    for (partition, mut ranges) in owned {
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{job}, partition {partition}: {ranges:?}");
    }
    sum
}

/// All rows under `data/` by window.
pub async fn figures(store: &Store, job: &str) -> Figures {
    let mut figures = Figures::new();
    let folder = tempfile::tempdir().unwrap();
    for object in store.list(&paths::dataset(&JobName::new(job).unwrap(), Dataset::Data)).await.unwrap() {
        let local = folder.path().join("part.parquet");
        store.download(&object.path, &local).await.unwrap();
        let window = object.path.split("window=").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let rows = figures.entry(window).or_default();
        for batch in parquet::read(&local).unwrap() {
            let batch = batch.unwrap();
            rows.extend(
                (0..batch.num_rows())
                    .map(|row| batch.columns().iter().map(|column| figure(&**column, row)).collect::<Vec<_>>()),
            );
        }
    }
    figures
}

/// One cell as text that only equal cells have.
fn figure(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return "-".to_owned();
    }
    match column.data_type() {
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        kind if kind.is_integer() => {
            cast(column, &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(row).to_string()
        }
        _ => cast(column, &DataType::Utf8).unwrap().as_string::<i32>().value(row).to_owned(),
    }
}
