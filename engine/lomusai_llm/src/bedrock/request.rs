//! A request in the words of the Converse API: turns that alternate, results first in the turn that follows their calls.

use std::sync::Arc;

use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolChoice, ToolResult, ToolStatus};
use serde_json::{Value, json};

use crate::claude;
use crate::ids::{IdRule, WireIds};
use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// What the API itself has no field for, and the model has.
const OWN_FIELDS: &str = "additionalModelRequestFields";

/// The body to post.
pub(super) fn body(question: &Question<'_>) -> Result<Vec<u8>> {
    let request = question.request;
    let settings = &request.settings;
    let (system, messages) = Writer::new(question).conversation(question.messages());
    let mut body = Object::new().with("messages", messages);
    if !system.is_empty() {
        body.set("system", system);
    }
    let mut inference = Object::new();
    // Claude's answers would end at 4,096 tokens, thoughts included. <https://github.com/BerriAI/litellm/issues/41529>
    let claude = question.model.contains("claude").then(|| claude::max_tokens(question.model));
    inference.optional("maxTokens", settings.max_output_tokens.or(claude));
    inference.optional("temperature", settings.temperature);
    inference.optional("topP", settings.top_p);
    if !settings.stop_sequences.is_empty() {
        inference.set("stopSequences", settings.stop_sequences.as_slice());
    }
    if !inference.is_empty() {
        body.set("inferenceConfig", inference);
    }
    // The API has no word for it: without tools there is none to call. But a conversation with calls in it needs them declared.
    let spoken = request.messages.iter().any(|message| message.tool_calls().next().is_some());
    if !request.tools.is_empty() && (request.tool_choice != ToolChoice::None || spoken) {
        let tools = question.tools().map(|(tool, fitted)| {
            let mut spec = Object::new().with("name", tool.name.as_str());
            spec.optional("description", Some(tool.description.as_str()).filter(|text| !text.is_empty()));
            spec.set("inputSchema", Object::new().with("json", &fitted.schema));
            Object::new().with("toolSpec", spec)
        });
        let mut config = Object::new().with("tools", tools.collect::<Vec<_>>());
        config.optional("toolChoice", tool_choice(&request.tool_choice));
        body.set("toolConfig", config);
    }
    if let Some(output) = &question.output {
        // The schema goes as text here.
        let schema = Object::new().with("schema", output.schema.as_str()).with("name", question.output_name());
        let format =
            Object::new().with("type", "json_schema").with("structure", Object::new().with("jsonSchema", schema));
        body.set("outputConfig", Object::new().with("textFormat", format));
    }
    if claude::binds_thoughts(question.model) {
        let own = Object::new().with("thinking", claude::thinking());
        body.set(OWN_FIELDS, own.with("anthropic_beta", vec![Json::from(claude::BINDING_BETA)]));
    }
    if let Some(extra) = extra(request, question.name)? {
        body.merge(extra);
        if let Some(Json::Object(own)) = body.get_mut(OWN_FIELDS) {
            claude::settle_thinking(own);
        }
    }
    Json::from(body).to_bytes()
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::Required => Some(json!({"any": {}})),
        ToolChoice::Tool(name) => Some(json!({"tool": {"name": name}})),
        // What the server does anyway.
        _ => None,
    }
}

struct Writer<'a> {
    name: &'a str,
    /// Whether the model reads signed thoughts and no others, as Claude's do, or only the others. `None`: its name, an inference profile's,
    /// does not say, and it is sent all.
    signed: Option<bool>,
    /// Whether calls and results are told as texts: without tools the API takes no calls.
    told: bool,
    ids: WireIds<'a>,
    turns: Vec<Turn<'a>>,
    documents: usize,
}

struct Turn<'a> {
    role: &'static str,
    blocks: Vec<Json<'a>>,
    /// How many blocks at the beginning are tool results.
    results: usize,
}

impl<'a> Writer<'a> {
    fn new(question: &Question<'a>) -> Self {
        // The names of profiles that a user made say nothing of the model behind them.
        let signed =
            (!question.model.contains("application-inference-profile")).then(|| question.model.contains("claude"));
        let told = question.request.tools.is_empty();
        let ids = WireIds::new(IdRule::Plain);
        Self { name: question.name, signed, told, ids, turns: Vec::new(), documents: 0 }
    }

    fn conversation(mut self, messages: impl Iterator<Item = &'a Arc<Message>>) -> (Vec<Json<'a>>, Json<'a>) {
        let mut system = Vec::new();
        for message in messages {
            match message.role {
                Role::System => {
                    for part in &message.parts {
                        self.part(part, &mut system);
                    }
                }
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
                Part::Reasoning(_) if foreign => {}
                Part::Reasoning(thought)
                    if self.signed.is_some_and(|signed| {
                        signed != (thought.signature.is_some() || thought.encrypted.is_some())
                    }) => {}
                Part::Reasoning(reasoning) => {
                    let content = match &reasoning.encrypted {
                        Some(encrypted) => Object::new().with("redactedContent", encrypted.as_str()),
                        None => {
                            let mut text = Object::new().with("text", reasoning.text.as_str());
                            text.optional("signature", reasoning.signature.as_deref());
                            Object::new().with("reasoningText", text)
                        }
                    };
                    blocks.push(Object::new().with("reasoningContent", content).into());
                }
                Part::ToolCall(call) if self.told => {
                    blocks.push(text(format!("(Called the tool {} with {}.)", call.name, call.arguments)));
                }
                Part::ToolCall(call) => {
                    let mut tool = Object::new()
                        .with("toolUseId", self.ids.of_call(call, foreign))
                        .with("name", call.name.as_str());
                    tool.set("input", Json::arguments(&call.arguments));
                    if let (false, Some(Value::Object(fields))) = (foreign, call.provider.get(self.name)) {
                        tool.merge(fields);
                    }
                    blocks.push(Object::new().with("toolUse", tool).into());
                }
                other => self.part(other, &mut blocks),
            }
        }
        self.turn("assistant").blocks.extend(blocks);
    }

    fn user(&mut self, message: &'a Message) {
        let (mut results, mut blocks) = (Vec::new(), Vec::new());
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => match self.ids.of_result(&result.call_id).map(str::to_owned) {
                    Some(id) => {
                        let block = self.result(result, id);
                        results.push(block);
                    }
                    // A result without its call would be refused, and with it the whole conversation.
                    None => blocks.push(text(format!("Result of the tool {}: {}", result.name, result.to_text()))),
                },
                other => self.part(other, &mut blocks),
            }
        }
        // A document needs a text beside it.
        let has = |blocks: &[Json<'a>], name: &str| {
            blocks.iter().any(|block| matches!(block, Json::Object(block) if block.has(name)))
        };
        if has(&blocks, "document") && !has(&blocks, "text") {
            blocks.insert(0, text("See the document.".into()));
        }
        let turn = self.turn("user");
        let count = results.len();
        turn.blocks.splice(turn.results..turn.results, results);
        turn.results += count;
        turn.blocks.extend(blocks);
    }

    fn result(&mut self, result: &'a ToolResult, id: String) -> Json<'a> {
        let mut content = Vec::new();
        match &result.output {
            output @ Value::Object(_) => content.push(Object::new().with("json", output).into()),
            _ => content.extend(Some(result.to_text()).filter(|said| !said.trim().is_empty()).map(text)),
        }
        for part in &result.content {
            self.part(part, &mut content);
        }
        if content.is_empty() {
            content.push(text("(no output)".into()));
        }
        let status = if result.status == ToolStatus::Ok { "success" } else { "error" };
        let block = Object::new().with("toolUseId", id).with("content", content).with("status", status);
        Object::new().with("toolResult", block).into()
    }

    /// A part as anybody may send it. One that the API has no form for becomes text, or is left out.
    fn part(&mut self, part: &'a Part, blocks: &mut Vec<Json<'a>>) {
        match part {
            // The API refuses an empty one.
            Part::Text(text) if text.trim().is_empty() => {}
            Part::Text(text) => blocks.push(Object::new().with("text", text.as_str()).into()),
            Part::Image { source, media_type } => {
                let sniffed = || if let Source::Data(data) = source { media::sniff(data) } else { "image/png" };
                let block = self.media(source, media_type.as_deref().unwrap_or_else(sniffed), None);
                blocks.push(block.unwrap_or_else(|| text(media::unseen("image", source, None))));
            }
            Part::File { source, media_type, name } => {
                let media_type =
                    media_type.as_deref().filter(|media_type| !media_type.is_empty()).unwrap_or("application/pdf");
                let block = self.media(source, media_type, name.as_deref());
                blocks.push(block.unwrap_or_else(|| text(media::unseen("file", source, name.as_deref()))));
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

    fn media(&mut self, source: &'a Source, media_type: &str, name: Option<&str>) -> Option<Json<'a>> {
        let bytes = match source {
            Source::Data(data) => Object::new().with("bytes", data.as_str()),
            Source::Url(uri) | Source::Reference(uri) if uri.starts_with("s3://") => {
                Object::new().with("s3Location", Object::new().with("uri", uri.as_str()))
            }
            _ => return None,
        };
        let (field, format) = form(media_type)?;
        let mut block = Object::new().with("format", format);
        if field == "document" {
            self.documents += 1;
            // Names must be plain, and none may stand twice.
            let plain: String =
                name.unwrap_or("Document").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            block.set("name", format!("{plain} {}", self.documents));
        }
        Some(Object::new().with(field, block.with("source", bytes)).into())
    }
}

fn text<'a>(text: String) -> Json<'a> {
    Object::new().with("text", text).into()
}

/// The block and the format of a media type.
fn form(media_type: &str) -> Option<(&'static str, &'static str)> {
    Some(match media_type {
        "image/png" => ("image", "png"),
        "image/jpeg" => ("image", "jpeg"),
        "image/gif" => ("image", "gif"),
        "image/webp" => ("image", "webp"),
        "video/mp4" => ("video", "mp4"),
        "video/quicktime" => ("video", "mov"),
        "video/webm" => ("video", "webm"),
        "video/x-matroska" => ("video", "mkv"),
        "application/pdf" => ("document", "pdf"),
        "text/csv" => ("document", "csv"),
        "text/html" => ("document", "html"),
        "text/markdown" => ("document", "md"),
        "text/plain" => ("document", "txt"),
        "application/msword" => ("document", "doc"),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => ("document", "docx"),
        "application/vnd.ms-excel" => ("document", "xls"),
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => ("document", "xlsx"),
        _ => return None,
    })
}
