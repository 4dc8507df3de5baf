//! What the wires have in common: each writes a request in the provider's words, and folds the provider's answer into chunks.

use std::collections::VecDeque;
use std::fmt::Debug;

use lomusai_core::llm::truncated;
use lomusai_core::{Error, Result};
use lomusai_wire::{Message, ModelChunk, ModelRequest, codes};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::http::failure::{self, nonsense};
use crate::kinds::KINDS;
use crate::question::{Question, Schemas};

/// A protocol of a provider, as one provider speaks it. It does no I/O.
pub(crate) trait Wire: Debug + Send + Sync {
    /// How it takes schemas when it is asked for this model.
    fn schemas(&'static self, model: &str) -> &'static Schemas;

    /// A question in the provider's words.
    fn post(&self, question: &Question<'_>) -> Result<Post>;

    /// What understands one answer.
    fn fold(&self, name: &'static str) -> Box<dyn Fold>;
}

/// What is to be posted.
pub(crate) struct Post {
    /// Segments of the path behind the base URL.
    pub(crate) path: Vec<String>,
    /// A query beside the base URL's own.
    pub(crate) query: &'static [(&'static str, &'static str)],
    /// Headers that this request needs, added to what the endpoint sends under the same names.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The JSON.
    pub(crate) body: Vec<u8>,
}

/// An event of a stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Event<'a> {
    /// Its kind, where the framing names one; else empty.
    pub(crate) name: &'a str,
    /// What it says.
    pub(crate) data: &'a str,
}

/// The state of one answer that is being read.
pub(crate) trait Fold: Send {
    /// Takes one event.
    fn event(&mut self, event: Event<'_>, chunks: &mut VecDeque<ModelChunk>) -> Result<()>;

    /// Takes an answer that came as one JSON body.
    fn body(&mut self, body: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()>;

    /// Tells the finish, and what was kept back for it.
    fn finish(&mut self, chunks: &mut VecDeque<ModelChunk>);

    /// Ends the answer: `stream_truncated` where it is not complete.
    fn end(&mut self, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        if !self.has_finish() {
            return Err(truncated());
        }
        self.finish(chunks);
        Ok(())
    }

    /// Whether the model has said why it stopped: only its usage may still come.
    fn has_finish(&self) -> bool;

    /// Whether the finish has been told.
    fn is_done(&self) -> bool;

    /// Whether a stream is a sequence of JSON objects, rather than of events.
    fn is_of_objects(&self) -> bool {
        false
    }
}

/// What the host adds to the request in the provider's own words: `settings.provider.<name>`.
pub(crate) fn extra<'a>(request: &'a ModelRequest, name: &str) -> Result<Option<&'a Map<String, Value>>> {
    match request.settings.provider.get(name) {
        None => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields)),
        Some(_) => {
            let message = format!("settings.provider.{name} must be an object of request fields");
            Err(Error::new(codes::ARGUMENT_INVALID, message))
        }
    }
}

/// Whether another provider made this message: its signatures and ids mean nothing here.
pub(crate) fn is_foreign(message: &Message, name: &str) -> bool {
    !message.metadata.contains_key(name) && KINDS.iter().any(|kind| message.metadata.contains_key(kind.name))
}

/// A body that came whole, or an event.
///
/// # Errors
/// `stream_truncated` where it was cut off, `provider_response_invalid` where it is something else.
pub(crate) fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        // A cut within a number is not always seen as one.
        let cut = error.is_eof() || !text.trim_end().ends_with(['}', ']']);
        if cut { truncated() } else { nonsense(&error.to_string(), text) }
    })
}

/// An event of a stream, which the framing has shown to be whole.
pub(crate) fn event<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| nonsense(&error.to_string(), text))
}

/// What a body complains of; where it does not, that it makes no sense.
pub(crate) fn complaint_of(text: &str) -> Error {
    match serde_json::from_str(text).ok().as_ref().and_then(crate::http::complaint::complaint) {
        Some(complaint) => failure::in_stream(complaint),
        None => nonsense("neither an answer nor an error", text),
    }
}

/// A count of tokens, capped, so that a nonsensical one cannot overflow a sum.
pub(crate) fn count(counts: &Value, pointer: &str) -> Option<u64> {
    counts.pointer(pointer).and_then(Value::as_u64).map(|count| count.min(1 << 50))
}

/// Facts about an answer, for the message's metadata. They are told as soon as they are known, so that an answer that is cut off has them.
#[derive(Default)]
pub(crate) struct Facts {
    name: &'static str,
    map: Map<String, Value>,
    changed: bool,
}

impl Facts {
    /// Facts that this provider tells.
    pub(crate) fn of(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// The provider.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Keeps a fact, where it is one.
    pub(crate) fn keep(&mut self, field: &str, value: Option<Value>) {
        if let Some(value) = value.filter(|value| !value.is_null() && self.map.get(field) != Some(value)) {
            self.map.insert(field.to_owned(), value);
            self.changed = true;
        }
    }

    /// A fact that was kept.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field)
    }

    /// Tells what is new.
    pub(crate) fn tell(&mut self, chunks: &mut VecDeque<ModelChunk>) {
        if std::mem::take(&mut self.changed) {
            chunks.push_back(ModelChunk::Metadata { key: self.name.into(), value: self.map.clone().into() });
        }
    }
}
