//! What all roles of a cluster agree on before they work.

use std::time::Duration;

use windrow_protocol::state::keys;

use crate::meta::{Compare, Op, Txn};
use crate::{Clock, MetaStore};

/// How long until a metadata store that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// One cluster has one store: a batch could be committed in each of two, and who plans from the markers of one that is not
/// written to would plan as if nothing had been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store given here is {mine}, but the cluster's is {cluster}; give it the same, or a metadata prefix of its own"
)]
pub struct OtherStore {
    pub mine: String,
    pub cluster: String,
}

/// Notes a role's store as the cluster's, or finds that it is. Waits for the metadata store.
pub async fn agree_on_store(mine: &str, meta: &dyn MetaStore, clock: &dyn Clock) -> Result<(), OtherStore> {
    loop {
        let claim = Txn {
            when: vec![Compare::Absent(keys::STORE.to_owned())],
            then: vec![Op::put(keys::STORE, serde_json::to_vec(mine).unwrap_or_default())],
        };
        let seen = match meta.txn(claim).await {
            Ok(_) => meta.get(keys::STORE).await,
            Err(error) => Err(error),
        };
        match seen {
            Ok(Some(item)) => {
                let cluster: String = serde_json::from_slice(&item.value).unwrap_or_default();
                return if cluster == mine { Ok(()) } else { Err(OtherStore { mine: mine.to_owned(), cluster }) };
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the cluster's store can't be read yet; trying again"),
        }
        clock.sleep(PAUSE).await;
    }
}
