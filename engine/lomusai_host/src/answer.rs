//! What a host answers a call by: a handle that may be used now, later, on any thread, and that refuses what comes twice or too late.

use std::collections::VecDeque;
use std::sync::Arc;

use lomusai_core::cancel::{CancelGuard, CancelToken};
use lomusai_core::component::{CallContext, HostSlot};
use lomusai_core::sync::{Condvar, Mutex};
use lomusai_core::{Error, Result};
use lomusai_wire::{Code, Kind, ModelChunk, StepReply, ToolReply, codes};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{pool, read, read_object, write};

/// A call as the host sees it.
#[derive(Clone)]
#[non_exhaustive]
pub struct CallInfo {
    /// The component's name.
    pub name: Arc<str>,
    /// What is asked, as JSON: a tool's arguments, a provider's [`ModelRequest`](lomusai_wire::ModelRequest), a function's question.
    pub input: String,
    /// Where the call stands. Shared with the handle it is answered by.
    pub context: Arc<CallContext>,
}

impl CallInfo {
    /// Facts about the call as JSON: `{run_id, effect_id, idempotency_key, agent, name, attempt, call_id?, deadline_ms?, context?, resume?, state?}`.
    pub fn facts(&self) -> String {
        let context = &self.context;
        let mut facts = json!({
            "run_id": context.run_id,
            "effect_id": context.effect_id,
            "idempotency_key": context.idempotency_key(),
            "agent": &*context.agent,
            "name": &*self.name,
            "attempt": context.attempt,
        });
        let fields = facts.as_object_mut().expect("an object");
        if let Some(call_id) = &context.call_id {
            fields.insert("call_id".into(), json!(call_id));
        }
        if let Some(deadline) = context.deadline_ms {
            fields.insert("deadline_ms".into(), json!(deadline));
        }
        if !context.context.is_empty() {
            fields.insert("context".into(), Value::Object((*context.context).clone()));
        }
        if let Some(resume) = &context.resume {
            fields.insert("resume".into(), resume.clone());
        }
        if !context.state.is_empty() {
            fields.insert("state".into(), Value::Object((*context.state).clone()));
        }
        write(&facts)
    }

    /// The slot that the caller of the run attached.
    pub fn host(&self) -> Option<&HostSlot> {
        self.context.host.as_ref()
    }
}

/// What a function of the host raised, as a binding found it. Which error of the engine that is, [`Answer::error_of`] says.
#[derive(Clone, Debug, Default)]
pub struct Raised {
    /// For people, and for a model.
    pub message: String,
    /// What went wrong.
    pub fault: Fault,
    /// The code that it carries, where it is an error of the engine's classes.
    pub code: Option<Code>,
    /// When trying again may help.
    pub retry_after_ms: Option<u64>,
}

/// What went wrong in a function of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It raised.
    #[default]
    Raised,
    /// What it was asked does not fit a schema that only its language can check.
    Arguments,
    /// What it returned cannot be written as JSON, or not in the form that it must have.
    Result,
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    Tool,
    Function,
    Provider,
    /// One answer: a step's, `{output}`, `{suspend}` or `{bail}`.
    Step,
}

/// The handle a call is answered by. Clones are one handle; dropping the last of them unanswered is an error that the engine tells.
///
/// Answering never frees it. A second answer gives `already_answered`, one that nobody waits for any more `handle_closed`.
#[derive(Clone)]
pub struct Answer(Arc<Handle>);

/// What clones share. Its drop is the end of the last of them.
struct Handle {
    slot: Arc<Slot>,
    context: Arc<CallContext>,
    name: Arc<str>,
    /// Listeners for cancellation that live as long as the handle.
    guards: Mutex<Vec<CancelGuard>>,
}

/// What the handle and the engine's waiting side share.
pub(crate) struct Slot {
    kind: AnswerKind,
    state: Mutex<State>,
    room: Condvar,
    room_for_tasks: Notify,
    pub(crate) arrived: Notify,
}

struct State {
    stage: Stage,
    chunks: VecDeque<ModelChunk>,
    /// What the call was answered with, until the engine takes it; a provider's end comes after its chunks.
    end: Option<Result<Reply>>,
}

/// What a call is answered with, as the engine wants it: nothing is written as JSON and read again on the way.
#[derive(Debug)]
pub(crate) enum Reply {
    Tool(ToolReply),
    Step(StepReply),
    Function(Value),
    /// A provider's stream is whole.
    Whole,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Answered,
    Closed,
}

/// So many chunks wait for a run that is slower than its provider.
const CHUNKS: usize = 64;

/// Whether a chunk was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was.
    Taken,
    /// There is no room now: try again once there is.
    Full,
}

impl Answer {
    pub(crate) fn new(kind: AnswerKind, name: Arc<str>, context: Arc<CallContext>) -> (Self, Arc<Slot>) {
        let state = State { stage: Stage::Open, chunks: VecDeque::new(), end: None };
        let slot = Arc::new(Slot {
            kind,
            state: Mutex::new(state),
            room: Condvar::new(),
            room_for_tasks: Notify::new(),
            arrived: Notify::new(),
        });
        let handle = Handle { slot: slot.clone(), context, name, guards: Mutex::default() };
        (Self(Arc::new(handle)), slot)
    }

    /// Answers with JSON: a tool's result (wrapped as the output), or a function's reply.
    ///
    /// # Errors
    /// `json_invalid`, and the call stays open; `already_answered`; `handle_closed`; `unsupported` for a provider.
    pub fn resolve(&self, json: &str) -> Result<()> {
        let value: Value = read(format_args!("the answer of `{}`", self.0.name), json)?;
        self.resolve_value(value)
    }

    /// As [`resolve`](Self::resolve), with the value as a tree.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_value(&self, value: Value) -> Result<()> {
        match self.0.slot.kind {
            AnswerKind::Tool => self.settle(Ok(Reply::Tool(value.into()))),
            AnswerKind::Step => self.settle(Ok(Reply::Step(value.into()))),
            AnswerKind::Function => self.settle(Ok(Reply::Function(value))),
            AnswerKind::Provider => Err(self.unsupported("a provider answers by chunks: push them, then finish")),
        }
    }

    /// Answers a tool's call with a [`ToolReply`] as JSON: `{"output": …, "content": [parts]}` or `{"suspend": …}`; a step's with a
    /// [`StepReply`]: `{"output": …}`, `{"suspend": …, "label": …}` or `{"bail": …}`, each with `state` to set.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn reply(&self, json: &str) -> Result<()> {
        if self.0.slot.kind == AnswerKind::Step {
            let reply: StepReply = read_object(format_args!("the reply of `{}`", self.0.name), json)?;
            return self.settle(Ok(Reply::Step(reply)));
        }
        if self.0.slot.kind != AnswerKind::Tool {
            return Err(self.unsupported("only the call of a tool or a step takes a reply"));
        }
        let reply: ToolReply = read(format_args!("the reply of `{}`", self.0.name), json)?;
        self.settle(Ok(Reply::Tool(reply)))
    }

    /// Suspends the call of a tool or a step until a `resume` command comes. It is then called again, with what resumed it.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn suspend(&self, payload: &str) -> Result<()> {
        if !matches!(self.0.slot.kind, AnswerKind::Tool | AnswerKind::Step) {
            return Err(self.unsupported("only a tool or a step can suspend"));
        }
        let suspend: Value = read(format_args!("the payload of `{}`", self.0.name), payload)?;
        self.settle(Ok(match self.0.slot.kind {
            AnswerKind::Step => Reply::Step(StepReply::suspend(suspend)),
            _ => Reply::Tool(ToolReply::Suspend { suspend }),
        }))
    }

    /// Answers with an error. A tool's is told to the model.
    ///
    /// # Errors
    /// `already_answered`; `handle_closed`.
    pub fn reject(&self, error: Error) -> Result<()> {
        self.settle(Err(error))
    }

    /// The error that a failing function of the host becomes. A binding adds the host's own object and stack.
    pub fn host_error(&self, message: impl Into<String>) -> Error {
        self.error_of(Raised { message: message.into(), ..Raised::default() })
    }

    /// As [`host_error`](Self::host_error), with all that the host's language knows of the failure.
    pub fn error_of(&self, raised: Raised) -> Error {
        let Raised { message, fault, code, retry_after_ms } = raised;
        let kind = self.0.slot.kind;
        // What a provider meets outside. Anything else, such as a chunk of an unknown form, is its own mistake.
        let outside = |code: &Code| {
            matches!(code.kind, Kind::Denied | Kind::RateLimited | Kind::Unavailable | Kind::Timeout | Kind::Provider)
        };
        let error = match (fault, kind) {
            // A provider that knows what went wrong says so, and is retried where that helps.
            (_, AnswerKind::Provider) if code.as_ref().is_some_and(outside) => {
                Error::new(code.expect("it was looked at"), message)
            }
            (Fault::Arguments, AnswerKind::Tool) => Error::new(codes::ARGUMENTS_INVALID, message),
            (Fault::Arguments, AnswerKind::Step) => Error::new(codes::INPUT_INVALID, message),
            (Fault::Result, AnswerKind::Tool) => Error::new(codes::TOOL_RESULT_INVALID, message),
            (Fault::Result, AnswerKind::Step) => Error::new(codes::STEP_RESULT_INVALID, message),
            (Fault::Result, AnswerKind::Function) => Error::new(codes::FUNCTION_REPLY_INVALID, message),
            // A step that knows that trying again is of no use says so.
            (_, AnswerKind::Step) if code == Some(codes::STEP_FATAL) => Error::new(codes::STEP_FATAL, message),
            (_, AnswerKind::Tool) => Error::new(codes::TOOL_FAILED, message),
            (_, AnswerKind::Step) => Error::new(codes::STEP_FAILED, message),
            (_, AnswerKind::Function) => Error::new(codes::FUNCTION_FAILED, message),
            (_, AnswerKind::Provider) => Error::new(codes::PROVIDER_HOST_FAILED, message),
        };
        let error = error.with(self.word(), &*self.0.name);
        match retry_after_ms {
            Some(ms) => error.with_retry_after_ms(ms),
            None => error,
        }
    }

    /// Gives a piece of a model's answer: a [`ModelChunk`] as JSON, or a JSON string for text. Waits for room on this thread.
    ///
    /// # Errors
    /// `json_invalid` and `argument_invalid`, and the call stays open; `already_answered`; `handle_closed` once nobody reads on.
    pub fn push(&self, chunk: &str) -> Result<()> {
        let chunk = self.chunk(chunk)?;
        pool::while_waiting(|| {
            let slot = &self.0.slot;
            let mut state = slot.state.lock();
            loop {
                self.check(state.stage)?;
                if state.chunks.len() < CHUNKS {
                    state.chunks.push_back(chunk);
                    slot.arrived.notify_one();
                    return Ok(());
                }
                slot.room.wait(&mut state);
            }
        })
    }

    /// As [`push`](Self::push), without waiting.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn try_push(&self, chunk: &str) -> Result<Pushed> {
        let chunk = self.chunk(chunk)?;
        let mut state = self.0.slot.state.lock();
        self.check(state.stage)?;
        if state.chunks.len() >= CHUNKS {
            return Ok(Pushed::Full);
        }
        state.chunks.push_back(chunk);
        self.0.slot.arrived.notify_one();
        Ok(Pushed::Taken)
    }

    /// As [`push`](Self::push), waiting as a task. Dropping the future gives nothing.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub async fn push_async(&self, chunk: &str) -> Result<()> {
        loop {
            let room = self.0.slot.room_for_tasks.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_push(chunk)? {
                Pushed::Taken => return Ok(()),
                Pushed::Full => room.await,
            }
        }
    }

    /// Ends a provider's stream. Without a `finish` chunk before it, the answer counts as complete.
    ///
    /// # Errors
    /// `already_answered`; `handle_closed`; `unsupported` for other calls.
    pub fn finish(&self) -> Result<()> {
        match self.0.slot.kind {
            AnswerKind::Provider => self.settle(Ok(Reply::Whole)),
            _ => Err(self.unsupported("only a provider's stream is finished")),
        }
    }

    /// Tells the run's readers how far the call is, in JSON.
    ///
    /// # Errors
    /// `json_invalid`.
    pub fn progress(&self, data: &str) -> Result<()> {
        self.0.context.progress(read("progress", data)?);
        Ok(())
    }

    /// Tells the run's readers something; `durable` keeps it in the journal.
    ///
    /// # Errors
    /// `json_invalid`.
    pub fn custom(&self, name: &str, data: &str, durable: bool) -> Result<()> {
        self.0.context.custom(name, read("a custom event", data)?, durable);
        Ok(())
    }

    /// Whether the answer is not wanted any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.context.cancel.is_cancelled()
    }

    /// Tells when the answer is not wanted any more.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.0.context.cancel
    }

    /// Calls `callback` once the answer is not wanted any more, at once if it is so already. Never after the handle is gone.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        let guard = self.0.context.cancel.on_cancel(callback);
        self.0.guards.lock().push(guard);
    }

    /// Whether an answer has been given.
    pub fn is_answered(&self) -> bool {
        self.0.slot.state.lock().stage == Stage::Answered
    }

    /// What is called.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    fn chunk(&self, json: &str) -> Result<ModelChunk> {
        if self.0.slot.kind != AnswerKind::Provider {
            return Err(self.unsupported("only a provider gives chunks"));
        }
        let name = &self.0.name;
        if json.trim_start().starts_with('"') {
            return Ok(ModelChunk::Text { text: read(format_args!("a chunk of `{name}`"), json)? });
        }
        read(format_args!("a chunk of `{name}`"), json)
    }

    fn settle(&self, result: Result<Reply>) -> Result<()> {
        let slot = &self.0.slot;
        let mut state = slot.state.lock();
        self.check(state.stage)?;
        state.stage = Stage::Answered;
        state.end = Some(result);
        drop(state);
        slot.arrived.notify_one();
        Ok(())
    }

    fn check(&self, stage: Stage) -> Result<()> {
        let name = &self.0.name;
        match stage {
            Stage::Open => Ok(()),
            Stage::Answered => Err(Error::new(
                codes::ALREADY_ANSWERED,
                format!("this call of `{name}` was answered before: the first answer counts"),
            )),
            Stage::Closed => Err(Error::new(
                codes::HANDLE_CLOSED,
                format!("nobody waits for this call of `{name}` any more: it was cancelled or timed out"),
            )),
        }
    }

    fn unsupported(&self, why: &str) -> Error {
        Error::new(codes::UNSUPPORTED, format!("`{}` is a {}: {why}", self.0.name, self.word()))
    }

    fn word(&self) -> &'static str {
        match self.0.slot.kind {
            AnswerKind::Tool => "tool",
            AnswerKind::Step => "step",
            AnswerKind::Function => "function",
            AnswerKind::Provider => "provider",
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        if state.stage != Stage::Open {
            return;
        }
        state.stage = Stage::Answered;
        let name = &self.name;
        let (code, word) = match self.slot.kind {
            AnswerKind::Tool => (codes::TOOL_UNANSWERED, "tool"),
            AnswerKind::Step => (codes::STEP_UNANSWERED, "step"),
            AnswerKind::Function => (codes::FUNCTION_UNANSWERED, "function"),
            AnswerKind::Provider => (codes::FUNCTION_UNANSWERED, "provider"),
        };
        let error =
            Error::new(code, format!("{word} `{name}` let go of its call without an answer")).with(word, &**name);
        state.end = Some(Err(error));
        drop(state);
        self.slot.arrived.notify_one();
    }
}

impl Slot {
    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        if state.stage == Stage::Open {
            state.stage = Stage::Closed;
        }
        state.chunks.clear();
        // An error may hold the host's stack, and that the answer handle, and that this: a ring nobody would ever free.
        state.end = None;
        drop(state);
        self.room.notify_all();
        self.room_for_tasks.notify_waiters();
    }

    /// The next chunk, or how the stream ended; `None` when there is neither yet.
    pub(crate) fn take(&self) -> Option<Result<ModelChunk, Option<Error>>> {
        let mut state = self.state.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            drop(state);
            self.room.notify_one();
            self.room_for_tasks.notify_one();
            return Some(Ok(chunk));
        }
        state.end.take().map(|end| Err(end.err()))
    }

    /// What the call was answered with, once it is. Whoever answered at once is not waited for.
    pub(crate) async fn answer(&self) -> Result<Reply> {
        loop {
            let end = self.state.lock().end.take();
            match end {
                Some(end) => return end,
                // One that comes in between is kept for us.
                None => self.arrived.notified().await,
            }
        }
    }
}
