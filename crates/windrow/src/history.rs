//! Windows that are complete, from their markers in the object store. Reads the newest ones first and no more than asked.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use windrow_protocol::marker::{Committed, Complete, FileEntry, Marker};
use windrow_protocol::plan::Part;
use windrow_protocol::{JobName, PartitionId, Revision, Timestamp, WindowId, paths};
use windrow_storage::Store;

use crate::progress::Progress;

/// Windows whose markers are read at a time.
const CONCURRENCY: usize = 16;

/// Which windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// The newest so many; all if absent.
    pub limit: Option<usize>,
    /// Windows that end after this.
    pub from: Option<Timestamp>,
    /// Windows that start before this.
    pub until: Option<Timestamp>,
}

/// Not of a window of volume, whose name does not say.
fn starts_before(window: &WindowId, time: Timestamp) -> bool {
    window.time().is_some_and(|start| start < time)
}

impl Filter {
    /// Whether [start, end) is asked for.
    pub fn takes(&self, start: Timestamp, end: Timestamp) -> bool {
        self.from.is_none_or(|from| end > from) && self.until.is_none_or(|until| start < until)
    }

    /// The folders to look into, of all in their order, and how many there would be without the limit.
    fn folders(&self, all: Vec<WindowId>) -> (Vec<WindowId>, usize) {
        if all.iter().any(|window| window.volume().is_some()) {
            return self.folders_of_volume(all);
        }
        let mut wanted: Vec<WindowId> =
            all.into_iter().filter(|window| self.until.is_none_or(|until| starts_before(window, until))).collect();
        if let Some(from) = self.from {
            // The last one that starts before it may end after it: a run of empty windows can be long.
            let before = wanted.partition_point(|window| starts_before(window, from));
            wanted.drain(..before.saturating_sub(1));
        }
        let total = wanted.len();
        let skipped = self.limit.map_or(0, |limit| total.saturating_sub(limit));
        wanted.drain(..skipped);
        (wanted, total)
    }

    /// Names of windows of volume do not say when they are: those of a time are found among all, and the newest so many
    /// among the newest so many of each partition.
    fn folders_of_volume(&self, mut all: Vec<WindowId>) -> (Vec<WindowId>, usize) {
        let total = all.len();
        if let Some(limit) = self.limit.filter(|_| self.from.is_none() && self.until.is_none()) {
            let (mut partition, mut taken) = (None, 0);
            let mut newest: Vec<WindowId> = Vec::new();
            for window in all.into_iter().rev() {
                let of = window.volume().map(|id| id.partition);
                taken = if of == partition { taken + 1 } else { 1 };
                partition = of;
                if taken <= limit {
                    newest.push(window);
                }
            }
            newest.reverse();
            all = newest;
        }
        (all, total)
    }
}

/// A complete window, with its partitions' markers where they were asked for.
#[derive(Debug, Clone)]
pub struct Past {
    pub complete: Complete,
    pub partitions: Vec<Marker>,
}

/// Complete windows in the order of their ends, and how many folders of windows match without the limit.
pub async fn windows(store: &Store, job: &JobName, filter: &Filter, partitions: bool) -> Result<(Vec<Past>, usize)> {
    let all = store.windows(job).await?;
    let (wanted, total) = filter.folders(all.clone());
    // A window that was amended within a run of empty ones has a folder of its own: the run began before that.
    let first = wanted.first().filter(|first| filter.from.is_some_and(|from| starts_before(first, from)));
    let earlier: Vec<WindowId> = first.map_or_else(Vec::new, |first| {
        let before = all.partition_point(|id| id < first);
        all[..before].iter().rev().copied().collect()
    });
    let is_taken = |past: &Past| filter.takes(past.complete.plan.window.start, past.complete.plan.until);
    // Or it is not complete.
    let is_within_run = |past: &Option<Past>| past.as_ref().is_none_or(|past| past.complete.plan.windows == 0);
    let mut progress = Progress::new("reading", wanted.len() as u64, "windows");
    let mut reads = futures::stream::iter(wanted).map(|id| window(store, job, id, partitions)).buffered(CONCURRENCY);
    let (mut found, mut begins_before) = (Vec::new(), None);
    while let Some(past) = reads.try_next().await? {
        progress.inc(1);
        begins_before.get_or_insert(is_within_run(&past));
        found.extend(past.filter(is_taken));
    }
    let mut earlier = futures::stream::iter(earlier).map(|id| window(store, job, id, partitions)).buffered(CONCURRENCY);
    while begins_before == Some(true)
        && let Some(past) = earlier.try_next().await?
    {
        begins_before = Some(is_within_run(&past));
        found.extend(past.filter(is_taken));
    }
    found.sort_by_key(|past| past.complete.plan.until);
    // Names of windows of volume do not tell which of them are of the asked time.
    let of_volume = found.iter().any(|past| past.complete.plan.window.volume.is_some());
    let total = if of_volume && (filter.from, filter.until) != (None, None) { found.len() } else { total };
    let skipped = filter.limit.map_or(0, |limit| found.len().saturating_sub(limit));
    found.drain(..skipped);
    Ok((found, total))
}

/// Says so of a window that is gone.
pub async fn expect_kept(store: &Store, job: &JobName, window: WindowId) -> Result<()> {
    let gone = store.expired(job).await?.is_some_and(|(_, expired)| expired.covers(window));
    ensure!(!gone, "window {window} of job {job} is gone: its retention (spec.output.retention) has ended");
    Ok(())
}

/// One window, if it is complete: the newest revision that is.
pub async fn window(store: &Store, job: &JobName, id: WindowId, partitions: bool) -> Result<Option<Past>> {
    let markers = Markers::list(store, job, id).await?;
    match markers.of(Part::Finish).last() {
        Some(newest) => markers.past(store, *newest, partitions).await,
        None => Ok(None),
    }
}

/// One revision of a window; `None` if it has none of this number.
pub async fn revision(store: &Store, job: &JobName, id: WindowId, revision: Revision) -> Result<Option<Past>> {
    Markers::list(store, job, id).await?.past(store, revision, true).await
}

/// The names of a window's markers.
struct Markers<'a> {
    job: &'a JobName,
    id: WindowId,
    all: BTreeMap<Part, Vec<Revision>>,
}

impl<'a> Markers<'a> {
    async fn list(store: &Store, job: &'a JobName, id: WindowId) -> Result<Self> {
        let mut all: BTreeMap<Part, Vec<Revision>> = BTreeMap::new();
        for object in store.list(&paths::window_commits(job, id)).await? {
            if let Some((_, _, part, revision)) = paths::parse_marker(&object.path) {
                all.entry(part).or_default().push(revision);
            }
        }
        all.values_mut().for_each(|revisions| revisions.sort());
        Ok(Self { job, id, all })
    }

    /// The revisions of a part, in their order.
    fn of(&self, part: Part) -> &[Revision] {
        self.all.get(&part).map_or(&[], Vec::as_slice)
    }

    /// A revision of the window: its `_complete` marker and what that has joined, or what is known of it without looking at
    /// partitions. The files are named by where they lie now: those that a later revision has replaced were kept by it.
    async fn past(&self, store: &Store, revision: Revision, partitions: bool) -> Result<Option<Past>> {
        let (job, id) = (self.job, self.id);
        let path = paths::marker(job, id, Part::Finish, revision);
        let Some(mut complete) = store.read_marker::<Complete>(&path).await? else { return Ok(None) };
        complete.files.retain(|file| !file.is_kept(job));
        let mut past = Past { complete, partitions: vec![] };
        if partitions {
            let plan = &past.complete.plan;
            let wanted = plan.partitions.iter().map(|partition| (*partition, plan.revision_of(*partition)));
            past.partitions = read_partitions(store, job, id, wanted.collect()).await?;
        }
        for marker in &mut past.partitions {
            let part = Part::Partition(marker.plan.partition);
            self.follow::<Marker>(store, part, marker.plan.revision, &mut marker.files).await?;
        }
        self.follow::<Complete>(store, Part::Finish, revision, &mut past.complete.files).await?;
        Ok(Some(past))
    }

    /// Moves the files of a revision to where later ones have kept them. What these have left as it is stays where it is.
    async fn follow<M: Committed>(
        &self,
        store: &Store,
        part: Part,
        mut at: Revision,
        files: &mut [FileEntry],
    ) -> Result<()> {
        for next in self.of(part).iter().filter(|revision| **revision > at).copied().collect::<Vec<_>>() {
            let found = store.read_marker::<M>(&paths::marker(self.job, self.id, part, next)).await?;
            let later = found.as_ref().map_or(&[][..], Committed::files);
            for file in &mut *files {
                let kept = paths::kept(self.job, self.id, at, &file.path);
                if let Some(kept) = later.iter().find(|other| Some(&other.path) == kept.as_ref()) {
                    file.path = kept.path.clone();
                }
            }
            at = next;
        }
        Ok(())
    }
}

async fn read_partitions(
    store: &Store,
    job: &JobName,
    id: WindowId,
    markers: Vec<(PartitionId, Revision)>,
) -> Result<Vec<Marker>> {
    let read = |(partition, revision)| async move {
        let path = paths::marker(job, id, Part::Partition(partition), revision);
        let found = store.read_marker::<Marker>(&path).await?;
        let mut marker = found.with_context(|| {
            format!("{path} is missing, which window {id} was made from; `windrow verify {job}` says what else is")
        })?;
        marker.files.retain(|file| !file.is_kept(job));
        Ok(marker)
    };
    futures::stream::iter(markers).map(read).buffered(CONCURRENCY).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: &[i64]) -> Vec<WindowId> {
        hours.iter().map(|hour| WindowId::Time(Timestamp::from_millis(hour * 3_600_000))).collect()
    }

    #[test]
    fn the_newest_are_taken_and_a_run_that_began_before_the_filter_is_looked_at() {
        let all = || hours(&[0, 1, 5, 6, 7]);
        let at = |hour: i64| Some(Timestamp::from_millis(hour * 3_600_000));
        let newest = Filter { limit: Some(2), ..Filter::default() };
        assert_eq!(newest.folders(all()), (hours(&[6, 7]), 5));
        let between = Filter { from: at(3), until: at(7), ..Filter::default() };
        assert_eq!(between.folders(all()), (hours(&[1, 5, 6]), 3));
        assert_eq!(Filter::default().folders(all()).0.len(), 5);
    }

    /// Hours 0 to 9 hold no reading but for two that came late into hour 3; hour 4 is about to be amended, too.
    #[tokio::test]
    async fn a_run_is_found_behind_the_windows_within_it_that_were_amended() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let (store, job) =
            (Store::open(&url, &windrow_storage::S3Settings::default()).unwrap(), JobName::new("j").unwrap());
        let at = |hour: i64| Timestamp::from_millis(hour * 3_600_000);
        for (hour, until, windows, revision) in [(0, 10, 10, 0), (3, 4, 0, 1)] {
            let complete = serde_json::json!({
                "version": 1, "job": "j", "attempt": "a", "files": [], "rows": 0, "ledger": {}, "inputs": [],
                "committedAt": at(until), "plan": {
                    "topic": "t", "topicId": "i", "window": {"start": at(hour), "end": at(hour + 1)}, "until": at(until),
                    "windows": windows, "partitions": [], "empty": [], "revision": revision, "specHash": "h", "generation": 1,
                },
            });
            let complete: Complete = serde_json::from_value(complete).unwrap();
            let path = paths::marker(&job, WindowId::Time(at(hour)), Part::Finish, Revision(revision));
            store.commit(&path, &complete).await.unwrap();
        }
        let begun = folder.path().join(paths::window_commits(&job, WindowId::Time(at(4))));
        std::fs::create_dir_all(&begun).unwrap();
        std::fs::write(begun.join("3.r1.json"), "{}").unwrap();
        let filter = Filter { from: Some(at(5)), until: Some(at(6)), limit: None };
        let (found, _) = windows(&store, &job, &filter, false).await.unwrap();
        let plans: Vec<_> =
            found.iter().map(|past| (past.complete.plan.window.start, past.complete.plan.until)).collect();
        assert_eq!(plans, [(at(0), at(10))]);
    }

    #[test]
    fn the_newest_windows_of_volume_are_among_the_newest_of_each_partition() {
        let ids = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<WindowId>>();
        let all = || ids(&["p0-o0", "p0-o5", "p0-o10", "p1-o0", "p1-o7"]);
        let newest = |limit| Filter { limit: Some(limit), ..Filter::default() }.folders(all());
        assert_eq!(newest(1), (ids(&["p0-o10", "p1-o7"]), 5));
        assert_eq!(newest(2), (ids(&["p0-o5", "p0-o10", "p1-o0", "p1-o7"]), 5));
        let since = Filter { from: Some(Timestamp::default()), limit: Some(1), until: None };
        assert_eq!(since.folders(all()).0, all(), "only their markers know");
    }

    #[test]
    fn windows_that_touch_the_asked_time_only_at_a_bound_are_out() {
        let t = |hour: i64| Timestamp::from_millis(hour * 3_600_000);
        let filter = Filter { from: Some(t(3)), until: Some(t(7)), limit: None };
        assert!(filter.takes(t(1), t(4)) && filter.takes(t(6), t(9)));
        assert!(!filter.takes(t(2), t(3)) && !filter.takes(t(7), t(8)));
    }
}
