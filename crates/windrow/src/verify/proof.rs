//! What is proven, and what is not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use windrow_protocol::marker::{Committed, Complete, Expired, Marker};
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::Part;
use windrow_protocol::{
    JobName, Ledger, Offset, OffsetRange, PartitionId, Revision, Timestamp, WindowId, audit, paths,
};
use windrow_storage::{Object, Store, StoreError};

use super::source::Topic;
use super::{Ends, State, revisions};
use crate::output;
use crate::progress::Progress;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong, and where. Empty: everything is proven.
    pub findings: Vec<String>,
    /// What was given up by somebody's decision.
    pub notes: Vec<String>,
    pub markers: u64,
    pub windows: u64,
    pub batches: u64,
    pub files: u64,
    /// Of the newest revision of each window.
    pub ledger: Ledger,
    /// Results that have taken the place of another.
    pub revisions: u64,
    /// Readings that came late, by what their windows' revisions hold more.
    pub(super) taken_in: i64,
    /// Late readings that the first results of windows have called amended: of all, and of those that are settled.
    pub(super) amended: (u64, u64),
    /// Files that markers name.
    pub(super) named: BTreeSet<String>,
    /// Of windows whose retention has ended.
    pub(super) expired: Expired,
    /// Those of them that are not gone yet: their last markers go last.
    pub(super) going: BTreeSet<WindowId>,
    /// Windows that end by then are over and done with. Of those after it some batches may be committed before others,
    /// and some files be about to be published.
    pub(super) settled: Timestamp,
    /// Windows that begin before this are complete, as the job itself has said: all of their first results is published.
    pub(super) over: Option<Timestamp>,
}

/// Up to where all windows are complete, by their markers alone.
fn contiguous(complete: &[&Complete]) -> Timestamp {
    let mut until = None;
    for marker in complete {
        if until.is_some_and(|until| until != marker.plan.window.start) {
            break;
        }
        until = Some(marker.plan.until);
    }
    until.unwrap_or_default()
}

/// Verifies all that a job has committed.
///
/// `state`: asked before the markers are looked at.
pub async fn verify(store: &Store, ends: &Ends, job: &JobName, state: State) -> Result<Report> {
    loop {
        let before = store.expired(job).await?;
        let (number, expired) = before.unwrap_or_default();
        let report = verify_from(store, ends, job, state, expired).await?;
        // Windows whose retention ends meanwhile would look damaged.
        if store.expired(job).await?.map(|(number, _)| number).unwrap_or_default() == number {
            return Ok(report);
        }
    }
}

/// `expired`: of the windows that are gone; the proof goes on from there.
async fn verify_from(store: &Store, ends: &Ends, job: &JobName, state: State, expired: Expired) -> Result<Report> {
    let mut report = Report { expired, ..Report::default() };
    // Before the markers: whatever is published by now has a marker by then, also while the job runs.
    let published = published(store, job).await?;
    let objects = store.list(&paths::commits(job)).await?;
    report.going =
        objects.iter().filter_map(|object| paths::parse_marker(&object.path)).map(|(_, id, ..)| id).collect();
    report.going.retain(|window| report.expired.covers(*window));
    let mut progress = Progress::new("verifying", 2 * objects.len() as u64, "steps");
    let Found { mut complete, batches } = report.read_all(store, objects, &mut progress).await?;
    complete.sort_by_key(|marker| (marker.plan.window.id(), marker.plan.revision));
    let mut by_window: BTreeMap<WindowId, Vec<&Marker>> = BTreeMap::new();
    batches.values().flatten().for_each(|marker| by_window.entry(marker.plan.window.id()).or_default().push(marker));
    let newest = revisions::newest(&complete);
    // A window within a run of empty ones is counted by the run.
    let counted: Vec<&Complete> = newest.iter().copied().filter(|marker| marker.plan.windows > 0).collect();
    report.chain(&counted, state.through);
    report.count(&complete, state.windows_complete);
    report.settled = state.through.unwrap_or_else(|| contiguous(&counted));
    report.over = state.through;
    for marker in newest {
        report.windows += marker.plan.windows;
        let window = marker.plan.window.id();
        let markers = by_window.remove(&window).unwrap_or_default();
        report.unjoined(Some(marker), &markers, state.revisions_pending);
        let joined = revisions::joined(marker, &markers);
        let found = audit::window(marker, &joined);
        report.findings.extend(found.into_iter().map(|what| format!("window {window}: {what}")));
        let skipped = marker.skipped.iter().map(|reason| format!("window {window}: its reduce was skipped: {reason}"));
        report.notes.extend(skipped);
    }
    for markers in by_window.values() {
        report.unjoined(None, markers, state.revisions_pending);
    }
    for markers in complete.chunk_by(|a, b| a.plan.window.id() == b.plan.window.id()) {
        report
            .files_of_all(store, markers, |marker| (marker.plan.window.id(), Part::Finish, marker.plan.revision))
            .await?;
        progress.inc(markers.len() as u64);
    }
    drop(by_window);
    // A job has one topic for all its life.
    let topic = match batches.values().flatten().next().map(|marker| &marker.plan.topic) {
        Some(name) => {
            let topic = ends.topic(name).await?;
            if topic == Topic::Gone {
                report.findings.push(format!("topic {name} does not exist any more; what of it was not read is lost"));
            }
            topic
        }
        None => Topic::Unknown,
    };
    for (partition, mut markers) in batches {
        markers.sort_by_key(|marker| (marker.plan.window.id(), marker.plan.revision));
        report.partition(ends, &topic, partition, &markers).await?;
        for markers in markers.chunk_by(|a, b| a.plan.window.id() == b.plan.window.id()) {
            let name = |marker: &Marker| (marker.plan.window.id(), Part::Partition(partition), marker.plan.revision);
            report.files_of_all(store, markers, name).await?;
            progress.inc(markers.len() as u64);
        }
    }
    if state.batches_failed > 0 {
        let parked = output::count(state.batches_failed, "batch");
        report
            .notes
            .push(format!("{parked} failed and parked: their windows, or new revisions of them, are not complete; `windrow describe {job}`"));
    }
    report.strays(store, published).await?;
    report.taken_in += report.expired.taken_in;
    report.amended = (report.amended.0 + report.expired.amended, report.amended.1 + report.expired.amended);
    report.amendments(state.revisions_pending);
    Ok(report)
}

/// All files where readers look.
async fn published(store: &Store, job: &JobName) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for dataset in [Dataset::Data, Dataset::Parts, Dataset::Late, Dataset::Quarantine] {
        paths.extend(store.list(&paths::dataset(job, dataset)).await?.into_iter().map(|object| object.path));
    }
    paths.extend(store.list(&paths::revisions(job)).await?.into_iter().map(|object| object.path));
    Ok(paths)
}

/// A job's markers.
#[derive(Default)]
struct Found {
    complete: Vec<Complete>,
    batches: BTreeMap<PartitionId, Vec<Marker>>,
}

impl Report {
    /// All markers of windows that are not gone.
    async fn read_all(&mut self, store: &Store, objects: Vec<Object>, progress: &mut Progress) -> Result<Found> {
        let mut found = Found::default();
        for object in objects {
            self.markers += 1;
            progress.inc(1);
            match paths::parse_marker(&object.path) {
                Some((_, window, ..)) if self.expired.covers(window) => {}
                None if paths::parse_expired(&object.path).is_some() => {}
                None => self.findings.push(format!("{} is no marker", object.path)),
                Some((_, window, Part::Finish, revision)) => {
                    let own = |m: &Complete| m.plan.window.id() == window && m.plan.revision == revision;
                    found.complete.extend(self.read(store, &object.path, own).await?);
                }
                Some((_, window, Part::Partition(partition), revision)) => {
                    let own = |m: &Marker| {
                        (m.plan.window.id(), m.plan.partition, m.plan.revision) == (window, partition, revision)
                    };
                    found.batches.entry(partition).or_default().extend(self.read(store, &object.path, own).await?);
                }
            }
        }
        Ok(found)
    }

    /// A marker; one that can't be read, or is another's, is a finding, and the others are looked at all the same.
    async fn read<M: Committed>(
        &mut self,
        store: &Store,
        path: &str,
        is_own: impl Fn(&M) -> bool,
    ) -> Result<Option<M>> {
        match store.read_marker::<M>(path).await {
            Ok(None) => {
                self.findings.push(format!("{path} went away while the job was verified"));
                Ok(None)
            }
            Err(StoreError::Broken(what)) => {
                self.findings.push(format!("marker {what}"));
                Ok(None)
            }
            Ok(Some(marker)) if !is_own(&marker) => {
                self.findings.push(format!("{path} is the marker of another window, partition or revision"));
                Ok(None)
            }
            found => Ok(found?),
        }
    }

    /// `markers`: all of the partition, by window and revision.
    async fn partition(
        &mut self,
        ends: &Ends,
        topic: &Topic,
        partition: PartitionId,
        markers: &[Marker],
    ) -> Result<()> {
        // Revisions own what the first results own.
        let mut first: Vec<&Marker> =
            markers.iter().filter(|marker| marker.plan.revision == Revision::default()).collect();
        first.sort_by_key(|marker| (marker.plan.owned.end, marker.plan.window.start));
        for pair in first.windows(2) {
            let (before, after) = (&pair[0].plan, &pair[1].plan);
            // A window of volume begins where the one before was found to end, so that one is in.
            let in_order = after.window.volume.is_some();
            let may_come = !in_order && before.owned.end < after.owned.start && after.window.end > self.settled;
            if before.owned.end != after.owned.start && !may_come {
                let what = if before.owned.end < after.owned.start { "nobody owns" } else { "two batches own" };
                self.findings.push(format!(
                    "partition {partition}: {what} offsets between {} (window {}) and {} (window {})",
                    before.owned.end,
                    before.window.id(),
                    after.owned.start,
                    after.window.id()
                ));
            }
        }
        for revisions in markers.chunk_by(|a, b| a.plan.window.id() == b.plan.window.id()) {
            self.batch(partition, revisions);
        }
        let (Some(first), Some(last)) = (first.first(), first.last()) else { return Ok(()) };
        let begins = self.expired.ends.get(&partition).copied();
        if let Some(end) = begins.filter(|end| *end != first.plan.owned.start) {
            self.findings.push(format!(
                "partition {partition}: windows up to offset {end} are gone by their retention, but the first that is left \
                 owns offsets from {} on",
                first.plan.owned.start
            ));
        }
        // One before it may be parked.
        let first_may_come = first.plan.window.volume.is_none() && first.plan.window.end > self.settled;
        // Told of once, for all partitions.
        if *topic == Topic::Gone {
            return Ok(());
        }
        let Some(log) = ends.of(&last.plan.topic, partition).await? else { return Ok(()) };
        if matches!(topic, Topic::Is(id) if *id != last.plan.topic_id) {
            self.findings.push(format!(
                "partition {partition}: topic {} was deleted and made again since; what of it was not read is lost",
                last.plan.topic
            ));
        } else if log.end < last.plan.owned.end {
            self.findings.push(format!("partition {partition}: the log ends before the last batch does"));
        } else if begins.is_none() && log.start < first.plan.owned.start && !first_may_come {
            // A job begins where the log began, and logs only lose offsets at their start.
            self.findings.push(format!(
                "partition {partition}: the log has offsets from {} on, but the first batch owns them from {} on: \
                 markers before it are gone",
                log.start, first.plan.owned.start
            ));
        }
        Ok(())
    }

    /// One partition of one window: all its revisions.
    fn batch(&mut self, partition: PartitionId, revisions: &[Marker]) {
        let Some(marker) = revisions.last() else { return };
        let at = format!("window {} partition {partition}", marker.plan.window.id());
        self.batches += 1;
        self.ledger = self.ledger.plus(&marker.ledger);
        self.revisions(revisions);
        let found = revisions.iter().flat_map(audit::marker);
        let found = found.chain(audit::revisions(&revisions.iter().collect::<Vec<_>>()));
        self.findings.extend(found.map(|what| format!("{at}: {what}")));
        let lost = marker.ledger.lost_offsets;
        // A revision that is the first of its partition stands for one without readings.
        let is_result = |it: &Marker| it.skipped.is_none();
        let has_result = marker.carried.is_some()
            && (revisions.first().is_some_and(|first| first.plan.revision > Revision::default())
                || revisions.iter().any(is_result));
        let given_up = revisions.iter().rev().take_while(|it| it.skipped.is_some()).last();
        match (&marker.skipped, given_up) {
            (Some(reason), Some(given_up)) if has_result => self.notes.push(format!(
                "{at}: {} given up, the result before it stands, and what has come later is set aside: {reason}",
                given_up.plan.revision
            )),
            (Some(reason), _) => {
                self.notes.push(format!("{at}: skipped, up to {lost} offsets without a result: {reason}"));
            }
            (None, _) => {}
        }
        if lost > 0 && (has_result || marker.skipped.is_none()) {
            let start = marker.plan.read.start;
            let range = OffsetRange::new(start, Offset(start.0.saturating_add_unsigned(lost)));
            self.findings.push(format!(
                "{at}: offsets {range} were lost to retention; they may have held readings of later windows, too"
            ));
        }
        if let Some(gone) = marker.carried.filter(|gone| !gone.is_empty()) {
            let (revision, late) = (marker.plan.revision, marker.ledger.late.saturating_sub(marker.ledger.amended));
            self.notes.push(format!(
                "{at}: {revision} could not be computed, since the log had dropped {gone}; the result stayed as it was, \
                 and {late} late readings are set aside"
            ));
        }
    }

    /// Up to where the job says that all windows are complete, none may be without a `_complete` marker.
    fn chain(&mut self, complete: &[&Complete], through: Option<Timestamp>) {
        let Some(through) = through else { return };
        // Windows from before the job's first one, which have late readings only, are not one after the other.
        let gone = self.expired.through.filter(|_| self.expired.windows > 0);
        let mut last = gone.or(complete.first().map(|marker| marker.plan.window.start));
        for marker in complete {
            let next = marker.plan.window.start;
            if let Some(until) = last
                && until < next
                && until < through
            {
                self.findings.push(format!("no window between {until} and {next} has a _complete marker"));
            }
            last = Some(marker.plan.until);
        }
        if let Some(until) = last.filter(|until| *until < through) {
            self.findings.push(format!("no window between {until} and {through} has a _complete marker"));
        }
    }

    /// As many windows as the job has completed have a `_complete` marker, or it is of another store, or gone.
    fn count(&mut self, complete: &[Complete], windows_complete: Option<u64>) {
        let first = complete.iter().filter(|marker| marker.plan.revision == Revision::default());
        let found = first.map(|marker| marker.plan.windows).sum::<u64>() + self.expired.windows;
        if let Some(expected) = windows_complete.filter(|expected| found < *expected) {
            self.findings.push(format!("the job has completed {expected} windows, but there are markers of {found}"));
        }
    }

    /// Files that no marker names: readers would count them too.
    async fn strays(&mut self, store: &Store, published: Vec<String>) -> Result<()> {
        for path in published.into_iter().filter(|path| !self.named.contains(path)) {
            let expired = paths::window_of(&path).filter(|window| self.expired.covers(*window));
            // It may have gone, with its window, between the two lists.
            let goes = |window| self.going.contains(window);
            if expired.as_ref().is_some_and(goes) || (expired.is_some() && store.size(&path).await?.is_none()) {
                continue;
            }
            self.findings.push(format!("{path} is named by no marker: it is not windrow's result"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_millis(hour * 3_600_000)
    }

    /// What is wrong with a job that is complete up to hour 4, when hours before 1 are gone and hour 3 is left.
    fn chain(windows_gone: u64) -> Vec<String> {
        let complete = serde_json::json!({
            "version": 1, "job": "j", "attempt": "a", "files": [], "rows": 0, "ledger": {}, "inputs": [],
            "committedAt": hour(4), "plan": {
                "topic": "t", "topicId": "i", "window": {"start": hour(3), "end": hour(4)}, "until": hour(4),
                "windows": 1, "partitions": [], "empty": [], "revision": 0, "specHash": "h", "generation": 1,
            },
        });
        let complete: Complete = serde_json::from_value(complete).unwrap();
        let expired = Expired { windows: windows_gone, through: Some(hour(1)), ..Expired::default() };
        let mut report = Report { expired, ..Report::default() };
        report.chain(&[&complete], Some(hour(4)));
        report.findings
    }

    #[test]
    fn what_is_gone_reaches_to_what_is_left_unless_it_is_from_before_the_job_s_first_window() {
        assert_eq!(chain(1).len(), 1, "hours 1 and 2 are nowhere");
        assert_eq!(chain(0), Vec::<String>::new());
    }
}
