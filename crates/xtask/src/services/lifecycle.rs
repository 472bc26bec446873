//! Install, start, find and stop: the same for every service. Several processes may do it at once; locks order them.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use super::state::{Running, State};
use super::{ALL, Service, Site, Work, ports};
use crate::cache::Cache;
use crate::process::{Abort, is_running, spawn_daemon, stop, tail, wait_for};
use crate::progress::{say, timed};
use crate::tools::{self, Tool};

/// Tries to start on other ports, since a port that was free a moment ago may be taken.
const START_TRIES: u32 = 3;

/// Whether services outlive the command that started them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    Yes,
    No,
}

/// Installs what is missing, all at once. The first failure stops the others.
pub fn install(cache: &Cache, services: &[&'static dyn Service], abort: &Abort) -> Result<()> {
    let missing: Vec<_> = services.iter().filter(|s| !cache.install_dir(s.name(), s.version()).exists()).collect();
    let install_tools = missing.iter().flat_map(|service| service.install_tools());
    let run_tools = services.iter().flat_map(|service| service.run_tools());
    tools::require(&install_tools.chain(run_tools).copied().collect::<Vec<Tool>>())?;
    each(services, |service| {
        let result = install_one(cache, service, abort);
        if result.is_err() {
            abort.request();
        }
        result
    })
}

fn install_one(cache: &Cache, service: &dyn Service, abort: &Abort) -> Result<()> {
    let (name, home) = (service.name(), cache.install_dir(service.name(), service.version()));
    if home.exists() {
        return Ok(());
    }
    let lock = cache.lock_file(&format!("install-{name}"))?;
    lock.lock().with_context(|| format!("waiting for another installation of {name}"))?;
    if home.exists() {
        return Ok(());
    }
    say(name, &format!("installing {} ({})", service.version(), service.install_cost()));
    // An interrupted installation is begun anew; only a complete one gets its final name.
    let partial = home.with_file_name(format!("{name}-{}.partial", service.version()));
    remove_dir(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let work = Work { who: name, dir: &partial, log: partial.join("install.log"), abort };
    timed(name, "installation", || service.install(&work)).with_context(|| format!("{name} could not be installed"))?;
    fs::rename(&partial, &home).with_context(|| format!("moving {} into place", partial.display()))
}

/// Starts what does not run; gives the names of those that it started. They are installed first.
pub fn up(cache: &Cache, services: &[&'static dyn Service], stay: Stay) -> Result<Vec<&'static str>> {
    let abort = Abort::default();
    install(cache, services, &abort)?;
    if stay == Stay::Yes {
        State::update(cache, |state| state.stay = true)?;
    }
    let started = std::sync::Mutex::new(Vec::new());
    let result = each(services, |service| {
        if start_one(cache, service, &abort)? {
            started.lock().map_err(|_| anyhow!("a starting thread panicked"))?.push(service.name());
        }
        Ok(())
    });
    let started = started.into_inner().unwrap_or_default();
    if let Err(error) = result {
        down_named(cache, &started)?;
        return Err(error);
    }
    if stay == Stay::Yes {
        State::update(cache, |state| state.stay = true)?;
    }
    Ok(started)
}

/// Whether it had to be started.
fn start_one(cache: &Cache, service: &dyn Service, abort: &Abort) -> Result<bool> {
    let name = service.name();
    let lock = cache.lock_file(&format!("start-{name}"))?;
    lock.lock().with_context(|| format!("waiting for another start of {name}"))?;
    if let Some(running) = State::read(cache)?.services.get(name) {
        let answers = wait_for(service.ready_limit(), || service.probe(&running.ports).ok());
        if answers.is_some() {
            return Ok(false);
        }
        say(name, &format!("process {} does not answer; starting another", running.pid));
        stop(running.pid, &running.mark)?;
    }
    let mut tries = 0;
    loop {
        tries += 1;
        match timed(name, "start", || launch(cache, service, abort)) {
            Ok(()) => return Ok(true),
            Err(error) if tries == START_TRIES => return Err(error),
            Err(error) => say(name, &format!("{error:#}; trying other ports")),
        }
    }
}

fn launch(cache: &Cache, service: &dyn Service, abort: &Abort) -> Result<()> {
    let (name, dir) = (service.name(), cache.run_dir(service.name()));
    remove_dir(&dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let (count, range) = service.ports();
    let ports = ports::find_free(count, range)?;
    let home = cache.install_dir(name, service.version());
    let log = dir.join("server.log");
    let site = Site { home: &home, work: Work { who: name, dir: &dir, log: log.clone(), abort }, ports: &ports };
    let mut command = service.command(&site)?;
    let mut child = spawn_daemon(command.current_dir(&dir), &log).with_context(|| format!("starting {name}"))?;
    let running = Running { pid: child.id(), mark: dir.to_string_lossy().into_owned(), ports: ports.clone() };
    let (pid, mark) = (running.pid, running.mark.clone());
    State::update(cache, |state| drop(state.services.insert(name.to_owned(), running)))?;
    let ready = wait_for(service.ready_limit(), || match child.try_wait() {
        Ok(Some(status)) => Some(Err(anyhow!("{name} ended with {status}"))),
        // For a moment after its start a process has no command line yet, and would be taken for another.
        Ok(None) if !is_running(pid, &mark) => None,
        Ok(None) => service.probe(&ports).ok().map(Ok),
        Err(error) => Some(Err(error.into())),
    });
    let limit = service.ready_limit();
    let result = ready.unwrap_or_else(|| Err(anyhow!("{name} did not answer within {} s", limit.as_secs())));
    result.or_else(|error| {
        let log = tail(&log);
        stop(pid, &mark)?;
        bail!("{error}\n{log}")
    })
}

/// Stops services; those that do not run are stopped already.
pub fn down(cache: &Cache, services: &[&'static dyn Service]) -> Result<()> {
    down_named(cache, &services.iter().map(|service| service.name()).collect::<Vec<_>>())
}

fn down_named(cache: &Cache, names: &[&str]) -> Result<()> {
    let state = State::read(cache)?;
    for name in names {
        if let Some(running) = state.services.get(*name) {
            stop(running.pid, &running.mark).with_context(|| format!("stopping {name}"))?;
            say(name, "stopped");
        }
    }
    State::update(cache, |state| state.services.retain(|name, _| !names.contains(&name.as_str())))
}

/// One line per service: what runs where, or why not.
pub fn status(cache: &Cache) -> Result<Vec<String>> {
    let state = State::read(cache)?;
    let line = |service: &&dyn Service| match state.services.get(service.name()) {
        Some(running) => {
            let answers = if service.probe(&running.ports).is_ok() { "ready" } else { "does not answer" };
            format!("{:8} {answers:16} pid {}, ports {:?}", service.name(), running.pid, running.ports)
        }
        None if cache.install_dir(service.name(), service.version()).exists() => {
            format!("{:8} stopped", service.name())
        }
        None => format!("{:8} not installed    {}", service.name(), service.install_cost()),
    };
    Ok(ALL.iter().map(line).collect())
}

/// The variables of everything that runs.
pub fn variables(cache: &Cache) -> Result<Vec<(&'static str, String)>> {
    let state = State::read(cache)?;
    let of = |service: &&dyn Service| {
        let home = cache.install_dir(service.name(), service.version());
        state.services.get(service.name()).map(|run| service.variables(&home, &run.ports))
    };
    Ok(ALL.iter().filter_map(of).flatten().collect())
}

/// Services for the length of one command. What it started ends with it, unless somebody asked them to stay.
pub struct Session<'c> {
    cache: &'c Cache,
    started: Vec<&'static str>,
}

impl<'c> Session<'c> {
    /// Starts what does not run.
    pub fn start(cache: &'c Cache, services: &[&'static dyn Service]) -> Result<Self> {
        Ok(Self { cache, started: up(cache, services, Stay::No)? })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let stay = State::read(self.cache).is_ok_and(|state| state.stay);
        if !stay && let Err(error) = down_named(self.cache, &self.started) {
            say("services", &format!("{error:#}"));
        }
    }
}

fn remove_dir(dir: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a step for every service, each on a thread; all errors in one.
fn each(services: &[&'static dyn Service], step: impl Fn(&dyn Service) -> Result<()> + Sync) -> Result<()> {
    let errors: Vec<String> = thread::scope(|scope| {
        let step = &step;
        let threads: Vec<_> = services.iter().map(|service| scope.spawn(move || step(*service))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("panicked"))));
        ended.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
    });
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("\n")) }
}

#[cfg(test)]
mod tests;
