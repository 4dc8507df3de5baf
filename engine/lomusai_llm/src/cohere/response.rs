//! The server's answer, as one message or as its events.
//!
//! ```text
//! message-start, content-start, -delta --> text or thought
//! tool-plan-delta                      --> a thought
//! tool-call-start, -delta              --> a call
//! citation-start                       --> kept for the whole message
//! message-end                          --> usage, and the finish is told
//! ```

use std::collections::{BTreeMap, VecDeque};

use lomusai_core::Result;
use lomusai_core::llm::truncated;
use lomusai_wire::{FinishReason, ModelChunk, Part, Usage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::wire::{Event, Facts, Fold, complaint_of, count, event, parsed};

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    /// Our index of each call, by the server's.
    calls: BTreeMap<u64, u32>,
    citations: Vec<Value>,
    planned: bool,
    usage: Usage,
    begun: bool,
    finish: Option<FinishReason>,
    done: bool,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    delta: Value,
}

impl Fold for Answer {
    fn event(&mut self, wire: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let data = wire.data.trim();
        if self.done || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            return self.end(chunks);
        }
        let data: Wire = event(data)?;
        let message = &data.delta["message"];
        let index = data.index.unwrap_or(0);
        match data.r#type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(wire.name) {
            "message-start" => {
                self.begun = true;
                self.facts.keep("id", data.id);
                self.facts.tell(chunks);
            }
            "content-start" | "content-delta" => self.content(&message["content"], chunks),
            "tool-plan-delta" => {
                self.planned = true;
                thought(&message["tool_plan"], chunks);
            }
            "tool-call-start" => {
                self.plan_done(chunks);
                self.call(index, &message["tool_calls"], chunks);
            }
            "tool-call-delta" => {
                let arguments = text(&message["tool_calls"]["function"]["arguments"]);
                if let (Some(index), false) = (self.calls.get(&index), arguments.is_empty()) {
                    chunks.push_back(ModelChunk::ToolCallDelta { index: *index, name: None, id: None, arguments });
                }
            }
            "citation-start" => match &message["citations"] {
                Value::Array(citations) => self.citations.extend(citations.iter().cloned()),
                Value::Null => {}
                citation => self.citations.push(citation.clone()),
            },
            "message-end" => {
                self.ended(data.delta, chunks)?;
                self.finish(chunks);
            }
            "error" => return Err(complaint_of(wire.data)),
            // Keep-alives, and events of a later version.
            "" => return Err(complaint_of(wire.data)),
            _ => {}
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        let mut whole: Value = parsed(&text)?;
        if !whole["message"].is_object() {
            return Err(complaint_of(&text));
        }
        self.facts.keep("id", whole.get_mut("id").map(Value::take));
        let message = whole["message"].take();
        if let Some(plan) = message["tool_plan"].as_str().filter(|plan| !plan.is_empty()) {
            self.planned = true;
            thought(&plan.into(), chunks);
            self.plan_done(chunks);
        }
        for part in message["content"].as_array().into_iter().flatten() {
            self.content(part, chunks);
        }
        for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.call(index as u64, call, chunks);
        }
        self.citations.extend(message["citations"].as_array().into_iter().flatten().cloned());
        self.ended(whole, chunks)?;
        self.finish(chunks);
        Ok(())
    }

    fn end(&mut self, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.done {
            return Ok(());
        }
        if self.finish.is_none() || !self.begun {
            return Err(truncated());
        }
        self.finish(chunks);
        Ok(())
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if !self.citations.is_empty() {
            self.facts.keep("citations", Some(std::mem::take(&mut self.citations).into()));
        }
        self.facts.tell(chunks);
        chunks.push_back(ModelChunk::Finish { reason: self.finish });
        self.done = true;
    }

    fn has_finish(&self) -> bool {
        self.finish.is_some()
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

impl Answer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { facts: Facts::of(name), ..Self::default() }
    }

    fn content(&mut self, content: &Value, chunks: &mut VecDeque<ModelChunk>) {
        match (content, content["thinking"].as_str(), content["text"].as_str()) {
            (Value::Object(_), Some(_), _) => thought(&content["thinking"], chunks),
            (Value::Object(_), None, Some(text)) if !text.is_empty() => chunks.push_back(ModelChunk::text(text)),
            (Value::Object(part), None, None) => {
                let part =
                    Part::Provider { provider: self.facts.name().into(), data: part.clone().into(), attached: false };
                chunks.push_back(ModelChunk::Part { part });
            }
            _ => {}
        }
    }

    /// Marks the thought before as the plan, which goes back in a field of its own.
    fn plan_done(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if std::mem::take(&mut self.planned) {
            let fields = Map::from_iter([("plan".to_owned(), json!(true))]);
            chunks.push_back(ModelChunk::Fields { index: None, provider: self.facts.name().into(), fields });
        }
    }

    fn call(&mut self, at: u64, call: &Value, chunks: &mut VecDeque<ModelChunk>) {
        let index = self.calls.len() as u32;
        self.calls.insert(at, index);
        let function = &call["function"];
        let id = call["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        let (name, arguments) = (Some(text(&function["name"])), text(&function["arguments"]));
        chunks.push_back(ModelChunk::ToolCallDelta { index, name, id, arguments });
    }

    /// The end of an answer: why, and what it took.
    fn ended(&mut self, mut end: Value, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        self.plan_done(chunks);
        if let Some(reason) = end["finish_reason"].as_str() {
            if matches!(reason, "ERROR" | "TIMEOUT") {
                let why = end["error"].as_str().unwrap_or("no more is said");
                return Err(complaint_of(
                    &json!({"error": {"message": format!("finish_reason {reason}: {why}"), "code": reason}})
                        .to_string(),
                ));
            }
            self.finish = Some(finish_reason(reason));
        }
        for field in ["finish_reason", "logprobs"] {
            self.facts.keep(field, end.get_mut(field).map(Value::take));
        }
        if let Some(counts) = end.get_mut("usage").map(Value::take) {
            let of = |pointer: &str| count(&counts, pointer);
            let input = of("/tokens/input_tokens").or(of("/billed_units/input_tokens")).unwrap_or(0);
            let mut usage = Usage::default();
            usage.cache_read = of("/cached_tokens").unwrap_or(0).min(input);
            usage.input = input - usage.cache_read;
            usage.output = of("/tokens/output_tokens").or(of("/billed_units/output_tokens")).unwrap_or(0);
            self.facts.keep("usage", Some(counts));
            if usage != self.usage {
                self.usage = usage;
                chunks.push_back(ModelChunk::Usage { usage });
            }
        }
        Ok(())
    }
}

fn thought(text: &Value, chunks: &mut VecDeque<ModelChunk>) {
    let text = self::text(text);
    if !text.is_empty() {
        chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted: None });
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "COMPLETE" | "STOP_SEQUENCE" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "TOOL_CALL" => FinishReason::ToolCalls,
        "ERROR_TOXIC" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}
