//! Of windows whose retention has ended: a record tells of them before anything of them goes, and only of what may go.

use std::collections::BTreeMap;

use bytes::Bytes;
use windrow_protocol::marker::{Complete, Expired, Marker};
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::state::keys;
use windrow_protocol::{JobName, Revision, Timestamp, WindowId, paths};

use super::store::is_final;
use super::{Audit, Checked, Seen, must, parse};
use crate::locked;
use crate::node::true_time;

/// Windows of a job with the newest `_complete` marker of each, by window.
fn completes<'a>(seen: &'a Seen, job: &JobName) -> BTreeMap<WindowId, &'a Complete> {
    let mut newest: BTreeMap<WindowId, &Complete> = BTreeMap::new();
    for complete in seen.files.completes.values().filter(|complete| complete.job == *job) {
        let held = newest.entry(complete.plan.window.id()).or_insert(complete);
        if held.plan.revision < complete.plan.revision {
            *held = complete;
        }
    }
    newest
}

fn ended(complete: &Complete) -> Timestamp {
    if complete.plan.until == Timestamp::MAX { complete.committed_at } else { complete.plan.until }
}

/// The newest end among those that share a retention: all windows of time, or those of volume of one partition.
fn newest(completes: &BTreeMap<WindowId, &Complete>, window: WindowId) -> Option<Timestamp> {
    let of = |window: WindowId| window.volume().map(|id| id.partition);
    completes.iter().filter(|(other, _)| of(**other) == of(window)).map(|(_, complete)| ended(complete)).max()
}

fn under(seen: &Seen, folder: String) -> impl Iterator<Item = &String> {
    seen.objects.range(folder.clone()..).map(|(path, _)| path).take_while(move |path| path.starts_with(&folder))
}

/// The job and window of a marker or of a published file.
fn place(path: &str) -> Option<(JobName, WindowId)> {
    let window = paths::parse_marker(path).map(|(_, window, _, _)| window).or_else(|| paths::window_of(path))?;
    Some((JobName::new(path.split('/').next()?).ok()?, window))
}

/// Whether a path is of a window that is gone. What comes there late is nobody's result; it goes again.
pub fn is_gone(seen: &Seen, path: &str) -> bool {
    let Some((job, window)) = place(path) else { return false };
    seen.expired.get(&job).is_some_and(|(_, expired)| expired.covers(window))
}

/// Who reads finds a window whole or not at all; who proves finds the markers of all that is left.
pub fn deleted(seen: &Seen, path: &str) -> Checked {
    if let Some(number) = paths::parse_expired(path) {
        let job = path.split('/').next().and_then(|job| JobName::new(job).ok());
        let newest = job.and_then(|job| seen.expired.get(&job)).map(|(newest, _)| *newest);
        must!(newest > Some(number), "{path} is deleted, but {newest:?} is the newest");
        return Ok(());
    }
    must!(is_gone(seen, path), "{path} is deleted");
    let Some((job, window)) = place(path) else { return Ok(()) };
    let folders = [paths::window_commits(&job, window)].into_iter().chain(paths::window_folders(&job, window));
    let mut left = folders.flat_map(|folder| under(seen, format!("{folder}/")));
    let is_complete = |path: &str| paths::parse_marker(path).is_some_and(|(_, _, part, _)| part == Part::Finish);
    let too_early = match paths::parse_marker(path) {
        Some((_, _, Part::Finish, _)) => None,
        None => left.find(|other| is_complete(other)),
        Some(_) => left.find(|other| is_complete(other) || is_final(other)),
    };
    must!(too_early.is_none(), "{path} is deleted before {too_early:?}");
    Ok(())
}

impl Audit {
    /// A record of what is gone follows the one before it. Each window that it newly tells of is complete, at rest, and old
    /// enough; what it says of them together is what they were.
    pub(super) fn expired(&self, seen: &mut Seen, path: &str, number: u64, bytes: &Bytes) -> Checked {
        let Some(job) = path.split('/').next().and_then(|job| JobName::new(job).ok()) else {
            return Err(format!("{path} is no job's"));
        };
        let expired: Expired = parse(bytes)?;
        let (newest_number, before) = seen.expired.get(&job).cloned().unwrap_or_default();
        if number < newest_number {
            // A put that was delayed: there is a newer one, so this one is nobody's.
            return Ok(());
        }
        let Some(retention) = self.jobs.get(&job).and_then(|spec| spec.output.retention) else {
            return Err(format!("{path}: {job} keeps its windows for ever"));
        };
        let wall = self.world.acting().map(|node| node.clock().now());
        let completes = completes(seen, &job);
        let planned = format!("/windrow/v1/batches/{job}/");
        let at_rest = |window: WindowId| {
            let of = format!("{planned}{window}/");
            seen.tasks
                .range(of.clone()..)
                .take_while(|(key, _)| key.starts_with(&of))
                .all(|(key, _)| seen.ended.contains(key))
        };
        let mut sum = before.clone();
        sum.version = expired.version;
        for (window, complete) in completes.iter().filter(|(it, _)| expired.covers(**it) && !before.covers(**it)) {
            let over = ended(complete).plus_micros(retention.micros());
            must!(newest(&completes, *window) > Some(over), "{path} lets {window} go, which is to be kept to {over}");
            must!(wall > Some(over), "{path} lets {window} go at {wall:?}, before {over}");
            must!(at_rest(*window), "{path} lets {window} go while a batch of it is in flight");
            let wished = seen.wishes.iter().find(|(key, wish)| {
                let of = key.starts_with(&keys::wishes(&job)) && !wish.is_done() && wish.next < complete.plan.until;
                of && wish
                    .spans
                    .iter()
                    .any(|span| span.from <= complete.plan.window.start && complete.plan.window.end <= span.until)
            });
            must!(wished.is_none(), "{path} lets {window} go, which {wished:?} wants");
            let of_window = |marker: &&Marker| marker.job == job && marker.plan.window.id() == *window;
            let mut markers: Vec<Marker> = seen.files.maps.values().filter(of_window).cloned().collect();
            markers.sort_by_key(|marker| (marker.plan.partition, marker.plan.revision));
            sum.add(complete, &markers);
        }
        let incomplete = seen.files.maps.values().find(|marker| {
            let window = marker.plan.window.id();
            marker.job == job && expired.covers(window) && !completes.contains_key(&window)
        });
        must!(incomplete.is_none(), "{path} lets a window go that was never complete: {incomplete:?}");
        must!(sum == expired, "{path} says {expired:?} of windows that were {sum:?}");
        seen.expired.insert(job, (number, expired));
        Ok(())
    }

    /// Whether a batch's marker stands.
    pub fn has_marker(&self, id: &BatchId) -> bool {
        locked(&self.seen).objects.contains_key(&paths::marker(&id.job, id.window, id.part, id.revision))
    }

    /// What should have gone and has not, or has come back; once all is at rest.
    pub fn overdue(&self, job: &JobName) -> Option<String> {
        let seen = locked(&self.seen);
        let left = under(&seen, format!("{job}/")).find(|path| is_gone(&seen, path));
        if let Some(path) = left {
            return Some(format!("{path} is still there"));
        }
        let retention = self.jobs.get(job)?.output.retention?.micros();
        let completes = completes(&seen, job);
        let of = |window: WindowId| window.volume().map(|id| id.partition);
        // By partition and offset, or by time: the last of those that share a retention is their newest, the first that
        // stands goes first.
        let newest: BTreeMap<_, _> = completes.iter().map(|(window, it)| (of(*window), ended(it))).collect();
        let stands =
            |window: &WindowId| seen.objects.contains_key(&paths::marker(job, *window, Part::Finish, Revision(0)));
        let mut first = BTreeMap::new();
        for (window, complete) in completes.iter().filter(|(window, _)| stands(window)) {
            first.entry(of(*window)).or_insert((window, ended(complete).plus_micros(retention)));
        }
        let wall = true_time(self.world.time());
        let old = first.iter().find(|(of, (_, over))| newest[*of].min(wall) > *over);
        old.map(|(_, (window, _))| format!("{job}/{window} has been kept for too long"))
    }
}
