//! The suite for [`crate::Log`].
