//! Errors as they cross borders. Codes are stable and the same in every language; they come from `tables/errors.toml`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub mod codes;

pub use codes::Kind;

/// A stable error code with what a caller needs to react: its kind and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Code {
    /// The name, for example `tool_unknown`.
    pub name: &'static str,
    /// What kind of error it is.
    pub kind: Kind,
    /// Whether the same call may succeed later.
    pub retryable: bool,
}

impl Code {
    /// The code of this name, if this version knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        codes::ALL.iter().find(|code| code.name == name).copied()
    }
}

/// An error as JSON: `{kind, code, message, …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ErrorBody {
    /// What kind of error it is.
    pub kind: Kind,
    /// The stable code.
    pub code: String,
    /// What went wrong, naming the thing and the way out. Not part of the API promise.
    pub message: String,
    /// Whether the same call may succeed later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
    /// When to try again, where the other side said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The things named in the message, by what they are (`agent`, `tool`, `path`, …).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// The host's own words for it (exception type, text and stack). Never part of a digest.
    #[serde(default, deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub host: Option<Value>,
}

impl ErrorBody {
    /// An error of this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            kind: code.kind,
            code: code.name.into(),
            message: message.into(),
            retryable: code.retryable,
            retry_after_ms: None,
            details: Map::new(),
            host: None,
        }
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}
