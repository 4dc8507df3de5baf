//! A request in the words of the API. What the API cannot take becomes what it can, or is left out; nothing here fails on a transcript.

mod content;

use std::borrow::Cow;

use lomusai_core::{Error, Result};
use lomusai_wire::{Message, ModelTool, Part, RawJson, Role, ToolChoice, ToolResult, codes};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value, json};

use super::{Dialect, Forces, Media, Thoughts};
use crate::ids::WireIds;
use crate::question::{Fitted, Question};
use crate::wire::{extra, is_foreign};
use content::{Content, WirePart};

/// The body to post.
pub(super) fn body(dialect: &Dialect, question: &Question<'_>) -> Result<Vec<u8>> {
    let none = Map::new();
    let extra = extra(question.request, question.name)?.unwrap_or(&none);
    serde_json::to_vec(&Body { dialect, question, messages: messages(dialect, question), extra })
        .map_err(|error| Error::new(codes::INTERNAL, format!("the request cannot be written as JSON: {error}")))
}

struct Body<'a> {
    dialect: &'a Dialect,
    question: &'a Question<'a>,
    messages: Vec<WireMessage<'a>>,
    extra: &'a Map<String, Value>,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (question, dialect) = (self.question, self.dialect);
        let settings = &question.request.settings;
        let wire = |(tool, fitted)| WireTool::new(tool, fitted);
        let tools: Vec<WireTool<'_>> = match dialect.forces {
            Forces::Named => question.tools().map(wire).collect(),
            _ => question.tools_to_choose_from().map(wire).collect(),
        };
        // The provider's own tools are beside ours, and do not replace them.
        let own = self.extra.get("tools").and_then(Value::as_array);
        let mut fields = Fields { map: serializer.serialize_map(None)?, extra: self.extra };
        fields.optional("model", Some(question.model).filter(|model| !model.is_empty()))?;
        fields.optional("messages", Some(&self.messages))?;
        if !tools.is_empty() {
            match own {
                Some(own) => fields.map.serialize_entry("tools", &(AllTools { tools: &tools, own }))?,
                None => fields.optional("tools", Some(&tools))?,
            }
            fields.optional("tool_choice", self.tool_choice())?;
        }
        let name = question.model.rsplit('/').next().unwrap_or(question.model);
        for default in dialect.defaults {
            let is_meant = default.models.iter().any(|model| name.starts_with(model));
            let fits = !default.only_beside_tools || !tools.is_empty() || own.is_some();
            fields.optional(default.field, Some(default.value).filter(|_| is_meant && fits))?;
        }
        fields.optional("temperature", settings.temperature)?;
        fields.optional("top_p", settings.top_p)?;
        fields.optional("top_k", settings.top_k.filter(|_| dialect.top_k))?;
        fields.optional(dialect.max_tokens, settings.max_output_tokens)?;
        fields.optional("stop", Some(&settings.stop_sequences).filter(|stop| !stop.is_empty()))?;
        fields.optional("presence_penalty", settings.presence_penalty)?;
        fields.optional("frequency_penalty", settings.frequency_penalty)?;
        if let Some(seed) = dialect.seed {
            fields.optional(seed, settings.seed)?;
        }
        match &question.output {
            Some(output) => fields.optional("response_format", Some(ResponseFormat::new(question, output)))?,
            None if question.json => {
                fields.optional("response_format", Some(json!({"type": "json_object"})))?;
            }
            None => {}
        }
        fields.optional("stream", Some(question.stream))?;
        fields.optional(
            "stream_options",
            (question.stream && dialect.asks_for_usage).then(|| json!({"include_usage": true})),
        )?;
        fields.end(own.is_some() && !tools.is_empty())
    }
}

impl Body<'_> {
    fn tool_choice(&self) -> Option<Value> {
        let thinks = || self.extra.get("thinking").is_none_or(|thinking| thinking["type"] != "disabled");
        match (&self.question.request.tool_choice, self.dialect.forces) {
            (ToolChoice::None, _) => Some(json!("none")),
            (ToolChoice::Required | ToolChoice::Tool(_), Forces::Thoughtless) if thinks() => None,
            (ToolChoice::Tool(name), Forces::Named | Forces::Thoughtless) => {
                Some(json!({"type": "function", "function": {"name": name}}))
            }
            (ToolChoice::Required | ToolChoice::Tool(_), _) => Some(json!(self.dialect.required)),
            // What the server does anyway.
            _ => None,
        }
    }
}

struct AllTools<'a> {
    tools: &'a [WireTool<'a>],
    own: &'a [Value],
}

impl Serialize for AllTools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.tools.len() + self.own.len()))?;
        for tool in self.tools {
            list.serialize_element(tool)?;
        }
        for tool in self.own {
            list.serialize_element(tool)?;
        }
        list.end()
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

    fn end(mut self, has_tools: bool) -> std::result::Result<M::Ok, M::Error> {
        let written = |name: &str| has_tools && name == "tools";
        for (name, value) in self.extra.iter().filter(|(name, value)| !value.is_null() && !written(name)) {
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
    /// Not said where it is not so: most servers do not know the word.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> WireTool<'a> {
    fn new(tool: &'a ModelTool, fitted: &'a Fitted) -> Self {
        let (parameters, strict) = (&fitted.schema, fitted.strict.then_some(true));
        let function = WireFunction { name: &tool.name, description: &tool.description, parameters, strict };
        Self { r#type: "function", function }
    }
}

#[derive(serde::Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: JsonSchema<'a>,
}

#[derive(serde::Serialize)]
struct JsonSchema<'a> {
    name: &'a str,
    schema: &'a RawJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> ResponseFormat<'a> {
    fn new(question: &'a Question<'_>, output: &'a Fitted) -> Self {
        let (name, schema, strict) = (question.output_name(), &output.schema, output.strict.then_some(true));
        Self { r#type: "json_schema", json_schema: JsonSchema { name, schema, strict } }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_details: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<&'a Value>,
}

#[derive(serde::Serialize)]
struct WireCall<'a> {
    id: String,
    r#type: &'static str,
    function: CalledFunction<'a>,
    /// What else the provider wants back with it.
    #[serde(flatten)]
    own: Option<&'a Map<String, Value>>,
}

#[derive(serde::Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    /// What the model wrote, valid or not: it must see its own words to correct them.
    arguments: &'a str,
}

impl<'a> WireMessage<'a> {
    fn new(role: &'static str, content: Option<Content<'a>>) -> Self {
        Self {
            role,
            content,
            tool_calls: Vec::new(),
            tool_call_id: None,
            reasoning_content: None,
            reasoning: None,
            reasoning_details: None,
            refusal: None,
            audio: None,
            extra_content: None,
            thought_signature: None,
        }
    }
}

fn messages<'a>(dialect: &Dialect, question: &'a Question<'_>) -> Vec<WireMessage<'a>> {
    let mut writer = Writer {
        name: question.name,
        model: question.model,
        thoughts: dialect.thoughts,
        says_nothing: dialect.says_nothing,
        user_after_tool: dialect.user_after_tool,
        media: dialect.media,
        messages: Vec::new(),
        ids: WireIds::new(dialect.ids),
        attachments: Vec::new(),
    };
    for message in question.messages() {
        match message.role {
            Role::System => writer.system(message),
            Role::Assistant => writer.assistant(message),
            _ => writer.user(message),
        }
    }
    writer.show_attachments();
    writer.messages
}

struct Writer<'a> {
    name: &'a str,
    model: &'a str,
    thoughts: Thoughts,
    says_nothing: bool,
    user_after_tool: bool,
    media: Media,
    messages: Vec<WireMessage<'a>>,
    ids: WireIds<'a>,
    /// Images and files of tool results, which the API takes from a user only. They wait until the last result of a turn is
    /// written, since nothing may stand between a call and its results.
    attachments: Vec<WirePart<'a>>,
}

impl<'a> Writer<'a> {
    /// Instructions. Those at the beginning are one message: the templates of many models refuse a second.
    fn system(&mut self, message: &'a Message) {
        self.show_attachments();
        let text = text_of(message);
        if text.is_empty() {
            return;
        }
        match self.messages.as_mut_slice() {
            [WireMessage { role: "system", content: Some(Content::Text(before)), .. }] => {
                before.to_mut().push_str("\n\n");
                before.to_mut().push_str(&text);
            }
            _ => self.messages.push(WireMessage::new("system", Some(Content::Text(text)))),
        }
    }

    fn assistant(&mut self, message: &'a Message) {
        self.show_attachments();
        let own = !is_foreign(message, self.name);
        let tool_calls: Vec<WireCall<'a>> = message
            .tool_calls()
            .map(|call| WireCall {
                id: self.ids.of_call(call, !own),
                r#type: "function",
                function: CalledFunction { name: &call.name, arguments: &call.arguments },
                own: call.provider.get(self.name).filter(|_| own).and_then(Value::as_object),
            })
            .collect();
        let mut wire = WireMessage { tool_calls, ..WireMessage::new("assistant", None) };
        let text = text_of(message);
        if own {
            self.own_words(message, &mut wire);
        }
        if wire.content.is_none() && wire.refusal.is_none_or(|refusal| *refusal != *text) {
            wire.content = Some(text).filter(|text| !text.is_empty()).map(Content::Text);
        }
        let thinks = wire.reasoning_content.is_some() || wire.reasoning.is_some() || wire.reasoning_details.is_some();
        if self.thoughts == Thoughts::AlwaysReasoningContent {
            wire.reasoning_content.get_or_insert_default();
        }
        if !self.says_nothing && wire.content.is_none() && !wire.tool_calls.is_empty() {
            wire.content = Some(Content::Text("".into()));
        }
        // A thought that ran out of tokens before it said anything.
        if thinks && wire.content.is_none() && wire.tool_calls.is_empty() {
            wire.content = Some(Content::Text("".into()));
        }
        let silent = wire.content.is_none() && wire.refusal.is_none() && wire.audio.is_none();
        if !silent || !wire.tool_calls.is_empty() {
            self.messages.push(wire);
        }
    }

    /// What this provider said in words of its own, as it takes them back.
    fn own_words(&self, message: &'a Message, wire: &mut WireMessage<'a>) {
        if let Some(facts) = message.metadata.get(self.name) {
            wire.refusal = Some(&facts["refusal"]).filter(|refusal| refusal.is_string());
            wire.audio = facts["audio"]["id"].as_str().map(|id| json!({"id": id}));
            wire.extra_content = facts.get("extra_content");
            wire.thought_signature = facts.get("thought_signature");
            if self.thoughts == Thoughts::AsTheyCame || self.thoughts == Thoughts::Details && self.is_theirs(facts) {
                wire.reasoning_details = Some(&facts["reasoning_details"]).filter(|details| details.is_array());
            }
        }
        let thought: String = message
            .parts
            .iter()
            .filter_map(|part| if let Part::Reasoning(reasoning) = part { Some(reasoning.text.as_str()) } else { None })
            .collect();
        let thought = Some(thought).filter(|thought| !thought.is_empty());
        let came_as = message.metadata.get(self.name).and_then(|facts| facts["reasoning_field"].as_str());
        match self.thoughts {
            Thoughts::Kept => {}
            Thoughts::AsTheyCame if came_as == Some("reasoning") => wire.reasoning = thought,
            Thoughts::AsTheyCame if came_as == Some("reasoning_content") => wire.reasoning_content = thought,
            Thoughts::AsTheyCame => {}
            Thoughts::ReasoningContent | Thoughts::AlwaysReasoningContent => wire.reasoning_content = thought,
            Thoughts::Reasoning | Thoughts::Details => {
                let theirs = message.metadata.get(self.name).is_none_or(|facts| self.is_theirs(facts));
                wire.reasoning = thought.filter(|_| theirs);
            }
            Thoughts::Parts => {
                let special = |part: &Part| matches!(part, Part::Reasoning(_) | Part::Provider { .. });
                if message.parts.iter().any(special) {
                    let parts: Vec<_> =
                        message.parts.iter().filter_map(|part| WirePart::own(part, self.name)).collect();
                    wire.content = Some(parts).filter(|parts| !parts.is_empty()).map(Content::Parts);
                }
            }
        }
    }

    /// Whether thoughts of an answer are readable to the model that is asked now.
    fn is_theirs(&self, facts: &Value) -> bool {
        let Some(writer) = facts["model"].as_str() else { return true };
        let vendor = |model: &'a str| model.split_once('/').map(|(vendor, _)| vendor);
        match (self.thoughts, vendor(self.model)) {
            (Thoughts::Reasoning, _) => writer == self.model,
            // Whoever asks for any model may be answered by the same.
            (_, None | Some("openrouter")) => true,
            (_, Some(asked)) => writer.strip_prefix(asked).is_some_and(|rest| rest.starts_with('/')),
        }
    }

    fn user(&mut self, message: &'a Message) {
        let mut parts = Vec::new();
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, &mut parts),
                Part::Provider { provider, data, attached } if provider == self.name => match (attached, data) {
                    (false, Value::Object(object)) => parts.push(WirePart::Own(object)),
                    (true, Value::Object(fields)) => match parts.pop() {
                        Some(WirePart::Known(part)) => parts.push(WirePart::With(part, fields)),
                        other => parts.extend(other),
                    },
                    _ => {}
                },
                other => parts.extend(WirePart::new(other, self.media)),
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
        let attachments: Vec<_> = result.content.iter().filter_map(|part| WirePart::new(part, self.media)).collect();
        if !attachments.is_empty() {
            self.attachments.push(WirePart::text(format!("Content of the result of the tool {}:", result.name)));
            self.attachments.extend(attachments);
        }
    }

    fn show_attachments(&mut self) {
        let parts = std::mem::take(&mut self.attachments);
        if parts.is_empty() {
            return;
        }
        if !self.user_after_tool && self.messages.last().is_some_and(|last| last.role == "tool") {
            self.messages.push(WireMessage::new("assistant", Some(Content::Text("(The results are shown.)".into()))));
        }
        self.messages.push(WireMessage::new("user", Some(Content::Parts(parts))));
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
