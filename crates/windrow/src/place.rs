//! Where a job's output lies: where the coordinator says, unless the command line says otherwise. Credentials always come
//! from this process's environment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use windrow_embedded::Database;
use windrow_protocol::state::keys;
use windrow_storage::{S3Settings, Store};

use crate::client::{Client, ServerArgs, said};
use crate::connect::s3;

/// The store, with a coordinator to ask for its address.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreFrom {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Root of all output, if not what the coordinator says: `s3://bucket/prefix` or `file:///folder`.
    #[arg(long, env = "WINDROW_STORE")]
    store: Option<String>,
    /// URL of an S3 service that is not AWS, if not what the coordinator says. Keys come from AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY.
    #[arg(long, env = "WINDROW_S3_ENDPOINT")]
    s3_endpoint: Option<String>,
    /// Region of the bucket, if not what the coordinator says.
    #[arg(long, env = "AWS_REGION")]
    s3_region: Option<String>,
}

impl StoreFrom {
    /// Opens the store; asks a coordinator only if no address was given.
    pub async fn open(&self, client: Option<&Client>) -> Result<Store> {
        let (mut url, mut endpoint, mut region) =
            (self.store.clone(), self.s3_endpoint.clone(), self.s3_region.clone());
        if url.is_none() {
            let cluster = match client {
                Some(client) => client.cluster().await,
                None => self.server.connect().await?.cluster().await,
            };
            let told = cluster.map_err(said)?.store.unwrap_or_default();
            let filled = |text: String| Some(text).filter(|text| !text.is_empty());
            url = filled(told.url);
            endpoint = endpoint.or(filled(told.s3_endpoint));
            region = region.or(filled(told.s3_region));
        }
        let url = url.context("the coordinator does not say where the store is: give --store")?;
        existing(&url)?;
        Ok(Store::open(&url, &s3(endpoint, region))?)
    }
}

/// Opening a folder would make it; a reader wants the one that is there.
fn existing(url: &str) -> Result<()> {
    match url.strip_prefix("file://") {
        Some(folder) => {
            ensure!(Path::new(folder).is_dir(), "the store {url} is not on this machine: give --store");
            Ok(())
        }
        None => Ok(()),
    }
}

/// The store in the folder of a `windrow dev` or `windrow demo`, running or not.
pub fn store_in(data_dir: &Path) -> Result<Store> {
    let folder = std::path::absolute(data_dir.join("store")).context("--data-dir")?;
    ensure!(folder.is_dir(), "{} holds no windrow data: there is no folder `store` in it", data_dir.display());
    Ok(Store::open(&format!("file://{}", folder.display()), &S3Settings::default())?)
}

/// The database in the folder of a `windrow dev` that does not run.
pub fn database_in(data_dir: &Path) -> Result<Database> {
    let file: PathBuf = data_dir.join("windrow.redb");
    ensure!(file.is_file(), "{} holds no windrow data: there is no windrow.redb in it", data_dir.display());
    Database::open(&file).map_err(|error| match error {
        windrow_embedded::OpenError::InUse(_) => anyhow::anyhow!(
            "a running windrow has {} open: leave --data-dir out and ask it (--server)",
            data_dir.display()
        ),
        error => error.into(),
    })
}

/// Whether a stopped `windrow dev` knows a job.
pub async fn knows(database: &Database, job: &windrow_protocol::JobName) -> Result<bool> {
    use windrow_ports::MetaStore;
    Ok(database.meta().get(&keys::job(job)).await?.is_some())
}

/// Windows of a job, or runs of them, that a stopped `windrow dev` is still to run again.
pub async fn revisions_pending(database: &Database, job: &windrow_protocol::JobName) -> Result<u64> {
    use windrow_ports::MetaStore;
    let mut listing = database.meta().list(&keys::wishes(job)).await?;
    listing.items.extend(database.meta().list(&keys::batches(job)).await?.items);
    Ok(windrow_coordinator::View::new(&listing).revisions_pending(job))
}

/// How many windows a job of a stopped `windrow dev` has completed; `None` if it does not know the job.
pub async fn windows_complete(database: &Database, job: &windrow_protocol::JobName) -> Result<Option<u64>> {
    use windrow_ports::MetaStore;
    let progress = database.meta().get(&keys::progress(job)).await?;
    let progress = progress.map(|item| serde_json::from_slice::<windrow_protocol::state::Progress>(&item.value));
    let progress = progress.transpose()?;
    Ok(progress.map(|progress| progress.windows_complete))
}
