//! State asks for more: the next event that follows from it alone.

use std::fmt;
use std::sync::Arc;

use lomusai_wire::{
    Approval, EffectId, EffectKind, ErrorBody, EventBody, Instructions, Message, Outcome, Part, PendingKind, Role,
    RunOutput, StopCondition, ToolResult, ToolStatus, codes, normalise,
};
use serde_json::Value;

use super::{AgentMachine, FEEDBACK, cancelled_error, output_invalid, unfenced};
use crate::agent::plan::{PlannedTool, ToolKind};
use crate::agent::state::{Call, OpenStatus, Phase};
use crate::schema::subset::without_nulls;
use crate::transcript::{self, CANCELLED};
use crate::{Error, Result};

impl AgentMachine {
    /// The next event that follows from the state alone. `None` when the world has to speak first.
    pub fn advance(&self) -> Option<EventBody> {
        let state = &self.state;
        if matches!(state.phase, Phase::New | Phase::Closed) {
            return None;
        }
        if state.failure.is_some() || state.cancelling {
            return self.close();
        }
        if state.abort.is_some() {
            return Some(self.aborted());
        }
        match state.phase {
            Phase::Acting => self.act(),
            _ if !state.open.is_empty() => None,
            Phase::Thinking => {
                Some(self.started(format!("{}.model", state.step).into(), EffectKind::Model, &self.agent().model, None))
            }
            Phase::Finishing(outcome) => Some(self.finish(outcome)),
            _ => self.chain_item().map(|(id, function)| self.started(id, EffectKind::Call, &function, None)),
        }
    }

    /// The function that the phase has to ask next.
    pub(super) fn chain_item(&self) -> Option<(EffectId, String)> {
        let (agent, state) = (self.agent(), &self.state);
        let chain = state.chain;
        // Most agents have none: nothing is made for those.
        let nth = |names: &[String], phase: fmt::Arguments<'_>| {
            names.get(chain).map(|name| (EffectId::from(format!("{phase}.{chain}")), name.clone()))
        };
        match state.phase {
            Phase::Preparing => nth(&agent.processors.input, format_args!("0.input")).or_else(|| {
                let asked = chain > agent.processors.input.len() || state.options.instructions.is_some();
                match &agent.instructions {
                    Some(Instructions::Function { function }) if !asked => {
                        Some(("0.instructions".into(), function.clone()))
                    }
                    _ => None,
                }
            }),
            Phase::StepStart => nth(&agent.processors.step, format_args!("{}.step", state.step)),
            Phase::Reviewing => {
                let mut items: Vec<(EffectId, String)> = Vec::new();
                items.extend(
                    agent.hooks.after_step.iter().map(|name| (format!("{}.after", state.step).into(), name.clone())),
                );
                if !state.calls.is_empty() {
                    let functions = agent.stop.iter().filter_map(|condition| {
                        if let StopCondition::Function { function } = condition { Some(function) } else { None }
                    });
                    items.extend(
                        functions
                            .enumerate()
                            .map(|(i, name)| (format!("{}.stop.{i}", state.step).into(), name.clone())),
                    );
                }
                items.into_iter().nth(chain)
            }
            Phase::Finishing(_) => nth(&agent.processors.output, format_args!("{}.output", state.step)),
            _ => None,
        }
    }

    pub(super) fn started(
        &self,
        effect_id: EffectId,
        kind: EffectKind,
        component: &str,
        call: Option<&Call>,
    ) -> EventBody {
        let tool = call.filter(|_| kind != EffectKind::Call);
        EventBody::EffectStarted {
            effect_id,
            kind,
            component: component.into(),
            attempt: tool.map_or(1, |call| call.attempts + 1),
            choice: 0,
            call_id: call.map(|call| call.call.call_id.clone()),
            resume: tool.and_then(|call| call.resume.clone()),
            due_at_ms: None,
            input: None,
        }
    }

    pub(super) fn act(&self) -> Option<EventBody> {
        let state = &self.state;
        let limit = if self.plan.may_wait { 1 } else { self.agent().tool_concurrency.unwrap_or(10) as usize };
        let busy = state.open.iter().filter(|open| !matches!(open.status, OpenStatus::Suspended(_))).count();
        if busy < limit
            && let Some(event) = (state.calls_done..state.calls.len()).find_map(|place| self.next_for_call(place))
        {
            return Some(event);
        }
        if state.open.is_empty() {
            return Some(self.tool_message());
        }
        if !state.is_busy() && !state.suspended {
            return Some(EventBody::RunSuspended { reasons: self.pending() });
        }
        None
    }

    /// Whether a call needs nothing any more.
    pub(super) fn is_done(&self, place: usize) -> bool {
        let call = &self.state.calls[place];
        let seen = self.agent().hooks.after_tool.is_none() || !call.ran || call.after_done;
        call.result.is_some() && seen && self.state.open.iter().all(|open| open.call != Some(place))
    }

    /// The next thing one call needs. `None` when it is done or under way.
    pub(super) fn next_for_call(&self, place: usize) -> Option<EventBody> {
        let call = &self.state.calls[place];
        if self.state.open.iter().any(|open| open.call == Some(place)) {
            return None;
        }
        let sub = |name: &str| EffectId::from(format!("{}.{name}", call.effect_id));
        let hooks = &self.agent().hooks;
        if call.result.is_some() {
            let hook = hooks.after_tool.as_ref().filter(|_| call.ran && !call.after_done)?;
            return Some(self.started(sub("after"), EffectKind::Call, hook, Some(call)));
        }
        let tool = match self.checked(call) {
            Ok(tool) => tool,
            Err(error) => {
                return Some(EventBody::EffectSkipped {
                    effect_id: call.effect_id.clone(),
                    call_id: Some(call.call.call_id.clone()),
                    why: error.code().to_owned(),
                    output: Some(Value::String(error.body().message.clone())),
                });
            }
        };
        if let Some(hook) = hooks.before_tool.as_ref().filter(|_| !call.before_done) {
            return Some(self.started(sub("before"), EffectKind::Call, hook, Some(call)));
        }
        let mut rules = [&tool.spec.approval, &self.agent().approval]
            .into_iter()
            .filter_map(|approval| if let Approval::Function(name) = approval { Some(name) } else { None });
        let always = tool.spec.approval == Approval::Always
            || self.agent().approval == Approval::Always
            || self.state.options.require_approval == Some(true);
        if !always
            && !call.wait
            && let Some(function) = rules.nth(call.rules)
        {
            return Some(self.started(
                sub(&format!("approval.{}", call.rules)),
                EffectKind::Call,
                function,
                Some(call),
            ));
        }
        if (always || call.wait) && !call.approved {
            return Some(EventBody::EffectSuspended { pending: self.pending_for(call, PendingKind::Approval).into() });
        }
        match &tool.kind {
            ToolKind::Client => {
                Some(EventBody::EffectSuspended { pending: self.pending_for(call, PendingKind::Client).into() })
            }
            ToolKind::Host => Some(self.started(call.effect_id.clone(), EffectKind::Tool, &call.call.name, Some(call))),
            ToolKind::Agent(name) | ToolKind::Workflow { name, .. } => {
                Some(self.started(call.effect_id.clone(), EffectKind::Run, name, Some(call)))
            }
        }
    }

    /// The tool of a call, if the model may call it and its arguments fit. The error is for the model.
    pub(super) fn checked(&self, call: &Call) -> Result<&PlannedTool> {
        let name = &call.call.name;
        let tool = self.plan.tool(name).filter(|_| self.offers(name)).ok_or_else(|| self.plan.unknown(name))?;
        let invalid = |why: String| {
            Error::new(codes::ARGUMENTS_INVALID, format!("the arguments of tool `{name}` do not fit: {why}"))
        };
        let arguments: Value =
            serde_json::from_str(&self.arguments(call)).map_err(|e| invalid(format!("they are not JSON: {e}")))?;
        match tool.input.violations(&arguments) {
            Some(why) => Err(invalid(why)),
            None => Ok(tool),
        }
    }

    pub(super) fn offers(&self, name: &str) -> bool {
        let listed = |names: &Option<Vec<String>>| names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let client = self.plan.client_offered.iter().any(|tool| tool.name == name);
        (client || listed(&self.state.options.active_tools)) && listed(&self.state.overlay.tools)
    }

    pub(super) fn tool_message(&self) -> EventBody {
        let parts =
            self.state.calls.iter().map(|call| {
                Part::ToolResult(call.result.clone().unwrap_or_else(|| {
                    ToolResult::new(&call.call, ToolStatus::Cancelled, Value::String(CANCELLED.into()))
                }))
            });
        let mut message = Message::new(Role::Tool, parts.collect());
        message.id = Some(transcript::message_id(self.state.number));
        EventBody::MessageCompleted { message: Arc::new(message) }
    }

    /// Ends a run that failed or was cancelled, one event at a time, with its transcript whole.
    pub(super) fn close(&self) -> Option<EventBody> {
        let state = &self.state;
        if state.is_running() {
            state.failure.as_ref()?;
            return self.fail_running(&cancelled_error(), &[]).into_iter().next();
        }
        if state.phase == Phase::Acting {
            return Some(self.tool_message());
        }
        let (outcome, error) = match &state.failure {
            // A run that was told to stop is cancelled, whatever its effects then said.
            Some(error) if !state.cancelling && error.code == codes::BUDGET_EXHAUSTED.name => {
                (Outcome::Exhausted, Some(error.clone()))
            }
            Some(error) if !state.cancelling => (Outcome::Failed, Some(error.clone())),
            _ => (Outcome::Cancelled, None),
        };
        Some(self.finished(outcome, error))
    }

    pub(super) fn aborted(&self) -> EventBody {
        let abort = self.state.abort.as_ref().expect("checked by the caller");
        let retries = self.agent().processors.max_retries.unwrap_or(1);
        // Only what the model said can be said again.
        let said = !matches!(self.state.phase, Phase::Preparing | Phase::StepStart);
        let again = abort.retry && said && self.state.processor_retries < retries;
        if again && self.state.step < self.max_steps() {
            return self.feedback("processor", abort.reason.clone());
        }
        let message = format!("a processor stopped the run: {}", abort.reason);
        self.finished(Outcome::Failed, Some(ErrorBody::new(codes::PROCESSOR_ABORTED, message)))
    }

    pub(super) fn feedback(&self, kind: &str, text: String) -> EventBody {
        let mut message = Message::user(text);
        message.id = Some(transcript::message_id(self.state.number));
        message.metadata.insert(FEEDBACK.into(), kind.into());
        EventBody::MessageCompleted { message: Arc::new(message) }
    }

    pub(super) fn finish(&self, outcome: Outcome) -> EventBody {
        if self.state.chain == 0
            && self.state.is_answered()
            && let Some(Err(why)) = self.object()
        {
            let spec = self.state.options.output.as_ref().or(self.agent().output.as_ref());
            let retries = spec.and_then(|spec| spec.retries).unwrap_or(1);
            if self.state.output_retries < retries && self.state.step < self.max_steps() {
                return self.feedback(
                    "output",
                    format!("Your answer does not have the required shape: {why}. Answer again, with JSON only."),
                );
            }
            return self.finished(Outcome::Failed, Some(output_invalid(&why)));
        }
        match self.chain_item() {
            Some((id, function)) => self.started(id, EffectKind::Call, &function, None),
            None => match self.object().filter(|_| self.state.is_answered()) {
                // An output processor changed it so; the model has nothing to correct.
                Some(Err(why)) => self.finished(Outcome::Failed, Some(output_invalid(&why))),
                _ => self.finished(outcome, None),
            },
        }
    }

    /// The last answer in the shape that was asked for, or why it is not in that shape. `None` where none was asked for.
    pub(super) fn object(&self) -> Option<Result<Value, String>> {
        let schema = self.plan.output.as_ref()?;
        let text = self.state.answer_text();
        Some(match serde_json::from_str::<Value>(unfenced(&text)) {
            Err(e) => Err(format!("it is not JSON ({e})")),
            Ok(mut value) => {
                normalise(&mut value);
                let spec = self.state.options.output.as_ref().or(self.agent().output.as_ref());
                match (schema.violations(&value), spec) {
                    // A provider that requires every property may have had to fill some with null.
                    (Some(_), Some(spec)) if without_nulls(&spec.schema, &mut value) => {
                        schema.violations(&value).map_or(Ok(value), Err)
                    }
                    (Some(why), _) => Err(why),
                    (None, _) => Ok(value),
                }
            }
        })
    }

    pub(super) fn finished(&self, outcome: Outcome, error: Option<ErrorBody>) -> EventBody {
        let state = &self.state;
        let mut output = RunOutput::default();
        // What a processor refused is nobody's answer.
        if error.as_ref().is_none_or(|error| error.code != codes::PROCESSOR_ABORTED.name) {
            output.text = state.answer_text();
        }
        output.object = if error.is_none() && state.is_answered() { self.object().and_then(Result::ok) } else { None };
        output.finish = state.finish;
        // The step that is being prepared has asked no model yet.
        output.steps = state.step - u32::from(state.phase == Phase::StepStart);
        let output = (output != RunOutput::default()).then(|| Box::new(output));
        let cost_nano_usd = state.cost.nano_usd();
        EventBody::RunFinished { outcome, output, error: error.map(Box::new), usage: state.usage, cost_nano_usd }
    }
}
