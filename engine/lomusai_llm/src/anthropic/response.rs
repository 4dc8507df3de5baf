//! The server's answer, as a message or as its events.
//!
//! ```text
//! message_start        --> facts, usage
//! content_block_start  --> a block begins; what this version has no part for is gathered and kept whole
//! content_block_delta  --> more of it
//! content_block_stop   --> what belongs to the whole block: a signature, citations, a block of the provider's own
//! message_delta        --> why it stopped, usage
//! message_stop         --> the finish is told
//! error                --> failed
//! ```

use std::collections::{BTreeMap, VecDeque};

use lomusai_core::Result;
use lomusai_core::llm::truncated;
use lomusai_wire::{FinishReason, ModelChunk, Part, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::wire::{Event, Facts, Fold, complaint_of, count, event, parsed};

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    /// The blocks that are open, by index.
    open: BTreeMap<u64, Block>,
    calls: u32,
    /// The last block was a text, so that another one needs a border before it.
    after_text: bool,
    counts: Map<String, Value>,
    usage: Usage,
    finish: Option<FinishReason>,
    begun: bool,
    done: bool,
}

/// A block of which more may come.
enum Block {
    Text {
        citations: Vec<Value>,
        fields: Map<String, Value>,
    },
    Thinking {
        signature: String,
        fields: Map<String, Value>,
    },
    Call {
        index: u32,
        input: Option<String>,
        written: bool,
    },
    /// Kept whole; `input` is the text of its JSON.
    Other {
        block: Map<String, Value>,
        input: String,
    },
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    r#type: Option<&'a str>,
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(default)]
    delta: Option<Value>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    context_management: Option<Value>,
    #[serde(default)]
    input_transformations: Option<Value>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

/// Facts of a message that say nothing about the answer.
const NO_FACTS: [&str; 2] = ["role", "type"];

impl Fold for Answer {
    fn event(&mut self, wire: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.done || wire.data.trim().is_empty() {
            return Ok(());
        }
        let data: Wire<'_> = event(wire.data)?;
        let index = data.index.unwrap_or(0);
        match data.r#type.filter(|kind| !kind.is_empty()).unwrap_or(wire.name) {
            "message_start" => {
                self.begun = true;
                if let Some(message) = data.message {
                    self.message(message, chunks)?;
                }
            }
            "content_block_start" => {
                if let Some(block) = data.content_block {
                    self.start(index, block, chunks)?;
                }
            }
            "content_block_delta" => self.delta(index, data.delta.unwrap_or_default(), chunks),
            "content_block_stop" => self.stop(index, chunks),
            "message_delta" => {
                if let Some(Value::Object(facts)) = data.delta {
                    self.facts(facts);
                }
                self.facts.keep("context_management", data.context_management);
                self.facts.keep("input_transformations", data.input_transformations);
                self.count(data.usage, chunks);
                self.facts.tell(chunks);
            }
            "message_stop" => {
                if !self.begun {
                    return Err(truncated());
                }
                self.finish(chunks);
            }
            "error" => return Err(complaint_of(wire.data)),
            // Keep-alives, and events of a later version.
            _ => {}
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        let message: Message<'_> = parsed(&text)?;
        if message.content.is_none() {
            return Err(complaint_of(&text));
        }
        self.message(message, chunks)?;
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
}

impl Answer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { facts: Facts::of(name), ..Self::default() }
    }

    fn message(&mut self, message: Message<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        self.facts(message.facts);
        self.facts.tell(chunks);
        for (index, block) in message.content.into_iter().flatten().enumerate() {
            self.start(index as u64, block, chunks)?;
            self.stop(index as u64, chunks);
        }
        self.count(message.usage, chunks);
        self.facts.tell(chunks);
        Ok(())
    }

    fn facts(&mut self, facts: Map<String, Value>) {
        for (field, value) in facts {
            if field == "stop_reason" {
                self.finish = value.as_str().map(finish_reason).or(self.finish);
            }
            if !NO_FACTS.contains(&field.as_str()) {
                self.facts.keep(&field, Some(value));
            }
        }
    }

    fn start(&mut self, index: u64, raw: &RawValue, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let mut block: Map<String, Value> = event(raw.get())?;
        let after_text = std::mem::take(&mut self.after_text);
        let text = |block: &mut Map<String, Value>, field: &str| match block.remove(field) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let open = match block.get("type").and_then(Value::as_str).unwrap_or_default() {
            "text" => {
                if after_text {
                    self.attach(Map::new(), chunks);
                }
                let text = text(&mut block, "text");
                if !text.is_empty() {
                    self.after_text = true;
                    chunks.push_back(ModelChunk::Text { text });
                }
                let citations = match block.remove("citations") {
                    Some(Value::Array(citations)) => citations,
                    _ => Vec::new(),
                };
                Block::Text { citations, fields: others(block) }
            }
            "thinking" => {
                let text = text(&mut block, "thinking");
                chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted: None });
                Block::Thinking { signature: self::text(&mut block, "signature"), fields: others(block) }
            }
            "redacted_thinking" => {
                let data = text(&mut block, "data");
                chunks.push_back(ModelChunk::Reasoning { text: String::new(), signature: None, encrypted: Some(data) });
                let fields = others(block);
                if !fields.is_empty() {
                    self.attach(fields, chunks);
                }
                return Ok(());
            }
            "tool_use" => {
                let (number, name, id) = (self.calls, text(&mut block, "name"), text(&mut block, "id"));
                self.calls += 1;
                chunks.push_back(ModelChunk::ToolCallDelta {
                    index: number,
                    name: Some(name),
                    id: Some(id).filter(|id| !id.is_empty()),
                    arguments: String::new(),
                });
                block.remove("type");
                block.remove("input");
                if !block.is_empty() {
                    let provider = self.facts.name().to_owned();
                    chunks.push_back(ModelChunk::Fields { index: Some(number), provider, fields: block });
                }
                Block::Call { index: number, input: Some(input(raw)).filter(|input| input != "{}"), written: false }
            }
            _ => Block::Other { block, input: String::new() },
        };
        self.open.insert(index, open);
        Ok(())
    }

    fn delta(&mut self, index: u64, delta: Value, chunks: &mut VecDeque<ModelChunk>) {
        let Value::Object(mut delta) = delta else { return };
        let kind = text(&mut delta, "type");
        match (self.open.get_mut(&index), kind.as_str()) {
            (Some(Block::Call { index, input, written }), "input_json_delta") => {
                // Pieces replace what the beginning said.
                (*input, *written) = (None, true);
                let arguments = text(&mut delta, "partial_json");
                if !arguments.is_empty() {
                    chunks.push_back(ModelChunk::ToolCallDelta { index: *index, name: None, id: None, arguments });
                }
            }
            (Some(Block::Text { citations, .. }), "citations_delta") => citations.extend(delta.remove("citation")),
            (Some(Block::Thinking { signature, .. }), "signature_delta") => {
                signature.push_str(&text(&mut delta, "signature"));
            }
            (_, "thinking_delta") => {
                let text = text(&mut delta, "thinking");
                chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted: None });
            }
            (_, "text_delta") => {
                let text = text(&mut delta, "text");
                self.after_text |= !text.is_empty();
                chunks.push_back(ModelChunk::Text { text });
            }
            (Some(Block::Other { input, .. }), "input_json_delta") => {
                input.push_str(&text(&mut delta, "partial_json"));
            }
            // What a later version adds to a block of its own: texts grow, anything else is the new state.
            (Some(Block::Other { block, .. }), _) => {
                for (field, value) in delta {
                    match (block.get_mut(&field), value) {
                        (Some(Value::String(so_far)), Value::String(more)) => so_far.push_str(&more),
                        (_, value) => {
                            block.insert(field, value);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self, index: u64, chunks: &mut VecDeque<ModelChunk>) {
        match self.open.remove(&index) {
            Some(Block::Text { citations, mut fields }) => {
                if !citations.is_empty() {
                    fields.insert("citations".to_owned(), citations.into());
                }
                if !fields.is_empty() {
                    self.attach(fields, chunks);
                    self.after_text = false;
                }
            }
            Some(Block::Thinking { signature, fields }) => {
                if !signature.is_empty() {
                    let signature = Some(signature);
                    chunks.push_back(ModelChunk::Reasoning { text: String::new(), signature, encrypted: None });
                }
                if !fields.is_empty() {
                    self.attach(fields, chunks);
                }
            }
            Some(Block::Call { index, input, written }) if !written => {
                let arguments = input.unwrap_or_else(|| "{}".into());
                chunks.push_back(ModelChunk::ToolCallDelta { index, name: None, id: None, arguments });
            }
            Some(Block::Other { mut block, input }) => {
                if let Ok(input) = serde_json::from_str(&input) {
                    block.insert("input".into(), input);
                }
                let provider = self.facts.name().to_owned();
                let part = Part::Provider { provider, data: block.into(), attached: false };
                chunks.push_back(ModelChunk::Part { part });
            }
            _ => {}
        }
    }

    fn attach(&self, fields: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        chunks.push_back(ModelChunk::Fields { index: None, provider: self.facts.name().to_owned(), fields });
    }

    fn count(&mut self, counts: Option<Value>, chunks: &mut VecDeque<ModelChunk>) {
        let Some(Value::Object(counts)) = counts else { return };
        // The end tells the totals again, some of them as null.
        self.counts.extend(counts.into_iter().filter(|(_, count)| !count.is_null()));
        let counts = Value::Object(self.counts.clone());
        let of = |pointer: &str| count(&counts, pointer).unwrap_or(0);
        let mut usage = Usage::default();
        // The API's counts of input are disjoint already.
        usage.input = of("/input_tokens");
        usage.cache_read = of("/cache_read_input_tokens");
        usage.cache_write = of("/cache_creation_input_tokens");
        usage.reasoning = of("/output_tokens_details/thinking_tokens").min(of("/output_tokens"));
        usage.output = of("/output_tokens") - usage.reasoning;
        self.facts.keep("usage", Some(counts));
        if usage != self.usage {
            self.usage = usage;
            chunks.push_back(ModelChunk::Usage { usage });
        }
    }
}

fn text(map: &mut Map<String, Value>, field: &str) -> String {
    match map.remove(field) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// What else a block says of itself, which goes back with it.
fn others(mut block: Map<String, Value>) -> Map<String, Value> {
    block.retain(|field, value| field != "type" && !value.is_null());
    block
}

/// The arguments of a call as the server wrote them.
fn input(block: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Input<'a> {
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    let input = serde_json::from_str::<Input<'_>>(block.get()).ok().and_then(|block| block.input);
    input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned())
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        "pause_turn" => FinishReason::Paused,
        _ => FinishReason::Other,
    }
}
