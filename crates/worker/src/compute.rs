//! The heavy part of a batch: reading, decoding, SQL, Parquet. It keeps a thread of its own busy, so that the runtime's
//! threads stay free for leases and reports.
//!
//! A window of volume is read until it ends. What comes to the query before that is known is lost work if the window turns
//! out not to be full; the coordinator sees to it that this is rare.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use windrow_ports::Log;
use windrow_processing::parquet::{FILE_BYTES, Writer, WrittenFile};
use windrow_processing::{BatchStream, Engine, ProcessingError};
use windrow_protocol::paths::Dataset;
use windrow_protocol::revise::Amends;
use windrow_protocol::volume::{Fill, Seen};
use windrow_protocol::{JobSpec, Ledger, OffsetRange, Plan};

use crate::SharedReads;
use crate::attempt::{AttemptError, expect_topic};
use crate::intake::{Intake, Taken, quarantine_schema};

/// Batches of `readings` between reading and SQL.
const QUEUE: usize = 2;
/// Stack of a batch's thread: plans of SQL recurse over expressions. Only what is used is taken.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Where the heavy part of a batch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a thread of its own.
    OwnThread,
    /// In the task that waits for it: a simulation has but one thread.
    InPlace,
}

impl Place {
    /// Runs work that may block. It ends early when nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl Future<Output = Result<T, AttemptError>> + Send + 'static,
    ) -> Result<T, AttemptError> {
        match self {
            Self::OwnThread => on_own_thread(work).await,
            Self::InPlace => work.await,
        }
    }
}

async fn on_own_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T, AttemptError>> + Send + 'static,
) -> Result<T, AttemptError> {
    let (runtime, abandoned) = (tokio::runtime::Handle::current(), CancellationToken::new());
    let _guard = abandoned.clone().drop_guard();
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("batch".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        if let Some(result) = runtime.block_on(abandoned.run_until_cancelled(work)) {
            // Whoever waited may be gone.
            let _ = tell.send(result);
        }
    })?;
    told.await.unwrap_or_else(|_| Err(AttemptError::Retry("the batch's thread panicked".to_owned())))
}

/// What a map batch needs.
pub struct Map {
    pub log: Arc<dyn Log>,
    pub shared: SharedReads,
    pub engine: Engine,
    pub spec: JobSpec,
    pub plan: Plan,
    /// What of the plan's ranges the log still has; of a window of volume, where it may lie.
    pub ranges: Vec<OffsetRange>,
    /// Readings of the window are set aside and nothing is computed: see [`Intake::only_aside`].
    pub only_aside: bool,
    /// The dataset that the map's output is.
    pub result: Dataset,
    /// Folder for its files.
    pub folder: PathBuf,
}

/// What it made.
pub struct Computed {
    pub outputs: Vec<(Dataset, Vec<WrittenFile>)>,
    pub ledger: Ledger,
    pub quarantine_reasons: Vec<String>,
    pub absent: Vec<String>,
    pub amends: Option<Amends>,
    /// Of a window of volume: where it ends, and what is in it.
    pub found: Option<Seen>,
}

/// What the feed has read.
struct Fed {
    intake: Intake,
    sides: Sides,
    found: Option<Seen>,
}

impl Map {
    /// Reads the range, runs the map, and writes all outputs to the folder.
    pub async fn run(self) -> Result<Computed, AttemptError> {
        let (tell, told) = mpsc::channel(QUEUE);
        let (fed, written) = tokio::join!(self.feed(tell), self.query(told));
        // A feed that failed is the cause, whatever the query made of what it got.
        let Fed { intake, sides: Sides { late, quarantine }, found } = fed?;
        let (ledger, quarantine_reasons) = intake.ledger();
        let (amends, absent) = (intake.amends().cloned(), intake.absent());
        let outputs =
            vec![(self.result, written?), (Dataset::Late, late.finish()?), (Dataset::Quarantine, quarantine.finish()?)];
        Ok(Computed { outputs, ledger, quarantine_reasons, absent, amends, found })
    }

    /// Reads a window of volume to find its end, and computes nothing.
    pub async fn find(self) -> Result<Option<Seen>, AttemptError> {
        let (tell, told) = mpsc::channel(QUEUE);
        drop(told);
        self.feed(tell).await.map(|fed| fed.found)
    }

    /// Runs the map over what is fed, once there is any: without readings there are no rows, also where an aggregate
    /// would give one of nothing.
    async fn query(&self, mut told: mpsc::Receiver<RecordBatch>) -> Result<Vec<WrittenFile>, ProcessingError> {
        let Some(first) = told.recv().await else { return Ok(Vec::new()) };
        let rest = futures::stream::poll_fn(move |cx| told.poll_recv(cx));
        let input = futures::stream::iter([first]).chain(rest).boxed();
        write(&self.folder, self.result, self.engine.map(&self.spec, input).await?).await
    }

    /// Hands the range's readings to the query, batch by batch; writes what is late or quarantined.
    async fn feed(&self, tell: mpsc::Sender<RecordBatch>) -> Result<Fed, AttemptError> {
        let start = self.ranges.first().map_or(self.plan.read.start, |range| range.start);
        let mut fill = self.plan.volume().map(|cut| Fill::new(cut.until, start));
        let intake = Intake::new(&self.spec, &self.plan).map_err(|error| AttemptError::Park(error.to_string()))?;
        let mut intake = if self.only_aside { intake.only_aside() } else { intake };
        let mut sides = Sides {
            late: writer(&self.folder, Dataset::Late, intake.schema()),
            quarantine: writer(&self.folder, Dataset::Quarantine, quarantine_schema()),
        };
        'reading: for range in self.ranges.iter().filter(|range| !range.is_empty()) {
            let mut records = self.shared.read(&self.log, &self.plan, *range);
            while let Some(chunk) = records.try_next().await? {
                for record in &chunk {
                    if fill.as_mut().is_some_and(|fill| !fill.admits(record.offset, record.timestamp)) {
                        break 'reading;
                    }
                    let readings = intake.push(record);
                    if intake.is_ready() {
                        hand_on(&mut intake, &mut sides, &tell).await?;
                    }
                    if let Some(fill) = &mut fill {
                        fill.add(readings, record.payload.len() as u64);
                        if fill.has_ended() {
                            break 'reading;
                        }
                    }
                }
            }
        }
        if self.ranges.iter().any(|range| !range.is_empty()) {
            // It may have been made anew while it was read.
            expect_topic(&*self.log, &self.plan).await?;
        }
        let found = fill.map(|fill| self.end_of(fill)).transpose()?;
        hand_on(&mut intake, &mut sides, &tell).await?;
        Ok(Fed { intake, sides, found })
    }

    /// Where a window of volume ends of which the whole range was read: where the rule says, or where it is sealed.
    fn end_of(&self, fill: Fill) -> Result<Seen, AttemptError> {
        let is_sealed = self.plan.volume().is_some_and(|cut| cut.sealed_at.is_some());
        let end = self.ranges.last().map_or(self.plan.read.start, |range| range.end);
        fill.close(end).or_else(|seen| if is_sealed { Ok(seen) } else { Err(AttemptError::Short(seen)) })
    }
}

/// Where readings go that are not given to the query.
struct Sides {
    late: Writer,
    quarantine: Writer,
}

/// Gives everything that was taken in to where it goes.
async fn hand_on(intake: &mut Intake, sides: &mut Sides, tell: &mpsc::Sender<RecordBatch>) -> Result<(), AttemptError> {
    let Taken { on_time, late, quarantine } = intake.take().map_err(|error| AttemptError::Park(error.to_string()))?;
    late.map(|batch| sides.late.write(&batch)).transpose()?;
    quarantine.map(|batch| sides.quarantine.write(&batch)).transpose()?;
    if let Some(batch) = on_time {
        // A query that has ended (LIMIT) needs no more.
        let _ = tell.send(batch).await;
    }
    Ok(())
}

fn writer(folder: &Path, dataset: Dataset, schema: SchemaRef) -> Writer {
    Writer::new(folder, dataset.folder(), schema, FILE_BYTES)
}

/// Writes a query's output to files in a folder.
pub async fn write(
    folder: &Path,
    dataset: Dataset,
    mut output: BatchStream,
) -> Result<Vec<WrittenFile>, ProcessingError> {
    let mut writer = writer(folder, dataset, output.schema.clone());
    while let Some(batch) = output.batches.try_next().await? {
        writer.write(&batch)?;
    }
    writer.finish()
}
