//! The host's callables as the engine's traits.

use std::sync::Arc;

use futures_util::stream;
use lomusai_core::component::{CallContext, Function, Step};
use lomusai_core::llm::{EmbeddingProvider, LlmProvider, ModelStream};
use lomusai_core::tool::Tool;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ModelChunk, ModelRequest, StepReply, ToolReply, ToolSpec, codes};
use serde_json::{Value, json};

use crate::answer::{Answer, AnswerKind, CallInfo, Reply, Slot};
use crate::engine::Placement;
use crate::pool::{HostPool, Ticket};
use crate::{Handler, write};

/// A callable, where it runs and what it is called.
pub(crate) struct Callable {
    pub(crate) name: Arc<str>,
    pub(crate) kind: AnswerKind,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) placement: Placement,
    pub(crate) pool: Arc<HostPool>,
}

/// Closes the call when the engine does not wait for it any more, however that comes.
struct Waiting {
    slot: Arc<Slot>,
    pool: Arc<HostPool>,
    ticket: Option<Arc<Ticket>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.slot.close();
        if let Some(ticket) = &self.ticket {
            self.pool.give_up(ticket);
        }
    }
}

impl Callable {
    fn begin(&self, context: CallContext, input: String) -> Waiting {
        let context = Arc::new(context);
        let (answer, slot) = Answer::new(self.kind, self.name.clone(), context.clone());
        let call = CallInfo { name: self.name.clone(), input, context };
        let mut waiting = Waiting { slot, pool: self.pool.clone(), ticket: None };
        match self.placement {
            Placement::Inline => invoke(&*self.handler, call, answer),
            Placement::Pool => {
                let handler = self.handler.clone();
                let what = format!("`{}` of run `{}`", self.name, call.context.run_id);
                waiting.ticket = Some(self.pool.run(what, Box::new(move || invoke(&*handler, call, answer))));
            }
        }
        waiting
    }

    async fn ask(&self, context: CallContext, input: String) -> Result<Reply> {
        let mut waiting = self.begin(context, input);
        let reply = waiting.slot.answer().await;
        // Answered: the callable may go on in its own time, and its thread counts as long as it does.
        waiting.ticket = None;
        reply
    }

    /// As [`ask`](Self::ask), of what is no tool.
    async fn ask_function(&self, context: CallContext, input: String) -> Result<Value> {
        Ok(match self.ask(context, input).await? {
            Reply::Function(value) => value,
            _ => unreachable!("each kind of call takes its own kind of answer only"),
        })
    }
}

/// Calls the host. A panic of the binding is told like an error of the callable.
fn invoke(handler: &dyn Handler, call: CallInfo, answer: Answer) {
    let kept = answer.clone();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler.call(call, answer)));
    if caught.is_err() {
        let name = kept.name();
        let _ = kept.reject(
            Error::new(codes::CALLBACK_PANICKED, format!("the callback of `{name}` panicked")).with("name", name),
        );
    }
}

pub(crate) struct HostTool {
    pub(crate) spec: ToolSpec,
    pub(crate) callable: Callable,
}

impl Tool for HostTool {
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    fn call<'a>(&'a self, context: CallContext, arguments: &'a str) -> BoxFuture<'a, Result<ToolReply>> {
        Box::pin(async move {
            Ok(match self.callable.ask(context, arguments.to_owned()).await? {
                Reply::Tool(reply) => reply,
                _ => unreachable!("a tool's call takes a tool's answer only"),
            })
        })
    }
}

pub(crate) struct HostFunction(pub(crate) Callable);

impl Function for HostFunction {
    fn call<'a>(&'a self, context: CallContext, input: Value) -> BoxFuture<'a, Result<Value>> {
        Box::pin(self.0.ask_function(context, input.to_string()))
    }
}

pub(crate) struct HostStep(pub(crate) Callable);

impl Step for HostStep {
    fn call<'a>(&'a self, context: CallContext, input: Arc<Value>) -> BoxFuture<'a, Result<StepReply>> {
        Box::pin(async move {
            Ok(match self.0.ask(context, input.to_string()).await? {
                Reply::Step(reply) => reply,
                _ => unreachable!("a step's call takes a step's answer only"),
            })
        })
    }
}

pub(crate) struct HostProvider(pub(crate) Callable);

impl LlmProvider for HostProvider {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        let waiting = self.0.begin(context, write(&*request));
        let chunks = stream::unfold(Some((waiting, false)), |state| async move {
            let (mut waiting, finished) = state?;
            loop {
                let arrived = waiting.slot.clone();
                let arrived = arrived.arrived.notified();
                match waiting.slot.take() {
                    Some(Ok(chunk)) => {
                        let finished = finished || matches!(chunk, ModelChunk::Finish { .. });
                        return Some((Ok(chunk), Some((waiting, finished))));
                    }
                    Some(Err(end)) => {
                        waiting.ticket = None;
                        return match end {
                            Some(error) => Some((Err(error), None)),
                            // The explicit end of the stream is the end of the answer.
                            None if !finished => Some((Ok(ModelChunk::Finish { reason: None }), None)),
                            None => None,
                        };
                    }
                    None => arrived.await,
                }
            }
        });
        Box::pin(std::future::ready(Ok(Box::pin(chunks) as ModelStream)))
    }
}

pub(crate) struct HostEmbedder {
    pub(crate) dimensions: usize,
    pub(crate) callable: Callable,
}

impl EmbeddingProvider for HostEmbedder {
    fn embed<'a>(&'a self, texts: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Vec<f32>>>> {
        Box::pin(async move {
            let context = CallContext::new("embed".into(), "embed".into());
            let reply = self.callable.ask_function(context, json!({ "texts": texts }).to_string()).await?;
            let wrong = |why: String| {
                Error::new(codes::FUNCTION_REPLY_INVALID, format!("embedder `{}` {why}", self.callable.name))
                    .with("function", &*self.callable.name)
            };
            let vectors: Vec<Vec<f32>> =
                serde_json::from_value(reply).map_err(|e| wrong(format!("must answer a list of vectors: {e}")))?;
            if vectors.len() != texts.len() {
                return Err(wrong(format!("answered {} vectors for {} texts", vectors.len(), texts.len())));
            }
            match vectors.iter().find(|vector| vector.len() != self.dimensions) {
                Some(odd) => Err(wrong(format!(
                    "answered a vector of {} numbers, registered with {}",
                    odd.len(),
                    self.dimensions
                ))),
                None => Ok(vectors),
            }
        })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }
}
