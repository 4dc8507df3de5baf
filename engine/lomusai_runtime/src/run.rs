//! A run as its caller sees it: events to read, a result to wait for, a handle to cancel it by.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{HostSlot, StepWork};
use lomusai_core::sync::{Condvar, Mutex};
use lomusai_core::{Error, Result};
use lomusai_wire::{
    Command, Context, EffectId, Event, EventBody, Message, Parent, Pending, RunId, RunOutput, RunStatus, StartRequest,
    Usage, WorkflowRequest,
};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::budgets::RunBudgets;
use crate::publisher::Publisher;
use crate::queue::{EventQueue, Next};

/// What a run came to, or where it waits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunResult {
    /// The run.
    pub run_id: RunId,
    /// `Suspended`, or how it ended.
    pub status: RunStatus,
    /// What it came to.
    pub output: Option<RunOutput>,
    /// What went wrong, with the host's own error object where a host function failed.
    pub error: Option<Error>,
    /// Tokens used by the run and its children.
    pub usage: Usage,
    /// What they cost, in nano-dollars. `None` where the price of any of them is not known: never taken for nothing.
    pub cost_nano_usd: Option<u64>,
    /// The whole conversation: history, input and what was said. The next call's `history`.
    pub messages: Vec<Arc<Message>>,
    /// How many of `messages` were there before the run.
    pub history: usize,
    /// What it waits for, when suspended.
    pub pending: Vec<Pending>,
}

impl RunResult {
    /// The text of the answer.
    pub fn text(&self) -> &str {
        self.output.as_ref().map_or("", |output| &output.text)
    }

    /// The messages of this run: its input and what was said since.
    pub fn new_messages(&self) -> &[Arc<Message>] {
        &self.messages[self.history.min(self.messages.len())..]
    }

    /// The result, or the error of a run that failed.
    ///
    /// # Errors
    /// The run's error. A run that was cancelled, suspended or exhausted is no error.
    pub fn ok(self) -> Result<Self> {
        match (&self.error, self.status) {
            (Some(error), RunStatus::Failed) => Err(error.clone()),
            _ => Ok(self),
        }
    }
}

/// A request to run an agent or a workflow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RunRequest {
    /// An agent.
    Agent(Box<StartRequest>),
    /// A workflow.
    Workflow(Box<WorkflowRequest>),
}

impl From<StartRequest> for RunRequest {
    fn from(request: StartRequest) -> Self {
        Self::Agent(Box::new(request))
    }
}

impl From<WorkflowRequest> for RunRequest {
    fn from(request: WorkflowRequest) -> Self {
        Self::Workflow(Box::new(request))
    }
}

impl RunRequest {
    pub(crate) fn is_detached(&self) -> bool {
        match self {
            Self::Agent(request) => request.detached,
            Self::Workflow(request) => request.detached,
        }
    }
}

/// What a run starts for one of its effects.
pub(crate) enum Child {
    Agent(Box<StartRequest>),
    Workflow(Box<WorkflowRequest>),
}

impl Child {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Agent(request) => &request.agent,
            Self::Workflow(request) => &request.workflow,
        }
    }
}

/// A run that this engine is driving.
pub(crate) struct Live {
    pub(crate) run_id: RunId,
    pub(crate) agent: Arc<str>,
    /// How deep runs may nest inside of it.
    pub(crate) depth: u32,
    pub(crate) parent: Option<Parent>,
    /// Boxed: the queue keeps room for many messages, and a run seldom gets one.
    pub(crate) inbox: mpsc::UnboundedSender<Box<Msg>>,
    /// Set as soon as somebody asks for it to be cancelled, before it is recorded.
    pub(crate) cancel: CancelToken,
    pub(crate) publisher: Publisher,
    pub(crate) budgets: RunBudgets,
    pub(crate) context: Arc<Context>,
    /// Keys of `context` that stay out of every journal.
    pub(crate) transient: Vec<String>,
    pub(crate) host: Option<HostSlot>,
    /// What steps that have answered want done in the transaction that records it.
    pub(crate) work: StepWork,
    pub(crate) settled: Settled,
}

/// What a driver is told.
pub(crate) enum Msg {
    Command(Command, oneshot::Sender<Result<()>>),
    /// A component wants this in the journal.
    Emit(EventBody),
    /// A suspended child is at work again: wait for it.
    Attach(EffectId, RunId),
}

/// The end of a driver's work, to be waited for by tasks and threads.
#[derive(Default)]
pub(crate) struct Settled {
    result: Mutex<Option<Result<Arc<RunResult>>>>,
    thread: Condvar,
    task: Notify,
}

impl Settled {
    pub(crate) fn set(&self, result: Result<Arc<RunResult>>) {
        self.result.lock().get_or_insert(result);
        self.thread.notify_all();
        self.task.notify_waiters();
    }

    pub(crate) fn now(&self) -> Option<Result<Arc<RunResult>>> {
        self.result.lock().clone()
    }

    pub(crate) async fn wait(&self) -> Result<Arc<RunResult>> {
        loop {
            let notified = self.task.notified();
            tokio::pin!(notified);
            // Registered before the look, so that nothing set in between is missed.
            notified.as_mut().enable();
            if let Some(result) = self.now() {
                return result;
            }
            notified.await;
        }
    }

    pub(crate) fn wait_blocking(&self, timeout: Option<Duration>) -> Option<Result<Arc<RunResult>>> {
        let mut result = self.result.lock();
        if result.is_none() {
            match timeout {
                Some(timeout) => {
                    self.thread.wait_for(&mut result, timeout);
                }
                None => {
                    while result.is_none() {
                        self.thread.wait(&mut result);
                    }
                }
            }
        }
        result.clone()
    }
}

impl Live {
    /// Asks for the run to be cancelled; the driver records it.
    pub(crate) fn cancel(&self, grace_ms: u64, reason: Option<String>) {
        let (reply, _) = oneshot::channel();
        let _ = self.inbox.send(Box::new(Msg::Command(Command::Cancel { grace_ms, reason }, reply)));
        // After the message: whoever is woken by the token finds the message there.
        self.cancel.cancel();
    }
}

/// The reader of a run's events. The run waits for it when it is slow, and is cancelled when it is dropped, unless [`detach`](Self::detach)ed.
///
/// Events end when the run does, and when it is suspended; [`Engine::resume`](crate::Engine::resume) reads on from there.
pub struct Run {
    pub(crate) live: Arc<Live>,
    pub(crate) queue: Arc<EventQueue>,
    pub(crate) detached: bool,
}

impl Run {
    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.live.run_id
    }

    /// The next event. `None` when there will be no more. Dropping the future loses nothing.
    pub async fn next(&self) -> Option<Arc<Event>> {
        if let Some(lagged) = self.lagged() {
            return Some(lagged);
        }
        match self.queue.next().await {
            Next::Event(event) => Some(event),
            _ => None,
        }
    }

    /// The next event, waited for on this thread; `None` waits for ever. May give [`Next::Timeout`] early.
    pub fn next_blocking(&self, timeout: Option<Duration>) -> Next {
        match self.lagged() {
            Some(lagged) => Next::Event(lagged),
            None => self.queue.next_blocking(timeout),
        }
    }

    fn lagged(&self) -> Option<Arc<Event>> {
        let missed = self.queue.take_missed();
        let body = EventBody::Lagged { missed };
        (missed > 0)
            .then(|| Arc::new(Event::new(self.live.run_id.clone(), self.live.publisher.seq(), u64::MAX, 0, body)))
    }

    /// Waits until the run ends or is suspended. Events that were not read are dropped.
    ///
    /// # Errors
    /// Why the run could not be driven on, such as a storage error. A run that failed is no error here; see [`RunResult::ok`].
    pub async fn result(&self) -> Result<Arc<RunResult>> {
        self.queue.discard();
        self.live.settled.wait().await
    }

    /// As [`result`](Self::result), on this thread; `None` if it takes longer than `timeout`. Events stay.
    pub fn result_blocking(&self, timeout: Option<Duration>) -> Option<Result<Arc<RunResult>>> {
        self.live.settled.wait_blocking(timeout)
    }

    /// Drops events that were not read, and those to come.
    pub fn discard_events(&self) {
        self.queue.discard();
    }

    /// Asks for the run to be cancelled. Its tools are told at once; results within `grace_ms` are still recorded.
    pub fn cancel(&self, grace_ms: u64, reason: Option<String>) {
        self.live.cancel(grace_ms, reason);
    }

    /// Lets the run go on without a reader.
    pub fn detach(mut self) -> RunId {
        self.detached = true;
        self.queue.discard();
        self.live.run_id.clone()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.queue.discard();
        if !self.detached && self.live.settled.now().is_none() {
            self.live.cancel(0, Some("the run's reader went away".into()));
        }
    }
}

/// Reads a run's events beside its primary reader. May lag, and is told so.
pub struct Observer {
    pub(crate) past: std::collections::VecDeque<Arc<Event>>,
    pub(crate) receiver: Option<broadcast::Receiver<Arc<Event>>>,
    /// The last durable event that `past` covers: live ones up to it are not repeated.
    pub(crate) upto: u64,
    pub(crate) run_id: RunId,
}

impl Observer {
    /// The next event. `None` when there will be no more for now: the run has ended or is suspended.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(event) if event.is_durable() && event.seq <= self.upto => {}
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let body = EventBody::Lagged { missed };
                    return Some(Arc::new(Event::new(self.run_id.clone(), self.upto, u64::MAX, 0, body)));
                }
                Err(broadcast::error::RecvError::Closed) => {
                    self.receiver = None;
                    return None;
                }
            }
        }
    }
}
