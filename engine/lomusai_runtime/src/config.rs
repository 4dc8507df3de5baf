//! Settings of an engine: values only. Components are registered.

use std::collections::BTreeMap;

use lomusai_wire::{Budget, ModelInfo};
use serde::{Deserialize, Serialize};

use crate::cassette::CassetteConfig;
use crate::layer::ProviderLimits;
use crate::retention::Retention;

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
    /// What a host says of models, over the table that comes along: prices first of all.
    pub models: Vec<ModelInfo>,
    /// Budgets that runs can share, by name. They live as long as the engine.
    pub budgets: BTreeMap<String, Budget>,
    /// How much is asked of each provider at once, by the provider's name.
    pub provider_limits: BTreeMap<String, ProviderLimits>,
    /// Records the calls of models and tools, or gives them back. Default: as `LOMUSAI_CASSETTE` says; see [`CassetteConfig::from_env`].
    pub cassette: Option<CassetteConfig>,
    /// Which runs that have ended are kept. Default: all. Looked at when the engine is started, and every ten minutes.
    pub retention: Vec<Retention>,
    /// How long after its end the journal of a run is compacted, where the store can do that. Default 3,600,000: an hour. `None`: never.
    pub compact_after_ms: Option<u64>,
    /// How long `close` waits for runs and callbacks to end. Default 10,000.
    pub close_ms: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: None,
            reader_events: 256,
            lease_ms: 15_000,
            recoveries_max: 5,
            models: Vec::new(),
            budgets: BTreeMap::new(),
            provider_limits: BTreeMap::new(),
            cassette: None,
            retention: Vec::new(),
            compact_after_ms: Some(3_600_000),
            close_ms: 10_000,
        }
    }
}
