//! What host functions do in a vector: pure, so that a runner on any kind of loop can use it.

use std::collections::BTreeMap;

use lomusai_wire::{Context, Part};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::matching;

/// A behaviour. See the table in `tests/conformance/README.md`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Does {
    #[serde(deserialize_with = "present")]
    returns: Option<Value>,
    echo: Option<String>,
    adds: bool,
    upper: bool,
    integer: Option<String>,
    fails: Option<String>,
    context: Option<String>,
    attempt: bool,
    resume: bool,
    hangs: bool,
    by: Option<String>,
    is: BTreeMap<String, Does>,
    #[serde(rename = "else")]
    otherwise: Option<Box<Does>>,
    #[serde(deserialize_with = "present")]
    suspends: Option<Value>,
    until: Option<Value>,
    then: Option<Box<Does>>,
    /// Reported first.
    pub progress: Vec<Value>,
    /// Emitted first, durably.
    pub custom: Vec<Custom>,
    content: Vec<Part>,
    #[serde(deserialize_with = "present")]
    bails: Option<Value>,
    fatal: Option<String>,
    state: Option<String>,
    attempts: Vec<Does>,
    /// State that a step sets with its answer.
    pub sets: serde_json::Map<String, Value>,
    /// The label a step suspends under.
    pub label: Option<String>,
}

/// A durable custom event.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custom {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// What a function is asked, and what it may know.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// A tool's arguments, or the question.
    pub input: &'a Value,
    /// The run's context.
    pub context: &'a Context,
    /// Counts from 1.
    pub attempt: u32,
    /// What resumed it.
    pub resume: Option<&'a Value>,
    /// The state of a workflow's run.
    pub state: Option<&'a serde_json::Map<String, Value>>,
}

/// What a function answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Reply {
    /// A value, and a tool's parts beside it.
    Returns(Value, Vec<Part>),
    /// It waits to be resumed.
    Suspends(Value),
    /// A workflow's run ends with this value.
    Bails(Value),
    /// An error of the host, with this message.
    Fails(String),
    /// One that no further attempt can mend.
    Fatal(String),
    /// Nothing.
    #[default]
    Hangs,
}

impl Does {
    /// What comes of being asked this: the behaviour that answers in the end, whose `progress` and `custom` are the caller's to emit
    /// first, and its answer.
    pub fn reply(&self, asked: Asked<'_>) -> (Self, Reply) {
        let does = self.chosen(asked);
        let reply = does.answer(asked);
        (does, reply)
    }

    fn answer(&self, asked: Asked<'_>) -> Reply {
        let value = match self {
            Self { returns: Some(value), .. } => value.clone(),
            Self { echo: Some(pointer), .. } => at(asked.input, pointer),
            Self { adds: true, .. } => {
                let term = |key: &str| asked.input[key].as_i64().unwrap_or_default();
                json!(term("a") + term("b"))
            }
            Self { upper: true, .. } => {
                json!({"text": asked.input["text"].as_str().unwrap_or_default().to_ascii_uppercase()})
            }
            Self { integer: Some(text), .. } => match (text.parse::<i64>(), text.parse::<u64>()) {
                (Ok(n), _) => json!(n),
                (_, Ok(n)) => json!(n),
                _ => json!(text),
            },
            Self { fails: Some(message), .. } => return Reply::Fails(message.clone()),
            Self { context: Some(key), .. } => asked.context.get(key).cloned().unwrap_or_default(),
            Self { attempt: true, .. } => json!(asked.attempt),
            Self { resume: true, .. } => asked.resume.cloned().unwrap_or_default(),
            Self { bails: Some(value), .. } => return Reply::Bails(value.clone()),
            Self { fatal: Some(message), .. } => return Reply::Fatal(message.clone()),
            Self { state: Some(key), .. } => asked.state.and_then(|state| state.get(key)).cloned().unwrap_or_default(),
            Self { hangs: true, .. } => return Reply::Hangs,
            Self { suspends: Some(payload), .. } => return Reply::Suspends(payload.clone()),
            _ => Value::Null,
        };
        Reply::Returns(value, self.content.clone())
    }

    fn chosen(&self, asked: Asked<'_>) -> Self {
        if let Some(does) = self.attempts.get(asked.attempt as usize - 1).or(self.attempts.last()) {
            return does.chosen(asked);
        }
        if let Some(pointer) = &self.by {
            let found = match at(asked.input, pointer) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let chosen = self.is.get(&found).or(self.otherwise.as_deref());
            return chosen.map_or_else(Self::default, |does| does.chosen(asked));
        }
        let goes_on = |data: &Value| self.until.as_ref().is_none_or(|until| matching::matches(until, Some(data)));
        if self.suspends.is_some() && asked.resume.is_some_and(goes_on) {
            let then = self.then.as_deref();
            return then.map_or_else(|| Self { resume: true, ..Self::default() }, |does| does.chosen(asked));
        }
        self.clone()
    }
}

fn at(value: &Value, pointer: &str) -> Value {
    value.pointer(pointer).cloned().unwrap_or_default()
}

/// `null` given is something else than nothing given.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
