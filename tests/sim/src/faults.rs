//! What can go wrong, how probable it is in a run, and how often it has happened.

use std::collections::BTreeMap;

use crate::random::Random;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    // Of a single call, by chance.
    /// It fails before it is done.
    Failed,
    /// It is done, but the caller hears that it failed.
    ReplyLost,
    /// The caller hears that it failed; it is done later.
    DoneLater,
    /// It, or its reply, takes seconds.
    Slow,
    /// The client sends it again by itself, and hears of the second time only.
    SentTwice,
    /// The store refuses a conditional put because of another that is under way (409), and does nothing.
    Conflict,
    /// The store answers 412 where others say that the object exists.
    Precondition,
    /// A stream breaks in the middle.
    StreamBroken,
    /// A watch tells its news seconds late.
    WatchDelayed,
    /// The node dies before the call is done.
    CrashBefore,
    /// The node dies when the call is done.
    CrashAfter,
    // Of the cluster, from time to time.
    Crash,
    Shutdown,
    Pause,
    Cut,
    Outage,
    ClockJump,
    LeaseEndsEarly,
    LeaseKeptLate,
    LeaderChange,
    Compaction,
    Retention,
    TopicMadeAnew,
    /// A record that is no block.
    BadRecord,
    /// A producer repeats what is in the log already.
    Repeated,
}

impl Fault {
    /// Those that may hit any call, with the highest probability that a run gives them.
    const OF_CALLS: [(Self, f64); 11] = [
        (Self::Failed, 0.08),
        (Self::ReplyLost, 0.08),
        (Self::DoneLater, 0.05),
        (Self::Slow, 0.05),
        (Self::SentTwice, 0.1),
        (Self::Conflict, 0.1),
        (Self::Precondition, 0.5),
        (Self::StreamBroken, 0.1),
        (Self::WatchDelayed, 0.2),
        (Self::CrashBefore, 0.004),
        (Self::CrashAfter, 0.004),
    ];

    /// Those that happen to the cluster.
    const OF_CLUSTER: [Self; 12] = [
        Self::Crash,
        Self::Shutdown,
        Self::Pause,
        Self::Cut,
        Self::Outage,
        Self::ClockJump,
        Self::LeaseEndsEarly,
        Self::LeaseKeptLate,
        Self::LeaderChange,
        Self::Compaction,
        Self::Retention,
        Self::TopicMadeAnew,
    ];
}

/// How probable each fault is in a run.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    chances: BTreeMap<Fault, f64>,
    /// What happens to the cluster, as often as it is listed.
    pub disasters: Vec<Fault>,
    /// Mean pause between two of these, in milliseconds.
    pub disaster_pause_ms: i64,
}

impl Profile {
    /// Nothing goes wrong.
    pub fn healthy() -> Self {
        Self { disaster_pause_ms: 1_000_000, ..Self::default() }
    }

    /// Some runs have nothing of a kind, some have much of it: what goes wrong together differs from run to run.
    pub fn draw(random: &mut Random) -> Self {
        let mut profile = Self { disaster_pause_ms: random.between(1_000, 15_000), ..Self::default() };
        for (fault, most) in Fault::OF_CALLS {
            if random.chance(0.7) {
                profile.chances.insert(fault, most * 0.03f64.powf(random.unit()));
            }
        }
        for fault in Fault::OF_CLUSTER {
            // A topic that is made anew ends what the other faults can do to a job.
            if random.chance(if fault == Fault::TopicMadeAnew { 0.05 } else { 0.6 }) {
                let often = if fault == Fault::TopicMadeAnew { 1 } else { 1 + random.below(4) };
                profile.disasters.extend((0..often).map(|_| fault));
            }
        }
        profile
    }

    pub fn chance(&self, fault: Fault) -> f64 {
        self.chances.get(&fault).copied().unwrap_or_default()
    }
}

/// How often each fault has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<Fault, u64>);

impl Counts {
    pub fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (fault, n) in &other.0 {
            *self.0.entry(*fault).or_default() += n;
        }
    }

    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }
}
