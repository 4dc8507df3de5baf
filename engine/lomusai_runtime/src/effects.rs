//! Carries out what a machine asks: calls the component, within its time, cancellable, and safe from its panics.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{CallContext, Emit, Function};
use lomusai_core::llm::{MessageBuilder, truncated};
use lomusai_core::machine::{ChildOutcome, Effect, EffectInput, Input, ModelOutcome};
use lomusai_core::partial_json::parse_partial;
use lomusai_core::{BoxFuture, Error, Result, transcript};
use lomusai_wire::{
    EffectId, EffectKind, EventBody, ModelChunk, ModelRequest, Outcome, Part, PartDelta, RunId, RunStatus,
    StartRequest, WorkflowRequest, codes,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inner::Inner;
use crate::run::{Child, Live, Msg, RunResult};

/// Begins an effect. The future gives the input that tells the machine how it ended.
pub(crate) fn carry_out(
    engine: &Arc<Inner>,
    live: &Arc<Live>,
    effect: Effect,
    token: CancelToken,
    stream: &Arc<[String]>,
    message_bytes: u64,
) -> BoxFuture<'static, Input> {
    let (engine, live) = (engine.clone(), live.clone());
    let mut context = CallContext::new(live.run_id.clone(), effect.effect_id.clone());
    context.call_id = effect.call_id;
    context.attempt = effect.attempt;
    context.agent = live.agent.clone();
    context.cancel = token;
    context.deadline_ms = Some(engine.clock.now_ms().saturating_add(effect.timeout_ms));
    context.context = live.context.clone();
    context.resume = effect.resume;
    context.host = live.host.clone();
    context.emit = Some(emitter(&live));
    let (id, component, timeout_ms) = (effect.effect_id, effect.component, effect.timeout_ms);
    match effect.input {
        EffectInput::Model { request, number, structured } => {
            let filter = StreamFilter { engine: engine.clone(), names: stream.clone(), context: context.clone() };
            let call = ModelCall { engine, live, component, timeout_ms, number, structured, message_bytes };
            Box::pin(async move { Input::Model(id, call.ask(context, request, filter).await) })
        }
        EffectInput::Tool { arguments } => Box::pin(async move {
            let limit = Limit { kind: EffectKind::Tool, name: &component, timeout_ms, cancel: context.cancel.clone() };
            let result = limit
                .hold(async {
                    let tool = engine.registry.tool(&component)?;
                    tool.call(context, &arguments).await
                })
                .await;
            Input::Tool(id, result)
        }),
        EffectInput::Step { input, state } => Box::pin(async move {
            context.state = state;
            let limit = Limit { kind: EffectKind::Step, name: &component, timeout_ms, cancel: context.cancel.clone() };
            let result = limit
                .hold(async {
                    let step = engine.registry.step(&component)?;
                    step.call(context, input).await
                })
                .await;
            Input::Step(id, result)
        }),
        EffectInput::Run { run_id, prompt } => {
            let child = Child::Agent(StartRequest::new(component, prompt));
            Box::pin(run_child(engine, live, id, child, run_id, context.cancel))
        }
        EffectInput::Workflow { run_id, input } => {
            let child = Child::Workflow(WorkflowRequest::new(component, input));
            Box::pin(run_child(engine, live, id, child, run_id, context.cancel))
        }
        EffectInput::Call { input } => Box::pin(async move {
            let limit = Limit { kind: EffectKind::Call, name: &component, timeout_ms, cancel: context.cancel.clone() };
            let result = limit
                .hold(async {
                    let function = engine.registry.function(&component)?;
                    function.call(context, input).await
                })
                .await;
            Input::Call(id, result)
        }),
        // The machine of a later version asks for what this driver does not know.
        _ => Box::pin(async move {
            Input::Call(id, Err(Error::new(codes::UNSUPPORTED, "this engine cannot carry out the effect")))
        }),
    }
}

/// Starts a child run, or finds the one that an earlier attempt started, and waits for it.
async fn run_child(
    engine: Arc<Inner>,
    live: Arc<Live>,
    id: EffectId,
    child: Child,
    run_id: RunId,
    cancel: CancelToken,
) -> Input {
    let outcome = match engine.child(&live, &id, child, run_id).await {
        Ok(child) => wait_for_child(&child, &cancel).await,
        Err(error) => failed_child(error),
    };
    Input::Child(id, outcome)
}

/// Waits for a child that is at work again, or reads how it ended.
pub(crate) fn attach(engine: &Arc<Inner>, id: EffectId, child: RunId, token: CancelToken) -> BoxFuture<'static, Input> {
    let engine = engine.clone();
    Box::pin(async move {
        let outcome = match engine.live(&child) {
            Some(live) => wait_for_child(&live, &token).await,
            None => match engine.stored_result(&child).await {
                Ok(result) => child_outcome(Ok(Arc::new(result))),
                Err(error) => failed_child(error),
            },
        };
        Input::Child(id, outcome)
    })
}

async fn wait_for_child(child: &Live, cancel: &CancelToken) -> ChildOutcome {
    let result = tokio::select! {
        result = child.settled.wait() => result,
        () = cancel.cancelled() => {
            child.cancel(0, Some("the run that started it was cancelled".into()));
            child.settled.wait().await
        }
    };
    child_outcome(result)
}

fn child_outcome(result: Result<Arc<RunResult>>) -> ChildOutcome {
    let result = match result {
        Ok(result) => result,
        Err(error) => return failed_child(error),
    };
    let outcome = match result.status {
        RunStatus::Suspended => return ChildOutcome::Suspended(result.pending.clone()),
        RunStatus::Completed => Outcome::Completed,
        RunStatus::Exhausted => Outcome::Exhausted,
        RunStatus::Bailed => Outcome::Bailed,
        RunStatus::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    };
    ChildOutcome::Finished { outcome, output: result.output.clone(), error: result.error.clone(), usage: result.usage }
}

fn failed_child(error: Error) -> ChildOutcome {
    ChildOutcome::Finished { outcome: Outcome::Failed, output: None, error: Some(error), usage: Default::default() }
}

fn emitter(live: &Arc<Live>) -> Emit {
    // Weak: a component that keeps its context must not keep the run.
    let live = Arc::downgrade(live);
    Arc::new(move |body: EventBody| {
        let Some(live) = live.upgrade() else { return };
        if body.is_durable() {
            let _ = live.inbox.send(Msg::Emit(body));
        } else {
            live.publisher.try_transient(body);
        }
    })
}

/// How long a call may take, and what it is called in errors.
struct Limit<'a> {
    kind: EffectKind,
    name: &'a str,
    timeout_ms: u64,
    cancel: CancelToken,
}

impl Limit<'_> {
    async fn hold<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let caught = AssertUnwindSafe(work).catch_unwind();
        match tokio::time::timeout(Duration::from_millis(self.timeout_ms), caught).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(panicked(self.word(), self.name, &*panic)),
            Err(_) => {
                self.cancel.cancel();
                Err(self.timed_out())
            }
        }
    }

    fn word(&self) -> &'static str {
        match self.kind {
            EffectKind::Model => "provider",
            EffectKind::Tool => "tool",
            EffectKind::Step => "step",
            _ => "function",
        }
    }

    fn timed_out(&self) -> Error {
        let code = match self.kind {
            EffectKind::Model => codes::MODEL_TIMEOUT,
            EffectKind::Tool => codes::TOOL_TIMEOUT,
            EffectKind::Step => codes::STEP_TIMEOUT,
            _ => codes::FUNCTION_TIMEOUT,
        };
        let word = self.word();
        Error::new(code, format!("{word} `{}` did not answer within {} ms", self.name, self.timeout_ms))
            .with(word, self.name)
    }
}

fn panicked(word: &str, name: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".into());
    Error::new(codes::CALLBACK_PANICKED, format!("{word} `{name}` panicked: {text}")).with(word, name)
}

/// One question to a model.
struct ModelCall {
    engine: Arc<Inner>,
    live: Arc<Live>,
    component: String,
    timeout_ms: u64,
    number: u64,
    structured: bool,
    message_bytes: u64,
}

impl ModelCall {
    async fn ask(self, context: CallContext, request: Arc<ModelRequest>, filter: StreamFilter) -> ModelOutcome {
        let cancel = context.cancel.clone();
        let mut builder = MessageBuilder::new(transcript::message_id(self.number), self.number, self.message_bytes);
        let limit = Limit {
            kind: EffectKind::Model,
            name: &self.component,
            timeout_ms: self.timeout_ms,
            cancel: cancel.clone(),
        };
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::new(codes::RUN_CANCELLED, "the run was cancelled")),
            ended = limit.hold(self.read(context, request, &filter, &mut builder)) => ended,
        };
        match ended {
            Ok(()) => ModelOutcome::Answered(builder.finish()),
            Err(error) => ModelOutcome::Failed { error, usage: builder.usage(), partial: builder.partial() },
        }
    }

    /// Reads the stream to its end, and publishes what comes.
    async fn read(
        &self,
        context: CallContext,
        mut request: Arc<ModelRequest>,
        filter: &StreamFilter,
        builder: &mut MessageBuilder,
    ) -> Result<()> {
        let (provider, model) = self.engine.registry.model(&self.component)?;
        if !model.is_empty() {
            Arc::make_mut(&mut request).model = model;
        }
        let mut stream = provider.stream(context, request).await?;
        let mut objects = self.structured.then(PartialObjects::default);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            if filter.names.is_empty() {
                if self.push(builder, chunk, &mut objects).await? {
                    return Ok(());
                }
                continue;
            }
            match chunk {
                ModelChunk::Text { text } => {
                    let text = filter.pass(text, false).await?;
                    self.push(builder, ModelChunk::Text { text }, &mut objects).await?;
                }
                ModelChunk::Finish { reason } => {
                    let text = filter.pass(String::new(), true).await?;
                    self.push(builder, ModelChunk::Text { text }, &mut objects).await?;
                    self.push(builder, ModelChunk::Finish { reason }, &mut objects).await?;
                    return Ok(());
                }
                other => {
                    self.push(builder, other, &mut objects).await?;
                }
            }
        }
        Err(truncated())
    }

    async fn push(
        &self,
        builder: &mut MessageBuilder,
        chunk: ModelChunk,
        objects: &mut Option<PartialObjects>,
    ) -> Result<bool> {
        let publisher = &self.live.publisher;
        if !publisher.is_read() {
            return builder.push(chunk, &mut |_| {});
        }
        let text = matches!(chunk, ModelChunk::Text { .. });
        // Two is what a delta usually brings: its part's start and itself.
        let mut said: Vec<EventBody> = Vec::with_capacity(2);
        let done = builder.push(chunk, &mut |body| said.push(body))?;
        let place = said.last().and_then(|body| match body {
            EventBody::PartDelta { message_id, index, .. } => Some((message_id.clone(), *index)),
            _ => None,
        });
        for body in said {
            publisher.transient(body).await;
        }
        if let (true, Some(objects), Some((message_id, index))) = (text, objects, place)
            && let Some(object) = objects.read(builder)
        {
            publisher.transient(EventBody::PartDelta { message_id, index, delta: PartDelta::Object(object) }).await;
        }
        Ok(done)
    }
}

/// Reads a structured answer while it is written, at intervals that grow with it, so that the work stays linear.
#[derive(Default)]
struct PartialObjects {
    read_at: usize,
    last: Option<Value>,
}

impl PartialObjects {
    fn read(&mut self, builder: &MessageBuilder) -> Option<Value> {
        let text = builder.text_so_far();
        if text.len() < self.read_at {
            return None;
        }
        self.read_at = text.len() + text.len() / 16;
        let object = parse_partial(text.trim_start().trim_start_matches("```json").trim_start_matches("```"))?;
        if self.last.as_ref() == Some(&object) {
            return None;
        }
        self.last = Some(object.clone());
        Some(object)
    }
}

/// The stream processors: a chain beside the deltas, which is free when it is empty.
struct StreamFilter {
    engine: Arc<Inner>,
    names: Arc<[String]>,
    context: CallContext,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StreamReply {
    text: Option<String>,
    abort: Option<StreamAbort>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StreamAbort {
    reason: String,
    retry: bool,
}

impl StreamFilter {
    async fn pass(&self, mut text: String, end: bool) -> Result<String> {
        for name in &*self.names {
            let function: Arc<dyn Function> = self.engine.registry.function(name)?;
            let question = json!({"phase": "stream", "text": text, "end": end});
            let reply = function.call(self.context.clone(), question).await?;
            if reply.is_null() {
                continue;
            }
            let reply: StreamReply = serde_json::from_value(reply).map_err(|e| {
                Error::new(
                    codes::FUNCTION_REPLY_INVALID,
                    format!("function `{name}` answered what no stream processor may: {e}"),
                )
                .with("function", name.as_str())
            })?;
            if let Some(StreamAbort { reason, retry }) = reply.abort {
                return Err(Error::new(codes::PROCESSOR_ABORTED, format!("a processor stopped the run: {reason}"))
                    .with("reason", reason)
                    .with("retry", retry));
            }
            text = reply.text.unwrap_or(text);
        }
        Ok(text)
    }
}

/// Bytes that an event adds to a journal, roughly: what is large in it.
pub(crate) fn weight(body: &EventBody) -> u64 {
    let parts = |parts: &[Part]| {
        parts
            .iter()
            .map(|part| {
                part.as_text().map_or_else(|| serde_json::to_string(part).map_or(0, |text| text.len()), str::len) as u64
            })
            .sum::<u64>()
    };
    100 + match body {
        EventBody::MessageCompleted { message } => parts(&message.parts),
        EventBody::EffectCompleted { output: Some(Value::String(text)), .. } => text.len() as u64,
        EventBody::EffectCompleted { output: Some(output), .. } => output.to_string().len() as u64,
        EventBody::Custom { data, .. } => data.to_string().len() as u64,
        _ => 0,
    }
}
