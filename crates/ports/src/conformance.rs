//! What every adapter must do, as one suite per port. Adapters run them in their tests, and `windrow doctor` against a
//! user's own services.

use std::sync::Arc;

use futures::future::BoxFuture;

pub mod log;
pub mod meta;

/// One thing that an adapter must do.
pub struct Property<S: ?Sized> {
    /// As a sentence, in snake case.
    pub name: &'static str,
    /// Whether others who use the same service may notice, beyond the load.
    pub disturbs: bool,
    check: fn(Arc<S>, String) -> BoxFuture<'static, ()>,
}

impl<S: ?Sized> Property<S> {
    /// Panics where the property does not hold. `place`: a topic name or a key prefix that nobody else uses.
    pub async fn check(&self, service: Arc<S>, place: String) {
        (self.check)(service, place).await;
    }

    /// The name as people read it.
    pub fn sentence(&self) -> String {
        self.name.replace('_', " ")
    }
}
