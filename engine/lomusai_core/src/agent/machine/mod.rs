//! The machine itself: inputs become events, events become state, state asks for more. One file for each of the three.

mod advance;
mod apply;
mod handle;
mod question;

use std::borrow::Cow;
use std::sync::Arc;

use lomusai_wire::{
    Budget, Context, EffectId, EffectKind, ErrorBody, EventBody, History, Message, Parent, Pending, RunId, RunOptions,
    RunStatus, ThreadId, Usage, codes,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::plan::{Plan, RunPlan, ToolKind, unwrapped};
use super::state::{Call, Open, OpenStatus, Phase, State, StepOverlay};
use crate::Result;
use crate::machine::{Decision, Effect, EffectInput, Input};
use crate::retry::Retry;
use crate::schema::subset::without_nulls;
use crate::transcript::Transcript;

/// One run of an agent.
#[derive(Debug)]
pub struct AgentMachine {
    plan: RunPlan,
    run_id: RunId,
    state: State,
}

/// What starts a run.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The messages.
    pub input: Vec<Message>,
    /// The conversation before them, as the journal refers to it.
    pub history: Option<History>,
    /// The conversation it belongs to.
    pub thread: Option<ThreadId>,
    /// Who started it.
    pub parent: Option<Parent>,
    /// The journaled part of the context.
    pub context: Context,
    /// What the caller wants to find it by.
    pub metadata: serde_json::Map<String, Value>,
}

const DECLINED: &str = "Tool call was not approved by the user";
/// Metadata key of messages that the engine itself wrote to the model.
const FEEDBACK: &str = "feedback";
/// What ends a run even where a tool met it first.
const ENDS_THE_RUN: [&str; 2] = [codes::RUN_TIMEOUT.name, codes::RUN_TOO_LARGE.name];
/// Failures of a model call that another model would not mend.
const ENDS_THE_CALL: [&str; 7] = [
    codes::RUN_CANCELLED.name,
    codes::RUN_TIMEOUT.name,
    codes::RUN_TOO_LARGE.name,
    codes::PROCESSOR_ABORTED.name,
    codes::BUDGET_EXHAUSTED.name,
    codes::CASSETTE_MISS.name,
    codes::ENGINE_CLOSED.name,
];
/// Metadata key under which a message names the model that wrote it, where that matters: what another model cannot read is in it, or
/// another than the agent's own wrote it.
pub const WRITTEN_BY: &str = "model";

impl AgentMachine {
    /// A run that has not started. `history` is the conversation before it.
    ///
    /// # Errors
    /// `transcript_invalid`; `schema_invalid`, `spec_invalid` or `tool_unknown` for what the options name.
    pub fn new(plan: &Arc<Plan>, run_id: RunId, history: Vec<Arc<Message>>, options: RunOptions) -> Result<Self> {
        let history = Transcript::new(history)?;
        let plan = plan.extended(&options)?;
        Ok(Self { plan, run_id, state: State::new(options, history) })
    }

    /// Handles an input, applies what follows from it, and says what to commit and to carry out.
    ///
    /// An input that is not waited for any more (a late answer) gives an empty decision.
    ///
    /// # Errors
    /// For commands only: what is wrong with them. Nothing has changed then.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Result<Decision> {
        let mut events = self.handle(input, now_ms)?;
        for event in &events {
            self.apply(event);
        }
        while let Some(event) = self.advance() {
            self.apply(&event);
            events.push(event);
        }
        let effects = events
            .iter()
            .filter_map(|event| {
                if let EventBody::EffectStarted { effect_id, .. } = event { self.effect(effect_id) } else { None }
            })
            .collect();
        Ok(Decision { events, effects })
    }

    /// Where the run stands.
    pub fn status(&self) -> RunStatus {
        match &self.state.result {
            Some(result) => result.outcome.into(),
            None if self.state.suspended => RunStatus::Suspended,
            None => RunStatus::Running,
        }
    }

    /// What the run waits for.
    pub fn pending(&self) -> Vec<Pending> {
        let mut pending: Vec<Pending> = self
            .state
            .open
            .iter()
            .filter_map(|open| {
                if let OpenStatus::Suspended(pending) = &open.status { Some((**pending).clone()) } else { None }
            })
            .collect();
        pending.sort_by(|a, b| a.effect_id.canonical_cmp(&b.effect_id));
        pending
    }

    /// The whole conversation: history, input, and what was said since.
    pub fn messages(&self) -> &[Arc<Message>] {
        &self.state.messages
    }

    /// How many of [`messages`](Self::messages) were there before the run.
    pub fn history_len(&self) -> usize {
        self.state.history
    }

    /// Whether what was said is to be kept in the thread. Not when a processor refused it.
    pub fn keeps_messages(&self) -> bool {
        let error = self.state.result.as_ref().and_then(|result| result.error.as_ref());
        error.is_none_or(|error| error.code != codes::PROCESSOR_ABORTED.name)
    }

    /// Tokens used so far by the run and its children.
    pub fn usage(&self) -> Usage {
        self.state.usage
    }

    /// What that cost, in nano-dollars. `None` where the price of any of it is not known.
    pub fn cost_nano_usd(&self) -> Option<u64> {
        self.state.cost.nano_usd()
    }

    /// The part of the cost that is known.
    pub fn known_cost_nano_usd(&self) -> u64 {
        self.state.cost.known_nano_usd()
    }

    /// The options the run was started with.
    pub fn options(&self) -> &RunOptions {
        &self.state.options
    }

    /// What the run may use, its children included.
    pub fn budget(&self) -> Option<Budget> {
        self.state.options.budget.or(self.agent().budget)
    }

    /// Effects that wait to be tried again, and when.
    pub fn retries(&self) -> Vec<(EffectId, u64)> {
        let waiting = |open: &Open| {
            if let OpenStatus::Waiting(at) = open.status { Some((open.effect_id.clone(), at)) } else { None }
        };
        self.state.open.iter().filter_map(waiting).collect()
    }

    /// Child runs that are suspended: the effect and the child.
    pub fn suspended_children(&self) -> Vec<(EffectId, RunId)> {
        self.pending().into_iter().filter_map(|pending| Some((pending.effect_id, pending.child?))).collect()
    }

    /// Child runs that have not ended: the effect and the child.
    pub fn children(&self) -> Vec<(EffectId, RunId)> {
        let children = self.state.open.iter().filter(|open| open.kind == EffectKind::Run);
        children.map(|open| (open.effect_id.clone(), self.child_id(&open.effect_id))).collect()
    }

    /// Whether an effect is under way.
    pub fn is_open(&self, id: &EffectId) -> bool {
        self.state.open(id).is_some()
    }

    /// What an open effect asks.
    pub fn effect(&self, id: &EffectId) -> Option<Effect> {
        let open = self.state.open(id)?;
        let limits = &self.agent().limits;
        let call = open.call.map(|place| &self.state.calls[place]);
        let (input, timeout_ms) = match open.kind {
            EffectKind::Model => {
                let input = EffectInput::Model {
                    request: Arc::new(self.request(open.choice)),
                    number: self.state.number,
                    structured: self.plan.output.is_some(),
                    first_token_ms: limits.first_token_ms,
                    between_tokens_ms: limits.between_tokens_ms,
                };
                (input, limits.model_ms())
            }
            EffectKind::Tool => {
                let call = call.expect("a tool effect serves a call");
                let timeout = self.plan.tool(&call.call.name).and_then(|tool| tool.spec.timeout_ms);
                (
                    EffectInput::Tool { arguments: self.arguments(call).into_owned() },
                    timeout.unwrap_or(limits.tool_ms()),
                )
            }
            EffectKind::Run => {
                let call = call.expect("a run effect serves a call");
                let arguments: Value = serde_json::from_str(&self.arguments(call)).unwrap_or_default();
                let run_id = self.child_id(id);
                let input = match self.plan.tool(&call.call.name).map(|tool| &tool.kind) {
                    Some(ToolKind::Workflow { wrapped, .. }) => {
                        EffectInput::Workflow { run_id, input: unwrapped(arguments, *wrapped) }
                    }
                    _ => EffectInput::Run { run_id, prompt: arguments["prompt"].as_str().unwrap_or_default().into() },
                };
                // A child has limits of its own.
                (input, u64::MAX)
            }
            _ => (EffectInput::Call { input: self.question(open) }, limits.function_ms()),
        };
        Some(Effect {
            effect_id: open.effect_id.clone(),
            kind: open.kind,
            component: open.component.clone(),
            attempt: open.attempt,
            call_id: call.map(|call| call.call.call_id.clone()),
            resume: open.resume.clone(),
            timeout_ms,
            input,
        })
    }

    fn agent(&self) -> &lomusai_wire::AgentSpec {
        self.plan.agent()
    }

    /// A call's arguments as the tool gets them: as the model wrote them, but for nulls that stand for properties left out.
    fn arguments<'a>(&'a self, call: &'a Call) -> Cow<'a, str> {
        let text = call.arguments();
        let fitting = || {
            let tool = self.plan.tool(&call.call.name).filter(|_| text.contains("null"))?;
            let mut arguments: Value = serde_json::from_str(text).ok()?;
            tool.input.violations(&arguments)?;
            let cleaned = without_nulls(&tool.spec.input_schema, &mut arguments);
            (cleaned && tool.input.violations(&arguments).is_none()).then(|| arguments.to_string())
        };
        fitting().map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// The models that may be asked, in order: the agent's own and its fallbacks.
    fn model(&self, choice: u32) -> &str {
        match choice.checked_sub(1) {
            None => &self.agent().model,
            Some(place) => self.agent().fallbacks.get(place as usize).map_or("", |entry| &entry.model),
        }
    }

    /// What is asked after a model call failed, and how much later. `None`: the call has failed for good.
    fn next_try(&self, open: &Open, error: &ErrorBody) -> Option<(u32, u64)> {
        if ENDS_THE_CALL.contains(&error.code.as_str()) {
            return None;
        }
        let fallbacks = &self.agent().fallbacks;
        let retries = match open.choice.checked_sub(1).and_then(|place| fallbacks.get(place as usize)) {
            None => self.settings(0).max_retries.unwrap_or(Retry::default().max_retries),
            Some(entry) => {
                entry.max_retries.or(entry.settings.as_ref().and_then(|settings| settings.max_retries)).unwrap_or(0)
            }
        };
        if let Some(wait_ms) = Retry::new(retries).wait_ms(open.tries, error) {
            return Some((open.choice, wait_ms));
        }
        let next = (open.choice as usize..fallbacks.len()).find(|place| !fallbacks[*place].disabled)?;
        Some((next as u32 + 1, 0))
    }

    fn child_id(&self, effect: &EffectId) -> RunId {
        format!("{}/{effect}", self.run_id).into()
    }

    fn max_steps(&self) -> u32 {
        self.state.options.max_steps.unwrap_or(self.agent().max_steps())
    }
}

pub(super) fn next_step(state: &mut State) {
    state.phase = Phase::StepStart;
    state.step += 1;
    state.chain = 0;
    state.calls.clear();
    state.calls_done = 0;
    state.overlay = StepOverlay::default();
}

pub(super) fn output_invalid(why: &str) -> ErrorBody {
    ErrorBody::new(codes::OUTPUT_INVALID, format!("the answer does not fit the output schema: {why}"))
}

pub(super) fn cancelled_error() -> ErrorBody {
    ErrorBody::new(codes::RUN_CANCELLED, "the run was cancelled")
}

/// `null` lets everything through.
pub(super) fn parse_reply<T: DeserializeOwned + Default>(output: &Value) -> Result<T, serde_json::Error> {
    if output.is_null() { Ok(T::default()) } else { T::deserialize(output) }
}

/// Models like to put JSON into a code block.
pub(super) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}
