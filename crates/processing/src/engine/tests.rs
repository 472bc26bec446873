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

/// A job with a column of every type, and rows of which some have no value.
fn of_all_types() -> (JobSpec, RecordBatch) {
    let spec: JobSpec = serde_json::from_str(
        r#"{"source": {"topic": "t", "tags": ["zone"],
                       "values": {"speed": "f64", "count": "i64", "name": "string", "on": "bool"}},
            "window": {"every": "1h"}, "map": "SELECT 1"}"#,
    )
    .unwrap();
    let schema = readings_schema(&spec);
    let rows = 6;
    let some = |i: usize| !i.is_multiple_of(3);
    let column = |field: &arrow::datatypes::FieldRef| -> Arc<dyn Array> {
        use arrow::datatypes::DataType as T;
        match field.data_type() {
            T::Timestamp(..) => {
                Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows as i64).with_timezone("UTC"))
            }
            T::UInt64 => Arc::new(UInt64Array::from_iter_values(0..rows as u64)),
            T::Int64 => Arc::new((0..rows).map(|i| some(i).then_some(i as i64)).collect::<Int64Array>()),
            T::Float64 => Arc::new((0..rows).map(|i| some(i).then_some(i as f64 / 2.0)).collect::<Float64Array>()),
            T::Boolean => Arc::new(
                (0..rows).map(|i| some(i).then_some(i.is_multiple_of(2))).collect::<arrow::array::BooleanArray>(),
            ),
            T::Utf8View if field.name() == "device" => Arc::new(StringViewArray::from_iter_values(["a"; 6])),
            T::Utf8View => {
                Arc::new((0..rows).map(|i| some(i).then_some("long enough to lie apart")).collect::<StringViewArray>())
            }
            other => panic!("{} is {other}", field.name()),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    (spec, RecordBatch::try_new(schema, columns).unwrap())
}

/// Types that only analysis settles (of CASE, UNION, coalesce, mixed arithmetic) are the types of what comes out: a query
/// that passes the gate and fails at its first row would park every window.
#[tokio::test]
async fn what_the_gate_lets_pass_runs_in_maps_and_reduces() {
    let folder = tempfile::tempdir().unwrap();
    let (spec, readings) = of_all_types();
    for map in [
        "SELECT device, CASE WHEN zone IS NULL THEN 'unknown' ELSE zone END AS z FROM readings",
        "SELECT device, CASE WHEN speed < 5 THEN 0 ELSE speed END AS s FROM readings",
        "SELECT device, sum(CASE WHEN speed < 5 THEN 0 ELSE speed END) AS s FROM readings GROUP BY device",
        "SELECT coalesce(zone, 'none') AS z, coalesce(count, speed) AS c, coalesce(count, 0) AS n FROM readings",
        "SELECT nullif(count, 1) AS a, count / 2 AS b, count * speed AS c, count % 2 AS d, -speed AS e FROM readings",
        "SELECT date_trunc('minute', time) AS minute, avg(count) AS a, stddev(speed) AS s FROM readings GROUP BY 1",
        "SELECT date_bin(INTERVAL '5 minutes', time) AS bin, count(*) AS n FROM readings GROUP BY 1 ORDER BY 1",
        "SELECT device, time, speed - lag(speed) OVER (PARTITION BY device ORDER BY time) AS step FROM readings",
        "SELECT device, lag(zone, 1, 'none') OVER (PARTITION BY device ORDER BY time) AS z FROM readings",
        "SELECT device, first_value(speed ORDER BY time) AS a, last_value(name ORDER BY time) AS b FROM readings GROUP BY device",
        "SELECT approx_percentile_cont(speed, 0.9) AS p, median(speed) AS m, approx_distinct(device) AS d FROM readings",
        "SELECT zone, count(*) FILTER (WHERE speed > 1) AS n, max(speed) AS m FROM readings GROUP BY zone HAVING count(*) > 0",
        "SELECT concat(device, '/', zone) AS a, upper(name) AS b, trim(name) AS c, split_part(name, ' ', 2) AS d FROM readings",
        "SELECT device || zone AS a, CAST(count AS VARCHAR) AS b, CAST(speed AS BIGINT) AS c, round(speed, 1) AS d FROM readings",
        "SELECT zone IN ('a', 'b') AS a, speed BETWEEN 1 AND 2 AS b, name LIKE '%b%' AS c, \"on\" AND speed > 1 AS d FROM readings",
        "WITH fast AS (SELECT * FROM readings WHERE speed > 0) SELECT device, min(time) AS t, bool_or(\"on\") AS o FROM fast GROUP BY device",
        "SELECT array_agg(count) AS all_counts, string_agg(zone, ',') AS zones FROM readings",
        "SELECT CASE WHEN \"on\" THEN count ELSE speed END AS x, greatest(count, speed) AS g, abs(count) AS a FROM readings",
        "SELECT extract(hour FROM time) AS h, to_char(time, '%Y') AS y, time + INTERVAL '1 hour' AS later FROM readings",
        "SELECT DISTINCT zone, name FROM readings LIMIT 3",
        "SELECT seq, CASE WHEN seq > 1 THEN seq ELSE -1 END AS s FROM readings",
    ] {
        let spec = JobSpec { map: map.into(), ..spec.clone() };
        assert_eq!(crate::validate(&spec).await, [], "{map}");
        let input = futures::stream::iter([readings.clone()]).boxed();
        let mut output = engine(folder.path()).map(&spec, input).await.unwrap();
        let mut writer = parquet::Writer::new(folder.path(), "part", output.schema.clone(), parquet::FILE_BYTES);
        while let Some(batch) = output.batches.try_next().await.unwrap_or_else(|error| panic!("{map}: {error}")) {
            writer.write(&batch).unwrap();
        }
        let files: Vec<_> = writer.finish().unwrap().into_iter().map(|file| file.path).collect();
        // And what it made is what a reduce reads.
        let first = output.schema.field(0).name();
        for reduce in [
            "SELECT * FROM parts".to_owned(),
            "SELECT 1 AS k, count(*) AS n FROM parts UNION ALL SELECT 2.5 AS k, count(*) AS n FROM parts".to_owned(),
            format!(
                "SELECT 'all' AS k, count(*) AS n FROM parts UNION ALL SELECT CAST(\"{first}\" AS VARCHAR), 1 FROM parts"
            ),
        ] {
            let spec = JobSpec { reduce: Some(reduce.as_str().into()), ..spec.clone() };
            if reduce.contains("VARCHAR") && output.schema.field(0).data_type().is_nested() {
                continue;
            }
            assert_eq!(crate::validate(&spec).await, [], "{map}; {reduce}");
            let reduced = engine(folder.path()).reduce(&spec, files.clone()).await.unwrap();
            let rows: Result<Vec<RecordBatch>, _> = reduced.batches.try_collect().await;
            let rows: usize =
                rows.unwrap_or_else(|error| panic!("{map}; {reduce}: {error}")).iter().map(RecordBatch::num_rows).sum();
            assert!(rows > 0, "{map}; {reduce}");
        }
    }
}
