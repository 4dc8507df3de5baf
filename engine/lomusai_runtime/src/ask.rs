//! One question to a model: finds who answers it, within the run's budget and patience, and folds the answer while it is published.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lomusai_core::agent::ModelOutcome;
use lomusai_core::budget::Plan;
use lomusai_core::component::{CallContext, Function};
use lomusai_core::llm::{LlmProvider, MessageBuilder, truncated};
use lomusai_core::partial_json::parse_partial;
use lomusai_core::transcript::{self, Accepts};
use lomusai_core::{Error, Result};
use lomusai_wire::{EventBody, LogLevel, ModelChunk, ModelInfo, ModelRequest, PartDelta, codes};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::budgets::Held;
use crate::effects::panicked;
use crate::inner::Inner;
use crate::layer::{Patience, Timed};
use crate::registry::split;
use crate::run::Live;

/// One question to a model.
pub(crate) struct ModelCall {
    pub(crate) engine: Arc<Inner>,
    pub(crate) live: Arc<Live>,
    pub(crate) component: Arc<str>,
    pub(crate) patience: Patience,
    pub(crate) number: u64,
    pub(crate) structured: bool,
    pub(crate) message_bytes: u64,
}

/// What was read so far, and what it is charged to.
struct Reading {
    builder: MessageBuilder,
    held: Option<Held>,
    /// Anything at all came: from then on the call may have cost something, counted or not.
    heard: bool,
}

impl ModelCall {
    pub(crate) async fn ask(
        self,
        context: CallContext,
        request: Arc<ModelRequest>,
        filter: Option<StreamFilter>,
    ) -> ModelOutcome {
        let cancel = context.cancel.clone();
        let builder = MessageBuilder::new(transcript::message_id(self.number), self.number, self.message_bytes);
        let mut reading = Reading { builder, held: None, heard: false };
        let info = self.engine.model_info(&self.component);
        let asked =
            AssertUnwindSafe(self.read(context, request, info.as_ref(), filter.as_ref(), &mut reading)).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::new(codes::RUN_CANCELLED, "the run was cancelled")),
            ended = asked => ended.unwrap_or_else(|panic| Err(panicked("provider", &self.component, &*panic))),
        };
        self.live.publisher.tell();
        if ended.as_ref().is_err_and(|error| error.is(codes::MODEL_TIMEOUT)) {
            cancel.cancel();
        }
        let usage = reading.builder.usage();
        // Not counted is not nothing: then nobody knows what it cost.
        let known = !usage.is_empty() || !reading.heard && ended.is_err();
        let price = info.as_ref().and_then(|info| info.price.as_ref()).filter(|_| known);
        let cost_nano_usd = price.map(|price| price.cost_nano_usd(&usage));
        match ended {
            Ok(()) => {
                let mut answer = reading.builder.finish();
                answer.cost_nano_usd = cost_nano_usd;
                ModelOutcome::Answered(answer)
            }
            Err(error) => ModelOutcome::Failed { error, usage, cost_nano_usd, partial: reading.builder.partial() },
        }
    }

    /// Reads the stream to its end, and publishes what comes.
    async fn read(
        &self,
        context: CallContext,
        mut request: Arc<ModelRequest>,
        info: Option<&ModelInfo>,
        filter: Option<&StreamFilter>,
        reading: &mut Reading,
    ) -> Result<()> {
        let found = self.engine.registry.model(&self.component)?;
        if !found.model.is_empty() {
            Arc::make_mut(&mut request).model = found.model;
        }
        self.hand_over(found.provider.as_deref(), &mut request);
        let mut total_ms = self.patience.total_ms.unwrap_or(u64::MAX);
        let mut bounded = false;
        let budgets = &self.live.budgets;
        if budgets.bounds_anything() {
            let plan = Plan::new(&request, info, total_ms);
            if budgets.bounds_money() && !plan.has_price() {
                return Err(price_unknown(&self.component));
            }
            let held = budgets.reserve(plan).await?;
            if let Some(bound) = held.answer_bound() {
                let settings = &mut Arc::make_mut(&mut request).settings;
                let bound = u32::try_from(bound).unwrap_or(u32::MAX);
                settings.max_output_tokens = Some(settings.max_output_tokens.map_or(bound, |set| set.min(bound)));
            }
            bounded = held.model_ms() < total_ms;
            total_ms = total_ms.min(held.model_ms());
            reading.held = Some(held);
        }
        let mut patience = self.patience;
        patience.total_ms = None;
        let provider = Timed::new(self.engine.taped(found.provider, &self.component), patience);
        let name = &self.component;
        let late = |message: String| Error::new(codes::MODEL_TIMEOUT, message).with("provider", &**name);
        // Around it all, what the processors of the stream take included.
        let listening = self.listen(&provider, context, request, filter, reading);
        match tokio::time::timeout(Duration::from_millis(total_ms), listening).await {
            Err(_) if bounded => Err(overdrawn(name, "model_ms")),
            Err(_) => Err(late(format!("provider `{name}` did not answer within {total_ms} ms"))),
            Ok(Err(error)) => match error.body().details.get("bound").and_then(Value::as_str) {
                Some(bound) if error.is(codes::MODEL_TIMEOUT) => {
                    let ms = error.body().details.get("ms").cloned().unwrap_or_default();
                    Err(late(format!("provider `{name}` sent nothing for {ms} ms: raise limits.{bound}")))
                }
                _ => Err(error),
            },
            Ok(Ok(())) => Ok(()),
        }
    }

    /// Turns what the provider cannot take into what it can, and tells the run's readers.
    fn hand_over(&self, provider: Option<&dyn LlmProvider>, request: &mut Arc<ModelRequest>) {
        let (name, _) = split(&self.component);
        let mut accepts = provider.map_or_else(|| Accepts::of(name), LlmProvider::accepts);
        if accepts.family.is_empty() {
            accepts.family = name.to_owned();
        }
        // A provider of a known kind may be registered under any name, and messages say that name.
        accepts.also.push(name.to_owned());
        let (messages, changes) = transcript::hand_over(&request.messages, &accepts);
        if changes.is_empty() && messages.len() == request.messages.len() {
            return;
        }
        Arc::make_mut(request).messages = messages;
        for change in changes {
            let message = format!("for `{}`: {change}", self.component);
            self.live.publisher.advise(LogLevel::Info, message);
        }
    }

    async fn listen(
        &self,
        provider: &dyn LlmProvider,
        context: CallContext,
        request: Arc<ModelRequest>,
        filter: Option<&StreamFilter>,
        reading: &mut Reading,
    ) -> Result<()> {
        let publisher = &self.live.publisher;
        let mut stream = provider.stream(context, request).await?;
        let mut shown = Shown { said: Vec::new(), objects: self.structured.then(PartialObjects::default) };
        loop {
            // The readers are told of all that came together once the next piece has to be waited for.
            let next = poll_fn(|cx| {
                let next = stream.poll_next_unpin(cx);
                if next.is_pending() {
                    publisher.tell();
                }
                next
            });
            let Some(chunk) = next.await.transpose()? else { return Err(truncated()) };
            reading.heard = true;
            if let Some(held) = &mut reading.held {
                charge(held, &chunk);
                if held.is_overdrawn() {
                    return Err(overdrawn(&self.component, "max_output_tokens"));
                }
            }
            let builder = &mut reading.builder;
            let Some(filter) = filter else {
                if self.push(builder, chunk, &mut shown).await? {
                    return Ok(());
                }
                continue;
            };
            // Functions of the host may take their time.
            publisher.tell();
            match chunk {
                ModelChunk::Text { text } => {
                    let text = filter.pass(text, false).await?;
                    self.push(builder, ModelChunk::Text { text }, &mut shown).await?;
                }
                ModelChunk::Finish { reason } => {
                    let text = filter.pass(String::new(), true).await?;
                    self.push(builder, ModelChunk::Text { text }, &mut shown).await?;
                    self.push(builder, ModelChunk::Finish { reason }, &mut shown).await?;
                    return Ok(());
                }
                other => {
                    self.push(builder, other, &mut shown).await?;
                }
            }
        }
    }

    async fn push(&self, builder: &mut MessageBuilder, chunk: ModelChunk, shown: &mut Shown) -> Result<bool> {
        let publisher = &self.live.publisher;
        if !publisher.is_read() {
            return builder.push(chunk, &mut |_| {});
        }
        let Shown { said, objects } = shown;
        let text = matches!(chunk, ModelChunk::Text { .. });
        let done = builder.push(chunk, &mut |body| said.push(body))?;
        let place = match (said.last(), &objects) {
            (Some(EventBody::PartDelta { message_id, index, .. }), Some(_)) if text => {
                Some((message_id.clone(), *index))
            }
            _ => None,
        };
        for body in said.drain(..) {
            publisher.transient(body).await;
        }
        if let (Some(objects), Some((message_id, index))) = (objects, place)
            && let Some(object) = objects.read(builder)
        {
            publisher.transient(EventBody::PartDelta { message_id, index, delta: PartDelta::Object(object) }).await;
        }
        Ok(done)
    }
}

/// What is kept between the chunks of an answer that somebody reads.
struct Shown {
    /// What one chunk brings; empty between two.
    said: Vec<EventBody>,
    objects: Option<PartialObjects>,
}

fn charge(held: &mut Held, chunk: &ModelChunk) {
    held.answer_bytes += match chunk {
        ModelChunk::Text { text } | ModelChunk::Reasoning { text, .. } => text.len() as u64,
        ModelChunk::ToolCallDelta { arguments, .. } => arguments.len() as u64,
        ModelChunk::ToolCall { arguments, .. } => {
            arguments.as_str().map_or_else(|| arguments.to_string().len(), str::len) as u64
        }
        ModelChunk::Usage { usage } => {
            held.usage = *usage;
            0
        }
        _ => 0,
    };
}

fn overdrawn(model: &str, bound: &'static str) -> Error {
    Error::new(
        codes::BUDGET_EXHAUSTED,
        format!("the answer of `{model}` went beyond what was left of the run's budget and was ended: go on with the conversation under a larger one"),
    )
    .with("bound", bound)
}

fn price_unknown(model: &str) -> Error {
    Error::new(
        codes::PRICE_UNKNOWN,
        format!("the run has a budget of money, and the price of `{model}` is not known: give it in the engine's setting `models`, or bound tokens in its place"),
    )
    .with("model", model)
}

/// Reads a structured answer while it is written, at intervals that grow with it, so that the work stays linear.
#[derive(Default)]
struct PartialObjects {
    read_at: usize,
    last: Option<Value>,
}

impl PartialObjects {
    fn read(&mut self, builder: &MessageBuilder) -> Option<Value> {
        if builder.text_len() < self.read_at {
            return None;
        }
        let text = builder.text_so_far();
        self.read_at = text.len() + text.len() / 16;
        let object = parse_partial(text.trim_start().trim_start_matches("```json").trim_start_matches("```"))?;
        if self.last.as_ref() == Some(&object) {
            return None;
        }
        self.last = Some(object.clone());
        Some(object)
    }
}

/// The stream processors: a chain beside the deltas. Most runs have none.
pub(crate) struct StreamFilter {
    pub(crate) engine: Arc<Inner>,
    pub(crate) names: Arc<[String]>,
    pub(crate) context: CallContext,
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
