//! From an address to a store.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore};

use crate::store::Moves;
use crate::{Store, StoreError};

/// How long one copy of a file may take within the store before it is asked for again. Answers come at the end, so it is
/// far more than the client's 30 s for all else: several files of half a gigabyte may be copied at once.
const COPY_TIMEOUT: &str = "2m";

/// How to reach an S3 service. Everything that is absent is taken from the AWS environment variables or instance role.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// Base URL of the service, e.g. `http://127.0.0.1:9000`; AWS by region if absent.
    pub endpoint: Option<String>,
    /// Region; `us-east-1` if absent and not in the environment.
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Allow plain HTTP. Default no.
    pub allow_http: bool,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = self.secret_access_key.as_ref().map(|_| "redacted");
        f.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &secret)
            .field("allow_http", &self.allow_http)
            .finish()
    }
}

impl Store {
    /// Opens `file:///folder` (made if it is not there) or `s3://bucket/prefix`.
    pub fn open(url: &str, s3: &S3Settings) -> Result<Self, StoreError> {
        let unusable = |what: &dyn std::fmt::Display| StoreError::Unusable(format!("{url}: {what}"));
        if let Some(folder) = url.strip_prefix("file://") {
            let folder = PathBuf::from(folder);
            std::fs::create_dir_all(&folder).map_err(|error| unusable(&error))?;
            let local = LocalFileSystem::new_with_prefix(&folder).map_err(|error| unusable(&error))?;
            // As in a bucket: a folder is there while something is in it.
            let local = local.with_automatic_cleanup(true);
            return Ok(Self::moving(url, Arc::new(local), Moves::Rename));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(unusable(&"expected file:///folder or s3://bucket/prefix"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_allow_http(s3.allow_http)
            // The marker is a put-if-absent.
            .with_conditional_put(S3ConditionalPut::ETagMatch);
        if let Some(endpoint) = &s3.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let (Some(id), Some(secret)) = (&s3.access_key_id, &s3.secret_access_key) {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        let prefix = prefix.trim_matches('/');
        let client = |builder: AmazonS3Builder| -> Result<Arc<dyn ObjectStore>, StoreError> {
            let bucket = builder.build().map_err(|error| unusable(&error))?;
            Ok(if prefix.is_empty() { Arc::new(bucket) } else { Arc::new(PrefixStore::new(bucket, prefix)) })
        };
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        let moves = Moves::Copy(client(builder.clone().with_config(timeout, COPY_TIMEOUT))?);
        Ok(Self::moving(url, client(builder)?, moves))
    }
}
