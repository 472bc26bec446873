//! The object store as a node sees it, over a way that has faults; and the one below, which shows auditors what changes.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::faults::Fault;
use crate::link::{Call, Link};

/// A change of the store.
#[derive(Debug)]
pub enum Change<'a> {
    Put(&'a str, &'a Bytes),
    Copied { from: &'a str, to: &'a str },
    Deleted(&'a str),
}

/// A store in memory that tells every change in the moment in which it happens.
pub struct SimStore {
    inner: InMemory,
    on_change: Box<dyn Fn(Change<'_>) + Send + Sync>,
}

impl SimStore {
    pub fn new(on_change: Box<dyn Fn(Change<'_>) + Send + Sync>) -> Self {
        Self { inner: InMemory::new(), on_change }
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload.clone());
        let put = self.inner.put_opts(location, payload, opts).await?;
        (self.on_change)(Change::Put(location.as_ref(), &bytes));
        Ok(put)
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unavailable(&format!("{location}: the simulation's files are small")))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Nodes delete through `FaultyStore`, one by one.
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        (self.on_change)(Change::Copied { from: from.as_ref(), to: to.as_ref() });
        Ok(())
    }
}

impl SimStore {
    async fn delete_one(&self, path: &Path) -> Result<()> {
        self.inner.delete(path).await?;
        (self.on_change)(Change::Deleted(path.as_ref()));
        Ok(())
    }
}

/// A store behind a [`Link`].
#[derive(Debug, Clone)]
pub struct FaultyStore {
    pub inner: Arc<SimStore>,
    pub link: Link,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn unavailable(what: &str) -> Error {
    Error::Generic { store: "sim", source: what.to_owned().into() }
}

/// A path as the trace names it: the folders of probes are named at random.
fn named(path: &str) -> (&str, bool) {
    if path.starts_with("_probe/") { ("_probe", true) } else { (path, false) }
}

impl FaultyStore {
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        path: &str,
        is_retried: bool,
        run: impl Fn(Arc<SimStore>) -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        let (key, is_exempt) = named(path);
        if !is_exempt {
            self.link.acts_on_lease();
        }
        let call = Call { is_retried, is_exempt, ..Call::new(name, key) };
        self.link.call(call, || run(self.inner.clone()), unavailable).await
    }

    async fn listed(&self, prefix: Option<Path>) -> Result<Vec<ObjectMeta>> {
        let path = prefix.clone().unwrap_or_default();
        let run = |store: Arc<SimStore>| {
            let prefix = prefix.clone();
            async move { store.list(prefix.as_ref()).try_collect().await }.boxed()
        };
        self.call("list", path.as_ref(), true, run).await
    }

    async fn delete_one(&self, path: Path) -> Result<Path> {
        let run = |store: Arc<SimStore>| {
            let path = path.clone();
            async move {
                // As S3: deleting what is not there is fine.
                match store.delete_one(&path).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(path),
                    Err(error) => Err(error),
                }
            }
            .boxed()
        };
        self.call("delete", path.as_ref(), true, run).await
    }

    /// A conditional put may be refused because of another that is under way; then nothing is done.
    fn conflict(&self, path: &Path) -> Option<Error> {
        let struck = !named(path.as_ref()).1 && self.link.world.strikes(Fault::Conflict);
        let source = "409 ConditionalRequestConflict".to_owned().into();
        struck.then(|| Error::AlreadyExists { path: path.to_string(), source })
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let is_create = matches!(opts.mode, PutMode::Create);
        if is_create && let Some(conflict) = self.conflict(location) {
            return Err(conflict);
        }
        let run = |store: Arc<SimStore>| {
            let (location, payload, opts) = (location.clone(), payload.clone(), opts.clone());
            async move { store.put_opts(&location, payload, opts).await }.boxed()
        };
        let name = if is_create { "create" } else { "put" };
        match self.call(name, location.as_ref(), true, run).await {
            Err(Error::AlreadyExists { path, source })
                if !named(&path).1 && self.link.world.strikes(Fault::Precondition) =>
            {
                Err(Error::Precondition { path, source })
            }
            result => result,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let name = if options.head { "head" } else { "get" };
        let run = |store: Arc<SimStore>| {
            let (location, options) = (location.clone(), options.clone());
            async move { store.get_opts(&location, options).await }.boxed()
        };
        self.call(name, location.as_ref(), true, run).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |path| {
                let store = store.clone();
                async move { store.delete_one(path?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move { store.listed(prefix).await.map(|listed| futures::stream::iter(listed).map(Ok)) };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (path, prefix) = (prefix.cloned().unwrap_or_default(), prefix.cloned());
        let run = |store: Arc<SimStore>| {
            let prefix = prefix.clone();
            async move { store.list_with_delimiter(prefix.as_ref()).await }.boxed()
        };
        self.call("folders", path.as_ref(), true, run).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let run = |store: Arc<SimStore>| {
            let (from, to, options) = (from.clone(), to.clone(), options.clone());
            async move { store.copy_opts(&from, &to, options).await }.boxed()
        };
        self.call("copy", to.as_ref(), true, run).await
    }
}
