//! The roles as processes over a real Kafka, etcd and S3 server, under ingest, while each of them is killed in turn:
//! every acknowledged reading is in exactly one window's result. `cargo xtask test` starts the services.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{Array, Int64Array};
use windrow_processing::parquet;
use windrow_protocol::JobName;
use windrow_protocol::paths::{self, Dataset};
use windrow_storage::{S3Settings, Store};

const DEVICES: u64 = 20;
const HOURS: u64 = 24;
/// Readings of one device in an hour.
const PER_HOUR: u64 = 60;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test starts the services and sets it"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A role; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: no goodbye.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Deployment {
    folder: tempfile::TempDir,
    store_url: String,
    topic: String,
    job: String,
    count: usize,
    http: reqwest::Client,
}

impl Deployment {
    fn new() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            folder: tempfile::tempdir().unwrap(),
            store_url: format!("s3://{}/e2e-{id}", variable("WINDROW_TEST_S3_BUCKET")),
            topic: format!("fleet-{id}"),
            job: format!("fleet-{}", &id[..12]),
            count: 0,
            http: reqwest::Client::new(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        command.args(args);
        command.env("WINDROW_KAFKA", variable("WINDROW_TEST_KAFKA")).env("WINDROW_ETCD", variable("WINDROW_TEST_ETCD"));
        command.env("WINDROW_STORE", &self.store_url).env("WINDROW_S3_ENDPOINT", variable("WINDROW_TEST_S3"));
        command.env("AWS_ACCESS_KEY_ID", variable("WINDROW_TEST_S3_ACCESS_KEY"));
        command.env("AWS_SECRET_ACCESS_KEY", variable("WINDROW_TEST_S3_SECRET_KEY"));
        command
    }

    fn start(&mut self, args: &[&str]) -> Process {
        self.count += 1;
        let log = File::create(self.folder.path().join(format!("{}-{}.log", args[0], self.count))).unwrap();
        Process(self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn worker(&mut self) -> Process {
        self.start(&["worker", "--slots", "2", "--lease-seconds", "3", "--memory-mib", "64"])
    }

    fn coordinator(&mut self, port: u16) -> Process {
        self.start(&["coordinator", "--grpc", &format!("127.0.0.1:{port}"), "--lease-seconds", "3"])
    }

    fn gateway(&mut self, port: u16) -> Process {
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

    /// Runs a command against either coordinator until it works.
    async fn run(&self, args: &[&str], servers: [u16; 2]) -> Output {
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
    async fn send(&self, gateways: [u16; 2], hour: u64, per_hour: u64) {
        let (day, of_day) = (1 + hour / 24, hour % 24);
        let lines: Vec<String> = (0..per_hour)
            .flat_map(|minute| (0..DEVICES).map(move |device| (minute, device)))
            .map(|(minute, device)| {
                let seq = hour * PER_HOUR + minute;
                format!(
                    r#"{{"device": "d{device}", "time": "2015-09-{day:02}T{of_day:02}:{minute:02}:00Z", "seq": {seq}, "values": {{"speed": {minute}.5}}}}"#
                )
            })
            .collect();
        let (body, deadline) = (lines.join("\n"), Instant::now() + PATIENCE);
        for port in gateways.iter().cycle().skip(hour as usize % 2) {
            let url = format!("http://127.0.0.1:{port}/v1/topics/{}/readings", self.topic);
            let answer = match self.http.post(url).body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => answer.text().await.unwrap_or_default(),
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if answer.contains(&format!("\"accepted\":{}", lines.len())) {
                return;
            }
            assert!(Instant::now() < deadline, "hour {hour} is not acknowledged: {answer}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(8)..];
            all += &format!("--- {}\n{}\n", entry.path().display(), tail.join("\n"));
        }
        all
    }

    fn job_file(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("job.yaml");
        let text = format!(
            "apiVersion: windrow/v1\nkind: Job\nmetadata: {{name: {}}}\nspec:\n  source: {{topic: {}, values: {{speed: f64}}}}\n  \
             window: {{every: 1h}}\n  lateness: 10m\n  idleTimeout: 3s\n  \
             map: SELECT device, count(*) AS n, sum(speed) AS total FROM readings GROUP BY device\n  \
             reduce: SELECT sum(n) AS n, sum(total) AS total FROM parts\n",
            self.job, self.topic
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Readings in the job's result, counted from its files.
    async fn counted(&self) -> i64 {
        let settings = S3Settings {
            endpoint: Some(variable("WINDROW_TEST_S3")),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(variable("WINDROW_TEST_S3_ACCESS_KEY")),
            secret_access_key: Some(variable("WINDROW_TEST_S3_SECRET_KEY")),
            allow_http: true,
        };
        let store = Store::open(&self.store_url, &settings).unwrap();
        let local = self.folder.path().join("result.parquet");
        let mut sum = 0;
        for object in store.list(&paths::dataset(&JobName::new(&self.job).unwrap(), Dataset::Data)).await.unwrap() {
            store.download(&object.path, &local).await.unwrap();
            sum += rows(&local);
        }
        sum
    }
}

/// The sum of column `n`.
fn rows(file: &Path) -> i64 {
    let batches = parquet::read(file).unwrap().map(Result::unwrap);
    let sum = |column: &dyn Array| column.as_any().downcast_ref::<Int64Array>().unwrap().iter().flatten().sum::<i64>();
    batches.map(|batch| sum(&**batch.column_by_name("n").unwrap())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_every_acknowledged_reading_is_counted_once() {
    let mut deployment = Deployment::new();
    let (servers, gates) = ([free_port(), free_port()], [free_port(), free_port()]);
    let mut coordinators = servers.map(|port| deployment.coordinator(port));
    let mut gateways = gates.map(|port| deployment.gateway(port));
    let mut workers = [(); 3].map(|()| deployment.worker());
    let file = deployment.job_file();
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;

    for hour in 0..HOURS {
        deployment.send(gates, hour, PER_HOUR).await;
        // The old process is killed before the new one takes its place: assignment drops it first.
        let which = (hour / 6) as usize;
        match hour % 6 {
            1 => {
                drop(workers[which % 3].0.kill());
                workers[which % 3] = deployment.worker();
            }
            3 => {
                let port = servers[which % 2];
                drop(coordinators[which % 2].0.kill());
                drop(coordinators[which % 2].0.wait());
                coordinators[which % 2] = deployment.coordinator(port);
            }
            5 => {
                let port = gates[which % 2];
                drop(gateways[which % 2].0.kill());
                drop(gateways[which % 2].0.wait());
                gateways[which % 2] = deployment.gateway(port);
            }
            _ => {}
        }
    }
    // One minute of a later hour closes the windows before it.
    deployment.send(gates, HOURS + 2, 1).await;
    let until = "2015-09-02T00:00:00Z";
    deployment.run(&["wait", &deployment.job, "--until", until, "--timeout", "20s"], servers).await;

    let verified = deployment.run(&["verify", &deployment.job], servers).await;
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    let count = |field: &str| report["ledger"][field].as_u64().unwrap();
    let sent = HOURS * DEVICES * PER_HOUR;
    assert_eq!(count("kept") + count("late") + count("quarantined"), sent, "{report}");
    assert_eq!(deployment.counted().await as u64 + count("late"), sent, "the files hold what the ledgers say");
    let deleted = deployment.run(&["delete", &deployment.job], servers).await;
    assert!(String::from_utf8_lossy(&deleted.stdout).contains("deleted"));
}
