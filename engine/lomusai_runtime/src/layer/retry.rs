//! Trying again, and asking somebody else.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::retry::Retry;
use lomusai_core::transcript::Accepts;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ModelRequest, codes};

use super::begun;

/// Tries again where a call failed before its first piece came, by [`Retry`]. What was shown cannot be unsaid: a later failure is passed on.
pub struct Retrying<P> {
    inner: P,
    retry: Retry,
}

impl<P: LlmProvider> Retrying<P> {
    /// This provider, tried again by this rule.
    pub fn new(inner: P, retry: Retry) -> Self {
        Self { inner, retry }
    }
}

impl<P: LlmProvider> LlmProvider for Retrying<P> {
    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            for tries in 1.. {
                let mut context = context.clone();
                context.attempt = tries;
                let error = match self.inner.stream(context, request.clone()).await {
                    Ok(stream) => match begun(stream).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => error,
                    },
                    Err(error) => error,
                };
                match self.retry.wait_ms(tries, error.body()) {
                    Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    None => return Err(error),
                }
            }
            unreachable!("a rule gives up in the end")
        })
    }
}

/// Asks the next provider where one failed before its first piece came. The last one's error is the error.
pub struct FallingBack(Vec<Arc<dyn LlmProvider>>);

impl FallingBack {
    /// These providers, in this order.
    ///
    /// # Errors
    /// `argument_invalid` for none.
    pub fn new(providers: Vec<Arc<dyn LlmProvider>>) -> Result<Self> {
        if providers.is_empty() {
            return Err(Error::new(codes::ARGUMENT_INVALID, "a list of providers to fall back on needs at least one"));
        }
        Ok(Self(providers))
    }
}

impl LlmProvider for FallingBack {
    /// As the first one: the others are handed the same conversation.
    fn accepts(&self) -> Accepts {
        self.0[0].accepts()
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            let mut last = None;
            for provider in &self.0 {
                let begins = async { begun(provider.stream(context.clone(), request.clone()).await?).await };
                match begins.await {
                    Ok(stream) => return Ok(stream),
                    // Nobody wants an answer any more.
                    Err(error) if error.is(codes::RUN_CANCELLED) => return Err(error),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.expect("there is at least one"))
        })
    }
}
