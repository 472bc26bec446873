//! The proof, from markers, files and log alone: offsets without gap or overlap, files with their checksums, ledgers
//! that add up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tonic::Code;
use windrow_ports::Log;
use windrow_protocol::marker::{Committed, Complete, FileEntry, Marker};
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::Part;
use windrow_protocol::{
    JobName, Ledger, Offset, OffsetRange, PartitionId, Timestamp, TopicName, Window, WindowId, audit, paths,
};
use windrow_storage::Store;
use windrow_wire::convert;

use crate::client::said;
use crate::connect::KafkaFrom;
use crate::output::{self, OutputArgs};
use crate::place::{self, StoreFrom};
use crate::progress::Progress;

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
    /// The coordinator has said so, by partition: first offset, and the first that is not there yet.
    Told(BTreeMap<PartitionId, OffsetRange>),
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
            Self::Told(ends) => {
                let nothing = OffsetRange::new(Offset(0), Offset(0));
                Ok(Some(ends.get(&partition).copied().unwrap_or(nothing)))
            }
            Self::Unknown(_) => Ok(None),
        }
    }
}

/// `windrow verify`.
pub async fn run(args: Args) -> Result<()> {
    let Parts { store, ends, known, told } = parts(&args).await?;
    let report = verify(&store, &ends, &args.job, told).await?;
    ensure!(known || report.markers > 0, "job {} does not exist, and {} has no markers of it", args.job, store.url());
    if report.markers == 0 {
        eprintln!("job {} has committed nothing yet", args.job);
    }
    if let Ends::Unknown(why) = &ends {
        eprintln!("warning: the ends of the log were not checked: {why}");
    }
    let names = [args.job.to_string()];
    output::print(args.output.output, &report.value(&ends), &names, || report.text(&args.job))?;
    if !report.findings.is_empty() {
        bail!("the proof failed: {}", output::count(report.findings.len() as u64, "finding"));
    }
    Ok(())
}

/// What a proof is made from.
struct Parts {
    store: Store,
    ends: Ends,
    /// Whether the job is known to exist.
    known: bool,
    told: Told,
}

/// What a job says of itself; asked before the markers are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// All windows that end by then are complete.
    pub through: Option<Timestamp>,
    /// So many windows are complete.
    pub windows: u64,
}

async fn parts(args: &Args) -> Result<Parts> {
    if let Some(folder) = &args.data_dir {
        let (store, database) = (place::store_in(folder)?, place::database_in(folder)?);
        let known = place::knows(&database, &args.job).await?;
        return Ok(Parts { store, ends: Ends::Log(database.log()), known, told: Told::default() });
    }
    if let Some(log) = args.kafka.reach("windrow-verify").await? {
        let (store, told) = (args.store.open(None).await?, Told::default());
        return Ok(Parts { store, ends: Ends::Log(log), known: false, told });
    }
    let client = args.store.server.connect().await?;
    let store = args.store.open(Some(&client)).await?;
    match client.partitions(args.job.as_str()).await {
        Ok(partitions) => {
            let end = |partition: windrow_wire::v1::Partition| {
                let number = partition.name.rsplit('/').next().and_then(|number| number.parse().ok());
                let (start, end) = (Offset(partition.log_start_offset?), Offset(partition.high_watermark?));
                Some((PartitionId(number?), OffsetRange::new(start, end)))
            };
            let ends = Ends::Told(partitions.into_iter().filter_map(end).collect());
            let status = client.job(args.job.as_str()).await.map_err(said)?.status.unwrap_or_default();
            let through = status.complete_through.map(|time| convert::time(&time));
            let told = Told { through, windows: status.windows_complete };
            Ok(Parts { store, ends, known: true, told })
        }
        Err(status) if status.code() == Code::NotFound => {
            let why = "the coordinator does not know the job (any more), so it can't say; give --kafka";
            Ok(Parts { store, ends: Ends::Unknown(why.to_owned()), known: false, told: Told::default() })
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
    pub ledger: Ledger,
    /// Files that markers name.
    named: BTreeSet<String>,
    /// Windows that end by then are over and done with. Of those after it some batches may be committed before others,
    /// and some files be about to be published.
    settled: Timestamp,
}

/// Up to where all windows are complete, by their markers alone.
fn contiguous(complete: &[Complete]) -> Timestamp {
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
pub async fn verify(store: &Store, ends: &Ends, job: &JobName, told: Told) -> Result<Report> {
    let mut report = Report::default();
    // Before the markers: whatever is published by now has a marker by then, also while the job runs.
    let published = published(store, job).await?;
    let mut batches: BTreeMap<PartitionId, Vec<Marker>> = BTreeMap::new();
    let mut complete = Vec::new();
    let objects = store.list(&paths::commits(job)).await?;
    let mut progress = Progress::new("verifying", 2 * objects.len() as u64, "steps");
    for object in objects {
        report.markers += 1;
        progress.inc(1);
        match paths::parse_marker(&object.path) {
            None => report.findings.push(format!("{} is no marker", object.path)),
            Some((_, window, Part::Finish, _)) => {
                let marker = store.read_marker::<Complete>(&object.path).await?;
                report.expect_own_place(&object.path, marker.as_ref().is_some_and(|m| m.plan.window.id() == window));
                complete.extend(marker);
            }
            Some((_, window, Part::Partition(partition), _)) => {
                let marker = store.read_marker::<Marker>(&object.path).await?;
                let own = |m: &Marker| m.plan.window.id() == window && m.plan.partition == partition;
                report.expect_own_place(&object.path, marker.as_ref().is_some_and(own));
                batches.entry(partition).or_default().extend(marker);
            }
        }
    }
    complete.sort_by_key(|marker| marker.plan.window.start);
    let mut by_window: BTreeMap<WindowId, Vec<&Marker>> = BTreeMap::new();
    batches.values().flatten().for_each(|marker| by_window.entry(marker.plan.window.id()).or_default().push(marker));
    report.chain(&complete, told.through);
    report.settled = told.through.unwrap_or_else(|| contiguous(&complete));
    for marker in &complete {
        report.windows += marker.plan.windows;
        let window = marker.plan.window.id();
        let found = audit::window(marker, by_window.get(&window).map_or(&[], Vec::as_slice));
        report.findings.extend(found.into_iter().map(|what| format!("window {window}: {what}")));
        let skipped = marker.skipped.iter().map(|reason| format!("window {window}: its reduce was skipped: {reason}"));
        report.notes.extend(skipped);
        report.files(store, marker, marker.plan.window, marker.plan.until).await?;
        progress.inc(1);
    }
    drop(by_window);
    if report.windows < told.windows {
        let (missing, told) = (told.windows - report.windows, told.windows);
        let markers = output::count(missing, "window");
        report.findings.push(format!("{told} windows are complete, but {markers} of them have no _complete marker"));
    }
    for (partition, mut markers) in batches {
        markers.sort_by_key(|marker| marker.plan.owned.end);
        report.partition(ends, partition, &markers).await?;
        for marker in &markers {
            report.files(store, marker, marker.plan.window, marker.plan.window.end).await?;
            progress.inc(1);
        }
    }
    report.strays(published);
    Ok(report)
}

/// Whether a file is about to be published: it is still where its attempt wrote it.
async fn is_being_published(store: &Store, file: &FileEntry) -> Result<bool> {
    Ok(store.size(&file.path).await?.is_none() && store.size(&file.staged).await?.is_some())
}

/// All files where readers look.
async fn published(store: &Store, job: &JobName) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for dataset in [Dataset::Data, Dataset::Parts, Dataset::Late, Dataset::Quarantine] {
        paths.extend(store.list(&paths::dataset(job, dataset)).await?.into_iter().map(|object| object.path));
    }
    Ok(paths)
}

impl Report {
    fn expect_own_place(&mut self, path: &str, own: bool) {
        if !own {
            self.findings.push(format!("{path} is the marker of another window or partition than its name says"));
        }
    }

    async fn partition(&mut self, ends: &Ends, partition: PartitionId, markers: &[Marker]) -> Result<()> {
        for pair in markers.windows(2) {
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
        for marker in markers {
            self.batches += 1;
            self.ledger = self.ledger.plus(&marker.ledger);
            let window = marker.plan.window.id();
            let found = audit::marker(marker);
            self.findings
                .extend(found.into_iter().map(|what| format!("window {window} partition {partition}: {what}")));
            if let Some(reason) = &marker.skipped {
                let lost = marker.ledger.lost_offsets;
                self.notes.push(format!("window {window} partition {partition}: {lost} offsets skipped: {reason}"));
            } else if marker.ledger.lost_offsets > 0 {
                let lost = marker.ledger.lost_offsets;
                self.findings
                    .push(format!("window {window} partition {partition}: {lost} offsets were lost to retention"));
            }
        }
        let (Some(first), Some(last)) = (markers.first(), markers.last()) else { return Ok(()) };
        let Some(log) = ends.of(&last.plan.topic, partition).await? else { return Ok(()) };
        if log.end < last.plan.owned.end {
            self.findings
                .push(format!("partition {partition}: the log ends before the last batch does: is it the same topic?"));
        } else if log.start < first.plan.owned.start {
            // A job begins where the log began, and logs only lose offsets at their start.
            self.findings.push(format!(
                "partition {partition}: the log has offsets from {} on, but the first batch owns them from {} on: \
                 markers before it are gone",
                log.start, first.plan.owned.start
            ));
        }
        Ok(())
    }

    /// Up to where the job says that all windows are complete, none may be without a `_complete` marker.
    fn chain(&mut self, complete: &[Complete], through: Option<Timestamp>) {
        let Some(through) = through else { return };
        let mut last = complete.first().map(|marker| marker.plan.window.start);
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

    /// Files that no marker names: readers would count them too.
    fn strays(&mut self, published: Vec<String>) {
        for path in published.into_iter().filter(|path| !self.named.contains(path)) {
            self.findings.push(format!("{path} is named by no marker: it is not windrow's result"));
        }
    }

    async fn files(&mut self, store: &Store, marker: &impl Committed, window: Window, end: Timestamp) -> Result<()> {
        for file in marker.files() {
            self.files += 1;
            self.named.insert(file.path.clone());
            let is_settled = match window.volume {
                Some(_) => !is_being_published(store, file).await?,
                None => end <= self.settled,
            };
            match store.size(&file.path).await? {
                None if !is_settled => {}
                None => self.findings.push(format!("{} is missing", file.path)),
                Some(_) if store.sha256(&file.path).await? != file.sha256 => {
                    self.findings.push(format!("{} is not what was committed: its checksum differs", file.path));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn value(&self, ends: &Ends) -> Value {
        json!({
            "clean": self.findings.is_empty(), "findings": self.findings, "notes": self.notes, "windows": self.windows,
            "batches": self.batches, "files": self.files, "ledger": self.ledger,
            "logChecked": !matches!(ends, Ends::Unknown(_)),
        })
    }

    fn text(&self, job: &JobName) -> String {
        let ledger = &self.ledger;
        let counts = [
            ("windows", self.windows),
            ("batches", self.batches),
            ("files", self.files),
            ("on time", ledger.on_time),
            ("kept", ledger.kept),
            ("quarantined", ledger.quarantined),
            ("duplicate", ledger.duplicate),
            ("late", ledger.late),
            ("lost offsets", ledger.lost_offsets),
        ];
        let mut text = format!("job/{job} {}\n", if self.findings.is_empty() { "clean" } else { "NOT CLEAN" });
        counts.iter().for_each(|(name, n)| text += &format!("  {name:13} {n:>12}\n"));
        self.notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
        self.findings.iter().for_each(|finding| text += &format!("  finding: {finding}\n"));
        text
    }
}
