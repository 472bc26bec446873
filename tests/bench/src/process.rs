//! A windrow role as a process, killed when dropped, and waiting for it to be ready.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a role may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // Nothing is left to tidy: its data is in temporary folders and topics of this run.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Role {
    /// Starts `windrow ARGS` from the folder of this program.
    pub fn start(args: &[&str]) -> Result<Self> {
        let program = program()?;
        let mut command = Command::new(&program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("starting {}", program.display()))?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until a URL answers 200; how long that took.
    pub async fn ready(&mut self, client: &reqwest::Client, url: &str) -> Result<Duration> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if client.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(began.elapsed());
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("windrow ended with {status} before it was ready");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("{url} was not ready within {PATIENCE:?}")
    }
}

fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("windrow");
    if program.exists() {
        Ok(program)
    } else {
        bail!("{} is not there: cargo build --release -p windrow", program.display())
    }
}

/// A port that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
