//! Layers over a model provider: each is a provider that asks another, and adds one thing. The engine puts on those that its settings
//! ask for; a program that asks a provider by itself puts them on in the order it wants.
//!
//! | layer | adds |
//! |---|---|
//! | [`Retrying`] | further tries, after a wait that doubles or that the server asked for |
//! | [`FallingBack`] | the next provider where one failed for good |
//! | [`Timed`] | bounds on the whole answer, its first piece, and the time between pieces |
//! | [`Limited`] | most calls at once, most calls per minute |
//! | [`Cached`] | the same answer for the same request |
//!
//! Retries, fallbacks, time limits and budgets of a *run* are not layers but part of the run, so that its journal shows them:
//! `settings.max_retries`, `fallbacks`, `limits` and `budget` of an agent. They follow the same rules.

mod cache;
mod limit;
mod retry;
mod time;

pub use cache::Cached;
pub use limit::{Limited, ProviderLimits};
pub use retry::{FallingBack, Retrying};
pub use time::{Patience, Timed};

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use lomusai_core::Result;
use lomusai_core::llm::{LlmProvider, ModelStream, truncated};

/// A provider with the limits that the engine's settings have for it.
pub(crate) fn limited(provider: Arc<dyn LlmProvider>, limits: Option<&ProviderLimits>) -> Arc<dyn LlmProvider> {
    let Some(limits) = limits else { return provider };
    let provider = match limits.cache_ms {
        // A cache in front of the limits: what it answers is no call.
        Some(ms) => {
            let limited: Arc<dyn LlmProvider> = Arc::new(Limited::new(provider, limits.clone()));
            return Arc::new(Cached::new(limited, std::time::Duration::from_millis(ms), limits.cache_entries));
        }
        None => provider,
    };
    Arc::new(Limited::new(provider, limits.clone()))
}

/// Waits for the first piece: until it came, another provider can still be asked.
async fn begun(mut stream: ModelStream) -> Result<ModelStream> {
    let first = stream.next().await.ok_or_else(truncated)??;
    Ok(Box::pin(stream::iter([Ok(first)]).chain(stream)))
}
