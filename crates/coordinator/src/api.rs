//! The gRPC API. Every replica serves it: it reads and writes the metadata store, never the leader's memory.

mod checks;
mod jobs;
mod windows;

use tonic::service::Routes;
use tonic::{Code, Status};
use windrow_ports::MetaError;
use windrow_protocol::state::{JobRecord, keys};
use windrow_protocol::{JobName, Timestamp};
use windrow_wire::v1;
use windrow_wire::v1::job_service_server::JobServiceServer;
use windrow_wire::v1::window_service_server::WindowServiceServer;
use windrow_wire::v1::worker_service_server::WorkerServiceServer;

use crate::view::{Versioned, View};
use crate::{Parts, view};

/// Largest page of a list, and the size of one when none is asked for.
const MAX_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;

/// All services of the coordinator.
pub fn services(parts: Parts) -> Routes {
    let api = Api { parts };
    Routes::new(JobServiceServer::new(api.clone()))
        .add_service(WindowServiceServer::new(api.clone()))
        .add_service(WorkerServiceServer::new(api))
}

/// One replica's view of the metadata store.
#[derive(Debug, Clone)]
struct Api {
    parts: Parts,
}

impl Api {
    fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// The stored job. NOT_FOUND if there is none.
    async fn job(&self, name: &JobName) -> Result<Versioned<JobRecord>, Status> {
        let item = self.parts.meta.get(&keys::job(name)).await.map_err(meta)?;
        let Some(item) = item else {
            return Err(Status::not_found(format!(
                "job {name} does not exist; `windrow get jobs` lists those that do"
            )));
        };
        let value = serde_json::from_slice(&item.value)
            .map_err(|error| Status::data_loss(format!("the record of job {name} can't be read: {error}")))?;
        Ok(Versioned { value, revision: item.mod_revision })
    }

    /// Everything of one job: its cursors stay out, since only the leader needs them.
    async fn job_view(&self, name: &JobName) -> Result<View, Status> {
        let mut listing = self.parts.meta.list(&keys::batches(name)).await.map_err(meta)?;
        for key in [keys::progress(name), keys::problem(name)] {
            listing.items.extend(self.parts.meta.get(&key).await.map_err(meta)?);
        }
        Ok(View::new(&listing))
    }

    async fn message(&self, job: &Versioned<JobRecord>) -> Result<v1::Job, Status> {
        Ok(jobs::message(job, &self.job_view(&job.value.name).await?))
    }

    async fn response(&self, name: &JobName) -> Result<v1::Job, Status> {
        self.message(&self.job(name).await?).await
    }
}

/// `jobs/{job}`.
fn job_name(name: &str) -> Result<JobName, Status> {
    let short = name
        .strip_prefix("jobs/")
        .ok_or_else(|| Status::invalid_argument(format!("name: {name:?} is not of the form jobs/NAME")))?;
    JobName::new(short).map_err(|error| Status::invalid_argument(format!("name: {error}")))
}

/// What a metadata error means to a client.
fn meta(error: MetaError) -> Status {
    let code = match error {
        MetaError::Unavailable(_) => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// A page of items by their keys; the token is the last key of the page before.
fn page<T>(items: Vec<(String, T)>, size: i32, token: &str) -> (Vec<T>, String) {
    let size = if size <= 0 { DEFAULT_PAGE } else { (size as usize).min(MAX_PAGE) };
    let mut rest = items.into_iter().filter(|(key, _)| key.as_str() > token).peekable();
    let (mut page, mut last) = (Vec::new(), String::new());
    while page.len() < size {
        let Some((key, item)) = rest.next() else { break };
        page.push(item);
        last = key;
    }
    let more = rest.peek().is_some();
    (page, if more { last } else { String::new() })
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    view::encode(value)
}

#[cfg(test)]
mod tests;
