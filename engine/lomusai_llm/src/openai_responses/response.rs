//! The server's answer: a list of items, as one body or as events that build them up.
//!
//! ```text
//! response.created               --> facts
//! response.output_item.added     --> an item begins
//! response.*.delta               --> more of its text, thought or arguments
//! response.content_part.done     --> what belongs to the whole text
//! response.output_item.done      --> what belongs to the whole item; an item that this version has no part for is kept whole
//! response.completed, .incomplete --> usage, and the finish is told
//! response.failed, error         --> failed
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lomusai_core::Result;
use lomusai_wire::{FinishReason, ModelChunk, Part, Usage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::wire::{Event, Facts, Fold, complaint_of, count, event, parsed};

/// Fields of a response that only repeat the request, or are told as parts.
const NO_FACTS: [&str; 20] = [
    "background",
    "frequency_penalty",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "object",
    "output",
    "output_text",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
];

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    /// The items that are open, by output index.
    open: BTreeMap<u64, Item>,
    /// Items that are told, by output index, and by id: the list at the end may leave some out.
    told: BTreeSet<u64>,
    told_ids: BTreeSet<String>,
    calls: u32,
    refusal: String,
    usage: Usage,
    begun: bool,
    finish: Option<Finish>,
    done: bool,
}

#[derive(Clone, Copy)]
struct Finish(Option<FinishReason>);

/// An item of which more may come.
#[derive(Default)]
struct Item {
    fields: Map<String, Value>,
    /// Of a message: what was told of each content, and whether it is whole.
    contents: BTreeMap<u64, (String, bool)>,
    /// Of a thought: whether any text was told.
    thought: bool,
    /// Of a thought: the last part that text was told of.
    thought_part: Option<(bool, u64)>,
    /// Of a thought: its texts so far, the summary's (`false`) before its own.
    thoughts: BTreeMap<(bool, u64), String>,
    /// Of a thought: what was told of it when another item began before it was whole.
    settled: Option<Map<String, Value>>,
    /// Of a message: any of its contents was told.
    told: bool,
    /// Of a call: our index, and whether any arguments were told.
    call: Option<(u32, bool)>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    output_index: Option<u64>,
    #[serde(default)]
    content_index: Option<u64>,
    #[serde(default)]
    summary_index: Option<u64>,
    #[serde(default)]
    delta: Option<Value>,
    #[serde(default)]
    item: Option<Map<String, Value>>,
    #[serde(default)]
    part: Option<Map<String, Value>>,
    #[serde(default)]
    response: Option<Map<String, Value>>,
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
        let delta = || data.delta.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let index = data.output_index.unwrap_or(0);
        match data.r#type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(wire.name) {
            "response.output_item.added" => {
                if let Some(item) = data.item {
                    self.start(index, item, chunks);
                }
            }
            "response.output_text.delta" => self.text(index, data.content_index.unwrap_or(0), delta(), false, chunks),
            "response.refusal.delta" => self.text(index, data.content_index.unwrap_or(0), delta(), true, chunks),
            "response.reasoning_summary_text.delta" => {
                self.thought(index, (false, data.summary_index.unwrap_or(0)), delta(), chunks);
            }
            "response.reasoning_text.delta" => {
                self.thought(index, (true, data.content_index.unwrap_or(0)), delta(), chunks);
            }
            "response.function_call_arguments.delta" => self.arguments(index, delta(), chunks),
            "response.content_part.done" => {
                if let Some(part) = data.part {
                    self.content(index, data.content_index.unwrap_or(0), part, chunks);
                }
            }
            "response.output_item.done" => {
                if let Some(item) = data.item {
                    self.item(index, item, chunks);
                }
            }
            "response.created" | "response.in_progress" | "response.queued" => {
                self.begun = true;
                self.facts(data.response.unwrap_or_default(), chunks);
            }
            "response.completed" | "response.incomplete" | "response.done" => {
                self.response(data.response.unwrap_or_default(), chunks);
                self.finish(chunks);
            }
            "response.failed" | "error" => return Err(failed(wire.data, data.response)),
            // Keep-alives, and progress that the whole item tells at its end.
            _ => {}
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        let response: Map<String, Value> = match parsed(&text) {
            Err(_) if text.trim_start().starts_with('[') && text.trim_end().ends_with(']') => {
                return Err(complaint_of(&text));
            }
            response => response?,
        };
        if !response.contains_key("output") {
            return Err(complaint_of(&text));
        }
        if response.get("status").is_some_and(|status| status == "failed") {
            return Err(failed(&text, Some(response)));
        }
        self.response(response, chunks);
        self.finish(chunks);
        Ok(())
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if !self.refusal.is_empty() {
            self.facts.keep("refusal", Some(std::mem::take(&mut self.refusal).into()));
        }
        self.facts.tell(chunks);
        chunks.push_back(ModelChunk::Finish { reason: self.finish.and_then(|finish| finish.0) });
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

    fn facts(&mut self, response: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        for (field, value) in response {
            let empty = value == json!({}) || value == json!([]);
            if !empty && !NO_FACTS.contains(&field.as_str()) {
                self.facts.keep(&field, Some(value));
            }
        }
        self.facts.tell(chunks);
    }

    /// The whole response, with whatever of it was not told before.
    fn response(&mut self, mut response: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        if let Some(Value::Array(items)) = response.remove("output") {
            for (index, item) in items.into_iter().enumerate() {
                let Value::Object(item) = item else { continue };
                // Some servers give an item another id with each event, some leave items out of the list at the end.
                let known = item.get("id").and_then(Value::as_str).is_some_and(|id| self.told_ids.contains(id));
                if !known && !self.told.contains(&(index as u64)) {
                    self.item(index as u64, item, chunks);
                }
            }
        }
        if let Some(usage) = response.get("usage").and_then(usage).filter(|usage| *usage != self.usage) {
            self.usage = usage;
            chunks.push_back(ModelChunk::Usage { usage });
        }
        let reason = response.get("incomplete_details").and_then(|details| details["reason"].as_str());
        self.finish = Some(Finish(match (response.get("status").and_then(Value::as_str), reason) {
            (_, Some("max_output_tokens" | "max_tokens")) => Some(FinishReason::Length),
            (_, Some("content_filter")) => Some(FinishReason::ContentFilter),
            (Some("incomplete" | "queued" | "in_progress" | "cancelled"), _) => Some(FinishReason::Other),
            // Calls or a text, as the parts say.
            _ => None,
        }));
        self.facts(response, chunks);
    }

    fn start(&mut self, index: u64, fields: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        self.settle(chunks);
        let mut item = Item { fields, ..Item::default() };
        if item.kind() == "message" {
            // Not what it will be when it goes back.
            item.fields.remove("status");
        }
        if item.kind() == "function_call" {
            item.call = Some((self.call(&item.fields, chunks), false));
        }
        self.open.insert(index, item);
    }

    /// Tells what is known of thoughts that are not whole yet: what comes now is of another item.
    fn settle(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        let provider = self.facts.name();
        for item in self.open.values_mut().filter(|item| item.thought && item.settled.is_none()) {
            let mut fields = item.fields.clone();
            fields.remove("type");
            for (own, field, kind) in [(false, "summary", "summary_text"), (true, "content", "reasoning_text")] {
                let texts = item.thoughts.iter().filter(|((of, _), _)| *of == own);
                let parts: Vec<Value> = texts.map(|(_, text)| json!({"type": kind, "text": text})).collect();
                if !parts.is_empty() {
                    fields.insert(field.into(), parts.into());
                }
            }
            item.settled = Some(fields.clone());
            chunks.push_back(ModelChunk::Fields { index: None, provider: provider.into(), fields });
        }
    }

    /// Tells that a call begins.
    fn call(&mut self, fields: &Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) -> u32 {
        let text =
            |field: &str| fields.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let index = self.calls;
        self.calls += 1;
        let (name, id) = (text("name"), text("call_id"));
        chunks.push_back(ModelChunk::ToolCallDelta { index, name, id, arguments: String::new() });
        index
    }

    fn text(&mut self, index: u64, content: u64, text: String, refusal: bool, chunks: &mut VecDeque<ModelChunk>) {
        let item = self.open.entry(index).or_default();
        let before = item.contents.iter().find(|(at, (_, whole))| **at != content && !whole).map(|(at, _)| *at);
        if let Some(before) = before {
            // The server did not say that the one before is whole.
            self.content(index, before, Map::new(), chunks);
        }
        let item = self.open.entry(index).or_default();
        item.contents.entry(content).or_default().0.push_str(&text);
        if refusal {
            self.refusal.push_str(&text);
        }
        if !text.is_empty() {
            chunks.push_back(ModelChunk::Text { text });
        }
    }

    fn thought(&mut self, index: u64, part: (bool, u64), text: String, chunks: &mut VecDeque<ModelChunk>) {
        let item = self.open.entry(index).or_default();
        item.thought |= !text.is_empty();
        item.thoughts.entry(part).or_default().push_str(&text);
        item.thought_part = Some(part);
        if !text.is_empty() {
            chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted: None });
        }
    }

    fn arguments(&mut self, index: u64, arguments: String, chunks: &mut VecDeque<ModelChunk>) {
        let Some(Item { call: Some((call, told)), .. }) = self.open.get_mut(&index) else { return };
        *told |= !arguments.is_empty();
        chunks.push_back(ModelChunk::ToolCallDelta { index: *call, name: None, id: None, arguments });
    }

    /// A content of a message is whole.
    fn content(&mut self, index: u64, content: u64, mut part: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("output_text").to_owned();
        let item = self.open.entry(index).or_default();
        if item.kind() == "reasoning" || kind == "reasoning_text" {
            return;
        }
        let (told, whole) = item.contents.entry(content).or_default();
        if std::mem::replace(whole, true) {
            return;
        }
        let field = if kind == "refusal" { "refusal" } else { "text" };
        let text = match part.remove(field) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        // The whole text is the last word. Where the pieces were other ones, they have been shown; the provider gets its own back.
        let untold = text.strip_prefix(told.as_str()).map(str::to_owned);
        let silent = told.is_empty() && text.is_empty();
        if untold.is_none() && !text.is_empty() {
            part.insert(field.to_owned(), text.into());
        }
        let mut fields = item.fields.clone();
        fields.retain(|name, _| !matches!(name.as_str(), "type" | "role" | "content"));
        // Known by its absence.
        if kind == "output_text" {
            part.remove("type");
        }
        if silent {
            return;
        }
        if let Some(text) = untold.filter(|text| !text.is_empty()) {
            if field == "refusal" {
                self.refusal.push_str(&text);
            }
            chunks.push_back(ModelChunk::Text { text });
        }
        if let Some(item) = self.open.get_mut(&index) {
            item.told = true;
        }
        let fields = Map::from_iter([("item".to_owned(), fields.into()), ("part".to_owned(), part.into())]);
        chunks.push_back(ModelChunk::Fields { index: None, provider: self.facts.name().into(), fields });
    }

    /// An item is whole.
    fn item(&mut self, index: u64, mut fields: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        if !self.told.insert(index) {
            return;
        }
        self.told_ids.extend(fields.get("id").and_then(Value::as_str).map(str::to_owned));
        let name = self.facts.name();
        let provider = || name.to_owned();
        match fields.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message" => {
                let contents = match fields.get_mut("content").map(Value::take) {
                    Some(Value::Array(contents)) => contents,
                    _ => Vec::new(),
                };
                let item = self.open.entry(index).or_default();
                item.fields = fields.clone();
                let told = item.told;
                for (content, part) in contents.into_iter().enumerate() {
                    if let Value::Object(part) = part {
                        self.content(index, content as u64, part, chunks);
                    }
                }
                self.open.remove(&index);
                if told {
                    // Its contents were told before it was whole.
                    fields.retain(|name, _| !matches!(name.as_str(), "type" | "role" | "content"));
                    let fields = Map::from_iter([("item".to_owned(), fields.into())]);
                    chunks.push_back(ModelChunk::Fields { index: None, provider: provider(), fields });
                }
            }
            "reasoning" => {
                let item = self.open.remove(&index).unwrap_or_default();
                if let Some(mut settled) = item.settled {
                    settled.insert("type".into(), "reasoning".into());
                    if settled != fields {
                        // It has grown since: the whole of it goes back in place of what was known.
                        let part = Part::Provider { provider: provider(), data: fields.into(), attached: false };
                        chunks.push_back(ModelChunk::Part { part });
                    }
                    return;
                }
                let encrypted = match fields.remove("encrypted_content") {
                    Some(Value::String(encrypted)) => Some(encrypted),
                    _ => None,
                };
                let text = if item.thought { String::new() } else { thoughts(&fields) };
                chunks.push_back(ModelChunk::Reasoning { text, signature: None, encrypted });
                fields.remove("type");
                chunks.push_back(ModelChunk::Fields { index: None, provider: provider(), fields });
            }
            "function_call" => {
                let item = self.open.remove(&index).unwrap_or_default();
                let provider = provider();
                let (call, told) = match item.call {
                    Some(call) => call,
                    None => (self.call(&fields, chunks), false),
                };
                if let (false, Some(Value::String(arguments))) = (told, fields.remove("arguments")) {
                    chunks.push_back(ModelChunk::ToolCallDelta { index: call, name: None, id: None, arguments });
                }
                for known in ["type", "call_id", "name", "arguments"] {
                    fields.remove(known);
                }
                chunks.push_back(ModelChunk::Fields { index: Some(call), provider, fields });
            }
            _ => {
                self.open.remove(&index);
                let part = Part::Provider { provider: provider(), data: fields.into(), attached: false };
                chunks.push_back(ModelChunk::Part { part });
            }
        }
    }
}

impl Item {
    fn kind(&self) -> &str {
        self.fields.get("type").and_then(Value::as_str).unwrap_or_default()
    }
}

/// The readable part of a thought: its summary, or the thought itself where it has none.
fn thoughts(item: &Map<String, Value>) -> String {
    let texts = |field: &str| -> String {
        let parts = item.get(field).and_then(Value::as_array);
        parts.into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
    };
    let summary = texts("summary");
    if summary.is_empty() { texts("content") } else { summary }
}

fn usage(counts: &Value) -> Option<Usage> {
    let of = |pointer: &str| count(counts, pointer).unwrap_or(0);
    let (input, output) = (count(counts, "/input_tokens")?, of("/output_tokens"));
    let mut usage = Usage::default();
    // The API's counts contain one another; ours do not.
    usage.cache_read = of("/input_tokens_details/cached_tokens").min(input);
    usage.cache_write = of("/input_tokens_details/cache_write_tokens").min(input - usage.cache_read);
    usage.input = input - usage.cache_read - usage.cache_write;
    usage.reasoning = of("/output_tokens_details/reasoning_tokens").min(output);
    usage.output = output - usage.reasoning;
    Some(usage)
}

fn failed(data: &str, response: Option<Map<String, Value>>) -> lomusai_core::Error {
    match response {
        Some(response) => complaint_of(&Value::Object(response).to_string()),
        None => complaint_of(data),
    }
}
