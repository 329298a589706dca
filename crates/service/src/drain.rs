//! The beginning of the end: told to every stream of a service.

use std::future::Future;

use tokio_util::sync::CancellationToken;

/// Says when a service has begun to shut down. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    /// Not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins it, for all clones.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Ends when the drain begins: a stream stops reading then and answers what it has read.
    pub fn started(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.clone().cancelled_owned()
    }

    /// Whether it has begun.
    pub fn has_started(&self) -> bool {
        self.0.is_cancelled()
    }
}
