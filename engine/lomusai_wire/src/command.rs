//! What a host tells the engine: start requests, commands to a run, queries.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{
    Budget, EffectId, Fork, Message, ModelSettings, Outcome, OutputSpec, Parent, Pending, RunId, SpecKind, ThreadId,
    ToolChoice, ToolSpec,
};

/// What a caller wants its functions to know about a run.
pub type Context = Map<String, Value>;

/// The messages that start a run: a text, one message or several.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Input {
    /// A user's text.
    Text(String),
    /// One message.
    Message(Box<Message>),
    /// Several.
    Messages(Vec<Message>),
}

/// By hand, since an untagged enum would hide what is wrong with a message.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyInput;

        impl<'de> Visitor<'de> for AnyInput {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a message or a list of messages")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.into()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, fields: A) -> Result<Input, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(fields)).map(Input::Message)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Input, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(items)).map(Input::Messages)
            }
        }

        deserializer.deserialize_any(AnyInput)
    }
}

impl Input {
    /// The messages.
    pub fn into_messages(self) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::user(text)],
            Self::Message(message) => vec![*message],
            Self::Messages(messages) => messages,
        }
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Message> for Input {
    fn from(message: Message) -> Self {
        Self::Message(Box::new(message))
    }
}

impl From<Vec<Message>> for Input {
    fn from(messages: Vec<Message>) -> Self {
        Self::Messages(messages)
    }
}

/// A request to run an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StartRequest {
    /// The registered agent.
    pub agent: String,
    /// What starts it.
    pub input: Input,
    /// The conversation before it, where there is no thread. The result's `messages` is the next call's history.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Message>,
    /// The stored conversation it belongs to; created when it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// Who owns the thread, when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The run's id; made by the engine when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// What the caller wants its functions to know.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Context,
    /// Keys of `context` that are not journaled, such as secrets; absent after a resume in another process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transient: Vec<String>,
    /// What the run is found by: see [`RunFilter::metadata`].
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Whether the run goes on when its reader goes away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// What happens when another run works on the thread.
    #[serde(default, skip_serializing_if = "OnBusy::is_wait")]
    pub on_busy: OnBusy,
    /// What the caller asks for over the agent's spec.
    #[serde(default, skip_serializing_if = "RunOptions::is_default")]
    pub options: RunOptions,
}

impl StartRequest {
    /// A request to run this agent on this input.
    pub fn new(agent: impl Into<String>, input: impl Into<Input>) -> Self {
        Self {
            agent: agent.into(),
            input: input.into(),
            history: Vec::new(),
            thread: None,
            resource: None,
            run_id: None,
            context: Context::new(),
            transient: Vec::new(),
            metadata: Map::new(),
            detached: false,
            on_busy: OnBusy::Wait,
            options: RunOptions::default(),
        }
    }
}

/// What happens when another run works on the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnBusy {
    /// Wait for it; an error all the same if it is suspended, since that may take for ever.
    #[default]
    Wait,
    /// The error `thread_busy`, at once.
    Error,
}

impl OnBusy {
    fn is_wait(&self) -> bool {
        *self == Self::Wait
    }
}

/// What a caller asks for over the agent's spec. What is absent is as the spec says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RunOptions {
    /// Instructions in place of the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Settings over the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<ModelSettings>,
    /// Most model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u32>,
    /// Whether and which tool the model must call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// The only tools offered, of the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_tools: Option<Vec<String>>,
    /// Tools that the caller executes itself, beside the agent's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_tools: Vec<ToolSpec>,
    /// The shape of the final answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSpec>,
    /// Whether every tool call waits for approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_approval: Option<bool>,
    /// Longest time the run may work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What the run may use, its sub-agents included, in place of the agent's budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Names of the engine's budgets that the run draws on, beside its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_budgets: Vec<String>,
    /// Whether the thread is written after each step, not only at the end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub save_per_step: bool,
}

impl RunOptions {
    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a host tells a run, tagged by `type`. Commands are recorded before they are acted on.
///
/// `effect_id` may be left out where just one effect waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// Run the tool that waits for approval.
    Approve {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
    },
    /// Do not run it; the model is told.
    Decline {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// Why. Default: "Tool call was not approved by the user".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Go on with a tool or step that suspended.
    Resume {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// The label it suspended under, in place of the effect.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// What the tool is given; must fit its `resume_schema`.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        data: Value,
    },
    /// The result of a tool that the caller executed.
    ToolResult {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        effect_id: Option<EffectId>,
        /// The result.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        output: Value,
        /// Whether it failed; `output` then says how.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    /// Something happened that a workflow waits for, or will wait for: it is kept until then.
    Signal {
        /// The signal's name.
        name: String,
        /// What it says.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        data: Value,
    },
    /// Try the failed steps of a workflow's run that has failed again. What was done stays done.
    Retry,
    /// Stop: nothing new starts, results inside the grace are recorded.
    Cancel {
        /// How long results are still recorded. Default 0.
        #[serde(default, skip_serializing_if = "is_zero_ms")]
        grace_ms: u64,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

fn is_zero_ms(ms: &u64) -> bool {
    *ms == 0
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunStatus {
    /// At work, or to be recovered.
    Running,
    /// Waiting for a command.
    Suspended,
    /// Waiting for a timer: see [`RunInfo::wakes_at_ms`].
    Waiting,
    /// Ended, [`Outcome::Completed`].
    Completed,
    /// Ended, [`Outcome::Failed`].
    Failed,
    /// Ended, [`Outcome::Cancelled`].
    Cancelled,
    /// Ended, [`Outcome::Exhausted`].
    Exhausted,
    /// Ended, [`Outcome::Bailed`].
    Bailed,
    /// Cannot go on here: a component is missing. Goes on where it is registered.
    Blocked,
    /// Recovered too often without progress: kept, listed, not tried.
    Poisoned,
}

impl RunStatus {
    /// Those of runs that have ended.
    pub const FINAL: [Self; 5] = [Self::Completed, Self::Failed, Self::Cancelled, Self::Exhausted, Self::Bailed];

    /// Whether the run has ended.
    pub fn is_final(self) -> bool {
        Self::FINAL.contains(&self)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Exhausted => "exhausted",
            Self::Bailed => "bailed",
            Self::Blocked => "blocked",
            Self::Poisoned => "poisoned",
        }
    }
}

impl From<Outcome> for RunStatus {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Failed => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Exhausted => Self::Exhausted,
            Outcome::Bailed => Self::Bailed,
        }
    }
}

/// A line about a run: a cache of what its journal says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct RunInfo {
    /// The run.
    pub run_id: RunId,
    /// What runs.
    #[serde(default, skip_serializing_if = "SpecKind::is_agent")]
    pub kind: SpecKind,
    /// The agent's or workflow's name.
    pub agent: String,
    /// Where it stands.
    pub status: RunStatus,
    /// Number of its last durable event.
    pub seq: u64,
    /// Its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// Who started it, for a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The run it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Fork>,
    /// What its caller wants to find it by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What it waits for, when suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
    /// By what it is blocked, when blocked or poisoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
    /// When it started.
    pub created_at_ms: u64,
    /// When it last recorded something.
    pub updated_at_ms: u64,
    /// When it goes on by itself, or stops waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakes_at_ms: Option<u64>,
    /// How often it was recovered since it last made progress.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recoveries: u32,
}

impl RunInfo {
    /// A run that has just started.
    pub fn new(run_id: RunId, agent: impl Into<String>, now_ms: u64) -> Self {
        Self {
            run_id,
            kind: SpecKind::Agent,
            agent: agent.into(),
            status: RunStatus::Running,
            seq: 0,
            thread: None,
            parent: None,
            forked_from: None,
            metadata: Map::new(),
            pending: Vec::new(),
            blocked_by: None,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
            wakes_at_ms: None,
            recoveries: 0,
        }
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Which runs to list. All conditions must hold; an empty filter lists all, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RunFilter {
    /// Any of these statuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<RunStatus>,
    /// Of agents, or of workflows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SpecKind>,
    /// Of the agent or workflow of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// On this thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadId>,
    /// Children of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// Only runs that no other run started.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub top: bool,
    /// With all of this in their metadata.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Started at this time or later, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from_ms: Option<u64>,
    /// Started before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_until_ms: Option<u64>,
    /// That recorded nothing at this time or later: what ended did so before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_since_ms: Option<u64>,
    /// At most so many. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Skip so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
}

impl RunFilter {
    /// Whether a run is meant. How many are wanted is not looked at.
    pub fn admits(&self, info: &RunInfo) -> bool {
        let parent = info.parent.as_ref().map(|parent| &parent.run_id);
        (self.status.is_empty() || self.status.contains(&info.status))
            && self.kind.is_none_or(|kind| kind == info.kind)
            && self.agent.as_ref().is_none_or(|agent| *agent == info.agent)
            && self.thread.as_ref().is_none_or(|thread| Some(thread) == info.thread.as_ref())
            && self.parent.as_ref().is_none_or(|wanted| Some(wanted) == parent)
            && (!self.top || parent.is_none())
            && self.metadata.iter().all(|(key, value)| info.metadata.get(key) == Some(value))
            && self.created_from_ms.is_none_or(|from| info.created_at_ms >= from)
            && self.created_until_ms.is_none_or(|until| info.created_at_ms < until)
            && self.quiet_since_ms.is_none_or(|since| info.updated_at_ms < since)
    }
}
