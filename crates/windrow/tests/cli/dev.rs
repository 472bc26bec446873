//! A `windrow dev` in a folder of its own, on ports that it chooses.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::JOB;
use crate::outcome::{Outcome, outcome, windrow};

pub struct Dev {
    pub folder: tempfile::TempDir,
    process: Child,
    server: String,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Dev {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(more: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more)
    }

    /// On what is in the folder's `data`, if there is anything.
    pub fn start_in(folder: tempfile::TempDir, more: &[&str]) -> Self {
        let data = folder.path().join("data");
        let free = "127.0.0.1:0";
        let args = ["dev", "--data-dir", data.to_str().unwrap(), "--grpc", free, "--http", free];
        let mut command = windrow(&[&args[..], more].concat());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = |name: &str| {
            let line = lines.next().unwrap().unwrap();
            line.strip_prefix(name).unwrap_or_else(|| panic!("{line}")).trim().to_owned()
        };
        let (server, _http) = (address("grpc"), address("http"));
        Self { folder, process, server }
    }

    /// With job `fleet`, and five hours of two devices sent and complete.
    pub fn with_windows() -> Self {
        let dev = Self::start();
        dev.run(&["apply", "-f", dev.write("fleet.yaml", JOB).to_str().unwrap()]).ok();
        dev.send("fleet", 5);
        dev.run(&["wait", "fleet", "--until", "2015-09-01T05:00:00Z", "--timeout", "1m"]).ok();
        dev
    }

    pub fn data_dir(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = windrow(args);
        command.env("WINDROW_SERVER", &self.server).env("WINDROW_GATEWAY", &self.server);
        command
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.command(args), None)
    }

    pub fn feed(&self, args: &[&str], stdin: &str) -> Outcome {
        outcome(self.command(args), Some(stdin))
    }

    /// A reading a minute of devices `a` and `b`, from 2015-09-01T00:00Z on.
    pub fn send(&self, topic: &str, hours: u32) {
        let mut text = "device,time,speed\n".to_owned();
        for minute in 0..hours * 60 {
            for device in ["a", "b"] {
                text += &format!("{device},2015-09-01T{:02}:{:02}:00Z,{}\n", minute / 60, minute % 60, minute % 7);
            }
        }
        let file = self.write("readings.csv", &text);
        let columns = ["--device-column", "device", "--time-column", "time"];
        let args = [&["send", file.to_str().unwrap(), "--topic", topic][..], &columns].concat();
        self.run(&args).ok();
    }

    /// Ends it as a supervisor does; its exit code.
    pub fn terminate(&mut self) -> i32 {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.process.wait().unwrap().code().unwrap_or(-1)
    }
}
