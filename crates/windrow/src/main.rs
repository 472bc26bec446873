//! The `windrow` binary: the only place where roles and adapters meet.

mod client;
mod cluster;
mod connect;
mod demo;
mod job;
mod roles;
mod send;
mod serve;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use windrow_protocol::{JobName, Timestamp};

use crate::client::{Kind, Output, ServerArgs, Until};
use crate::connect::{KafkaArgs, StoreArgs};

/// Exactly-once batch jobs for fleets of devices.
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
    Apply {
        /// Job files.
        #[arg(short = 'f', long = "file", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
        /// Check everything, store nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List jobs, the windows of a job that are in flight, or workers.
    Get {
        kind: Kind,
        /// Only this job.
        #[arg(long)]
        job: Option<String>,
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Everything about one job.
    Describe {
        job: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Print a job's status whenever it changes.
    Watch {
        job: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Wait until windows are complete. Exits with 1 if they are not in time.
    Wait {
        job: String,
        /// As many windows are complete, empty ones included.
        #[arg(long, conflicts_with = "until", required_unless_present = "until")]
        windows: Option<u64>,
        /// All windows that end by this time (RFC 3339) are complete.
        #[arg(long)]
        until: Option<Timestamp>,
        /// Seconds to wait at most, e.g. `60s`.
        #[arg(long, default_value = "60s", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Check job files as far as that needs no cluster: fields, times, SQL. Exits with 1 if one is wrong.
    Validate {
        /// Job files.
        #[arg(short = 'f', long = "file", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Delete a job. Its output stays.
    Delete {
        job: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Stop planning and handing out batches of a job; what runs is finished.
    Pause {
        job: String,
        /// Why, for those who wonder later.
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Go on with a paused job.
    Resume {
        job: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Try the failed batches of a window again.
    Retry {
        job: String,
        /// Start of the window, e.g. `20150901T050000Z`.
        window: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Prove from markers, files and log that every reading is counted once. Exits with 1 if not.
    Verify {
        job: JobName,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Print the completion script of a shell.
    Completion {
        shell: clap_complete::Shell,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    digits.parse().map(Duration::from_secs).map_err(|_| "expected seconds, e.g. 60s".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let roles = matches!(command, Command::Dev(_) | Command::Gateway(_) | Command::Coordinator(_) | Command::Worker(_));
    let filter = tracing_subscriber::EnvFilter::try_from_env("WINDROW_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(if roles { "info,datafusion=warn" } else { "warn" }));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo { data_dir } => demo::run(data_dir).await,
        Command::Dev(args) => roles::dev(args).await,
        Command::Gateway(args) => roles::gateway(args).await,
        Command::Coordinator(args) => roles::coordinator(args).await,
        Command::Worker(args) => roles::worker(args).await,
        Command::Send(args) => send::run(*args).await,
        Command::Apply { files, dry_run, server } => client::apply(&server, &files, dry_run).await,
        Command::Get { kind, job, output, server } => client::get(&server, kind, job.as_deref(), output).await,
        Command::Describe { job, server } => client::describe(&server, &job).await,
        Command::Watch { job, server } => client::watch(&server, &job).await,
        Command::Wait { job, windows, until, timeout, server } => {
            // clap sees to it that one of the two is there.
            let until = until.map_or(Until::Windows(windows.unwrap_or(1)), Until::Time);
            client::wait(&server, &job, until, timeout).await
        }
        Command::Validate { files } => job::validate(&files).await,
        Command::Delete { job, server } => client::delete(&server, &job).await,
        Command::Pause { job, note, server } => client::pause(&server, &job, note).await,
        Command::Resume { job, server } => client::resume(&server, &job).await,
        Command::Retry { job, window, server } => client::retry(&server, &job, &window).await,
        Command::Verify { job, store, kafka } => {
            let log = kafka.connect("windrow-verify").await?;
            let report = verify::verify(&store.open()?, &*log, &job).await?;
            verify::print(&report)
        }
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
