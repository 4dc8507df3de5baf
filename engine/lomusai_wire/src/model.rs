//! What providers, tools and functions are asked and what they answer.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Message, ModelSettings, OutputSpec, Part, RawJson, ToolChoice, Usage};

/// A tool as a model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ModelTool {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: RawJson,
}

impl ModelTool {
    /// A tool as a model sees it.
    pub fn new(name: impl Into<String>, description: impl Into<String>, input_schema: RawJson) -> Self {
        Self { name: name.into(), description: description.into(), input_schema }
    }
}

/// A question to a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelRequest {
    /// The model's name at the provider; empty for the provider's own default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The conversation. Always valid: every tool call has its result, in order.
    pub messages: Vec<Arc<Message>>,
    /// The tools the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ModelTool>,
    /// Whether and which tool it must call.
    pub tool_choice: ToolChoice,
    /// Settings.
    pub settings: ModelSettings,
    /// The shape of the final answer, for providers that can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSpec>,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// It was done.
    #[default]
    Stop,
    /// It ran out of tokens.
    Length,
    /// It wants tools called.
    ToolCalls,
    /// A filter stopped it.
    ContentFilter,
    /// It has not ended: the provider wants to be asked to go on with the same answer.
    Paused,
    /// Something else, which this version has no name for.
    #[serde(other)]
    Other,
}

/// A piece of a model's streamed answer, tagged by `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelChunk {
    /// More text.
    Text {
        /// The text.
        text: String,
    },
    /// More reasoning.
    Reasoning {
        /// The text.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
        /// The provider's proof over the reasoning so far; ends the reasoning part.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// Encrypted reasoning: ends the reasoning part that is open, or is a part of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encrypted: Option<String>,
    },
    /// A whole tool call.
    ToolCall {
        /// The tool's name.
        name: String,
        /// The arguments: an object, or the raw text of one.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        arguments: Value,
        /// The provider's id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// A signature the provider wants back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    /// A piece of a tool call. The first of an `index` opens it; `name` and `id` may come with any.
    ToolCallDelta {
        /// Which call of the message.
        index: u32,
        /// The tool's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The provider's id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// More of the arguments' text.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        arguments: String,
    },
    /// A whole part of any other kind.
    Part {
        /// The part.
        part: Part,
    },
    /// Fields that the provider wants back with the last part, which ends there, or with a call. Kept with the reasoning or the call itself, and
    /// for any other part in a `provider` part after it.
    Fields {
        /// The call of this index; absent for the last part.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<u32>,
        /// The provider's name.
        provider: String,
        /// The fields, added to those before.
        fields: Map<String, Value>,
    },
    /// Facts about the whole answer, kept in the message's metadata.
    Metadata {
        /// The key, by convention the provider's name.
        key: String,
        /// The value.
        value: Value,
    },
    /// Tokens used: the totals of this answer so far, not an increment.
    Usage {
        /// The totals.
        usage: Usage,
    },
    /// The answer is complete. Must be the last chunk; a stream that ends without it was cut off.
    Finish {
        /// Why it stopped. Default `tool_calls` where there are any, else `stop`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<FinishReason>,
    },
}

impl ModelChunk {
    /// More text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// What a tool answers, as JSON: `{"output": …}`, `{"output": …, "content": [parts]}` or `{"suspend": payload}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ToolReply {
    /// It waits for a `resume` command.
    Suspend {
        /// What the person who resumes it should know.
        suspend: Value,
    },
    /// It is done.
    Output {
        /// The result.
        output: Value,
        /// Images and files beside it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        content: Vec<Part>,
    },
}

impl From<Value> for ToolReply {
    fn from(output: Value) -> Self {
        Self::Output { output, content: Vec::new() }
    }
}

/// What a processor, hook or rule answers: any JSON. See [`Processors`](crate::Processors) and [`Hooks`](crate::Hooks).
pub type FunctionReply = Value;
