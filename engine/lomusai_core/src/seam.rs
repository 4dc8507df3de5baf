//! Where the engine touches what differs from run to run: the clock and identity. Injected, so that a run can be replayed.

use std::sync::atomic::{AtomicU64, Ordering};

use lomusai_wire::RunId;

/// Tells the time. The runtime brings the system's; tests bring one that stands still.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
}

/// Makes up identities.
pub trait Ids: Send + Sync {
    /// A run id that no other engine makes.
    fn run_id(&self) -> RunId;

    /// What an engine calls itself to its store's leases: no two engines on one store may have the same.
    fn owner(&self) -> String;
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Moves the clock on.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Ids `r1`, `r2`, … of runs and `o3` of an engine: one count for both.
#[derive(Debug, Default)]
pub struct CountedIds(AtomicU64);

impl Ids for CountedIds {
    fn run_id(&self) -> RunId {
        format!("r{}", self.0.fetch_add(1, Ordering::SeqCst) + 1).into()
    }

    fn owner(&self) -> String {
        format!("o{}", self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}
