//! Readings that were not taken, and why.

/// The most refusals that an answer lists.
pub const MAX_REFUSALS: usize = 100;

/// A reading that was not taken; the others of its request were.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// Position in the request, from 0.
    pub index: u64,
    /// The field that is wrong.
    pub field: String,
    /// Stable code.
    pub reason: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// All refusals of a request, of which the first are told: a request of nothing but rubbish must not cost memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals {
    pub count: u64,
    /// The first [`MAX_REFUSALS`] by position.
    pub first: Vec<Refusal>,
}

impl Refusals {
    /// Counts one. The message is only made if it will be told.
    pub(crate) fn add(&mut self, refusal: impl FnOnce() -> Refusal) {
        self.count += 1;
        if self.first.len() < MAX_REFUSALS {
            self.first.push(refusal());
        }
    }

    /// Both together, by position.
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.sort_by_key(|refusal| refusal.index);
        self.first.truncate(MAX_REFUSALS);
        self
    }
}
