//! The server's answer: one object, or an object for each piece of it, the last of which says `done`.

use std::collections::VecDeque;

use lomusai_core::Result;
use lomusai_core::llm::truncated;
use lomusai_wire::{FinishReason, ModelChunk, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::wire::{Event, Facts, Fold, complaint_of, count, event};

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    done: bool,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    message: Option<Said<'a>>,
    #[serde(default)]
    done: Option<bool>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(default)]
    index: Option<Value>,
}

impl Fold for Answer {
    fn event(&mut self, wire: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.done || wire.data.trim().is_empty() {
            return Ok(());
        }
        let data: Wire<'_> = event(wire.data)?;
        let done = data.done == Some(true);
        if data.error.is_some_and(|error| !error.is_null()) || (data.message.is_none() && !done) {
            return Err(complaint_of(wire.data));
        }
        if let Some(said) = data.message {
            let reasoning = said.thinking.filter(|text| !text.is_empty());
            chunks.extend(reasoning.map(|text| ModelChunk::Reasoning { text, signature: None, encrypted: None }));
            chunks.extend(said.content.filter(|text| !text.is_empty()).map(ModelChunk::text));
            for Call { id, function } in said.tool_calls.into_iter().flatten() {
                let written = function.arguments.map_or("{}", RawValue::get);
                // An object by the API, its text by some servers.
                let text = if written.starts_with('"') { serde_json::from_str(written).ok() } else { None };
                let arguments = Value::String(text.unwrap_or_else(|| written.to_owned()));
                let id = id.filter(|id| !id.is_empty());
                chunks.push_back(ModelChunk::ToolCall {
                    name: function.name.unwrap_or_default(),
                    arguments,
                    id,
                    signature: None,
                });
                if let Some(index) = function.index {
                    let fields = Map::from_iter([("index".to_owned(), index)]);
                    chunks.push_back(ModelChunk::Fields { index: None, provider: self.facts.name().into(), fields });
                }
            }
        }
        for (field, value) in data.facts {
            // Each piece has a time of its own; the last one counts.
            if field != "created_at" || done {
                self.facts.keep(&field, Some(value));
            }
        }
        if done {
            self.finish(chunks);
        } else {
            self.facts.tell(chunks);
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        self.event(Event { name: "", data: &String::from_utf8_lossy(body) }, chunks)?;
        self.end(chunks)
    }

    fn end(&mut self, _: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.done { Ok(()) } else { Err(truncated()) }
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        let fact = |name: &str| self.facts.get(name).cloned().unwrap_or_default();
        let mut usage = Usage::default();
        usage.input = count(&fact("prompt_eval_count"), "").unwrap_or(0);
        usage.output = count(&fact("eval_count"), "").unwrap_or(0);
        let reason = match fact("done_reason").as_str() {
            Some("length") => Some(FinishReason::Length),
            // Calls end with `stop`, too: which it is, the parts say.
            Some("stop") | None => None,
            Some(_) => Some(FinishReason::Other),
        };
        self.facts.tell(chunks);
        if !usage.is_empty() {
            chunks.push_back(ModelChunk::Usage { usage });
        }
        chunks.push_back(ModelChunk::Finish { reason });
        self.done = true;
    }

    fn has_finish(&self) -> bool {
        self.done
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn is_of_objects(&self) -> bool {
        true
    }
}

impl Answer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { facts: Facts::of(name), done: false }
    }
}
