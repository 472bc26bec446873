//! The wire: messages and services generated from `proto/`, the block codec, conversions to and from `protocol`,
//! and errors as `google.rpc` statuses.
//!
//! Knows nothing of transports, roles or storage.

pub mod block;
pub mod convert;
pub mod ingest;
pub mod job_file;
pub mod status;

/// Generated from `proto/windrow/v1`.
#[allow(clippy::all, clippy::too_many_lines, missing_docs, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("windrow.v1");

    /// All of `windrow.v1` as a serialised `FileDescriptorSet`, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/windrow.bin"));
}
