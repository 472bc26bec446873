//! Gateway paths: a gateway process, loaded by this one, over a real Kafka. A reading counts when it is acknowledged.

use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::measure::{cpu_of, median};
use crate::process::{Role, free_port};
use crate::table::{Line, millions};
use crate::worker::kafka;
use crate::{Options, Path, fleet, variable};

/// Readings of one request.
const REQUEST: u64 = 1_000;
/// Requests that wait for their answer at once.
const CONNECTIONS: usize = 16;

/// HTTP NDJSON.
pub async fn http(options: &Options) -> Result<Option<Line>> {
    if !options.wants(Path::Http) {
        return Ok(None);
    }
    let log = kafka().await?;
    let (topic, _) = fleet::create_topic(log.as_ref(), fleet::PARTITIONS).await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut role = Role::start(&["gateway", "--kafka", &variable("WINDROW_TEST_KAFKA")?, "--http", &address])?;
    let client = reqwest::Client::new();
    role.ready(&client, &format!("http://{address}/readyz")).await?;
    let bodies: Vec<Bytes> = (0..options.requests / REQUEST).map(ndjson).collect();
    let url = format!("http://{address}/v1/topics/{topic}/readings");
    let (mut costs, mut paces) = (Vec::new(), Vec::new());
    for _ in 0..options.repeats {
        let (cpu, began) = (cpu_of(role.pid())?, Instant::now());
        let sent = stream::iter(&bodies).map(|body| send(&client, &url, body.clone()));
        let accepted: u64 = sent.buffer_unordered(CONNECTIONS).try_fold(0, |sum, n| async move { Ok(sum + n) }).await?;
        costs.push((cpu_of(role.pid())? - cpu).as_secs_f64() / accepted as f64);
        paces.push(accepted as f64 / began.elapsed().as_secs_f64());
    }
    log.delete_topic(&topic).await?;
    Ok(Some(Line {
        path: "http",
        what: format!("{} readings, NDJSON, {REQUEST} a request, {CONNECTIONS} connections", options.requests),
        measured: format!("{} (wall clock {})", millions(1.0 / median(costs)), millions(median(paces))),
        floor_and_goal: "0.25 -> 1 M/s",
        roofline: String::new(),
    }))
}

/// Readings of request `n`, a partition's worth of the fleet.
fn ndjson(n: u64) -> Bytes {
    let partition = (n % fleet::PARTITIONS.unsigned_abs() as u64) as i32;
    let first = n / u64::from(fleet::PARTITIONS.unsigned_abs()) * REQUEST;
    let mut text = String::new();
    for i in first..first + REQUEST {
        let sample = fleet::sample(partition, i);
        let time = windrow_protocol::Timestamp::from_micros(sample.time_us);
        text += &format!(
            r#"{{"device":"{}","time":"{time}","seq":{},"values":{{"speed":{},"level":{}}},"tags":{{"zone":"{}"}}}}"#,
            sample.device, sample.seq, sample.speed, sample.level, sample.zone
        );
        text.push('\n');
    }
    text.into()
}

async fn send(client: &reqwest::Client, url: &str, body: Bytes) -> Result<u64> {
    let answer = client.post(url).body(body).send().await?.error_for_status()?.bytes().await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    match answer["accepted"].as_u64() {
        Some(REQUEST) => Ok(REQUEST),
        _ => bail!("the gateway did not take all {REQUEST} readings: {answer}"),
    }
}
