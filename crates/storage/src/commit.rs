//! The fence: one conditional put decides whose attempt is the batch's result.

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};
use serde::de::DeserializeOwned;
use windrow_protocol::commit::{Verdict, verdict};
use windrow_protocol::marker::{Committed, Expired, MARKER_VERSION};
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, WindowId, paths};

use crate::{Store, StoreError};

/// A record of a version that this program knows: of a newer one a field that it does not know may matter.
fn decode<T: DeserializeOwned>(path: &str, json: &[u8], version: impl Fn(&T) -> u32) -> Result<T, StoreError> {
    let broken = |what: String| StoreError::Broken(format!("{path}: {what}"));
    let record = serde_json::from_slice(json).map_err(|error| broken(error.to_string()))?;
    match version(&record) {
        newer if newer > MARKER_VERSION => Err(broken(format!("version {newer}; this program knows {MARKER_VERSION}"))),
        _ => Ok(record),
    }
}

impl Store {
    /// The windows of a job that have a folder of markers, in their order: complete, or about to be.
    pub async fn windows(&self, job: &JobName) -> Result<Vec<WindowId>, StoreError> {
        let names = self.folders(&paths::commits(job)).await?;
        let mut windows: Vec<WindowId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        windows.sort();
        Ok(windows)
    }

    /// The marker at a path; `None` if there is none.
    pub async fn read_marker<M: Committed>(&self, path: &str) -> Result<Option<M>, StoreError> {
        let bytes = match self.get(path).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        decode(path, &bytes, M::version).map(Some)
    }

    /// The newest marker of a part of a window; `None` if it has none (any more).
    pub async fn newest_marker<M: Committed>(
        &self,
        job: &JobName,
        window: WindowId,
        part: Part,
    ) -> Result<Option<M>, StoreError> {
        let listed = self.list(&paths::window_commits(job, window)).await?;
        let newest = paths::newest(listed.iter().map(|object| object.path.as_str()));
        match newest.get(&part) {
            Some(revision) => self.read_marker(&paths::marker(job, window, part, *revision)).await,
            None => Ok(None),
        }
    }

    /// What is known of a job's windows that are gone, and the number of its record; `None` while all are kept.
    pub async fn expired(&self, job: &JobName) -> Result<Option<(u64, Expired)>, StoreError> {
        loop {
            let listed = self.list(&paths::expired_folder(job)).await?;
            let Some(newest) = listed.iter().filter_map(|object| paths::parse_expired(&object.path)).max() else {
                return Ok(None);
            };
            let path = paths::expired(job, newest);
            match self.get(&path).await {
                Ok(bytes) => return Ok(Some((newest, decode(&path, &bytes, |record: &Expired| record.version)?))),
                // Another one has taken its place meanwhile.
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the record of this number, unless there is another one or a newer one: whether it stands. Older ones go.
    pub async fn expire(&self, job: &JobName, number: u64, expired: &Expired) -> Result<bool, StoreError> {
        let json = serde_json::to_vec_pretty(expired).map_err(|error| StoreError::Broken(error.to_string()))?;
        let path = paths::expired(job, number);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.inner.put_opts(&Path::from(path.as_str()), json.clone().into(), options).await;
        // Whatever the put answers, only what is read back counts.
        match self.get(&path).await {
            Ok(stands) if stands == json => {}
            Ok(_) => return Ok(false),
            Err(StoreError::NotFound(_)) => {
                let cause = put.err().map_or("it is not there after its put".to_owned(), |error| error.to_string());
                return Err(StoreError::Unavailable(format!("{path}: {cause}")));
            }
            Err(error) => return Err(error),
        }
        let listed = self.list(&paths::expired_folder(job)).await?;
        let numbered = listed.into_iter().filter_map(|object| Some((paths::parse_expired(&object.path)?, object.path)));
        let numbered: Vec<(u64, String)> = numbered.collect();
        // This number was given before, and its record has gone since: who has slept so long decides nothing.
        if numbered.iter().any(|(other, _)| *other > number) {
            self.delete(vec![path]).await?;
            return Ok(false);
        }
        let older = numbered.into_iter().filter(|(other, _)| *other < number);
        self.delete(older.map(|(_, path)| path).collect()).await?;
        Ok(true)
    }

    /// Puts a marker if there is none, and says whose stands. Never `Open`.
    ///
    /// Whatever the put answers, only what is read back counts: an error may hide a success (the reply was lost), and
    /// "exists" may be this attempt's own put, sent again by a retry below.
    pub async fn commit<M: Committed>(&self, path: &str, marker: &M) -> Result<(Verdict, M), StoreError> {
        let json = serde_json::to_vec_pretty(marker).map_err(|error| StoreError::Broken(error.to_string()))?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.inner.put_opts(&Path::from(path), json.into(), options).await;
        let found = self.read_marker::<M>(path).await?;
        match (verdict(marker.attempt(), found.as_ref().map(M::attempt)), found) {
            (Verdict::Open, _) | (_, None) => {
                let cause = put.err().map_or("the marker is not there after its put".to_owned(), |e| e.to_string());
                Err(StoreError::Unavailable(format!("{path}: {cause}")))
            }
            (verdict, Some(found)) => Ok((verdict, found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::S3Settings;

    #[tokio::test]
    async fn windows_are_listed_in_order_while_they_have_markers() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let (store, job) = (Store::open(&url, &S3Settings::default()).unwrap(), JobName::new("j").unwrap());
        let window = |name: &str| name.parse::<WindowId>().unwrap();
        let [first, second] = ["20260101T000000Z", "20260101T010000Z"].map(window);
        let marker = |window| paths::marker(&job, window, Part::Finish, windrow_protocol::Revision(0));
        for path in [marker(second), marker(first), paths::expired(&job, 1)] {
            store.inner.put(&Path::from(path), "{}".into()).await.unwrap();
        }
        assert_eq!(store.windows(&job).await.unwrap(), [first, second]);
        store.delete(vec![marker(first)]).await.unwrap();
        assert_eq!(store.windows(&job).await.unwrap(), [second], "no empty folder stays");
    }
}
