//! The server's answer, as one message or as its events.
//!
//! ```text
//! contentBlockStart, -Delta --> text, a thought, a call; a block that this version has no part for is gathered and kept whole
//! contentBlockStop          --> what belongs to the whole block
//! messageStop               --> why it stopped
//! metadata                  --> usage, and the finish is told
//! an exception              --> failed
//! ```

use std::collections::{BTreeMap, VecDeque};

use lomusai_core::Result;
use lomusai_wire::{FinishReason, ModelChunk, Part, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::wire::{Event, Facts, Fold, complaint_of, count, event};

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    open: BTreeMap<u64, Block>,
    calls: u32,
    after_text: bool,
    usage: Usage,
    finish: Option<FinishReason>,
    done: bool,
}

/// A block of which more may come.
enum Block {
    Text {
        citations: Vec<Value>,
    },
    Thought {
        signature: String,
        redacted: String,
    },
    Call {
        index: u32,
        written: bool,
    },
    /// Kept whole; `input` is the text of its JSON.
    Other {
        block: Map<String, Value>,
        input: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    #[serde(borrow)]
    output: Output<'a>,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
}

/// The events of a stream.
const EVENTS: [&str; 6] =
    ["messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"];

impl Fold for Answer {
    fn event(&mut self, wire: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.done || wire.data.trim().is_empty() {
            return Ok(());
        }
        if !wire.name.is_empty() {
            return self.named(wire.name, event(wire.data)?, wire.data, chunks);
        }
        // Without a framing that names it, an event is an object with its name as the one field that matters.
        let mut object: Map<String, Value> = event(wire.data)?;
        object.retain(|_, value| value.is_object());
        if object.contains_key("output") {
            return self.body(wire.data.as_bytes(), chunks);
        }
        let known = object.keys().find(|name| EVENTS.contains(&name.as_str()) || name.ends_with("Exception")).cloned();
        let name = known.or_else(|| object.keys().next().filter(|name| *name != "error" && object.len() == 1).cloned());
        match name.and_then(|name| object.remove_entry(&name)) {
            Some((name, data)) => self.named(&name, data, wire.data, chunks),
            None => Err(complaint_of(wire.data)),
        }
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        let whole: Whole<'_> = event(&text)?;
        for (index, block) in
            whole.output.message.into_iter().filter_map(|message| message.content).flatten().enumerate()
        {
            self.whole(index as u64, block, chunks)?;
        }
        let mut facts = whole.facts;
        self.stopped(&facts);
        self.count(facts.remove("usage"), chunks);
        for (field, value) in facts {
            self.facts.keep(&field, Some(value));
        }
        self.finish(chunks);
        Ok(())
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        for index in self.open.keys().copied().collect::<Vec<_>>() {
            self.stop(index, chunks);
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

    fn is_of_objects(&self) -> bool {
        true
    }
}

impl Answer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { facts: Facts::of(name), ..Self::default() }
    }

    fn named(&mut self, name: &str, mut data: Value, text: &str, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let index = data["contentBlockIndex"].as_u64().unwrap_or(0);
        match name {
            "messageStart" => {}
            "contentBlockStart" => self.start(index, data["start"].take(), chunks),
            "contentBlockDelta" => self.delta(index, data["delta"].take(), chunks),
            "contentBlockStop" => self.stop(index, chunks),
            "messageStop" | "metadata" => {
                let Value::Object(mut facts) = data else { return Ok(()) };
                // Padding, against those who count bytes on the line.
                facts.remove("p");
                self.stopped(&facts);
                self.count(facts.remove("usage"), chunks);
                for (field, value) in facts {
                    self.facts.keep(&field, Some(value));
                }
                // Usage comes after the reason, and ends the stream.
                if name == "metadata" && self.finish.is_some() {
                    self.finish(chunks);
                }
            }
            _ if name.ends_with("Exception") || name == "error" => {
                let message = data["message"].as_str().or(data["Message"].as_str()).unwrap_or(text);
                return Err(complaint_of(&json!({"error": {"message": message, "code": name}}).to_string()));
            }
            _ if data["message"].is_string() => return Err(complaint_of(text)),
            _ => {}
        }
        Ok(())
    }

    /// A block that came in one piece.
    fn whole(&mut self, index: u64, raw: &RawValue, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let mut block: Map<String, Value> = event(raw.get())?;
        // A block is known by the field that it has.
        block.retain(|_, value| !value.is_null());
        if let Some(Value::String(text)) = block.get("text") {
            self.text(index, text.clone(), chunks);
        } else if let Some(tool) = block.get("toolUse").filter(|tool| is_ours(tool)) {
            let start = json!({"toolUse": tool});
            self.start(index, start, chunks);
            if let Some(Block::Call { index: call, written }) = self.open.get_mut(&index) {
                *written = true;
                let arguments = input(raw);
                chunks.push_back(ModelChunk::ToolCallDelta { index: *call, name: None, id: None, arguments });
            }
        } else if let Some(thought) = block.get("reasoningContent") {
            let text = &thought["reasoningText"];
            let delta = json!({"reasoningContent": {"text": text["text"], "signature": text["signature"], "redactedContent": thought["redactedContent"]}});
            self.delta(index, delta, chunks);
        } else {
            block.remove("p");
            self.open.insert(index, Block::Other { block, input: String::new() });
        }
        self.stop(index, chunks);
        Ok(())
    }

    fn text(&mut self, index: u64, text: String, chunks: &mut VecDeque<ModelChunk>) {
        if !self.open.contains_key(&index) {
            if std::mem::take(&mut self.after_text) {
                self.attach(None, Map::new(), chunks);
            }
            self.open.insert(index, Block::Text { citations: Vec::new() });
        }
        if !text.is_empty() {
            self.after_text = true;
            chunks.push_back(ModelChunk::Text { text });
        }
    }

    fn start(&mut self, index: u64, start: Value, chunks: &mut VecDeque<ModelChunk>) {
        let Value::Object(mut start) = start else { return };
        self.after_text = false;
        let block = match start.get_mut("toolUse") {
            Some(Value::Object(tool)) if is_ours(&Value::Object(tool.clone())) => {
                let call = self.calls;
                self.calls += 1;
                let text = |value: Option<Value>| {
                    value.as_ref().and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
                };
                let (name, id) = (text(tool.remove("name")), text(tool.remove("toolUseId")));
                chunks.push_back(ModelChunk::ToolCallDelta { index: call, name, id, arguments: String::new() });
                tool.remove("input");
                let fields = std::mem::take(tool);
                if !fields.is_empty() {
                    self.attach(Some(call), fields, chunks);
                }
                Block::Call { index: call, written: false }
            }
            _ => Block::Other { block: start, input: String::new() },
        };
        self.open.insert(index, block);
    }

    fn delta(&mut self, index: u64, mut delta: Value, chunks: &mut VecDeque<ModelChunk>) {
        let take = |value: &mut Value| match value.take() {
            Value::String(text) => text,
            _ => String::new(),
        };
        if delta["text"].is_string() && !matches!(self.open.get(&index), Some(Block::Other { .. })) {
            self.text(index, take(&mut delta["text"]), chunks);
            return;
        }
        if delta["reasoningContent"].is_object() {
            self.after_text = false;
            let thought = &mut delta["reasoningContent"];
            let text = take(&mut thought["text"]);
            if !text.is_empty() {
                chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted: None });
            }
            let open = self
                .open
                .entry(index)
                .or_insert_with(|| Block::Thought { signature: String::new(), redacted: String::new() });
            if let Block::Thought { signature, redacted } = open {
                signature.push_str(&take(&mut thought["signature"]));
                redacted.push_str(&take(&mut thought["redactedContent"]));
            }
            return;
        }
        match self.open.get_mut(&index) {
            Some(Block::Call { index: call, written }) => {
                let arguments = take(&mut delta["toolUse"]["input"]);
                *written |= !arguments.is_empty();
                if !arguments.is_empty() {
                    chunks.push_back(ModelChunk::ToolCallDelta { index: *call, name: None, id: None, arguments });
                }
            }
            Some(Block::Text { citations }) if !delta["citation"].is_null() => citations.push(delta["citation"].take()),
            Some(Block::Other { block, input }) => {
                let Value::Object(delta) = delta else { return };
                for (kind, more) in delta {
                    let place = block.entry(kind).or_insert(Value::Null);
                    match more {
                        Value::Object(more) if more.get("input").is_some_and(Value::is_string) => {
                            input.push_str(more["input"].as_str().unwrap_or_default());
                        }
                        // The content of a result.
                        Value::Array(more) if place.is_object() => match &mut place["content"] {
                            Value::Array(so_far) => so_far.extend(more),
                            content => *content = more.into(),
                        },
                        more => *place = more,
                    }
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self, index: u64, chunks: &mut VecDeque<ModelChunk>) {
        match self.open.remove(&index) {
            Some(Block::Text { citations }) if !citations.is_empty() => {
                self.after_text = false;
                self.attach(None, Map::from_iter([("citations".to_owned(), citations.into())]), chunks);
            }
            Some(Block::Thought { signature, redacted }) => {
                let (signature, encrypted) =
                    (Some(signature).filter(|text| !text.is_empty()), Some(redacted).filter(|text| !text.is_empty()));
                if signature.is_some() || encrypted.is_some() {
                    chunks.push_back(ModelChunk::Reasoning { text: String::new(), signature, encrypted });
                }
            }
            Some(Block::Call { index, written: false }) => {
                chunks.push_back(ModelChunk::ToolCallDelta { index, name: None, id: None, arguments: "{}".into() });
            }
            Some(Block::Other { mut block, input }) => {
                if let (Some(tool), Ok(input)) = (block.get_mut("toolUse"), serde_json::from_str::<Value>(&input)) {
                    tool["input"] = input;
                }
                let part = Part::Provider { provider: self.facts.name().into(), data: block.into(), attached: false };
                chunks.push_back(ModelChunk::Part { part });
            }
            _ => {}
        }
    }

    fn attach(&self, index: Option<u32>, fields: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        chunks.push_back(ModelChunk::Fields { index, provider: self.facts.name().into(), fields });
    }

    fn stopped(&mut self, facts: &Map<String, Value>) {
        if let Some(reason) = facts.get("stopReason").and_then(Value::as_str) {
            self.finish = Some(finish_reason(reason));
        }
    }

    fn count(&mut self, counts: Option<Value>, chunks: &mut VecDeque<ModelChunk>) {
        let Some(counts) = counts else { return };
        let of = |pointer: &str| count(&counts, pointer).unwrap_or(0);
        let mut usage = Usage::default();
        // The API's counts of input are disjoint already; thinking is not counted by itself.
        usage.input = of("/inputTokens");
        usage.cache_read = of("/cacheReadInputTokens");
        usage.cache_write = of("/cacheWriteInputTokens");
        usage.output = of("/outputTokens");
        self.facts.keep("usage", Some(counts));
        if usage != self.usage {
            self.usage = usage;
            chunks.push_back(ModelChunk::Usage { usage });
        }
    }
}

/// Whether a call is for us: the provider's own tools have been run when we read of them.
fn is_ours(tool: &Value) -> bool {
    tool["type"] != "server_tool_use"
}

/// The arguments of a call as the server wrote them.
fn input(block: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow, rename = "toolUse")]
        tool_use: Tool<'a>,
    }
    let input = serde_json::from_str::<Wire<'_>>(block.get()).ok().and_then(|block| block.tool_use.input);
    input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned())
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "guardrail_intervened" | "content_filtered" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}
