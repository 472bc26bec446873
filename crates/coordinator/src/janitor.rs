//! The janitor: removes what attempts have staged and nobody will publish. It never removes what the newest marker of a
//! batch names: that it publishes.
//!
//! A staged file is one of four things: of an attempt that still runs, of one that died or lost the race, named by a
//! marker that nobody has published whole, or named by a marker that a later revision has replaced. An attempt may still
//! run while its batch is in flight, and for as long as a worker may be paused after that. So a folder is looked at only
//! after it was seen for a while by this process's own clock (no clock of a store or a worker is trusted), and left
//! alone while its batch is in flight. An attempt that wakes up later all the same finds another's marker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use windrow_ports::meta::Compare;
use windrow_protocol::JobName;
use windrow_protocol::marker::{Committed, Complete, Marker};
use windrow_protocol::paths::{self, StagedBy};
use windrow_protocol::plan::Part;
use windrow_protocol::state::{JobRecord, keys};

use crate::{Parts, TickError, retention};

/// How the janitor works.
#[derive(Debug, Clone, Copy)]
pub struct JanitorSettings {
    /// Pause between two rounds. Default 10 min.
    pub every: Duration,
    /// How long a folder of an attempt must have been seen before it is removed: longer than any pause of a worker.
    /// Default 1 h.
    pub grace: Duration,
}

impl Default for JanitorSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(600), grace: Duration::from_secs(3_600) }
    }
}

/// What it has seen, since it leads.
#[derive(Debug, Default)]
pub struct Janitor {
    /// Attempts with staged files, and when each was first seen.
    seen: BTreeMap<StagedBy, Duration>,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Attempts whose files were removed.
    pub removed: usize,
    /// Attempts whose marker stands, published to the end.
    pub published: usize,
}

impl Janitor {
    /// Rounds until the end of leadership, which began with this term. What fails is tried again in the next one.
    pub async fn run(&mut self, parts: &Parts, settings: JanitorSettings, term: i64) {
        let leads = Compare::Created(keys::LEADER.to_owned(), term);
        loop {
            parts.clock.sleep(settings.every).await;
            match self.sweep(parts, settings.grace).await {
                Ok(Swept { removed: 0, published: 0 }) => {}
                Ok(Swept { removed, published }) => tracing::info!(removed, published, "staged files cleared up"),
                Err(error) => tracing::warn!(%error, "staged files could not be cleared up now"),
            }
            if let Err(error) = expire(parts, &leads).await {
                tracing::warn!(%error, "windows could not be looked through for old ones now");
            }
        }
    }

    /// One round over all jobs.
    pub async fn sweep(&mut self, parts: &Parts, grace: Duration) -> Result<Swept, TickError> {
        let mut found = BTreeSet::new();
        // Of this cluster's jobs: others may share the store, and only their own metadata says what is in flight.
        for item in parts.meta.list(keys::JOBS).await?.items {
            let Some(Ok(job)) = item.key.strip_prefix(keys::JOBS).map(JobName::new) else { continue };
            let staged = parts.store.list(&paths::staging(&job)).await?;
            found.extend(staged.iter().filter_map(|object| paths::parse_staged(&object.path)));
        }
        let now = parts.clock.elapsed();
        self.seen.retain(|attempt, _| found.contains(attempt));
        for attempt in found {
            self.seen.entry(attempt).or_insert(now);
        }
        let old = self.seen.iter().filter(|(_, since)| now.saturating_sub(**since) >= grace);
        let old: Vec<StagedBy> = old.map(|(attempt, _)| attempt.clone()).collect();
        let mut swept = Swept::default();
        for attempt in old {
            match clear(parts, &attempt).await {
                Ok(None) => continue,
                Ok(Some(Cleared::Published)) => swept.published += 1,
                Ok(Some(Cleared::Removed)) => swept.removed += 1,
                // The others are cleared all the same.
                Err(error) => {
                    let StagedBy { job, window, part, .. } = &attempt;
                    tracing::warn!(%job, %window, %part, %error, "an attempt's staged files could not be cleared up now");
                    continue;
                }
            }
            self.seen.remove(&attempt);
        }
        Ok(swept)
    }
}

/// Ends the retention of old windows, job by job.
async fn expire(parts: &Parts, leads: &Compare) -> Result<(), TickError> {
    for item in parts.meta.list(keys::JOBS).await?.items {
        // A round may take long, and the job be changed: it is looked at before each record.
        while let Some(item) = parts.meta.get(&item.key).await? {
            // One of a newer version is for its coordinators.
            let Ok(job) = serde_json::from_slice::<JobRecord>(&item.value) else { break };
            match retention::expire(parts, &job, leads).await {
                Ok(0) => break,
                Ok(windows) => tracing::info!(job = %job.name, windows, "windows have gone: their retention has ended"),
                Err(error) => {
                    tracing::warn!(job = %job.name, %error, "old windows could not be removed now");
                    break;
                }
            }
        }
    }
    Ok(())
}

enum Cleared {
    Published,
    Removed,
}

/// Clears up one attempt; `None`: its batch is in flight.
async fn clear(parts: &Parts, staged: &StagedBy) -> Result<Option<Cleared>, TickError> {
    let StagedBy { job, window, part, attempt } = staged;
    if parts.meta.get(&keys::batch(job, *window, *part)).await?.is_some() {
        return Ok(None);
    }
    let is_published = match part {
        Part::Partition(_) => publish::<Marker>(parts, staged).await?,
        Part::Finish => publish::<Complete>(parts, staged).await?,
    };
    if is_published {
        return Ok(Some(Cleared::Published));
    }
    parts.store.delete_folder(&paths::attempt(job, *window, *part, attempt)).await?;
    Ok(Some(Cleared::Removed))
}

/// Publishes the batch's newest marker if it is this attempt's; whether it is.
async fn publish<M: Committed>(parts: &Parts, staged: &StagedBy) -> Result<bool, TickError> {
    let StagedBy { job, window, part, attempt } = staged;
    let marker = parts.store.newest_marker::<M>(job, *window, *part).await?;
    let Some(marker) = marker.filter(|marker| marker.attempt() == attempt) else { return Ok(false) };
    parts.store.publish(&marker).await?;
    Ok(true)
}

#[cfg(test)]
mod tests;
