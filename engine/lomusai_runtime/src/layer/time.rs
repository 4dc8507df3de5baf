//! How long to wait for an answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::transcript::Accepts;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ModelRequest, codes};
use tokio::time::{Instant, timeout_at};

/// How long to wait for an answer. What is absent is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patience {
    /// For all of it, in milliseconds.
    pub total_ms: Option<u64>,
    /// For its first piece.
    pub first_token_ms: Option<u64>,
    /// Between two pieces.
    pub between_tokens_ms: Option<u64>,
}

impl Patience {
    /// These bounds.
    pub fn new(total_ms: Option<u64>, first_token_ms: Option<u64>, between_tokens_ms: Option<u64>) -> Self {
        Self { total_ms, first_token_ms, between_tokens_ms }
    }

    /// When the next piece must be there, and the bound that says so.
    fn deadline(&self, began: Instant, last: Option<Instant>) -> Option<(Instant, &'static str, u64)> {
        let bound = |from: Instant, name, ms: Option<u64>| ms.map(|ms| (from + Duration::from_millis(ms), name, ms));
        let next = match last {
            None => bound(began, "first_token_ms", self.first_token_ms),
            Some(last) => bound(last, "between_tokens_ms", self.between_tokens_ms),
        };
        [bound(began, "the time of the call", self.total_ms), next].into_iter().flatten().min_by_key(|(at, ..)| *at)
    }
}

/// Ends an answer that takes too long: `model_timeout`. What came before is kept.
pub struct Timed<P> {
    inner: P,
    patience: Patience,
}

impl<P: LlmProvider> Timed<P> {
    /// This provider, with this patience.
    pub fn new(inner: P, patience: Patience) -> Self {
        Self { inner, patience }
    }
}

async fn within<T>(deadline: Option<(Instant, &'static str, u64)>, work: impl Future<Output = T>) -> Result<T> {
    let Some((at, bound, ms)) = deadline else { return Ok(work.await) };
    timeout_at(at, work).await.map_err(|_| {
        Error::new(codes::MODEL_TIMEOUT, format!("the model did not go on within {bound} = {ms} ms"))
            .with("bound", bound)
            .with("ms", ms)
    })
}

impl<P: LlmProvider> LlmProvider for Timed<P> {
    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        // Nothing to wait for is nothing to do: the clock is not read for each piece.
        if self.patience == Patience::default() {
            return self.inner.stream(context, request);
        }
        Box::pin(async move {
            let (began, patience) = (Instant::now(), self.patience);
            let answer = within(patience.deadline(began, None), self.inner.stream(context, request)).await??;
            let reading = (answer, None::<Instant>, false);
            Ok(Box::pin(stream::unfold(reading, move |(mut answer, last, over)| async move {
                if over {
                    return None;
                }
                match within(patience.deadline(began, last), answer.next()).await {
                    Ok(item) => item.map(|item| (item, (answer, Some(Instant::now()), false))),
                    Err(late) => Some((Err(late), (answer, last, true))),
                }
            })) as ModelStream)
        })
    }
}
