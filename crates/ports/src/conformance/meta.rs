//! The suite for [`crate::MetaStore`].
