//! Talking to a coordinator.

pub mod apply;
pub mod backfill;
pub mod describe;
pub mod jobs;
pub mod partitions;
pub mod wait;
pub mod windows;
pub mod workers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use backon::{ConstantBuilder, Retryable};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use windrow_wire::v1;
use windrow_wire::v1::backfill_service_client::BackfillServiceClient;
use windrow_wire::v1::cluster_service_client::ClusterServiceClient;
use windrow_wire::v1::job_service_client::JobServiceClient;
use windrow_wire::v1::window_service_client::WindowServiceClient;
use windrow_wire::v1::worker_service_client::WorkerServiceClient;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer, or the beginning of a stream, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, in bytes: a page of windows with their batches.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A coordinator that does not listen yet is asked again so often, after a pause each.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);

const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";

/// Where the coordinator is.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// URL of a coordinator.
    #[arg(long, env = "WINDROW_SERVER", default_value = DEFAULT_SERVER)]
    pub server: String,
}

/// A server by its URL.
pub fn endpoint(url: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned()).with_context(|| format!("{url:?} is no URL of a server"))?;
    // It would be spoken to in plain text.
    ensure!(
        endpoint.uri().scheme_str() == Some("http"),
        "{url}: only http:// is understood; for TLS put a proxy beside this program"
    );
    Ok(endpoint)
}

impl ServerArgs {
    pub async fn connect(&self) -> Result<Client> {
        let endpoint = endpoint(&self.server)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
        // One that was started a moment ago, by the line before in a script, is about to listen.
        let pauses = ConstantBuilder::default().with_delay(PAUSE).with_max_times(TRIES);
        let connected = (|| endpoint.connect()).retry(pauses).await;
        let channel = connected.with_context(|| {
            format!("no coordinator at {} (start one: windrow dev, or windrow coordinator)", self.server)
        })?;
        Ok(Client { channel })
    }

    /// A command of this program for the same server.
    pub fn command(&self, args: &[&str]) -> String {
        let mut args = args.to_vec();
        if self.server != DEFAULT_SERVER && std::env::var("WINDROW_SERVER").is_err() {
            args.extend(["--server", &self.server]);
        }
        crate::output::command(&args)
    }
}

/// A connection. Finds its way again by itself when the coordinator was away.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn windows(&self) -> WindowServiceClient<Channel> {
        WindowServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn backfills(&self) -> BackfillServiceClient<Channel> {
        BackfillServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub async fn job(&self, name: &str) -> Result<v1::Job, Status> {
        let answer = self.jobs().get_job(v1::GetJobRequest { name: job_name(name) }).await?;
        answer.into_inner().job.ok_or_else(|| Status::internal("the coordinator sent no job"))
    }

    pub async fn cluster(&self) -> Result<v1::Cluster, Status> {
        let answer = ClusterServiceClient::new(self.channel.clone()).get_cluster(v1::GetClusterRequest {}).await?;
        Ok(answer.into_inner().cluster.unwrap_or_default())
    }

    pub async fn workers(&self) -> Result<Vec<v1::Worker>, Status> {
        let answer = WorkerServiceClient::new(self.channel.clone()).list_workers(v1::ListWorkersRequest {}).await?;
        Ok(answer.into_inner().workers)
    }

    /// All windows in flight, oldest first.
    pub async fn windows_in_flight(&self, job: &str) -> Result<Vec<v1::Window>, Status> {
        let (mut client, mut all, mut page_token) = (self.windows(), Vec::new(), String::new());
        loop {
            let request = v1::ListWindowsRequest { parent: job_name(job), page_size: 1_000, page_token };
            let answer = client.list_windows(request).await?.into_inner();
            all.extend(answer.windows);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// All partitions of the job's topic, by number.
    pub async fn partitions(&self, job: &str) -> Result<(Vec<v1::Partition>, String), Status> {
        let (mut client, mut all, mut page_token) = (self.windows(), Vec::new(), String::new());
        loop {
            let request = v1::ListPartitionsRequest { parent: job_name(job), page_size: 1_000, page_token };
            let answer = client.list_partitions(request).await?.into_inner();
            all.extend(answer.partitions);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok((all, answer.topic_id));
            }
        }
    }
}

/// `jobs/{job}`.
fn job_name(job: &str) -> String {
    format!("jobs/{job}")
}

/// The last segment of a resource's name.
fn last_segment(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// An enum value as people write it: `JOB_STATE_RUNNING` is `running`.
fn state_name(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

/// An answer's error for people: the message alone, codes are for programs.
pub fn said(status: Status) -> anyhow::Error {
    // The transport's own words name nobody.
    if status.message() == "transport error" {
        return anyhow::anyhow!("the coordinator does not answer; try again, or name another one with --server");
    }
    anyhow::anyhow!("{}", status.message())
}
