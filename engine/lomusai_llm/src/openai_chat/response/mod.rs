//! The server's answer: the events of a stream, folded into chunks. A body that came whole is one event with everything in it.
//!
//! ```text
//! Open     --text, calls--> Open
//! Open     --finish_reason--> Finished   only usage may still come
//! Finished --[DONE], end--> Done         the finish is told, with what was kept for it
//! Open     --[DONE]-------> Done         if anything was said; else it was cut off
//! Open     --end----------> cut off
//! any      --error--------> failed
//! ```

mod calls;
mod usage;
mod wire;

use std::collections::VecDeque;

use lomusai_core::llm::truncated;
use lomusai_core::{Error, Result};
use lomusai_wire::{FinishReason, ModelChunk, Part, Usage, codes};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::http::complaint::complaint;
use crate::http::failure::{self, nonsense};
use crate::wire::Event;
use calls::Calls;
use usage::usage;
use wire::{CallDelta, Choice, Envelope, Field, Said};

/// What is known of the answer so far.
#[derive(Default)]
pub(super) struct Fold {
    /// The provider's name, for the metadata.
    name: &'static str,
    calls: Calls,
    /// Facts for the message's metadata, and whether they are told.
    metadata: Map<String, Value>,
    metadata_told: bool,
    /// Thoughts in the metadata that are told at the end.
    details_grew: bool,
    /// The facts as the last event wrote them: most events write them again.
    written: Vec<(&'static str, Box<str>)>,
    refusal: String,
    usage: Usage,
    /// The model has begun to speak, were it with nothing.
    begun: bool,
    /// It has said something.
    spoke: bool,
    finish: Option<FinishReason>,
    done: bool,
}

impl Fold {
    /// An answer of the provider of this name.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }
}

impl crate::wire::Fold for Fold {
    fn has_finish(&self) -> bool {
        self.finish.is_some()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn event(&mut self, event: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let data = event.data.trim();
        if self.done || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            if !self.begun {
                return Err(truncated());
            }
            self.finish(chunks);
            return Ok(());
        }
        let envelope: Envelope<'_> = match serde_json::from_str(data) {
            Ok(envelope) => envelope,
            Err(error) => return Err(nonsense(&error.to_string(), data)),
        };
        if envelope.error.is_some() || event.name == "error" {
            if self.finish.is_none() {
                return Err(complaint_of(data));
            }
            // The answer was whole before; what went wrong after it is kept.
            self.keep_written("error", envelope.error);
        }
        // Some servers leave the envelope out.
        if envelope.choices.is_none() && is_error(data) {
            return Err(complaint_of(data));
        }
        self.envelope(envelope, false, chunks)
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        let envelope: Envelope<'_> = match serde_json::from_str(&text) {
            Ok(envelope) => envelope,
            // A cut within a number is not always seen as one.
            Err(error) if error.is_eof() || !text.trim_end().ends_with(['}', ']']) => return Err(truncated()),
            Err(_) if text.starts_with('[') => return Err(complaint_of(&text)),
            Err(error) => return Err(nonsense(&error.to_string(), &text)),
        };
        if envelope.choices.as_ref().is_none_or(Vec::is_empty) {
            return Err(complaint_of(&text));
        }
        self.envelope(envelope, true, chunks)?;
        // A body that is there to its last brace is a whole answer, said why or not.
        self.finish(chunks);
        Ok(())
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        self.calls.end(self.name, chunks);
        if !self.refusal.is_empty() {
            let refusal = std::mem::take(&mut self.refusal);
            self.keep("refusal", Some(refusal.into()));
        }
        self.metadata_told &= !self.details_grew;
        self.tell_metadata(chunks);
        let reason = match self.finish {
            // A call that was asked for by name ends some answers with `stop`.
            Some(FinishReason::Stop) if !self.calls.is_empty() => Some(FinishReason::ToolCalls),
            reason => reason,
        };
        chunks.push_back(ModelChunk::Finish { reason });
        self.done = true;
    }
}

impl Fold {
    fn envelope(&mut self, envelope: Envelope<'_>, whole: bool, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        self.keep_written("id", envelope.id);
        self.keep_written("model", envelope.model);
        self.keep_written("system_fingerprint", envelope.system_fingerprint);
        self.keep_written("service_tier", envelope.service_tier);
        self.keep_written("provider", envelope.provider);
        self.keep_written("citations", envelope.citations);
        for choice in envelope.choices.into_iter().flatten() {
            // More than one answer is not asked for; were there more, they would run into each other.
            if choice.index.as_ref().and_then(Value::as_u64).unwrap_or(0) == 0 {
                self.choice(choice, whole, chunks)?;
            }
        }
        self.tell_metadata(chunks);
        if let Some(usage) = envelope.usage.as_ref().and_then(usage).filter(|usage| *usage != self.usage) {
            self.usage = usage;
            chunks.push_back(ModelChunk::Usage { usage });
        }
        Ok(())
    }

    fn choice(&mut self, choice: Choice<'_>, whole: bool, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        // Some servers stream both, what is new and all so far; some stream one event with a whole message.
        let new = choice.delta.filter(|delta| !whole && (self.spoke || !delta.is_silent()));
        let (said, whole) = match (new, choice.message) {
            (Some(delta), _) => (delta, false),
            (None, Some(message)) if whole || !self.spoke => (message, true),
            (None, _) => (Said::default(), false),
        };
        self.begun = true;
        self.spoke |= !said.is_silent();
        self.said(said, whole, chunks);
        if let Some(complaint) = choice.error.as_ref().and_then(complaint) {
            return Err(failure::in_stream(complaint));
        }
        let Some(reason) = text(choice.finish_reason) else { return Ok(()) };
        // What comes with these is no answer: a machine gave up, or a gateway lost whom it had asked.
        if matches!(&*reason, "error" | "abort" | "insufficient_system_resource") {
            let message = format!("the provider ended its answer with finish_reason: {reason}");
            return Err(Error::new(codes::PROVIDER_FAILED, message));
        }
        let finish = finish_reason(&reason);
        if finish == FinishReason::Other {
            self.keep("finish_reason", Some(reason.into()));
        }
        self.finish = Some(finish);
        Ok(())
    }

    fn said(&mut self, said: Said<'_>, whole: bool, chunks: &mut VecDeque<ModelChunk>) {
        // Gateways send reasoning under both names.
        let reasoning = match text(said.reasoning_content) {
            Some(content) => Some(("reasoning_content", content)),
            None => text(said.reasoning).map(|text| ("reasoning", text)),
        };
        let reasoning = reasoning.map(|(field, text)| {
            self.keep("reasoning_field", Some(field.into()));
            text
        });
        chunks.extend(reasoning.map(reasoning_chunk));
        match said.content {
            Some(Field::Other(Value::Array(parts))) => {
                parts.into_iter().for_each(|content| part(content, self.name, chunks));
            }
            content => chunks.extend(text(content).map(ModelChunk::text)),
        }
        if let Some(refusal) = text(said.refusal) {
            self.refusal.push_str(&refusal);
            chunks.push_back(ModelChunk::text(refusal));
        }
        if let Some(Value::Array(more)) =
            said.reasoning_details.filter(|list| list.as_array().is_some_and(|l| !l.is_empty()))
        {
            let mut known = match self.metadata.get_mut("reasoning_details").map(Value::take) {
                Some(Value::Array(known)) => known,
                _ => Vec::new(),
            };
            // Without an index a piece cannot be told from a thought of its own.
            add_details(&mut known, more);
            self.metadata.insert("reasoning_details".into(), known.into());
            // Told at the end: they grow with every piece.
            self.details_grew = true;
        }
        self.keep("audio", said.audio);
        self.keep("images", said.images);
        self.keep("extra_content", said.extra_content);
        self.keep("thought_signature", said.thought_signature);
        let mut calls = said.tool_calls.unwrap_or_default();
        if let Some(function) = said.function_call {
            calls.push(CallDelta { function: Some(function), ..CallDelta::default() });
        }
        self.calls.push(calls, whole, chunks);
        if let Some(Value::Array(mut new)) =
            said.annotations.filter(|list| list.as_array().is_some_and(|l| !l.is_empty()))
        {
            if let Some(Value::Array(known)) = self.metadata.get("annotations") {
                new.splice(0..0, known.iter().cloned());
            }
            self.keep("annotations", Some(new.into()));
        }
    }

    fn keep_written(&mut self, name: &'static str, value: Option<&RawValue>) {
        let Some(value) = value.map(RawValue::get) else { return };
        match self.written.iter_mut().find(|(known, _)| *known == name) {
            Some((_, text)) if **text == *value => return,
            Some((_, text)) => *text = value.into(),
            None => self.written.push((name, value.into())),
        }
        self.keep(name, serde_json::from_str(value).ok());
    }

    fn keep(&mut self, name: &str, value: Option<Value>) {
        if let Some(value) = value.filter(|value| !value.is_null() && self.metadata.get(name) != Some(value)) {
            self.metadata.insert(name.to_owned(), value);
            self.metadata_told = false;
        }
    }

    /// Told as soon as known, so that an answer that is cut off has its id.
    fn tell_metadata(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if !self.metadata.is_empty() && !std::mem::replace(&mut self.metadata_told, true) {
            chunks.push_back(ModelChunk::Metadata { key: self.name.into(), value: self.metadata.clone().into() });
        }
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "COMPLETE" => FinishReason::Stop,
        "length" | "max_tokens" | "model_length" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_use" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

fn text(field: Option<Field<'_>>) -> Option<String> {
    match field {
        Some(Field::Text(text)) if !text.is_empty() => Some(text.into_owned()),
        _ => None,
    }
}

fn reasoning_chunk(text: String) -> ModelChunk {
    ModelChunk::Reasoning { text, signature: None, encrypted: None }
}

/// A part of a content that is a list: `{type: "text", text}`, `{type: "thinking", thinking: [parts]}`, or one of the provider's own.
fn part(part: Value, name: &str, chunks: &mut VecDeque<ModelChunk>) {
    let thought = match &part["thinking"] {
        Value::String(thinking) => Some(thinking.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    };
    if let Some(thought) = thought {
        chunks.push_back(reasoning_chunk(thought));
        // What else it says of the thought goes back with it.
        let Value::Object(mut fields) = part else { return };
        fields.retain(|field, value| !matches!(field.as_str(), "type" | "thinking") && !value.is_null());
        if !fields.is_empty() {
            chunks.push_back(ModelChunk::Fields { index: None, provider: name.into(), fields });
        }
    } else if let Some(text) = part["text"].as_str() {
        if !text.is_empty() {
            chunks.push_back(ModelChunk::text(text));
        }
    } else if part["type"].is_string() {
        let part = Part::Provider { provider: name.into(), data: part, attached: false };
        chunks.push_back(ModelChunk::Part { part });
    }
}

/// Adds more of the thoughts: pieces of one thought are one item.
fn add_details(known: &mut Vec<Value>, more: Vec<Value>) {
    for piece in more {
        let same = |last: &Value| {
            last["type"] == piece["type"] && last["index"] == piece["index"] && last["id"] == piece["id"]
        };
        let (Some(Value::Object(last)), Value::Object(fields)) = (known.last_mut().filter(|last| same(last)), &piece)
        else {
            known.push(piece);
            continue;
        };
        for (field, value) in fields {
            match (last.get_mut(field), value) {
                (Some(Value::String(so_far)), Value::String(more)) if matches!(field.as_str(), "text" | "summary") => {
                    so_far.push_str(more);
                }
                (_, Value::Null) => {}
                (_, value) => {
                    last.insert(field.clone(), value.clone());
                }
            }
        }
    }
}

/// Whether an object without choices is an error without its envelope.
fn is_error(data: &str) -> bool {
    let object: Value = serde_json::from_str(data).unwrap_or_default();
    object["object"] == "error" || object["type"] == "error"
}

fn complaint_of(data: &str) -> Error {
    match serde_json::from_str(data).ok().as_ref().and_then(complaint) {
        Some(complaint) => failure::in_stream(complaint),
        None => nonsense("an answer without choices", data),
    }
}
