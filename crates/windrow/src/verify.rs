//! The proof, from markers, files and log alone: offsets without gap or overlap, files with their checksums, ledgers
//! that add up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tonic::Code;
use windrow_ports::{Log, LogError};
use windrow_protocol::marker::{Committed, Complete, Expired, Marker};
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::Part;
use windrow_protocol::{
    JobName, Ledger, Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicId, TopicName, WindowId, audit,
    paths,
};
use windrow_storage::{Object, Store, StoreError};
use windrow_wire::convert;

use crate::client::said;
use crate::connect::KafkaFrom;
use crate::output::{self, OutputArgs};
use crate::place::{self, StoreFrom};
use crate::progress::Progress;

mod revisions;

#[derive(Debug, clap::Args)]
pub struct Args {
    job: JobName,
    /// Folder of a stopped `windrow dev` or a `windrow demo`, instead of a server.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaFrom,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    store: StoreFrom,
}

/// Who knows where the log ends.
pub enum Ends {
    /// The log itself.
    Log(Arc<dyn Log>),
    /// The coordinator has said so, by partition: first offset, and the first that is not there yet. And the topic's id.
    Told(BTreeMap<PartitionId, OffsetRange>, Option<TopicId>),
    /// Nobody; why.
    Unknown(String),
}

impl Ends {
    async fn of(&self, topic: &TopicName, partition: PartitionId) -> Result<Option<OffsetRange>> {
        match self {
            Self::Log(log) => {
                let bounds = log.bounds(topic, &[partition]).await?.into_iter().next().transpose()?;
                Ok(bounds.map(|bounds| OffsetRange::new(bounds.log_start, bounds.high_watermark)))
            }
            // A partition that the coordinator's log does not have holds nothing.
            Self::Told(ends, _) => {
                let nothing = OffsetRange::new(Offset(0), Offset(0));
                Ok(Some(ends.get(&partition).copied().unwrap_or(nothing)))
            }
            Self::Unknown(_) => Ok(None),
        }
    }

    /// Whether the topic is another one by now than that of a plan, under the same name.
    async fn is_another(&self, plan: &Plan) -> Result<bool> {
        match self {
            Self::Log(log) => match log.topic(&plan.topic).await {
                Ok(info) => Ok(info.id != plan.topic_id),
                Err(LogError::NoTopic(_)) => Ok(false),
                Err(error) => Err(error.into()),
            },
            Self::Told(_, id) => Ok(id.as_ref().is_some_and(|id| *id != plan.topic_id)),
            Self::Unknown(_) => Ok(false),
        }
    }
}

/// `windrow verify`.
pub async fn run(args: Args) -> Result<()> {
    let Parts { store, ends, known, state } = parts(&args).await?;
    let report = verify(&store, &ends, &args.job, state).await?;
    ensure!(known || report.markers > 0, "job {} does not exist, and {} has no markers of it", args.job, store.url());
    if report.markers == 0 && report.findings.is_empty() {
        tell!("job {} has committed nothing yet", args.job);
    }
    if state.windows_complete.is_none() {
        tell!("warning: nobody was asked how many windows are complete: missing ones at the end can't be seen");
    }
    if let Ends::Unknown(why) = &ends {
        tell!("warning: the ends of the log were not checked: {why}");
    }
    let names = [args.job.to_string()];
    let printed = output::print(args.output.output, &report.value(&ends), &names, || report.text(&args.job));
    // Also when nobody wants to read it all.
    if !report.findings.is_empty() {
        bail!("the proof failed: {}", output::count(report.findings.len() as u64, "finding"));
    }
    printed
}

/// What a proof is made from.
struct Parts {
    store: Store,
    ends: Ends,
    /// Whether the job is known to exist.
    known: bool,
    state: State,
}

/// What the job has said of itself, before the markers are looked at. Nothing, where there is nobody to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// Up to where its windows are complete.
    pub through: Option<Timestamp>,
    /// How many it has completed.
    pub windows_complete: Option<u64>,
    /// Windows, or runs of them, that are to be run again or are being so.
    pub revisions_pending: Option<u64>,
    /// Batches that have failed and wait for somebody.
    pub batches_failed: u64,
}

fn state(status: windrow_wire::v1::JobStatus) -> State {
    State {
        through: status.complete_through.map(|time| convert::time(&time)),
        windows_complete: Some(status.windows_complete),
        revisions_pending: Some(status.revisions_pending),
        batches_failed: status.batches_failed,
    }
}

async fn parts(args: &Args) -> Result<Parts> {
    if let Some(folder) = &args.data_dir {
        let (store, database) = (place::store_in(folder)?, place::database_in(folder)?);
        let known = place::knows(&database, &args.job).await?;
        let revisions_pending = Some(place::revisions_pending(&database, &args.job).await?);
        let windows_complete = place::windows_complete(&database, &args.job).await?;
        let state = State { windows_complete, revisions_pending, ..State::default() };
        return Ok(Parts { store, ends: Ends::Log(database.log()), known, state });
    }
    if let Some(log) = args.kafka.reach("windrow-verify").await? {
        let client = args.store.server.connect().await.ok();
        let store = args.store.open(client.as_ref()).await?;
        let status = match &client {
            Some(client) => client.job(args.job.as_str()).await.ok().and_then(|job| job.status),
            None => None,
        };
        let known = status.is_some();
        return Ok(Parts { store, ends: Ends::Log(log), known, state: status.map(state).unwrap_or_default() });
    }
    let client = args.store.server.connect().await?;
    let store = args.store.open(Some(&client)).await?;
    match client.partitions(args.job.as_str()).await {
        Ok((partitions, topic_id)) => {
            let end = |partition: windrow_wire::v1::Partition| {
                let number = partition.name.rsplit('/').next().and_then(|number| number.parse().ok());
                let (start, end) = (Offset(partition.log_start_offset?), Offset(partition.high_watermark?));
                Some((PartitionId(number?), OffsetRange::new(start, end)))
            };
            let ends = Ends::Told(partitions.into_iter().filter_map(end).collect(), TopicId::new(topic_id).ok());
            let status = client.job(args.job.as_str()).await.map_err(said)?.status;
            Ok(Parts { store, ends, known: true, state: state(status.unwrap_or_default()) })
        }
        Err(status) if status.code() == Code::NotFound => {
            let why = "the coordinator does not know the job (any more), so it can't say; give --kafka";
            Ok(Parts { store, ends: Ends::Unknown(why.to_owned()), known: false, state: State::default() })
        }
        Err(status) => Err(said(status)),
    }
}

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
    taken_in: i64,
    /// Late readings that the first results of windows have called amended: of all, and of those that are settled.
    amended: (u64, u64),
    /// Files that markers name.
    named: BTreeSet<String>,
    /// Of windows whose retention has ended.
    expired: Expired,
    /// Windows that end by then are over and done with. Of those after it some batches may be committed before others,
    /// and some files be about to be published.
    settled: Timestamp,
    /// Windows that begin before this are complete, as the job itself has said: all of their first results is published.
    over: Option<Timestamp>,
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
    for (partition, mut markers) in batches {
        markers.sort_by_key(|marker| (marker.plan.window.id(), marker.plan.revision));
        report.partition(ends, partition, &markers).await?;
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
            .push(format!("{parked} failed and parked: their windows are not complete; `windrow describe {job}`"));
    }
    report.strays(published);
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
    async fn partition(&mut self, ends: &Ends, partition: PartitionId, markers: &[Marker]) -> Result<()> {
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
        let Some(log) = ends.of(&last.plan.topic, partition).await? else { return Ok(()) };
        if ends.is_another(&last.plan).await? {
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
        if let (Some(reason), Some(_)) = (&marker.skipped, marker.carried) {
            self.notes.push(format!("{at}: {} given up, the result before it stands: {reason}", marker.plan.revision));
        } else if let Some(reason) = &marker.skipped {
            self.notes.push(format!("{at}: skipped, up to {lost} offsets without a result: {reason}"));
        } else if lost > 0 {
            self.findings.push(format!("{at}: {lost} offsets were lost to retention"));
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
        let mut last = self.expired.through.or(complete.first().map(|marker| marker.plan.window.start));
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
    fn strays(&mut self, published: Vec<String>) {
        let is_gone = |path: &String| paths::window_of(path).is_some_and(|window| self.expired.covers(window));
        for path in published.into_iter().filter(|path| !self.named.contains(path) && !is_gone(path)) {
            self.findings.push(format!("{path} is named by no marker: it is not windrow's result"));
        }
    }

    fn value(&self, ends: &Ends) -> Value {
        json!({
            "clean": self.findings.is_empty(), "findings": self.findings, "notes": self.notes, "windows": self.windows,
            "windowsExpired": self.expired.windows, "batches": self.batches, "revisions": self.revisions, "files": self.files, "ledger": self.ledger,
            "logChecked": !matches!(ends, Ends::Unknown(_)),
        })
    }

    fn text(&self, job: &JobName) -> String {
        let ledger = &self.ledger;
        let counts = [
            ("windows", self.windows),
            ("batches", self.batches),
            ("revisions", self.revisions),
            ("files", self.files),
            ("on time", ledger.on_time),
            ("kept", ledger.kept),
            ("quarantined", ledger.quarantined),
            ("undecodable", ledger.undecodable),
            ("duplicate", ledger.duplicate),
            ("late", ledger.late),
            ("amended", ledger.amended),
            ("lost offsets", ledger.lost_offsets),
        ];
        let expired = Some(("expired", self.expired.windows)).filter(|(_, windows)| *windows > 0);
        let mut text = format!("job/{job} {}\n", if self.findings.is_empty() { "clean" } else { "NOT CLEAN" });
        expired.iter().chain(&counts).for_each(|(name, n)| text += &format!("  {name:13} {n:>12}\n"));
        self.notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
        self.findings.iter().for_each(|finding| text += &format!("  finding: {finding}\n"));
        text
    }
}
