//! One batch of a window, wherever it is known from.

use serde_json::{Value, json};
use windrow_protocol::Ledger;
use windrow_protocol::marker::{Complete, FileEntry, Marker};
use windrow_protocol::plan::Part;
use windrow_wire::v1::BatchState;
use windrow_wire::{convert, v1};

use crate::client::{last_segment, state_name};
use crate::output;

/// A batch as it is shown.
#[derive(Debug, Clone)]
pub struct BatchRow {
    part: Part,
    pub state: BatchState,
    /// Why it was given up, if it was.
    skipped: Option<String>,
    /// What of the log it reads; of a partition's batch.
    offsets: Option<(i64, i64)>,
    pub rows: u64,
    pub ledger: Option<Ledger>,
    /// Once it is committed.
    files: Vec<String>,
    /// While it is in flight: who has it.
    worker: Option<String>,
    /// While it is in flight: how often it has failed, and how the last time.
    failures: Option<u32>,
    last_error: Option<String>,
    /// How far a window of volume is seen to be filled.
    pub volume: Option<v1::Volume>,
}

fn paths(files: &[FileEntry]) -> Vec<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl BatchRow {
    /// What the coordinator says of a batch.
    pub fn in_flight(batch: &v1::Batch) -> Self {
        let part = last_segment(&batch.name).parse().unwrap_or(Part::Finish);
        Self {
            part,
            state: batch.state(),
            skipped: None,
            offsets: (part != Part::Finish).then_some((batch.start_offset, batch.end_offset)),
            rows: batch.rows,
            ledger: batch.ledger.as_ref().map(convert::counts),
            files: Vec::new(),
            worker: text(&batch.worker),
            failures: Some(batch.failures),
            last_error: text(&batch.last_error),
            volume: batch.volume.clone(),
        }
    }

    /// What a partition's marker says.
    pub fn committed(marker: &Marker) -> Self {
        let read = marker.plan.read;
        Self {
            offsets: Some((read.start.0, read.end.0)),
            rows: marker.files.iter().map(|file| file.rows).sum(),
            ledger: Some(marker.ledger),
            ..Self::of(Part::Partition(marker.plan.partition), marker.skipped.clone(), paths(&marker.files))
        }
    }

    /// What a window's marker says of its last step.
    pub fn completed(complete: &Complete) -> Self {
        let (rows, ledger) = (complete.rows, Some(complete.ledger));
        Self { rows, ledger, ..Self::of(Part::Finish, complete.skipped.clone(), paths(&complete.files)) }
    }

    fn of(part: Part, skipped: Option<String>, files: Vec<String>) -> Self {
        let state = BatchState::Committed;
        let (offsets, rows, ledger, worker, failures, last_error, volume) = (None, 0, None, None, None, None, None);
        Self { part, state, skipped, offsets, rows, ledger, files, worker, failures, last_error, volume }
    }

    /// `partition 3`, or `finish`.
    pub fn name(&self) -> String {
        match self.part {
            Part::Partition(partition) => format!("partition {partition}"),
            Part::Finish => "finish".to_owned(),
        }
    }

    /// Its last error on one line; empty if there is none.
    pub fn error(&self) -> String {
        self.last_error.as_deref().map(output::brief).unwrap_or_default()
    }

    /// Its last error, if there is one.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub fn value(&self) -> Value {
        let (partition, step) = match self.part {
            Part::Partition(partition) => (Some(partition), "map"),
            Part::Finish => (None, "finish"),
        };
        let volume = self.volume.as_ref();
        json!({
            "partition": partition, "step": step, "state": state_name(self.state.as_str_name(), "BATCH_STATE_"),
            "skipped": self.skipped, "offsets": self.offsets.map(|(start, end)| json!({"start": start, "end": end})),
            "rows": self.rows, "ledger": self.ledger, "files": self.files, "worker": self.worker,
            "failures": self.failures, "lastError": self.last_error,
            "volume": volume.map(|it| json!({"amount": it.amount, "wanted": it.wanted, "unit": it.unit})),
        })
    }
}
