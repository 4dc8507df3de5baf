//! What the wires have in common: each writes a request in the provider's words, and folds the provider's answer into chunks.

use std::collections::VecDeque;
use std::fmt::Debug;

use lomusai_core::{Error, Result};
use lomusai_wire::{ModelChunk, ModelRequest, codes};
use serde_json::{Map, Value};

/// A protocol of a provider, as one provider speaks it. It does no I/O.
pub(crate) trait Wire: Debug + Send + Sync {
    /// A request in the provider's words. `name` is the provider's, `stream` whether the answer is to come in pieces.
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post>;

    /// What understands one answer.
    fn fold(&self, name: &'static str) -> Box<dyn Fold>;
}

/// What is to be posted.
pub(crate) struct Post {
    /// Segments of the path behind the base URL.
    pub(crate) path: Vec<String>,
    /// A query beside the base URL's own.
    pub(crate) query: &'static [(&'static str, &'static str)],
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

    /// Ends the answer: `stream_truncated` where it is not complete.
    fn end(&mut self, chunks: &mut VecDeque<ModelChunk>) -> Result<()>;

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
