//! A request in the words of Cohere's chat API.

use std::sync::Arc;

use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolChoice};
use serde_json::Value;

use crate::ids::{IdRule, WireIds};
use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// The body to post.
pub(super) fn body(question: &Question<'_>) -> Result<Vec<u8>> {
    let request = question.request;
    let settings = &request.settings;
    let messages = Writer::new(question.name).conversation(question.messages());
    let mut body = Object::new().with("model", question.model).with("messages", messages);
    // A single tool cannot be forced, but it can be the only one.
    let tools = question.tools_to_choose_from().map(|(tool, fitted)| {
        let mut function = Object::new().with("name", tool.name.as_str());
        function.optional("description", Some(tool.description.as_str()).filter(|text| !text.is_empty()));
        function.set("parameters", &fitted.schema);
        Object::new().with("type", "function").with("function", function)
    });
    let tools = tools.collect::<Vec<_>>();
    if !tools.is_empty() {
        body.set("tools", tools);
        body.optional(
            "tool_choice",
            match &request.tool_choice {
                ToolChoice::None => Some("NONE"),
                ToolChoice::Required | ToolChoice::Tool(_) => Some("REQUIRED"),
                // What the server does anyway.
                _ => None,
            },
        );
    }
    body.optional("temperature", settings.temperature);
    body.optional("p", settings.top_p);
    body.optional("k", settings.top_k);
    body.optional("max_tokens", settings.max_output_tokens);
    if !settings.stop_sequences.is_empty() {
        body.set("stop_sequences", settings.stop_sequences.as_slice());
    }
    body.optional("presence_penalty", settings.presence_penalty);
    body.optional("frequency_penalty", settings.frequency_penalty);
    body.optional("seed", settings.seed);
    if let Some(output) = &question.output {
        body.set("response_format", Object::new().with("type", "json_object").with("json_schema", &output.schema));
    }
    body.set("stream", question.stream);
    if let Some(extra) = extra(request, question.name)? {
        body.merge(extra);
    }
    Json::from(body).to_bytes()
}

struct Writer<'a> {
    name: &'a str,
    ids: WireIds<'a>,
    messages: Vec<Object<'a>>,
}

impl<'a> Writer<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, ids: WireIds::new(IdRule::Any), messages: Vec::new() }
    }

    fn conversation(mut self, messages: impl Iterator<Item = &'a Arc<Message>>) -> Json<'a> {
        for message in messages {
            match message.role {
                Role::System => {
                    let text = message.text();
                    if !text.is_empty() {
                        self.messages.push(Object::new().with("role", "system").with("content", text));
                    }
                }
                Role::Assistant => self.assistant(message),
                _ => self.user(message),
            }
        }
        self.messages.into()
    }

    fn assistant(&mut self, message: &'a Message) {
        let foreign = is_foreign(message, self.name);
        let mut wire = Object::new().with("role", "assistant");
        let (mut content, mut calls, mut plan) = (Vec::new(), Vec::new(), String::new());
        let is_calling = message.tool_calls().next().is_some();
        for part in &message.parts {
            match part {
                Part::Reasoning(_) if foreign => {}
                // What the model thinks of its tools has a field of its own.
                Part::Reasoning(reasoning)
                    if reasoning.provider.get(self.name).is_some_and(|own| own["plan"] == true) =>
                {
                    plan.push_str(&reasoning.text);
                }
                Part::Reasoning(reasoning) => {
                    content.push(Object::new().with("type", "thinking").with("thinking", reasoning.text.as_str()));
                }
                // No text may stand beside calls: what was said before them is the plan of them.
                Part::Text(text) if is_calling => plan.push_str(text),
                Part::Text(text) if !text.is_empty() => {
                    content.push(Object::new().with("type", "text").with("text", text.as_str()));
                }
                Part::ToolCall(call) => {
                    let function =
                        Object::new().with("name", call.name.as_str()).with("arguments", call.arguments.as_str());
                    let wire = Object::new().with("id", self.ids.of_call(call, foreign)).with("type", "function");
                    calls.push(wire.with("function", function));
                }
                _ => {}
            }
        }
        if content.is_empty() && calls.is_empty() {
            return;
        }
        wire.optional("tool_plan", Some(plan).filter(|plan| !plan.is_empty()));
        if !content.is_empty() {
            wire.set("content", content);
        }
        if !calls.is_empty() {
            wire.set("tool_calls", calls);
        }
        if let (false, Some(citations @ Value::Array(_))) =
            (foreign, message.metadata.get(self.name).map(|facts| &facts["citations"]))
        {
            wire.set("citations", citations);
        }
        self.messages.push(wire);
    }

    fn user(&mut self, message: &'a Message) {
        let mut content = Vec::new();
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => {
                    let text = result.to_text();
                    match self.ids.of_result(&result.call_id) {
                        Some(id) => {
                            let id = id.to_owned();
                            let wire = Object::new().with("role", "tool").with("tool_call_id", id);
                            self.messages.push(wire.with("content", text));
                        }
                        // A result without its call would be refused, and with it the whole conversation.
                        None => content.push(text_part(format!("Result of the tool {}: {text}", result.name))),
                    }
                    content.extend(result.content.iter().filter_map(input));
                }
                Part::Provider { provider, data, attached } if provider == self.name => match (attached, data) {
                    (false, data) => content.push(data.into()),
                    (true, Value::Object(fields)) => {
                        if let Some(Json::Object(part)) = content.last_mut() {
                            part.merge(fields);
                        }
                    }
                    _ => {}
                },
                other => content.extend(input(other)),
            }
        }
        if !content.is_empty() {
            self.messages.push(Object::new().with("role", "user").with("content", content));
        }
    }
}

fn text_part<'a>(text: String) -> Json<'a> {
    Object::new().with("type", "text").with("text", text).into()
}

/// A part as a user may send it, where the API has a form for it.
fn input(part: &Part) -> Option<Json<'_>> {
    match part {
        Part::Text(text) if text.is_empty() => None,
        Part::Text(text) => Some(Object::new().with("type", "text").with("text", text.as_str()).into()),
        Part::Image { source, media_type } => Some(match source {
            Source::Data(data) => {
                let media_type = media_type.as_deref().unwrap_or_else(|| media::sniff(data));
                image(format!("data:{media_type};base64,{data}").into())
            }
            Source::Url(url) => image(url.as_str().into()),
            other => text_part(media::unseen("image", other, None)),
        }),
        Part::File { source: Source::Data(data), media_type: Some(media_type), .. }
            if media_type.starts_with("image/") =>
        {
            Some(image(format!("data:{media_type};base64,{data}").into()))
        }
        Part::File { source, media_type, name } => {
            let media_type = media_type.as_deref().unwrap_or_default();
            Some(text_part(
                media::text(source, media_type, name.as_deref())
                    .unwrap_or_else(|| media::unseen("file", source, name.as_deref())),
            ))
        }
        Part::Unknown(object) => Some(Value::Object(object.clone()).into()),
        // For the host only, or for the provider that made it.
        _ => None,
    }
}

fn image(url: Json<'_>) -> Json<'_> {
    Object::new().with("type", "image_url").with("image_url", Object::new().with("url", url)).into()
}
