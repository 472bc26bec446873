use arrow::array::{Array, Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray, UInt64Array};
use futures::TryStreamExt;

use super::*;

fn spec() -> JobSpec {
    serde_json::from_str(
        r#"{"source": {"topic": "t", "values": {"speed": "f64"}}, "window": {"every": "1h"},
            "map": "SELECT device, count(*) AS n, sum(speed) AS total FROM readings WHERE speed > 0 GROUP BY device",
            "reduce": "SELECT sum(n) AS n, sum(total) / sum(n) AS mean FROM parts"}"#,
    )
    .unwrap()
}

fn engine(scratch: &std::path::Path) -> Engine {
    Engine::new(EngineSettings { memory_bytes: 64 * 1024 * 1024, scratch: scratch.to_owned() })
}

fn readings(rows: usize, first: f64) -> RecordBatch {
    let devices = StringViewArray::from_iter_values((0..rows).map(|i| if i % 2 == 0 { "a" } else { "b" }));
    let times = TimestampMicrosecondArray::from_iter_values(0..rows as i64).with_timezone("UTC");
    let seqs = UInt64Array::from_iter_values(0..rows as u64);
    let speeds = Float64Array::from_iter_values((0..rows).map(|i| first + i as f64));
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(devices), Arc::new(times), Arc::new(seqs), Arc::new(speeds)];
    RecordBatch::try_new(readings_schema(&spec()), columns).unwrap()
}

/// Runs the map over batches and writes its output to a file.
async fn map_to_file(folder: &std::path::Path, name: &str, batches: Vec<RecordBatch>) -> Vec<parquet::WrittenFile> {
    let mut output = engine(folder).map(&spec(), futures::stream::iter(batches).boxed()).await.unwrap();
    let mut writer = parquet::Writer::new(folder, name, output.schema.clone(), parquet::FILE_BYTES);
    while let Some(batch) = output.batches.try_next().await.unwrap() {
        writer.write(&batch).unwrap();
    }
    writer.finish().unwrap()
}

#[tokio::test]
async fn maps_of_two_partitions_are_reduced_to_what_a_plain_loop_gives() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = map_to_file(folder.path(), "p0", vec![readings(1_000, 1.0), readings(500, 7.0)]).await;
    files.extend(map_to_file(folder.path(), "p1", vec![readings(100, -50.0)]).await);
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2, 2]);
    let paths = files.into_iter().map(|file| file.path).collect();
    let batches: Vec<RecordBatch> =
        engine(folder.path()).reduce(&spec(), paths).await.unwrap().batches.try_collect().await.unwrap();
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
    let speeds = (0..1_000)
        .map(|i| 1.0 + f64::from(i))
        .chain((0..500).map(|i| 7.0 + f64::from(i)))
        .chain((0..100).map(|i| -50.0 + f64::from(i)));
    let kept: Vec<f64> = speeds.filter(|speed| *speed > 0.0).collect();
    let n = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0);
    let mean = batch.column(1).as_any().downcast_ref::<Float64Array>().unwrap().value(0);
    assert_eq!(n, kept.len() as i64);
    assert!((mean - kept.iter().sum::<f64>() / kept.len() as f64).abs() < 1e-9);
}

#[tokio::test]
async fn a_part_that_is_no_parquet_fails_the_query_as_its_input() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part.parquet");
    std::fs::write(&part, "no parquet").unwrap();
    let output = engine(folder.path()).reduce(&spec(), vec![part]).await.unwrap();
    let failed = output.batches.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(&failed, ProcessingError::Input(why) if why.contains("Parquet")), "{failed:?}");
}

#[tokio::test]
async fn nothing_in_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(map_to_file(folder.path(), "empty", vec![]).await, []);
}

#[test]
fn files_roll_at_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = parquet::Writer::new(folder.path(), "rows", readings_schema(&spec()), 1);
    for _ in 0..3 {
        writer.write(&readings(10, 0.0)).unwrap();
    }
    let files = writer.finish().unwrap();
    let rows: usize =
        files.iter().flat_map(|f| parquet::read(&f.path).unwrap()).map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 30);
}
