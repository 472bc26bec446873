//! The `windrow` binary: the only place where roles and adapters meet.

mod cluster;
mod demo;
mod job;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Check job files as far as that needs no cluster: fields, times, SQL. Exits with 1 if one is wrong.
    Validate {
        /// Job files.
        #[arg(short = 'f', long = "file", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WINDROW_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match Cli::parse().command {
        Command::Demo { data_dir } => demo::run(data_dir).await,
        Command::Validate { files } => job::validate(&files).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
