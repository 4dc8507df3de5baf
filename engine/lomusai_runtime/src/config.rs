//! Settings of an engine: values only. Components are registered.

use serde::{Deserialize, Serialize};

/// Settings of an engine. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Threads that drive runs. Default: one per core.
    pub threads: Option<usize>,
    /// Events kept for a reader before the run waits for it. Default 256.
    pub reader_events: usize,
    /// How long a lease on a run outlives its holder's last sign of life. Default 15,000.
    pub lease_ms: u64,
    /// How often a run is recovered without progress before it counts as poisoned. Default 5.
    pub recoveries_max: u32,
    /// How long `close` waits for runs and callbacks to end. Default 10,000.
    pub close_ms: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { threads: None, reader_events: 256, lease_ms: 15_000, recoveries_max: 5, close_ms: 10_000 }
    }
}
