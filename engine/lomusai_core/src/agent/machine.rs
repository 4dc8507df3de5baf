//! The machine itself: inputs become events, events become state, state asks for more.

use std::sync::Arc;

use lomusai_wire::{
    Approval, Command, Context, EffectId, EffectKind, ErrorBody, EventBody, History, Instructions, Message,
    ModelRequest, ModelTool, Outcome, Parent, Part, Pending, PendingKind, Role, RunId, RunOptions, RunOutput,
    RunStatus, SignalKind, SpecKind, SpecRef, StopCondition, ThreadId, ToolChoice, ToolReply, ToolResult, ToolStatus,
    Usage, codes, normalise,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::effect::{ChildOutcome, Effect, EffectInput, ModelOutcome};
use super::plan::{Plan, PlannedTool, RunPlan, ToolKind};
use super::state::{Abort, Call, HookReply, Open, OpenStatus, Phase, ProcessorReply, RunResult, State, StepOverlay};
use crate::{Error, Result, transcript};

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
}

/// What the world tells a machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The run begins.
    Start(Box<Start>),
    /// A model call ended.
    Model(EffectId, ModelOutcome),
    /// A tool answered.
    Tool(EffectId, Result<ToolReply>),
    /// A child run ended or waits.
    Child(EffectId, ChildOutcome),
    /// A function answered.
    Call(EffectId, Result<Value>),
    /// An effect is to be tried again.
    RetryDue(EffectId),
    /// A command came.
    Command(Command),
    /// The grace of a cancellation is over.
    GraceOver,
    /// The run may not go on: it crossed a limit. Nothing new starts, what is under way is ended with this error.
    Fail(Error),
    /// The run was loaded from its journal: what was under way is started again.
    Recover,
    /// A component says something for the journal.
    Custom {
        /// What it is.
        name: String,
        /// The value.
        data: Value,
    },
}

/// What a machine decided: events to commit, then effects to carry out.
#[derive(Debug, Default)]
pub struct Decision {
    /// In order; already applied.
    pub events: Vec<EventBody>,
    /// What to ask the world.
    pub effects: Vec<Effect>,
}

const DECLINED: &str = "Tool call was not approved by the user";
const CANCELLED: &str = "The call was cancelled.";
/// Metadata key of messages that the engine itself wrote to the model.
const FEEDBACK: &str = "feedback";
/// What ends a run even where a tool met it first.
const ENDS_THE_RUN: [&str; 2] = [codes::RUN_TIMEOUT.name, codes::RUN_TOO_LARGE.name];
const RETRY_BASE_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 30_000;

impl AgentMachine {
    /// A run that has not started. `history` is the conversation before it.
    ///
    /// # Errors
    /// `transcript_invalid`; `schema_invalid`, `spec_invalid` or `tool_unknown` for what the options name.
    pub fn new(plan: &Arc<Plan>, run_id: RunId, history: Vec<Arc<Message>>, options: RunOptions) -> Result<Self> {
        transcript::check(&history)?;
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

    // --- What a run is and has ---------------------------------------------------------------------------------------

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

    /// The options the run was started with.
    pub fn options(&self) -> &RunOptions {
        &self.state.options
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
                    request: Arc::new(self.request()),
                    number: self.state.number,
                    structured: self.plan.output.is_some(),
                };
                (input, limits.model_ms())
            }
            EffectKind::Tool => {
                let call = call.expect("a tool effect serves a call");
                let timeout = self.plan.tool(&call.call.name).and_then(|tool| tool.spec.timeout_ms);
                (EffectInput::Tool { arguments: call.arguments().to_owned() }, timeout.unwrap_or(limits.tool_ms()))
            }
            EffectKind::Run => {
                let call = call.expect("a run effect serves a call");
                let arguments: Value = serde_json::from_str(call.arguments()).unwrap_or_default();
                let prompt = arguments["prompt"].as_str().unwrap_or_default().to_owned();
                // A child has limits of its own.
                (EffectInput::Run { run_id: self.child_id(id), prompt }, u64::MAX)
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

    fn child_id(&self, effect: &EffectId) -> RunId {
        format!("{}/{effect}", self.run_id).into()
    }

    fn max_steps(&self) -> u32 {
        self.state.options.max_steps.unwrap_or(self.agent().max_steps())
    }

    // --- Inputs become events ----------------------------------------------------------------------------------------

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
            Input::Model(id, outcome) => Ok(self.if_running(&id, |open| self.model_ended(open, outcome, now_ms))),
            Input::Tool(id, outcome) => Ok(self.if_running(&id, |open| self.tool_ended(open, outcome))),
            Input::Child(id, outcome) => {
                Ok(self.state.open(&id).map(|open| self.child_ended(open, outcome)).unwrap_or_default())
            }
            Input::Call(id, outcome) => Ok(self.if_running(&id, |open| self.call_ended(open, outcome))),
            Input::RetryDue(id) => Ok(match self.state.open(&id) {
                Some(open) if matches!(open.status, OpenStatus::Waiting(_)) => vec![self.restarted(open)],
                _ => Vec::new(),
            }),
            Input::Command(command) => self.command(command),
            Input::GraceOver => Ok(self.fail_running(&cancelled_error())),
            Input::Fail(error) => Ok(self.fail_running(error.body())),
            // A run that was told to stop starts nothing again, and its grace ended with the process.
            Input::Recover if self.state.cancelling => Ok(self.fail_running(&cancelled_error())),
            Input::Recover => Ok(self
                .state
                .open
                .iter()
                .filter(|open| open.status == OpenStatus::Running)
                .map(|open| self.restarted(open))
                .collect()),
            Input::Custom { name, mut data } => {
                normalise(&mut data);
                Ok(vec![EventBody::Custom { name, data, durable: true }])
            }
        }
    }

    /// An answer to an effect that is not at work (any more) means nothing: it is late, or the second one.
    fn if_running(&self, id: &EffectId, f: impl FnOnce(&Open) -> Vec<EventBody>) -> Vec<EventBody> {
        self.state.open(id).filter(|open| open.status == OpenStatus::Running).map(f).unwrap_or_default()
    }

    fn start(&self, start: Start) -> Result<Vec<EventBody>> {
        let Start { input, history, thread, parent, mut context } = start;
        context.values_mut().for_each(normalise);
        if input.is_empty() || input.iter().all(|message| message.parts.is_empty()) {
            return Err(Error::new(codes::INPUT_EMPTY, "a run needs at least one message with a part: pass `input`"));
        }
        let whole = self.followed_by(self.state.history, input);
        transcript::check(&whole)?;
        let input = whole[self.state.history..].to_vec();
        Ok(vec![EventBody::RunStarted {
            spec: SpecRef::new(SpecKind::Agent, &self.agent().name, &self.plan.plan.hash),
            input,
            history,
            thread,
            parent,
            context,
            options: Box::new(self.state.options.clone()),
        }])
    }

    fn model_ended(&self, open: &Open, outcome: ModelOutcome, now_ms: u64) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        match outcome {
            ModelOutcome::Answered(answer) => {
                let finish = Some(answer.finish);
                let mut message = answer.message;
                message.id = Some(transcript::message_id(self.state.number));
                vec![
                    EventBody::EffectCompleted {
                        effect_id,
                        output: None,
                        content: Vec::new(),
                        finish,
                        usage: answer.usage,
                    },
                    EventBody::MessageCompleted { message: Arc::new(message) },
                ]
            }
            ModelOutcome::Failed { error, partial, usage } => {
                let settings = self.settings();
                let retries = settings.max_retries.unwrap_or(2);
                let again = error.is_retryable() && open.attempt <= retries && !self.state.cancelling;
                let wait = error
                    .body()
                    .retry_after_ms
                    .unwrap_or(RETRY_BASE_MS << (open.attempt - 1).min(10))
                    .min(RETRY_MAX_MS);
                let retry_at_ms = again.then_some(now_ms.saturating_add(wait));
                let mut events = Vec::new();
                // What a processor refused is not kept.
                let refused = error.is(codes::PROCESSOR_ABORTED);
                if !again
                    && !refused
                    && let Some(answer) = partial
                {
                    // What was shown is what is recorded.
                    let mut message = answer.message;
                    message.id = Some(transcript::message_id(self.state.number));
                    message.metadata.insert("partial".into(), true.into());
                    events.push(EventBody::MessageCompleted { message: Arc::new(message) });
                }
                events.push(EventBody::EffectFailed { effect_id, error: error.body().clone(), retry_at_ms, usage });
                events
            }
        }
    }

    fn tool_ended(&self, open: &Open, outcome: Result<ToolReply>) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let call = &self.state.calls[open.call.expect("a tool effect serves a call")];
        let failed = |error: Error| {
            vec![EventBody::EffectFailed {
                effect_id: open.effect_id.clone(),
                error: error.body().clone(),
                retry_at_ms: None,
                usage: Usage::default(),
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
                    output: Some(output),
                    content,
                    finish: None,
                    usage: Usage::default(),
                }]
            }
            Ok(ToolReply::Suspend { suspend: mut payload }) => {
                normalise(&mut payload);
                let tool = self.plan.tool(&call.call.name);
                let mut pending = self.pending_for(call, PendingKind::Suspended);
                pending.payload = Some(payload);
                pending.resume_schema =
                    tool.and_then(|tool| tool.spec.resume_schema.as_ref()).map(|schema| schema.as_str().to_owned());
                vec![EventBody::EffectSuspended { pending }]
            }
            Ok(_) => failed(Error::new(
                codes::TOOL_RESULT_INVALID,
                format!("tool `{}` answered in an unknown way", call.call.name),
            )),
            Err(error) => failed(error),
        }
    }

    fn check_result(&self, call: &Call, output: &Value) -> Result<()> {
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
        let schema = self.plan.tool(&call.call.name).and_then(|tool| tool.output.as_ref());
        match schema.and_then(|schema| schema.violations(output)) {
            Some(why) => Err(Error::new(
                codes::TOOL_RESULT_INVALID,
                format!("the result of tool `{}` does not fit its output_schema: {why}", call.call.name),
            )),
            None => Ok(()),
        }
    }

    fn child_ended(&self, open: &Open, outcome: ChildOutcome) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let call = &self.state.calls[open.call.expect("a run effect serves a call")];
        // A child goes on by commands of its own: that it did shows here when it ends or waits again.
        let mut events = if self.state.suspended { vec![EventBody::RunResumed] } else { Vec::new() };
        match outcome {
            ChildOutcome::Finished {
                outcome: Outcome::Completed | Outcome::Exhausted | Outcome::Bailed,
                output,
                usage,
                ..
            } => {
                let output = output.map(|output| output.object.unwrap_or(Value::String(output.text)));
                events.push(EventBody::EffectCompleted { effect_id, output, content: Vec::new(), finish: None, usage });
            }
            ChildOutcome::Finished { error, usage, .. } => {
                let error = error.map_or_else(cancelled_error, |error| error.body().clone());
                events.push(EventBody::EffectFailed { effect_id, error, retry_at_ms: None, usage });
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
                events.push(EventBody::EffectSuspended { pending });
            }
        }
        events
    }

    fn call_ended(&self, open: &Open, outcome: Result<Value>) -> Vec<EventBody> {
        let effect_id = open.effect_id.clone();
        let failed = |error: &Error| {
            vec![EventBody::EffectFailed {
                effect_id: effect_id.clone(),
                error: error.body().clone(),
                retry_at_ms: None,
                usage: Usage::default(),
            }]
        };
        let mut output = match outcome {
            Ok(output) => output,
            Err(error) => return failed(&error),
        };
        normalise(&mut output);
        if let Err(error) = self.check_reply(open, &output) {
            return failed(&error);
        }
        let replaced = self.replaced_answer(&output);
        let recorded = (!output.is_null()).then_some(output);
        let mut events = vec![EventBody::EffectCompleted {
            effect_id,
            output: recorded,
            content: Vec::new(),
            finish: None,
            usage: Usage::default(),
        }];
        events.extend(replaced.map(|message| EventBody::MessageCompleted { message }));
        events
    }

    /// Checks that a function answered in the form its place asks for, so that applying the answer cannot fail.
    fn check_reply(&self, open: &Open, output: &Value) -> Result<()> {
        let wrong = |why: String| {
            Error::new(
                codes::FUNCTION_REPLY_INVALID,
                format!("function `{}` (effect {}) {why}", open.component, open.effect_id),
            )
            .with("function", open.component.as_str())
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
    fn followed_by(&self, first: usize, messages: Vec<Message>) -> Vec<Arc<Message>> {
        let mut whole = self.state.messages[..first].to_vec();
        whole.extend(transcript::number(messages, transcript::next_number(&whole)));
        whole
    }

    /// The final message with the text that an output processor gave it, under the same id.
    fn replaced_answer(&self, output: &Value) -> Option<Arc<Message>> {
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

    fn command(&self, command: Command) -> Result<Vec<EventBody>> {
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
            Command::Resume { effect_id, data } => (effect_id, SignalKind::Resume, Some(data.clone())),
            Command::ToolResult { effect_id, .. } => (effect_id, SignalKind::ToolResult, None),
            _ => return Err(Error::new(codes::UNSUPPORTED, "this version does not know the command")),
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
                        error,
                        retry_at_ms: None,
                        usage: Usage::default(),
                    });
                } else {
                    self.check_result(call, &output)?;
                    let output = Some(output);
                    follow.push(EventBody::EffectCompleted {
                        effect_id: effect_id.clone(),
                        output,
                        content: Vec::new(),
                        finish: None,
                        usage: Usage::default(),
                    });
                }
            }
            _ => {}
        }
        debug_assert_eq!(pending.effect_id, effect_id);
        let mut events = vec![EventBody::SignalReceived { signal, effect_id: Some(effect_id), data }];
        if self.state.suspended {
            events.push(EventBody::RunResumed);
        }
        events.extend(follow);
        Ok(events)
    }

    /// The suspended effect a command is for: the one it names, or the only one that it fits.
    fn addressed(&self, effect_id: Option<&EffectId>, signal: SignalKind) -> Result<(&Open, &Pending)> {
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

    fn restarted(&self, open: &Open) -> EventBody {
        EventBody::EffectStarted {
            effect_id: open.effect_id.clone(),
            kind: open.kind,
            component: open.component.clone(),
            attempt: open.attempt + 1,
            call_id: open.call.map(|place| self.state.calls[place].call.call_id.clone()),
            resume: open.resume.clone(),
        }
    }

    fn fail_running(&self, error: &ErrorBody) -> Vec<EventBody> {
        let running = self.state.open.iter().filter(|open| !matches!(open.status, OpenStatus::Suspended(_)));
        running
            .map(|open| EventBody::EffectFailed {
                effect_id: open.effect_id.clone(),
                error: error.clone(),
                retry_at_ms: None,
                usage: Usage::default(),
            })
            .collect()
    }

    fn pending_for(&self, call: &Call, reason: PendingKind) -> Pending {
        let mut pending = Pending::new(call.effect_id.clone(), reason);
        pending.call_id = Some(call.call.call_id.clone());
        pending.tool = Some(call.call.name.clone());
        pending.arguments = Some(call.arguments().to_owned());
        pending
    }

    // --- Events become state -----------------------------------------------------------------------------------------

    /// Changes the state by one event. The only place that does.
    pub fn apply(&mut self, event: &EventBody) {
        let state = &mut self.state;
        match event {
            EventBody::RunStarted { input, .. } => {
                state.messages.extend(input.iter().cloned());
                state.number = transcript::next_number(&state.messages);
                state.phase = Phase::Preparing;
            }
            EventBody::RunSuspended { .. } => state.suspended = true,
            EventBody::RunResumed => state.suspended = false,
            EventBody::RunCancelling { reason, .. } => {
                state.cancelling = true;
                state.cancel_reason.clone_from(reason);
            }
            EventBody::RunFinished { outcome, output, error, .. } => {
                state.result = Some(RunResult { outcome: *outcome, output: output.clone(), error: error.clone() });
                state.phase = Phase::Closed;
                state.suspended = false;
                state.open.clear();
            }
            EventBody::EffectStarted { effect_id, kind, component, attempt, call_id, resume } => {
                let call = call_id.as_ref().and_then(|id| state.calls.iter().position(|call| call.call.call_id == *id));
                let open = Open {
                    effect_id: effect_id.clone(),
                    kind: *kind,
                    component: component.clone(),
                    attempt: *attempt,
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
                let call = state.calls.iter().position(|call| Some(&call.call.call_id) == pending.call_id.as_ref());
                let old = state.close(&pending.effect_id);
                state.open.push(Open {
                    effect_id: pending.effect_id.clone(),
                    kind: old.as_ref().map_or(EffectKind::Tool, |old| old.kind),
                    component: old
                        .as_ref()
                        .map_or_else(|| pending.tool.clone().unwrap_or_default(), |old| old.component.clone()),
                    attempt: old.as_ref().map_or(0, |old| old.attempt),
                    call,
                    resume: None,
                    status: OpenStatus::Suspended(Box::new(pending.clone())),
                });
            }
            EventBody::EffectCompleted { effect_id, output, content, finish, usage } => {
                state.usage += *usage;
                if finish.is_some() {
                    state.finish = *finish;
                }
                if let Some(open) = state.close(effect_id) {
                    self.completed(&open, output.clone().unwrap_or_default(), content);
                }
            }
            EventBody::EffectFailed { effect_id, error, retry_at_ms, usage } => {
                state.usage += *usage;
                match retry_at_ms {
                    Some(at) => {
                        if let Some(open) = state.open.iter_mut().find(|open| open.effect_id == *effect_id) {
                            open.status = OpenStatus::Waiting(*at);
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
                if let Some(call) = state.calls.iter_mut().find(|call| Some(&call.call.call_id) == call_id.as_ref()) {
                    let status = if why == "declined" { ToolStatus::Denied } else { ToolStatus::Error };
                    call.result = Some(ToolResult::new(&call.call, status, output.clone().unwrap_or_default()));
                }
            }
            EventBody::MessageCompleted { message } => self.said(message),
            EventBody::SignalReceived { signal, effect_id: Some(effect_id), data } => {
                let place = state.open(effect_id).and_then(|open| open.call);
                if let Some(place) = place {
                    let call = &mut state.calls[place];
                    match signal {
                        SignalKind::Approve => call.approved = true,
                        SignalKind::Resume => call.resume = Some(data.clone().unwrap_or_default()),
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

    fn completed(&mut self, open: &Open, output: Value, content: &[Part]) {
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
    fn answered(&mut self, open: &Open, output: Value) {
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
                    self.state.messages = whole;
                }
            }
        }
    }

    fn failed(&mut self, open: &Open, error: &ErrorBody) {
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

    fn said(&mut self, message: &Arc<Message>) {
        let state = &mut self.state;
        // A later message of the same id replaces the earlier: an output processor changed it.
        if let Some(old) = state.messages.iter_mut().find(|old| old.id == message.id && old.id.is_some()) {
            *old = message.clone();
            return;
        }
        state.messages.push(message.clone());
        state.number += 1;
        match message.role {
            Role::Assistant if state.phase == Phase::Thinking && !message.metadata.contains_key("partial") => {
                let step = state.step;
                let calls = message.tool_calls().enumerate();
                state.calls =
                    calls.map(|(index, call)| Call::new(call.clone(), format!("{step}.{index}").into())).collect();
                state.phase = if state.calls.is_empty() { Phase::Reviewing } else { Phase::Acting };
                (state.chain, state.stop) = (0, false);
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
    fn settle(&mut self) {
        // A run that ends stays where it is: it asks for no further step, so it counts none.
        if self.state.failure.is_some() || self.state.cancelling {
            return;
        }
        let done = self.chain_item().is_none() && self.state.abort.is_none();
        match self.state.phase {
            Phase::Preparing if done => next_step(&mut self.state),
            Phase::Reviewing if done => {
                let calls = !self.state.calls.is_empty();
                if !calls || self.stops() {
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

    fn stops(&self) -> bool {
        self.state.stop
            || self.agent().stop.iter().any(|condition| match condition {
                StopCondition::ToolCalled { tool } => self.state.calls.iter().any(|call| call.call.name == *tool),
                StopCondition::TextContains { text } => {
                    self.state.last_assistant().is_some_and(|said| said.text().contains(text.as_str()))
                }
                _ => false,
            })
    }

    // --- State asks for more -----------------------------------------------------------------------------------------

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
    fn chain_item(&self) -> Option<(EffectId, String)> {
        let (agent, state) = (self.agent(), &self.state);
        let chain = state.chain;
        let nth = |names: &[String], id: String| names.get(chain).map(|name| (EffectId::from(id), name.clone()));
        match state.phase {
            Phase::Preparing => nth(&agent.processors.input, format!("0.input.{chain}")).or_else(|| {
                let asked = chain > agent.processors.input.len() || state.options.instructions.is_some();
                match &agent.instructions {
                    Some(Instructions::Function { function }) if !asked => {
                        Some(("0.instructions".into(), function.clone()))
                    }
                    _ => None,
                }
            }),
            Phase::StepStart => nth(&agent.processors.step, format!("{}.step.{chain}", state.step)),
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
            Phase::Finishing(_) => nth(&agent.processors.output, format!("{}.output.{chain}", state.step)),
            _ => None,
        }
    }

    fn started(&self, effect_id: EffectId, kind: EffectKind, component: &str, call: Option<&Call>) -> EventBody {
        let tool = call.filter(|_| kind != EffectKind::Call);
        EventBody::EffectStarted {
            effect_id,
            kind,
            component: component.to_owned(),
            attempt: tool.map_or(1, |call| call.attempts + 1),
            call_id: call.map(|call| call.call.call_id.clone()),
            resume: tool.and_then(|call| call.resume.clone()),
        }
    }

    fn act(&self) -> Option<EventBody> {
        let state = &self.state;
        let limit = if self.plan.may_wait { 1 } else { self.agent().tool_concurrency.unwrap_or(10) as usize };
        let busy = state.open.iter().filter(|open| !matches!(open.status, OpenStatus::Suspended(_))).count();
        if busy < limit
            && let Some(event) = (0..state.calls.len()).find_map(|place| self.next_for_call(place))
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

    /// The next thing one call needs. `None` when it is done or under way.
    fn next_for_call(&self, place: usize) -> Option<EventBody> {
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
            return Some(EventBody::EffectSuspended { pending: self.pending_for(call, PendingKind::Approval) });
        }
        match &tool.kind {
            ToolKind::Client => {
                Some(EventBody::EffectSuspended { pending: self.pending_for(call, PendingKind::Client) })
            }
            ToolKind::Host => Some(self.started(call.effect_id.clone(), EffectKind::Tool, &call.call.name, Some(call))),
            ToolKind::Agent(name) => Some(self.started(call.effect_id.clone(), EffectKind::Run, name, Some(call))),
        }
    }

    /// The tool of a call, if the model may call it and its arguments fit. The error is for the model.
    fn checked(&self, call: &Call) -> Result<&PlannedTool> {
        let name = &call.call.name;
        let tool = self.plan.tool(name).filter(|_| self.offers(name)).ok_or_else(|| self.plan.unknown(name))?;
        let invalid = |why: String| {
            Error::new(codes::ARGUMENTS_INVALID, format!("the arguments of tool `{name}` do not fit: {why}"))
        };
        let arguments: Value =
            serde_json::from_str(call.arguments()).map_err(|e| invalid(format!("they are not JSON: {e}")))?;
        match tool.input.violations(&arguments) {
            Some(why) => Err(invalid(why)),
            None => Ok(tool),
        }
    }

    fn offers(&self, name: &str) -> bool {
        let listed = |names: &Option<Vec<String>>| names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let client = self.plan.client_offered.iter().any(|tool| tool.name == name);
        (client || listed(&self.state.options.active_tools)) && listed(&self.state.overlay.tools)
    }

    fn tool_message(&self) -> EventBody {
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
    fn close(&self) -> Option<EventBody> {
        let state = &self.state;
        if state.is_running() {
            state.failure.as_ref()?;
            return self.fail_running(&cancelled_error()).into_iter().next();
        }
        if state.phase == Phase::Acting {
            return Some(self.tool_message());
        }
        let (outcome, error) = match &state.failure {
            // A run that was told to stop is cancelled, whatever its effects then said.
            Some(error) if !state.cancelling => (Outcome::Failed, Some(error.clone())),
            _ => (Outcome::Cancelled, None),
        };
        Some(self.finished(outcome, error))
    }

    fn aborted(&self) -> EventBody {
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

    fn feedback(&self, kind: &str, text: String) -> EventBody {
        let mut message = Message::user(text);
        message.id = Some(transcript::message_id(self.state.number));
        message.metadata.insert(FEEDBACK.into(), kind.into());
        EventBody::MessageCompleted { message: Arc::new(message) }
    }

    fn finish(&self, outcome: Outcome) -> EventBody {
        if self.state.chain == 0
            && self.state.calls.is_empty()
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
            None => match self.object().filter(|_| self.state.calls.is_empty()) {
                // An output processor changed it so; the model has nothing to correct.
                Some(Err(why)) => self.finished(Outcome::Failed, Some(output_invalid(&why))),
                _ => self.finished(outcome, None),
            },
        }
    }

    /// The last answer in the shape that was asked for, or why it is not in that shape. `None` where none was asked for.
    fn object(&self) -> Option<Result<Value, String>> {
        let schema = self.plan.output.as_ref()?;
        let text = self.state.last_assistant().map(|message| message.text()).unwrap_or_default();
        Some(match serde_json::from_str::<Value>(unfenced(&text)) {
            Err(e) => Err(format!("it is not JSON ({e})")),
            Ok(mut value) => {
                normalise(&mut value);
                schema.violations(&value).map_or(Ok(value), Err)
            }
        })
    }

    fn finished(&self, outcome: Outcome, error: Option<ErrorBody>) -> EventBody {
        let state = &self.state;
        let mut output = RunOutput::default();
        // What a processor refused is nobody's answer.
        if error.as_ref().is_none_or(|error| error.code != codes::PROCESSOR_ABORTED.name) {
            output.text = state.last_assistant().map(|message| message.text()).unwrap_or_default();
        }
        output.object =
            if error.is_none() && state.calls.is_empty() { self.object().and_then(Result::ok) } else { None };
        output.finish = state.finish;
        // The step that is being prepared has asked no model yet.
        output.steps = state.step - u32::from(state.phase == Phase::StepStart);
        let output = (output != RunOutput::default()).then_some(output);
        EventBody::RunFinished { outcome, output, error, usage: state.usage }
    }

    // --- What effects ask --------------------------------------------------------------------------------------------

    fn settings(&self) -> lomusai_wire::ModelSettings {
        let overlays = [&self.state.options.settings, &self.state.overlay.settings];
        overlays.into_iter().flatten().fold(self.agent().settings.clone(), |settings, over| settings.overlaid(over))
    }

    fn request(&self) -> ModelRequest {
        let state = &self.state;
        let said = state.overlay.messages.as_ref().unwrap_or(&state.messages);
        let text = match &self.agent().instructions {
            Some(Instructions::Text(text)) => Some(text),
            _ => None,
        };
        let instructions = state
            .overlay
            .instructions
            .as_ref()
            .or(state.options.instructions.as_ref())
            .or(state.instructions.as_ref())
            .or(text);
        let mut request = ModelRequest::default();
        request.messages = Vec::with_capacity(said.len() + 1);
        request
            .messages
            .extend(instructions.filter(|text| !text.is_empty()).map(|text| Arc::new(Message::system(text))));
        request.messages.extend(said.iter().cloned());
        let offered = self.plan.plan.offered.iter().chain(&self.plan.client_offered);
        request.tools = offered.filter(|tool| self.offers(&tool.name)).cloned().collect::<Vec<ModelTool>>();
        let choice = state
            .overlay
            .tool_choice
            .as_ref()
            .or(state.options.tool_choice.as_ref())
            .unwrap_or(&self.agent().tool_choice);
        // A forced call is forced once: a model that had to call a tool at every step could never answer.
        let called = state.messages[state.history..].iter().any(|message| message.role == Role::Tool);
        request.tool_choice = match choice {
            ToolChoice::Required | ToolChoice::Tool(_) if called && state.overlay.tool_choice.is_none() => {
                ToolChoice::Auto
            }
            choice => choice.clone(),
        };
        request.settings = self.settings();
        request.output = state.options.output.as_ref().or(self.agent().output.as_ref()).cloned();
        request
    }

    fn question(&self, open: &Open) -> Value {
        let (agent, state) = (self.agent(), &self.state);
        let id = open.effect_id.as_str();
        if let Some(place) = open.call {
            let call = &state.calls[place];
            let arguments: Value = serde_json::from_str(call.arguments()).unwrap_or_default();
            let mut question = json!({"tool": call.call.name, "call_id": call.call.call_id, "arguments": arguments});
            if let Some(result) = call.result.as_ref().filter(|_| id.ends_with(".after")) {
                question["status"] = json!(result.status);
                question["output"] = result.output.clone();
            }
            return question;
        }
        let last = || json!(state.last_assistant());
        match state.phase {
            Phase::Preparing if state.chain < agent.processors.input.len() => {
                json!({"phase": "input", "messages": state.messages[state.history..]})
            }
            Phase::Preparing => json!({"agent": agent.name, "input": state.messages[state.history..]}),
            Phase::StepStart => {
                json!({"phase": "step", "step": state.step, "messages": state.overlay.messages.as_ref().unwrap_or(&state.messages)})
            }
            Phase::Finishing(_) => {
                let text = state.last_assistant().map(|message| message.text()).unwrap_or_default();
                json!({"phase": "output", "text": text, "object": self.object().and_then(Result::ok)})
            }
            _ => json!({"step": state.step, "message": last(), "usage": state.usage}),
        }
    }
}

fn next_step(state: &mut State) {
    state.phase = Phase::StepStart;
    state.step += 1;
    state.chain = 0;
    state.calls.clear();
    state.overlay = StepOverlay::default();
}

fn output_invalid(why: &str) -> ErrorBody {
    ErrorBody::new(codes::OUTPUT_INVALID, format!("the answer does not fit the output schema: {why}"))
}

fn cancelled_error() -> ErrorBody {
    ErrorBody::new(codes::RUN_CANCELLED, "the run was cancelled")
}

/// `null` lets everything through.
fn parse_reply<T: DeserializeOwned + Default>(output: &Value) -> Result<T, serde_json::Error> {
    if output.is_null() { Ok(T::default()) } else { T::deserialize(output) }
}

/// Models like to put JSON into a code block.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.strip_prefix("json").unwrap_or(inner).trim()
}

/// Bytes of the value as compact JSON, escapes left out: a bound that costs no allocation.
fn json_size(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() as u64 + 2,
        Value::Array(items) => items.iter().map(|item| json_size(item) + 1).sum::<u64>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() as u64 + 4 + json_size(value)).sum::<u64>() + 2
        }
    }
}
