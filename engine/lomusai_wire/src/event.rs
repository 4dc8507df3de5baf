//! Events: everything a run says, in order. Stream, journal and trace read the same ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::present;
use crate::{
    CallId, Context, EffectId, ErrorBody, FinishReason, Message, MessageId, RawJson, Role, RunId, RunOptions, ThreadId,
    Usage,
};

/// One event and where it stands: durable events count `seq` from 1, transient ones count `sub` behind the last durable one.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[non_exhaustive]
pub struct Event {
    /// The run that says it.
    pub run_id: RunId,
    /// Number of the last durable event, this one included.
    pub seq: u64,
    /// 0 for a durable event; counts the transient ones behind it.
    #[schemars(default)]
    pub sub: u64,
    /// When, in milliseconds since 1970.
    #[schemars(default)]
    pub at_ms: u64,
    /// What.
    #[schemars(flatten)]
    pub body: EventBody,
}

impl Event {
    /// An event at this place.
    pub fn new(run_id: RunId, seq: u64, sub: u64, at_ms: u64, body: EventBody) -> Self {
        Self { run_id, seq, sub, at_ms, body }
    }

    /// Whether the event is kept in the journal.
    pub fn is_durable(&self) -> bool {
        self.sub == 0
    }
}

#[derive(Serialize)]
struct WireEventRef<'a> {
    run_id: &'a RunId,
    seq: u64,
    #[serde(skip_serializing_if = "is_zero")]
    sub: u64,
    at_ms: u64,
    #[serde(flatten)]
    body: &'a EventBody,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { run_id, seq, sub, at_ms, body } = self;
        WireEventRef { run_id, seq: *seq, sub: *sub, at_ms: *at_ms, body }.serialize(serializer)
    }
}

#[derive(Deserialize)]
struct Envelope {
    run_id: RunId,
    seq: u64,
    #[serde(default)]
    sub: u64,
    #[serde(default)]
    at_ms: u64,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = RawJson::deserialize(deserializer)?;
        let Envelope { run_id, seq, sub, at_ms } = serde_json::from_str(text.as_str()).map_err(D::Error::custom)?;
        let mut body = EventBody::from_raw(&text).map_err(D::Error::custom)?;
        if let EventBody::Unknown(fields) = &mut body {
            fields.retain(|name, _| !["run_id", "seq", "sub", "at_ms"].contains(&name.as_str()));
        }
        Ok(Self { run_id, seq, sub, at_ms, body })
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

fn is_first(choice: &u32) -> bool {
    *choice == 0
}

fn one() -> u32 {
    1
}

/// What an event says, tagged by `type`.
// `remote` makes serde derive functions instead of the traits, which are below: only they know what an unknown event is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", remote = "Self")]
#[non_exhaustive]
pub enum EventBody {
    /// The run exists.
    RunStarted(Box<RunStarted>),
    /// It goes on under another spec of its workflow: the events before this one are read as if they had been of that.
    RunMigrated {
        /// The spec.
        spec: Box<SpecRef>,
        /// Steps that are named otherwise now, by their old name; `null` for those that are forgotten.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        steps: BTreeMap<String, Option<String>>,
        /// What steps came to, by their new names, in place of what was recorded or of running.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        outputs: Map<String, Value>,
        /// Values of the state that it sets; `null` removes one.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        state: Map<String, Value>,
    },
    /// Nothing goes on until a command comes.
    RunSuspended {
        /// What it waits for.
        reasons: Vec<Pending>,
    },
    /// It goes on.
    RunResumed,
    /// It was told to stop; nothing new starts.
    RunCancelling {
        /// How long results are still recorded.
        grace_ms: u64,
        /// Why, in the caller's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It is over.
    RunFinished {
        /// How it ended.
        outcome: Outcome,
        /// What it came to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Box<RunOutput>>,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Box<ErrorBody>>,
        /// Tokens used by the run and its children.
        #[serde(default, skip_serializing_if = "Usage::is_empty")]
        usage: Usage,
        /// What they cost, in nano-dollars. Absent where the price of any of them is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost_nano_usd: Option<u64>,
    },
    /// The world was asked for something.
    EffectStarted {
        /// Which effect.
        effect_id: EffectId,
        /// Of which kind.
        kind: EffectKind,
        /// The component asked.
        #[schemars(with = "String")]
        component: Arc<str>,
        /// Counts from 1; the idempotency key `run_id/effect_id` is the same for every attempt.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        attempt: u32,
        /// Which of the agent's models is asked: 0 for `model`, from 1 for its `fallbacks`.
        #[serde(default, skip_serializing_if = "is_first")]
        choice: u32,
        /// The tool call it serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<CallId>,
        /// What resumed it, where it had suspended.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        resume: Option<Arc<Value>>,
        /// When a timer goes off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due_at_ms: Option<u64>,
        /// What a step is given in place of what its spec says: in a fork.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        input: Option<Arc<Value>>,
    },
    /// It answered.
    EffectCompleted {
        /// Which effect.
        effect_id: EffectId,
        /// The answer; absent for a model, whose message follows.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        output: Option<Arc<Value>>,
        /// Images and files that came with a tool's answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        content: Vec<crate::Part>,
        /// Why a model stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        finish: Option<FinishReason>,
        /// Tokens used.
        #[serde(default, skip_serializing_if = "Usage::is_empty")]
        usage: Usage,
        /// What it cost, in nano-dollars. Absent where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost_nano_usd: Option<u64>,
    },
    /// It failed.
    EffectFailed {
        /// Which effect.
        effect_id: EffectId,
        /// Why.
        error: Box<ErrorBody>,
        /// When it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at_ms: Option<u64>,
        /// Tokens used all the same.
        #[serde(default, skip_serializing_if = "Usage::is_empty")]
        usage: Usage,
        /// What it cost, in nano-dollars. Absent where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost_nano_usd: Option<u64>,
    },
    /// It waits for a command.
    EffectSuspended {
        /// What for.
        #[serde(flatten)]
        pending: Box<Pending>,
    },
    /// It was not carried out.
    EffectSkipped {
        /// Which effect.
        effect_id: EffectId,
        /// The tool call it would have served.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<CallId>,
        /// Why, as an error code or a word.
        why: String,
        /// What the model is told.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
    },
    /// Transient: news of an effect under way.
    EffectProgress {
        /// Which effect.
        effect_id: EffectId,
        /// The news.
        data: Value,
    },
    /// A whole message, as it was shown.
    MessageCompleted {
        /// The message.
        message: Arc<Message>,
    },
    /// Transient: a message begins.
    MessageStarted {
        /// Which message.
        message_id: MessageId,
        /// Who speaks.
        role: Role,
    },
    /// Transient: a part begins.
    PartStarted {
        /// Of which message.
        message_id: MessageId,
        /// Its place in the message.
        index: u32,
        /// Its type.
        part_type: String,
        /// The tool's name, for a tool call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The call's id, for a tool call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<CallId>,
    },
    /// Transient: more of a part.
    PartDelta {
        /// Of which message.
        message_id: MessageId,
        /// Its place in the message.
        index: u32,
        /// What more.
        #[serde(flatten)]
        delta: PartDelta,
    },
    /// Transient: a part is whole.
    PartCompleted {
        /// Of which message.
        message_id: MessageId,
        /// Its place in the message.
        index: u32,
    },
    /// A command came from outside.
    SignalReceived {
        /// Which.
        signal: SignalKind,
        /// The name of a signal to a workflow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// For which effect.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// What it said.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        data: Option<Value>,
    },
    /// A value of the run's state changed.
    StateSet {
        /// The effect that set it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// Its name.
        key: String,
        /// Its value; null removes it.
        value: Value,
    },
    /// Something a host function wants known. Durable when it asked for that.
    Custom {
        /// The effect that says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// What it is.
        name: String,
        /// The value.
        data: Value,
        /// Whether it is kept.
        #[serde(default, skip_serializing_if = "is_false")]
        durable: bool,
    },
    /// Transient: a note for people.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// The note.
        message: String,
    },
    /// Transient: this reader was too slow and missed events; durable ones can be read again from the journal.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// An event of a later version, kept as it came but for its envelope.
    #[serde(skip)]
    Unknown(Map<String, Value>),
}

impl Serialize for EventBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unknown(fields) => fields.serialize(serializer),
            known => Self::serialize(known, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EventBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_raw(&RawJson::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl EventBody {
    /// The `type` of every event that this version knows.
    pub const TYPES: [&str; 22] = [
        "run_started",
        "run_migrated",
        "run_suspended",
        "run_resumed",
        "run_cancelling",
        "run_finished",
        "effect_started",
        "effect_completed",
        "effect_failed",
        "effect_suspended",
        "effect_skipped",
        "effect_progress",
        "message_completed",
        "message_started",
        "part_started",
        "part_delta",
        "part_completed",
        "signal_received",
        "state_set",
        "custom",
        "log",
        "lagged",
    ];

    /// An event of a known type must fit it: kept as unknown, a damaged event would be left out of the fold and nobody would know.
    fn from_raw(text: &RawJson) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Tag {
            r#type: String,
        }
        let Tag { r#type: tag } = serde_json::from_str(text.as_str())?;
        if !Self::TYPES.contains(&tag.as_str()) {
            return serde_json::from_str(text.as_str()).map(Self::Unknown);
        }
        Self::deserialize(&mut serde_json::Deserializer::from_str(text.as_str()))
            .map_err(|e| serde_json::Error::custom(format!("event `{tag}`: {e}")))
    }

    /// Whether an event of this kind belongs into the journal.
    pub fn is_durable(&self) -> bool {
        match self {
            Self::EffectProgress { .. }
            | Self::MessageStarted { .. }
            | Self::PartStarted { .. }
            | Self::PartDelta { .. }
            | Self::PartCompleted { .. }
            | Self::Log { .. }
            | Self::Lagged { .. } => false,
            Self::Custom { durable, .. } => *durable,
            _ => true,
        }
    }

    /// The effect the event is about, or comes from.
    pub fn effect_id(&self) -> Option<&EffectId> {
        match self {
            Self::EffectStarted { effect_id, .. }
            | Self::EffectCompleted { effect_id, .. }
            | Self::EffectFailed { effect_id, .. }
            | Self::EffectSkipped { effect_id, .. }
            | Self::EffectProgress { effect_id, .. } => Some(effect_id),
            Self::EffectSuspended { pending } => Some(&pending.effect_id),
            Self::Custom { effect_id, .. } | Self::StateSet { effect_id, .. } => effect_id.as_ref(),
            _ => None,
        }
    }
}

/// How a run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
#[non_exhaustive]
pub struct RunStarted {
    /// What runs, by name and content hash.
    pub spec: SpecRef,
    /// The messages that start it; none for a workflow.
    pub input: Vec<Arc<Message>>,
    /// A workflow's input.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// A workflow's state at the start.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub state: Map<String, Value>,
    /// The conversation before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// The conversation it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// The run and effect that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The run it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Fork>,
    /// What the caller wants to find it by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What the caller wants its functions to know; transient keys are left out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Context,
    /// What the caller asked for over the spec.
    #[serde(default, skip_serializing_if = "RunOptions::is_default")]
    pub options: RunOptions,
}

impl RunStarted {
    /// The beginning of a run of this spec, of which nothing else is known.
    pub fn new(spec: SpecRef) -> Self {
        Self {
            spec,
            input: Vec::new(),
            data: None,
            state: Map::new(),
            history: None,
            thread: None,
            parent: None,
            forked_from: None,
            metadata: Map::new(),
            context: Context::new(),
            options: RunOptions::default(),
        }
    }
}

/// What runs, by name and content hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct SpecRef {
    /// What it is.
    pub kind: SpecKind,
    /// Its name.
    pub name: String,
    /// SHA-256 of the canonical JSON of its [`RunSpec`](crate::RunSpec), in hex.
    pub hash: String,
}

impl SpecRef {
    /// A reference.
    pub fn new(kind: SpecKind, name: impl Into<String>, hash: impl Into<String>) -> Self {
        Self { kind, name: name.into(), hash: hash.into() }
    }
}

/// What kind of thing a run executes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpecKind {
    /// An agent.
    #[default]
    Agent,
    /// A workflow.
    Workflow,
}

impl SpecKind {
    pub(crate) fn is_agent(&self) -> bool {
        *self == Self::Agent
    }
}

/// The conversation before a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum History {
    /// These messages, passed in by the caller.
    Messages(Vec<Arc<Message>>),
    /// The first `upto` messages of the run's thread.
    Thread {
        /// How many.
        upto: u64,
    },
}

/// Who started a child run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Parent {
    /// The parent.
    pub run_id: RunId,
    /// Its effect.
    pub effect_id: EffectId,
}

impl Parent {
    /// A reference to a parent's effect.
    pub fn new(run_id: RunId, effect_id: EffectId) -> Self {
        Self { run_id, effect_id }
    }
}

/// The run that a run begins as a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Fork {
    /// The other run.
    pub run_id: RunId,
    /// The last of its events that was looked at.
    pub seq: u64,
}

impl Fork {
    /// A reference to a run as it was at this event.
    pub fn new(run_id: RunId, seq: u64) -> Self {
        Self { run_id, seq }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It did what it was asked.
    Completed,
    /// It could not go on; see the error.
    Failed,
    /// It was told to stop.
    Cancelled,
    /// It used up a limit such as `max_steps`; what it had is its output.
    Exhausted,
    /// A rule ended it early; what it had is its output.
    Bailed,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct RunOutput {
    /// The text of the last assistant message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The answer in the shape asked for.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
    /// Why the model stopped last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<FinishReason>,
    /// How many model calls it took.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub steps: u32,
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// What an effect asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EffectKind {
    /// A model.
    Model,
    /// A tool.
    Tool,
    /// A child run.
    Run,
    /// Any other host function.
    Call,
    /// A step function of a workflow.
    Step,
    /// A time to come.
    Timer,
    /// Steps inside of a step of a workflow: nothing is asked of the world by itself.
    Group,
}

/// Something that waits for a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Pending {
    /// The effect that waits.
    pub effect_id: EffectId,
    /// What it waits for.
    pub reason: PendingKind,
    /// The run to send the command to, where it is not this one: a suspended child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<RunId>,
    /// The tool call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<CallId>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The arguments, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// What the tool said when it suspended.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// JSON Schema of what may resume it, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_schema: Option<String>,
    /// The signal it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// A name under which it can be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it stops waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at_ms: Option<u64>,
}

impl Pending {
    /// A wait of this effect, with nothing else known.
    pub fn new(effect_id: EffectId, reason: PendingKind) -> Self {
        Self {
            effect_id,
            reason,
            child: None,
            call_id: None,
            tool: None,
            arguments: None,
            payload: None,
            resume_schema: None,
            signal: None,
            label: None,
            due_at_ms: None,
        }
    }
}

/// What a suspended effect waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PendingKind {
    /// An `approve` or `decline` command.
    Approval,
    /// A `resume` command: the tool or step suspended.
    Suspended,
    /// A `tool_result` command: the caller executes the tool.
    Client,
    /// A child run that is suspended itself.
    Child,
    /// A `signal` command of this name.
    Signal,
}

/// The commands that a journal records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SignalKind {
    /// Run the tool.
    Approve,
    /// Do not run the tool.
    Decline,
    /// Go on with this.
    Resume,
    /// The caller ran the tool; this is the result.
    ToolResult,
    /// Something a workflow waits for happened.
    Signal,
    /// Try what failed again.
    Retry,
}

/// More of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartDelta {
    /// More text, of a text or reasoning part.
    Text(String),
    /// More of a tool call's arguments.
    Arguments(String),
    /// The structured answer as far as it can be read.
    Object(Value),
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogLevel {
    /// For tracing.
    Debug,
    /// For information.
    Info,
    /// Something looks wrong.
    Warn,
    /// Something is wrong.
    Error,
}
