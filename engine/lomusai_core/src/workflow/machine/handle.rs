//! Inputs become events. Nothing here changes the state.

use std::sync::Arc;

use lomusai_wire::{
    Command, EffectId, EffectKind, ErrorBody, EventBody, Kind, Outcome, Pending, PendingKind, RunOutput, RunStarted,
    SignalKind, SpecKind, SpecRef, StepReply, ToolReply, Usage, codes, normalise,
};
use serde_json::Value;

use super::{Start, WorkflowMachine, cancelled_error, completed, failed, used};
use crate::machine::{ChildOutcome, Input, check_depth};
use crate::workflow::plan::Does;
use crate::workflow::state::{Open, OpenStatus, Phase};
use crate::{Error, Result};

impl WorkflowMachine {
    /// What an input means, as events. Changes nothing.
    ///
    /// # Errors
    /// For commands and starts: what is wrong with them.
    pub fn handle(&self, input: Input, now_ms: u64) -> Result<Vec<EventBody>> {
        if self.state.phase == Phase::Closed {
            return match input {
                Input::Command(Command::Retry) if self.state.outcome == Some(Outcome::Failed) => {
                    Ok(vec![signal(SignalKind::Retry), EventBody::RunResumed])
                }
                Input::Command(Command::Retry) => Err(self.not_failed()),
                Input::Command(_) => Err(Error::new(
                    codes::RUN_FINISHED,
                    format!("run `{}` has ended and takes no commands", self.run_id),
                )
                .with("run_id", self.run_id.as_str())),
                _ => Ok(Vec::new()),
            };
        }
        match input {
            Input::StartWorkflow(start) if self.is_new() => self.start(*start),
            Input::Step(id, outcome) => Ok(self.if_running(&id, |open| self.step_ended(&id, open, outcome, now_ms))),
            Input::Tool(id, outcome) => Ok(self.if_running(&id, |open| self.tool_ended(&id, open, outcome, now_ms))),
            Input::Call(id, outcome) => Ok(self.if_running(&id, |open| self.call_ended(&id, open, outcome))),
            Input::Child(id, outcome) => {
                let open = self.state.open.get(&id);
                Ok(open.map(|open| self.child_ended(&id, open, *outcome, now_ms)).unwrap_or_default())
            }
            Input::Due(id) => Ok(self.state.open.get(&id).map(|open| self.due(&id, open, now_ms)).unwrap_or_default()),
            Input::Command(command) => self.command(command),
            Input::GraceOver => Ok(self.end_all(&cancelled_error(), &[])),
            Input::Fail(error, spent) => {
                let mut events = self.end_all(error.body(), &spent);
                let (mut usage, mut cost) = (self.state.usage, self.state.cost);
                for (_, more, nano_usd) in spent.into_iter().filter(|(_, more, nano_usd)| used(*more, *nano_usd)) {
                    usage += more;
                    cost.add(nano_usd);
                }
                events.push(EventBody::RunFinished {
                    outcome: if self.state.cancelling { Outcome::Cancelled } else { Outcome::Failed },
                    output: None,
                    error: (!self.state.cancelling).then(|| Box::new(error.body().clone())),
                    usage,
                    cost_nano_usd: cost.nano_usd(),
                });
                Ok(events)
            }
            // A run that was told to stop starts nothing again, and its grace ended with the process.
            Input::Recover if self.state.cancelling => Ok(self.end_all(&cancelled_error(), &[])),
            Input::Recover => {
                let running = self.state.open.iter().filter(|(_, open)| open.status == OpenStatus::Running);
                Ok(running.map(|(id, open)| self.restarted(id, open)).collect())
            }
            Input::Custom { effect_id, name, mut data } => {
                let open = self.state.open.get(&effect_id).is_some_and(|open| open.status == OpenStatus::Running);
                normalise(&mut data);
                let event = EventBody::Custom { effect_id: Some(effect_id), name, data, durable: true };
                Ok(if open { vec![event] } else { Vec::new() })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// An answer to an effect that is not at work (any more) means nothing: it is late, or the second one.
    fn if_running(&self, id: &EffectId, f: impl FnOnce(&Open) -> Vec<EventBody>) -> Vec<EventBody> {
        self.state
            .open
            .get(id)
            .filter(|open| open.status == OpenStatus::Running)
            .map(|open| f(open))
            .unwrap_or_default()
    }

    fn start(&self, start: Start) -> Result<Vec<EventBody>> {
        let Start { mut input, mut state, parent, mut context, mut metadata } = start;
        normalise(&mut input);
        state.values_mut().chain(context.values_mut()).chain(metadata.values_mut()).for_each(normalise);
        let workflow = &self.plan.spec.name;
        check_depth(&input, codes::INPUT_INVALID, || format!("the input of workflow `{workflow}`"))?;
        if let Some(why) = self.plan.input.as_ref().and_then(|schema| schema.violations(&input)) {
            let message = format!("the input of workflow `{workflow}` does not fit its input_schema: {why}");
            return Err(Error::new(codes::INPUT_INVALID, message).with("workflow", workflow.as_str()));
        }
        let mut started = RunStarted::new(SpecRef::new(SpecKind::Workflow, workflow, &self.plan.hash));
        started.data = (!input.is_null()).then_some(input);
        (started.state, started.parent, started.metadata, started.context) = (state, parent, metadata, context);
        Ok(vec![EventBody::RunStarted(Box::new(started))])
    }

    // --- Answers -----------------------------------------------------------------------------------------------------

    fn step_ended(&self, id: &EffectId, open: &Open, outcome: Result<Box<StepReply>>, now_ms: u64) -> Vec<EventBody> {
        let StepReply { output, suspend, label, bail, state, .. } = match outcome {
            Ok(reply) if reply.suspend.is_some() && !reply.sql.is_empty() => {
                let message =
                    format!("step `{id}` suspends and gives SQL: that goes with an output, once it is resumed");
                let error = Error::new(codes::STEP_RESULT_INVALID, message);
                return vec![self.failure(id, open, &error, now_ms, Took::default())];
            }
            Ok(reply) => *reply,
            Err(error) => return vec![self.failure(id, open, &error, now_ms, Took::default())],
        };
        if [output.is_some(), suspend.is_some(), bail.is_some()].into_iter().filter(|said| *said).count() > 1 {
            let message = format!("step `{id}` answered in two ways: give one of output, suspend and bail");
            let error = Error::new(codes::STEP_RESULT_INVALID, message);
            return vec![self.failure(id, open, &error, now_ms, Took::default())];
        }
        // With room for what follows: mostly the start of the next step.
        let mut events: Vec<EventBody> = Vec::with_capacity(2 + state.len());
        for (key, mut value) in state {
            normalise(&mut value);
            events.push(EventBody::StateSet { effect_id: Some(id.clone()), key, value });
        }
        if let Some(payload) = suspend {
            return match self.suspended(id, open, payload, label) {
                Ok(pending) => {
                    events.push(EventBody::EffectSuspended { pending: pending.into() });
                    events
                }
                Err(error) => vec![self.failure(id, open, &error, now_ms, Took::default())],
            };
        }
        if let Some(mut result) = bail {
            normalise(&mut result);
            events.push(completed(id.clone(), Some(result.clone())));
            events.extend(self.end_others(id));
            let mut output = RunOutput::default();
            output.object = Some(result);
            let outcome = if self.state.cancelling { Outcome::Cancelled } else { Outcome::Bailed };
            let output = (!self.state.cancelling).then_some(output);
            events.push(EventBody::RunFinished {
                outcome,
                output: output.map(Box::new),
                error: None,
                usage: self.state.usage,
                cost_nano_usd: self.cost_nano_usd(),
            });
            return events;
        }
        let mut output = output.unwrap_or_default();
        normalise(&mut output);
        match self.check_output(open.place, &output) {
            Ok(()) => events.push(completed(id.clone(), Some(output))),
            Err(error) => return vec![self.failure(id, open, &error, now_ms, Took::default())],
        }
        events
    }

    fn suspended(&self, id: &EffectId, open: &Open, mut payload: Value, label: Option<String>) -> Result<Pending> {
        normalise(&mut payload);
        check_depth(&payload, codes::STEP_RESULT_INVALID, || format!("the payload of step `{id}`"))?;
        let node = self.node(open.place);
        if let Some(why) = node.suspend_schema.as_ref().and_then(|schema| schema.violations(&payload)) {
            let message = format!("what step `{id}` said when it suspended does not fit its suspend_schema: {why}");
            return Err(Error::new(codes::STEP_RESULT_INVALID, message));
        }
        let mut pending = Pending::new(id.clone(), PendingKind::Suspended);
        pending.payload = Some(payload);
        pending.label = label;
        pending.resume_schema = node.resume_schema.as_ref().map(|(_, text)| text.as_str().to_owned());
        Ok(pending)
    }

    fn tool_ended(&self, id: &EffectId, open: &Open, outcome: Result<ToolReply>, now_ms: u64) -> Vec<EventBody> {
        let result = match outcome {
            Ok(ToolReply::Output { mut output, content }) => {
                normalise(&mut output);
                self.check_output(open.place, &output).map(|()| EventBody::EffectCompleted {
                    effect_id: id.clone(),
                    output: Some(Arc::new(output)),
                    content,
                    finish: None,
                    usage: Usage::default(),
                    cost_nano_usd: None,
                })
            }
            Ok(ToolReply::Suspend { suspend }) => self
                .suspended(id, open, suspend, None)
                .map(|pending| EventBody::EffectSuspended { pending: pending.into() }),
            Ok(_) => Err(Error::new(
                codes::TOOL_RESULT_INVALID,
                format!("the tool of step `{id}` answered in an unknown way"),
            )),
            Err(error) => Err(error),
        };
        vec![result.unwrap_or_else(|error| self.failure(id, open, &error, now_ms, Took::default()))]
    }

    fn call_ended(&self, id: &EffectId, open: &Open, outcome: Result<Value>) -> Vec<EventBody> {
        let answer = outcome.and_then(|answer| match answer {
            Value::Bool(_) => Ok(answer),
            other => Err(Error::new(
                codes::FUNCTION_REPLY_INVALID,
                format!("function `{}` ({id}) must answer true or false, answered {other}", open.component),
            )
            .with("function", &*open.component)),
        });
        vec![match answer {
            Ok(answer) => completed(id.clone(), Some(answer)),
            Err(error) => failed(id.clone(), self.at_step(error, open.place)),
        }]
    }

    fn child_ended(&self, id: &EffectId, open: &Open, outcome: ChildOutcome, now_ms: u64) -> Vec<EventBody> {
        // A child goes on by commands of its own: that it did shows here when it ends or waits again.
        let mut events = if self.state.suspended { vec![EventBody::RunResumed] } else { Vec::new() };
        match outcome {
            ChildOutcome::Finished {
                outcome: Outcome::Completed | Outcome::Exhausted | Outcome::Bailed,
                output,
                usage,
                cost_nano_usd,
                ..
            } => {
                let output =
                    output.map(|output| output.object.unwrap_or(Value::String(output.text))).unwrap_or_default();
                events.push(match self.check_output(open.place, &output) {
                    Ok(()) => EventBody::EffectCompleted {
                        effect_id: id.clone(),
                        output: Some(Arc::new(output)),
                        content: Vec::new(),
                        finish: None,
                        usage,
                        cost_nano_usd,
                    },
                    Err(error) => self.failure(id, open, &error, now_ms, (usage, cost_nano_usd)),
                });
            }
            ChildOutcome::Finished { error, usage, cost_nano_usd, .. } => {
                let error = error.unwrap_or_else(|| Error::from(cancelled_error()));
                events.push(self.failure(id, open, &error, now_ms, (usage, cost_nano_usd)));
            }
            ChildOutcome::Suspended(reasons) => {
                let mut pending = Pending::new(id.clone(), PendingKind::Child);
                pending.child = Some(self.child_id(id));
                pending.payload = serde_json::to_value(reasons).ok();
                // Children inside of the child have ids of their own in there, which differ from run to run; so do times.
                if let Some(Value::Array(reasons)) = &mut pending.payload {
                    reasons.iter_mut().filter_map(Value::as_object_mut).for_each(|reason| {
                        for key in ["child", "payload", "due_at_ms"] {
                            reason.remove(key);
                        }
                    });
                }
                if matches!(&open.status, OpenStatus::Suspended(known) if **known == pending) {
                    return Vec::new();
                }
                events.push(EventBody::EffectSuspended { pending: pending.into() });
            }
        }
        events
    }

    /// A failure, to be tried again or for good.
    fn failure(&self, id: &EffectId, open: &Open, error: &Error, now_ms: u64, took: Took) -> EventBody {
        let retry = &self.node(open.place).retry;
        let tried = open.tries + 1;
        // Whoever says that it can never succeed is believed.
        let hopeless =
            matches!(error.kind(), Kind::Invalid | Kind::NotFound | Kind::Denied | Kind::Cancelled | Kind::Closed);
        let again = !hopeless && !self.state.cancelling && tried <= retry.max;
        let retry_at_ms =
            again.then(|| now_ms.saturating_add(error.body().retry_after_ms.unwrap_or(retry.wait_ms(tried))));
        EventBody::EffectFailed {
            effect_id: id.clone(),
            error: self.at_step(error.clone(), open.place).into(),
            retry_at_ms,
            usage: took.0,
            cost_nano_usd: took.1,
        }
    }

    fn due(&self, id: &EffectId, open: &Open, now_ms: u64) -> Vec<EventBody> {
        match &open.status {
            // What it gives is what it was given.
            OpenStatus::Sleeping(at) if *at <= now_ms => vec![completed(id.clone(), None)],
            OpenStatus::Waiting(at) if *at <= now_ms && !self.state.cancelling => vec![self.restarted(id, open)],
            OpenStatus::Suspended(pending) if pending.due_at_ms.is_some_and(|at| at <= now_ms) => {
                let signal = pending.signal.as_deref().unwrap_or_default();
                let message = format!("signal `{signal}`, for which step `{id}` waited, did not come in time");
                let error = Error::new(codes::WAIT_TIMEOUT, message).with("signal", signal);
                let resumed = self.state.suspended.then_some(EventBody::RunResumed);
                resumed.into_iter().chain([failed(id.clone(), self.at_step(error, open.place))]).collect()
            }
            _ => Vec::new(),
        }
    }

    fn restarted(&self, id: &EffectId, open: &Open) -> EventBody {
        EventBody::EffectStarted {
            effect_id: id.clone(),
            kind: open.kind,
            component: self.component(open).into(),
            attempt: open.attempt + 1,
            choice: 0,
            call_id: None,
            resume: open.resume.clone(),
            due_at_ms: None,
            input: open.input.clone(),
        }
    }

    fn end_all(&self, error: &ErrorBody, spent: &[(EffectId, Usage, Option<u64>)]) -> Vec<EventBody> {
        let suspended = |open: &Open| matches!(open.status, OpenStatus::Suspended(_));
        let open = self.state.open.iter().filter(|(_, open)| !suspended(open) || open.kind == EffectKind::Run);
        open.map(|(id, _)| {
            let of_child = spent.iter().find(|(child, ..)| child == id);
            let (usage, cost_nano_usd) = of_child.map_or_else(Default::default, |(_, usage, cost)| (*usage, *cost));
            let (effect_id, error) = (id.clone(), error.clone());
            EventBody::EffectFailed { effect_id, error: error.into(), retry_at_ms: None, usage, cost_nano_usd }
        })
        .collect()
    }

    fn end_others(&self, id: &EffectId) -> Vec<EventBody> {
        let mut events = self.end_all(&cancelled_error(), &[]);
        events.retain(|event| event.effect_id() != Some(id));
        events
    }

    // --- Commands ----------------------------------------------------------------------------------------------------

    fn command(&self, command: Command) -> Result<Vec<EventBody>> {
        match command {
            Command::Cancel { .. } if self.state.cancelling => Ok(Vec::new()),
            Command::Cancel { grace_ms, reason } => Ok(vec![EventBody::RunCancelling { grace_ms, reason }]),
            Command::Resume { effect_id, label, data } => self.resume(effect_id.as_ref(), label.as_deref(), data),
            Command::Signal { name, data } => self.signal(name, data),
            Command::Retry => Err(self.not_failed()),
            _ => Err(Error::new(
                codes::UNSUPPORTED,
                "a workflow's run takes the commands resume, signal, retry and cancel: send this one to the agent's run that waits",
            )),
        }
    }

    fn not_failed(&self) -> Error {
        let status = self.status().as_str();
        Error::new(
            codes::RUN_NOT_FAILED,
            format!("run `{}` is {status}: only a run that has failed can be tried again", self.run_id),
        )
        .with("run_id", self.run_id.as_str())
        .with("status", status)
    }

    fn resume(&self, effect_id: Option<&EffectId>, label: Option<&str>, mut data: Value) -> Result<Vec<EventBody>> {
        let waits = self.state.open.iter().filter_map(|(id, open)| match &open.status {
            OpenStatus::Suspended(pending) if pending.reason == PendingKind::Suspended => Some((id, open, &**pending)),
            _ => None,
        });
        let fits: Vec<_> = waits
            .filter(|(id, ..)| effect_id.is_none_or(|wanted| wanted == *id))
            .filter(|(_, _, pending)| label.is_none_or(|label| pending.label.as_deref() == Some(label)))
            .collect();
        let [(id, open, _)] = fits[..] else {
            let asked = match (effect_id, label) {
                (Some(id), _) => format!("step `{id}`"),
                (None, Some(label)) => format!("just one step with the label `{label}`"),
                (None, None) => "just one step".to_owned(),
            };
            return Err(self.nothing_waits(&format!("the command needs {asked} that is suspended")));
        };
        normalise(&mut data);
        let node = self.node(open.place);
        if let Some((schema, _)) = &node.resume_schema
            && let Some(why) = schema.violations(&data)
        {
            return Err(Error::new(
                codes::RESUME_INVALID,
                format!("what resumes step `{id}` does not fit its resume_schema: {why}"),
            )
            .with("effect_id", id.as_str()));
        }
        let declared = matches!(node.action, Does::Suspend { .. });
        if declared {
            self.check_output(open.place, &data)?;
        }
        let mut events = vec![EventBody::SignalReceived {
            signal: SignalKind::Resume,
            name: None,
            effect_id: Some(id.clone()),
            data: Some(data.clone()),
        }];
        events.extend(self.state.suspended.then_some(EventBody::RunResumed));
        if declared {
            events.push(completed(id.clone(), Some(data)));
        }
        Ok(events)
    }

    fn signal(&self, name: String, mut data: Value) -> Result<Vec<EventBody>> {
        normalise(&mut data);
        check_depth(&data, codes::RESUME_INVALID, || format!("the data of signal `{name}`"))?;
        if self.plan.waits_for(&name).next().is_none() {
            let known: Vec<&str> = self.plan.signals().into_iter().collect();
            let known = if known.is_empty() {
                "it waits for none".to_owned()
            } else {
                format!("it waits for {}", known.join(", "))
            };
            return Err(Error::new(
                codes::EFFECT_UNKNOWN,
                format!("no step of workflow `{}` waits for signal `{name}`: {known}", self.plan.spec.name),
            )
            .with("signal", name));
        }
        for node in self.plan.waits_for(&name) {
            if let Some((schema, _)) = &node.resume_schema
                && let Some(why) = schema.violations(&data)
            {
                return Err(Error::new(
                    codes::RESUME_INVALID,
                    format!("the data of signal `{name}` does not fit the resume_schema of step `{}`: {why}", node.id),
                )
                .with("signal", name.as_str()));
            }
        }
        let mut waiting: Vec<&EffectId> = self
            .state
            .open
            .iter()
            .filter(|(_, open)| match &open.status {
                OpenStatus::Suspended(pending) => pending.signal.as_deref() == Some(&*name),
                _ => false,
            })
            .map(|(id, _)| id)
            .collect();
        waiting.sort_by(|a, b| a.canonical_cmp(b));
        let first = waiting.first().map(|id| (*id).clone());
        let mut events = vec![EventBody::SignalReceived {
            signal: SignalKind::Signal,
            name: Some(name),
            effect_id: first.clone(),
            data: Some(data.clone()),
        }];
        if let Some(id) = first {
            events.extend(self.state.suspended.then_some(EventBody::RunResumed));
            events.push(completed(id, Some(data)));
        }
        Ok(events)
    }

    fn nothing_waits(&self, what: &str) -> Error {
        let waiting: Vec<String> = self
            .pending()
            .iter()
            .map(|p| {
                let reason = serde_json::json!(p.reason).as_str().unwrap_or_default().to_owned();
                format!("{} ({reason})", p.effect_id)
            })
            .collect();
        let waiting = if waiting.is_empty() {
            "nothing waits".to_owned()
        } else {
            format!("what waits is {}", waiting.join(", "))
        };
        Error::new(codes::EFFECT_UNKNOWN, format!("{what} in run `{}`: {waiting}", self.run_id))
            .with("run_id", self.run_id.as_str())
    }
}

/// Tokens that an effect took, and what they cost where that is known.
type Took = (Usage, Option<u64>);

fn signal(signal: SignalKind) -> EventBody {
    EventBody::SignalReceived { signal, name: None, effect_id: None, data: None }
}
