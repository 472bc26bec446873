use super::*;

fn spec(map: &str, reduce: Option<&str>) -> JobSpec {
    let json = r#"{"source": {"topic": "t", "values": {"speed": "f64"}, "tags": ["zone"]}, "window": {"every": "1h"}, "map": ""}"#;
    let spec: JobSpec = serde_json::from_str(json).unwrap();
    JobSpec { map: map.into(), reduce: reduce.map(Into::into), ..spec }
}

async fn refused(map: &str) -> String {
    let violations = validate(&spec(map, None)).await;
    violations.first().map_or_else(|| panic!("{map} was allowed"), |v| format!("{} {}", v.reason, v.message))
}

#[tokio::test]
async fn a_query_over_readings_is_allowed_and_its_schema_known() {
    let spec = spec(
        "WITH fast AS (SELECT * FROM readings WHERE speed > 1) SELECT zone, date_part('hour', time) AS hour, count(*) AS n FROM fast GROUP BY 1, 2",
        Some("SELECT hour, sum(n) AS n FROM parts p GROUP BY 1 ORDER BY 1"),
    );
    assert_eq!(validate(&spec).await, []);
    let schema = map_schema(&spec).await.unwrap();
    assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["zone", "hour", "n"]);
}

#[tokio::test]
async fn what_writes_reads_files_or_sets_options_is_refused() {
    for (sql, reason) in [
        ("COPY readings TO 'x.parquet'", "NOT_A_QUERY"),
        ("INSERT INTO readings VALUES (1)", "NOT_A_QUERY"),
        ("CREATE TABLE x AS SELECT 1", "NOT_A_QUERY"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "NOT_A_QUERY"),
        ("DROP TABLE readings", "NOT_A_QUERY"),
        ("SET datafusion.execution.batch_size = 1", "NOT_A_QUERY"),
        ("EXPLAIN SELECT * FROM readings", "NOT_A_QUERY"),
        ("SELECT 1; SELECT 2", "SEVERAL_STATEMENTS"),
        ("SELECT * FROM '/etc/passwd'", "SQL_INVALID"),
        ("SELECT * FROM 'http://example.com/x.parquet'", "SQL_INVALID"),
        ("SELECT * FROM read_csv('/etc/passwd')", "SQL_INVALID"),
        ("SELECT * FROM generate_series(1, 1000000000)", "SQL_INVALID"),
        ("SELECT * FROM information_schema.tables", "SQL_INVALID"),
        ("SELECT * FROM parts", "SQL_INVALID"),
        ("SELECT random() AS r FROM readings", "NOT_REPEATABLE"),
        ("SELECT device FROM readings WHERE time > now()", "NOT_REPEATABLE"),
        ("SELECT a.device FROM readings a JOIN readings b ON a.seq = b.seq", "READINGS_READ_TWICE"),
        ("SELECT (SELECT max(speed) FROM readings) AS m, device FROM readings", "READINGS_READ_TWICE"),
        ("SELECT NULL AS x FROM readings", "UNTYPED_COLUMN"),
        ("SELECT device FROM readings TABLESAMPLE BERNOULLI (50)", "NOT_REPEATABLE"),
        ("SELECT device FROM readings WHERE speed = $1", "PLACEHOLDER"),
        ("SELECT device AS \"\" FROM readings", "INVALID_COLUMN"),
        ("SELECT device AS \"Window\" FROM readings", "RESERVED_COLUMN"),
        ("SELECT INTERVAL '1' MINUTE AS long FROM readings", "UNSUPPORTED_TYPE"),
    ] {
        let found = refused(sql).await;
        assert!(found.starts_with(reason) && !found.contains("datafusion.public"), "{sql}: {found}");
    }
}

#[tokio::test]
async fn mistakes_have_line_and_column() {
    let syntax = validate(&spec("SELECT device\nFROM readings\nGROUP device", None)).await;
    assert_eq!((syntax[0].path.as_str(), syntax[0].reason.as_str()), ("spec.map", "SQL_SYNTAX"));
    assert_eq!(syntax[0].position.map(|(line, _)| line), Some(3), "{}", syntax[0].message);
    let unknown = validate(&spec("SELECT device,\n  sped FROM readings", None)).await;
    assert_eq!(unknown[0].reason, "UNKNOWN_COLUMN", "{}", unknown[0].message);
    assert_eq!(unknown[0].position, Some((2, 3)), "{}", unknown[0].message);
    let reduce = validate(&spec("SELECT device FROM readings", Some("SELECT speed FROM parts"))).await;
    assert_eq!(reduce[0].path, "spec.reduce");
}

#[tokio::test]
async fn queries_that_would_overflow_a_stack_or_any_memory_are_refused() {
    let long = format!("SELECT {} AS n FROM readings", vec!["speed"; 1_100].join(" + "));
    let said = refused(&long).await;
    assert!(said.starts_with("TOO_COMPLEX"), "{said}");
    // Each WITH query names the one before twice, so the last would be 2^39 queries.
    let first = "WITH w0 AS (SELECT device FROM readings)".to_owned();
    let doubled =
        |before: usize| format!("w{} AS (SELECT * FROM W{before} UNION ALL SELECT * FROM w{before})", before + 1);
    let doubling: Vec<String> = std::iter::once(first).chain((0..39).map(doubled)).collect();
    let said = refused(&format!("{} SELECT * FROM w39", doubling.join(", "))).await;
    assert!(said.starts_with("TOO_COMPLEX"), "{said}");
    // Neither a chain nor one that is named many times is refused.
    let chain: Vec<String> = (0..8).map(|before| format!("w{} AS (SELECT * FROM w{before})", before + 1)).collect();
    let many = ["SELECT i FROM w8"; 9].join(" UNION ALL ");
    let named = format!("WITH w0 AS (SELECT 1 AS i), {} {many}", chain.join(", "));
    assert_eq!(validate(&spec(&named, None)).await, []);
    for text in ["lpad(device, 2147483647, 'x')", "rpad(device, 9, 'x')", "repeat(device, 1000000)"] {
        let said = refused(&format!("SELECT {text} AS t FROM readings")).await;
        assert!(said.starts_with("FUNCTION_NOT_ALLOWED"), "{text}: {said}");
    }
}
