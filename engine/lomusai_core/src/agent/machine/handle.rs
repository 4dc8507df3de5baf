//! Inputs become events. Nothing here changes the state.

use std::sync::Arc;

use lomusai_wire::{
    Command, EffectId, EffectKind, ErrorBody, EventBody, FinishReason, Message, Outcome, Part, Pending, PendingKind,
    Role, RunStarted, SignalKind, SpecKind, SpecRef, ToolReply, Usage, codes, normalise,
};
use serde_json::Value;

use super::{AgentMachine, DECLINED, Start, WRITTEN_BY, cancelled_error, parse_reply};
use crate::agent::state::{Call, HookReply, Open, OpenStatus, Phase, ProcessorReply};
use crate::machine::{ChildOutcome, Input, ModelOutcome, check_depth, json_size, message_size};
use crate::transcript::{self, PAUSED, is_paused};
use crate::{Error, Result};

impl AgentMachine {
    /// What an input means, as events. Changes nothing.
    ///
    /// # Errors
    /// For commands and starts: what is wrong with them.
    pub fn handle(&self, input: Input, now_ms: u64) -> Result<Vec<EventBody>> {
        if self.state.phase == Phase::Closed {
            return match input {
                Input::Command(_) => Err(Error::new(
                    codes::RUN_FINISHED,
                    format!("run `{}` has ended and takes no commands", self.run_id),
                )
                .with("run_id", self.run_id.as_str())),
                _ => Ok(Vec::new()),
            };
        }
        match input {
            Input::Start(start) => self.start(*start),
            Input::Model(id, outcome) => Ok(self.if_running(&id, |open| self.model_ended(open, *outcome, now_ms))),
            Input::Tool(id, outcome) => Ok(self.if_running(&id, |open| self.tool_ended(open, outcome))),
            Input::Child(id, outcome) => {
                Ok(self.state.open(&id).map(|open| self.child_ended(open, *outcome)).unwrap_or_default())
            }
            Input::Call(id, outcome) => Ok(self.if_running(&id, |open| self.call_ended(open, outcome))),
            Input::Due(id) => Ok(match self.state.open(&id) {
                Some(open) if matches!(open.status, OpenStatus::Waiting(_)) => vec![self.restarted(open)],
                _ => Vec::new(),
            }),
            Input::Command(command) => self.command(command),
            Input::GraceOver => Ok(self.fail_running(&cancelled_error(), &[])),
            Input::Fail(error, spent) => Ok(self.fail_running(error.body(), &spent)),
            Input::StartWorkflow(_) | Input::Step(..) => Ok(Vec::new()),
            // A run that was told to stop starts nothing again, and its grace ended with the process.
            Input::Recover if self.state.cancelling => Ok(self.fail_running(&cancelled_error(), &[])),
            Input::Recover => Ok(self
                .state
                .open
                .iter()
                .filter(|open| open.status == OpenStatus::Running)
                .map(|open| self.restarted(open))
                .collect()),
            Input::Custom { effect_id, name, mut data } => Ok(self.if_running(&effect_id, |open| {
                normalise(&mut data);
                vec![EventBody::Custom { effect_id: Some(open.effect_id.clone()), name, data, durable: true }]
            })),
        }
    }

    /// An answer to an effect that is not at work (any more) means nothing: it is late, or the second one.
    pub(super) fn if_running(&self, id: &EffectId, f: impl FnOnce(&Open) -> Vec<EventBody>) -> Vec<EventBody> {
        self.state.open(id).filter(|open| open.status == OpenStatus::Running).map(f).unwrap_or_default()
    }

    pub(super) fn start(&self, start: Start) -> Result<Vec<EventBody>> {
        let Start { input, history, thread, parent, mut context, mut metadata } = start;
        context.values_mut().chain(metadata.values_mut()).for_each(normalise);
        // A conversation that waits for an answer can be gone on with as it is: after a budget was exhausted, for example.
        let waits = self
            .state
            .messages
            .last()
            .is_some_and(|last| matches!(last.role, Role::User | Role::Tool) || is_paused(last));
        let says = input.iter().any(|message| !message.parts.is_empty());
        if !(says || input.is_empty() && waits) {
            return Err(Error::new(
                codes::INPUT_EMPTY,
                "a run needs at least one message with a part: pass `input`, or a history whose last message waits for an answer",
            ));
        }
        let limit = self.agent().limits.message_bytes();
        if let Some(size) = input.iter().map(message_size).find(|size| *size > limit) {
            let message = format!(
                "a message of the input has {size} bytes, more than limits.message_bytes = {limit}: say less in it, or raise the limit"
            );
            return Err(Error::new(codes::MESSAGE_TOO_LARGE, message).with("limit", limit));
        }
        let whole = self.followed_by(self.state.history, input);
        transcript::check(&whole)?;
        let input = whole[self.state.history..].to_vec();
        let mut started = RunStarted::new(SpecRef::new(SpecKind::Agent, &self.agent().name, &self.plan.plan.hash));
        (started.input, started.history, started.thread, started.parent) = (input, history, thread, parent);
        (started.metadata, started.context, started.options) = (metadata, context, self.state.options.clone());
        Ok(vec![EventBody::RunStarted(Box::new(started))])
    }

    pub(super) fn model_ended(&self, open: &Open, outcome: ModelOutcome, now_ms: u64) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        match outcome {
            ModelOutcome::Answered(answer) => {
                let finish = Some(answer.finish);
                let mut message = self.written(open, answer.message);
                if answer.finish == FinishReason::ContentFilter {
                    // Cut off where a filter stepped in: a call may be whole by chance, and is not what the model came to.
                    message.parts.retain(|part| !matches!(part, Part::ToolCall(_)));
                }
                if answer.finish == FinishReason::Paused && message.tool_calls().next().is_none() {
                    message.metadata.insert(PAUSED.into(), true.into());
                    // Nobody else can go on with it.
                    message.metadata.insert(WRITTEN_BY.into(), (*open.component).into());
                }
                vec![
                    EventBody::EffectCompleted {
                        effect_id,
                        output: None,
                        content: Vec::new(),
                        finish,
                        usage: answer.usage,
                        cost_nano_usd: answer.cost_nano_usd,
                    },
                    EventBody::MessageCompleted { message: Arc::new(message) },
                ]
            }
            ModelOutcome::Failed { error, partial, usage, cost_nano_usd } => {
                let next = self.next_try(open, error.body()).filter(|_| !self.state.cancelling);
                let retry_at_ms = next.map(|(_, wait_ms)| now_ms.saturating_add(wait_ms));
                let mut events = Vec::new();
                // What a processor refused is not kept.
                let refused = error.is(codes::PROCESSOR_ABORTED);
                if next.is_none()
                    && !refused
                    && let Some(answer) = partial
                {
                    // What was shown is what is recorded.
                    let mut message = self.written(open, answer.message);
                    message.metadata.insert("partial".into(), true.into());
                    events.push(EventBody::MessageCompleted { message: Arc::new(message) });
                }
                let error = error.body().clone();
                events.push(EventBody::EffectFailed {
                    effect_id,
                    error: error.into(),
                    retry_at_ms,
                    usage,
                    cost_nano_usd,
                });
                events
            }
        }
    }

    /// A model's message with its id, and with the model's name where a later reader needs it.
    fn written(&self, open: &Open, mut message: Message) -> Message {
        message.id = Some(transcript::message_id(self.state.number));
        if open.choice > 0 || transcript::is_bound(&message) {
            message.metadata.insert(WRITTEN_BY.into(), (*open.component).into());
        }
        message
    }

    pub(super) fn tool_ended(&self, open: &Open, outcome: Result<ToolReply>) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let call = &self.state.calls[open.call.expect("a tool effect serves a call")];
        let failed = |error: Error| {
            vec![EventBody::EffectFailed {
                effect_id: open.effect_id.clone(),
                error: Box::new(error.body().clone()),
                retry_at_ms: None,
                usage: Usage::default(),
                cost_nano_usd: None,
            }]
        };
        match outcome {
            Ok(ToolReply::Output { mut output, content }) => {
                normalise(&mut output);
                if let Err(error) = self.check_result(call, &output) {
                    return failed(error);
                }
                vec![EventBody::EffectCompleted {
                    effect_id,
                    output: Some(Arc::new(output)),
                    content,
                    finish: None,
                    usage: Usage::default(),
                    cost_nano_usd: None,
                }]
            }
            Ok(ToolReply::Suspend { suspend: mut payload }) => {
                normalise(&mut payload);
                let what = || format!("the payload of tool `{}`", call.call.name);
                if let Err(error) = check_depth(&payload, codes::TOOL_RESULT_INVALID, what) {
                    return failed(error);
                }
                let tool = self.plan.tool(&call.call.name);
                let mut pending = self.pending_for(call, PendingKind::Suspended);
                pending.payload = Some(payload);
                pending.resume_schema =
                    tool.and_then(|tool| tool.spec.resume_schema.as_ref()).map(|schema| schema.as_str().to_owned());
                vec![EventBody::EffectSuspended { pending: pending.into() }]
            }
            Ok(_) => failed(Error::new(
                codes::TOOL_RESULT_INVALID,
                format!("tool `{}` answered in an unknown way", call.call.name),
            )),
            Err(error) => failed(error),
        }
    }

    pub(super) fn check_result(&self, call: &Call, output: &Value) -> Result<()> {
        let limit = self.agent().limits.result_bytes();
        let size = json_size(output);
        if size > limit {
            return Err(Error::new(
                codes::RESULT_TOO_LARGE,
                format!(
                    "the result of tool `{}` has {size} bytes, more than limits.result_bytes = {limit}",
                    call.call.name
                ),
            ));
        }
        check_depth(output, codes::TOOL_RESULT_INVALID, || format!("the result of tool `{}`", call.call.name))?;
        let schema = self.plan.tool(&call.call.name).and_then(|tool| tool.output.as_ref());
        match schema.and_then(|schema| schema.violations(output)) {
            Some(why) => Err(Error::new(
                codes::TOOL_RESULT_INVALID,
                format!("the result of tool `{}` does not fit its output_schema: {why}", call.call.name),
            )),
            None => Ok(()),
        }
    }

    pub(super) fn child_ended(&self, open: &Open, outcome: ChildOutcome) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let call = &self.state.calls[open.call.expect("a run effect serves a call")];
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
                let output = output.map(|output| output.object.unwrap_or(Value::String(output.text)));
                events.push(EventBody::EffectCompleted {
                    effect_id,
                    output: output.map(Arc::new),
                    content: Vec::new(),
                    finish: None,
                    usage,
                    cost_nano_usd,
                });
            }
            ChildOutcome::Finished { error, usage, cost_nano_usd, .. } => {
                let error = error.map_or_else(cancelled_error, |error| error.body().clone());
                events.push(EventBody::EffectFailed {
                    effect_id,
                    error: error.into(),
                    retry_at_ms: None,
                    usage,
                    cost_nano_usd,
                });
            }
            ChildOutcome::Suspended(reasons) => {
                let mut pending = self.pending_for(call, PendingKind::Child);
                pending.child = Some(self.child_id(&open.effect_id));
                pending.payload = serde_json::to_value(reasons).ok();
                // Children inside of the child have ids of their own in there, which differ from run to run.
                if let Some(Value::Array(reasons)) = &mut pending.payload {
                    reasons.iter_mut().filter_map(Value::as_object_mut).for_each(|reason| {
                        reason.remove("child");
                        reason.remove("payload");
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

    pub(super) fn call_ended(&self, open: &Open, outcome: Result<Value>) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let failed = |error: &Error| {
            vec![EventBody::EffectFailed {
                effect_id: effect_id.clone(),
                error: Box::new(error.body().clone()),
                retry_at_ms: None,
                usage: Usage::default(),
                cost_nano_usd: None,
            }]
        };
        let mut output = match outcome {
            Ok(output) => output,
            Err(error) => return failed(&error),
        };
        normalise(&mut output);
        let what = || format!("the answer of function `{}`", open.component);
        let checked = check_depth(&output, codes::FUNCTION_REPLY_INVALID, what);
        if let Err(error) = checked.and_then(|()| self.check_reply(open, &output)) {
            return failed(&error);
        }
        let replaced = self.replaced_answer(&output);
        let recorded = (!output.is_null()).then_some(output);
        let mut events = vec![EventBody::EffectCompleted {
            effect_id,
            output: recorded.map(Arc::new),
            content: Vec::new(),
            finish: None,
            usage: Usage::default(),
            cost_nano_usd: None,
        }];
        events.extend(replaced.map(|message| EventBody::MessageCompleted { message }));
        events
    }

    /// Checks that a function answered in the form its place asks for, so that applying the answer cannot fail.
    pub(super) fn check_reply(&self, open: &Open, output: &Value) -> Result<()> {
        let wrong = |why: String| {
            Error::new(
                codes::FUNCTION_REPLY_INVALID,
                format!("function `{}` (effect {}) {why}", open.component, open.effect_id),
            )
            .with("function", &*open.component)
        };
        let boolean =
            || output.as_bool().map(drop).ok_or_else(|| wrong(format!("must answer true or false, answered {output}")));
        if let Some(place) = open.call {
            let call = &self.state.calls[place];
            if open.effect_id.as_str().contains(".approval.") {
                return boolean();
            }
            let reply: HookReply = parse_reply(output)
                .map_err(|e| wrong(format!("must answer null or an object of arguments or output: {e}")))?;
            if let (Some(arguments), Some(tool)) = (&reply.arguments, self.plan.tool(&call.call.name))
                && let Some(why) = tool.input.violations(arguments)
            {
                return Err(wrong(format!(
                    "changed the arguments of tool `{}` so that they do not fit: {why}",
                    call.call.name
                )));
            }
            return Ok(());
        }
        match self.state.phase {
            Phase::Preparing if self.state.chain == self.agent().processors.input.len() => output
                .as_str()
                .map(drop)
                .ok_or_else(|| wrong(format!("must answer the instructions as a string, answered {output}"))),
            Phase::Reviewing if open.effect_id.as_str().contains(".stop.") => boolean(),
            Phase::Reviewing => Ok(()),
            _ => {
                let reply: ProcessorReply =
                    parse_reply(output).map_err(|e| wrong(format!("answered what no processor may: {e}")))?;
                if let Some(messages) = reply.messages {
                    let before = if self.state.phase == Phase::Preparing { self.state.history } else { 0 };
                    transcript::check(&self.followed_by(before, messages))
                        .map_err(|e| wrong(format!("gave invalid messages: {e}")))?;
                }
                Ok(())
            }
        }
    }

    /// The first messages of the conversation, and these.
    pub(super) fn followed_by(&self, first: usize, messages: Vec<Message>) -> Vec<Arc<Message>> {
        let mut whole = self.state.messages[..first].to_vec();
        whole.extend(transcript::number(messages, transcript::next_number(&whole)));
        whole
    }

    /// The final message with the text that an output processor gave it, under the same id.
    pub(super) fn replaced_answer(&self, output: &Value) -> Option<Arc<Message>> {
        if !matches!(self.state.phase, Phase::Finishing(_)) {
            return None;
        }
        let text = parse_reply::<ProcessorReply>(output).ok()?.text?;
        let mut message = (**self.state.last_assistant()?).clone();
        // In the place of the old text: a call or a signature must not change sides.
        let place = message.parts.iter().position(|part| part.as_text().is_some()).unwrap_or(message.parts.len());
        message.parts.retain(|part| part.as_text().is_none());
        message.parts.insert(place, Part::Text(text));
        Some(Arc::new(message))
    }

    pub(super) fn command(&self, command: Command) -> Result<Vec<EventBody>> {
        let (effect_id, signal, data) = match &command {
            Command::Cancel { grace_ms, reason } => {
                if self.state.cancelling {
                    return Ok(Vec::new());
                }
                return Ok(vec![EventBody::RunCancelling { grace_ms: *grace_ms, reason: reason.clone() }]);
            }
            Command::Approve { effect_id } => (effect_id, SignalKind::Approve, None),
            Command::Decline { effect_id, reason } => {
                (effect_id, SignalKind::Decline, reason.clone().map(Value::String))
            }
            Command::Resume { effect_id, data, .. } => (effect_id, SignalKind::Resume, Some(data.clone())),
            Command::ToolResult { effect_id, .. } => (effect_id, SignalKind::ToolResult, None),
            _ => return Err(Error::new(codes::UNSUPPORTED, "an agent's run does not take this command")),
        };
        let (open, pending) = self.addressed(effect_id.as_ref(), signal)?;
        let call = &self.state.calls[open.call.expect("only calls are suspended")];
        let effect_id = open.effect_id.clone();
        let mut follow = Vec::new();
        let mut data = data;
        match command {
            Command::Decline { reason, .. } => {
                let told = Value::String(reason.unwrap_or_else(|| DECLINED.into()));
                let call_id = Some(call.call.call_id.clone());
                follow.push(EventBody::EffectSkipped {
                    effect_id: effect_id.clone(),
                    call_id,
                    why: "declined".into(),
                    output: Some(told),
                });
            }
            Command::Resume { .. } => {
                let value = data.as_mut().expect("a resume has data");
                normalise(value);
                let schema = self.plan.tool(&call.call.name).and_then(|tool| tool.resume.as_ref());
                if let Some(why) = schema.and_then(|schema| schema.violations(value)) {
                    return Err(Error::new(
                        codes::RESUME_INVALID,
                        format!("what resumes tool `{}` does not fit its resume_schema: {why}", call.call.name),
                    )
                    .with("effect_id", effect_id.as_str()));
                }
            }
            Command::ToolResult { mut output, is_error, .. } => {
                normalise(&mut output);
                if is_error {
                    let message = output.as_str().map_or_else(|| output.to_string(), str::to_owned);
                    let error = ErrorBody::new(codes::TOOL_FAILED, message);
                    follow.push(EventBody::EffectFailed {
                        effect_id: effect_id.clone(),
                        error: error.into(),
                        retry_at_ms: None,
                        usage: Usage::default(),
                        cost_nano_usd: None,
                    });
                } else {
                    self.check_result(call, &output)?;
                    let output = Some(Arc::new(output));
                    follow.push(EventBody::EffectCompleted {
                        effect_id: effect_id.clone(),
                        output,
                        content: Vec::new(),
                        finish: None,
                        usage: Usage::default(),
                        cost_nano_usd: None,
                    });
                }
            }
            _ => {}
        }
        debug_assert_eq!(pending.effect_id, effect_id);
        let mut events = vec![EventBody::SignalReceived { signal, name: None, effect_id: Some(effect_id), data }];
        if self.state.suspended {
            events.push(EventBody::RunResumed);
        }
        events.extend(follow);
        Ok(events)
    }

    /// The suspended effect a command is for: the one it names, or the only one that it fits.
    pub(super) fn addressed(&self, effect_id: Option<&EffectId>, signal: SignalKind) -> Result<(&Open, &Pending)> {
        let wanted = match signal {
            SignalKind::Approve | SignalKind::Decline => PendingKind::Approval,
            SignalKind::Resume => PendingKind::Suspended,
            _ => PendingKind::Client,
        };
        let fits: Vec<(&Open, &Pending)> = self
            .state
            .open
            .iter()
            .filter_map(
                |open| if let OpenStatus::Suspended(pending) = &open.status { Some((open, &**pending)) } else { None },
            )
            .filter(|(_, pending)| pending.reason == wanted && effect_id.is_none_or(|id| *id == pending.effect_id))
            .collect();
        if let [only] = fits.as_slice() {
            return Ok(*only);
        }
        let waiting: Vec<String> = self
            .pending()
            .iter()
            .map(|p| format!("{} ({})", p.effect_id, serde_json::json!(p.reason).as_str().unwrap_or_default()))
            .collect();
        let waiting = if waiting.is_empty() {
            "nothing waits".to_owned()
        } else {
            format!("what waits is {}", waiting.join(", "))
        };
        let asked = effect_id.map_or_else(|| "just one effect".to_owned(), |id| format!("effect `{id}`"));
        Err(Error::new(
            codes::EFFECT_UNKNOWN,
            format!("the command needs {asked} that waits for it in run `{}`: {waiting}", self.run_id),
        )
        .with("run_id", self.run_id.as_str()))
    }

    pub(super) fn restarted(&self, open: &Open) -> EventBody {
        let model = open.kind == EffectKind::Model;
        EventBody::EffectStarted {
            effect_id: open.effect_id.clone(),
            kind: open.kind,
            component: if model { self.model(open.next_choice).into() } else { open.component.clone() },
            attempt: open.attempt + 1,
            choice: open.next_choice,
            call_id: open.call.map(|place| self.state.calls[place].call.call_id.clone()),
            resume: open.resume.clone(),
            due_at_ms: None,
            input: None,
        }
    }

    pub(super) fn fail_running(&self, error: &ErrorBody, spent: &[(EffectId, Usage, Option<u64>)]) -> Vec<EventBody> {
        let suspended = |open: &Open| matches!(open.status, OpenStatus::Suspended(_));
        let running = self.state.open.iter().filter(|open| !suspended(open) || open.kind == EffectKind::Run);
        running
            .map(|open| {
                let of_child = spent.iter().find(|(id, ..)| *id == open.effect_id);
                let (usage, cost_nano_usd) = of_child.map_or_else(Default::default, |(_, usage, cost)| (*usage, *cost));
                let (effect_id, error) = (open.effect_id.clone(), error.clone());
                EventBody::EffectFailed { effect_id, error: error.into(), retry_at_ms: None, usage, cost_nano_usd }
            })
            .collect()
    }

    pub(super) fn pending_for(&self, call: &Call, reason: PendingKind) -> Pending {
        let mut pending = Pending::new(call.effect_id.clone(), reason);
        pending.call_id = Some(call.call.call_id.clone());
        pending.tool = Some(call.call.name.clone());
        pending.arguments = Some(self.arguments(call).into_owned());
        pending
    }
}
