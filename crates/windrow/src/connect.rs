//! Where the real parts are, and reaching them. A part that is down is waited for, with a line that says which and why:
//! a role that ends because its database restarts would only be started again.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use backon::{ExponentialBuilder, Retryable};
use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::{Log, LogError, MetaStore};
use windrow_storage::{S3Settings, Store};
use windrow_wire::v1;
use windrow_worker::Scratch;

/// Longest pause between two tries to reach a part.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The log.
#[derive(Debug, Clone, clap::Args)]
pub struct KafkaArgs {
    /// Kafka bootstrap servers, `host:port` with commas.
    #[arg(long = "kafka", env = "WINDROW_KAFKA", default_value = "127.0.0.1:9092")]
    brokers: String,
    /// More librdkafka settings, e.g. `security.protocol=sasl_plaintext`. May be repeated.
    #[arg(long = "kafka-config", value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The log, for a command that may ask it itself.
#[derive(Debug, Clone, clap::Args)]
pub struct KafkaFrom {
    /// Kafka bootstrap servers, to ask the log itself instead of the coordinator.
    #[arg(long = "kafka", env = "WINDROW_KAFKA")]
    brokers: Option<String>,
    /// More librdkafka settings, e.g. `security.protocol=sasl_plaintext`. May be repeated.
    #[arg(long = "kafka-config", value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
}

impl KafkaFrom {
    /// Connects if an address was given; somebody waits for the answer, so it tries once.
    pub async fn reach(&self, client_id: &str) -> Result<Option<Arc<dyn Log>>> {
        let Some(brokers) = &self.brokers else { return Ok(None) };
        let settings = settings(brokers, &self.config, client_id);
        Ok(Some(Arc::new(KafkaLog::connect(settings).await?)))
    }
}

fn settings(brokers: &str, config: &[(String, String)], client_id: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(brokers);
    settings.client_id = client_id.to_owned();
    settings.more = config.to_vec();
    settings
}

/// The metadata store.
#[derive(Debug, Clone, clap::Args)]
pub struct EtcdArgs {
    /// URLs of etcd's members, with commas.
    #[arg(long, env = "WINDROW_ETCD", default_value = "http://127.0.0.1:2379", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Put before every key, so that several windrow clusters can share one etcd.
    #[arg(long, env = "WINDROW_ETCD_PREFIX", default_value = "")]
    etcd_prefix: String,
}

/// The object store.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArgs {
    /// Root of all output: `s3://bucket/prefix` or `file:///folder`.
    #[arg(long, env = "WINDROW_STORE")]
    store: String,
    /// URL of an S3 service that is not AWS. Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, env = "WINDROW_S3_ENDPOINT")]
    s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    s3_region: String,
}

/// Tries until it works.
async fn patiently<T, E: Display, F: Future<Output = Result<T, E>>>(
    part: &str,
    connect: impl FnMut() -> F,
    hopeless: impl FnMut(&E) -> bool,
) -> Result<T, E> {
    let mut hopeless = hopeless;
    let pauses = ExponentialBuilder::default().with_max_delay(MAX_PAUSE).without_max_times();
    connect
        .retry(pauses)
        .when(move |error| !hopeless(error))
        .notify(|error, pause| {
            tracing::warn!("{part} is not reachable, trying again in {:.0} s: {error}", pause.as_secs_f64());
        })
        .await
}

impl KafkaArgs {
    fn settings(&self, client_id: &str) -> KafkaSettings {
        settings(&self.brokers, &self.config, client_id)
    }

    /// Kafka, whether it answers yet or not.
    pub fn open(&self, client_id: &str) -> Result<Arc<dyn Log>> {
        Ok(Arc::new(KafkaLog::new(self.settings(client_id))?))
    }

    /// Waits until Kafka answers.
    pub async fn connect(&self, client_id: &str) -> Result<Arc<dyn Log>> {
        let settings = self.settings(client_id);
        let connect = || KafkaLog::connect(settings.clone());
        let log = patiently("kafka", connect, |error| matches!(error, LogError::Refused(_))).await?;
        Ok(Arc::new(log))
    }
}

impl EtcdArgs {
    pub async fn connect(&self) -> Result<Arc<dyn MetaStore>> {
        let settings = EtcdSettings { prefix: self.etcd_prefix.clone(), ..EtcdSettings::new(self.etcd.clone()) };
        Ok(Arc::new(patiently("etcd", || EtcdStore::connect(&settings), |_| false).await?))
    }
}

impl StoreArgs {
    /// What clients are told: the address, and never what opens it.
    pub fn told(&self) -> v1::ObjectStore {
        let s3 = self.store.starts_with("s3://");
        let endpoint = self.s3_endpoint.as_deref().filter(|_| s3).map(without_user).unwrap_or_default();
        v1::ObjectStore {
            url: without_user(&self.store),
            allow_http: endpoint.starts_with("http://"),
            s3_endpoint: endpoint,
            s3_region: if s3 { self.s3_region.clone() } else { String::new() },
        }
    }

    pub fn open(&self) -> Result<Store> {
        Ok(Store::open(&self.store, &s3(self.s3_endpoint.clone(), Some(self.s3_region.clone())))?)
    }

    /// Opens it and waits until it answers; refuses one on which a commit could succeed twice.
    pub async fn connect(&self) -> Result<Store> {
        let store = self.open()?;
        let unusable = |error: &windrow_storage::StoreError| matches!(error, windrow_storage::StoreError::Unusable(_));
        patiently("object store", || store.probe(), unusable).await?;
        Ok(store)
    }
}

/// How an S3 service is reached; keys come from the environment. Plain HTTP only where its address says so.
pub fn s3(endpoint: Option<String>, region: Option<String>) -> S3Settings {
    let allow_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    S3Settings { allow_http, endpoint, region, ..S3Settings::default() }
}

/// A URL without a user and password in it.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// A folder for files of running batches, of this process's own under the given one.
pub fn scratch(folder: Option<PathBuf>) -> Result<Scratch> {
    let root = folder.unwrap_or_else(|| std::env::temp_dir().join("windrow-scratch"));
    Scratch::open(&root).with_context(|| format!("scratch folder {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_no_password() {
        let args = StoreArgs {
            store: "s3://bucket/a@b".into(),
            s3_endpoint: Some("http://key:secret@10.0.0.1:9000/".into()),
            s3_region: "eu-1".into(),
        };
        let told = args.told();
        assert_eq!((told.url.as_str(), told.s3_endpoint.as_str()), ("s3://bucket/a@b", "http://10.0.0.1:9000/"));
        assert!(told.allow_http);
    }
}
