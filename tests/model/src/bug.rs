//! Guards that can be left out, to show that the model sees what each of them is for.

/// A guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Plans are written without comparing the election key.
    NoLeaderCompare,
    /// Plans are written without comparing the cursor.
    NoCursorCompare,
    /// Plans are written without comparing that the batch is absent. The cursor's compare sees to it as well.
    NoBatchCompare,
    /// Plans are written unconditionally.
    NoCompare,
    /// The marker is put over one that stands.
    MarkerOverwrites,
    /// Files go to their final paths before the marker is put.
    PublishesFirst,
    /// A marker that exists is taken for one's own.
    ExistsIsSuccess,
    /// A put without an answer is taken for a lost race.
    NoAnswerIsLoss,
    /// When no marker is there after a put without an answer, the attempt's files are deleted: the put may yet arrive.
    UnknownIsLoss,
    /// The loser of a race deletes the winner's files instead of its own.
    LoserDeletesWinners,
    /// A staged file is deleted although its copy was not seen to be whole.
    DeletesUnverified,
    /// A publisher looks at the final file before the staged one.
    LooksAtFinalFirst,
    /// A commit is reported before its files are published.
    ReportsFirst,
    /// Who finds another's marker reports the commit and leaves publishing to its owner.
    NoRollForward,
}

/// All bugs that break a promise, with the property that finds them.
pub const FOUND: [(Bug, &str); 13] = [
    (Bug::NoLeaderCompare, crate::DEPOSED),
    (Bug::NoCursorCompare, crate::ENDS),
    (Bug::NoCompare, crate::ENDS),
    (Bug::MarkerOverwrites, crate::MARKERS),
    (Bug::PublishesFirst, crate::ONLY_COMMITTED),
    (Bug::ExistsIsSuccess, crate::ONLY_COMMITTED),
    (Bug::NoAnswerIsLoss, crate::READABLE),
    (Bug::UnknownIsLoss, crate::READABLE),
    (Bug::LoserDeletesWinners, crate::READABLE),
    (Bug::DeletesUnverified, crate::READABLE),
    (Bug::LooksAtFinalFirst, crate::BROKEN),
    (Bug::ReportsFirst, crate::REPORTED),
    (Bug::NoRollForward, crate::REPORTED),
];
