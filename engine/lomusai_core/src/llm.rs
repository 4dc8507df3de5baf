//! Models: what a provider implements, and the folding of a stream into a message.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::StreamExt;
use lomusai_wire::{
    CallId, EventBody, FinishReason, Message, MessageId, ModelChunk, ModelRequest, Part, PartDelta, Reasoning, Role,
    ToolCall, Usage, codes,
};
use serde_json::{Map, Value};

use crate::component::CallContext;
use crate::transcript::Accepts;
use crate::{BoxFuture, Error, Result};

/// A streamed answer. Must end with [`ModelChunk::Finish`] or an error; dropping it ends the request.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelChunk>> + Send>>;

/// A source of models. Streaming is what it implements; a whole answer is the fold of the stream.
pub trait LlmProvider: Send + Sync {
    /// Asks a model.
    ///
    /// # Errors
    /// Errors whose code is retryable are tried again by the engine, as the settings say.
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>>;

    /// What it takes of a conversation: the rest is turned into what it takes, before it is asked. Default: everything.
    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    /// Asks a model and waits for the whole answer.
    fn generate<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let mut stream = self.stream(context, request).await?;
            let mut builder = MessageBuilder::new("m0".into(), 0, u64::MAX);
            while let Some(chunk) = stream.next().await {
                if builder.push(chunk?, &mut |_| {})? {
                    return Ok(builder.finish());
                }
            }
            Err(truncated())
        })
    }
}

impl<P: LlmProvider + ?Sized> LlmProvider for Arc<P> {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        (**self).stream(context, request)
    }

    fn generate<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<Answer>> {
        (**self).generate(context, request)
    }

    fn accepts(&self) -> Accepts {
        (**self).accepts()
    }
}

/// Makes providers that nobody registered: from the environment, or from a table of settings.
///
/// An agent's `model` is looked up among the registered providers first; then this is asked for what stands before the slash.
pub trait Router: Send + Sync {
    /// The provider of this name. Made at most once per engine. `None`: the name means nothing here.
    ///
    /// # Errors
    /// `credentials_missing`, naming the environment variable; what is wrong with the settings.
    fn provider(&self, name: &str) -> Result<Option<Arc<dyn LlmProvider>>>;

    /// The source of embeddings of this name, with this model. Made at most once per engine and model. `None`: there is none.
    ///
    /// # Errors
    /// What is wrong with the model or the settings.
    fn embedder(&self, _name: &str, _model: &str) -> Result<Option<Arc<dyn EmbeddingProvider>>> {
        Ok(None)
    }

    /// Every name it knows, and why its provider cannot be made where it cannot.
    fn providers(&self) -> Vec<(String, Option<String>)>;

    /// Texts that must never be written anywhere: keys from its settings.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The error of a stream that ended before the answer did.
pub fn truncated() -> Error {
    Error::new(codes::STREAM_TRUNCATED, "the model's stream ended before its answer did: try again")
}

/// A source of embeddings.
pub trait EmbeddingProvider: Send + Sync {
    /// Embeds each text: one vector per text, in order, each of [`dimensions`](Self::dimensions) numbers with L2 norm 1.
    fn embed<'a>(&'a self, texts: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Vec<f32>>>>;

    /// How many numbers a vector has.
    fn dimensions(&self) -> usize;
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// What the model said.
    pub message: Message,
    /// Why it stopped.
    pub finish: FinishReason,
    /// What it took.
    pub usage: Usage,
    /// What that cost, in nano-dollars, where it is known. A provider leaves it out; who asks it knows the price.
    pub cost_nano_usd: Option<u64>,
}

/// Folds chunks into one assistant message, and says what changes as transient events.
pub struct MessageBuilder {
    id: MessageId,
    /// Number of the message, for call ids.
    number: u64,
    started: bool,
    parts: Vec<Building>,
    /// Place of a streamed call among the parts, by the provider's index.
    calls: HashMap<u32, usize>,
    /// How many calls are among the parts.
    calls_begun: u32,
    metadata: Map<String, Value>,
    usage: Usage,
    finish: Option<FinishReason>,
    bytes: u64,
    bytes_max: u64,
}

struct Building {
    part: Part,
    open: bool,
}

impl MessageBuilder {
    /// An empty message of this id. `number` numbers its tool calls; `bytes_max` bounds its text.
    pub fn new(id: MessageId, number: u64, bytes_max: u64) -> Self {
        Self {
            id,
            number,
            started: false,
            parts: Vec::new(),
            calls: HashMap::new(),
            calls_begun: 0,
            metadata: Map::new(),
            usage: Usage::default(),
            finish: None,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds a chunk, and gives what changed to `emit`. `true` once the answer is complete.
    ///
    /// # Errors
    /// `message_too_large` when the message grows over its bound.
    pub fn push(&mut self, chunk: ModelChunk, emit: &mut dyn FnMut(EventBody)) -> Result<bool> {
        if !self.started {
            self.started = true;
            emit(EventBody::MessageStarted { message_id: self.id.clone(), role: Role::Assistant });
        }
        match chunk {
            ModelChunk::Text { text } => self.text(text, emit)?,
            ModelChunk::Reasoning { text, signature, encrypted } => self.reasoning(text, signature, encrypted, emit)?,
            ModelChunk::ToolCall { name, arguments, id, signature } => {
                let arguments = match arguments {
                    Value::Null => "{}".to_owned(),
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                self.grow(arguments.len())?;
                let mut call = ToolCall::new(self.next_call_id(), name, arguments);
                (call.provider_id, call.signature) = (id, signature);
                self.whole(Part::ToolCall(call), emit);
            }
            ModelChunk::ToolCallDelta { index, name, id, arguments } => {
                self.call_delta(index, name, id, arguments, emit)?
            }
            ModelChunk::Part { part } => {
                self.grow(serde_json::to_string(&part).map_or(0, |json| json.len()))?;
                self.whole(part, emit);
            }
            ModelChunk::Fields { index, provider, fields } => self.fields(index, provider, fields, emit)?,
            ModelChunk::Metadata { key, value } => {
                self.metadata.insert(key, value);
            }
            ModelChunk::Usage { usage } => self.usage = usage,
            ModelChunk::Finish { reason } => {
                self.close_from(0, emit);
                self.finish = reason;
                return Ok(true);
            }
            // A chunk of a later version says nothing that this one could keep.
            _ => {}
        }
        Ok(false)
    }

    fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes as u64;
        if self.bytes > self.bytes_max {
            return Err(Error::new(
                codes::MESSAGE_TOO_LARGE,
                format!("the model's answer is larger than limits.message_bytes = {}", self.bytes_max),
            ));
        }
        Ok(())
    }

    fn next_call_id(&self) -> CallId {
        format!("c{}.{}", self.number, self.calls_begun).into()
    }

    fn text(&mut self, text: String, emit: &mut dyn FnMut(EventBody)) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.grow(text.len())?;
        let index = match self.parts.last() {
            Some(Building { part: Part::Text(_), open: true }) => self.parts.len() - 1,
            _ => self.open(Part::Text(String::new()), emit),
        };
        if let Part::Text(so_far) = &mut self.parts[index].part {
            so_far.push_str(&text);
        }
        emit(self.delta(index, PartDelta::Text(text)));
        Ok(())
    }

    fn reasoning(
        &mut self,
        text: String,
        signature: Option<String>,
        encrypted: Option<String>,
        emit: &mut dyn FnMut(EventBody),
    ) -> Result<()> {
        self.grow(text.len() + signature.as_ref().map_or(0, String::len) + encrypted.as_ref().map_or(0, String::len))?;
        let last = self.parts.len().wrapping_sub(1);
        if let Some(Building { part: Part::Reasoning(so_far), open: true }) = self.parts.last_mut()
            && encrypted.is_some()
        {
            so_far.text.push_str(&text);
            (so_far.signature, so_far.encrypted) = (signature, encrypted);
            if !text.is_empty() {
                emit(self.delta(last, PartDelta::Text(text)));
            }
            self.close_from(last, emit);
            return Ok(());
        }
        if encrypted.is_some() {
            let mut part = Reasoning::default();
            (part.text, part.signature, part.encrypted) = (text, signature, encrypted);
            self.whole(Part::Reasoning(part), emit);
            return Ok(());
        }
        let index = match self.parts.last() {
            Some(Building { part: Part::Reasoning(_), open: true }) => self.parts.len() - 1,
            _ => self.open(Part::Reasoning(Reasoning::default()), emit),
        };
        let signed = signature.is_some();
        if let Part::Reasoning(so_far) = &mut self.parts[index].part {
            so_far.text.push_str(&text);
            so_far.signature = signature;
        }
        if !text.is_empty() {
            emit(self.delta(index, PartDelta::Text(text)));
        }
        if signed {
            self.close_from(index, emit);
        }
        Ok(())
    }

    fn call_delta(
        &mut self,
        index: u32,
        name: Option<String>,
        id: Option<String>,
        arguments: String,
        emit: &mut dyn FnMut(EventBody),
    ) -> Result<()> {
        self.grow(arguments.len())?;
        let place = match self.calls.get(&index) {
            Some(place) => *place,
            None => {
                let call = ToolCall::new(self.next_call_id(), name.clone().unwrap_or_default(), "");
                let place = self.open(Part::ToolCall(call), emit);
                self.calls.insert(index, place);
                place
            }
        };
        if let Part::ToolCall(call) = &mut self.parts[place].part {
            if let Some(name) = name {
                call.name = name;
            }
            if id.is_some() {
                call.provider_id = id;
            }
            call.arguments.push_str(&arguments);
        }
        if !arguments.is_empty() {
            emit(self.delta(place, PartDelta::Arguments(arguments)));
        }
        Ok(())
    }

    fn fields(
        &mut self,
        index: Option<u32>,
        provider: String,
        fields: Map<String, Value>,
        emit: &mut dyn FnMut(EventBody),
    ) -> Result<()> {
        self.grow(serde_json::to_string(&fields).map_or(0, |json| json.len()))?;
        let place = match index {
            Some(index) => self.calls.get(&index).copied(),
            None => self.parts.len().checked_sub(1),
        };
        let kept = match place.map(|place| &mut self.parts[place].part) {
            Some(Part::Reasoning(reasoning)) => reasoning.provider.entry(provider).or_insert_with(|| Map::new().into()),
            Some(Part::ToolCall(call)) => call.provider.entry(provider).or_insert_with(|| Map::new().into()),
            Some(Part::Provider { provider: owner, data, attached: true }) if *owner == provider => data,
            _ => {
                self.whole(Part::Provider { provider, data: fields.into(), attached: true }, emit);
                return Ok(());
            }
        };
        if let Value::Object(kept) = kept {
            kept.extend(fields);
        }
        // What follows is of another part.
        if let Some(place) = place.filter(|place| matches!(self.parts[*place].part, Part::Reasoning(_))) {
            self.close_from(place, emit);
        }
        Ok(())
    }

    fn delta(&self, index: usize, delta: PartDelta) -> EventBody {
        EventBody::PartDelta { message_id: self.id.clone(), index: index as u32, delta }
    }

    /// Begins a part. Text and reasoning before it are whole; calls may still grow, since providers interleave them.
    fn open(&mut self, part: Part, emit: &mut dyn FnMut(EventBody)) -> usize {
        if let Some(Building { part: Part::Text(_) | Part::Reasoning(_), .. }) = self.parts.last() {
            self.close_from(self.parts.len() - 1, emit);
        }
        let (name, call_id) = match &part {
            Part::ToolCall(call) => {
                self.calls_begun += 1;
                (Some(call.name.clone()), Some(call.call_id.clone()))
            }
            _ => (None, None),
        };
        let index = self.parts.len();
        emit(EventBody::PartStarted {
            message_id: self.id.clone(),
            index: index as u32,
            part_type: part.type_name().to_owned(),
            name,
            call_id,
        });
        self.parts.push(Building { part, open: true });
        index
    }

    fn whole(&mut self, part: Part, emit: &mut dyn FnMut(EventBody)) {
        let index = self.open(part, emit);
        self.close_from(index, emit);
    }

    fn close_from(&mut self, first: usize, emit: &mut dyn FnMut(EventBody)) {
        for (index, building) in self.parts.iter_mut().enumerate().skip(first).filter(|(_, building)| building.open) {
            building.open = false;
            emit(EventBody::PartCompleted { message_id: self.id.clone(), index: index as u32 });
        }
    }

    /// The text so far.
    pub fn text_so_far(&self) -> String {
        self.parts.iter().filter_map(|building| building.part.as_text()).collect()
    }

    /// How many bytes of text there are so far.
    pub fn text_len(&self) -> usize {
        self.parts.iter().filter_map(|building| building.part.as_text()).map(str::len).sum()
    }

    /// What was used so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The whole message.
    pub fn finish(self) -> Answer {
        let mut message = Message::new(Role::Assistant, self.parts.into_iter().map(|building| building.part).collect());
        for part in &mut message.parts {
            // An absent argument object is an empty one.
            if let Part::ToolCall(call) = part
                && call.arguments.trim().is_empty()
            {
                call.arguments = "{}".into();
            }
        }
        let calls = message.tool_calls().next().is_some();
        message.id = Some(self.id);
        message.metadata = self.metadata;
        let finish = self.finish.unwrap_or(if calls { FinishReason::ToolCalls } else { FinishReason::Stop });
        Answer { message, finish, usage: self.usage, cost_nano_usd: None }
    }

    /// What was shown of a message that was cut off: its text and signed reasoning. Calls are left out, since nobody will answer them.
    pub fn partial(self) -> Option<Answer> {
        let shown: Vec<Part> = self
            .parts
            .into_iter()
            .map(|building| building.part)
            .filter(|part| match part {
                Part::Text(text) => !text.is_empty(),
                Part::Reasoning(reasoning) => reasoning.signature.is_some() || reasoning.encrypted.is_some(),
                Part::ToolCall(_) => false,
                _ => true,
            })
            .collect();
        if !shown.iter().any(|part| !matches!(part, Part::Reasoning(_) | Part::Provider { .. })) {
            return None;
        }
        let mut message = Message::new(Role::Assistant, shown);
        message.id = Some(self.id);
        message.metadata = self.metadata;
        Some(Answer { message, finish: FinishReason::Other, usage: self.usage, cost_nano_usd: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(index: Option<u32>, fields: Value) -> ModelChunk {
        let Value::Object(fields) = fields else { panic!("an object") };
        ModelChunk::Fields { index, provider: "p".into(), fields }
    }

    fn parts(chunks: Vec<ModelChunk>) -> Value {
        let mut builder = MessageBuilder::new("m0".into(), 0, u64::MAX);
        for chunk in chunks {
            builder.push(chunk, &mut |_| {}).expect("within its bound");
        }
        json!(builder.finish().message.parts)
    }

    #[test]
    fn fields_stay_with_the_part_they_are_of() {
        let call = ModelChunk::ToolCallDelta { index: 7, name: Some("add".into()), id: None, arguments: "{}".into() };
        let thought = ModelChunk::Reasoning { text: "hm".into(), signature: None, encrypted: None };
        let found = parts(vec![
            thought,
            fields(None, json!({"a": 1})),
            ModelChunk::text("Hello"),
            call,
            fields(Some(7), json!({"b": 2})),
            ModelChunk::text("Bye"),
            fields(None, json!({"c": 3})),
            fields(None, json!({"d": 4})),
        ]);
        assert_eq!(
            found,
            json!([
                {"type": "reasoning", "text": "hm", "provider": {"p": {"a": 1}}},
                {"type": "text", "text": "Hello"},
                {"type": "tool_call", "call_id": "c0.0", "name": "add", "arguments": "{}", "provider": {"p": {"b": 2}}},
                {"type": "text", "text": "Bye"},
                {"type": "provider", "provider": "p", "data": {"c": 3, "d": 4}, "attached": true},
            ])
        );
    }

    #[test]
    fn encrypted_reasoning_joins_what_was_readable_of_it() {
        let thought = |text: &str, encrypted: Option<&str>| ModelChunk::Reasoning {
            text: text.into(),
            signature: None,
            encrypted: encrypted.map(str::to_owned),
        };
        assert_eq!(
            parts(vec![thought("hm", None), thought("", Some("x")), thought("", Some("y"))]),
            json!([{"type": "reasoning", "text": "hm", "encrypted": "x"}, {"type": "reasoning", "encrypted": "y"}])
        );
    }
}
