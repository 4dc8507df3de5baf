//! What a run knows: the fold of its journal.

use std::sync::Arc;

use lomusai_wire::{
    CallId, EffectId, EffectKind, ErrorBody, FinishReason, Message, ModelSettings, Outcome, Part, Pending, Role,
    RunOptions, RunOutput, ToolCall, ToolChoice, ToolResult, Usage,
};
use serde::Deserialize;
use serde_json::Value;

use crate::models::Cost;
use crate::transcript::{Transcript, is_paused};

/// Where in the loop a run is. See the table in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Preparing,
    StepStart,
    Thinking,
    Acting,
    Reviewing,
    Finishing(Outcome),
    Closed,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) options: RunOptions,
    /// The whole conversation: history, input, what was said since.
    pub(super) messages: Transcript,
    /// How many of `messages` were there before the run.
    pub(super) history: usize,
    /// Number of the next message.
    pub(super) number: u64,
    /// What the instructions function answered.
    pub(super) instructions: Option<String>,
    /// Counts model calls, from 1.
    pub(super) step: u32,
    /// How many functions of the phase's chain have answered.
    pub(super) chain: usize,
    /// What step processors changed for this step.
    pub(super) overlay: StepOverlay,
    /// Effects that were started or wait, in the order they were.
    pub(super) open: Vec<Open>,
    /// The calls of this step.
    pub(super) calls: Vec<Call>,
    /// So many of them, from the first, need nothing any more.
    pub(super) calls_done: usize,
    pub(super) finish: Option<FinishReason>,
    /// A stop function said yes.
    pub(super) stop: bool,
    pub(super) abort: Option<Abort>,
    /// How often a processor, and the shape of the answer, sent the model back.
    pub(super) processor_retries: u32,
    pub(super) output_retries: u32,
    pub(super) suspended: bool,
    pub(super) cancelling: bool,
    pub(super) cancel_reason: Option<String>,
    pub(super) failure: Option<ErrorBody>,
    pub(super) usage: Usage,
    pub(super) cost: Cost,
    pub(super) result: Option<RunResult>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RunResult {
    pub(super) outcome: Outcome,
    pub(super) output: Option<Box<RunOutput>>,
    pub(super) error: Option<Box<ErrorBody>>,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) effect_id: EffectId,
    pub(super) kind: EffectKind,
    pub(super) component: Arc<str>,
    pub(super) attempt: u32,
    /// Which of the agent's models is asked, and how often this one was.
    pub(super) choice: u32,
    pub(super) tries: u32,
    /// Which is asked when it is tried again.
    pub(super) next_choice: u32,
    /// Which of the step's calls it serves.
    pub(super) call: Option<usize>,
    pub(super) resume: Option<Arc<Value>>,
    pub(super) status: OpenStatus,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum OpenStatus {
    Running,
    /// Until it is tried again.
    Waiting(u64),
    Suspended(Box<Pending>),
}

/// A tool call on its way: hook, rule, approval, tool, hook.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) call: ToolCall,
    pub(super) effect_id: EffectId,
    /// The arguments, where the hook changed them.
    pub(super) arguments: Option<String>,
    pub(super) before_done: bool,
    /// How many approval functions have answered, and whether one of them said yes.
    pub(super) rules: usize,
    pub(super) wait: bool,
    pub(super) approved: bool,
    pub(super) attempts: u32,
    pub(super) resume: Option<Arc<Value>>,
    /// What the tool came to.
    pub(super) result: Option<ToolResult>,
    /// Whether the tool itself answered, so that the after-hook has something to look at.
    pub(super) ran: bool,
    pub(super) after_done: bool,
}

impl Call {
    pub(super) fn new(call: ToolCall, effect_id: EffectId) -> Self {
        Self {
            call,
            effect_id,
            arguments: None,
            before_done: false,
            rules: 0,
            wait: false,
            approved: false,
            attempts: 0,
            resume: None,
            result: None,
            ran: false,
            after_done: false,
        }
    }

    pub(super) fn arguments(&self) -> &str {
        self.arguments.as_deref().unwrap_or(&self.call.arguments)
    }
}

impl State {
    pub(super) fn new(options: RunOptions, history: Transcript) -> Self {
        Self {
            phase: Phase::New,
            options,
            history: history.len(),
            number: crate::transcript::next_number(&history),
            messages: history,
            instructions: None,
            step: 0,
            chain: 0,
            overlay: StepOverlay::default(),
            open: Vec::new(),
            calls: Vec::new(),
            calls_done: 0,
            finish: None,
            stop: false,
            abort: None,
            processor_retries: 0,
            output_retries: 0,
            suspended: false,
            cancelling: false,
            cancel_reason: None,
            failure: None,
            usage: Usage::default(),
            cost: Cost::default(),
            result: None,
        }
    }

    /// Counts what an effect took. What a call of a model cost is not known where nobody says so; so is what a child's did.
    pub(super) fn spend(&mut self, id: &EffectId, usage: Usage, cost_nano_usd: Option<u64>) {
        self.usage += usage;
        let asked = match self.open(id) {
            Some(Open { kind: EffectKind::Model, status: OpenStatus::Running, .. }) => true,
            _ => cost_nano_usd.is_some() || !usage.is_empty(),
        };
        if asked {
            self.cost.add(cost_nano_usd);
        }
    }

    pub(super) fn open(&self, id: &EffectId) -> Option<&Open> {
        self.open.iter().find(|open| open.effect_id == *id)
    }

    pub(super) fn close(&mut self, id: &EffectId) -> Option<Open> {
        let place = self.open.iter().position(|open| open.effect_id == *id)?;
        Some(self.open.remove(place))
    }

    /// The call with this id: nearly always the one that the effect's id counts to.
    pub(super) fn call_place(&self, effect_id: &EffectId, call_id: &CallId) -> Option<usize> {
        let is_it = |place: &usize| self.calls.get(*place).is_some_and(|call| call.call.call_id == *call_id);
        let counted = effect_id.as_str().split('.').nth(1).and_then(|place| place.parse().ok());
        counted.filter(is_it).or_else(|| (0..self.calls.len()).find(is_it))
    }

    pub(super) fn last_assistant(&self) -> Option<&Arc<Message>> {
        self.messages[self.history..].iter().rev().find(|message| message.role == Role::Assistant)
    }

    /// What the model said at last: the text of one answer, in however many messages it came.
    pub(super) fn answer_text(&self) -> String {
        let said = self.messages[self.history..].iter().rev().skip_while(|message| message.role != Role::Assistant);
        let mut texts: Vec<String> = Vec::new();
        for message in said {
            // An answer that has ended is none of this one.
            if message.role != Role::Assistant || !texts.is_empty() && !is_paused(message) {
                break;
            }
            texts.push(answered(message));
        }
        texts.into_iter().rev().collect()
    }

    /// Whether the model has answered, rather than called tools or paused.
    pub(super) fn is_answered(&self) -> bool {
        self.calls.is_empty() && !self.is_paused()
    }

    /// Whether the last answer has not ended.
    pub(super) fn is_paused(&self) -> bool {
        self.messages[self.history..].last().is_some_and(|message| is_paused(message))
    }

    /// Whether the world still works on something.
    pub(super) fn is_busy(&self) -> bool {
        self.open.iter().any(|open| !matches!(open.status, OpenStatus::Suspended(_)))
    }

    pub(super) fn is_running(&self) -> bool {
        self.open.iter().any(|open| open.status == OpenStatus::Running || self.ends(open))
    }

    /// Whether it is a child that waits for a command, and that its run, which is told to stop, waits to see end.
    pub(super) fn ends(&self, open: &Open) -> bool {
        self.cancelling && open.kind == EffectKind::Run && matches!(open.status, OpenStatus::Suspended(_))
    }
}

/// What a message answers: all its texts, but for those that their writer says are commentary, where it says anything else.
/// <https://developers.openai.com/api/docs/guides/reasoning>
fn answered(message: &Message) -> String {
    let comments = |place: usize| match message.parts.get(place + 1) {
        Some(Part::Provider { data, attached: true, .. }) => data["item"]["phase"] == "commentary",
        _ => false,
    };
    let texts = message.parts.iter().enumerate().filter_map(|(place, part)| Some((comments(place), part.as_text()?)));
    let answer: String = texts.filter(|(comments, _)| !comments).map(|(_, text)| text).collect();
    if answer.is_empty() { message.text() } else { answer }
}

/// What a processor may answer. Which fields count depends on its phase.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProcessorReply {
    pub(super) abort: Option<Abort>,
    pub(super) messages: Option<Vec<Message>>,
    pub(super) instructions: Option<String>,
    pub(super) tools: Option<Vec<String>>,
    pub(super) tool_choice: Option<ToolChoice>,
    pub(super) settings: Option<ModelSettings>,
    pub(super) text: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Abort {
    pub(super) reason: String,
    pub(super) retry: bool,
}

/// What step processors changed for one step.
#[derive(Clone, Debug, Default)]
pub(super) struct StepOverlay {
    pub(super) messages: Option<Vec<Arc<Message>>>,
    pub(super) instructions: Option<String>,
    pub(super) tools: Option<Vec<String>>,
    pub(super) tool_choice: Option<ToolChoice>,
    pub(super) settings: Option<ModelSettings>,
}

/// What a tool hook may answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HookReply {
    pub(super) arguments: Option<Value>,
    #[serde(deserialize_with = "present")]
    pub(super) output: Option<Value>,
}

/// `null` given is something else than nothing given.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
