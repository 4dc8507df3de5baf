//! How much is asked of a provider at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::sync::Mutex;
use lomusai_core::transcript::Accepts;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ModelRequest, codes};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How much is asked of a provider, by all runs of an engine together. What is absent is not bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProviderLimits {
    /// Most answers that are under way at once. Further calls wait.
    pub concurrency: Option<usize>,
    /// Most calls begun within any minute. Further calls wait.
    pub calls_per_minute: Option<usize>,
    /// How long an answer is given again for the same request, in milliseconds. Absent: never.
    pub cache_ms: Option<u64>,
    /// Most answers that are kept for that. Default 1,000.
    pub cache_entries: Option<usize>,
}

const MINUTE: Duration = Duration::from_secs(60);

/// Lets calls wait where too many are under way, or were begun in the last minute. First come, first served.
pub struct Limited<P> {
    inner: P,
    places: Option<Arc<Semaphore>>,
    rate: Option<Rate>,
}

struct Rate {
    per_minute: usize,
    /// One at a time looks at the clock, in the order they came.
    turn: tokio::sync::Mutex<()>,
    begun: Mutex<VecDeque<Instant>>,
}

impl<P: LlmProvider> Limited<P> {
    /// This provider, within these limits.
    pub fn new(inner: P, limits: ProviderLimits) -> Self {
        let rate = limits.calls_per_minute.map(|per_minute| Rate {
            per_minute: per_minute.max(1),
            turn: tokio::sync::Mutex::default(),
            begun: Mutex::default(),
        });
        Self { inner, places: limits.concurrency.map(|most| Arc::new(Semaphore::new(most.max(1)))), rate }
    }
}

impl Rate {
    async fn wait(&self) {
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            let until = {
                let mut begun = self.begun.lock();
                while begun.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
                    begun.pop_front();
                }
                if begun.len() < self.per_minute {
                    begun.push_back(now);
                    return;
                }
                *begun.front().expect("it is full") + MINUTE
            };
            tokio::time::sleep_until(until).await;
        }
    }
}

impl<P: LlmProvider> LlmProvider for Limited<P> {
    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            let place = match &self.places {
                Some(places) => Some(
                    places
                        .clone()
                        .acquire_owned()
                        .await
                        .map_err(|_| Error::new(codes::INTERNAL, "the places of a provider were closed"))?,
                ),
                None => None,
            };
            if let Some(rate) = &self.rate {
                rate.wait().await;
            }
            let answer = self.inner.stream(context, request).await?;
            // The place is held until the answer is read or dropped.
            Ok(Box::pin(stream::unfold((answer, place), |(mut answer, place)| async move {
                answer.next().await.map(|item| (item, (answer, place)))
            })) as ModelStream)
        })
    }
}
