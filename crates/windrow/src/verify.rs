//! The proof, from markers, files and log alone: offsets without gap or overlap, files with their checksums, ledgers
//! that add up.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use windrow_protocol::JobName;

use crate::connect::KafkaFrom;
use crate::output::{self, OutputArgs};
use crate::place::StoreFrom;

mod proof;
mod revisions;
mod source;

use proof::Report;
pub use proof::verify;
use source::Parts;
pub use source::{Ends, State};

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

/// `windrow verify`.
pub async fn run(args: Args) -> Result<()> {
    let Parts { store, ends, known, state } = source::parts(&args).await?;
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

impl Report {
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
