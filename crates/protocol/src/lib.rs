//! What windrow means by a window, a plan, a batch and a commit: pure types and pure decisions.
//!
//! This crate never reads a clock, draws a random number, or performs I/O; everything it decides, it decides from
//! its arguments. That is what lets the same code be model-checked, simulated and run in production.

pub mod audit;
pub mod commit;
pub mod cut;
pub mod duration;
pub mod ids;
pub mod job;
pub mod ledger;
pub mod marker;
pub mod paths;
pub mod plan;
pub mod revise;
pub mod size;
pub mod state;
pub mod time;
pub mod volume;
pub mod window;

pub use ids::{
    AttemptId, BackfillName, InvalidId, JobName, Offset, PartitionId, Revision, TopicId, TopicName, WorkerId,
};
pub use job::{JobFile, JobSpec};
pub use ledger::Ledger;
pub use plan::{OffsetRange, Plan};
pub use time::Timestamp;
pub use window::{Window, WindowId, WindowSpec};
