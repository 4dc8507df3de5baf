//! Vectors as they are in their files, and the writing back of digests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lomusai_runtime::RunRequest;
use lomusai_wire::{AgentSpec, Command, ToolSpec, WorkflowSpec};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::behaviour::Does;

/// What a run is given and what must come of it.
#[derive(Debug)]
pub struct Vector {
    /// Where it came from.
    pub path: PathBuf,
    /// A sentence.
    pub name: String,
    /// The agent under test.
    pub agent: AgentSpec,
    /// Its sub-agents, to be registered before it, in order.
    pub agents: Vec<AgentSpec>,
    /// Scripts by provider name.
    pub models: BTreeMap<String, Value>,
    /// Tools and what they do.
    pub tools: Vec<VectorTool>,
    /// What functions do, by name.
    pub functions: BTreeMap<String, Does>,
    /// The workflow under test, where it is one.
    pub workflow: Option<WorkflowSpec>,
    /// Further workflows, to be registered before it, in order.
    pub workflows: Vec<WorkflowSpec>,
    /// What step functions do, by name.
    pub steps: BTreeMap<String, Does>,
    /// The code with which the workflow is refused when it is registered.
    pub refused_spec: Option<String>,
    /// At least one.
    pub turns: Vec<Turn>,
    /// What the engine is asked by name after the last turn.
    pub calls: Vec<Ask>,
    /// The file's JSON.
    pub source: Value,
}

/// A tool and what it does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorTool {
    /// As it is registered.
    pub spec: ToolSpec,
    /// How it behaves.
    pub does: Does,
}

/// One request and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    request: Map<String, Value>,
    /// What is sent at each suspension.
    #[serde(default)]
    pub commands: Vec<Vec<Sent>>,
    /// Cancel after so many durable events.
    #[serde(default)]
    pub cancel_at: Option<usize>,
    /// What must come of it.
    pub expect: Expect,
}

/// A command and how it is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "WireSent")]
pub struct Sent {
    /// The command.
    pub send: Command,
    /// The child it is for.
    pub to: Option<String>,
    /// The code with which it is refused.
    pub refused: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireSent {
    Envelope(Envelope),
    Command(Command),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    send: Command,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    refused: Option<String>,
}

impl From<WireSent> for Sent {
    fn from(wire: WireSent) -> Self {
        match wire {
            WireSent::Envelope(Envelope { send, to, refused }) => Self { send, to, refused },
            WireSent::Command(send) => Self { send, to: None, refused: None },
        }
    }
}

/// Something that the engine is asked by name, or that changes what is registered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ask {
    /// The operation.
    pub call: Option<String>,
    /// Its parameters. A text `$name` stands for what was bound.
    pub params: Value,
    /// The answer, in part; null where there is none.
    #[serde(deserialize_with = "said")]
    pub expect: Option<Value>,
    /// What an answer that is a text begins with.
    pub begins: Option<String>,
    /// Code of the error that comes in place of an answer.
    pub error: Option<String>,
    /// What of the answer has a name from here on, by its JSON pointer.
    pub bind: BTreeMap<String, String>,
    /// In place of an operation: a workflow that is registered in place of the one of its name.
    pub replace_workflow: Option<Value>,
}

/// What must come of a run. What is absent is not looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Code with which the start is refused.
    pub refused: Option<String>,
    /// The status at the end.
    pub status: Option<String>,
    /// The output, in part.
    pub output: Option<Value>,
    /// The error, in part.
    pub error: Option<Value>,
    /// The conversation, each message in part.
    pub messages: Option<Value>,
    /// What it waited for at each suspension, in part.
    pub pending: Option<Value>,
    /// The journal in canonical order, each event in part or as text.
    pub events: Option<Vec<Value>>,
    /// The journal's digest.
    pub digest: Option<String>,
    /// Child runs, by what follows the top run's id and a slash in theirs.
    pub children: BTreeMap<String, Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default, rename = "why")]
    _why: String,
    #[serde(default)]
    agent: Value,
    #[serde(default)]
    agents: Vec<Value>,
    #[serde(default)]
    models: BTreeMap<String, Value>,
    #[serde(default)]
    tools: Vec<VectorTool>,
    #[serde(default)]
    functions: BTreeMap<String, Does>,
    #[serde(default)]
    workflow: Option<Value>,
    #[serde(default)]
    workflows: Vec<Value>,
    #[serde(default)]
    steps: BTreeMap<String, Does>,
    #[serde(default)]
    refused_spec: Option<String>,
    #[serde(default)]
    request: Map<String, Value>,
    #[serde(default)]
    commands: Vec<Vec<Sent>>,
    #[serde(default)]
    cancel_at: Option<usize>,
    #[serde(default)]
    expect: Expect,
    #[serde(default)]
    turns: Vec<Turn>,
    #[serde(default)]
    calls: Vec<Ask>,
}

impl Vector {
    /// Reads a vector.
    ///
    /// # Errors
    /// What the file has wrong, in words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(path, &text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let first =
            Turn { request: file.request, commands: file.commands, cancel_at: file.cancel_at, expect: file.expect };
        Ok(Self {
            path: path.to_owned(),
            name: file.name,
            agent: agent(file.agent)?,
            agents: file.agents.into_iter().map(agent).collect::<Result<_, _>>()?,
            models: file.models,
            tools: file.tools,
            functions: file.functions,
            workflow: file.workflow.map(workflow).transpose()?,
            workflows: file.workflows.into_iter().map(workflow).collect::<Result<_, _>>()?,
            steps: file.steps,
            refused_spec: file.refused_spec,
            turns: std::iter::once(first).chain(file.turns).collect(),
            calls: file.calls,
            source: serde_json::from_str(text).map_err(|e| e.to_string())?,
        })
    }

    /// All vectors of the folder that `LOMUSAI_VECTORS` names, or of `conformance/agent` and `conformance/workflow`, by file name.
    ///
    /// # Errors
    /// What the folder or a file has wrong.
    pub fn read_all() -> Result<Vec<Self>, String> {
        let default = || {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
            vec![folder.join("agent"), folder.join("workflow")]
        };
        let folders = std::env::var_os("LOMUSAI_VECTORS").map_or_else(default, |folder| vec![PathBuf::from(folder)]);
        let mut vectors = Vec::new();
        for folder in folders {
            vectors.extend(Self::read_folder(&folder)?);
        }
        Ok(vectors)
    }

    /// All vectors of a folder, by file name.
    ///
    /// # Errors
    /// What the folder or a file has wrong.
    pub fn read_folder(folder: &Path) -> Result<Vec<Self>, String> {
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// The request of a turn. `messages` is the conversation after the turn before it, where there was one.
    ///
    /// # Errors
    /// What the request has wrong.
    pub fn request(&self, turn: &Turn, messages: Option<&Value>) -> Result<RunRequest, String> {
        let mut request = turn.request.clone();
        if let Some(workflow) = &self.workflow {
            request.entry("workflow").or_insert_with(|| json!(workflow.name));
            let request = serde_json::from_value(Value::Object(request)).map_err(|e| format!("request: {e}"))?;
            return Ok(RunRequest::Workflow(Box::new(request)));
        }
        request.entry("agent").or_insert_with(|| json!(self.agent.name));
        if let Some(messages) = messages
            && !request.contains_key("thread")
            && !request.contains_key("history")
        {
            request.insert("history".into(), messages.clone());
        }
        let request = serde_json::from_value(Value::Object(request)).map_err(|e| format!("request: {e}"))?;
        Ok(RunRequest::Agent(Box::new(request)))
    }

    /// Whether the vector looks at what differs between an unbroken run and a recovered one: attempts, transient context.
    pub fn sees_recovery(&self) -> bool {
        let text = self.source.to_string();
        text.contains(r#""attempt":"#)
            || self.workflow.is_some() && text.contains(r#""attempts":"#)
            || text.contains(r#""transient":"#)
    }

    /// Writes digests into the file, each by the JSON pointer of its place. Everything else stays as its author wrote it.
    ///
    /// # Errors
    /// Where the file cannot be written, or has no place for a digest.
    pub fn write_digests(&self, digests: &BTreeMap<String, String>) -> Result<(), String> {
        const KEY: &str = "\"digest\": \"";
        let text = std::fs::read_to_string(&self.path).map_err(|e| e.to_string())?;
        let pieces: Vec<&str> = text.split(KEY).collect();
        // Each place gets its own number first: reading the file then tells which place is where.
        let join = |value: &dyn Fn(usize) -> String| {
            let mut whole = pieces[0].to_owned();
            for (number, piece) in pieces.iter().enumerate().skip(1) {
                let rest = piece.split_once('"').map_or("", |(_, rest)| rest);
                whole += &format!("{KEY}{}\"{rest}", value(number));
            }
            whole
        };
        let numbered: Value = serde_json::from_str(&join(&|number| format!("#{number}"))).map_err(|e| e.to_string())?;
        let mut by_number = BTreeMap::new();
        for (pointer, digest) in digests {
            let place = numbered.pointer(pointer).and_then(Value::as_str).ok_or_else(|| {
                format!("{}: write `\"digest\": \"?\"` at {pointer}, to be filled in", self.path.display())
            })?;
            by_number.insert(place.to_owned(), digest.clone());
        }
        let whole = join(&|number| by_number.get(&format!("#{number}")).cloned().unwrap_or_else(|| "?".into()));
        if whole != text {
            std::fs::write(&self.path, whole).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// A null that is said is something else than nothing that is said.
fn said<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

fn agent(spec: Value) -> Result<AgentSpec, String> {
    let mut object = match spec {
        Value::Null => Map::new(),
        Value::Object(object) => object,
        _ => return Err("an agent is an object".into()),
    };
    object.entry("name").or_insert_with(|| json!("agent"));
    object.entry("model").or_insert_with(|| json!("model"));
    serde_json::from_value(Value::Object(object)).map_err(|e| format!("agent: {e}"))
}

fn workflow(spec: Value) -> Result<WorkflowSpec, String> {
    let Value::Object(mut object) = spec else { return Err("a workflow is an object".into()) };
    object.entry("name").or_insert_with(|| json!("workflow"));
    serde_json::from_value(Value::Object(object)).map_err(|e| format!("workflow: {e}"))
}
