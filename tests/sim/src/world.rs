//! What all nodes of a run share: time, chance, the faults that are on, the trace, and what the auditors found.

use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::faults::{Counts, Fault, Profile};
use crate::locked;
use crate::node::{Node, Service};
use crate::random::Random;
use crate::time::Time;

/// One run's world. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    time: Time,
    profile: Profile,
    healed: AtomicBool,
    chance: Mutex<Random>,
    counts: Mutex<Counts>,
    trace: Mutex<Trace>,
    /// Services that answer nobody.
    away: Mutex<[bool; 3]>,
    /// On whose behalf a service is doing something.
    acting: Mutex<Option<Node>>,
    violations: Mutex<Vec<String>>,
    broken: CancellationToken,
}

#[derive(Debug)]
struct Trace {
    hash: DefaultHasher,
    calls: u64,
    /// Only when somebody wants to read them.
    lines: Option<Vec<String>>,
}

/// Writes text into a hash.
struct Hashing<'a>(&'a mut DefaultHasher);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl World {
    pub fn new(profile: Profile, chance: Random, keep_lines: bool) -> Self {
        let trace = Trace { hash: DefaultHasher::new(), calls: 0, lines: keep_lines.then(Vec::new) };
        Self(Arc::new(Inner {
            time: Time::default(),
            profile,
            healed: AtomicBool::new(false),
            chance: Mutex::new(chance),
            counts: Mutex::default(),
            trace: Mutex::new(trace),
            away: Mutex::default(),
            acting: Mutex::default(),
            violations: Mutex::default(),
            broken: CancellationToken::new(),
        }))
    }

    pub fn time(&self) -> &Time {
        &self.0.time
    }

    pub fn profile(&self) -> &Profile {
        &self.0.profile
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&self) {
        self.0.healed.store(true, Ordering::Relaxed);
        *locked(&self.0.away) = [false; 3];
    }

    pub fn is_healed(&self) -> bool {
        self.0.healed.load(Ordering::Relaxed)
    }

    pub fn set_away(&self, service: Service, away: bool) {
        locked(&self.0.away)[service as usize] = away;
    }

    pub fn is_away(&self, service: Service) -> bool {
        locked(&self.0.away)[service as usize]
    }

    /// Whether a fault happens now; counted if it does.
    pub fn strikes(&self, fault: Fault) -> bool {
        let chance = self.0.profile.chance(fault);
        let strikes = chance > 0.0 && !self.is_healed() && locked(&self.0.chance).chance(chance);
        if strikes {
            self.count(fault);
        }
        strikes
    }

    pub fn count(&self, fault: Fault) {
        locked(&self.0.counts).count(fault);
    }

    pub fn millis(&self, low: i64, high: i64) -> Duration {
        locked(&self.0.chance).millis(low, high)
    }

    pub fn unit(&self) -> f64 {
        locked(&self.0.chance).unit()
    }

    /// Notes a step of the run.
    pub fn trace(&self, step: fmt::Arguments<'_>) {
        let now = self.0.time.now();
        let mut trace = locked(&self.0.trace);
        trace.calls += 1;
        trace.hash.write_u64(now.as_micros() as u64);
        // A hash takes any text.
        let _ = Hashing(&mut trace.hash).write_fmt(step);
        if let Some(lines) = &mut trace.lines {
            lines.push(format!("{:>11.6} {step}", now.as_secs_f64()));
        }
    }

    /// Does something on a node's behalf; what happens meanwhile is its doing.
    pub fn act<T>(&self, node: &Node, act: impl FnOnce() -> T) -> T {
        let before = locked(&self.0.acting).replace(node.clone());
        let result = act();
        *locked(&self.0.acting) = before;
        result
    }

    /// On whose behalf something is being done.
    pub fn acting(&self) -> Option<Node> {
        locked(&self.0.acting).clone()
    }

    /// Notes that something that must hold does not.
    pub fn violated(&self, what: String) {
        self.trace(format_args!("VIOLATION {what}"));
        locked(&self.0.violations).push(what);
        self.0.broken.cancel();
    }

    /// Waits until something is violated.
    pub async fn broken(&self) {
        self.0.broken.cancelled().await;
    }

    pub fn violations(&self) -> Vec<String> {
        locked(&self.0.violations).clone()
    }

    pub fn counts(&self) -> Counts {
        locked(&self.0.counts).clone()
    }

    /// A hash of all steps, how many they were, and the lines if they were kept.
    pub fn traced(&self) -> (u64, u64, Vec<String>) {
        let trace = locked(&self.0.trace);
        (trace.hash.finish(), trace.calls, trace.lines.clone().unwrap_or_default())
    }
}
