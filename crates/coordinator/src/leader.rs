//! Campaigning, and what a leader does over and over: dispatch batches whenever something changes, and look into the log
//! once a tick, or at once again while there is a backlog to cut.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use windrow_ports::lease::HeldLease;
use windrow_ports::log::TopicInfo;
use windrow_ports::meta::{Compare, MAX_TXN_OPS, Op, Txn};
use windrow_ports::{LogError, MetaError};
use windrow_protocol::state::{JobRecord, LeaderRecord, keys};
use windrow_protocol::{JobName, TopicName};

use crate::mirror::Mirror;
use crate::planner::{Planner, Silence, Write};
use crate::view::{Versioned, encode};
use crate::{Parts, Settings, TickError, dispatch, finishing};

/// Transactions in flight at a time.
const CONCURRENCY: usize = 4;

/// How long what is known of a topic is taken for true. Workers check a topic's id again before they read.
const TOPIC_TTL: Duration = Duration::from_secs(1);

/// Runs until shutdown: campaigns, leads, and campaigns again when leadership is lost.
pub async fn run(parts: Parts, settings: Settings, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            result = campaign_and_lead(&parts, &settings, &shutdown) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "campaigning again");
                }
                parts.clock.sleep(settings.tick).await;
            }
        }
    }
}

async fn campaign_and_lead(parts: &Parts, settings: &Settings, shutdown: &CancellationToken) -> Result<(), TickError> {
    let current = parts.meta.get(keys::LEADER).await?;
    if let Some(leader) = current {
        // Somebody leads: wait until the key goes, or the watch ends for another reason.
        let mut watch = parts.meta.watch(keys::LEADER, leader.mod_revision + 1);
        watch.next().await;
        return Ok(());
    }
    let lease = HeldLease::acquire(parts.meta.clone(), parts.clock.clone(), settings.lease_ttl).await?;
    let record = LeaderRecord { id: settings.id.clone(), address: String::new() };
    let put = Op::Put { key: keys::LEADER.to_owned(), value: encode(&record).into(), lease: lease.id() };
    let won = parts.meta.txn(Txn { when: vec![Compare::Absent(keys::LEADER.to_owned())], then: vec![put] }).await?;
    if !won.applied {
        return Ok(lease.revoke().await?);
    }
    tracing::info!(id = settings.id, "leading");
    let mut leader =
        Leader { parts, settings, term: won.revision, silence: Silence::default(), topics: HashMap::new() };
    let result = tokio::select! {
        biased;
        () = lease.lost() => Err(TickError::NotLeading),
        () = shutdown.cancelled() => Ok(()),
        result = leader.lead() => result,
    };
    // The next leader need not wait for the lease to expire; if this fails, it expires.
    let _ = lease.revoke().await;
    result
}

struct Leader<'a> {
    parts: &'a Parts,
    settings: &'a Settings,
    /// Create revision of this leader's key: what all its writes compare.
    term: i64,
    silence: Silence,
    /// What is known of topics, and since when.
    topics: HashMap<TopicName, (Duration, TopicInfo)>,
}

impl Leader<'_> {
    async fn lead(&mut self) -> Result<(), TickError> {
        loop {
            match self.follow().await {
                Err(TickError::NotLeading) => return Err(TickError::NotLeading),
                Err(error) => tracing::warn!(%error, "looking at everything anew"),
                Ok(()) => {}
            }
            self.parts.clock.sleep(self.settings.tick).await;
        }
    }

    /// Leads by one mirror until that ends.
    async fn follow(&mut self) -> Result<(), TickError> {
        let clock = self.parts.clock.clone();
        let mut mirror = Mirror::load(self.parts.meta.clone(), clock.clone()).await?;
        let mut next_look = Duration::ZERO;
        loop {
            self.dispatch(&mut mirror).await?;
            if clock.elapsed() >= next_look {
                if self.plan_all(&mut mirror).await? {
                    continue;
                }
                next_look = clock.elapsed() + self.settings.tick;
            }
            let pause = next_look.saturating_sub(clock.elapsed());
            tokio::select! {
                // Changes without end keep nothing waiting: the time of the next look is compared above.
                biased;
                changed = mirror.changed() => changed?,
                () = clock.sleep(pause) => {}
            }
        }
    }

    /// Settles and hands out until nothing is left to do.
    async fn dispatch(&self, mirror: &mut Mirror) -> Result<(), TickError> {
        for decide in [dispatch::settle, dispatch::assign] {
            loop {
                let write = decide(mirror.view(), self.parts.clock.now());
                if write.then.is_empty() {
                    break;
                }
                match self.write(write).await {
                    Ok(Some(revision)) => mirror.reach(revision).await?,
                    Ok(None) => return Ok(mirror.reload().await?),
                    // A worker's lease ended a moment ago; its keys are about to go.
                    Err(TickError::Meta(MetaError::NoLease(_))) => return Ok(mirror.reload().await?),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// One step of each job; whether any has more to cut at once.
    async fn plan_all(&mut self, mirror: &mut Mirror) -> Result<bool, TickError> {
        let jobs: Vec<Versioned<JobRecord>> = mirror.view().jobs.values().cloned().collect();
        let mut more = false;
        for Versioned { value: job, revision } in jobs {
            if job.deleting {
                self.remove(&job, revision).await?;
            } else if job.paused.is_none() {
                // One job's trouble must not keep the others waiting.
                match self.plan(&job, revision, mirror).await {
                    Ok(cut) => more |= cut,
                    Err(TickError::Log(error)) => {
                        tracing::warn!(job = %job.name, %error, "job could not be planned now");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(more)
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

    /// Writes many as few transactions, and waits until the mirror shows them; whether all were done.
    async fn write_all(&self, writes: Vec<Write>, mirror: &mut Mirror) -> Result<bool, TickError> {
        let done = futures::stream::iter(join(writes).into_iter().map(|write| self.write(write)));
        let revisions: Vec<Option<i64>> = done.buffer_unordered(CONCURRENCY).try_collect().await?;
        if revisions.iter().all(Option::is_some) {
            mirror.reach(revisions.into_iter().flatten().max().unwrap_or(0)).await?;
            return Ok(true);
        }
        mirror.reload().await?;
        Ok(false)
    }

    async fn remove(&self, job: &JobRecord, revision: i64) -> Result<(), TickError> {
        let then = vec![
            Op::DeletePrefix { prefix: keys::cursors(&job.name) },
            Op::DeletePrefix { prefix: keys::batches(&job.name) },
            Op::DeletePrefix { prefix: keys::specs(&job.name) },
            Op::Delete { key: keys::progress(&job.name) },
            Op::Delete { key: keys::problem(&job.name) },
            Op::Delete { key: keys::job(&job.name) },
        ];
        // Not a job of the same name that was made meanwhile.
        let when = vec![Compare::Modified(keys::job(&job.name), revision)];
        self.write(Write { when, then }).await.map(drop)
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
                tracing::error!(%job, problem, "job can't go on");
                Op::put(key, encode(&problem))
            }
            None => Op::Delete { key },
        };
        let when = vec![Compare::Modified(keys::job(job), revision)];
        self.write(Write { when, then: vec![op] }).await.map(drop)
    }

    async fn topic(&mut self, name: &TopicName) -> Result<Option<TopicInfo>, LogError> {
        let now = self.parts.clock.elapsed();
        if let Some((seen, topic)) = self.topics.get(name)
            && now.saturating_sub(*seen) < TOPIC_TTL
        {
            return Ok(Some(topic.clone()));
        }
        self.topics.remove(name);
        match self.parts.log.topic(name).await {
            Ok(topic) => {
                self.topics.insert(name.clone(), (now, topic.clone()));
                Ok(Some(topic))
            }
            Err(LogError::NoTopic(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One step of a job: cuts a window, or a run of empty ones, of each partition that has one to cut, and plans the
    /// last steps of windows. Whether there may be more to cut at once.
    async fn plan(&mut self, job: &JobRecord, revision: i64, mirror: &mut Mirror) -> Result<bool, TickError> {
        // A topic that is not there may come: the job waits for it.
        let Some(topic) = self.topic(&job.spec.source.topic).await? else { return Ok(false) };
        let cursors = mirror.view().cursors.get(&job.name).cloned().unwrap_or_default();
        let other = cursors.values().find(|cursor| cursor.value.topic_id != topic.id);
        let problem = other.map(|other| {
            format!(
                "topic {} was deleted and made again (it was {}, it is {}); delete the job and apply it anew to read \
                 the new topic",
                job.spec.source.topic, other.value.topic_id, topic.id
            )
        });
        let (calendar, problem) = match (job.spec.window.calendar(), problem) {
            (Ok(calendar), None) => (Some(calendar), None),
            (Ok(_), problem) => (None, problem),
            (Err(error), _) => (None, Some(error.to_string())),
        };
        let noted = mirror.view().problems.get(&job.name).cloned();
        self.note_problem(&job.name, revision, problem, noted).await?;
        let Some(calendar) = calendar else { return Ok(false) };
        let progress = mirror.view().progress.get(&job.name).map(|progress| progress.value.clone());
        let planner = Planner {
            parts: self.parts,
            job,
            calendar: calendar.clone(),
            topic: topic.clone(),
            cursors,
            progress,
            pinned: finishing::pinned(mirror.view(), job),
            in_flight: mirror.view().batches.get(&job.name).map_or(0, BTreeMap::len),
            max_in_flight: self.settings.max_in_flight,
        };
        let writes = planner.step(&mut self.silence).await?;
        let cut = !writes.is_empty() && self.write_all(writes, mirror).await?;
        let write = finishing::step(mirror.view(), job, &calendar, &topic);
        if !write.then.is_empty() {
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
            // One condition is the leader's own.
            Some(last)
                if last.then.len() + write.then.len() <= MAX_TXN_OPS
                    && last.when.len() + write.when.len() < MAX_TXN_OPS =>
            {
                last.when.extend(write.when);
                last.then.extend(write.then);
            }
            _ => joined.push(write),
        }
    }
    joined
}
