//! A model that answers from JSON.

use std::sync::Arc;

use lomusai_wire::{ErrorBody, ModelChunk, ModelRequest, Usage, codes};
use serde::Deserialize;
use serde_json::Value;

use crate::component::CallContext;
use crate::llm::{LlmProvider, ModelStream};
use crate::{BoxFuture, Error, Result};

/// Answers from a script: the n-th model call of a run gets the n-th answer. Holds no state, so any number of runs may share it.
///
/// The script is a list, or `{"answers": [...], "repeat": true}` to begin again at its end. An answer is one of
/// - `{"says": "text"}`, streamed word by word, with `"reasons": "text"` before it where given;
/// - `{"calls": [{"name": "add", "arguments": {"a": 1}}]}`, with `"says"` before them where given; arguments may be raw text;
/// - `{"chunks": [...]}`, [`ModelChunk`]s as they are; without a `finish` the stream is cut off;
/// - `{"error": {"code": "provider_failed", "message": "…"}}`, after its chunks where it has any;
/// - `{"asked": "/messages/0"}`, which says what is at this JSON pointer of the [`ModelRequest`]: text as it is, anything else as JSON;
/// - `{"hangs": true}`, which never answers;
/// - `{"attempts": [answer, …]}`, one for each attempt of the call, the last one for all further.
///
/// Each may have `"usage": {"input": 3, "output": 5}`.
pub struct ScriptedModel {
    answers: Vec<Answer>,
    repeat: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    says: Option<String>,
    reasons: Option<String>,
    asked: Option<String>,
    calls: Vec<ScriptedCall>,
    chunks: Option<Vec<ModelChunk>>,
    error: Option<ScriptedError>,
    hangs: bool,
    usage: Option<Usage>,
    attempts: Vec<Answer>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedCall {
    name: String,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    id: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedError {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

impl ScriptedModel {
    /// A model for this script.
    ///
    /// # Errors
    /// `json_invalid` or `argument_invalid`, saying what the script has wrong.
    pub fn from_json(script: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(script)
            .map_err(|e| Error::new(codes::JSON_INVALID, format!("the model's script is not JSON: {e}")))?;
        Self::from_value(value)
    }

    /// A model for this script.
    ///
    /// # Errors
    /// `argument_invalid`, saying what the script has wrong.
    pub fn from_value(script: Value) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Script {
            answers: Vec<Answer>,
            #[serde(default)]
            repeat: bool,
        }
        let script = if script.is_array() { serde_json::json!({ "answers": script }) } else { script };
        let Script { answers, repeat } = serde_json::from_value(script).map_err(|e| {
            Error::new(codes::ARGUMENT_INVALID, format!("the model's script has an unknown shape: {e}"))
        })?;
        Ok(Self { answers, repeat })
    }

    fn answer(&self, context: &CallContext) -> Result<Answer> {
        // The effect's id begins with the step; a provider called outside of a run is at its first.
        let step = context.effect_id.as_str().split('.').next().and_then(|step| step.parse().ok()).unwrap_or(1_usize);
        let place = step.saturating_sub(1);
        let place = if self.repeat && !self.answers.is_empty() { place % self.answers.len() } else { place };
        let mut answer = self.answers.get(place).ok_or_else(|| {
            Error::new(
                codes::SCRIPT_EXHAUSTED,
                format!(
                    "the script has {} answers and was asked for number {step}: add one or set \"repeat\"",
                    self.answers.len()
                ),
            )
        })?;
        if !answer.attempts.is_empty() {
            answer = answer
                .attempts
                .get(context.attempt as usize - 1)
                .unwrap_or(&answer.attempts[answer.attempts.len() - 1]);
        }
        Ok(answer.clone())
    }
}

impl Answer {
    fn into_items(self, request: &ModelRequest) -> Vec<Result<ModelChunk>> {
        let mut items: Vec<Result<ModelChunk>> = Vec::new();
        let whole = self.chunks.is_none() && self.error.is_none();
        if let Some(text) = self.reasons {
            items.push(Ok(ModelChunk::Reasoning { text, signature: None, encrypted: None }));
        }
        items
            .extend(self.says.iter().flat_map(|text| text.split_inclusive(' ')).map(|word| Ok(ModelChunk::text(word))));
        items.extend(self.asked.map(|pointer| {
            let request = serde_json::to_value(request).expect("a request is JSON");
            Ok(ModelChunk::text(match request.pointer(&pointer) {
                Some(Value::String(text)) => text.clone(),
                found => found.unwrap_or(&Value::Null).to_string(),
            }))
        }));
        items.extend(self.calls.into_iter().map(|call| {
            Ok(ModelChunk::ToolCall { name: call.name, arguments: call.arguments, id: call.id, signature: None })
        }));
        items.extend(self.chunks.into_iter().flatten().map(Ok));
        items.extend(self.usage.map(|usage| Ok(ModelChunk::Usage { usage })));
        if let Some(ScriptedError { code, message, retry_after_ms }) = self.error {
            let code = lomusai_wire::Code::from_name(&code).unwrap_or(codes::PROVIDER_FAILED);
            let mut body = ErrorBody::new(code, message);
            body.retry_after_ms = retry_after_ms;
            items.push(Err(body.into()));
        } else if whole {
            items.push(Ok(ModelChunk::Finish { reason: None }));
        }
        items
    }
}

impl LlmProvider for ScriptedModel {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        let answer = self.answer(&context);
        Box::pin(async move {
            let answer = answer?;
            let hangs = answer.hangs;
            let items = futures_util::stream::iter(answer.into_items(&request));
            if hangs {
                use futures_util::StreamExt;
                // What it says before it hangs is said; the end never comes.
                let said = items.filter(|item| std::future::ready(!matches!(item, Ok(ModelChunk::Finish { .. }))));
                return Ok(Box::pin(said.chain(futures_util::stream::pending())) as ModelStream);
            }
            Ok(Box::pin(items) as ModelStream)
        })
    }
}
