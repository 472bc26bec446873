//! Whether a store really has put-if-absent: several clients race to create each of many keys, and exactly one may win
//! each. A probe of a round or two does not see a store that is merely usually right.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::{Store, StoreError};

/// Keys that are raced for.
const KEYS: usize = 100;

/// Clients per key.
const RACERS: usize = 4;

impl Store {
    /// Refuses a store on which a commit could succeed twice. Takes a moment; leaves nothing behind.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let folder = format!("_probe/{}", uuid::Uuid::new_v4());
        let result = self.race(&folder).await;
        let cleared = self.delete_folder(&folder).await;
        result.and(cleared)
    }

    /// Whether what was written can be read, listed, copied and deleted at once: publishing and rolling forward look.
    pub async fn probe_visibility(&self) -> Result<(), StoreError> {
        let folder = format!("_probe/{}", uuid::Uuid::new_v4());
        let result = self.look(&folder).await;
        let cleared = self.delete_folder(&folder).await;
        result.and(cleared)
    }

    async fn look(&self, folder: &str) -> Result<(), StoreError> {
        let unusable = |what: &str| StoreError::Unusable(format!("{}: {what}", self.url()));
        let (one, other) = (format!("{folder}/one"), format!("{folder}/other"));
        for content in ["1", "two"] {
            self.inner.put(&Path::from(one.as_str()), content.into()).await?;
            if self.get(&one).await? != content {
                return Err(unusable("an object is read as it was before it was overwritten"));
            }
            self.inner.copy(&Path::from(one.as_str()), &Path::from(other.as_str())).await?;
            if self.size(&other).await? != Some(content.len() as u64) || self.get(&other).await? != content {
                return Err(unusable("a copy over an object is not seen at once"));
            }
        }
        let listed: Vec<String> = self.list(folder).await?.into_iter().map(|object| object.path).collect();
        if listed != [one.clone(), other.clone()] {
            return Err(unusable("a listing does not show what was written"));
        }
        self.delete(vec![one.clone()]).await?;
        if self.size(&one).await?.is_some() || self.list(folder).await?.len() != 1 {
            return Err(unusable("a deleted object is still seen"));
        }
        Ok(())
    }

    async fn race(&self, folder: &str) -> Result<(), StoreError> {
        for key in 0..KEYS {
            let path = Path::from(format!("{folder}/{key}"));
            let racers: FuturesUnordered<_> = (0..RACERS)
                .map(|racer| {
                    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                    self.inner.put_opts(&path, racer.to_string().into(), options)
                })
                .collect();
            let results: Vec<_> = racers.collect().await;
            let winners = results.iter().filter(|result| result.is_ok()).count();
            for error in results.into_iter().filter_map(Result::err) {
                match error {
                    object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {}
                    error => return Err(error.into()),
                }
            }
            if winners == 0 {
                // Each client was told that another was first: the winner's answer was lost, and its client has sent the
                // put again.
                return Err(StoreError::Unavailable(format!("{}: an answer was lost", self.url())));
            }
            if winners > 1 {
                return Err(StoreError::Unusable(format!(
                    "{}: {winners} of {RACERS} clients created the same object; a store without atomic put-if-absent \
                     (If-None-Match) would count batches twice",
                    self.url()
                )));
            }
        }
        Ok(())
    }
}
