//! A request in the words of the API. What the API cannot take becomes what it can, or is left out; nothing here fails on a transcript.

mod content;

use std::borrow::Cow;

use lomusai_core::{Error, Result};
use lomusai_wire::{Message, ModelRequest, OutputSpec, Part, RawJson, Role, ToolChoice, ToolResult, codes};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::ids::{IdRule, WireIds};
use crate::wire::extra;
use content::{Content, WirePart};

/// The body to post.
pub(super) fn body(name: &str, request: &ModelRequest, model: &str, stream: bool) -> Result<Vec<u8>> {
    let none = Map::new();
    let extra = extra(request, name)?.unwrap_or(&none);
    serde_json::to_vec(&Body { request, model, messages: messages(request), extra, stream })
        .map_err(|error| Error::new(codes::INTERNAL, format!("the request cannot be written as JSON: {error}")))
}

struct Body<'a> {
    request: &'a ModelRequest,
    model: &'a str,
    messages: Vec<WireMessage<'a>>,
    extra: &'a Map<String, Value>,
    stream: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let settings = &self.request.settings;
        let tools: Vec<WireTool<'_>> = self.request.tools.iter().map(WireTool::new).collect();
        let mut fields = Fields { map: serializer.serialize_map(None)?, extra: self.extra };
        fields.optional("model", Some(self.model).filter(|model| !model.is_empty()))?;
        fields.optional("messages", Some(&self.messages))?;
        if !tools.is_empty() {
            fields.optional("tools", Some(&tools))?;
            fields.optional("tool_choice", tool_choice(&self.request.tool_choice))?;
        }
        fields.optional("temperature", settings.temperature)?;
        fields.optional("top_p", settings.top_p)?;
        // Not OpenAI's, but of most servers that copy its API. One that has no such field says so, which is better than silence.
        fields.optional("top_k", settings.top_k)?;
        fields.optional("max_tokens", settings.max_output_tokens)?;
        fields.optional("stop", Some(&settings.stop_sequences).filter(|stop| !stop.is_empty()))?;
        fields.optional("presence_penalty", settings.presence_penalty)?;
        fields.optional("frequency_penalty", settings.frequency_penalty)?;
        fields.optional("seed", settings.seed)?;
        fields.optional("response_format", self.request.output.as_ref().map(ResponseFormat::new))?;
        fields.optional("stream", Some(self.stream))?;
        fields.optional("stream_options", self.stream.then(|| json!({"include_usage": true})))?;
        fields.end()
    }
}

/// Writes fields, but leaves to `extra` those that it has.
struct Fields<'a, M> {
    map: M,
    extra: &'a Map<String, Value>,
}

impl<M: SerializeMap> Fields<'_, M> {
    fn optional<T: Serialize>(&mut self, name: &str, value: Option<T>) -> std::result::Result<(), M::Error> {
        match value {
            Some(value) if !self.extra.contains_key(name) => self.map.serialize_entry(name, &value),
            _ => Ok(()),
        }
    }

    fn end(mut self) -> std::result::Result<M::Ok, M::Error> {
        for (name, value) in self.extra.iter().filter(|(_, value)| !value.is_null()) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}

#[derive(serde::Serialize)]
struct WireTool<'a> {
    r#type: &'static str,
    function: WireFunction<'a>,
}

#[derive(serde::Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    parameters: &'a RawJson,
}

impl<'a> WireTool<'a> {
    fn new(tool: &'a lomusai_wire::ModelTool) -> Self {
        let function =
            WireFunction { name: &tool.name, description: &tool.description, parameters: &tool.input_schema };
        Self { r#type: "function", function }
    }
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some(json!("none")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Tool(name) => Some(json!({"type": "function", "function": {"name": name}})),
        // What the server does anyway.
        _ => None,
    }
}

#[derive(serde::Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: JsonSchema<'a>,
}

/// Without `strict`: it refuses most schemas that are not written for it, and the engine checks the answer itself.
#[derive(serde::Serialize)]
struct JsonSchema<'a> {
    name: &'a str,
    schema: &'a RawJson,
}

impl<'a> ResponseFormat<'a> {
    fn new(output: &'a OutputSpec) -> Self {
        let name = output.name.as_deref().unwrap_or("output");
        Self { r#type: "json_schema", json_schema: JsonSchema { name, schema: &output.schema } }
    }
}

#[derive(serde::Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    /// `null` for an assistant that only calls tools, as the API itself answers.
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(serde::Serialize)]
struct WireCall<'a> {
    id: String,
    r#type: &'static str,
    function: CalledFunction<'a>,
}

#[derive(serde::Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    /// What the model wrote, valid or not: it must see its own words to correct them.
    arguments: &'a str,
}

impl<'a> WireMessage<'a> {
    fn new(role: &'static str, content: Option<Content<'a>>) -> Self {
        Self { role, content, tool_calls: Vec::new(), tool_call_id: None }
    }
}

fn messages(request: &ModelRequest) -> Vec<WireMessage<'_>> {
    let mut writer = Writer { messages: Vec::new(), ids: WireIds::new(IdRule::Any), attachments: Vec::new() };
    for message in &request.messages {
        match message.role {
            Role::System => writer.text("system", message),
            Role::Assistant => writer.assistant(message),
            _ => writer.user(message),
        }
    }
    writer.show_attachments();
    writer.messages
}

struct Writer<'a> {
    messages: Vec<WireMessage<'a>>,
    ids: WireIds<'a>,
    /// Images and files of tool results, which the API takes from a user only. They wait until the last result of a turn is
    /// written, since nothing may stand between a call and its results.
    attachments: Vec<WirePart<'a>>,
}

impl<'a> Writer<'a> {
    fn text(&mut self, role: &'static str, message: &'a Message) {
        self.show_attachments();
        let text = text_of(message);
        if !text.is_empty() {
            self.messages.push(WireMessage::new(role, Some(Content::Text(text))));
        }
    }

    fn assistant(&mut self, message: &'a Message) {
        self.show_attachments();
        let content = Some(text_of(message)).filter(|text| !text.is_empty()).map(Content::Text);
        let tool_calls: Vec<WireCall<'a>> = message
            .tool_calls()
            .map(|call| WireCall {
                id: self.ids.of_call(call),
                r#type: "function",
                function: CalledFunction { name: &call.name, arguments: &call.arguments },
            })
            .collect();
        if content.is_some() || !tool_calls.is_empty() {
            self.messages.push(WireMessage { tool_calls, ..WireMessage::new("assistant", content) });
        }
    }

    fn user(&mut self, message: &'a Message) {
        let mut parts = Vec::new();
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, &mut parts),
                other => parts.extend(WirePart::new(other)),
            }
        }
        if !parts.is_empty() {
            self.show_attachments();
            self.messages.push(WireMessage::new("user", Some(Content::new(parts))));
        }
    }

    fn result(&mut self, result: &'a ToolResult, beside: &mut Vec<WirePart<'a>>) {
        let text = result.to_text();
        match self.ids.of_result(&result.call_id) {
            Some(id) => {
                let message = WireMessage::new("tool", Some(Content::Text(Cow::Owned(text))));
                self.messages.push(WireMessage { tool_call_id: Some(id.to_owned()), ..message });
            }
            // A result without its call would be refused, and with it the whole conversation.
            None => beside.push(WirePart::text(format!("Result of the tool {}: {text}", result.name))),
        }
        let attachments: Vec<_> = result.content.iter().filter_map(WirePart::new).collect();
        if !attachments.is_empty() {
            self.attachments.push(WirePart::text(format!("Content of the result of the tool {}:", result.name)));
            self.attachments.extend(attachments);
        }
    }

    fn show_attachments(&mut self) {
        let parts = std::mem::take(&mut self.attachments);
        if !parts.is_empty() {
            self.messages.push(WireMessage::new("user", Some(Content::Parts(parts))));
        }
    }
}

/// The text of a message, joined, since not every server takes parts from anybody but the user.
fn text_of(message: &Message) -> Cow<'_, str> {
    let mut texts = message.parts.iter().filter_map(Part::as_text);
    match (texts.next(), texts.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(text), None) => Cow::Borrowed(text),
        _ => Cow::Owned(message.text()),
    }
}

#[cfg(test)]
mod tests;
