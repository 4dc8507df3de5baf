//! The one error type. It carries a stable code for programs, a message for people, and the host's own error object for the host.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use lomusai_wire::{Code, ErrorBody, Kind};
use serde_json::Value;

/// What every fallible function here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The host's own error object (a Python exception, a JavaScript error), carried through the engine unseen.
pub type HostError = Arc<dyn Any + Send + Sync>;

/// An error of the engine. One pointer wide.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    body: ErrorBody,
    host: Option<HostError>,
}

impl Error {
    /// An error of this code. The message names the thing and the way out.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        ErrorBody::new(code, message).into()
    }

    /// The same error, with a thing named in its message also as a detail.
    pub fn with(self, what: &str, value: impl Into<Value>) -> Self {
        self.change(|inner| {
            inner.body.details.insert(what.into(), value.into());
        })
    }

    /// The same error, carrying the host's own.
    pub fn with_host(self, host: HostError) -> Self {
        self.change(|inner| inner.host = Some(host))
    }

    /// The same error, with the host's words for it.
    pub fn with_host_words(self, words: Value) -> Self {
        self.change(|inner| inner.body.host = Some(words))
    }

    /// The same error, to be retried after this many milliseconds.
    pub fn with_retry_after_ms(self, ms: u64) -> Self {
        self.change(|inner| inner.body.retry_after_ms = Some(ms))
    }

    fn change(mut self, f: impl FnOnce(&mut Inner)) -> Self {
        f(Arc::make_mut(&mut self.0));
        self
    }

    /// The error as it crosses borders.
    pub fn body(&self) -> &ErrorBody {
        &self.0.body
    }

    /// The host's own error object.
    pub fn host(&self) -> Option<&HostError> {
        self.0.host.as_ref()
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.0.body.kind
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.0.body.code
    }

    /// Whether this is an error of that code.
    pub fn is(&self, code: Code) -> bool {
        self.code() == code.name
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.body.retryable
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        Self(Arc::new(Inner { body, host: None }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.body.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.body, f)
    }
}

impl std::error::Error for Error {}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.0.body == other.0.body
    }
}
