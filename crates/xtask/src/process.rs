//! Child processes: commands that run to their end with a log, daemons that outlive us, and stopping by pid.
//! Never signals a process whose command line is not the one that was recorded for it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::{human, say};

/// How often a condition is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often a long command says that it is still at work.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGTERM before it gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(15);
/// How long a process may take to vanish after SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// How many lines of a log are shown when something failed.
const TAIL_LINES: usize = 30;
/// How much of a log's end is read to find them.
const TAIL_BYTES: usize = 16 * 1024;

/// Set by one thread to make the commands of the others end early.
#[derive(Debug, Default)]
pub struct Abort(AtomicBool);

impl Abort {
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Looks at `condition` until it gives a value or `limit` has passed (then: none).
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the one poll loop: other processes cannot notify us")]
fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}

/// Runs a command to its end with its output in `log`; on failure the error holds the log's last lines.
pub fn run_logged(who: &str, command: &mut Command, log: &Path, abort: &Abort) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = spawn_logged(command, log)?;
    let start = Instant::now();
    let mut next_heartbeat = HEARTBEAT;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for {program}"))? {
            break status;
        }
        if abort.is_requested() {
            end_child(&mut child);
            bail!("{program} was stopped because another part failed");
        }
        if start.elapsed() >= next_heartbeat {
            say(who, &format!("{program} still at work, {}", human(start.elapsed())));
            next_heartbeat += HEARTBEAT;
        }
        pause();
    };
    if !status.success() {
        bail!("{program} ended with {status}\n{}", tail(log));
    }
    Ok(())
}

/// Starts a process that outlives us: its own process group (Ctrl-C does not reach it), output appended to `log`.
pub fn spawn_daemon(command: &mut Command, log: &Path) -> Result<Child> {
    command.process_group(0);
    spawn_logged(command, log)
}

fn spawn_logged(command: &mut Command, log: &Path) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = append_to(log)?;
    let err = out.try_clone().with_context(|| format!("sharing {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    command.spawn().with_context(|| format!("starting {program}"))
}

fn append_to(log: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(log);
    open.with_context(|| format!("opening the log {}", log.display()))
}

fn end_child(child: &mut Child) {
    // A failure here means that the child has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of a log, with its path, for an error message.
pub fn tail(log: &Path) -> String {
    let bytes = match fs::read(log) {
        Ok(bytes) => bytes,
        Err(error) => return format!("(no log at {}: {error})", log.display()),
    };
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return format!("({} is empty)", log.display());
    }
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("last lines of {}:\n  {}", log.display(), last.join("\n  "))
}

/// Whether `pid` lives and is the process that was recorded: pids are reused, so its command line has to hold `mark`.
/// A process that ended but was not waited for has no command line and counts as gone.
pub fn is_running(pid: u32, mark: &str) -> bool {
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    cmdline.split(|byte| *byte == 0).any(|arg| String::from_utf8_lossy(arg).contains(mark))
}

/// Stops a recorded process: SIGTERM, then SIGKILL after a while; waits until it is gone. Done at once if it is gone.
pub fn stop(pid: u32, mark: &str) -> Result<()> {
    for (name, grace) in [("TERM", TERM_GRACE), ("KILL", KILL_GRACE)] {
        if !is_running(pid, mark) {
            return Ok(());
        }
        signal(pid, name)?;
        if wait_for(grace, || (!is_running(pid, mark)).then_some(())).is_some() {
            return Ok(());
        }
    }
    bail!("process {pid} did not end after SIGKILL")
}

/// The shell's own `kill`, since slim images lack the program.
fn signal(pid: u32, name: &str) -> Result<ExitStatus> {
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$0" "$1""#, name, &pid.to_string()]).stderr(Stdio::null());
    // A failing status means that the process ended in between; the caller looks for itself.
    kill.status().context("starting sh to send a signal")
}

#[cfg(test)]
mod tests;
