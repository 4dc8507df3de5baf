//! A request in the words of the Responses API: a list of items, of which the model's own go back as they came.

use std::borrow::Cow;
use std::sync::Arc;

use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolChoice, ToolResult};
use serde_json::{Map, Value, json};

use crate::ids::{IdRule, WireIds};
use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// What a host may write as `previous_response_id` to have the last answer's.
const LAST: &str = "last";

/// The body to post.
pub(super) fn body(question: &Question<'_>, text_results: bool) -> Result<Vec<u8>> {
    let (name, model, request) = (question.name, question.model, question.request);
    let settings = &request.settings;
    let extra = extra(request, name)?;
    let known = extra.and_then(|extra| extra.get("previous_response_id")?.as_str());
    let (previous, skipped) = known.map_or((None, 0), |wanted| previous(name, &request.messages, wanted));
    let skipped = if skipped > 0 { skipped + question.added() } else { 0 };

    let writer = Writer::new(name, text_results, cannot_think(model));
    let (instructions, input) = writer.conversation(question.messages(), skipped);
    let mut body = Object::new().with("model", model);
    body.optional("instructions", Some(instructions).filter(|text| !text.is_empty()));
    body.set("input", input);
    if !request.tools.is_empty() {
        let tools = question.tools().map(|(tool, fitted)| {
            let mut wire = Object::new().with("type", "function").with("name", tool.name.as_str());
            wire.optional("description", Some(tool.description.as_str()).filter(|text| !text.is_empty()));
            // Said in both cases: strict is the API's default.
            wire.with("parameters", &fitted.schema).with("strict", fitted.strict)
        });
        body.set("tools", tools.collect::<Vec<_>>());
        body.optional("tool_choice", tool_choice(&request.tool_choice));
    }
    body.optional("temperature", settings.temperature);
    body.optional("top_p", settings.top_p);
    // Fewer than 16 are refused, which tells the caller who asked for them. A budget leaves at least as many where he did not.
    body.optional("max_output_tokens", settings.max_output_tokens);
    if let Some(output) = &question.output {
        let mut format = Object::new().with("type", "json_schema").with("name", question.output_name());
        format.set("schema", &output.schema);
        format.set("strict", output.strict);
        body.set("text", Object::new().with("format", format));
    }
    // So that the conversation can go on where nothing is stored.
    if reasons(model) {
        body.set("include", json!(["reasoning.encrypted_content"]));
    }
    body.set("stream", question.stream);
    if let Some(extra) = extra {
        body.merge(extra);
    }
    if known == Some(LAST) || previous.is_some() {
        match previous {
            Some(id) => body.set("previous_response_id", id),
            None => body.remove("previous_response_id"),
        }
    }
    Json::from(body).to_bytes()
}

/// Models that refuse thoughts. Of others, such as those that Azure's customers named, it is not known.
fn cannot_think(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    ["gpt-4", "gpt-3.5", "chatgpt-", "gpt-5-chat"].iter().any(|word| name.starts_with(word))
}

/// Models that think, and whose thoughts can be asked for. Others refuse to be asked.
fn reasons(model: &str) -> bool {
    if cannot_think(model) {
        return false;
    }
    let name = model.rsplit('/').next().unwrap_or(model);
    // xAI's give them to whoever asks. <https://docs.x.ai/docs/guides/reasoning>
    if name.starts_with("grok-") {
        return !name.contains("non-reasoning");
    }
    let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    name.strip_prefix('o').is_some_and(digit)
        || name.starts_with("codex")
        || name.strip_prefix("gpt-").and_then(|rest| rest.chars().next()?.to_digit(10)).is_some_and(|major| major >= 5)
}

/// The answer that the request goes on from, and how many messages the server knows already.
fn previous<'a>(name: &str, messages: &'a [Arc<Message>], wanted: &str) -> (Option<&'a str>, usize) {
    let answers = messages.iter().enumerate().rev().filter(|(_, message)| message.role == Role::Assistant);
    for (place, message) in answers {
        let id = message.metadata.get(name).and_then(|facts| facts["id"].as_str());
        match id {
            Some(id) if wanted == LAST || wanted == id => return (Some(id), place + 1),
            // An answer from elsewhere, of which the server knows nothing.
            None if wanted == LAST => return (None, 0),
            _ => {}
        }
    }
    (None, 0)
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some(json!("none")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Tool(name) => Some(json!({"type": "function", "name": name})),
        // What the server does anyway.
        _ => None,
    }
}

struct Writer<'a> {
    name: &'a str,
    ids: WireIds<'a>,
    items: Vec<Json<'a>>,
    text_results: bool,
    /// Whether the model takes no thoughts.
    thoughtless: bool,
    /// What came with results, where these are texts: shown once all results of the step are there.
    attachments: Vec<Json<'a>>,
}

impl<'a> Writer<'a> {
    fn new(name: &'a str, text_results: bool, thoughtless: bool) -> Self {
        let ids = WireIds::new(IdRule::Any);
        Self { name, ids, items: Vec::new(), text_results, thoughtless, attachments: Vec::new() }
    }

    fn conversation(
        mut self,
        messages: impl Iterator<Item = &'a Arc<Message>>,
        skipped: usize,
    ) -> (Cow<'a, str>, Json<'a>) {
        let mut instructions = Cow::Borrowed("");
        let (mut begun, mut count) = (false, 0);
        for (place, message) in messages.enumerate() {
            count = place + 1;
            if place == skipped {
                // What the server knows is not said again; the ids of its calls are still needed.
                self.items.clear();
                self.attachments.clear();
            }
            if message.role != Role::Tool {
                self.show_attachments();
            }
            match message.role {
                Role::System if !begun => join(&mut instructions, message),
                Role::System => {
                    let text = message.text();
                    self.items.push(Object::new().with("role", "system").with("content", text).into());
                }
                Role::Assistant => self.assistant(message),
                _ => self.user(message),
            }
            begun |= message.role != Role::System;
        }
        self.show_attachments();
        if skipped >= count && skipped > 0 {
            self.items.clear();
        }
        (instructions, self.items.into())
    }

    fn assistant(&mut self, message: &'a Message) {
        // Items refer to one another by ids: of an answer that broke off, and of one whose thoughts are left out, only the words can be said.
        let thinks = |part: &Part| match part {
            Part::Reasoning(_) => true,
            Part::Provider { data, .. } => data["type"] == "reasoning",
            _ => false,
        };
        let in_pieces = message.metadata.get("partial") == Some(&Value::Bool(true));
        let unread = self.thoughtless && message.parts.iter().any(thinks);
        let foreign = is_foreign(message, self.name) || in_pieces || unread;
        // A thought that was told whole later on goes back as that.
        let again = |part: &Part| {
            match part {
            Part::Reasoning(reasoning) => message.parts.iter().any(|other| {
                let id = reasoning.provider.get(self.name).and_then(|fields| fields["id"].as_str());
                matches!(other, Part::Provider { data, attached: false, .. } if id.is_some() && data["id"].as_str() == id)
            }),
            _ => false,
        }
        };
        let again: Vec<bool> = message.parts.iter().map(again).collect();
        let mut parts = message.parts.iter().zip(again).filter(|(_, again)| !again).map(|(part, _)| part).peekable();
        let mut open: Option<(Map<String, Value>, Vec<Json<'a>>)> = None;
        while let Some(part) = parts.next() {
            let Part::Text(text) = part else {
                self.close(open.take());
                self.said(part, foreign);
                continue;
            };
            let fields = match parts.peek() {
                Some(Part::Provider { provider, data, attached: true }) if provider == self.name && !foreign => {
                    Some(data)
                }
                _ => None,
            };
            let Some(fields) = fields else {
                self.close(open.take());
                self.items.push(Object::new().with("role", "assistant").with("content", text.as_str()).into());
                continue;
            };
            parts.next();
            let item = fields["item"].as_object().cloned().unwrap_or_default();
            let mut content = Object::new().with("type", "output_text").with("text", text.as_str());
            if fields["part"]["type"] == "refusal" {
                content = Object::new().with("type", "refusal").with("refusal", text.as_str());
            }
            if let Value::Object(fields) = &fields["part"] {
                content.merge(fields);
            }
            match &mut open {
                Some((of, contents)) if of.get("id") == item.get("id") => {
                    contents.push(content.into());
                    // The last of them knows what became of the whole.
                    of.extend(item);
                }
                _ => {
                    self.close(open.take());
                    open = Some((item, vec![content.into()]));
                }
            }
        }
        self.close(open);
    }

    fn close(&mut self, item: Option<(Map<String, Value>, Vec<Json<'a>>)>) {
        if let Some((fields, contents)) = item {
            let mut item = Object::new().with("type", "message").with("role", "assistant");
            for (name, value) in fields {
                item.set(name, value);
            }
            item.set("content", contents);
            self.items.push(item.into());
        }
    }

    /// A part of an answer that is no text.
    fn said(&mut self, part: &'a Part, foreign: bool) {
        match part {
            // Another provider's thoughts cannot be shown here.
            Part::Reasoning(_) if foreign => {}
            Part::Reasoning(reasoning) => {
                let Some(Value::Object(fields)) = reasoning.provider.get(self.name) else { return };
                let mut item = Object::new().with("type", "reasoning");
                item.merge(fields);
                item.optional("encrypted_content", reasoning.encrypted.as_deref());
                self.items.push(item.into());
            }
            Part::ToolCall(call) => {
                let mut item =
                    Object::new().with("type", "function_call").with("call_id", self.ids.of_call(call, foreign));
                item.set("name", call.name.as_str());
                item.set("arguments", call.arguments.as_str());
                if let (false, Some(Value::Object(fields))) = (foreign, call.provider.get(self.name)) {
                    item.merge(fields);
                }
                self.items.push(item.into());
            }
            Part::Provider { provider, data, attached: false } if provider == self.name && !foreign => {
                self.items.push(data.into());
            }
            Part::Unknown(object) => self.items.push(Value::Object(object.clone()).into()),
            _ => {}
        }
    }

    fn user(&mut self, message: &'a Message) {
        let mut parts = Vec::new();
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, &mut parts),
                Part::Provider { provider, data, attached } if provider == self.name => match (attached, data) {
                    (true, Value::Object(fields)) => {
                        if let Some(Json::Object(block)) = parts.last_mut() {
                            block.merge(fields);
                        }
                    }
                    (true, _) => {}
                    // An item of the host's own, such as an approval.
                    (false, data) => {
                        self.flush(&mut parts);
                        self.items.push(data.into());
                    }
                },
                other => parts.extend(input(other)),
            }
        }
        self.flush(&mut parts);
    }

    fn show_attachments(&mut self) {
        let mut parts = std::mem::take(&mut self.attachments);
        self.flush(&mut parts);
    }

    fn flush(&mut self, parts: &mut Vec<Json<'a>>) {
        if !parts.is_empty() {
            let content: Json<'a> = std::mem::take(parts).into();
            self.items.push(Object::new().with("role", "user").with("content", content).into());
        }
    }

    fn result(&mut self, result: &'a ToolResult, beside: &mut Vec<Json<'a>>) {
        let text = result.to_text();
        let Some(id) = self.ids.of_result(&result.call_id).map(str::to_owned) else {
            // A result without its call would be refused, and with it the whole conversation.
            beside.push(text_part(format!("Result of the tool {}: {text}", result.name)));
            return;
        };
        let mut item = Object::new().with("type", "function_call_output").with("call_id", id);
        if result.content.is_empty() || self.text_results {
            item.set("output", text);
            let mut shown = result.content.iter().filter_map(input).peekable();
            if shown.peek().is_some() {
                self.attachments.push(text_part(format!("Content of the result of the tool {}:", result.name)));
                self.attachments.extend(shown);
            }
        } else {
            let mut output = if text.is_empty() { Vec::new() } else { vec![text_part(text)] };
            output.extend(result.content.iter().filter_map(input));
            item.set("output", output);
        }
        self.items.push(item.into());
    }
}

fn join<'a>(instructions: &mut Cow<'a, str>, message: &'a Message) {
    let text = match message.parts.as_slice() {
        [Part::Text(text)] => Cow::Borrowed(text.as_str()),
        _ => Cow::Owned(message.text()),
    };
    if instructions.is_empty() {
        *instructions = text;
    } else if !text.is_empty() {
        let both = instructions.to_mut();
        both.push_str("\n\n");
        both.push_str(&text);
    }
}

fn text_part<'a>(text: impl Into<Cow<'a, str>>) -> Json<'a> {
    Object::new().with("type", "input_text").with("text", text.into()).into()
}

/// A part as a user or a tool may send it, where the API has a form for it.
fn input(part: &Part) -> Option<Json<'_>> {
    match part {
        // The API refuses an empty one.
        Part::Text(text) if text.is_empty() => None,
        Part::Text(text) => Some(text_part(text.as_str())),
        Part::Image { source, media_type } => Some(image(source, media_type.as_deref())),
        Part::File { source, media_type, name } => {
            Some(file(source, media_type.as_deref().unwrap_or_default(), name.as_deref()))
        }
        Part::Unknown(object) => Some(Value::Object(object.clone()).into()),
        // For the host only, or for the provider that made it.
        _ => None,
    }
}

fn image<'a>(source: &'a Source, media_type: Option<&str>) -> Json<'a> {
    let image = Object::new().with("type", "input_image");
    match source {
        Source::Data(data) => {
            let media_type = media_type.unwrap_or_else(|| media::sniff(data));
            image.with("image_url", format!("data:{media_type};base64,{data}")).into()
        }
        Source::Url(url) => image.with("image_url", url.as_str()).into(),
        Source::Reference(id) => image.with("file_id", id.as_str()).into(),
        other => text_part(media::unseen("image", other, None)),
    }
}

fn file<'a>(source: &'a Source, media_type: &str, name: Option<&'a str>) -> Json<'a> {
    if media_type.starts_with("image/") {
        return image(source, Some(media_type));
    }
    let file = Object::new().with("type", "input_file");
    match source {
        // The API takes text as text only.
        Source::Data(_) if media::is_text(media_type) => {
            text_part(media::text(source, media_type, name).unwrap_or_else(|| media::unseen("file", source, name)))
        }
        Source::Data(data) => {
            let media_type = if media_type.is_empty() { "application/pdf" } else { media_type };
            let named = file.with("filename", name.unwrap_or("file"));
            named.with("file_data", format!("data:{media_type};base64,{data}")).into()
        }
        Source::Url(url) => file.with("file_url", url.as_str()).into(),
        Source::Reference(id) => file.with("file_id", id.as_str()).into(),
        other => text_part(media::unseen("file", other, name)),
    }
}
