//! Gateway paths: a gateway process, loaded by this one, over a real Kafka. A reading counts when it is acknowledged.

use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::transport::Channel;
use windrow_protocol::{Timestamp, TopicName};
use windrow_wire::v1::field::Value;
use windrow_wire::v1::ingest_service_client::IngestServiceClient;
use windrow_wire::v1::{Field, PublishRequest, Reading};

use crate::measure::{cpu_of, median};
use crate::process::{Role, free_port};
use crate::table::{Line, millions};
use crate::worker::kafka;
use crate::{Options, Path, fleet, variable};

/// Readings of one request.
const REQUEST: u64 = 1_000;
/// Requests that wait for their answer at once.
const CONCURRENT: usize = 16;

/// A gateway with a topic.
struct Target {
    role: Role,
    http: String,
    grpc: String,
    topic: TopicName,
}

impl Target {
    async fn start() -> Result<Self> {
        let (topic, _) = fleet::create_topic(kafka().await?.as_ref(), fleet::PARTITIONS).await?;
        let address = || free_port().map(|port| format!("127.0.0.1:{port}"));
        let (http, grpc, brokers) = (address()?, address()?, variable("WINDROW_TEST_KAFKA")?);
        let mut role = Role::start(&["gateway", "--kafka", &brokers, "--http", &http, "--grpc", &grpc])?;
        role.ready(&reqwest::Client::new(), &format!("http://{http}/readyz")).await?;
        Ok(Self { role, http, grpc, topic })
    }

    /// Sends requests several times over; the readings per CPU-second and per second, medians.
    async fn measure<R: Clone>(
        &self,
        options: &Options,
        requests: &[R],
        send: impl AsyncFn(R) -> Result<u64>,
    ) -> Result<String> {
        let (mut rates, mut paces) = (Vec::new(), Vec::new());
        for _ in 0..options.repeats {
            let (cpu, began) = (cpu_of(self.role.pid())?, Instant::now());
            let sent = stream::iter(requests).map(|request| send(request.clone())).buffer_unordered(CONCURRENT);
            let accepted = sent.try_fold(0, |sum, n| async move { Ok(sum + n) }).await? as f64;
            rates.push(accepted / (cpu_of(self.role.pid())? - cpu).as_secs_f64());
            paces.push(accepted / began.elapsed().as_secs_f64());
        }
        kafka().await?.delete_topic(&self.topic).await?;
        Ok(format!("{} (wall clock {})", millions(median(rates)), millions(median(paces))))
    }
}

/// The fleet's readings of request `n`: a second or so of one partition's devices.
fn readings(n: u64) -> impl Iterator<Item = fleet::Sample> {
    let partitions = u64::from(fleet::PARTITIONS.unsigned_abs());
    let (partition, first) = ((n % partitions) as i32, n / partitions * REQUEST);
    (first..first + REQUEST).map(move |i| fleet::sample(partition, i))
}

fn line(path: &'static str, options: &Options, kind: &str, measured: String, floor_and_goal: &'static str) -> Line {
    let what = format!("{} readings, {kind} of {REQUEST}, {CONCURRENT} at once", options.requests);
    Line { path, what, measured, floor_and_goal, roofline: String::new() }
}

/// HTTP NDJSON.
pub async fn http(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Http) {
        return Ok(None);
    }
    let target = Target::start().await?;
    let bodies: Vec<Bytes> = (0..options.requests / REQUEST).map(ndjson).collect();
    let (client, url) = (reqwest::Client::new(), format!("http://{}/v1/topics/{}/readings", target.http, target.topic));
    let send = async |body: Bytes| {
        let answer = client.post(&url).body(body).send().await?.error_for_status()?.bytes().await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        taken(answer["accepted"].as_u64().unwrap_or_default(), &answer)
    };
    let measured = target.measure(options, &bodies, send).await?;
    Ok(Some(line("http", options, "NDJSON bodies", measured, "0.25 -> 1 M/s")))
}

fn ndjson(n: u64) -> Bytes {
    let lines = readings(n).map(|fleet::Sample { device, zone, time_us, seq, speed, level }| {
        let time = Timestamp::from_micros(time_us);
        format!(
            r#"{{"device":"{device}","time":"{time}","seq":{seq},"values":{{"speed":{speed},"level":{level}}},"tags":{{"zone":"{zone}"}}}}"#
        )
    });
    lines.collect::<Vec<_>>().join("\n").into()
}

fn taken(accepted: u64, answer: &impl std::fmt::Debug) -> Result<u64> {
    if accepted == REQUEST {
        Ok(accepted)
    } else {
        bail!("the gateway did not take all {REQUEST} readings: {answer:?}")
    }
}

/// gRPC, one `Publish` a request.
pub async fn grpc(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Grpc) {
        return Ok(None);
    }
    let target = Target::start().await?;
    let requests: Vec<PublishRequest> =
        (0..options.requests / REQUEST).map(|n| publish_request(&target.topic, n)).collect();
    let channel = Channel::from_shared(format!("http://{}", target.grpc))?.connect().await?;
    let client = IngestServiceClient::new(channel);
    let send = async |request: PublishRequest| {
        let answer = client.clone().publish(request).await?.into_inner();
        taken(answer.accepted, &answer)
    };
    let measured = target.measure(options, &requests, send).await?;
    Ok(Some(line("grpc", options, "`Publish` calls", measured, "0.5 -> 2 M/s")))
}

fn publish_request(topic: &TopicName, n: u64) -> PublishRequest {
    let field = |name: &str, value| Field { name: name.to_owned(), value: Some(value) };
    let readings = readings(n).map(|sample| Reading {
        device: sample.device,
        time_us: sample.time_us,
        seq: Some(sample.seq),
        fields: vec![
            field("speed", Value::F64(sample.speed)),
            field("level", Value::F64(sample.level)),
            field("zone", Value::Text(sample.zone)),
        ],
    });
    PublishRequest { topic: topic.to_string(), readings: readings.collect() }
}
