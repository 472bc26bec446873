//! `cargo xtask`: the project's own commands. Installs and runs the real services, tests, checks the layout.

mod cache;
mod layout;
mod process;
mod progress;
mod services;
mod tools;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;
use crate::process::Abort;
use crate::progress::{say, timed};
use crate::services::{Session, Stay};
use crate::tools::Tool;

/// Build, test and check windrow.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Cli {
    /// The real Kafka, etcd and S3 server that tests use.
    #[command(subcommand)]
    Services(Services),
    /// Every test, against real services that this fetches and starts.
    Test {
        /// Passed on to `cargo test --workspace`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Formatting, lints, layout, tests: what must hold before a commit that matters.
    Verify,
    /// Who may depend on whom, how long files are.
    Layout,
    /// The benchmarks, in release mode, against real services.
    Bench {
        /// Passed on to the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Subcommand)]
enum Services {
    /// Installs what is missing and starts what does not run. They stay until `down`.
    Up(Chosen),
    /// Stops them.
    Down(Chosen),
    /// Says what runs.
    Status,
    /// Prints the variables by which tests find them, for `eval`.
    Env,
}

/// Some of the services; all if none is named.
#[derive(Args, Clone, Copy)]
struct Chosen {
    #[arg(long)]
    kafka: bool,
    #[arg(long)]
    etcd: bool,
    #[arg(long)]
    s3: bool,
}

impl Chosen {
    fn services(self) -> Vec<&'static dyn services::Service> {
        services::selected(self.kafka, self.etcd, self.s3)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli {
        Cli::Services(command) => run_services(command),
        Cli::Test { args } => test(&args),
        Cli::Verify => verify(),
        Cli::Layout => layout::check(),
        Cli::Bench { args } => bench(&args),
    }
}

fn run_services(command: Services) -> Result<()> {
    let cache = Cache::locate()?;
    match command {
        Services::Up(chosen) => services::up(&cache, &chosen.services(), Stay::Yes).map(drop),
        Services::Down(chosen) => services::down(&cache, &chosen.services()),
        Services::Status => {
            services::status(&cache)?.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Services::Env => {
            services::variables(&cache)?.iter().for_each(|(name, value)| println!("export {name}={value}"));
            Ok(())
        }
    }
}

/// Compiles while the services are installed, since both take minutes; then runs.
fn test(args: &[String]) -> Result<()> {
    tools::require(&[Tool::Cc])?;
    let cache = Cache::locate()?;
    let (abort, all) = (Abort::default(), services::selected(false, false, false));
    std::thread::scope(|scope| {
        let installing = scope.spawn(|| services::install(&cache, &all, &abort));
        let compiled = timed("test", "compilation", || cargo(&["test", "--workspace", "--no-run"], &[]));
        if compiled.is_err() {
            abort.request();
        }
        let installed = installing.join().unwrap_or_else(|_| bail!("the installation panicked"));
        compiled.and(installed)
    })?;
    let _session = Session::start(&cache, &all)?;
    let mut all_args = vec!["test", "--workspace"];
    all_args.extend(args.iter().map(String::as_str));
    let variables = services::variables(&cache)?;
    timed("test", "all tests", || cargo(&all_args, &variables))
}

fn verify() -> Result<()> {
    timed("verify", "formatting", || cargo(&["fmt", "--all", "--check"], &[]))?;
    timed("verify", "layout", layout::check)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    timed("verify", "clippy", || cargo(&clippy, &[]))?;
    test(&[])
}

fn bench(args: &[String]) -> Result<()> {
    let cache = Cache::locate()?;
    // The benchmark starts roles as processes: `windrow` lies beside it.
    cargo(&["build", "--release", "-p", "windrow-bench", "-p", "windrow"], &[])?;
    let _session = Session::start(&cache, &services::selected(false, false, false))?;
    let mut all_args = vec!["run", "--release", "-p", "windrow-bench", "--"];
    all_args.extend(args.iter().map(String::as_str));
    cargo(&all_args, &services::variables(&cache)?)
}

fn cargo(args: &[&str], variables: &[(&'static str, String)]) -> Result<()> {
    say("cargo", &args.join(" "));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    // Cargo has described this package to the program that it runs. Build scripts that look at such variables would run
    // anew, and all that depends on them (DataFusion, for one) would be compiled once for `cargo run` and once for here.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.args(args).envs(variables.iter().map(|(name, value)| (name, value)));
    let status = command.status().context("starting cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo {} ended with {status}", args.join(" ")) }
}
