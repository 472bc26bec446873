//! `windrow gateway` as a process: healthy while its Kafka answers, and what it has begun to take at SIGTERM it takes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const BODY: &str = r#"{"device": "d", "time": "2015-09-01T00:00:00Z", "values": {"speed": 1.5}}"#;

struct Gateway {
    process: Child,
    http: u16,
    grpc: u16,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn kafka() -> String {
    std::env::var("WINDROW_TEST_KAFKA")
        .expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test starts one and sets it")
}

impl Gateway {
    fn start(kafka: &str) -> Self {
        let (http, grpc) = (free_port(), free_port());
        let process = Command::new(env!("CARGO_BIN_EXE_windrow"))
            .args(["gateway", "--kafka", kafka, "--create-topics", "1"])
            .args(["--http", &format!("127.0.0.1:{http}"), "--grpc", &format!("127.0.0.1:{grpc}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, http, grpc }
    }

    /// What gRPC's health service says of the ingest service; `None`: nothing yet.
    async fn health(&self) -> Option<ServingStatus> {
        let server = Channel::from_shared(format!("http://127.0.0.1:{}", self.grpc)).unwrap().connect().await.ok()?;
        let request = HealthCheckRequest { service: "windrow.v1.IngestService".to_owned() };
        Some(HealthClient::new(server).check(request).await.ok()?.into_inner().status())
    }

    async fn ready(&self) -> Option<u16> {
        let answer = reqwest::get(format!("http://127.0.0.1:{}/readyz", self.http)).await.ok()?;
        Some(answer.status().as_u16())
    }

    fn listens(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.http)).is_ok()
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_it_runs_and_says_that_it_is_not_ready() {
    let mut gateway = Gateway::start("127.0.0.1:1");
    until("not ready", async || gateway.ready().await == Some(503)).await;
    until("not serving", async || gateway.health().await == Some(ServingStatus::NotServing)).await;
    assert!(gateway.process.try_wait().unwrap().is_none(), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_begun_at_sigterm_is_taken_and_the_process_ends_well() {
    let mut gateway = Gateway::start(&kafka());
    until("ready", async || gateway.ready().await == Some(200)).await;
    until("serving", async || gateway.health().await == Some(ServingStatus::Serving)).await;
    let mut connection = TcpStream::connect(("127.0.0.1", gateway.http)).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let topic = format!("drain-{}", uuid::Uuid::new_v4());
    let head = format!(
        "POST /v1/topics/{topic}/readings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        BODY.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    let mut answer = BufReader::new(connection.try_clone().unwrap()).lines().map(Result::unwrap);
    assert_eq!(answer.next().unwrap(), "HTTP/1.1 100 Continue", "it has begun to take the request");
    let signalled = Command::new("kill").arg(gateway.process.id().to_string()).status().unwrap();
    assert!(signalled.success());
    until("no new connections", async || !gateway.listens()).await;
    connection.write_all(BODY.as_bytes()).unwrap();
    let text: Vec<String> = answer.collect();
    let text = text.join("\n");
    assert!(text.contains("HTTP/1.1 200 OK") && text.contains(r#""accepted":1"#), "{text}");
    assert!(gateway.process.wait().unwrap().success());
}
