//! etcd, built from its Go module: there is no package to install that works everywhere.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Service, Site, Work, http};
use crate::tools::Tool;

/// The etcd server, one member.
pub struct Etcd;

const MAIN_GO: &str = include_str!("../../services/etcd/main.go");
const GO_MOD: &str = include_str!("../../services/etcd/go.mod.in");

impl Service for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn version(&self) -> &'static str {
        "3.6.16"
    }

    fn install_cost(&self) -> &'static str {
        "built with Go, about 1 minute"
    }

    fn install_tools(&self) -> &'static [Tool] {
        &[Tool::Go]
    }

    fn ports(&self) -> (usize, Range<u16>) {
        (2, 21_000..22_000)
    }

    fn ready_limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn install(&self, work: &Work<'_>) -> Result<()> {
        let source = work.dir.join("source");
        fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
        fs::write(source.join("main.go"), MAIN_GO).context("writing main.go")?;
        fs::write(source.join("go.mod"), GO_MOD.replace("@VERSION@", self.version())).context("writing go.mod")?;
        // -mod=mod completes go.mod; Go always selects the least versions that satisfy it, so they stay pinned.
        work.run(go().args(["build", "-C", "source", "-mod=mod"]).args(LEAN).args(["-o", "../etcd", "."]))
    }

    fn command(&self, site: &Site<'_>) -> Result<Command> {
        let &[client, peer] = site.ports else { anyhow::bail!("etcd needs two ports") };
        let client = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new(site.home.join("etcd"));
        command.args(["--name", "windrow", "--log-level", "warn"]);
        command.arg("--data-dir").arg(site.work.dir.join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("windrow={peer}")]);
        Ok(command)
    }

    fn probe(&self, ports: &[u16]) -> Result<()> {
        http::expect_ok(ports[0], "/health")
    }

    fn variables(&self, home: &Path, ports: &[u16]) -> Vec<(&'static str, String)> {
        vec![
            ("WINDROW_TEST_ETCD", format!("http://127.0.0.1:{}", ports[0])),
            ("WINDROW_TEST_ETCD_HOME", home.display().to_string()),
        ]
    }
}

/// No paths and no debug information: the binaries link faster and are a third smaller.
pub const LEAN: [&str; 2] = ["-trimpath", "-ldflags=-s -w"];

/// Go without C, and allowed to fetch the Go version that a module names (distributions switch that off).
pub fn go() -> Command {
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0");
    if std::env::var_os("GOTOOLCHAIN").is_none() {
        go.env("GOTOOLCHAIN", "auto");
    }
    go
}
