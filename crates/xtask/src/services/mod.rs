//! The real services that tests run against: what they are, how to get them, how to start and stop them.
//! Each service says only what is special about it; `lifecycle` does the rest, the same for all.

mod etcd;
mod http;
mod kafka;
mod lifecycle;
mod minio;
mod ports;
mod state;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

pub use self::lifecycle::{Session, Stay, down, install, status, up, variables};
use crate::process::{Abort, run_logged};
use crate::tools::Tool;

/// A service as tests meet it.
pub trait Service: Sync {
    /// Its name in messages, folders and the state file.
    fn name(&self) -> &'static str;
    /// The pinned version. Another version is installed beside it, never over it.
    fn version(&self) -> &'static str;
    /// What a first install costs, said before it starts.
    fn install_cost(&self) -> &'static str;
    /// Programs needed once, to install it.
    fn install_tools(&self) -> &'static [Tool];
    /// Programs needed each time it runs.
    fn run_tools(&self) -> &'static [Tool] {
        &[]
    }
    /// How many ports it listens on, and the range they are chosen from. Ranges of services are disjoint, and below
    /// the ephemeral ports that the system hands to clients.
    fn ports(&self) -> (usize, Range<u16>);
    /// How long it may take from its start to its first answer.
    fn ready_limit(&self) -> Duration;
    /// Fetches or builds everything into the folder of `work`.
    fn install(&self, work: &Work<'_>) -> Result<()>;
    /// Writes settings below the run folder and gives the command of the server. Its arguments must hold the run
    /// folder's path: that is how the process is recognised later.
    fn command(&self, site: &Site<'_>) -> Result<Command>;
    /// Whether it answers requests on these ports.
    fn probe(&self, ports: &[u16]) -> Result<()>;
    /// The environment variables through which tests find it, and where it is installed: some tests start clusters of
    /// their own.
    fn variables(&self, home: &Path, ports: &[u16]) -> Vec<(&'static str, String)>;
}

/// A folder to work in, and where the output of the commands goes.
pub struct Work<'a> {
    pub who: &'a str,
    pub dir: &'a Path,
    pub log: PathBuf,
    pub abort: &'a Abort,
}

impl Work<'_> {
    /// Runs a command in the folder, to its end.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        run_logged(self.who, command.current_dir(self.dir), &self.log, self.abort)
    }
}

/// Where one run of a service takes place.
pub struct Site<'a> {
    /// The installed, read-only files.
    pub home: &'a Path,
    /// The fresh folder of this run.
    pub work: Work<'a>,
    /// As many as the service asked for.
    pub ports: &'a [u16],
}

/// Every service, in the order in which they get ready.
pub const ALL: [&dyn Service; 3] = [&etcd::Etcd, &kafka::Kafka, &minio::Minio];

/// The chosen ones; all if none is chosen.
pub fn selected(kafka: bool, etcd: bool, s3: bool) -> Vec<&'static dyn Service> {
    let none = !(kafka || etcd || s3);
    let choices: [(bool, &'static dyn Service); 3] = [(etcd, &etcd::Etcd), (kafka, &kafka::Kafka), (s3, &minio::Minio)];
    choices.into_iter().filter(|(chosen, _)| *chosen || none).map(|(_, service)| service).collect()
}
