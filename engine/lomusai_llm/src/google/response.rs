//! The server's answer: one response, or a stream of responses that each hold what is new.
//!
//! ```text
//! a response with parts         --> text, thoughts, calls; a part that this version has no form for is kept whole
//! a response with finishReason  --> why it stopped; more parts and usage may still come
//! promptFeedback.blockReason    --> the prompt was refused: an empty answer, filtered
//! end                           --> the finish is told
//! error                         --> failed
//! ```

use std::collections::VecDeque;

use lomusai_core::Result;
use lomusai_wire::{FinishReason, ModelChunk, Part, Source, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::partial::PartialCall;
use crate::wire::{Event, Facts, Fold, complaint_of, count, event, parsed};

/// An answer that is being read.
#[derive(Default)]
pub(super) struct Answer {
    facts: Facts,
    /// A call whose arguments come in pieces.
    partial: Option<PartialCall>,
    /// The last part was a text without a signature.
    in_text: bool,
    usage: Usage,
    finish: Option<Option<FinishReason>>,
    done: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default)]
    candidates: Option<Vec<Candidate<'a>>>,
    #[serde(default)]
    usage_metadata: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    prompt_feedback: Option<Value>,
    #[serde(default)]
    model_version: Option<Value>,
    #[serde(default)]
    response_id: Option<Value>,
    #[serde(default)]
    create_time: Option<Value>,
}

#[derive(Deserialize)]
struct Candidate<'a> {
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    parts: Option<Vec<&'a RawValue>>,
}

impl Fold for Answer {
    fn event(&mut self, wire: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let data = wire.data.trim();
        if self.done || data.is_empty() || data == "[DONE]" {
            return Ok(());
        }
        self.response(event(data)?, data, chunks)
    }

    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let text = String::from_utf8_lossy(body);
        self.response(parsed(&text)?, &text, chunks)?;
        // A body that is there to its last brace is a whole answer, said why or not.
        self.finish.get_or_insert_with(Default::default);
        self.finish(chunks);
        Ok(())
    }

    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        self.call_done(chunks);
        self.facts.tell(chunks);
        chunks.push_back(ModelChunk::Finish { reason: self.finish.flatten() });
        self.done = true;
    }

    // More parts may follow the reason, with a signature among them: the answer ends with the stream.
    fn has_finish(&self) -> bool {
        self.finish.is_some()
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn is_of_objects(&self) -> bool {
        true
    }
}

impl Answer {
    pub(super) fn new(name: &'static str) -> Self {
        Self { facts: Facts::of(name), ..Self::default() }
    }

    fn response(&mut self, response: Wire<'_>, text: &str, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let Wire { candidates, usage_metadata, error, prompt_feedback, model_version, response_id, create_time } =
            response;
        if error.is_some_and(|error| !error.is_null()) {
            return Err(complaint_of(text));
        }
        if candidates.is_none() && usage_metadata.is_none() && prompt_feedback.is_none() {
            return Err(complaint_of(text));
        }
        self.facts.keep("model", model_version);
        self.facts.keep("id", response_id);
        self.facts.keep("createTime", create_time);
        if let Some(feedback) = prompt_feedback {
            if feedback["blockReason"].as_str().is_some_and(|reason| !reason.ends_with("_UNSPECIFIED")) {
                self.finish = Some(Some(FinishReason::ContentFilter));
            }
            self.facts.keep("promptFeedback", Some(feedback));
        }
        self.facts.tell(chunks);
        for candidate in candidates.into_iter().flatten() {
            // More than one answer is not asked for; were there more, they would run into each other.
            if candidate.facts.get("index").and_then(Value::as_u64).unwrap_or(0) > 0 {
                continue;
            }
            for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
                self.part(part, chunks)?;
            }
            for (field, value) in candidate.facts {
                if field == "finishReason" {
                    self.finish = value.as_str().map(finish_reason).or(self.finish);
                }
                if field != "index" {
                    self.facts.keep(&field, Some(value));
                }
            }
        }
        if let Some(counts) = usage_metadata {
            let usage = usage(&counts);
            self.facts.keep("usageMetadata", Some(counts));
            if usage != self.usage && !usage.is_empty() {
                self.usage = usage;
                chunks.push_back(ModelChunk::Usage { usage });
            }
        }
        self.facts.tell(chunks);
        Ok(())
    }

    fn part(&mut self, raw: &RawValue, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        let mut part: Map<String, Value> = event(raw.get())?;
        // A part is known by the fields that it has.
        part.retain(|_, value| !value.is_null());
        let in_text = std::mem::take(&mut self.in_text);
        let signature = match part.get("thoughtSignature") {
            Some(Value::String(signature)) => Some(signature.clone()),
            _ => None,
        };
        let thought = part.get("thought") == Some(&Value::Bool(true));
        match (part.get("text"), part.get("functionCall"), part.get("inlineData")) {
            (Some(Value::String(text)), None, None) if thought => {
                chunks.push_back(ModelChunk::Reasoning { text: text.clone(), signature, encrypted: None });
                part.retain(|field, _| !matches!(field.as_str(), "text" | "thought" | "thoughtSignature"));
                if !part.is_empty() {
                    self.attach(part, chunks);
                }
            }
            (Some(Value::String(text)), None, None) if !text.is_empty() => {
                // A text that is signed is not mixed with one that is not.
                if in_text && signature.is_some() {
                    self.attach(Map::new(), chunks);
                }
                chunks.push_back(ModelChunk::Text { text: text.clone() });
                part.remove("text");
                part.remove("thought");
                self.in_text = part.is_empty();
                if !part.is_empty() {
                    self.attach(part, chunks);
                }
            }
            // An empty text says nothing, unless it is signed.
            (Some(Value::String(_)), None, None) if signature.is_none() => self.in_text = in_text,
            (None, Some(Value::Object(call)), None) => {
                let pieces = call.get("partialArgs").and_then(Value::as_array);
                let name = call.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                let id = call.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
                let goes_on = call.get("willContinue") == Some(&Value::Bool(true));
                if self.partial.is_some() && name.is_empty() || goes_on || pieces.is_some() {
                    let partial = self.partial.get_or_insert_with(|| PartialCall::new(name, id, signature));
                    for piece in pieces.into_iter().flatten() {
                        partial.push(piece);
                    }
                    if !goes_on {
                        self.call_done(chunks);
                    }
                } else {
                    let arguments = Value::String(args(raw));
                    chunks.push_back(ModelChunk::ToolCall { name, arguments, id, signature });
                    // What else it says of the call goes back with it.
                    part.remove("thoughtSignature");
                    if let Some(Value::Object(call)) = part.get_mut("functionCall") {
                        call.retain(|field, value| {
                            !matches!(field.as_str(), "id" | "name" | "args") && !value.is_null()
                        });
                        if call.is_empty() {
                            part.remove("functionCall");
                        }
                    }
                    if !part.is_empty() {
                        self.attach(part, chunks);
                    }
                }
            }
            (None, None, Some(Value::Object(data))) if is_image(data) => {
                let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
                let image = Part::Image { source: Source::Data(text("data")), media_type: Some(text("mimeType")) };
                chunks.push_back(ModelChunk::Part { part: image });
                part.remove("inlineData");
                if !part.is_empty() {
                    self.attach(part, chunks);
                }
            }
            _ => {
                let part = Part::Provider { provider: self.facts.name().into(), data: part.into(), attached: false };
                chunks.push_back(ModelChunk::Part { part });
            }
        }
        Ok(())
    }

    fn attach(&self, fields: Map<String, Value>, chunks: &mut VecDeque<ModelChunk>) {
        chunks.push_back(ModelChunk::Fields { index: None, provider: self.facts.name().into(), fields });
    }

    fn call_done(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if let Some(call) = self.partial.take() {
            let arguments = Value::String(call.arguments());
            let PartialCall { name, id, signature, .. } = call;
            chunks.push_back(ModelChunk::ToolCall { name, arguments, id, signature });
        }
    }
}

fn is_image(data: &Map<String, Value>) -> bool {
    data.len() == 2 && data.get("mimeType").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("image/"))
}

/// The arguments of a call as the server wrote them.
fn args(part: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Call<'a> {
        #[serde(borrow, default)]
        args: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow, rename = "functionCall")]
        function_call: Call<'a>,
    }
    let args = serde_json::from_str::<Wire<'_>>(part.get()).ok().and_then(|part| part.function_call.args);
    args.map_or_else(|| "{}".to_owned(), |args| args.get().to_owned())
}

/// Calls end with `STOP`, too: which it is, the parts say.
fn finish_reason(reason: &str) -> Option<FinishReason> {
    match reason {
        "STOP" => None,
        // The second where more would come if it were asked for.
        "MAX_TOKENS" | "CONTINUATION" => Some(FinishReason::Length),
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR"
        | "ESCALATION" => Some(FinishReason::ContentFilter),
        _ => Some(FinishReason::Other),
    }
}

fn usage(counts: &Value) -> Usage {
    let of = |pointer: &str| count(counts, pointer).unwrap_or(0);
    let mut usage = Usage::default();
    let prompt = of("/promptTokenCount");
    usage.cache_read = of("/cachedContentTokenCount").min(prompt);
    // What the provider's own tools put before the model is counted beside the prompt.
    usage.input = prompt - usage.cache_read + of("/toolUsePromptTokenCount");
    usage.reasoning = of("/thoughtsTokenCount");
    usage.output = of("/candidatesTokenCount");
    usage
}
