//! Campaigning, and what a leader does over and over: dispatch batches whenever something changes, and look into the log
//! once a tick for each job, or at once again while there is a backlog to cut.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use windrow_ports::MetaError;
use windrow_ports::lease::HeldLease;
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op, Txn};
use windrow_protocol::JobName;
use windrow_protocol::state::{LeaderRecord, keys};

use crate::janitor::Janitor;
use crate::looks::{Looked, Looks};
use crate::mirror::Mirror;
use crate::planner::Write;
use crate::scheduler::Turns;
use crate::view::{Versioned, View, encode};
use crate::{Parts, Settings, TickError, dispatch, finishing};

/// Transactions in flight at a time.
const CONCURRENCY: usize = 4;

/// How long looks at a job may fail until that is the job's problem.
const FAILING: Duration = Duration::from_secs(30);

/// How that problem begins; what differs from look to look comes after it.
const CANT_LOOK: &str = "its topic can't be looked at: ";

/// How long giving up leadership may take at shutdown; then the lease expires.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs until shutdown: campaigns, leads, and campaigns again when leadership is lost.
pub async fn run(parts: Parts, settings: Settings, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = campaign_and_lead(&parts, &settings, &shutdown).await {
            tracing::warn!(%error, "campaigning again");
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = parts.clock.sleep(settings.tick) => {}
        }
    }
}

async fn campaign_and_lead(parts: &Parts, settings: &Settings, shutdown: &CancellationToken) -> Result<(), TickError> {
    let is_vacant = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        vacant = is_vacant(parts) => vacant?,
    };
    if !is_vacant {
        return Ok(());
    }
    // Whoever has asked for the place may have it before he knows: a shutdown does not cut that off at once.
    let patience = async {
        shutdown.cancelled().await;
        parts.clock.sleep(FAREWELL).await;
    };
    let won = tokio::select! {
        biased;
        won = win(parts, settings) => won?,
        () = patience => return Ok(()),
    };
    match won {
        Some((lease, term)) => lead(parts, settings, shutdown, lease, term).await,
        None => Ok(()),
    }
}

/// Whether nobody leads. If somebody does, that is told once it has changed.
async fn is_vacant(parts: &Parts) -> Result<bool, TickError> {
    let Some(leader) = parts.meta.get(keys::LEADER).await? else { return Ok(true) };
    // Until the key goes, or the watch ends for another reason.
    let mut watch = parts.meta.watch(keys::LEADER, leader.mod_revision + 1);
    watch.next().await;
    Ok(false)
}

/// The lease that leadership hangs on, and its term, if it could be won.
async fn win(parts: &Parts, settings: &Settings) -> Result<Option<(HeldLease, i64)>, TickError> {
    let lease = HeldLease::acquire(parts.meta.clone(), parts.clock.clone(), settings.lease_ttl).await?;
    let record = LeaderRecord { id: settings.id.clone() };
    let put = Op::Put { key: keys::LEADER.to_owned(), value: encode(&record).into(), lease: lease.id() };
    let won = parts.meta.txn(Txn { when: vec![Compare::Absent(keys::LEADER.to_owned())], then: vec![put] }).await?;
    if !won.applied {
        lease.revoke().await?;
        return Ok(None);
    }
    Ok(Some((lease, won.revision)))
}

async fn lead(
    parts: &Parts,
    settings: &Settings,
    shutdown: &CancellationToken,
    lease: HeldLease,
    term: i64,
) -> Result<(), TickError> {
    tracing::info!(id = settings.id, "leading");
    let leader = Leader { parts, settings, term };
    let mut janitor = Janitor::default();
    let result = tokio::select! {
        biased;
        () = lease.lost() => Err(TickError::NotLeading),
        () = shutdown.cancelled() => Ok(()),
        result = leader.lead() => result,
        () = janitor.run(parts, settings.janitor, term) => Ok(()),
    };
    // The next leader need not wait for the lease to expire; if this fails, it expires.
    tokio::select! {
        biased;
        _ = lease.revoke() => {}
        () = parts.clock.sleep(FAREWELL) => {}
    }
    result
}

struct Leader<'a> {
    parts: &'a Parts,
    settings: &'a Settings,
    /// Create revision of this leader's key: what all its writes compare.
    term: i64,
}

impl Leader<'_> {
    async fn lead(&self) -> Result<(), TickError> {
        let (mut looks, mut turns) = (Looks::default(), Turns::default());
        loop {
            match self.follow(&mut looks, &mut turns).await {
                Err(TickError::NotLeading) => return Err(TickError::NotLeading),
                Err(error) => tracing::warn!(%error, "looking at everything anew"),
                Ok(()) => {}
            }
            self.parts.clock.sleep(self.settings.tick).await;
        }
    }

    /// Leads by one mirror until that ends.
    async fn follow(&self, looks: &mut Looks, turns: &mut Turns) -> Result<(), TickError> {
        let clock = self.parts.clock.clone();
        let mut mirror = Mirror::load(self.parts.meta.clone(), clock.clone()).await?;
        loop {
            self.dispatch(&mut mirror, turns).await?;
            self.remove_deleted(&mut mirror).await?;
            self.note_unreadable(mirror.view()).await?;
            looks.begin(self.parts, mirror.view(), self.settings.max_in_flight);
            let now = clock.elapsed();
            let pause = looks.next_due(now + self.settings.tick).saturating_sub(now);
            tokio::select! {
                // Changes without end keep no look waiting.
                biased;
                (job, looked) = looks.next() => {
                    let failing = looks.failing(&job, looked.is_err(), clock.elapsed());
                    let has_more = self.take(&job, looked, failing, &mut mirror).await?;
                    let pause = if has_more { Duration::ZERO } else { self.settings.tick };
                    looks.again(job, clock.elapsed() + pause);
                }
                changed = mirror.changed() => changed?,
                () = clock.sleep(pause) => {}
            }
        }
    }

    /// Settles and hands out until nothing is left to do.
    async fn dispatch(&self, mirror: &mut Mirror, turns: &mut Turns) -> Result<(), TickError> {
        let clock = &self.parts.clock;
        let is_settled = self.until_done(mirror, |view| dispatch::settle(view, clock.now())).await?;
        if is_settled {
            self.until_done(mirror, |view| dispatch::assign(view, turns, clock.now())).await?;
        }
        Ok(())
    }

    /// Writes step after step until there is none: true; or until something else has changed, and all was read anew: false.
    async fn until_done(&self, mirror: &mut Mirror, mut step: impl FnMut(&View) -> Write) -> Result<bool, TickError> {
        loop {
            let write = step(mirror.view());
            if write.then.is_empty() {
                return Ok(true);
            }
            match self.write(write).await {
                Ok(Some(revision)) => mirror.reach(revision).await?,
                // The latter: a worker's lease ended a moment ago, and its keys are about to go.
                Ok(None) | Err(TickError::Meta(MetaError::NoLease(_))) => {
                    mirror.reload().await?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes in what came of a look at a job; whether there may be more to cut at once. `failing`: for how long looks at it
    /// have failed.
    async fn take(
        &self,
        name: &JobName,
        looked: Result<Looked, TickError>,
        failing: Duration,
        mirror: &mut Mirror,
    ) -> Result<bool, TickError> {
        match looked {
            Ok(looked) => self.plan(looked, mirror).await,
            Err(TickError::Log(error)) => {
                tracing::warn!(job = %name, %error, "job could not be planned now");
                let noted = mirror.view().problems.get(name).cloned();
                let is_noted = noted.as_ref().is_some_and(|noted| noted.starts_with(CANT_LOOK));
                let job = mirror.view().jobs.get(name).filter(|_| failing >= FAILING && !is_noted);
                if let Some(revision) = job.map(|job| job.revision) {
                    self.note_problem(name, revision, Some(format!("{CANT_LOOK}{error}")), noted).await?;
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes if this replica still leads and nothing of what was seen has changed. The revision of the write, or `None`
    /// if something has changed.
    async fn write(&self, write: Write) -> Result<Option<i64>, TickError> {
        let mut when = write.when;
        when.push(Compare::Created(keys::LEADER.to_owned(), self.term));
        let outcome = self.parts.meta.txn(Txn { when, then: write.then }).await?;
        if outcome.applied {
            return Ok(Some(outcome.revision));
        }
        let leader = self.parts.meta.get(keys::LEADER).await?;
        if leader.is_none_or(|leader| leader.create_revision != self.term) {
            Err(TickError::NotLeading)
        } else {
            Ok(None)
        }
    }

    /// Writes many as few transactions, each under one more condition, and waits until the mirror shows them; whether all were done.
    async fn write_all(&self, writes: Vec<Write>, guard: &Compare, mirror: &mut Mirror) -> Result<bool, TickError> {
        let joined = join(writes).into_iter().map(|mut write| {
            write.when.push(guard.clone());
            self.write(write)
        });
        let done = futures::stream::iter(joined.collect::<Vec<_>>());
        let revisions: Vec<Option<i64>> = done.buffer_unordered(CONCURRENCY).try_collect().await?;
        if revisions.iter().all(Option::is_some) {
            mirror.reach(revisions.into_iter().flatten().max().unwrap_or(0)).await?;
            return Ok(true);
        }
        mirror.reload().await?;
        Ok(false)
    }

    /// Removes the keys of jobs that are being deleted.
    async fn remove_deleted(&self, mirror: &mut Mirror) -> Result<(), TickError> {
        let deleting = mirror.view().jobs.values().filter(|job| job.value.deleting);
        let jobs: Vec<(JobName, i64)> = deleting.map(|job| (job.value.name.clone(), job.revision)).collect();
        for (job, revision) in jobs {
            // What workers have of it first, so that they stop.
            let theirs = mirror.view().assignments.iter().filter(|(_, assignment)| assignment.value.id.job == job);
            let mut then: Vec<Op> =
                theirs.take(MAX_TXN_OPS / 2).map(|(key, _)| Op::Delete { key: key.clone() }).collect();
            if then.len() < MAX_TXN_OPS / 2 {
                then.extend([
                    Op::DeletePrefix { prefix: keys::cursors(&job) },
                    Op::DeletePrefix { prefix: keys::batches(&job) },
                    Op::DeletePrefix { prefix: keys::specs(&job) },
                    Op::DeletePrefix { prefix: keys::wishes(&job) },
                    Op::Delete { key: keys::progress(&job) },
                    Op::Delete { key: keys::problem(&job) },
                    Op::Delete { key: keys::retired(&job) },
                    Op::Delete { key: keys::job(&job) },
                ]);
            }
            // Not a job of the same name that was made meanwhile.
            let when = vec![Compare::Modified(keys::job(&job), revision)];
            match self.write(Write { when, then }).await? {
                Some(revision) => mirror.reach(revision).await?,
                None => mirror.reload().await?,
            }
        }
        Ok(())
    }

    /// Notes what keeps a job from going on, or that nothing does any more.
    async fn note_problem(
        &self,
        job: &JobName,
        revision: i64,
        problem: Option<String>,
        noted: Option<String>,
    ) -> Result<(), TickError> {
        if noted == problem {
            return Ok(());
        }
        let key = keys::problem(job);
        let op = match problem {
            Some(problem) => {
                tracing::warn!(%job, problem, "job can't go on");
                Op::put(key, encode(&problem))
            }
            None => Op::Delete { key },
        };
        let when = vec![Compare::Modified(keys::job(job), revision)];
        self.write(Write { when, then: vec![op] }).await.map(drop)
    }

    /// Notes which jobs can't go on since something of their plans is not understood. A look notes when they can.
    async fn note_unreadable(&self, view: &View) -> Result<(), TickError> {
        for (name, job) in &view.jobs {
            let Some(key) = view.unreadable(name) else { continue };
            let problem = format!(
                "{key} in the metadata store is not understood: a newer windrow wrote it; run its coordinators alone, or \
                 delete the job and apply it anew"
            );
            self.note_problem(name, job.revision, Some(problem), view.problems.get(name).cloned()).await?;
        }
        Ok(())
    }

    /// Writes what a look at a job has found, and plans the last steps of windows. Whether there may be more to cut at
    /// once.
    async fn plan(&self, looked: Looked, mirror: &mut Mirror) -> Result<bool, TickError> {
        let Looked { job: Versioned { value: job, revision }, topic, calendar, problem, writes } = looked;
        if mirror.view().unreadable(&job.name).is_some() {
            return Ok(false);
        }
        let noted = mirror.view().problems.get(&job.name).cloned();
        self.note_problem(&job.name, revision, problem, noted).await?;
        let (Some(topic), Some(calendar)) = (topic, calendar) else { return Ok(false) };
        // A job may be deleted, and made anew, while it is looked at.
        let unchanged = Compare::Modified(keys::job(&job.name), revision);
        let cut = !writes.is_empty() && self.write_all(writes, &unchanged, mirror).await?;
        let mut write = finishing::step(mirror.view(), &job, &calendar, &topic);
        if !write.then.is_empty() {
            write.when.push(unchanged);
            match self.write(write).await? {
                Some(revision) => mirror.reach(revision).await?,
                None => mirror.reload().await?,
            }
        }
        Ok(cut)
    }
}

/// Joins small writes to as few as fit the store's limit.
fn join(writes: Vec<Write>) -> Vec<Write> {
    let mut joined: Vec<Write> = Vec::new();
    for write in writes {
        match joined.last_mut() {
            // Two conditions are the leader's own and the guard.
            Some(last)
                if last.then.len() + write.then.len() <= MAX_TXN_OPS
                    && last.when.len() + write.when.len() + 2 <= MAX_TXN_OPS =>
            {
                last.when.extend(write.when);
                last.then.extend(write.then);
            }
            _ => joined.push(write),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
