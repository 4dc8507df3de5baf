//! Carries out what a machine asks: calls the component, within its time, cancellable, and safe from its panics.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{CallContext, Emit, RunContext};
use lomusai_core::machine::{ChildOutcome, Effect, EffectInput, Input, json_size};
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{
    Command, EffectId, EffectKind, EventBody, Kind, Outcome, Part, RunId, RunStatus, StartRequest, WorkflowRequest,
    codes,
};
use tokio::time::Instant;

use crate::ask::{ModelCall, StreamFilter};
use crate::inner::{Inner, run_active};
use crate::layer::Patience;
use crate::registry::KnownSteps;
use crate::run::{Child, Live, Msg, RunResult};

/// What all calls of a run are told.
pub(crate) fn context(live: &Arc<Live>) -> Arc<RunContext> {
    let mut context = RunContext::new(live.run_id.clone());
    context.agent = live.agent.clone();
    context.context = live.context.clone();
    context.host = live.host.clone();
    context.emit = Some(emitter(live));
    Arc::new(context)
}

/// Begins an effect. `context` lacks what the effect itself says but for its id. The future gives the input that tells the machine how it
/// ended.
///
/// # Errors
/// Where nobody can tell how it ended: a child that could not be driven on here. Its parent cannot go on either, until it is recovered.
pub(crate) fn carry_out(
    engine: &Arc<Inner>,
    live: &Arc<Live>,
    effect: Effect,
    mut context: CallContext,
    stream: &Arc<[String]>,
    message_bytes: u64,
    steps: &mut KnownSteps,
) -> BoxFuture<'static, Result<Input>> {
    context.call_id = effect.call_id;
    context.attempt = effect.attempt;
    context.resume = effect.resume.map(Arc::unwrap_or_clone);
    let (id, component, timeout_ms) = (effect.effect_id, effect.component, effect.timeout_ms);
    match effect.input {
        EffectInput::Model { request, number, structured, first_token_ms, between_tokens_ms } => {
            let filter = (!stream.is_empty()).then(|| StreamFilter {
                engine: engine.clone(),
                names: stream.clone(),
                context: context.clone(),
            });
            let patience = Patience::new(Some(timeout_ms), first_token_ms, between_tokens_ms);
            let (engine, live) = (engine.clone(), live.clone());
            let call = ModelCall { engine, live, component, patience, number, structured, message_bytes };
            Box::pin(async move { Ok(Input::model(id, call.ask(context, request, filter).await)) })
        }
        EffectInput::Tool { arguments } => {
            let engine = engine.clone();
            Box::pin(async move {
                let limit =
                    Limit { kind: EffectKind::Tool, name: &component, timeout_ms, cancel: context.cancel.clone() };
                let result = limit
                    .hold(pin!(async {
                        let tool = engine.registry.tool(&component)?;
                        engine.call_tool(&*tool, &component, context, &arguments).await
                    }))
                    .await;
                Ok(Input::Tool(id, result))
            })
        }
        EffectInput::Step { input, state } => {
            let step = steps.find(&engine.registry, &component);
            let work = live.work.clone();
            Box::pin(async move {
                context.state = state;
                // What an attempt before this one wanted is not wanted any more.
                drop(work.take(&id));
                context.work = work;
                let limit =
                    Limit { kind: EffectKind::Step, name: &component, timeout_ms, cancel: context.cancel.clone() };
                let result = limit.hold(pin!(async { step?.call(context, input).await })).await;
                Ok(Input::step(id, result))
            })
        }
        EffectInput::Run { run_id, prompt } => {
            let child = Child::Agent(Box::new(StartRequest::new(&*component, prompt)));
            Box::pin(run_child(engine.clone(), live.clone(), id, child, run_id, context.cancel))
        }
        EffectInput::Workflow { run_id, input } => {
            let child = Child::Workflow(Box::new(WorkflowRequest::new(&*component, input)));
            Box::pin(run_child(engine.clone(), live.clone(), id, child, run_id, context.cancel))
        }
        EffectInput::Call { input } => {
            let engine = engine.clone();
            Box::pin(async move {
                let limit =
                    Limit { kind: EffectKind::Call, name: &component, timeout_ms, cancel: context.cancel.clone() };
                let result = limit
                    .hold(pin!(async {
                        let function = engine.registry.function(&component)?;
                        function.call(context, input).await
                    }))
                    .await;
                Ok(Input::Call(id, result))
            })
        }
        // The machine of a later version asks for what this driver does not know.
        _ => Box::pin(async move {
            Ok(Input::Call(id, Err(Error::new(codes::UNSUPPORTED, "this engine cannot carry out the effect"))))
        }),
    }
}

/// Why a child is cancelled.
pub(crate) const PARENT_CANCELLED: &str = "the run that started it was cancelled";

/// Starts a child run, or finds the one that an earlier attempt started, and waits for it.
async fn run_child(
    engine: Arc<Inner>,
    live: Arc<Live>,
    id: EffectId,
    child: Child,
    run_id: RunId,
    cancel: CancelToken,
) -> Result<Input> {
    // The run was told to stop between the record of this start and now. A child that an earlier attempt began is to end, too.
    if cancel.is_cancelled() {
        return match engine.is_known(&run_id).await {
            Ok(true) => stop(&engine, id, run_id).await,
            Ok(false) => Ok(Input::child(id, ended_child(Outcome::Cancelled, None))),
            Err(error) => Ok(Input::child(id, failed_or_lost(error)?)),
        };
    }
    let outcome = match engine.child(&live, &id, child, run_id).await {
        Ok(child) => wait_for_child(&child, &cancel).await?,
        // Told to stop before it began.
        Err(error) if error.is(codes::RUN_CANCELLED) => ended_child(Outcome::Cancelled, None),
        Err(error) => failed_or_lost(error)?,
    };
    Ok(Input::child(id, outcome))
}

/// Cancels a child that waits for a command, and waits for its end.
pub(crate) fn stop(engine: &Arc<Inner>, id: EffectId, child: RunId) -> BoxFuture<'static, Result<Input>> {
    let (engine, token) = (engine.clone(), CancelToken::new());
    Box::pin(async move {
        let command = Command::Cancel { grace_ms: 0, reason: Some(PARENT_CANCELLED.into()) };
        match engine.command(&child, command, None, None).await {
            Err(error) if is_lost(&error) => Err(error),
            // Who has ended in the meantime says how.
            _ => attach(&engine, id, child, token).await,
        }
    })
}

/// Waits for a child that is at work again, or reads how it ended.
pub(crate) fn attach(
    engine: &Arc<Inner>,
    id: EffectId,
    child: RunId,
    token: CancelToken,
) -> BoxFuture<'static, Result<Input>> {
    let engine = engine.clone();
    Box::pin(async move {
        let outcome = match engine.live(&child) {
            Some(live) => wait_for_child(&live, &token).await?,
            None => match engine.stored_result(&child).await {
                Ok(result) => child_outcome(Ok(Arc::new(result)))?,
                Err(error) => failed_or_lost(error)?,
            },
        };
        Ok(Input::child(id, outcome))
    })
}

async fn wait_for_child(child: &Live, cancel: &CancelToken) -> Result<ChildOutcome> {
    let result = tokio::select! {
        biased;
        result = child.settled.wait() => result,
        () = cancel.cancelled() => {
            child.cancel(0, Some(PARENT_CANCELLED.into()));
            child.settled.wait().await
        }
    };
    child_outcome(result)
}

fn child_outcome(result: Result<Arc<RunResult>>) -> Result<ChildOutcome> {
    let result = match result {
        Ok(result) => result,
        Err(error) => return failed_or_lost(error),
    };
    let outcome = match result.status {
        RunStatus::Suspended => return Ok(ChildOutcome::Suspended(result.pending.clone())),
        // At work elsewhere, or to be.
        RunStatus::Running | RunStatus::Waiting => return Err(run_active(&result.run_id)),
        RunStatus::Completed => Outcome::Completed,
        RunStatus::Exhausted => Outcome::Exhausted,
        RunStatus::Bailed => Outcome::Bailed,
        RunStatus::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failed,
    };
    Ok(ChildOutcome::Finished {
        outcome,
        output: result.output.clone(),
        error: result.error.clone(),
        usage: result.usage,
        cost_nano_usd: result.cost_nano_usd,
    })
}

/// What it means for a parent that its child cannot be driven: that it failed, or that nobody here knows what becomes of it, since the store
/// failed or another engine has it. To record that as a failure would be an outcome that the child does not have.
fn failed_or_lost(error: Error) -> Result<ChildOutcome> {
    if is_lost(&error) { Err(error) } else { Ok(failed_child(error)) }
}

fn is_lost(error: &Error) -> bool {
    error.kind() == Kind::Storage
        || [codes::RUN_ACTIVE, codes::SEQUENCE_CONFLICT, codes::ENGINE_CLOSED].iter().any(|code| error.is(*code))
}

fn failed_child(error: Error) -> ChildOutcome {
    ended_child(Outcome::Failed, Some(error))
}

fn ended_child(outcome: Outcome, error: Option<Error>) -> ChildOutcome {
    ChildOutcome::Finished { outcome, output: None, error, usage: Default::default(), cost_nano_usd: None }
}

fn cancelled() -> Error {
    Error::new(codes::RUN_CANCELLED, "the run was cancelled")
}

fn emitter(live: &Arc<Live>) -> Emit {
    // Weak: a component that keeps its context must not keep the run.
    let live = Arc::downgrade(live);
    Arc::new(move |body: EventBody| {
        let Some(live) = live.upgrade() else { return };
        match body {
            EventBody::Log { level, message } => live.publisher.advise(level, message),
            body if body.is_durable() => {
                let _ = live.inbox.send(Box::new(Msg::Emit(body)));
            }
            body => live.publisher.try_transient(body),
        }
    })
}

/// How long a call may take, and what it is called in errors.
struct Limit<'a> {
    kind: EffectKind,
    name: &'a str,
    timeout_ms: u64,
    cancel: CancelToken,
}

impl Limit<'_> {
    // Pinned by its caller: a future that is moved into another lies in it twice.
    async fn hold<T>(&self, work: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
        // The run was told to stop between the record of this start and now: nothing begins after that.
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let until = Instant::now().checked_add(Duration::from_millis(self.timeout_ms));
        let mut caught = pin!(AssertUnwindSafe(work).catch_unwind());
        // Only what does not answer at once needs a timer.
        let mut timer = pin!(None);
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = caught.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            let Some(until) = until else { return Poll::Pending };
            if timer.is_none() {
                timer.set(Some(tokio::time::sleep_until(until)));
            }
            timer.as_mut().as_pin_mut().expect("just set").poll(cx).map(|()| None)
        });
        match answer.await {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(panicked(self.word(), self.name, &*panic)),
            None => {
                self.cancel.cancel();
                Err(self.timed_out())
            }
        }
    }

    fn word(&self) -> &'static str {
        match self.kind {
            EffectKind::Tool => "tool",
            EffectKind::Step => "step",
            _ => "function",
        }
    }

    fn timed_out(&self) -> Error {
        let code = match self.kind {
            EffectKind::Tool => codes::TOOL_TIMEOUT,
            EffectKind::Step => codes::STEP_TIMEOUT,
            _ => codes::FUNCTION_TIMEOUT,
        };
        let word = self.word();
        Error::new(code, format!("{word} `{}` did not answer within {} ms", self.name, self.timeout_ms))
            .with(word, self.name)
    }
}

pub(crate) fn panicked(word: &str, name: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".into());
    Error::new(codes::CALLBACK_PANICKED, format!("{word} `{name}` panicked: {text}")).with(word, name)
}

/// Bytes that an event adds to a journal, roughly: what is large in it.
pub(crate) fn weight(body: &EventBody) -> u64 {
    let parts = |parts: &[Part]| {
        parts
            .iter()
            .map(|part| {
                part.as_text().map_or_else(|| serde_json::to_string(part).map_or(0, |text| text.len()), str::len) as u64
            })
            .sum::<u64>()
    };
    100 + match body {
        EventBody::MessageCompleted { message } => parts(&message.parts),
        EventBody::EffectCompleted { output: Some(output), .. } => json_size(output),
        EventBody::Custom { data, .. } => json_size(data),
        _ => 0,
    }
}
