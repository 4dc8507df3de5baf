//! Cassettes: the calls of models and tools, recorded once into a file and given back from it, byte for byte.
//!
//! A cassette is a text file of JSON lines: a header, then one line per call, written whole when the call has ended. Secrets are taken out
//! before anything is written; see [`secrets`](self::secrets). A call is found again by what is asked: the component and the request, secrets
//! taken out as well. Equal calls are given back in the order they were recorded.

mod secrets;
mod tape;

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lomusai_core::journal::value_hash;
use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_wire::{ErrorBody, codes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use secrets::Secrets;
pub(crate) use tape::{Taped, call_tool};

/// What a cassette is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CassetteMode {
    /// Every call is made and recorded; a file that is there is replaced.
    Record,
    /// No call is made: each is given back from the file, and one that is not in it is the error `cassette_miss`.
    Replay,
    /// A call that is in the file is given back, any other is made and recorded.
    Auto,
}

/// A cassette: its file, and what it is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CassetteConfig {
    /// What it is used for.
    pub mode: CassetteMode,
    /// The file.
    pub path: PathBuf,
}

impl CassetteConfig {
    /// This file, used so.
    pub fn new(mode: CassetteMode, path: impl Into<PathBuf>) -> Self {
        Self { mode, path: path.into() }
    }

    /// What the environment asks for: `LOMUSAI_CASSETTE` is `record`, `replay` or `auto`, `LOMUSAI_CASSETTE_PATH` the file
    /// (default `lomusai.cassette.jsonl`). `None` where the first is not set, or empty.
    ///
    /// # Errors
    /// `argument_invalid` for any other word.
    pub fn from_env() -> Result<Option<Self>> {
        let Some(word) = std::env::var("LOMUSAI_CASSETTE").ok().filter(|word| !word.is_empty()) else {
            return Ok(None);
        };
        let mode = serde_json::from_value(Value::String(word.clone())).map_err(|_| {
            Error::new(
                codes::ARGUMENT_INVALID,
                format!("the environment variable LOMUSAI_CASSETTE must be record, replay or auto, was `{word}`"),
            )
        })?;
        let path = std::env::var_os("LOMUSAI_CASSETTE_PATH").filter(|path| !path.is_empty());
        Ok(Some(Self::new(mode, path.map_or_else(|| "lomusai.cassette.jsonl".into(), PathBuf::from))))
    }
}

const VERSION: u64 = 1;

/// One call, as a line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Exchange {
    kind: Kind,
    component: String,
    request: Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunks: Vec<Value>,
    /// What a tool said while it worked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    said: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
    /// Nobody waited for its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Model,
    Tool,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
        }
    }
}

/// An open cassette.
pub(crate) struct Cassette {
    mode: CassetteMode,
    path: PathBuf,
    pub(crate) secrets: Secrets,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    file: Option<File>,
    /// What was recorded and not given back yet, by what was asked.
    waiting: HashMap<String, VecDeque<Arc<Exchange>>>,
    /// All of it, in order, for saying how a miss differs.
    all: Vec<Arc<Exchange>>,
}

impl Cassette {
    /// Opens a cassette, and reads it where it is to be given back.
    ///
    /// # Errors
    /// `cassette_invalid`, naming the file and the line.
    pub(crate) fn open(config: &CassetteConfig) -> Result<Arc<Self>> {
        let path = &config.path;
        let mut inner = Inner::default();
        let there = path.exists();
        if config.mode != CassetteMode::Record && (there || config.mode == CassetteMode::Replay) {
            inner.read(path)?;
        }
        if config.mode != CassetteMode::Replay {
            let fresh = config.mode == CassetteMode::Record || !there;
            let mut options = OpenOptions::new();
            // Appended, also when it is replaced: a second engine on the same file must not write over the first one's lines.
            options.create(true).append(true);
            let open = || -> std::io::Result<File> {
                let file = options.open(path)?;
                if fresh {
                    file.set_len(0)?;
                    line(&file, &json!({"cassette": VERSION}))?;
                }
                Ok(file)
            };
            inner.file = Some(open().map_err(|e| unwritable(path, &e))?);
        }
        Ok(Arc::new(Self {
            mode: config.mode,
            path: path.clone(),
            secrets: Secrets::of_env(),
            inner: Mutex::new(inner),
        }))
    }

    /// The cassette that the environment asks for. One per process: each engine of it adds to the same recording, or takes from it.
    ///
    /// # Errors
    /// As [`CassetteConfig::from_env`] and [`Self::open`].
    pub(crate) fn of_env() -> Result<Option<Arc<Self>>> {
        static OPEN: Mutex<Vec<(CassetteConfig, Arc<Cassette>)>> = Mutex::new(Vec::new());
        let Some(config) = CassetteConfig::from_env()? else { return Ok(None) };
        let mut open = OPEN.lock();
        if let Some((_, cassette)) = open.iter().find(|(known, _)| *known == config) {
            return Ok(Some(cassette.clone()));
        }
        let cassette = Self::open(&config)?;
        open.push((config, cassette.clone()));
        Ok(Some(cassette))
    }

    /// Whether no call is made.
    pub(crate) fn only_replays(&self) -> bool {
        self.mode == CassetteMode::Replay
    }

    /// What was recorded for this call. `None`: it is to be made, and recorded.
    ///
    /// # Errors
    /// `cassette_miss`.
    fn find(&self, kind: Kind, component: &str, request: &Value) -> Result<Option<Arc<Exchange>>> {
        if self.mode == CassetteMode::Record {
            return Ok(None);
        }
        let mut inner = self.inner.lock();
        let found = inner.waiting.get_mut(&key(kind, component, request)).and_then(VecDeque::pop_front);
        match found {
            Some(exchange) => Ok(Some(exchange)),
            None if self.mode == CassetteMode::Auto => Ok(None),
            None => Err(inner.miss(&self.path, kind, component, request)),
        }
    }

    /// Writes a call down, without its secrets.
    fn record(&self, exchange: Exchange) -> Result<()> {
        let mut text = serde_json::to_string(&exchange).expect("an exchange is JSON");
        text.push('\n');
        let inner = self.inner.lock();
        let Some(mut file) = inner.file.as_ref() else { return Ok(()) };
        // In one write, so that lines of several engines do not mix.
        file.write_all(text.as_bytes()).map_err(|e| unwritable(&self.path, &e))
    }
}

fn line(mut file: &File, value: &Value) -> std::io::Result<()> {
    file.write_all(format!("{value}\n").as_bytes())
}

fn key(kind: Kind, component: &str, request: &Value) -> String {
    value_hash(&json!([kind, component, request]))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(codes::CASSETTE_INVALID, format!("the cassette {} cannot be written: {error}", path.display()))
        .with("path", path.display().to_string())
}

impl Inner {
    fn read(&mut self, path: &Path) -> Result<()> {
        let invalid = |why: String| {
            Error::new(codes::CASSETTE_INVALID, format!("the cassette {} cannot be read: {why}", path.display()))
                .with("path", path.display().to_string())
        };
        let text = std::fs::read_to_string(path).map_err(|e| invalid(format!("{e}; record it first")))?;
        let mut lines = text.lines().enumerate();
        let header = lines.next().and_then(|(_, line)| serde_json::from_str::<Value>(line).ok());
        match header.as_ref().and_then(|header| header["cassette"].as_u64()) {
            Some(VERSION) => {}
            Some(later) => return Err(invalid(format!("it is of version {later}, this engine knows {VERSION}"))),
            None => return Err(invalid("line 1 is not the header of a cassette".into())),
        }
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let exchange: Exchange =
                serde_json::from_str(line).map_err(|e| invalid(format!("line {}: {e}", number + 1)))?;
            let exchange = Arc::new(exchange);
            let key = key(exchange.kind, &exchange.component, &exchange.request);
            self.waiting.entry(key).or_default().push_back(exchange.clone());
            self.all.push(exchange);
        }
        Ok(())
    }

    /// The error of a call that was not recorded: how it differs from the recording that is most like it.
    fn miss(&self, path: &Path, kind: Kind, component: &str, request: &Value) -> Error {
        let same: Vec<&Arc<Exchange>> = self.all.iter().filter(|exchange| exchange.kind == kind).collect();
        let of_component = |exchange: &&&Arc<Exchange>| exchange.component == component;
        let differences = |exchange: &Exchange| {
            let mut found = Vec::new();
            differ("", &exchange.request, request, &mut found);
            found
        };
        let nearest = same.iter().filter(of_component).map(|exchange| differences(exchange)).min_by_key(Vec::len);
        let word = kind.word();
        let why = match nearest {
            None => {
                let mut names: Vec<&str> = same.iter().map(|exchange| exchange.component.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                format!("no call of {word} `{component}` was recorded; there are calls of {}", list(&names))
            }
            Some(found) if found.is_empty() => {
                format!(
                    "each recording of this call of {word} `{component}` was given back already: it is made more often now"
                )
            }
            Some(found) => {
                let shown: Vec<String> = found.iter().take(3).map(Difference::to_string).collect();
                let more = found.len().saturating_sub(shown.len());
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                format!("the nearest call of {word} `{component}` differs {}{more}", shown.join(", "))
            }
        };
        Error::new(
            codes::CASSETTE_MISS,
            format!(
                "the cassette {} has no recording of this call: {why}; record it anew where that is wanted",
                path.display()
            ),
        )
        .with("path", path.display().to_string())
        .with(word, component)
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

struct Difference {
    pointer: String,
    recorded: Option<Value>,
    asked: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<Value>| match value {
            None => "nothing".to_owned(),
            Some(value) => {
                let text = value.to_string();
                match text.char_indices().nth(60) {
                    Some((end, _)) => format!("{}…", &text[..end]),
                    None => text,
                }
            }
        };
        let place = if self.pointer.is_empty() { "as a whole" } else { &self.pointer };
        write!(f, "at {place}: recorded {}, asked {}", shown(&self.recorded), shown(&self.asked))
    }
}

fn differ(pointer: &str, recorded: &Value, asked: &Value, found: &mut Vec<Difference>) {
    let here = |recorded: Option<&Value>, asked: Option<&Value>, pointer: String| Difference {
        pointer,
        recorded: recorded.cloned(),
        asked: asked.cloned(),
    };
    match (recorded, asked) {
        (Value::Object(then), Value::Object(now)) => {
            let keys: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
            for key in keys {
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (then.get(key), now.get(key)) {
                    (Some(then), Some(now)) => differ(&pointer, then, now, found),
                    (then, now) => found.push(here(then, now, pointer)),
                }
            }
        }
        (Value::Array(then), Value::Array(now)) => {
            for index in 0..then.len().max(now.len()) {
                let pointer = format!("{pointer}/{index}");
                match (then.get(index), now.get(index)) {
                    (Some(then), Some(now)) => differ(&pointer, then, now, found),
                    (then, now) => found.push(here(then, now, pointer)),
                }
            }
        }
        (then, now) if then != now => found.push(here(Some(then), Some(now), pointer.to_owned())),
        _ => {}
    }
}
