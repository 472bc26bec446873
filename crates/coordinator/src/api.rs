//! The gRPC API. Every replica serves it: it reads and writes the metadata store, never the leader's memory.

mod backfills;
mod checks;
mod cluster;
mod jobs;
mod partitions;
mod topic;
pub(crate) use topic::{RETENTION_TOO_SHORT, refusals};
mod windows;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Status};
use windrow_ports::MetaError;
use windrow_protocol::state::{JobRecord, keys};
use windrow_protocol::{JobName, Timestamp};
use windrow_storage::StoreError;
use windrow_wire::status::{error, invalid_field};
use windrow_wire::v1;
use windrow_wire::v1::backfill_service_server::BackfillServiceServer;
use windrow_wire::v1::cluster_service_server::ClusterServiceServer;
use windrow_wire::v1::job_service_server::JobServiceServer;
use windrow_wire::v1::window_service_server::WindowServiceServer;
use windrow_wire::v1::worker_service_server::WorkerServiceServer;

use crate::view::{Versioned, View};
use crate::{Parts, view};

/// Largest page of a list, and the size of one when none is asked for.
const MAX_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;

/// All services of the coordinator. `cluster` is what clients are told of it; streams end when `stop` is cancelled, since
/// a server that shuts down waits for them.
pub fn services(parts: Parts, cluster: v1::Cluster, stop: CancellationToken) -> Routes {
    let api = Api { parts, cluster, stop };
    Routes::new(JobServiceServer::new(api.clone()))
        .add_service(WindowServiceServer::new(api.clone()))
        .add_service(BackfillServiceServer::new(api.clone()))
        .add_service(ClusterServiceServer::new(api.clone()))
        .add_service(WorkerServiceServer::new(api))
}

/// One replica's view of the metadata store.
#[derive(Debug, Clone)]
struct Api {
    parts: Parts,
    cluster: v1::Cluster,
    stop: CancellationToken,
}

impl Api {
    fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// The stored job. NOT_FOUND if there is none.
    async fn job(&self, name: &JobName) -> Result<Versioned<JobRecord>, Status> {
        let item = self.parts.meta.get(&keys::job(name)).await.map_err(meta)?;
        let Some(item) = item else {
            let message = format!("job {name} does not exist; `windrow get jobs` lists those that do");
            return Err(error(Code::NotFound, "NO_SUCH_JOB", message));
        };
        let value = serde_json::from_slice(&item.value).map_err(|cause| {
            error(Code::DataLoss, "UNREADABLE_RECORD", format!("the record of job {name} can't be read: {cause}"))
        })?;
        Ok(Versioned { value, revision: item.mod_revision })
    }

    /// Everything of one job: its cursors stay out, since only the leader needs them.
    async fn job_view(&self, name: &JobName) -> Result<View, Status> {
        let mut listing = view::plans(&*self.parts.meta, name).await.map_err(meta)?;
        listing.items.extend(self.parts.meta.get(&keys::problem(name)).await.map_err(meta)?);
        Ok(View::new(&listing))
    }

    async fn message(&self, job: &Versioned<JobRecord>) -> Result<v1::Job, Status> {
        Ok(jobs::message(job, &self.job_view(&job.value.name).await?))
    }

    async fn response(&self, name: &JobName) -> Result<v1::Job, Status> {
        self.message(&self.job(name).await?).await
    }
}

/// `jobs/{job}`, given in a request's field.
fn job_name(field: &str, name: &str) -> Result<JobName, Status> {
    let bad = |message: String| invalid_field(field, "INVALID_NAME", message);
    let short = name.strip_prefix("jobs/").ok_or_else(|| bad(format!("{name:?} is not of the form jobs/NAME")))?;
    JobName::new(short).map_err(|error| bad(error.to_string()))
}

/// What a metadata error means to a client.
fn meta(cause: MetaError) -> Status {
    match cause {
        MetaError::Unavailable(_) => error(Code::Unavailable, "METADATA_UNAVAILABLE", cause.to_string()),
        _ => error(Code::Internal, "METADATA_REFUSED", cause.to_string()),
    }
}

fn store(cause: StoreError) -> Status {
    match cause {
        StoreError::Broken(_) | StoreError::NotFound(_) => error(Code::DataLoss, "DAMAGED", cause.to_string()),
        _ => error(Code::Unavailable, "STORE_UNAVAILABLE", cause.to_string()),
    }
}

/// A page of items by their keys; the token is the last key of the page before.
fn page<T>(items: Vec<(String, T)>, size: i32, token: &str) -> Result<(Vec<T>, String), Status> {
    let size = match usize::try_from(size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(invalid_field("page_size", "OUT_OF_RANGE", "page_size can't be negative")),
    };
    let mut rest = items.into_iter().filter(|(key, _)| key.as_str() > token).peekable();
    let (mut page, mut last) = (Vec::new(), String::new());
    while page.len() < size {
        let Some((key, item)) = rest.next() else { break };
        page.push(item);
        last = key;
    }
    let more = rest.peek().is_some();
    Ok((page, if more { last } else { String::new() }))
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    view::encode(value)
}

#[cfg(test)]
mod tests;
