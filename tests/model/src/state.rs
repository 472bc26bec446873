//! What the model remembers: the two stores, and who is in the middle of what. Small, since there are millions of it.

/// Windows of the one partition, hence batches.
pub const BATCHES: usize = 2;
pub const COORDINATORS: usize = 2;
/// Room for workers; [`crate::Bounds::workers`] says how many there are.
pub const WORKERS: usize = 3;

/// A worker's try at a batch, and so the bytes that it writes: no two attempts write the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u8);

/// A set of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Attempts(u16);

impl Attempts {
    pub fn add(&mut self, attempt: Attempt) {
        self.0 |= 1 << attempt.0;
    }

    pub fn remove(&mut self, attempt: Attempt) {
        self.0 &= !(1 << attempt.0);
    }

    pub fn has(self, attempt: Attempt) -> bool {
        self.0 & (1 << attempt.0) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Attempt> {
        (0..16).map(Attempt).filter(move |attempt| self.has(*attempt))
    }
}

/// The partition's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorAt {
    /// Windows that are sealed.
    pub windows: u8,
    pub end: u8,
    pub next_start: u8,
}

/// A plan that a coordinator has decided on and sent to the metadata store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sent {
    /// The cursor that it was decided from: the write compares it.
    pub from: CursorAt,
    pub to: CursorAt,
    /// Nothing to read: no batch, only the cursor moves.
    pub empty: bool,
    /// It compares the election key that stands now; else one that is gone.
    pub current: bool,
}

/// What a coordinator believes of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Belief {
    /// Not running, or waiting for the election key to go.
    Follows,
    /// Rightly: the election key is its own.
    Leads,
    /// Its lease has ended and it has not noticed.
    Deposed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinator {
    pub belief: Belief,
    /// Plan writes, perhaps of an earlier life, that may still arrive: one that it waits for, and one that it has given
    /// up. More make no difference, since what a third would do can be decided anew once one has arrived.
    pub sent: [Option<Sent>; 2],
}

/// A batch's key in the metadata store, with its assignment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    Absent,
    Pending,
    /// A worker has it (by index) and its assignment key stands.
    Assigned(u8),
    /// The worker has written its outcome into the assignment: committed, or not.
    Reported(u8, bool),
    /// The assignment key went with the worker's lease.
    Orphaned,
    Committed,
    /// Its window is finished.
    Removed,
}

/// A batch in both stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Batch {
    pub record: Record,
    /// For the check that it never moves: the first end that was sealed.
    pub sealed: Option<u8>,
    /// Whose marker stands.
    pub marker: Option<Attempt>,
    /// Whose bytes are at the final path.
    pub published: Option<Attempt>,
    /// Attempts whose staged file is there.
    pub staged: Attempts,
    /// Attempts whose put of the marker may still arrive, though its client has given it up.
    pub delayed: Attempts,
}

/// What the put of a marker answered, as far as the worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    Created,
    Exists,
    Error,
    /// Whichever: the product reads back and does not look at the answer.
    Unused,
}

/// The call that a worker makes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Put,
    ReadBack(Answer),
    LookStaged,
    LookFinal { staged: bool },
    Copy,
    Verify,
    Clear,
    Report { committed: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    pub batch: u8,
    pub step: Step,
    /// This try, until the race is decided.
    pub mine: Option<Attempt>,
    /// The attempt that it publishes.
    pub of: Option<Attempt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// Its key in the metadata store stands. Without it the worker may go on for as long as it likes.
    pub lease: bool,
    pub task: Option<Task>,
}

/// What must never happen and can't be seen in a single state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Wrong {
    pub marker_changed: bool,
    pub end_moved: bool,
    pub published_changed: bool,
    pub found_broken: bool,
    pub deposed_wrote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// The election key stands, whether its owner still lives or not.
    pub leader_key: bool,
    pub coordinators: [Coordinator; COORDINATORS],
    pub cursor: CursorAt,
    pub batches: [Batch; BATCHES],
    pub workers: [Worker; WORKERS],
    pub wrong: Wrong,
}

impl State {
    pub fn first() -> Self {
        let batch = Batch {
            record: Record::Absent,
            sealed: None,
            marker: None,
            published: None,
            staged: Attempts::default(),
            delayed: Attempts::default(),
        };
        Self {
            leader_key: false,
            coordinators: [Coordinator { belief: Belief::Follows, sent: [None; 2] }; COORDINATORS],
            cursor: CursorAt { windows: 0, end: 0, next_start: 0 },
            batches: [batch; BATCHES],
            workers: [Worker { lease: false, task: None }; WORKERS],
            wrong: Wrong::default(),
        }
    }

    /// Tasks in hand, with their workers.
    pub fn tasks(&self) -> impl Iterator<Item = (usize, Task)> {
        self.workers.iter().enumerate().filter_map(|(w, worker)| worker.task.map(|task| (w, task)))
    }

    /// An attempt that nothing names.
    pub fn unused_attempt(&self) -> Attempt {
        let used = |attempt: &Attempt| {
            let in_store = self.batches.iter().any(|batch| {
                [batch.marker, batch.published].contains(&Some(*attempt))
                    || batch.staged.has(*attempt)
                    || batch.delayed.has(*attempt)
            });
            in_store || self.tasks().any(|(_, task)| task.mine == Some(*attempt) || task.of == Some(*attempt))
        };
        (0..16).map(Attempt).find(|attempt| !used(attempt)).unwrap_or(Attempt(15))
    }
}
