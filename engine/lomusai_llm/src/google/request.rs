//! A request in the words of `generateContent`: contents of parts, the results of parallel calls together and in the order of the calls.

use std::sync::Arc;

use lomusai_core::Result;
use lomusai_wire::{Message, Part, Role, Source, ToolCall, ToolChoice, ToolResult, ToolStatus};
use serde_json::{Value, json};

use crate::json::{Json, Object};
use crate::media;
use crate::question::Question;
use crate::wire::{extra, is_foreign};

/// Stands for the signature of a call that another model made.
/// <https://ai.google.dev/gemini-api/docs/thought-signatures>
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// The body to post.
pub(super) fn body(question: &Question<'_>) -> Result<Vec<u8>> {
    let request = question.request;
    let settings = &request.settings;
    let (system, contents) = Writer::new(question.name, question.model).conversation(question.messages());
    let mut body = Object::new().with("contents", contents);
    if !system.is_empty() {
        body.set("systemInstruction", Object::new().with("parts", system));
    }
    if !request.tools.is_empty() {
        let tools = question.tools().map(|(tool, fitted)| {
            let declared =
                Object::new().with("name", tool.name.as_str()).with("description", tool.description.as_str());
            declared.with("parametersJsonSchema", &fitted.schema)
        });
        let declarations = tools.collect::<Vec<_>>();
        body.set("tools", vec![Object::new().with("functionDeclarations", declarations)]);
        if let Some(choice) = tool_choice(&request.tool_choice) {
            body.set("toolConfig", Object::new().with("functionCallingConfig", choice));
        }
    }
    let mut generation = Object::new();
    generation.optional("temperature", settings.temperature);
    generation.optional("topP", settings.top_p);
    generation.optional("topK", settings.top_k);
    generation.optional("maxOutputTokens", settings.max_output_tokens);
    if !settings.stop_sequences.is_empty() {
        generation.set("stopSequences", settings.stop_sequences.as_slice());
    }
    generation.optional("presencePenalty", settings.presence_penalty);
    generation.optional("frequencyPenalty", settings.frequency_penalty);
    generation.optional("seed", settings.seed);
    if let Some(output) = &question.output {
        generation.set("responseMimeType", "application/json");
        generation.set("responseJsonSchema", &output.schema);
    }
    if !generation.is_empty() {
        body.set("generationConfig", generation);
    }
    if let Some(extra) = extra(request, question.name)? {
        body.merge(extra);
    }
    Json::from(body).to_bytes()
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some(json!({"mode": "NONE"})),
        ToolChoice::Required => Some(json!({"mode": "ANY"})),
        ToolChoice::Tool(name) => Some(json!({"mode": "ANY", "allowedFunctionNames": [name]})),
        // What the server does anyway.
        _ => None,
    }
}

struct Writer<'a> {
    name: &'a str,
    wants_signatures: bool,
    contents: Vec<(&'static str, Vec<Json<'a>>)>,
    /// The calls of the last answer, by our id: what the provider called each by.
    calls: Vec<&'a ToolCall>,
    /// Results that wait for the others of their turn, by the place of their call.
    results: Vec<(usize, Vec<Json<'a>>)>,
    foreign: bool,
}

impl<'a> Writer<'a> {
    fn new(name: &'a str, model: &str) -> Self {
        // All since Gemini 3 want them, and names of older ones are led there. <https://ai.google.dev/gemini-api/docs/thought-signatures>
        let wants_signatures = model.rsplit('/').next().is_some_and(|model| model.starts_with("gemini-"));
        Self { name, wants_signatures, contents: Vec::new(), calls: Vec::new(), results: Vec::new(), foreign: false }
    }

    fn conversation(mut self, messages: impl Iterator<Item = &'a Arc<Message>>) -> (Vec<Json<'a>>, Json<'a>) {
        let mut system = Vec::new();
        for message in messages {
            match message.role {
                // The API has one place for instructions.
                Role::System => {
                    for part in &message.parts {
                        self.part(part, &mut system);
                    }
                }
                Role::Assistant => self.assistant(message),
                _ => self.user(message),
            }
        }
        self.flush();
        let contents = self.contents.into_iter().filter(|(_, parts)| !parts.is_empty());
        (
            system,
            contents
                .map(|(role, parts)| Object::new().with("role", role).with("parts", parts))
                .collect::<Vec<_>>()
                .into(),
        )
    }

    /// The parts of this role that go on, or new ones.
    fn content(&mut self, role: &'static str) -> &mut Vec<Json<'a>> {
        if self.contents.last().is_none_or(|(last, _)| *last != role) {
            self.contents.push((role, Vec::new()));
        }
        &mut self.contents.last_mut().expect("there is one now").1
    }

    /// The results of a turn, in the order of their calls.
    fn flush(&mut self) {
        let mut results = std::mem::take(&mut self.results);
        if !results.is_empty() {
            results.sort_by_key(|(place, _)| *place);
            let (responses, beside): (Vec<_>, Vec<_>) = results
                .into_iter()
                .map(|(_, mut parts)| {
                    let beside = parts.split_off(1);
                    (parts, beside)
                })
                .unzip();
            // Nothing stands between the responses of one turn, and nothing beside them: where something does, the model may say nothing.
            self.contents.push(("user", responses.into_iter().flatten().collect()));
            self.contents.push(("user", beside.into_iter().flatten().collect()));
        }
    }

    fn assistant(&mut self, message: &'a Message) {
        self.flush();
        let foreign = is_foreign(message, self.name);
        let mut parts = Vec::new();
        self.calls.clear();
        self.foreign = foreign;
        for part in &message.parts {
            match part {
                // Another model's thoughts cannot be shown here.
                Part::Reasoning(_) if foreign => {}
                Part::Reasoning(reasoning) => {
                    let mut wire = Object::new().with("text", reasoning.text.as_str()).with("thought", true);
                    wire.optional("thoughtSignature", reasoning.signature.as_deref());
                    if let Some(Value::Object(fields)) = reasoning.provider.get(self.name) {
                        wire.merge(fields);
                    }
                    parts.push(wire.into());
                }
                Part::ToolCall(call) => {
                    let mut function = Object::new();
                    function.optional("id", call.provider_id.as_deref().filter(|_| !foreign));
                    function.set("name", call.name.as_str());
                    function.set("args", Json::arguments(&call.arguments));
                    let mut wire = Object::new().with("functionCall", function);
                    let first = self.calls.is_empty();
                    let signature = call.signature.as_deref().filter(|_| !foreign);
                    // Only the first of parallel calls is signed.
                    let missing = signature.is_none() && first && self.wants_signatures;
                    wire.optional("thoughtSignature", if missing { Some(NO_SIGNATURE) } else { signature });
                    if let (false, Some(Value::Object(fields))) = (foreign, call.provider.get(self.name)) {
                        wire.merge(fields);
                    }
                    parts.push(wire.into());
                    self.calls.push(call);
                }
                other => self.part(other, &mut parts),
            }
        }
        self.content("model").extend(parts);
    }

    fn user(&mut self, message: &'a Message) {
        let mut parts = Vec::new();
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, &mut parts),
                other => self.part(other, &mut parts),
            }
        }
        if !parts.is_empty() {
            self.flush();
            self.content("user").extend(parts);
        }
    }

    fn result(&mut self, result: &'a ToolResult, beside: &mut Vec<Json<'a>>) {
        let Some(place) = self.calls.iter().position(|call| call.call_id == result.call_id) else {
            // A result without its call would be refused, and with it the whole conversation.
            let text = format!("Result of the tool {}: {}", result.name, result.to_text());
            beside.push(Object::new().with("text", text).into());
            return;
        };
        let call = self.calls[place];
        let response: Json<'a> = match (&result.output, result.status) {
            // A reference in it would be looked for among the parts.
            (output @ Value::Object(_), ToolStatus::Ok) if refers(output) => {
                Object::new().with("output", output.to_string()).into()
            }
            (output @ Value::Object(_), ToolStatus::Ok) => output.into(),
            (_, ToolStatus::Ok) => Object::new().with("output", &result.output).into(),
            _ => Object::new().with("error", result.to_text()).into(),
        };
        let mut function = Object::new();
        function.optional("id", call.provider_id.as_deref().filter(|_| !self.foreign));
        function.set("name", result.name.as_str());
        function.set("response", response);
        let mut parts = vec![Object::new().with("functionResponse", function).into()];
        for part in &result.content {
            self.part(part, &mut parts);
        }
        self.results.push((place, parts));
    }

    /// A part as anybody may send it. One that the API has no form for becomes text, or is left out.
    fn part(&self, part: &'a Part, parts: &mut Vec<Json<'a>>) {
        match part {
            // The API refuses an empty one.
            Part::Text(text) if text.is_empty() => {}
            Part::Text(text) => parts.push(Object::new().with("text", text.as_str()).into()),
            Part::Image { source, media_type } => {
                let sniffed = || match source {
                    Source::Data(data) => media::sniff(data),
                    _ => "image/png",
                };
                parts.push(
                    bytes(source, media_type.as_deref().unwrap_or_else(sniffed))
                        .unwrap_or_else(|| unseen("image", source, None)),
                );
            }
            Part::File { source, media_type, name } => {
                let media_type =
                    media_type.as_deref().filter(|media_type| !media_type.is_empty()).unwrap_or("application/pdf");
                parts.push(bytes(source, media_type).unwrap_or_else(|| unseen("file", source, name.as_deref())));
            }
            Part::Provider { provider, data, attached } if provider == self.name => match (attached, data) {
                (false, data) => parts.push(data.into()),
                (true, Value::Object(fields)) => {
                    if let Some(Json::Object(part)) = parts.last_mut() {
                        part.merge(fields);
                    }
                }
                _ => {}
            },
            Part::Unknown(object) => parts.push(Value::Object(object.clone()).into()),
            // For the host only, or for the provider that made it.
            _ => {}
        }
    }
}

/// Whether there is a `$ref` anywhere.
fn refers(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| name == "$ref" || refers(value)),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn bytes<'a>(source: &'a Source, media_type: &'a str) -> Option<Json<'a>> {
    match source {
        Source::Data(data) => {
            let inline = Object::new().with("mimeType", media_type).with("data", data.as_str());
            Some(Object::new().with("inlineData", inline).into())
        }
        Source::Url(uri) | Source::Reference(uri) => {
            let file = Object::new().with("mimeType", media_type).with("fileUri", uri.as_str());
            Some(Object::new().with("fileData", file).into())
        }
        _ => None,
    }
}

fn unseen<'a>(what: &str, source: &Source, name: Option<&str>) -> Json<'a> {
    Object::new().with("text", media::unseen(what, source, name)).into()
}
