//! A request in the words of the Messages API: instructions beside the conversation, turns that alternate, results first in the turn that
//! follows their calls.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolChoice, ToolResult, ToolStatus};
use serde_json::{Value, json};

use crate::claude;
use crate::ids::{IdRule, WireIds};
use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// The body to post.
pub(super) fn body(question: &Question<'_>) -> Result<Vec<u8>> {
    let (request, model) = (question.request, question.model);
    let settings = &request.settings;
    let (system, messages) = Writer::new(question.name).conversation(question.messages());
    let mut body = Object::new().with("model", model);
    body.set("max_tokens", settings.max_output_tokens.unwrap_or_else(|| claude::max_tokens(model)));
    if !system.is_empty() {
        body.set("system", system);
    }
    body.set("messages", messages);
    if !request.tools.is_empty() {
        let tools = question.tools().map(|(tool, fitted)| {
            let mut wire = Object::new().with("name", tool.name.as_str());
            wire.optional("description", Some(tool.description.as_str()).filter(|text| !text.is_empty()));
            wire.with("input_schema", &fitted.schema)
        });
        body.set("tools", tools.collect::<Vec<_>>());
        body.optional("tool_choice", tool_choice(&request.tool_choice));
    }
    body.optional("temperature", settings.temperature);
    body.optional("top_p", settings.top_p);
    body.optional("top_k", settings.top_k);
    if !settings.stop_sequences.is_empty() {
        body.set("stop_sequences", settings.stop_sequences.as_slice());
    }
    if let Some(output) = &question.output {
        let format = Object::new().with("type", "json_schema").with("schema", &output.schema);
        body.set("output_config", Object::new().with("format", format));
    }
    body.set("stream", question.stream);
    if claude::binds_thoughts(model) {
        body.set("thinking", claude::thinking());
    }
    if let Some(extra) = extra(request, question.name)? {
        body.merge(extra);
        claude::settle_thinking(&mut body);
    }
    Json::from(body).to_bytes()
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some(json!({"type": "none"})),
        ToolChoice::Required => Some(json!({"type": "any"})),
        ToolChoice::Tool(name) => Some(json!({"type": "tool", "name": name})),
        // What the server does anyway.
        _ => None,
    }
}

struct Writer<'a> {
    name: &'a str,
    ids: WireIds<'a>,
    turns: Vec<Turn<'a>>,
}

struct Turn<'a> {
    role: &'static str,
    blocks: Vec<Json<'a>>,
    /// How many blocks at the beginning are tool results.
    results: usize,
}

impl<'a> Writer<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, ids: WireIds::new(IdRule::Plain), turns: Vec::new() }
    }

    fn conversation(mut self, messages: impl Iterator<Item = &'a Arc<Message>>) -> (Vec<Json<'a>>, Json<'a>) {
        let mut system = Vec::new();
        for message in messages {
            match message.role {
                // The API has one place for instructions.
                Role::System => self.blocks(message, &mut system),
                Role::Assistant => self.assistant(message),
                _ => self.user(message),
            }
        }
        let turns = self.turns.into_iter().filter(|turn| !turn.blocks.is_empty());
        (
            system,
            turns
                .map(|turn| Object::new().with("role", turn.role).with("content", turn.blocks))
                .collect::<Vec<_>>()
                .into(),
        )
    }

    /// The turn of this role that goes on, or a new one: roles alternate.
    fn turn(&mut self, role: &'static str) -> &mut Turn<'a> {
        if self.turns.last().is_none_or(|turn| turn.role != role) {
            self.turns.push(Turn { role, blocks: Vec::new(), results: 0 });
        }
        self.turns.last_mut().expect("there is one now")
    }

    fn assistant(&mut self, message: &'a Message) {
        let foreign = is_foreign(message, self.name);
        let mut blocks = Vec::new();
        for part in &message.parts {
            match part {
                // Without its signature, or with another provider's, thinking is refused.
                Part::Reasoning(_) if foreign => {}
                Part::Reasoning(reasoning) => {
                    let mut block = match (&reasoning.encrypted, &reasoning.signature) {
                        (Some(data), _) => Object::new().with("type", "redacted_thinking").with("data", data.as_str()),
                        (None, Some(signature)) => {
                            let block =
                                Object::new().with("type", "thinking").with("thinking", reasoning.text.as_str());
                            block.with("signature", signature.as_str())
                        }
                        (None, None) => continue,
                    };
                    if let Some(Value::Object(fields)) = reasoning.provider.get(self.name) {
                        block.merge(fields);
                    }
                    blocks.push(block.into());
                }
                Part::ToolCall(call) => {
                    let mut block = Object::new().with("type", "tool_use").with("id", self.ids.of_call(call, foreign));
                    block.set("name", call.name.as_str());
                    block.set("input", Json::arguments(&call.arguments));
                    if let Some(Value::Object(fields)) = call.provider.get(self.name) {
                        block.merge(fields);
                    }
                    blocks.push(block.into());
                }
                other => self.part(other, &mut blocks),
            }
        }
        self.turn("assistant").blocks.extend(blocks);
    }

    fn user(&mut self, message: &'a Message) {
        let (mut results, mut blocks) = (Vec::new(), Vec::new());
        let mut after_result = false;
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => match self.ids.of_result(&result.call_id).map(str::to_owned) {
                    Some(id) => {
                        results.push(self.result(result, id));
                        after_result = true;
                    }
                    // A result without its call would be refused, and with it the whole conversation.
                    None => {
                        let text = format!("Result of the tool {}: {}", result.name, result.to_text());
                        blocks.push(text_block(text));
                        after_result = false;
                    }
                },
                Part::Provider { attached: true, .. } => {
                    let target = if after_result { &mut results } else { &mut blocks };
                    self.part(part, target);
                }
                other => {
                    self.part(other, &mut blocks);
                    after_result = false;
                }
            }
        }
        let turn = self.turn("user");
        let count = results.len();
        turn.blocks.splice(turn.results..turn.results, results);
        turn.results += count;
        turn.blocks.extend(blocks);
    }

    fn result(&self, result: &'a ToolResult, id: String) -> Json<'a> {
        let mut content = Vec::new();
        let text = result.to_text();
        if !text.trim().is_empty() {
            content.push(text_block(text));
        }
        for part in &result.content {
            self.part(part, &mut content);
        }
        let mut block = Object::new().with("type", "tool_result").with("tool_use_id", id);
        if !content.is_empty() {
            block.set("content", content);
        }
        block.optional("is_error", (result.status != ToolStatus::Ok).then_some(true));
        block.into()
    }

    fn blocks(&self, message: &'a Message, blocks: &mut Vec<Json<'a>>) {
        for part in &message.parts {
            self.part(part, blocks);
        }
    }

    /// A part as anybody may send it. One that the API has no form for becomes text, or is left out.
    fn part(&self, part: &'a Part, blocks: &mut Vec<Json<'a>>) {
        match part {
            // The API refuses an empty one.
            Part::Text(text) if text.trim().is_empty() => {}
            Part::Text(text) => blocks.push(Object::new().with("type", "text").with("text", text.as_str()).into()),
            Part::Image { source, media_type } => {
                let media_type = media_type.as_deref();
                blocks.push(Object::new().with("type", "image").with("source", image(source, media_type)).into());
            }
            Part::File { source, media_type, name } => {
                blocks.push(file(source, media_type.as_deref().unwrap_or_default(), name.as_deref()));
            }
            Part::Provider { provider, data, attached } if provider == self.name => match (attached, data) {
                (false, data) => blocks.push(data.into()),
                (true, Value::Object(fields)) => {
                    if let Some(Json::Object(block)) = blocks.last_mut() {
                        block.merge(fields);
                    }
                }
                _ => {}
            },
            Part::Unknown(object) => blocks.push(Value::Object(object.clone()).into()),
            // For the host only, or for the provider that made it.
            _ => {}
        }
    }
}

fn text_block<'a>(text: String) -> Json<'a> {
    Object::new().with("type", "text").with("text", text).into()
}

fn image<'a>(source: &'a Source, media_type: Option<&'a str>) -> Object<'a> {
    match source {
        Source::Data(base64) => base64_source(base64, media_type.unwrap_or_else(|| media::sniff(base64))),
        Source::Url(url) => Object::new().with("type", "url").with("url", url.as_str()),
        Source::Reference(id) => Object::new().with("type", "file").with("file_id", id.as_str()),
        _ => Object::new(),
    }
}

fn base64_source<'a>(data: &'a str, media_type: &'a str) -> Object<'a> {
    Object::new().with("type", "base64").with("media_type", media_type).with("data", data)
}

fn file<'a>(source: &'a Source, media_type: &'a str, name: Option<&'a str>) -> Json<'a> {
    if media_type.starts_with("image/") {
        return Object::new().with("type", "image").with("source", image(source, Some(media_type))).into();
    }
    let source = match source {
        Source::Data(data) if media::is_text(media_type) => {
            let Some(text) = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
                return text_block(media::unseen("file", source, name));
            };
            Object::new().with("type", "text").with("media_type", "text/plain").with("data", text)
        }
        Source::Data(data) if matches!(media_type, "" | "application/pdf") => base64_source(data, "application/pdf"),
        Source::Url(url) if matches!(media_type, "" | "application/pdf") => {
            Object::new().with("type", "url").with("url", url.as_str())
        }
        Source::Reference(id) => Object::new().with("type", "file").with("file_id", id.as_str()),
        other => return text_block(media::unseen("file", other, name)),
    };
    let mut block = Object::new().with("type", "document").with("source", source);
    block.optional("title", name);
    block.into()
}
