//! Publishing: from a marker's staged files to the paths that readers look at. Whoever finds a marker may do it, any
//! number may do it at once, and any of them may die at any step.

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use windrow_protocol::commit::{FileSeen, FileStep, publish_step};
use windrow_protocol::marker::{Committed, FileEntry};

use crate::store::{CONCURRENCY, Moves};
use crate::{Store, StoreError};

/// Looks at one file before giving up: a publisher beside this one may move things between two looks.
const LOOKS: u32 = 5;

impl Store {
    /// Publishes all files of a marker that stands. Idempotent.
    pub async fn publish<M: Committed>(&self, marker: &M) -> Result<(), StoreError> {
        futures::stream::iter(marker.files().iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |entry| self.publish_file(entry))
            .await
    }

    async fn publish_file(&self, entry: &FileEntry) -> Result<(), StoreError> {
        let mut last = String::new();
        for _ in 0..LOOKS {
            // Staged first: who deletes it has published before.
            let staged_bytes = self.size(&entry.staged).await?;
            let final_bytes = self.size(&entry.path).await?;
            match publish_step(entry, FileSeen { staged_bytes, final_bytes }) {
                FileStep::Done => return Ok(()),
                FileStep::Broken(what) => last = what,
                FileStep::Copy => {
                    let (staged, path) = (Path::from(entry.staged.as_str()), Path::from(entry.path.as_str()));
                    let moved = match &self.moves {
                        Moves::Copy(client) => client.copy(&staged, &path).await,
                        Moves::Rename => self.inner.rename(&staged, &path).await,
                    };
                    match moved {
                        Ok(()) => {}
                        // Another publisher has finished meanwhile: look again.
                        Err(object_store::Error::NotFound { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                    if self.size(&entry.path).await? == Some(entry.bytes) {
                        self.delete(vec![entry.staged.clone()]).await?;
                        return Ok(());
                    }
                    last = format!("{} has another size after it was copied", entry.path);
                }
            }
        }
        Err(StoreError::Broken(last))
    }

    /// Paths of a marker's files that are not published whole, with what is wrong.
    pub async fn unpublished<M: Committed>(&self, marker: &M) -> Result<Vec<String>, StoreError> {
        let looks = marker.files().iter().map(|entry| async move {
            let bytes = self.size(&entry.path).await?;
            Ok::<_, StoreError>((bytes != Some(entry.bytes)).then(|| entry.path.clone()))
        });
        let found: Vec<Option<String>> = futures::stream::iter(looks).buffered(CONCURRENCY).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests;
