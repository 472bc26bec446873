//! The binary's roles as processes, either all in one or each on its own over real services.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use windrow_storage::{S3Settings, Store};

use crate::data::DataSet;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test starts the services and sets it"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Cluster {
    // Before the folder: it goes when they have ended.
    processes: Vec<Process>,
    folder: tempfile::TempDir,
    /// Tells this run's topics and keys from others' on the same services.
    id: String,
    is_real: bool,
    gateway: u16,
    coordinator: u16,
}

impl Cluster {
    fn new(is_real: bool) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (folder, gateway) = (tempfile::tempdir().unwrap(), free_port());
        let coordinator = if is_real { free_port() } else { gateway };
        Self { processes: vec![], folder, id, is_real, gateway, coordinator }
    }

    /// All roles in one process.
    pub fn embedded() -> Self {
        let mut cluster = Self::new(false);
        let (grpc, http) = (format!("127.0.0.1:{}", cluster.gateway), format!("127.0.0.1:{}", free_port()));
        let data = cluster.folder.path().join("data");
        cluster.start(&["dev", "--data-dir", data.to_str().unwrap(), "--grpc", &grpc, "--http", &http]);
        cluster
    }

    /// A gateway, a coordinator and two workers.
    pub fn real() -> Self {
        let mut cluster = Self::new(true);
        let (grpc, http) = (format!("127.0.0.1:{}", cluster.gateway), format!("127.0.0.1:{}", free_port()));
        cluster.start(&["gateway", "--grpc", &grpc, "--http", &http, "--create-topics", "2"]);
        let grpc = format!("127.0.0.1:{}", cluster.coordinator);
        cluster.start(&["coordinator", "--grpc", &grpc]);
        for _ in 0..2 {
            cluster.start(&["worker", "--slots", "2", "--memory-mib", "64"]);
        }
        cluster
    }

    fn store_url(&self) -> String {
        match self.is_real {
            true => format!("s3://{}/datasets-{}", variable("WINDROW_TEST_S3_BUCKET"), self.id),
            false => format!("file://{}", self.folder.path().join("data/store").display()),
        }
    }

    pub fn store(&self) -> Store {
        let settings = match self.is_real {
            false => S3Settings::default(),
            true => S3Settings {
                endpoint: Some(variable("WINDROW_TEST_S3")),
                region: Some("us-east-1".to_owned()),
                access_key_id: Some(variable("WINDROW_TEST_S3_ACCESS_KEY")),
                secret_access_key: Some(variable("WINDROW_TEST_S3_SECRET_KEY")),
                allow_http: true,
            },
        };
        Store::open(&self.store_url(), &settings).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windrow"));
        command.args(args);
        command.env("WINDROW_SERVER", format!("http://127.0.0.1:{}", self.coordinator));
        command.env("WINDROW_GATEWAY", format!("http://127.0.0.1:{}", self.gateway));
        command.env("WINDROW_STORE", self.store_url());
        if self.is_real {
            command.env("WINDROW_KAFKA", variable("WINDROW_TEST_KAFKA"));
            command.env("WINDROW_ETCD", variable("WINDROW_TEST_ETCD"));
            command.env("WINDROW_ETCD_PREFIX", format!("/datasets-{}", self.id));
            command.env("WINDROW_S3_ENDPOINT", variable("WINDROW_TEST_S3"));
            command.env("AWS_ACCESS_KEY_ID", variable("WINDROW_TEST_S3_ACCESS_KEY"));
            command.env("AWS_SECRET_ACCESS_KEY", variable("WINDROW_TEST_S3_SECRET_KEY"));
        }
        command
    }

    fn start(&mut self, args: &[&str]) {
        let log = File::create(self.folder.path().join(format!("{}-{}.log", self.processes.len(), args[0]))).unwrap();
        let process = self.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.processes.push(Process(process));
    }

    /// Runs a command until it works: the roles may still be starting. What it printed.
    pub async fn run(&self, args: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.command(args).output().unwrap();
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // What is refused stays refused.
            let is_hopeless = !said.contains("127.0.0.1") && !said.contains("again");
            assert!(!is_hopeless && Instant::now() < deadline, "windrow {args:?}: {said}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(8)..];
            all += &format!("--- {}\n{}\n", entry.path().display(), tail.join("\n"));
        }
        all
    }

    /// The topic of a data set's job, renamed so that runs on the same Kafka don't meet.
    fn topic(&self, set: &DataSet) -> String {
        self.named(set.topic)
    }

    /// A topic's name in this run.
    pub fn named(&self, topic: &str) -> String {
        format!("{topic}-{}", self.id)
    }

    /// Writes a file beside the logs.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The job file in deploy/examples, over the renamed topic.
    pub fn example(&self, job: &str, topic: &str, named: &str) -> String {
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let text = std::fs::read_to_string(example.join(format!("{job}.yaml"))).unwrap();
        let (old, new) = (format!("topic: {topic}\n"), format!("topic: {named}\n"));
        assert!(text.contains(&old), "{job}: {old}");
        text.replace(&old, &new)
    }

    /// `windrow send` as the job's example says it; its summary.
    pub async fn send(&self, set: &DataSet) -> Value {
        let (topic, files) = (self.topic(set), set.files.iter().map(|file| file.to_str().unwrap()));
        let mut args = vec!["send", "--topic", &topic, "-o", "json"];
        args.extend(&set.args);
        args.extend(files);
        serde_json::from_str(&self.run(&args).await).unwrap()
    }

    /// Creates the job that lies in deploy/examples, over the renamed topic.
    pub async fn apply(&self, set: &DataSet) {
        let text = self.example(set.job, set.topic, &self.topic(set));
        let path = self.write(&format!("{}.yaml", set.job), &text);
        self.run(&["apply", "-f", path.to_str().unwrap()]).await;
    }

    /// Waits for the window of the last reading.
    pub async fn wait(&self, set: &DataSet) {
        self.run(&["wait", set.job, "--until", &set.expected.until, "--timeout", "100s"]).await;
    }

    /// The proof over the log: Kafka itself is asked, the embedded log by the process that has it.
    pub async fn verify(&self, set: &DataSet) {
        let report: Value = serde_json::from_str(&self.run(&["verify", set.job, "-o", "json"]).await).unwrap();
        assert_eq!((&report["clean"], &report["logChecked"]), (&Value::Bool(true), &Value::Bool(true)), "{report}");
    }
}
