//! Plain access: listing, reading, staging, deleting.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path as LocalPath;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use windrow_protocol::marker::FileEntry;

use crate::StoreError;

/// Bytes read from disk at a time while staging.
const READ_BYTES: usize = 1024 * 1024;

/// Deletes and heads in flight at a time.
pub(crate) const CONCURRENCY: usize = 8;

/// An object store, at one root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    url: Arc<str>,
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) moves: Moves,
}

/// How a staged file gets to its final path.
#[derive(Debug, Clone)]
pub(crate) enum Moves {
    /// Copied by this client, looked at, then deleted.
    Copy(Arc<dyn ObjectStore>),
    /// In one step, as folders can: two links to one file would be left side by side by a second copy.
    Rename,
}

/// What a listing shows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// From the root.
    pub path: String,
    pub bytes: u64,
}

impl Store {
    /// A store over an implementation of `object_store`'s trait, for embedding and tests. `url` is for people.
    pub fn new(url: &str, inner: Arc<dyn ObjectStore>) -> Self {
        let moves = Moves::Copy(inner.clone());
        Self::moving(url, inner, moves)
    }

    pub(crate) fn moving(url: &str, inner: Arc<dyn ObjectStore>, moves: Moves) -> Self {
        Self { url: url.into(), inner, moves }
    }

    /// The address it was opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All objects under a folder, in the order of paths.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let listed = self.inner.list(Some(&Path::from(folder)));
        let mut objects: Vec<Object> = listed
            .map_ok(|meta| Object { path: meta.location.to_string(), bytes: meta.size })
            .try_collect()
            .await
            .map_err(StoreError::from)?;
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// The names directly under a folder (one level), in order.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.inner.list_with_delimiter(Some(&Path::from(folder))).await?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Size of an object; `None` if there is none.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&Path::from(path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A whole object in memory: for markers and small files.
    pub async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        Ok(self.inner.get(&Path::from(path)).await?.bytes().await?)
    }

    /// Copies an object to a local file, streaming. Blocks on disk.
    pub async fn download(&self, path: &str, to: &LocalPath) -> Result<(), StoreError> {
        self.copy_out(path, to).await.map(drop)
    }

    /// Copies a published file to a local one, streaming; `Broken` if it is not what its entry says. Blocks on disk.
    pub async fn fetch(&self, file: &FileEntry, to: &LocalPath) -> Result<(), StoreError> {
        if self.copy_out(&file.path, to).await? != file.sha256 {
            return Err(StoreError::Broken(format!("{}: its checksum is not its marker's", file.path)));
        }
        Ok(())
    }

    /// Copies an object to a local file; the SHA-256 of what it held.
    async fn copy_out(&self, path: &str, to: &LocalPath) -> Result<String, StoreError> {
        let mut stream = self.inner.get(&Path::from(path)).await?.into_stream();
        let local = |error: std::io::Error| StoreError::Local(format!("{}: {error}", to.display()));
        let (mut file, mut hash) = (File::create(to).map_err(local)?, Sha256::new());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hash.update(&chunk);
            file.write_all(&chunk).map_err(local)?;
        }
        Ok(hex(hash))
    }

    /// SHA-256 of an object, lower-case hex, streaming.
    pub async fn sha256(&self, path: &str) -> Result<String, StoreError> {
        let mut stream = self.inner.get(&Path::from(path)).await?.into_stream();
        let mut hash = Sha256::new();
        while let Some(chunk) = stream.next().await {
            hash.update(&chunk?);
        }
        Ok(hex(hash))
    }

    /// Uploads a local file to `staged`, to be published at `path`. Streams; large files go up in parts. Blocks on disk.
    pub async fn stage(&self, local: &LocalPath, staged: &str, path: &str, rows: u64) -> Result<FileEntry, StoreError> {
        let failed = |error: std::io::Error| StoreError::Unavailable(format!("{staged}: {error}"));
        let unreadable = |error: std::io::Error| StoreError::Local(format!("{}: {error}", local.display()));
        let mut file = File::open(local).map_err(unreadable)?;
        let mut upload = BufWriter::new(self.inner.clone(), Path::from(staged));
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0u8; READ_BYTES]);
        loop {
            let n = file.read(&mut buffer).map_err(unreadable)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            bytes += n as u64;
            AsyncWriteExt::write_all(&mut upload, &buffer[..n]).await.map_err(failed)?;
        }
        upload.shutdown().await.map_err(failed)?;
        Ok(FileEntry { staged: staged.to_owned(), path: path.to_owned(), bytes, rows, sha256: hex(hash) })
    }

    /// Copies a published file to `staged`, to be published at `path` as well. `None` if it is not what its entry says.
    pub async fn stage_copy(
        &self,
        file: &FileEntry,
        staged: &str,
        path: &str,
    ) -> Result<Option<FileEntry>, StoreError> {
        let client = match &self.moves {
            Moves::Copy(client) => client,
            Moves::Rename => &self.inner,
        };
        client.copy(&Path::from(file.path.as_str()), &Path::from(staged)).await?;
        if self.sha256(staged).await? != file.sha256 {
            return Ok(None);
        }
        Ok(Some(FileEntry { staged: staged.to_owned(), path: path.to_owned(), ..file.clone() }))
    }

    /// Deletes objects; those that are gone already are fine.
    pub async fn delete(&self, paths: Vec<String>) -> Result<(), StoreError> {
        futures::stream::iter(paths.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |path| async move {
                match self.inner.delete(&Path::from(path)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await
    }

    /// Deletes everything under a folder: an attempt that lost.
    pub async fn delete_folder(&self, folder: &str) -> Result<(), StoreError> {
        let paths = self.list(folder).await?.into_iter().map(|object| object.path).collect();
        self.delete(paths).await
    }
}

fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
