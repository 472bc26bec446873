//! `windrow send` as a person runs it: what it says, how it ends, and what a gateway that goes away in between costs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, StringArray, TimestampMillisecondArray};
use arrow::record_batch::RecordBatch;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn windrow(server: u16, args: &[&str], files: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
    command.arg("send").args(args).args(files).args(["--topic", "t", "-o", "json"]);
    command.env("WINDROW_GATEWAY", format!("http://127.0.0.1:{server}"));
    command
}

/// Checks files without any server.
fn check(args: &[&str], files: &[&Path]) -> (Output, Value) {
    let mut command = windrow(1, args, files);
    let output = command.args(["--dry-run", "--device", "d"]).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, report)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for something to hold.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `windrow dev`; killed when dropped.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Dev {
    async fn start(folder: &Path, grpc: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        command.args(["dev", "--data-dir", folder.to_str().unwrap(), "--http", "127.0.0.1:0"]);
        command.args(["--grpc", &format!("127.0.0.1:{grpc}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let dev = Self(command.spawn().unwrap());
        until("windrow dev listens", || std::net::TcpStream::connect(("127.0.0.1", grpc)).is_ok()).await;
        dev
    }
}

#[test]
fn one_bad_row_stops_everything_before_the_first_is_sent_and_skip_bad_leaves_it_out() {
    let files = Files::new();
    let file = files.write("a.csv", "t,v\n2015-01-01,1\nsoon,2\n2015-01-03,3,4\n2015-01-04,5\n");
    let (output, report) = check(&["--time-column", "t"], &[&file]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("a.csv: row 2 (line 3), column t: \"soon\" is no ISO 8601 time"), "{text}");
    assert!(text.contains("a.csv: row 3 (line 4): the row has 3 cells, the header has 2"), "{text}");
    assert!(text.contains("nothing was sent: 2 of 4 rows can't be read; --skip-bad"), "{text}");
    assert_eq!((&report["bad"], &report["sent"]), (&2.into(), &0.into()));
    assert_eq!(report["badRows"][0]["line"], 3);
    let (output, report) = check(&["--time-column", "t", "--skip-bad"], &[&file]);
    assert!(output.status.success());
    assert_eq!((&report["bad"], &report["rows"]), (&2.into(), &4.into()));
}

#[test]
fn a_file_that_is_none_or_has_no_rows_or_other_columns_is_refused_in_one_line() {
    let files = Files::new();
    let empty = files.write("empty.csv", "");
    let header = files.write("header.csv", "t,v\n");
    let good = files.write("good.csv", "time,v\n2015-01-01,1\n");
    let binary = files.write("binary.csv", [0u8, 159, 146, 150]);
    let fails = |file: &Path, column: &str, wanted: &str| {
        let (output, _) = check(&["--time-column", column], &[file]);
        let text = said(&output);
        assert!(output.status.code() == Some(1) && text.contains(wanted), "{wanted}: {text}");
    };
    fails(&empty, "t", "empty.csv is empty");
    fails(&header, "t", "there are no rows");
    fails(&good, "tme", "there is no column \"tme\" (did you mean \"time\"?); there are: time, v");
    fails(&binary, "t", "binary.csv is binary");
    fails(Path::new("nowhere.csv"), "t", "cannot open nowhere.csv: No such file");
    fails(files.0.path(), "t", "is a directory");
}

#[test]
fn numbers_of_another_country_and_markers_for_nothing_are_values_or_missing_never_text() {
    let files = Files::new();
    let file =
        files.write("a.csv", "Date;Time;co;n;x\n31/12/2015;18.00.00;2,6;-200;NA\n01/01/2016;01.00.00;-200,0;7;\n");
    let args = ["--time-column", "Date,Time", "--time-format", "%d/%m/%Y %H.%M.%S", "--decimal-comma"];
    let (output, report) = check(&[&args[..], &["--missing", "-200,NA"]].concat(), &[&file]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(report["missingCells"], 4);
    assert_eq!(report["columns"][0]["type"], "f64");
    assert_eq!(report["columns"][1]["type"], "i64");
    assert_eq!(report["columns"][2]["type"], Value::Null, "no value at all");
    assert_eq!(report["lastTime"], "2016-01-01T01:00:00Z");
    let numbers = files.write("b.csv", "t,v\n2015-01-01,1\n2015-01-02,2\n2015-01-03,NA\n");
    let (output, _) = check(&["--time-column", "t"], &[&numbers]);
    assert!(said(&output).contains("v is sent as text because of \"NA\" in row 3"), "{}", said(&output));
    assert!(said(&output).contains("times without an offset are taken as UTC"), "{}", said(&output));
}

#[test]
fn without_a_gateway_it_says_so_before_it_reads_a_large_file() {
    let files = Files::new();
    let file = files.write("a.csv", "t,v\n2015-01-01,1\n");
    let port = free_port();
    let output = windrow(port, &["--time-column", "t", "--device", "d"], &[&file]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("no gateway at http://127.0.0.1:{port} (start one: windrow dev, or windrow gateway)");
    assert!(said(&output).contains(&wanted), "{}", said(&output));
}

#[tokio::test]
async fn what_the_gateway_refuses_is_named_by_file_and_row_and_the_rest_is_taken() {
    let (files, port) = (Files::new(), free_port());
    let _dev = Dev::start(&files.0.path().join("data"), port).await;
    let first = files.write("a.csv", "t,v\n2015-01-01,1\n2999-01-01,2\n");
    let second = files.write("b.csv", "t,v\n2015-01-02,3\n");
    let output = windrow(port, &["--time-column", "t", "--device-from-filename"], &[&first, &second]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&report["sent"], &report["accepted"], &report["refused"]), (&3.into(), &2.into(), &1.into()));
    let refused = &report["refusedRows"][0];
    assert!(refused["file"].as_str().unwrap().ends_with("a.csv"), "{refused}");
    assert_eq!(
        (&refused["row"], &refused["field"], &refused["reason"]),
        (&2.into(), &"time".into(), &"TOO_FAR_AHEAD".into())
    );
}

#[test]
fn ndjson_and_parquet_are_read_as_csv_is() {
    let files = Files::new();
    let line = |day: u32| {
        format!("{{\"at\": \"2015-01-{day:02}T00:00:00Z\", \"values\": {{\"v\": {day}.5}}, \"zone\": \"a\"}}\n")
    };
    let ndjson = files.write("a.ndjson", (1..4).map(line).collect::<String>());
    let args = ["--time-column", "at", "--values", "v=values.v", "--tags", "zone"];
    let (output, from_ndjson) = check(&args, &[&ndjson]);
    assert!(output.status.success(), "{}", said(&output));

    let days = (0..3).map(|day| 1_420_070_400_000 + day * 86_400_000);
    let columns: [(&str, ArrayRef); 3] = [
        ("at", Arc::new(TimestampMillisecondArray::from_iter_values(days).with_timezone("UTC"))),
        ("values.v", Arc::new(Float64Array::from(vec![1.5, 2.5, 3.5]))),
        ("zone", Arc::new(StringArray::from(vec!["a"; 3]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = windrow_processing::parquet::Writer::new(files.0.path(), "p", batch.schema(), 1 << 20);
    writer.write(&batch).unwrap();
    let parquet = writer.finish().unwrap().remove(0).path;
    let (output, from_parquet) = check(&args, &[&parquet]);
    assert!(output.status.success(), "{}", said(&output));
    for same in ["rows", "columns", "firstTime", "lastTime", "missingCells"] {
        assert_eq!(from_ndjson[same], from_parquet[same], "{same}");
    }
    assert_eq!((&from_parquet["rows"], &from_parquet["lastTime"]), (&3.into(), &"2015-01-03T00:00:00Z".into()));
}

#[tokio::test]
async fn a_gateway_that_is_killed_and_comes_back_costs_a_repeat_not_a_row() {
    const ROWS: u32 = 10_000;
    let (files, port) = (Files::new(), free_port());
    let mut text = "t,v\n".to_owned();
    (0..ROWS).for_each(|i| text += &format!("{},1\n", 1_420_070_400 + i * 60));
    let file = files.write("a.csv", text);
    let data = files.0.path().join("data");
    let dev = Dev::start(&data, port).await;
    let args = ["--time-column", "t", "--device", "d", "--batch", "10"];
    let stderr = files.0.path().join("stderr");
    let sending = windrow(port, &args, &[&file])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let job = "apiVersion: windrow/v1\nkind: Job\nmetadata: {name: once}\nspec:\n  source: {topic: t, values: {v: i64}}\n  \
               window: {every: day}\n  lateness: 10m\n  idleTimeout: 1s\n  map: SELECT count(*) AS n FROM readings\n";
    let job = files.write("once.yaml", job);
    let server = format!("http://127.0.0.1:{port}");
    // The first of a thousand batches makes the topic: killed in the middle of them.
    let has_topic = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        let output = command.args(["validate", "-f", job.to_str().unwrap(), "--server", &server]).output().unwrap();
        let all = [said(&output), String::from_utf8_lossy(&output.stdout).into_owned()].concat();
        output.status.success() && !all.contains("does not exist")
    };
    until("the first batch is taken", has_topic).await;
    drop(dev);
    until("the sender tries again", || std::fs::read_to_string(&stderr).unwrap().contains("trying again")).await;
    let _dev = Dev::start(&data, port).await;
    let output = sending.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{}", std::fs::read_to_string(&stderr).unwrap());
    assert_eq!((&report["sent"], &report["accepted"]), (&ROWS.into(), &ROWS.into()));
    assert!(report["retries"].as_u64().unwrap() > 0, "{report}");

    // The repeat is found by its sequence numbers: a job counts each row once.
    let last = ["wait", "once", "--until", "2015-01-08T00:00:00Z"];
    for args in [&["apply", "-f", job.to_str().unwrap()][..], &last] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        let output = command.args(args).env("WINDROW_SERVER", &server).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    }
    let (kept, others) = counted(&data.join("store/once/_commits"));
    assert_eq!(kept, u64::from(ROWS));
    assert!(others <= 4 * 10, "no more than the requests in flight are repeated: {others}");
}

/// Readings that a job's markers say were kept, and repeats and late ones.
fn counted(commits: &Path) -> (u64, u64) {
    let (mut kept, mut others) = (0, 0);
    for window in std::fs::read_dir(commits).unwrap() {
        for marker in std::fs::read_dir(window.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()) {
            if marker.file_name().unwrap().to_str().unwrap().starts_with("_complete") {
                continue;
            }
            let marker: Value = serde_json::from_slice(&std::fs::read(marker).unwrap()).unwrap();
            let count = |field: &str| marker["ledger"][field].as_u64().unwrap();
            kept += count("kept");
            others += count("duplicate") + count("late");
        }
    }
    (kept, others)
}
