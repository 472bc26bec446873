//! Roles as processes of their own, and what a test does with them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, Int64Array};
use windrow_processing::parquet;
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::{JobName, Timestamp};
use windrow_storage::{S3Settings, Store};

pub const DEVICES: u64 = 20;
/// Readings of one device in an hour.
pub const PER_HOUR: u64 = 60;

/// When the n-th hour begins.
pub fn hour_start(hour: u64) -> Timestamp {
    let first: Timestamp = "2015-09-01T00:00:00Z".parse().unwrap();
    first.plus_micros(hour as i64 * 3_600_000_000)
}

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test starts the services and sets it"))
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where the real services are.
#[derive(Debug, Clone)]
pub struct Services {
    pub kafka: String,
    pub etcd: String,
    pub s3: String,
    /// Where the output goes.
    pub store: String,
}

impl Services {
    /// Those that `cargo xtask test` started.
    pub fn direct() -> Self {
        Self {
            kafka: variable("WINDROW_TEST_KAFKA"),
            etcd: variable("WINDROW_TEST_ETCD"),
            s3: variable("WINDROW_TEST_S3"),
            store: Self::a_store(),
        }
    }

    /// A folder of one's own in the bucket of tests.
    pub fn a_store() -> String {
        let id = uuid::Uuid::new_v4().simple();
        format!("s3://{}/e2e-{id}", variable("WINDROW_TEST_S3_BUCKET"))
    }
}

/// A role; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Sends it a signal, e.g. `STOP`.
    pub fn signal(&self, name: &str) {
        let (flag, pid) = (format!("-{name}"), self.child.id().to_string());
        assert!(Command::new("kill").args([&flag, &pid]).status().unwrap().success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: no goodbye.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The source of a job over what a gateway writes.
pub const BLOCKS: &str = "source: {topic: TOPIC, values: {speed: f64}}";

/// One fleet's topic, job and output, and the services over which its roles run.
pub struct Deployment {
    services: Services,
    folder: tempfile::TempDir,
    pub topic: String,
    pub job: String,
    count: AtomicUsize,
    http: reqwest::Client,
}

impl Deployment {
    pub fn new(services: Services) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            services,
            folder: tempfile::tempdir().unwrap(),
            topic: format!("fleet-{id}"),
            job: format!("fleet-{}", &id[..12]),
            count: AtomicUsize::new(0),
            http: reqwest::Client::new(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        command.args(args);
        command.env("WINDROW_KAFKA", &self.services.kafka).env("WINDROW_ETCD", &self.services.etcd);
        command.env("WINDROW_ETCD_PREFIX", format!("/{}", self.topic));
        command.env("WINDROW_STORE", &self.services.store).env("WINDROW_S3_ENDPOINT", &self.services.s3);
        command.env("AWS_ACCESS_KEY_ID", variable("WINDROW_TEST_S3_ACCESS_KEY"));
        command.env("AWS_SECRET_ACCESS_KEY", variable("WINDROW_TEST_S3_SECRET_KEY"));
        command
    }

    fn start(&self, args: &[&str]) -> Process {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("{}-{}.log", args[0], number));
        let stderr = File::create(&log).unwrap();
        Process { child: self.command(args).stdout(Stdio::null()).stderr(stderr).spawn().unwrap(), log }
    }

    pub fn worker(&self) -> Process {
        self.worker_with(&["--slots", "2"])
    }

    pub fn worker_with(&self, more: &[&str]) -> Process {
        self.start(&[&["worker", "--lease-seconds", "3", "--memory-mib", "64"], more].concat())
    }

    pub fn coordinator(&self, port: u16) -> Process {
        let grpc = format!("127.0.0.1:{port}");
        let janitor = ["--janitor-seconds", "1", "--staging-grace-seconds", "10"];
        self.start(&[&["coordinator", "--grpc", &grpc, "--lease-seconds", "3"], &janitor[..]].concat())
    }

    pub fn gateway(&self, port: u16) -> Process {
        self.start(&[
            "gateway",
            "--http",
            &format!("127.0.0.1:{port}"),
            "--grpc",
            "127.0.0.1:0",
            "--create-topics",
            "4",
        ])
    }

    /// Runs a command once: with what it ended, and what it printed.
    pub fn ends(&self, args: &[&str], server: u16) -> (Option<i32>, String) {
        let output = self.command(args).env("WINDROW_SERVER", format!("http://127.0.0.1:{server}")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command against either coordinator until it works.
    pub async fn run(&self, args: &[&str], servers: [u16; 2]) -> Output {
        let deadline = Instant::now() + PATIENCE;
        for port in servers.iter().cycle() {
            let output = self.command(args).env("WINDROW_SERVER", format!("http://127.0.0.1:{port}")).output().unwrap();
            if output.status.success() {
                return output;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(Instant::now() < deadline, "windrow {args:?}: {said}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        unreachable!("the cycle has no end")
    }

    /// Sends an hour of all devices to one of the gateways until it is acknowledged as a whole.
    pub async fn send(&self, gateways: [u16; 2], hour: u64, per_hour: u64) {
        let (lines, deadline) = (Self::lines(hour, per_hour), Instant::now() + PATIENCE);
        for port in gateways.iter().cycle().skip(hour as usize % 2) {
            let answer = self.offer(*port, &lines).await.unwrap_or_else(|error| error);
            if answer.contains(&format!("\"accepted\":{}", lines.len())) {
                return;
            }
            assert!(Instant::now() < deadline, "hour {hour} is not acknowledged: {answer}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One try to send lines to a gateway: its answer, or why there was none.
    pub async fn offer(&self, port: u16, lines: &[String]) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{port}/v1/topics/{}/readings", self.topic);
        let answer = self.http.post(url).body(lines.join("\n")).send().await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
    }

    /// The status of a gateway's or worker's readiness; `None` without an answer.
    pub async fn readiness(&self, port: u16) -> Option<u16> {
        let answer = self.http.get(format!("http://127.0.0.1:{port}/readyz")).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// An hour of all devices.
    pub fn lines(hour: u64, per_hour: u64) -> Vec<String> {
        (0..per_hour)
            .flat_map(|minute| (0..DEVICES).map(move |device| (minute, device)))
            .map(|(minute, device)| {
                let (seq, time) = (hour * PER_HOUR + minute, hour_start(hour).plus_micros(minute as i64 * 60_000_000));
                format!(
                    r#"{{"device": "d{device}", "time": "{time}", "seq": {seq}, "values": {{"speed": {minute}.5}}}}"#
                )
            })
            .collect()
    }

    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(8)..];
            all += &format!("--- {}\n{}\n", entry.path().display(), tail.join("\n"));
        }
        all
    }

    /// An hourly job over the topic, written as TOPIC in `source`.
    pub fn job_file(&self, source: &str) -> PathBuf {
        self.job_file_of(source, "window: {every: 1h}\n  lateness: 10m")
    }

    /// A job with windows of one's own.
    pub fn job_file_of(&self, source: &str, window: &str) -> PathBuf {
        let map = "SELECT device, count(*) AS n, sum(speed) AS total FROM readings GROUP BY device\n  \
                   reduce: SELECT sum(n) AS n, sum(total) AS total FROM parts";
        self.job_file_with(&self.job, source, window, "3s", map)
    }

    /// A job of another name, idle time or SQL; `map` may go on with other fields.
    pub fn job_file_with(&self, job: &str, source: &str, window: &str, idle: &str, map: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{job}.yaml"));
        let source = source.replace("TOPIC", &self.topic);
        let text = format!(
            "apiVersion: windrow/v1\nkind: Job\nmetadata: {{name: {job}}}\nspec:\n  {source}\n  {window}\n  \
             idleTimeout: {idle}\n  map: {map}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn store(&self) -> Store {
        let settings = S3Settings {
            endpoint: Some(self.services.s3.clone()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(variable("WINDROW_TEST_S3_ACCESS_KEY")),
            secret_access_key: Some(variable("WINDROW_TEST_S3_SECRET_KEY")),
            allow_http: true,
        };
        Store::open(&self.services.store, &settings).unwrap()
    }

    /// Readings counted in each of the result's files, as a plain reader sees them now.
    pub async fn counted(&self) -> BTreeMap<String, i64> {
        let (store, local) = (self.store(), tempfile::NamedTempFile::new().unwrap());
        let mut files = BTreeMap::new();
        for object in store.list(&paths::dataset(&JobName::new(&self.job).unwrap(), Dataset::Data)).await.unwrap() {
            store.download(&object.path, local.path()).await.unwrap();
            files.insert(object.path, rows(local.path()));
        }
        files
    }

    /// Runs a command until it works; what it says as JSON.
    pub async fn json(&self, args: &[&str], servers: [u16; 2]) -> serde_json::Value {
        serde_json::from_slice(&self.run(&[args, &["-o", "json"]].concat(), servers).await.stdout).unwrap()
    }

    /// What `verify` reports of a job.
    pub async fn verify(&self, job: &str, servers: [u16; 2]) -> serde_json::Value {
        self.json(&["verify", job], servers).await
    }

    /// Runs `verify`, which must be clean; readings in the result, and those in the late and quarantine sets.
    pub async fn verified(&self, servers: [u16; 2]) -> (u64, u64) {
        let report = self.verify(&self.job, servers).await;
        assert_eq!(report["clean"], true, "{report}");
        let count = |field: &str| report["ledger"][field].as_u64().unwrap();
        (count("kept"), count("late") + count("quarantined"))
    }
}

/// Waits for a condition, with a deadline.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The sum of column `n`.
fn rows(file: &Path) -> i64 {
    let batches = parquet::read(file).unwrap().map(Result::unwrap);
    let sum = |column: &dyn Array| column.as_any().downcast_ref::<Int64Array>().unwrap().iter().flatten().sum::<i64>();
    batches.map(|batch| sum(&**batch.column_by_name("n").unwrap())).sum()
}
