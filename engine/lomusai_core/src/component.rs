//! What every component is told about the call it serves.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lomusai_wire::{CallId, Context, EffectId, EventBody, LogLevel, RunId, StepReply};
use serde_json::{Map, Value};

use crate::cancel::CancelToken;
use crate::sync::Mutex;
use crate::{BoxFuture, Result};

/// What the caller of a run attached to it for its own components: an asyncio loop, a request object. Never journaled.
pub type HostSlot = Arc<dyn Any + Send + Sync>;

/// Where events of a component go: towards the run's readers.
pub type Emit = Arc<dyn Fn(EventBody) + Send + Sync>;

/// Something for a store to do in the transaction that records a step's answer. Which kind of store it is for, that store knows.
pub type StoreWork = Arc<dyn Any + Send + Sync>;

/// What the steps of a run want done in the transactions that record their answers. Shared by the calls of the run.
#[derive(Clone, Default)]
pub struct StepWork(Option<Arc<WorkOfSteps>>);

#[derive(Default)]
struct WorkOfSteps {
    /// Whether there has ever been any: for most runs there never is, and each of their steps asks.
    any: AtomicBool,
    steps: Mutex<HashMap<EffectId, Vec<StoreWork>>>,
}

impl StepWork {
    /// Of a run whose steps' answers are recorded.
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// One more thing to be done for this step. For a call that is no step's this means nothing.
    pub fn add(&self, step: &EffectId, work: StoreWork) {
        if let Some(of) = &self.0 {
            of.steps.lock().entry(step.clone()).or_default().push(work);
            of.any.store(true, Ordering::Release);
        }
    }

    /// All that is to be done for a step; none of it is afterwards.
    pub fn take(&self, step: &EffectId) -> Vec<StoreWork> {
        let of = self.0.as_ref().filter(|of| of.any.load(Ordering::Acquire));
        of.and_then(|of| of.steps.lock().remove(step)).unwrap_or_default()
    }
}

/// What all calls of a run are told.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunContext {
    /// The run.
    pub run_id: RunId,
    /// The agent or workflow.
    pub agent: Arc<str>,
    /// What the caller wants its functions to know, transient keys included.
    pub context: Arc<Context>,
    /// The caller's own slot.
    pub host: Option<HostSlot>,
    /// Where events go.
    pub emit: Option<Emit>,
    /// What the state is of a call that has none.
    no_state: Arc<Map<String, Value>>,
}

impl RunContext {
    /// The context of a run, with nothing else known.
    pub fn new(run_id: RunId) -> Self {
        Self { run_id, agent: "".into(), context: Arc::default(), host: None, emit: None, no_state: Arc::default() }
    }
}

/// One call of a component: what is its own, and by its `Deref` what all calls of its run are told. Cloning it is cheap.
#[derive(Clone)]
#[non_exhaustive]
pub struct CallContext {
    /// The run's part. Shared, so that a call has not to be given each of its fields.
    pub run: Arc<RunContext>,
    /// The effect, by position in the run.
    pub effect_id: EffectId,
    /// The tool call, for a tool.
    pub call_id: Option<CallId>,
    /// Counts from 1.
    pub attempt: u32,
    /// Set when the result is not wanted any more.
    pub cancel: CancelToken,
    /// When the call times out, in milliseconds since 1970.
    pub deadline_ms: Option<u64>,
    /// What resumed the call, where it had suspended.
    pub resume: Option<Value>,
    /// The state of a workflow's run, as it was when the call began. A step sets values of it with its answer.
    pub state: Arc<Map<String, Value>>,
    /// What is done in the transaction that records the answer, for a step.
    pub work: StepWork,
}

impl Deref for CallContext {
    type Target = RunContext;

    fn deref(&self) -> &RunContext {
        &self.run
    }
}

impl CallContext {
    /// The context of an effect, with nothing else known.
    pub fn new(run_id: RunId, effect_id: EffectId) -> Self {
        Self::of(Arc::new(RunContext::new(run_id)), effect_id)
    }

    /// The context of an effect of this run.
    pub fn of(run: Arc<RunContext>, effect_id: EffectId) -> Self {
        Self {
            state: run.no_state.clone(),
            run,
            effect_id,
            call_id: None,
            attempt: 1,
            cancel: CancelToken::new(),
            deadline_ms: None,
            resume: None,
            work: StepWork::default(),
        }
    }

    /// The key under which an effect can be made idempotent: the same for every attempt, in every process.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.run_id, self.effect_id)
    }

    /// Tells the run's readers how far the call is.
    pub fn progress(&self, data: Value) {
        self.emit(EventBody::EffectProgress { effect_id: self.effect_id.clone(), data });
    }

    /// Tells the run's readers something; `durable` keeps it in the journal, for as long as the call is under way.
    pub fn custom(&self, name: impl Into<String>, data: Value, durable: bool) {
        let effect_id = Some(self.effect_id.clone());
        self.emit(EventBody::Custom { effect_id, name: name.into(), data, durable });
    }

    /// Tells the run's readers what is good to know, and changes nothing.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.emit(EventBody::Log { level, message: message.into() });
    }

    fn emit(&self, body: EventBody) {
        if let Some(emit) = &self.emit {
            emit(body);
        }
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("key", &self.idempotency_key())
            .field("attempt", &self.attempt)
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

/// Any other function of the host: dynamic instructions, a processor, a hook, an approval rule, a stop condition.
///
/// What it is asked and answers depends on where a spec names it; see [`AgentSpec`](lomusai_wire::AgentSpec).
pub trait Function: Send + Sync {
    /// Answers a question. Dropping the future means the answer is not wanted any more.
    fn call<'a>(&'a self, context: CallContext, input: Value) -> BoxFuture<'a, Result<Value>>;
}

/// A Rust closure as a [`Function`].
pub struct FnFunction<F>(pub F);

impl<F, Fut> Function for FnFunction<F>
where
    F: Fn(CallContext, Value) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Value>> + Send + 'static,
{
    fn call<'a>(&'a self, context: CallContext, input: Value) -> BoxFuture<'a, Result<Value>> {
        Box::pin((self.0)(context, input))
    }
}

/// What a step of a workflow does.
///
/// It may be called more than once for one step of a run: again after a failure, and again after a crash. The attempt differs then, the
/// [idempotency key](CallContext::idempotency_key) does not.
pub trait Step: Send + Sync {
    /// Does the work. Dropping the future means the result is not wanted any more; `context.cancel` is set then.
    ///
    /// # Errors
    /// `step_failed`, which is tried again as the step's `retry` says; `step_fatal`, which is not.
    fn call<'a>(&'a self, context: CallContext, input: Arc<Value>) -> BoxFuture<'a, Result<StepReply>>;
}

/// A Rust closure as a [`Step`].
pub struct FnStep<F>(pub F);

impl<F, Fut> Step for FnStep<F>
where
    F: Fn(CallContext, Value) -> Fut + Send + Sync,
    Fut: Future<Output = Result<StepReply>> + Send + 'static,
{
    fn call<'a>(&'a self, context: CallContext, input: Arc<Value>) -> BoxFuture<'a, Result<StepReply>> {
        Box::pin((self.0)(context, Arc::unwrap_or_clone(input)))
    }
}
