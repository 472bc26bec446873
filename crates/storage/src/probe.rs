//! Whether a store really has put-if-absent: several clients race to create each of many keys, and exactly one may win
//! each. A probe of a round or two does not see a store that is merely usually right.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};

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
            if winners != 1 {
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
