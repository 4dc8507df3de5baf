//! Where an engine's events and notes go beside the readers of its runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lomusai_core::sync::RwLock;
use lomusai_core::telemetry::TelemetrySink;

/// Who wants to be told what runs say.
pub(crate) struct Telemetry {
    /// Looked at before each event: nobody waits for a lock to find out that nobody listens.
    is_set: AtomicBool,
    sink: RwLock<Option<Arc<dyn TelemetrySink>>>,
}

impl Telemetry {
    pub(crate) fn new(sink: Option<Arc<dyn TelemetrySink>>) -> Self {
        Self { is_set: AtomicBool::new(sink.is_some()), sink: RwLock::new(sink) }
    }

    pub(crate) fn set(&self, sink: Option<Arc<dyn TelemetrySink>>) {
        let mut place = self.sink.write();
        self.is_set.store(sink.is_some(), Ordering::Release);
        *place = sink;
    }

    /// Tells it something, if there is anybody.
    pub(crate) fn with(&self, f: impl FnOnce(&dyn TelemetrySink)) {
        if self.is_set.load(Ordering::Acquire)
            && let Some(sink) = &*self.sink.read()
        {
            f(&**sink);
        }
    }
}
