//! Messages and their parts. Nothing a provider sends is lost: unknown parts and opaque fields round-trip.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{CallId, MessageId};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Instructions.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// Results of tool calls.
    Tool,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Message {
    /// Unique within the conversation. Assigned by the engine when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// What is said, in order. A plain string is read as one text part.
    #[serde(deserialize_with = "parts_or_text", alias = "content")]
    pub parts: Vec<Part>,
    /// Facts about the message that are not for the model; a provider's opaque fields are kept under its name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

impl Message {
    /// A message of these parts.
    pub fn new(role: Role, parts: Vec<Part>) -> Self {
        Self { id: None, role, parts, metadata: Map::new() }
    }

    /// What a user says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, vec![Part::text(text)])
    }

    /// What a model says.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, vec![Part::text(text)])
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, vec![Part::text(text)])
    }

    /// The text parts, joined.
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Part::as_text).collect()
    }

    /// The tool calls, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| if let Part::ToolCall(call) = part { Some(call) } else { None })
    }

    /// The tool results, in order.
    pub fn tool_results(&self) -> impl Iterator<Item = &ToolResult> {
        self.parts.iter().filter_map(|part| if let Part::ToolResult(result) = part { Some(result) } else { None })
    }
}

/// By hand, since an untagged enum would hide what is wrong with a part.
fn parts_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Part>, D::Error> {
    struct PartsOrText;

    impl<'de> Visitor<'de> for PartsOrText {
        type Value = Vec<Part>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of parts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<Part>, E> {
            Ok(vec![Part::text(text)])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Vec<Part>, A::Error> {
            Deserialize::deserialize(SeqAccessDeserializer::new(items))
        }
    }

    deserializer.deserialize_any(PartsOrText)
}

/// Where the bytes of an image or a file are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// At an address the provider can fetch.
    Url(String),
    /// Here, in base64.
    Data(String),
    /// With the provider, under its own id.
    Reference(String),
}

/// What a model thought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Reasoning {
    /// The readable part; empty when the provider hides it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The provider's proof, to be sent back unchanged and next to what it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Encrypted or redacted reasoning, to be sent back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<String>,
    /// Further fields that the provider wants back with it, unchanged, under the provider's name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub provider: Map<String, Value>,
}

/// A model's wish to call a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ToolCall {
    /// The engine's own id.
    pub call_id: CallId,
    /// The tool's name, as the model wrote it.
    pub name: String,
    /// The arguments, as the model wrote them: raw text, which may not even be JSON.
    pub arguments: String,
    /// The provider's id, where it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// A signature the provider wants back with the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Further fields that the provider wants back with it, unchanged, under the provider's name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub provider: Map<String, Value>,
}

impl ToolCall {
    /// A call without provider fields.
    pub fn new(call_id: impl Into<CallId>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self {
            call_id: call_id.into(),
            name: name.into(),
            arguments: arguments.into(),
            provider_id: None,
            signature: None,
            provider: Map::new(),
        }
    }
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolStatus {
    /// With a result.
    #[default]
    Ok,
    /// With an error that the model is told.
    Error,
    /// Not at all: a person or a rule said no.
    Denied,
    /// Not at all: the run was cancelled.
    Cancelled,
}

impl ToolStatus {
    fn is_ok(&self) -> bool {
        *self == Self::Ok
    }
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ToolResult {
    /// The call this answers.
    pub call_id: CallId,
    /// The tool's name.
    pub name: String,
    /// How it ended.
    #[serde(default, skip_serializing_if = "ToolStatus::is_ok")]
    pub status: ToolStatus,
    /// The result, or what the model is told of the failure. Text goes to the model as it is, anything else as JSON.
    pub output: Value,
    /// Images and files that came with the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<Part>,
}

impl ToolResult {
    /// A result of the given status.
    pub fn new(call: &ToolCall, status: ToolStatus, output: Value) -> Self {
        Self { call_id: call.call_id.clone(), name: call.name.clone(), status, output, content: Vec::new() }
    }

    /// The result as the model reads it.
    pub fn to_text(&self) -> String {
        match &self.output {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A piece of a message, tagged by `type`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// `text`: plain text.
    Text(String),
    /// `image`: a picture and its media type.
    Image {
        /// Where the bytes are.
        source: Source,
        /// For example `image/png`.
        media_type: Option<String>,
    },
    /// `file`: a document, sound or other file.
    File {
        /// Where the bytes are.
        source: Source,
        /// For example `application/pdf`.
        media_type: Option<String>,
        /// The file's name.
        name: Option<String>,
    },
    /// `reasoning`: what the model thought, with the provider's opaque signature.
    Reasoning(Reasoning),
    /// `tool_call`: a wish to call a tool.
    ToolCall(ToolCall),
    /// `tool_result`: what the call came to.
    ToolResult(ToolResult),
    /// `data`: a named value for the host, not for the model.
    Data {
        /// What it is.
        name: String,
        /// The value.
        data: Value,
    },
    /// `provider`: what one provider says and only it understands. It goes back to that provider unchanged and in this place; other
    /// providers are not told.
    Provider {
        /// The provider's name.
        provider: String,
        /// Its own words.
        data: Value,
        /// Whether `data` is no piece of its own but fields of the part before it: of a text, or of what a user sends.
        attached: bool,
    },
    /// Anything else, kept as it came: the whole object, its `type` included.
    Unknown(Map<String, Value>),
}

/// A piece of a message, tagged by `type`. A part of any other type is kept as it came.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WirePart {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// Where the bytes are.
        source: Source,
        /// For example `image/png`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
    /// A document, sound or other file.
    File {
        /// Where the bytes are.
        source: Source,
        /// For example `application/pdf`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
        /// The file's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// What the model thought.
    Reasoning(Reasoning),
    /// A wish to call a tool.
    ToolCall(ToolCall),
    /// What the call came to.
    ToolResult(ToolResult),
    /// A named value for the host, not for the model.
    Data {
        /// What it is.
        name: String,
        /// The value.
        data: Value,
    },
    /// What one provider says and only it understands: goes back to it unchanged and in this place.
    Provider {
        /// The provider's name.
        provider: String,
        /// Its own words.
        data: Value,
        /// Whether `data` is no piece of its own but fields of the part before it.
        #[serde(default, skip_serializing_if = "is_false")]
        attached: bool,
    },
}

fn is_false(flag: &bool) -> bool {
    !flag
}

const KNOWN_PARTS: [&str; 8] = ["text", "image", "file", "reasoning", "tool_call", "tool_result", "data", "provider"];

impl Part {
    /// A text part.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text, if this is a text part.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The `type` tag.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Text(_) => "text",
            Self::Image { .. } => "image",
            Self::File { .. } => "file",
            Self::Reasoning(_) => "reasoning",
            Self::ToolCall(_) => "tool_call",
            Self::ToolResult(_) => "tool_result",
            Self::Data { .. } => "data",
            Self::Provider { .. } => "provider",
            Self::Unknown(object) => object.get("type").and_then(Value::as_str).unwrap_or("unknown"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// The same shape as [`WirePart`], borrowed, so that a large part is not copied to be written.
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Borrowed<'a> {
            Text {
                text: &'a str,
            },
            Image {
                source: &'a Source,
                #[serde(skip_serializing_if = "Option::is_none")]
                media_type: &'a Option<String>,
            },
            File {
                source: &'a Source,
                #[serde(skip_serializing_if = "Option::is_none")]
                media_type: &'a Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")]
                name: &'a Option<String>,
            },
            Reasoning(&'a Reasoning),
            ToolCall(&'a ToolCall),
            ToolResult(&'a ToolResult),
            Data {
                name: &'a str,
                data: &'a Value,
            },
            Provider {
                provider: &'a str,
                data: &'a Value,
                #[serde(skip_serializing_if = "is_false")]
                attached: bool,
            },
        }
        match self {
            Self::Text(text) => Borrowed::Text { text },
            Self::Image { source, media_type } => Borrowed::Image { source, media_type },
            Self::File { source, media_type, name } => Borrowed::File { source, media_type, name },
            Self::Reasoning(reasoning) => Borrowed::Reasoning(reasoning),
            Self::ToolCall(call) => Borrowed::ToolCall(call),
            Self::ToolResult(result) => Borrowed::ToolResult(result),
            Self::Data { name, data } => Borrowed::Data { name, data },
            Self::Provider { provider, data, attached } => Borrowed::Provider { provider, data, attached: *attached },
            Self::Unknown(object) => return object.serialize(serializer),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let object = Map::deserialize(deserializer)?;
        let tag = object.get("type").and_then(Value::as_str).ok_or_else(|| D::Error::missing_field("type"))?;
        if !KNOWN_PARTS.contains(&tag) {
            return Ok(Self::Unknown(object));
        }
        let part = WirePart::deserialize(Value::Object(object)).map_err(D::Error::custom)?;
        Ok(match part {
            WirePart::Text { text } => Self::Text(text),
            WirePart::Image { source, media_type } => Self::Image { source, media_type },
            WirePart::File { source, media_type, name } => Self::File { source, media_type, name },
            WirePart::Reasoning(reasoning) => Self::Reasoning(reasoning),
            WirePart::ToolCall(call) => Self::ToolCall(call),
            WirePart::ToolResult(result) => Self::ToolResult(result),
            WirePart::Data { name, data } => Self::Data { name, data },
            WirePart::Provider { provider, data, attached } => Self::Provider { provider, data, attached },
        })
    }
}

impl JsonSchema for Part {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Part".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WirePart::json_schema(generator)
    }
}
