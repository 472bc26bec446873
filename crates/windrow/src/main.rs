//! The `windrow` binary: the only place where roles and adapters meet.

/// Prints a line for the person, who may be gone: then it is lost, and nothing else.
macro_rules! tell {
    ($($arg:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($arg)*)));
    }};
}

mod cat;
mod client;
mod cluster;
mod connect;
mod demo;
mod diff;
mod doctor;
mod history;
mod job_file;
mod output;
mod place;
mod progress;
mod roles;
mod send;
mod serve;
mod validate;
mod verify;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::client::{apply, backfill, describe, jobs, partitions, wait, windows, workers};

/// Exactly-once batch jobs for fleets of devices.
///
/// Exit codes: 0 done; 1 failed, or the answer is no (not valid, not clean, not in time); 2 the command line is wrong.
/// Data goes to stdout, everything else to stderr. NO_COLOR switches colours off.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the main job in small: replay two traffic detectors, commit their days, print the result, prove it.
    Demo {
        /// Folder to keep everything in; a temporary one, kept for a look, if absent.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
    /// All roles in one process over embedded parts.
    Dev(roles::DevArgs),
    /// Take readings over HTTP and write them to Kafka.
    Gateway(roles::GatewayArgs),
    /// Cut windows, hand out batches, serve the API. Several may run; one leads.
    Coordinator(roles::CoordinatorArgs),
    /// Run batches and commit their results. Any number may run.
    Worker(roles::WorkerArgs),
    Send(Box<send::SendArgs>),
    /// Create jobs from files, or change those that exist.
    Apply(apply::Args),
    /// Check job files: fields, times, SQL, and with --server the topic. Exits with 1 if one is wrong.
    Validate(validate::Args),
    /// Run complete windows again with the job's spec of now; pause, resume or cancel that.
    Backfill(Box<backfill::Args>),
    /// List jobs, windows, partitions, backfills or workers.
    #[command(subcommand)]
    Get(Get),
    /// Everything about one job, and what to try next.
    Describe(jobs::JobArgs),
    /// Print a job whenever it changes.
    Watch(jobs::JobArgs),
    /// Wait until windows are complete. Exits with 1 if they are not in time, or a batch of theirs is parked; not for a new
    /// revision that is, whose window has its result before.
    Wait(wait::Args),
    /// Delete a job. Its output stays.
    Delete(jobs::ChangeArgs),
    /// Stop planning and handing out batches of a job; what runs is finished.
    Pause(jobs::PauseArgs),
    /// Go on with a paused job.
    Resume(jobs::ChangeArgs),
    /// Try the failed batches of a window again.
    Retry(jobs::RetryArgs),
    /// Give up the failed batches of a window: it completes without their results, and the gap has a reason.
    Skip(jobs::SkipArgs),
    /// Stop the batches of a window that wait or run, and park them, to be tried again or given up.
    Cancel(jobs::CancelArgs),
    /// Print a window's committed output.
    Cat(cat::Args),
    /// What a revision of a window has changed: the rows that it removed, and those that it added.
    Diff(diff::Args),
    /// Prove from markers, files and log that every reading is counted once. Exits with 1 if not.
    Verify(verify::Args),
    /// Examine a Kafka, an etcd and an object store: what windrow can rely on there. Exits with 1 if something is broken.
    ///
    /// Makes and deletes topics `windrow-doctor-*`, keys under `/windrow-doctor-*` and objects under `_probe/`.
    Doctor(doctor::Args),
    /// Print the completion script of a shell.
    Completion {
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum Get {
    /// Jobs.
    #[command(visible_alias = "job")]
    Jobs(jobs::GetArgs),
    /// Windows of a job: complete, and in flight.
    #[command(visible_alias = "window")]
    Windows(windows::GetArgs),
    /// Partitions of a job's topic: how far they are cut.
    #[command(visible_alias = "partition")]
    Partitions(partitions::GetArgs),
    /// Backfills that run, and the newest that are done.
    #[command(visible_alias = "backfill")]
    Backfills(backfill::GetArgs),
    /// Workers that are alive.
    #[command(visible_alias = "worker")]
    Workers(workers::GetArgs),
}

/// Stack of every thread that may plan or run SQL: its planner recurses over expressions. Only what is used is taken.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// How long threads that are still at work when everything else has ended are waited for.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let roles = matches!(command, Command::Dev(_) | Command::Gateway(_) | Command::Coordinator(_) | Command::Worker(_));
    let filter = tracing_subscriber::EnvFilter::try_from_env("WINDROW_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(if roles { "info,datafusion=warn" } else { "warn" }));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Whoever read the log may be gone. Then lines are lost, and nothing else: by default that is told on the same broken
    // stderr, with a panic in whatever was about to log.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    subscriber.with_writer(std::io::stderr).log_internal_errors(false).init();
    let answers = !matches!(command, Command::Send(_));
    match run_on_large_stacks(command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough, as `head` has. What was to be sent was not.
        Err(error) if answers && is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_on_large_stacks(command: Command) -> Result<()> {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()?;
        let result = runtime.block_on(run(command));
        // A query that never pauses must not keep a role from ending: it has committed nothing.
        runtime.shutdown_timeout(LAST_PATIENCE);
        result
    })?;
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("windrow has panicked; see above")))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error.chain().any(|cause| io(cause) == Some(std::io::ErrorKind::BrokenPipe))
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo { data_dir } => demo::run(data_dir).await,
        Command::Dev(args) => roles::dev(args).await,
        Command::Gateway(args) => roles::gateway(args).await,
        Command::Coordinator(args) => roles::coordinator(args).await,
        Command::Worker(args) => roles::worker(args).await,
        Command::Send(args) => send::run(*args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Validate(args) => validate::run(args).await,
        Command::Get(Get::Jobs(args)) => jobs::get(args).await,
        Command::Get(Get::Windows(args)) => windows::get(args).await,
        Command::Get(Get::Partitions(args)) => partitions::get(args).await,
        Command::Backfill(args) => backfill::run(*args).await,
        Command::Get(Get::Backfills(args)) => backfill::get(args).await,
        Command::Get(Get::Workers(args)) => workers::get(args).await,
        Command::Describe(args) => describe::run(args).await,
        Command::Watch(args) => jobs::watch(args).await,
        Command::Wait(args) => wait::run(args).await,
        Command::Delete(args) => jobs::delete(args).await,
        Command::Pause(args) => jobs::pause(args).await,
        Command::Resume(args) => jobs::resume(args).await,
        Command::Retry(args) => jobs::retry(args).await,
        Command::Skip(args) => jobs::skip(args).await,
        Command::Cancel(args) => jobs::cancel(args).await,
        Command::Cat(args) => cat::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "windrow", &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
