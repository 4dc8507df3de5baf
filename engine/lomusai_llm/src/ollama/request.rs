//! A request in the words of Ollama's chat API, which knows a result by its place and its tool's name.

use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolChoice};
use serde_json::Value;

use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// The body to post.
pub(super) fn body(question: &Question<'_>) -> Result<Vec<u8>> {
    let request = question.request;
    let settings = &request.settings;
    // Instructions at the beginning are one message: the templates of many models refuse a second.
    let begin = question.messages().take_while(|message| message.role == Role::System);
    let instructions =
        begin.map(|message| message.text()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n");
    let system = Some(instructions).filter(|text| !text.is_empty());
    let system = system.map(|text| Object::new().with("role", "system").with("content", text));
    let rest = question.messages().skip_while(|message| message.role == Role::System);
    let rest = rest.flat_map(|message| messages(question.name, message));
    let messages = system.into_iter().chain(rest).collect::<Vec<_>>();
    let mut body = Object::new().with("model", question.model).with("messages", messages);
    // The API knows no choice: where none may be called none is shown.
    let shown = question.tools_to_choose_from().filter(|_| request.tool_choice != ToolChoice::None);
    let tools = shown.map(|(tool, fitted)| {
        let function = Object::new().with("name", tool.name.as_str()).with("description", tool.description.as_str());
        let function = function.with("parameters", &fitted.schema);
        Object::new().with("type", "function").with("function", function)
    });
    let tools = tools.collect::<Vec<_>>();
    if !tools.is_empty() {
        body.set("tools", tools);
    }
    body.optional("format", question.output.as_ref().map(|output| &output.schema));
    let mut options = Object::new();
    options.optional("temperature", settings.temperature);
    options.optional("top_p", settings.top_p);
    options.optional("top_k", settings.top_k);
    options.optional("num_predict", settings.max_output_tokens);
    if !settings.stop_sequences.is_empty() {
        options.set("stop", settings.stop_sequences.as_slice());
    }
    options.optional("presence_penalty", settings.presence_penalty);
    options.optional("frequency_penalty", settings.frequency_penalty);
    options.optional("seed", settings.seed);
    if !options.is_empty() {
        body.set("options", options);
    }
    body.set("stream", question.stream);
    if let Some(extra) = extra(request, question.name)? {
        body.merge(extra);
    }
    Json::from(body).to_bytes()
}

fn messages<'a>(name: &str, message: &'a Message) -> Vec<Object<'a>> {
    let role = match message.role {
        Role::System => "system",
        Role::Assistant => "assistant",
        _ => "user",
    };
    let foreign = is_foreign(message, name);
    let (mut text, mut thought) = (String::new(), String::new());
    let (mut images, mut calls, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for part in &message.parts {
        match part {
            Part::ToolCall(call) => {
                let mut function =
                    Object::new().with("name", call.name.as_str()).with("arguments", Json::arguments(&call.arguments));
                if let (false, Some(Value::Object(fields))) = (foreign, call.provider.get(name)) {
                    function.merge(fields);
                }
                let mut wire = Object::new();
                wire.optional("id", call.provider_id.as_deref().filter(|_| !foreign));
                calls.push(wire.with("type", "function").with("function", function));
            }
            Part::ToolResult(result) => {
                let wire = Object::new().with("role", "tool").with("content", result.to_text());
                messages.push(wire.with("tool_name", result.name.as_str()));
                for part in &result.content {
                    shown(part, &mut text, &mut images);
                }
            }
            Part::Reasoning(reasoning) if !foreign => thought.push_str(&reasoning.text),
            other => shown(other, &mut text, &mut images),
        }
    }
    if !text.is_empty() || !images.is_empty() || !calls.is_empty() {
        let mut wire = Object::new().with("role", role).with("content", text);
        wire.optional("thinking", Some(thought).filter(|thought| !thought.is_empty()));
        if !images.is_empty() {
            wire.set("images", images);
        }
        if !calls.is_empty() {
            wire.set("tool_calls", calls);
        }
        messages.push(wire);
    }
    messages
}

/// A part as anybody may send it: text, or an image. What the API has no form for becomes text, or is left out.
fn shown<'a>(part: &'a Part, text: &mut String, images: &mut Vec<Json<'a>>) {
    match part {
        Part::Text(more) => text.push_str(more),
        Part::Image { source: Source::Data(data), .. } => images.push(data.as_str().into()),
        Part::File { source: Source::Data(data), media_type: Some(media_type), .. }
            if media_type.starts_with("image/") =>
        {
            images.push(data.as_str().into());
        }
        Part::Image { source, .. } => text.push_str(&media::unseen("image", source, None)),
        Part::File { source, media_type, name } => {
            let known = media::text(source, media_type.as_deref().unwrap_or_default(), name.as_deref());
            text.push_str(&known.unwrap_or_else(|| media::unseen("file", source, name.as_deref())));
        }
        Part::Unknown(object) => text.push_str(object.get("text").and_then(Value::as_str).unwrap_or_default()),
        // For the host only, or for the provider that made it.
        _ => {}
    }
}
