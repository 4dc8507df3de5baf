//! The answer as the server writes it. Fields that servers write in more than one way are read as they are and judged later.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// An event of a stream, or a whole body.
#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(default)]
    pub(super) usage: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(default)]
    pub(super) id: Option<Value>,
    #[serde(default)]
    pub(super) model: Option<Value>,
    #[serde(default)]
    pub(super) system_fingerprint: Option<Value>,
    #[serde(default)]
    pub(super) service_tier: Option<Value>,
    /// The server behind a gateway.
    #[serde(default)]
    pub(super) provider: Option<Value>,
    #[serde(default)]
    pub(super) citations: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    pub(super) index: Option<Value>,
    #[serde(default)]
    pub(super) delta: Option<Said>,
    #[serde(default)]
    pub(super) message: Option<Said>,
    #[serde(default)]
    pub(super) finish_reason: Option<Value>,
}

/// What the model said: all of it, or some more.
#[derive(Default, Deserialize)]
pub(super) struct Said {
    /// A text, or a list of parts.
    #[serde(default)]
    pub(super) content: Option<Value>,
    #[serde(default)]
    pub(super) reasoning_content: Option<Value>,
    #[serde(default)]
    pub(super) reasoning: Option<Value>,
    #[serde(default)]
    pub(super) refusal: Option<Value>,
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<CallDelta>>,
    /// The form before `tool_calls`, still spoken by old servers.
    #[serde(default)]
    pub(super) function_call: Option<FunctionDelta>,
    #[serde(default)]
    pub(super) annotations: Option<Value>,
    /// Thoughts with their signatures, as gateways tell them.
    #[serde(default)]
    pub(super) reasoning_details: Option<Value>,
    #[serde(default)]
    pub(super) audio: Option<Value>,
    #[serde(default)]
    pub(super) images: Option<Value>,
    /// Of Gemini behind this API.
    #[serde(default)]
    pub(super) extra_content: Option<Value>,
    #[serde(default)]
    pub(super) thought_signature: Option<Value>,
}

impl Said {
    /// Whether it says anything at all.
    pub(super) fn is_silent(&self) -> bool {
        let silent = |field: &Option<Value>| field.as_ref().is_none_or(|value| value.is_null() || value == "");
        silent(&self.content)
            && silent(&self.reasoning_content)
            && silent(&self.reasoning)
            && silent(&self.refusal)
            && self.tool_calls.as_ref().is_none_or(Vec::is_empty)
            && self.function_call.is_none()
    }
}

#[derive(Default, Deserialize)]
pub(super) struct CallDelta {
    #[serde(default)]
    pub(super) index: Option<Value>,
    #[serde(default)]
    pub(super) id: Option<Value>,
    #[serde(default)]
    pub(super) function: Option<FunctionDelta>,
    /// What the provider wants back with the call.
    #[serde(default)]
    pub(super) extra_content: Option<Value>,
}

#[derive(Default, Deserialize)]
pub(super) struct FunctionDelta {
    #[serde(default)]
    pub(super) name: Option<Value>,
    /// A string by the API, an object by some servers; raw, so that the model's own text is kept.
    #[serde(default)]
    pub(super) arguments: Option<Box<RawValue>>,
}

impl FunctionDelta {
    pub(super) fn arguments(&self) -> String {
        let raw = self.arguments.as_ref().map_or("", |raw| raw.get());
        if raw.starts_with('"') { serde_json::from_str(raw).unwrap_or_default() } else { raw.to_owned() }
    }
}
