//! Looks into the log on behalf of jobs: one at a time for a job, all jobs beside each other, so that a topic that does
//! not answer keeps no other job waiting, and no report of a worker either.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use windrow_ports::log::TopicInfo;
use windrow_ports::{Log, LogError};
use windrow_protocol::revise::SpecRef;
use windrow_protocol::state::{BatchState, JobRecord, Progress};
use windrow_protocol::window::Calendar;
use windrow_protocol::{JobName, Revision, TopicName, WindowId};

use crate::api::{RETENTION_TOO_SHORT, refusals};
use crate::planner::{self, Cursors, InFlight, OpenBatches, Silence, Site, Step, Windows, Write, open_batches};
use crate::revising::{Revising, Wishes};
use crate::view::{Versioned, View};
use crate::{Parts, TickError, finishing};

/// Looks at a time; more jobs wait for their turn.
const MOST: usize = 64;

/// How long what is known of a topic is taken for true. Workers check a topic's id again before they read.
const TOPIC_TTL: Duration = Duration::from_secs(1);

/// What is kept of a job between two looks.
#[derive(Debug, Default)]
struct Watched {
    silence: Silence,
    /// What is known of its topic, and since when.
    topic: Option<(Duration, TopicInfo)>,
}

/// What came of a look.
pub struct Looked {
    /// The job as it was when the look began.
    pub job: Versioned<JobRecord>,
    /// `None`: the topic is not there.
    pub topic: Option<TopicInfo>,
    /// `None`: the job has a problem that keeps it from going on.
    pub calendar: Option<Calendar>,
    pub problem: Option<String>,
    /// What to write.
    pub writes: Vec<Write>,
}

type Running = BoxFuture<'static, (JobName, Watched, Result<Looked, TickError>)>;

/// The jobs that are looked at.
#[derive(Default)]
pub struct Looks {
    running: FuturesUnordered<Running>,
    /// `None` while a look runs.
    watched: BTreeMap<JobName, Option<Watched>>,
    due: BTreeMap<JobName, Duration>,
    /// Since when looks at a job have failed.
    failing: BTreeMap<JobName, Duration>,
    /// The newest cursor of each job with windows of volume when it was last looked at.
    cursors: BTreeMap<JobName, i64>,
}

impl Looks {
    /// Begins to look at every job that is due. Jobs that are gone are forgotten; those that may not go on have no time at
    /// which they are due.
    pub fn begin(&mut self, parts: &Parts, view: &View, max_in_flight: usize) {
        let is_kept = |name: &JobName| view.jobs.contains_key(name);
        self.due.retain(|name, _| view.is_running(name));
        self.watched.retain(|name, watched| is_kept(name) || watched.is_none());
        self.cursors.retain(|name, _| is_kept(name));
        self.failing.retain(|name, _| is_kept(name));
        let now = parts.clock.elapsed();
        let is_due = |(name, job): &(&JobName, &Versioned<JobRecord>)| {
            self.due.get(*name).is_none_or(|due| *due <= now) || self.has_moved(view, job)
        };
        let mut due: Vec<_> = view.running().filter(is_due).collect();
        // Of very many the one that has waited longest, or the first by name would keep all places.
        due.sort_by_key(|(name, _)| self.due.get(*name).copied().unwrap_or_default());
        for (name, job) in due {
            if self.running.len() >= MOST {
                return;
            }
            let Some(watched) = self.watched.entry(name.clone()).or_insert_with(|| Some(Watched::default())).take()
            else {
                continue;
            };
            if job.value.spec.window.volume().is_some() {
                self.cursors.insert(name.clone(), newest_cursor(view, name));
            }
            let look = Look {
                parts: parts.clone(),
                job: job.clone(),
                cursors: view.cursors.get(name).cloned().unwrap_or_default(),
                progress: view.progress.get(name).cloned(),
                pinned: finishing::pinned(view, &job.value),
                wishes: Wishes::of(view, name),
                open: open_batches(view, name),
                in_flight: first_results(view, name),
                max_in_flight,
            };
            self.running.push(Box::pin(look.run(watched)));
        }
    }

    /// Whether a window of volume was committed since the last look: the next one begins where it ends, so a backlog would
    /// wait a tick for each of them.
    fn has_moved(&self, view: &View, job: &Versioned<JobRecord>) -> bool {
        let name = &job.value.name;
        job.value.spec.window.volume().is_some()
            && self.cursors.get(name).is_some_and(|seen| *seen < newest_cursor(view, name))
    }

    /// When the next job is due by the clock; `idle` if none is, or none can be looked at before a look ends.
    pub fn next_due(&self, idle: Duration) -> Duration {
        if self.running.len() >= MOST {
            return idle;
        }
        let waits = |name: &JobName| self.watched.get(name).is_some_and(Option::is_some);
        self.due.iter().filter(|(name, _)| waits(name)).map(|(_, due)| *due).min().unwrap_or(idle)
    }

    /// The next look that ends; never while none runs.
    pub async fn next(&mut self) -> (JobName, Result<Looked, TickError>) {
        match self.running.next().await {
            Some((name, watched, looked)) => {
                self.watched.insert(name.clone(), Some(watched));
                (name, looked)
            }
            None => std::future::pending().await,
        }
    }

    /// Notes how a look at a job went; for how long they have failed.
    pub fn failing(&mut self, job: &JobName, failed: bool, now: Duration) -> Duration {
        if !failed {
            self.failing.remove(job);
            return Duration::ZERO;
        }
        now.saturating_sub(*self.failing.entry(job.clone()).or_insert(now))
    }

    /// Says when to look at a job again.
    pub fn again(&mut self, job: JobName, due: Duration) {
        self.due.insert(job, due);
    }
}

/// A job's batches of first results: what is run again holds back nothing new.
fn first_results(view: &View, job: &JobName) -> InFlight {
    let batches = view.batches.get(job).into_iter().flatten();
    let mut found = InFlight::default();
    for ((window, _), batch) in batches.filter(|(_, batch)| batch.value.id.revision == Revision::default()) {
        found.batches += 1;
        found.failed += usize::from(batch.value.state == BatchState::Failed);
        found.newest = found.newest.max(window.time());
    }
    found
}

/// The revision of a job's newest cursor.
fn newest_cursor(view: &View, job: &JobName) -> i64 {
    view.cursors.get(job).into_iter().flatten().map(|(_, cursor)| cursor.revision).max().unwrap_or(0)
}

/// One look at one job.
struct Look {
    parts: Parts,
    job: Versioned<JobRecord>,
    cursors: Cursors,
    progress: Option<Versioned<Progress>>,
    pinned: BTreeMap<WindowId, SpecRef>,
    wishes: Wishes,
    open: OpenBatches,
    in_flight: InFlight,
    max_in_flight: usize,
}

impl Look {
    async fn run(self, mut watched: Watched) -> (JobName, Watched, Result<Looked, TickError>) {
        let name = self.job.value.name.clone();
        let looked = self.look(&mut watched).await;
        (name, watched, looked)
    }

    async fn look(self, watched: &mut Watched) -> Result<Looked, TickError> {
        let job = &self.job.value;
        let now = self.parts.clock.elapsed();
        let topic = topic(&*self.parts.log, &job.spec.source.topic, now, &mut watched.topic).await?;
        let nothing = Looked { job: self.job.clone(), topic: None, calendar: None, problem: None, writes: vec![] };
        // A topic that is not there may come: the job waits for it, and says so.
        let Some(topic) = topic else {
            let problem = format!("topic {} does not exist (yet)", job.spec.source.topic);
            return Ok(Looked { problem: Some(problem), ..nothing });
        };
        let calendar = match job.spec.window.calendar() {
            Ok(calendar) => calendar,
            Err(error) => return Ok(Looked { problem: Some(error.to_string()), ..nothing }),
        };
        if let Some(problem) = self.problem(&topic) {
            return Ok(Looked { problem: Some(problem), ..nothing });
        }
        let windows = match job.spec.window.volume() {
            Some(until) => Windows::OfVolume { until, open: self.open },
            None => Windows::OfTime { calendar: calendar.clone(), pinned: self.pinned },
        };
        let site = Site {
            parts: &self.parts,
            job,
            topic: topic.clone(),
            cursors: self.cursors,
            progress: self.progress,
            in_flight: self.in_flight,
            max_in_flight: self.max_in_flight,
        };
        let Step { mut writes, problem } = planner::step(&site, windows, &mut watched.silence).await?;
        let revising = Revising { parts: &self.parts, job, calendar: &calendar, topic: &topic, wishes: &self.wishes };
        writes.extend(revising.step().await);
        if !writes.is_empty() {
            // A topic that was made anew meanwhile has answered with offsets of its own.
            watched.topic = None;
            let again = self::topic(&*self.parts.log, &job.spec.source.topic, now, &mut watched.topic).await?;
            if again.is_none_or(|again| again.id != topic.id) {
                return Ok(nothing);
            }
        }
        Ok(Looked { topic: Some(topic), calendar: Some(calendar), problem, writes, ..nothing })
    }

    /// What of a topic keeps the job from going on.
    fn problem(&self, topic: &TopicInfo) -> Option<String> {
        let spec = &self.job.value.spec;
        if self.cursors.is_empty() {
            // It may have been made after the job.
            return refusals(spec, topic).into_iter().next().map(|violation| violation.message);
        }
        // What was fit once may be changed: then records vanish, or get other times.
        let changed = refusals(spec, topic).into_iter().find(|violation| violation.reason != RETENTION_TOO_SHORT);
        if let Some(violation) = changed {
            return Some(violation.message);
        }
        let other = self.cursors.values().find(|cursor| cursor.value.topic_id != topic.id)?;
        Some(format!(
            "topic {} was deleted and made again (it was {}, it is {}); to read the new one, \
             delete the job, move its folder in the store away, and apply it anew",
            spec.source.topic, other.value.topic_id, topic.id
        ))
    }
}

async fn topic(
    log: &dyn Log,
    name: &TopicName,
    now: Duration,
    known: &mut Option<(Duration, TopicInfo)>,
) -> Result<Option<TopicInfo>, LogError> {
    if let Some((seen, topic)) = known
        && now.saturating_sub(*seen) < TOPIC_TTL
    {
        return Ok(Some(topic.clone()));
    }
    *known = None;
    match log.topic(name).await {
        Ok(topic) => {
            *known = Some((now, topic.clone()));
            Ok(Some(topic))
        }
        Err(LogError::NoTopic(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
