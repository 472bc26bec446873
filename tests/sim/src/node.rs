//! One process of the cluster, as its surroundings see it: it runs, stands still (SIGSTOP, a long pause of its machine), or
//! is dead. And its clocks.
//!
//! A role's tasks can only act through their ports. So a node that stands still is one none of whose port calls go on or
//! come back; when it runs again, they all do, and the node learns only then how late it is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use windrow_ports::Clock;
use windrow_protocol::Timestamp;

use crate::locked;
use crate::time::Time;

/// Wall clock at the beginning of the world: 2026-03-01T00:00:00Z, in microseconds.
const BEGINNING_US: i64 = 1_772_323_200_000_000;

/// What a node talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Log,
    Meta,
    Store,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::Store];

    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Store => "store",
        }
    }
}

/// What is cut between a node and a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    pub requests: bool,
    pub replies: bool,
}

/// A process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    time: Time,
    state: Mutex<State>,
    killed: CancellationToken,
    /// Wall clock minus true time, in microseconds.
    wall_offset_us: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    resumed_at: Duration,
    waiting: Vec<Waker>,
    cuts: [Cut; 3],
    trusts: Option<Trust>,
}

/// Until when a node may act on its lease: the answer to what it sent at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    pub sent: Duration,
    pub ttl: Duration,
}

impl Node {
    pub fn new(name: impl Into<String>, time: Time) -> Self {
        let (name, wall_offset_us) = (name.into(), AtomicI64::new(0));
        Self(Arc::new(Inner { name, time, state: Mutex::default(), killed: CancellationToken::new(), wall_offset_us }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits while the node stands still; for ever once it is dead.
    pub async fn passes(&self) {
        std::future::poll_fn(|context| {
            if self.is_dead() {
                return Poll::Pending;
            }
            let mut state = locked(&self.0.state);
            if !state.stopped {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub fn stop(&self) {
        locked(&self.0.state).stopped = true;
    }

    pub fn go_on(&self) {
        let mut state = locked(&self.0.state);
        state.stopped = false;
        state.resumed_at = self.0.time.now();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub fn is_stopped(&self) -> bool {
        locked(&self.0.state).stopped
    }

    /// Whether it has gone on in this very moment: it does not know yet what it has missed.
    pub fn has_just_resumed(&self) -> bool {
        locked(&self.0.state).resumed_at == self.0.time.now()
    }

    /// Ends it as power loss does.
    pub fn kill(&self) {
        self.0.killed.cancel();
    }

    pub fn is_dead(&self) -> bool {
        self.0.killed.is_cancelled()
    }

    pub async fn killed(&self) {
        self.0.killed.cancelled().await;
    }

    pub fn cut(&self, service: Service) -> Cut {
        locked(&self.0.state).cuts[service as usize]
    }

    pub fn set_cut(&self, service: Service, cut: Cut) {
        locked(&self.0.state).cuts[service as usize] = cut;
    }

    pub fn trust(&self) -> Option<Trust> {
        locked(&self.0.state).trusts
    }

    pub fn set_trust(&self, trust: Option<Trust>) {
        locked(&self.0.state).trusts = trust;
    }

    /// Sets the wall clock ahead of (or behind) true time.
    pub fn set_wall_offset_us(&self, offset: i64) {
        self.0.wall_offset_us.store(offset, Ordering::Relaxed);
    }

    /// The node's own clocks.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SimClock(self.clone()))
    }
}

/// True time, for what is no process.
pub fn true_time(time: &Time) -> Timestamp {
    Timestamp::from_micros(BEGINNING_US + time.now().as_micros() as i64)
}

/// The clocks of a node: the monotonic one is right, the wall clock may jump.
#[derive(Debug, Clone)]
struct SimClock(Node);

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        true_time(&self.0.0.time).plus_micros(self.0.0.wall_offset_us.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        self.0.0.time.now()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.0.time.sleep(duration).await;
        self.0.passes().await;
    }
}
