//! Events become state. The only place where it changes.

use std::sync::Arc;

use lomusai_wire::{
    EffectKind, ErrorBody, EventBody, Message, Outcome, Part, Role, SignalKind, StopCondition, ToolResult, ToolStatus,
    codes,
};
use serde_json::Value;

use super::{AgentMachine, ENDS_THE_RUN, FEEDBACK, next_step, parse_reply};
use crate::agent::state::{Abort, Call, HookReply, Open, OpenStatus, Phase, ProcessorReply, RunResult};
use crate::transcript::{self, CANCELLED, Transcript};

impl AgentMachine {
    /// Changes the state by one event. The only place that does.
    pub fn apply(&mut self, event: &EventBody) {
        let state = &mut self.state;
        match event {
            EventBody::RunStarted(started) => {
                started.input.iter().for_each(|message| state.messages.record(message));
                state.number = transcript::next_number(&state.messages);
                state.phase = Phase::Preparing;
            }
            EventBody::RunSuspended { .. } => state.suspended = true,
            EventBody::RunResumed => state.suspended = false,
            EventBody::RunCancelling { reason, .. } => {
                // What it waited for does not matter any more, other than that its children have to end.
                (state.cancelling, state.suspended) = (true, false);
                state.cancel_reason.clone_from(reason);
            }
            EventBody::RunFinished { outcome, output, error, .. } => {
                state.result = Some(RunResult { outcome: *outcome, output: output.clone(), error: error.clone() });
                state.phase = Phase::Closed;
                state.suspended = false;
                state.open.clear();
            }
            EventBody::EffectStarted { effect_id, kind, component, attempt, choice, call_id, resume, .. } => {
                let call = call_id.as_ref().and_then(|id| state.call_place(effect_id, id));
                let open = Open {
                    effect_id: effect_id.clone(),
                    kind: *kind,
                    component: component.clone(),
                    attempt: *attempt,
                    choice: *choice,
                    tries: match state.open(effect_id) {
                        Some(before) if before.choice == *choice => before.tries + 1,
                        _ => 1,
                    },
                    next_choice: *choice,
                    call,
                    resume: resume.clone(),
                    status: OpenStatus::Running,
                };
                if let Some(call) = call
                    && *kind != EffectKind::Call
                {
                    state.calls[call].attempts = *attempt;
                }
                state.close(effect_id);
                state.open.push(open);
            }
            EventBody::EffectSuspended { pending } => {
                let call = pending.call_id.as_ref().and_then(|id| state.call_place(&pending.effect_id, id));
                let old = state.close(&pending.effect_id);
                state.open.push(Open {
                    effect_id: pending.effect_id.clone(),
                    kind: old.as_ref().map_or(EffectKind::Tool, |old| old.kind),
                    component: old
                        .as_ref()
                        .map_or_else(|| pending.tool.clone().unwrap_or_default().into(), |old| old.component.clone()),
                    attempt: old.as_ref().map_or(0, |old| old.attempt),
                    choice: 0,
                    tries: 1,
                    next_choice: 0,
                    call,
                    resume: None,
                    status: OpenStatus::Suspended(pending.clone()),
                });
            }
            EventBody::EffectCompleted { effect_id, output, content, finish, usage, cost_nano_usd } => {
                state.spend(effect_id, *usage, *cost_nano_usd);
                if finish.is_some() {
                    state.finish = *finish;
                }
                if let Some(open) = state.close(effect_id) {
                    self.completed(&open, output.as_deref().cloned().unwrap_or_default(), content);
                }
            }
            EventBody::EffectFailed { effect_id, error, retry_at_ms, usage, cost_nano_usd } => {
                state.spend(effect_id, *usage, *cost_nano_usd);
                match retry_at_ms {
                    Some(at) => {
                        let next = self.state.open(effect_id).and_then(|open| self.next_try(open, error));
                        if let Some(open) = self.state.open.iter_mut().find(|open| open.effect_id == *effect_id) {
                            open.status = OpenStatus::Waiting(*at);
                            open.next_choice = next.map_or(open.choice, |(choice, _)| choice);
                        }
                    }
                    None => {
                        if let Some(open) = state.close(effect_id) {
                            self.failed(&open, error);
                        }
                    }
                }
            }
            EventBody::EffectSkipped { effect_id, call_id, why, output } => {
                state.close(effect_id);
                if let Some(place) = call_id.as_ref().and_then(|id| state.call_place(effect_id, id)) {
                    let call = &mut state.calls[place];
                    let status = if why == "declined" { ToolStatus::Denied } else { ToolStatus::Error };
                    call.result = Some(ToolResult::new(&call.call, status, output.clone().unwrap_or_default()));
                }
            }
            EventBody::MessageCompleted { message } => self.said(message),
            EventBody::SignalReceived { signal, effect_id: Some(effect_id), data, .. } => {
                let place = state.open(effect_id).and_then(|open| open.call);
                if let Some(place) = place {
                    let call = &mut state.calls[place];
                    match signal {
                        SignalKind::Approve => call.approved = true,
                        SignalKind::Resume => call.resume = Some(Arc::new(data.clone().unwrap_or_default())),
                        // What follows answers the effect, which stays open until then.
                        _ => return,
                    }
                    state.close(effect_id);
                }
            }
            _ => {}
        }
        self.settle();
    }

    pub(super) fn completed(&mut self, open: &Open, output: Value, content: &[Part]) {
        let state = &mut self.state;
        let Some(place) = open.call else {
            if open.kind == EffectKind::Call {
                self.answered(open, output);
            }
            return;
        };
        let call = &mut state.calls[place];
        if open.kind != EffectKind::Call {
            let mut result = ToolResult::new(&call.call, ToolStatus::Ok, output);
            result.content = content.to_vec();
            (call.result, call.ran) = (Some(result), true);
            return;
        }
        if open.effect_id.as_str().contains(".approval.") {
            call.rules += 1;
            call.wait |= output.as_bool() == Some(true);
            return;
        }
        let reply: HookReply = parse_reply(&output).unwrap_or_default();
        if open.effect_id.as_str().ends_with(".before") {
            call.before_done = true;
            call.arguments = reply.arguments.map(|arguments| arguments.to_string());
            if let Some(output) = reply.output {
                call.result = Some(ToolResult::new(&call.call, ToolStatus::Ok, output));
            }
        } else {
            call.after_done = true;
            if let (Some(output), Some(result)) = (reply.output, &mut call.result) {
                result.output = output;
            }
        }
    }

    /// A function of the phase's chain answered.
    pub(super) fn answered(&mut self, open: &Open, output: Value) {
        let inputs = self.plan.agent().processors.input.len();
        let state = &mut self.state;
        state.chain += 1;
        match state.phase {
            Phase::Preparing if state.chain > inputs => state.instructions = output.as_str().map(str::to_owned),
            Phase::Reviewing => {
                state.stop |= open.effect_id.as_str().contains(".stop.") && output.as_bool() == Some(true);
            }
            phase => {
                let reply: ProcessorReply = parse_reply(&output).unwrap_or_default();
                state.abort = reply.abort;
                if phase == Phase::StepStart {
                    let overlay = &mut state.overlay;
                    if let Some(messages) = reply.messages {
                        overlay.messages = Some(transcript::number(messages, 0));
                    }
                    overlay.instructions = reply.instructions.or(overlay.instructions.take());
                    overlay.tools = reply.tools.or(overlay.tools.take());
                    overlay.tool_choice = reply.tool_choice.or(overlay.tool_choice.take());
                    overlay.settings = reply.settings.or(overlay.settings.take());
                } else if phase == Phase::Preparing
                    && let Some(messages) = reply.messages
                {
                    let whole = self.followed_by(self.state.history, messages);
                    self.state.number = transcript::next_number(&whole);
                    // Checked before it was recorded.
                    self.state.messages = Transcript::new(whole).unwrap_or_default();
                }
            }
        }
    }

    pub(super) fn failed(&mut self, open: &Open, error: &ErrorBody) {
        let state = &mut self.state;
        let told = |status, call: &Call| ToolResult::new(&call.call, status, Value::String(error.message.clone()));
        match open.call {
            Some(place) if open.kind != EffectKind::Call => {
                let call = &mut state.calls[place];
                let cancelled = error.code == codes::RUN_CANCELLED.name;
                let result = if cancelled {
                    ToolResult::new(&call.call, ToolStatus::Cancelled, Value::String(CANCELLED.into()))
                } else {
                    told(ToolStatus::Error, call)
                };
                // The after-hook sees failures too, but not what the engine itself ended.
                call.ran = !cancelled;
                call.result = Some(result);
                if ENDS_THE_RUN.contains(&error.code.as_str()) {
                    state.failure = Some(error.clone());
                }
            }
            // A stream processor refused the answer; it may send the model back.
            None if error.code == codes::PROCESSOR_ABORTED.name => {
                let detail = |key: &str| error.details.get(key).cloned().unwrap_or_default();
                let reason = detail("reason").as_str().unwrap_or(&error.message).to_owned();
                state.abort = Some(Abort { reason, retry: detail("retry").as_bool().unwrap_or(false) });
            }
            _ => state.failure = Some(error.clone()),
        }
    }

    pub(super) fn said(&mut self, message: &Arc<Message>) {
        let state = &mut self.state;
        // A later message of the same id replaces the earlier: an output processor changed it.
        if state.messages.replace(message.clone()).is_ok() {
            return;
        }
        state.messages.record(message);
        state.number += 1;
        match message.role {
            Role::Assistant if state.phase == Phase::Thinking && !message.metadata.contains_key("partial") => {
                let step = state.step;
                let calls = message.tool_calls().enumerate();
                state.calls =
                    calls.map(|(index, call)| Call::new(call.clone(), format!("{step}.{index}").into())).collect();
                state.phase = if state.calls.is_empty() { Phase::Reviewing } else { Phase::Acting };
                (state.chain, state.stop, state.calls_done) = (0, false, 0);
            }
            Role::Tool if state.phase == Phase::Acting => {
                state.phase = Phase::Reviewing;
                state.chain = 0;
            }
            Role::User => {
                match message.metadata.get(FEEDBACK).and_then(Value::as_str) {
                    Some("output") => state.output_retries += 1,
                    _ => state.processor_retries += 1,
                }
                state.abort = None;
                next_step(state);
            }
            _ => {}
        }
    }

    /// Moves on where nothing has to be asked or said first.
    pub(super) fn settle(&mut self) {
        // A run that ends stays where it is: it asks for no further step, so it counts none.
        if self.state.failure.is_some() || self.state.cancelling {
            return;
        }
        if self.state.phase == Phase::Acting {
            while self.state.calls_done < self.state.calls.len() && self.is_done(self.state.calls_done) {
                self.state.calls_done += 1;
            }
        }
        let done = self.chain_item().is_none() && self.state.abort.is_none();
        match self.state.phase {
            Phase::Preparing if done => next_step(&mut self.state),
            Phase::Reviewing if done => {
                let goes_on = !self.state.calls.is_empty() || self.state.is_paused();
                if !goes_on || self.stops() {
                    self.state.phase = Phase::Finishing(Outcome::Completed);
                } else if self.state.step >= self.max_steps() {
                    self.state.phase = Phase::Finishing(Outcome::Exhausted);
                } else {
                    next_step(&mut self.state);
                }
                if matches!(self.state.phase, Phase::Finishing(_)) {
                    self.state.chain = 0;
                }
            }
            _ => {}
        }
        if self.state.phase == Phase::StepStart && self.chain_item().is_none() && self.state.abort.is_none() {
            self.state.phase = Phase::Thinking;
        }
    }

    pub(super) fn stops(&self) -> bool {
        self.state.stop
            || self.agent().stop.iter().any(|condition| match condition {
                StopCondition::ToolCalled { tool } => self.state.calls.iter().any(|call| call.call.name == *tool),
                StopCondition::TextContains { text } => {
                    self.state.last_assistant().is_some_and(|said| said.text().contains(text.as_str()))
                }
                _ => false,
            })
    }
}
