//! What every adapter must do, as one suite per port. Adapters call these from their tests; `windrow doctor` will call
//! them against a user's own services.

pub mod log;
pub mod meta;
