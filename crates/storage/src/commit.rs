//! The fence: one conditional put decides whose attempt is the batch's result.

use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions};
use windrow_protocol::commit::{Verdict, verdict};
use windrow_protocol::marker::{Committed, MARKER_VERSION};

use crate::{Store, StoreError};

impl Store {
    /// The marker at a path; `None` if there is none.
    pub async fn read_marker<M: Committed>(&self, path: &str) -> Result<Option<M>, StoreError> {
        let bytes = match self.get(path).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let broken = |what: String| StoreError::Broken(format!("{path}: {what}"));
        let marker: M = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if marker.version() > MARKER_VERSION {
            return Err(broken(format!("version {}; this program knows {MARKER_VERSION}", marker.version())));
        }
        Ok(Some(marker))
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
