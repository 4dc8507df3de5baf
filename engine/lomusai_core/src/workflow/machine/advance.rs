//! State asks for more: the next event that follows from it.

use std::sync::Arc;

use lomusai_wire::{
    EffectId, EffectKind, ErrorBody, EventBody, Needs, Outcome, Pending, PendingKind, RunOutput, codes,
};
use serde_json::Value;

use super::{WorkflowMachine, cancelled_error, completed, failed};
use crate::machine::check_depth;
use crate::workflow::plan::{Does, Node, Question};
use crate::workflow::state::{Asks, OpenStatus, Phase, Place, Step, Todo, Turn};
use crate::{Error, Result};

impl WorkflowMachine {
    /// The next event that follows from the state. `None` when the world has to speak first.
    pub fn advance(&self, now_ms: u64) -> Option<EventBody> {
        let state = &self.state;
        if state.phase != Phase::Running {
            return None;
        }
        if state.failure.is_some() || state.cancelling || state.bailed.is_some() {
            return self.close();
        }
        match state.todo.front() {
            Some(Todo::Begin(place)) => Some(self.begin(*place, now_ms)),
            Some(Todo::Decide(place)) => Some(self.decide(*place)),
            Some(Todo::End(place)) => Some(self.end(*place)),
            None if state.running(0).left == 0 => Some(self.finish()),
            None if !state.suspended && !state.is_busy() && !state.sleeps() => {
                Some(EventBody::RunSuspended { reasons: self.pending() })
            }
            None => None,
        }
    }

    /// A step's turn has come.
    fn begin(&self, place: Place, now_ms: u64) -> EventBody {
        let node = self.node(place);
        let Step::ToDo(turn) = self.state.step(place) else { unreachable!("a step whose turn has come is to do") };
        let turn = turn.as_deref().unwrap_or(&Turn::FIRST);
        let effect_id = self.effect_id(place);
        let skipped = |why: &str, output| EventBody::EffectSkipped {
            effect_id: effect_id.clone(),
            call_id: None,
            why: why.to_owned(),
            output,
        };
        if self.lacks(place, node) {
            return skipped("needs", None);
        }
        match (&node.when, turn.when) {
            (None, _) | (_, Some(true)) => {}
            (_, Some(false)) => return skipped("condition", None),
            // A step that is resumed or tried again has been let through before.
            _ if turn.attempts > 0 => {}
            (Some(Question::Function(function)), None) => {
                return self.asked(format!("{effect_id}.when").into(), function);
            }
            (Some(question), None) => match self.holds(question, place, Asks::When) {
                Ok(true) => {}
                Ok(false) => return skipped("condition", None),
                // What cannot be told does not hold.
                Err(error) => return skipped("condition", Some(Value::String(error.body().message.clone()))),
            },
        }
        match self.act(place, node, turn, &effect_id, now_ms) {
            Ok(event) => event,
            Err(error) => failed(effect_id, self.at_step(error, place)),
        }
    }

    /// A question to a function; again, where the run ended before it was answered.
    fn asked(&self, id: EffectId, function: &Arc<str>) -> EventBody {
        let turn = Turn { attempts: self.state.lost.get(&id).copied().unwrap_or_default(), ..Turn::FIRST };
        started(id, EffectKind::Call, function, &turn, None)
    }

    fn lacks(&self, place: Place, node: &Node) -> bool {
        let nodes = &self.state.running(place.scope).nodes;
        let mut skipped = node.after.iter().map(|node| matches!(nodes[*node], Step::Skipped));
        match node.needs {
            Needs::All => skipped.any(|skipped| skipped),
            Needs::None => false,
            _ => !node.after.is_empty() && skipped.all(|skipped| skipped),
        }
    }

    fn act(&self, place: Place, node: &Node, turn: &Turn, effect_id: &EffectId, now_ms: u64) -> Result<EventBody> {
        let id = || effect_id.clone();
        let start = |kind, component: &Arc<str>, due_at_ms| Ok(started(id(), kind, component, turn, due_at_ms));
        let start_own = |kind, word: &str, due_at_ms| Ok(started(id(), kind, word, turn, due_at_ms));
        if let Some(schema) = &node.input_schema {
            let given = turn.input.clone().map_or_else(|| self.given(place), Ok)?;
            if let Some(why) = schema.violations(&given) {
                let message = format!("what step `{effect_id}` is given does not fit its input_schema: {why}");
                return Err(Error::new(codes::INPUT_INVALID, message));
            }
        } else if node.input.as_ref().is_some_and(|input| input.may_fail()) {
            self.given(place)?;
        }
        match &node.action {
            Does::Step(name) => start(EffectKind::Step, name, None),
            Does::Tool(name) => start(EffectKind::Tool, name, None),
            Does::Agent(name) | Does::Workflow(name) => start(EffectKind::Run, name, None),
            Does::Map(made) | Does::Bail(made) => {
                let output = self.made(made, place)?;
                self.check_output(place, &output)?;
                Ok(completed(id(), Some(output)))
            }
            Does::Sleep(made) => {
                let ms = self.time(made, place, effect_id)?;
                start_own(EffectKind::Timer, "", Some(now_ms.saturating_add(ms)))
            }
            Does::SleepUntil(made) => start_own(EffectKind::Timer, "", Some(self.time(made, place, effect_id)?)),
            Does::Wait { signal, timeout_ms } => {
                if let Some((_, data)) = self.state.signals.iter().find(|(name, _)| name == signal) {
                    return Ok(completed(id(), Some(data.clone())));
                }
                let mut pending = Pending::new(id(), PendingKind::Signal);
                pending.signal = Some(signal.clone());
                pending.due_at_ms = timeout_ms.map(|ms| now_ms.saturating_add(ms));
                pending.resume_schema = node.resume_schema.as_ref().map(|(_, text)| text.as_str().to_owned());
                Ok(EventBody::EffectSuspended { pending: pending.into() })
            }
            Does::Suspend { payload, label } => {
                let payload = match payload {
                    Some(made) => self.made(made, place)?,
                    None => self.given(place).map(Arc::unwrap_or_clone).unwrap_or_default(),
                };
                let mut pending = Pending::new(id(), PendingKind::Suspended);
                pending.payload = (!payload.is_null()).then_some(payload);
                pending.label.clone_from(label);
                pending.resume_schema = node.resume_schema.as_ref().map(|(_, text)| text.as_str().to_owned());
                Ok(EventBody::EffectSuspended { pending: pending.into() })
            }
            Does::Foreach { .. } => match &*self.given(place)? {
                Value::Array(_) => start_own(EffectKind::Group, "foreach", None),
                other => {
                    let message = format!("step `{effect_id}` goes through a list, was given {}", kind_of(other));
                    Err(Error::new(codes::INPUT_INVALID, message))
                }
            },
            Does::Loop { .. } => start_own(EffectKind::Group, "loop", None),
        }
    }

    fn time(&self, made: &crate::workflow::mapping::Made, place: Place, effect_id: &EffectId) -> Result<u64> {
        let value = self.made(made, place)?;
        // A sum of floats may be whole, too.
        let whole = value.as_f64().filter(|ms| *ms >= 0.0 && ms.fract() == 0.0 && *ms < 9.0e15).map(|ms| ms as u64);
        value.as_u64().or(whole).ok_or_else(|| {
            let message = format!("step `{effect_id}` sleeps a whole number of milliseconds, not {value}");
            Error::new(codes::INPUT_INVALID, message)
        })
    }

    /// Whether a loop goes on.
    fn decide(&self, place: Place) -> EventBody {
        let Does::Loop { condition, until, max, .. } = &self.node(place).action else {
            unreachable!("only loops decide")
        };
        let Step::Group(group) = self.state.step(place) else { unreachable!("a loop that decides is a group") };
        let word = if *until { "until" } else { "while" };
        let id: EffectId = format!("{}.{}.{word}", self.effect_id(place), group.begun - 1).into();
        let holds = match condition {
            Question::Function(function) => return self.asked(id, function),
            question => self.holds(question, place, Asks::Again),
        };
        // What cannot be told does not hold: a `while` ends. An `until` that never holds ends at `max`.
        let holds = holds.unwrap_or(false);
        if holds != *until && group.begun >= *max as usize {
            return failed(self.effect_id(place), self.exhausted(place, *max));
        }
        completed(id, Some(Value::Bool(holds)))
    }

    pub(super) fn exhausted(&self, place: Place, max: u32) -> ErrorBody {
        let id = self.effect_id(place);
        let message = format!("loop `{id}` ran {max} times and was not done: raise its `max`, or change its condition");
        self.at_step(Error::new(codes::LOOP_EXHAUSTED, message), place)
    }

    /// The last of a group's steps has ended. What it came to follows from them, and is not said again.
    fn end(&self, place: Place) -> EventBody {
        let Step::Group(group) = self.state.step(place) else { unreachable!("only groups end") };
        let schema = &self.node(place).output_schema;
        if schema.is_some() {
            let output = self.group_output(place, &group.results);
            if let Err(error) = self.check_output(place, &output) {
                return failed(self.effect_id(place), self.at_step(error, place));
            }
        }
        completed(self.effect_id(place), None)
    }

    pub(super) fn group_output(&self, place: Place, results: &[Arc<Value>]) -> Arc<Value> {
        match self.node(place).action {
            Does::Loop { .. } => results.last().cloned().unwrap_or_default(),
            _ => Arc::new(results.iter().map(|result| Value::clone(result)).collect()),
        }
    }

    pub(super) fn check_output(&self, place: Place, output: &Value) -> Result<()> {
        let id = || self.effect_id(place);
        let limit = self.plan.spec.limits.result_bytes();
        let size = crate::machine::json_size(output);
        if size > limit {
            let message = format!(
                "the result of step `{}` has {size} bytes, more than limits.result_bytes = {limit}: keep it elsewhere and give a reference",
                id()
            );
            return Err(Error::new(codes::RESULT_TOO_LARGE, message));
        }
        check_depth(output, codes::STEP_RESULT_INVALID, || format!("the result of step `{}`", id()))?;
        match self.node(place).output_schema.as_ref().and_then(|schema| schema.violations(output)) {
            Some(why) => Err(Error::new(
                codes::STEP_RESULT_INVALID,
                format!("the result of step `{}` does not fit its output_schema: {why}", id()),
            )),
            None => Ok(()),
        }
    }

    /// An error that names its step.
    pub(super) fn at_step(&self, error: Error, place: Place) -> ErrorBody {
        let mut body = error.body().clone();
        body.details.insert("step".into(), self.effect_id(place).as_str().into());
        body
    }

    /// Ends a run that failed, bailed or was cancelled, one event at a time.
    fn close(&self) -> Option<EventBody> {
        let state = &self.state;
        // What has a grace is still waited for; sleeps have nothing to tell.
        if state.cancelling && state.bailed.is_none() && state.failure.is_none() && state.is_busy() {
            return None;
        }
        if let Some((id, _)) = state.open.iter().find(|(_, open)| !matches!(open.status, OpenStatus::Suspended(_))) {
            return Some(failed(id.clone(), cancelled_error()));
        }
        Some(match (&state.failure, &state.bailed) {
            // A run that was told to stop is cancelled, whatever its effects then said.
            _ if state.cancelling => self.finished(Outcome::Cancelled, None, None),
            (Some(error), _) => self.finished(Outcome::Failed, None, Some(error.clone())),
            (None, bailed) => self.finished(Outcome::Bailed, bailed.clone(), None),
        })
    }

    fn finish(&self) -> EventBody {
        let output = self.came_to(0).and_then(|output| {
            match self.plan.output.as_ref().and_then(|schema| schema.violations(&output)) {
                Some(why) => Err(Error::new(
                    codes::OUTPUT_INVALID,
                    format!("what workflow `{}` came to does not fit its output_schema: {why}", self.plan.spec.name),
                )),
                None => Ok(output),
            }
        });
        match output {
            Ok(output) => self.finished(Outcome::Completed, Some(Arc::unwrap_or_clone(output)), None),
            Err(error) => self.finished(Outcome::Failed, None, Some(error.body().clone())),
        }
    }

    fn finished(&self, outcome: Outcome, output: Option<Value>, error: Option<ErrorBody>) -> EventBody {
        let output = output.map(|value| {
            let mut output = RunOutput::default();
            output.object = Some(value);
            output
        });
        EventBody::RunFinished {
            outcome,
            output: output.map(Box::new),
            error: error.map(Box::new),
            usage: self.state.usage,
            cost_nano_usd: self.cost_nano_usd(),
        }
    }
}

pub(super) fn started(
    effect_id: EffectId,
    kind: EffectKind,
    component: &str,
    turn: &Turn,
    due_at_ms: Option<u64>,
) -> EventBody {
    EventBody::EffectStarted {
        effect_id,
        kind,
        // The run's own: a count that the runs of all threads keep together costs each of them more than the copy.
        component: component.into(),
        attempt: turn.attempts + 1,
        choice: 0,
        call_id: None,
        resume: turn.resume.clone(),
        due_at_ms,
        input: turn.input.clone(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
