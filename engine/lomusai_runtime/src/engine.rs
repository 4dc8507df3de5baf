//! The engine: what a host opens, registers components with, and runs agents on.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lomusai_core::agent::{AgentMachine, Plan, Start};
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{Function, HostSlot};
use lomusai_core::llm::{EmbeddingProvider, LlmProvider};
use lomusai_core::seam::{Clock, Ids};
use lomusai_core::storage::{MemoryStore, Store, ThreadInfo};
use lomusai_core::telemetry::TelemetrySink;
use lomusai_core::tool::Tool;
use lomusai_core::{Error, Result, journal};
use lomusai_wire::{
    AgentSpec, Command, EffectId, Event, EventBody, History, Input, LogLevel, Message, OnBusy, Parent, PendingKind,
    RunFilter, RunId, RunInfo, RunStatus, StartRequest, ThreadId, codes,
};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Handle, Runtime, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{RandomIds, SystemClock, random_hex};
use crate::config::EngineConfig;
use crate::driver::{Driver, First, Limits, ThreadPlace, Work};
use crate::load::{is_unfinished, run_unknown};
use crate::publisher::Publisher;
use crate::queue::EventQueue;
use crate::registry::{ComponentKind, Registry};
use crate::run::{Live, Msg, Observer, Run, RunResult, Settled};

/// An agent engine. Clones share it. Thread-safe throughout.
///
/// It owns its threads and can be closed; there is never a global runtime. Dropping the last clone stops its threads without waiting.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) registry: Registry,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    telemetry: RwLock<Option<Arc<dyn TelemetrySink>>>,
    /// Who this engine is to the store's leases.
    pub(crate) owner: Arc<str>,
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    /// Hashes of specs that are in the store already.
    stored_specs: Mutex<HashSet<String>>,
    /// Held while a stored run is taken over, so that it is not taken twice by this engine.
    loading: tokio::sync::Mutex<()>,
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
    closed: AtomicBool,
    /// Whether the heartbeat of a shared store has been started.
    beating: AtomicBool,
}

/// Puts an engine together: values in the config, components with `with_*`.
pub struct EngineBuilder {
    config: EngineConfig,
    store: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    telemetry: Option<Arc<dyn TelemetrySink>>,
}

/// What [`Engine::start`] found.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StartReport {
    /// Unfinished runs that go on now.
    pub recovered: Vec<RunId>,
    /// Runs that cannot go on here, and why.
    pub blocked: Vec<(RunId, Error)>,
    /// Runs that were recovered too often without progress, and are left alone.
    pub poisoned: Vec<RunId>,
    /// Runs that another engine works on.
    pub elsewhere: Vec<RunId>,
}

impl EngineBuilder {
    /// Keeps runs in this store. Default: in memory.
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Tells the time by this clock. Default: the system's.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes run ids by this. Default: time and randomness.
    pub fn with_ids(mut self, ids: Arc<dyn Ids>) -> Self {
        self.ids = ids;
        self
    }

    /// Gives notes and events to this sink.
    pub fn with_telemetry(mut self, sink: Arc<dyn TelemetrySink>) -> Self {
        self.telemetry = Some(sink);
        self
    }

    /// Starts the engine's threads. Runs nothing: see [`Engine::start`].
    ///
    /// # Errors
    /// `internal` when the system gives no threads.
    pub fn build(self) -> Result<Engine> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().thread_name("lomusai");
        if let Some(threads) = self.config.threads {
            builder.worker_threads(threads.max(1));
        }
        let runtime = builder
            .build()
            .map_err(|e| Error::new(codes::INTERNAL, format!("the engine's threads cannot be started: {e}")))?;
        Ok(Engine(Arc::new(Inner {
            config: self.config,
            registry: Registry::default(),
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            clock: self.clock,
            ids: self.ids,
            telemetry: RwLock::new(self.telemetry),
            owner: format!("engine_{}", random_hex(8)).into(),
            live: Mutex::default(),
            stored_specs: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            closed: AtomicBool::new(false),
            beating: AtomicBool::new(false),
        })))
    }
}

impl Engine {
    /// Begins an engine with these settings.
    pub fn builder(config: EngineConfig) -> EngineBuilder {
        EngineBuilder { config, store: None, clock: Arc::new(SystemClock), ids: Arc::new(RandomIds), telemetry: None }
    }

    /// An engine that keeps its runs in memory, with default settings.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn in_memory() -> Result<Self> {
        Self::builder(EngineConfig::default()).build()
    }

    // --- Components --------------------------------------------------------------------------------------------------

    /// Registers an agent. Its model, tools and functions are looked up when it runs.
    ///
    /// # Errors
    /// `name_invalid`, `spec_invalid`, `name_taken`.
    pub fn register_agent(&self, spec: AgentSpec) -> Result<()> {
        self.0.registry.add_agent(spec)
    }

    /// Registers a tool under the name in its spec.
    ///
    /// # Errors
    /// `name_invalid`, `schema_invalid`, `name_taken`.
    pub fn register_tool(&self, tool: impl Tool + 'static) -> Result<()> {
        self.0.registry.add_tool(Arc::new(tool))
    }

    /// Registers a source of models. An agent's `model` names it, or `name/model`.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_provider(&self, name: &str, provider: impl LlmProvider + 'static) -> Result<()> {
        self.0.registry.add_provider(name, Arc::new(provider))
    }

    /// Registers a function that specs can name: instructions, processors, hooks, rules.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_function(&self, name: &str, function: impl Function + 'static) -> Result<()> {
        self.0.registry.add_function(name, Arc::new(function))
    }

    /// Registers a source of embeddings.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_embedder(&self, name: &str, embedder: impl EmbeddingProvider + 'static) -> Result<()> {
        self.0.registry.add_embedder(name, Arc::new(embedder))
    }

    /// Takes a component away. `false` if there was none. Runs that need it later fail, naming it.
    pub fn unregister(&self, kind: ComponentKind, name: &str) -> bool {
        self.0.registry.remove(kind, name)
    }

    /// Embeds texts with a registered embedder; see [`EmbeddingProvider::embed`].
    ///
    /// # Errors
    /// `provider_unknown`, and what the embedder gives.
    pub async fn embed(&self, embedder: &str, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        self.0.registry.embedder(embedder)?.embed(texts).await
    }

    /// Gives notes and events to this sink from now on.
    pub fn set_telemetry(&self, sink: Option<Arc<dyn TelemetrySink>>) {
        *self.0.telemetry.write() = sink;
    }

    // --- Runs --------------------------------------------------------------------------------------------------------

    /// Recovers the unfinished runs of the store, once the components they need are registered. Call it again to look again.
    ///
    /// # Errors
    /// Storage errors. A run that cannot go on is in the report, not an error.
    pub async fn start(&self) -> Result<StartReport> {
        self.0.recover().await
    }

    /// Runs an agent until it ends or is suspended. Dropping the future cancels the run, unless the request is `detached`.
    ///
    /// # Errors
    /// What is wrong with the request, and why a run could not be driven on. A run that failed is no error here; see [`RunResult::ok`].
    pub async fn run(&self, request: StartRequest) -> Result<Arc<RunResult>> {
        self.run_with(request, None).await
    }

    /// As [`run`](Self::run), with a slot that the caller's own components find in their context.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_with(&self, request: StartRequest, host: Option<HostSlot>) -> Result<Arc<RunResult>> {
        let detached = request.detached;
        let live = self.0.spawn_new(request, None, host, None, None)?;
        let guard = CancelOnDrop { live: (!detached).then(|| live.clone()) };
        let result = live.settled.wait().await;
        guard.disarm();
        result
    }

    /// Runs an agent and reads its events. Returns once the run is recorded.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub async fn stream(&self, request: StartRequest) -> Result<Run> {
        self.stream_with(request, None).await
    }

    /// As [`stream`](Self::stream), with a slot that the caller's own components find in their context.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_with(&self, request: StartRequest, host: Option<HostSlot>) -> Result<Run> {
        let (begun, begins) = oneshot::channel();
        let queue = EventQueue::new(self.0.config.reader_events);
        let detached = request.detached;
        let live = self.0.spawn_new(request, None, host, Some(queue.clone()), Some(begun))?;
        let run = Run { live, queue, detached };
        begins.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(run)
    }

    /// Begins a run without waiting for its record: what is wrong with that is then the run's [`result`](Run::result).
    ///
    /// # Errors
    /// What can be told at once: `agent_unknown`, `transcript_invalid`, `schema_invalid`, `engine_closed` and the like.
    pub fn launch(&self, request: StartRequest, host: Option<HostSlot>) -> Result<Run> {
        let queue = EventQueue::new(self.0.config.reader_events);
        let detached = request.detached;
        let live = self.0.spawn_new(request, None, host, Some(queue.clone()), None)?;
        Ok(Run { live, queue, detached })
    }

    /// Sends a command to a run, wherever it stands. Returns once the command is recorded.
    ///
    /// A run that was suspended goes on without a reader. A command for a suspended sub-agent may be sent to its parent.
    ///
    /// # Errors
    /// `run_unknown`, `run_finished`, `run_active` (in another process), `run_blocked`, `component_changed`, `effect_unknown`, `resume_invalid`.
    pub async fn command(&self, run_id: &RunId, command: Command) -> Result<()> {
        self.0.command(run_id, command, None, None).await.map(drop)
    }

    /// Sends a command to a suspended run and reads its events from there.
    ///
    /// # Errors
    /// As [`command`](Self::command), and `run_active` when the run is at work here and has a reader.
    pub async fn resume(&self, run_id: &RunId, command: Command, host: Option<HostSlot>) -> Result<Run> {
        let queue = EventQueue::new(self.0.config.reader_events);
        match self.0.command(run_id, command, host, Some(queue.clone())).await? {
            Some(live) => Ok(Run { live, queue, detached: true }),
            None => Err(run_active(run_id)),
        }
    }

    /// Asks for a run to be cancelled. As [`command`](Self::command) with [`Command::Cancel`].
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub async fn cancel(&self, run_id: &RunId, grace_ms: u64, reason: Option<String>) -> Result<()> {
        self.command(run_id, Command::Cancel { grace_ms, reason }).await
    }

    /// Reads a run's events after `seq`, those of the past first. Never slows the run.
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn observe(&self, run_id: &RunId, seq: u64) -> Result<Observer> {
        // Subscribed before the past is read, so that nothing falls in between.
        let subscribed = self.0.live(run_id).map(|live| live.publisher.subscribe());
        self.run_info(run_id).await?;
        let past = self.0.journal(run_id).await?;
        let upto = past.last().map_or(0, |event| event.seq);
        let past = past.into_iter().filter(|event| event.seq > seq).map(Arc::new).collect();
        Ok(Observer { past, receiver: subscribed.map(|(receiver, _)| receiver), upto, run_id: run_id.clone() })
    }

    /// Waits until a run that is at work here ends or is suspended; for one that is not, what it came to.
    ///
    /// # Errors
    /// `run_unknown`, storage errors.
    pub async fn result(&self, run_id: &RunId) -> Result<Arc<RunResult>> {
        match self.0.live(run_id) {
            Some(live) => live.settled.wait().await,
            None => self.0.stored_result(run_id).await.map(Arc::new),
        }
    }

    /// The line about a run.
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn run_info(&self, run_id: &RunId) -> Result<RunInfo> {
        self.0.open()?;
        self.0.store.run(run_id).await?.ok_or_else(|| run_unknown(run_id))
    }

    /// Lines about runs, newest first.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunInfo>> {
        self.0.open()?;
        self.0.store.runs(filter).await
    }

    /// Suspended runs, with what each waits for. A parent whose sub-agent waits is listed beside it.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn pending(&self) -> Result<Vec<RunInfo>> {
        let mut filter = RunFilter::default();
        filter.status = vec![RunStatus::Suspended];
        filter.limit = Some(u32::MAX);
        self.runs(&filter).await
    }

    /// A run's journal.
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn export(&self, run_id: &RunId) -> Result<Vec<Event>> {
        self.run_info(run_id).await?;
        self.0.journal(run_id).await
    }

    /// The digest of a run's journal: the same in every language; see [`journal::digest`].
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn digest(&self, run_id: &RunId) -> Result<String> {
        Ok(journal::digest(&self.export(run_id).await?))
    }

    /// Removes a run and its children from the store. `false` if there was none.
    ///
    /// # Errors
    /// `run_active` while it is at work.
    pub async fn delete_run(&self, run_id: &RunId) -> Result<bool> {
        self.0.open()?;
        if self.0.live(run_id).is_some() {
            return Err(run_active(run_id));
        }
        let mut filter = RunFilter::default();
        filter.parent = Some(run_id.clone());
        filter.limit = Some(u32::MAX);
        for child in self.0.store.runs(&filter).await? {
            Box::pin(self.delete_run(&child.run_id)).await?;
        }
        self.0.store.delete_run(run_id).await
    }

    // --- Threads -----------------------------------------------------------------------------------------------------

    /// The line about a thread.
    ///
    /// # Errors
    /// `thread_unknown`.
    pub async fn thread(&self, thread: &ThreadId) -> Result<ThreadInfo> {
        self.0.open()?;
        self.0.store.thread(thread).await?.ok_or_else(|| {
            Error::new(codes::THREAD_UNKNOWN, format!("no thread `{thread}` is in the store"))
                .with("thread", thread.as_str())
        })
    }

    /// Lines about the threads of a resource, or of all, most recently changed first.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn threads(&self, resource: Option<&str>, offset: usize, limit: usize) -> Result<Vec<ThreadInfo>> {
        self.0.open()?;
        self.0.store.threads(resource, offset, limit).await
    }

    /// The messages of a thread.
    ///
    /// # Errors
    /// `thread_unknown`.
    pub async fn messages(&self, thread: &ThreadId) -> Result<Vec<Arc<Message>>> {
        self.thread(thread).await?;
        self.0.thread_messages(thread, u64::MAX).await
    }

    /// Removes a thread and its messages. `false` if there was none.
    ///
    /// # Errors
    /// `thread_busy` while a run works on it.
    pub async fn delete_thread(&self, thread: &ThreadId) -> Result<bool> {
        self.0.open()?;
        self.0.store.delete_thread(thread).await
    }

    // --- Ends --------------------------------------------------------------------------------------------------------

    /// Runs a future to its end on this thread, from anywhere: a plain thread, a callback, an engine thread.
    pub fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.0.open()?;
        self.0.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        may_block(|| receiver.recv()).map_err(|_| closed())
    }

    /// Runs a future on the engine's threads. It is dropped unfinished when the engine closes first.
    ///
    /// # Errors
    /// `engine_closed`.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.0.open()?;
        self.0.handle.spawn(future);
        Ok(())
    }

    /// Closes the engine: refuses new work, cancels runs that have a reader, leaves detached runs of a durable store for the next
    /// [`start`](Self::start), waits until all is quiet, at most `timeout`, and stops the threads. Doing it twice is fine.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inner = self.0.clone();
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.0.handle.spawn(async move {
            inner.wind_down(timeout).await;
            let _ = sender.send(());
        });
        // A little more than the runs get, for the store.
        let _ = may_block(|| receiver.recv_timeout(timeout + Duration::from_secs(5)));
        let runtime = self.0.runtime.lock().take();
        match runtime {
            // Blocking on an engine thread would be a deadlock: the threads stop by themselves then.
            Some(runtime) if Handle::try_current().is_ok() => runtime.shutdown_background(),
            Some(runtime) => runtime.shutdown_timeout(Duration::from_millis(500)),
            None => {}
        }
        Ok(())
    }

    /// Whether the engine is closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Leaves the engine's threads alone for good: for a child process after a fork, in which they do not exist.
    pub fn abandon(self) {
        self.0.closed.store(true, Ordering::Release);
        if let Some(runtime) = self.0.runtime.lock().take() {
            std::mem::forget(runtime);
        }
        std::mem::forget(self);
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }
}

/// Blocks this thread; where it is one of a runtime's, tells the runtime so.
fn may_block<T>(f: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(f),
        _ => f(),
    }
}

struct CancelOnDrop {
    live: Option<Arc<Live>>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.live = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            live.cancel(0, Some("the run's caller went away".into()));
        }
    }
}

fn closed() -> Error {
    Error::new(codes::ENGINE_CLOSED, "the engine is closed: open a new one")
}

fn run_active(run_id: &RunId) -> Error {
    Error::new(codes::RUN_ACTIVE, format!("run `{run_id}` is at work: wait for it, observe it, or cancel it"))
        .with("run_id", run_id.as_str())
}

impl Inner {
    pub(crate) fn open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn live(&self, run_id: &RunId) -> Option<Arc<Live>> {
        self.live.lock().get(run_id).cloned()
    }

    /// A driver has ended its work.
    pub(crate) fn forget(&self, live: &Arc<Live>) {
        let mut map = self.live.lock();
        if map.get(&live.run_id).is_some_and(|current| Arc::ptr_eq(current, live)) {
            map.remove(&live.run_id);
        }
    }

    pub(crate) fn log(&self, level: LogLevel, message: &str) {
        if let Some(sink) = &*self.telemetry.read() {
            sink.log(level, "lomusai", message);
        }
    }

    pub(crate) fn observe_event(&self, event: &Event) {
        if let Some(sink) = &*self.telemetry.read() {
            sink.event(event);
        }
    }

    /// The spec of a run that is being started, if the store may not have it yet.
    pub(crate) fn unstored_spec(&self, events: &[Arc<Event>]) -> Vec<(String, Arc<[u8]>)> {
        let Some(EventBody::RunStarted { spec, .. }) = events.first().map(|event| &event.body) else {
            return Vec::new();
        };
        if !self.stored_specs.lock().insert(spec.hash.clone()) {
            return Vec::new();
        }
        let Ok(plan) = self.registry.plan(&spec.name) else { return Vec::new() };
        let bytes = serde_json::to_vec(&plan.spec).expect("specs are JSON");
        vec![(spec.hash.clone(), bytes.into())]
    }

    /// Begins a new run in a task of its own.
    pub(crate) fn spawn_new(
        self: &Arc<Self>,
        request: StartRequest,
        parent: Option<(&Live, EffectId)>,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
    ) -> Result<Arc<Live>> {
        self.open()?;
        let plan = self.registry.plan(&request.agent)?;
        let run_id = match (&request.run_id, &parent) {
            (Some(id), None) => {
                check_run_id(id)?;
                id.clone()
            }
            (Some(id), Some(_)) => id.clone(),
            (None, _) => self.ids.run_id(),
        };
        let StartRequest { input, history, thread, resource, context, transient, detached, on_busy, options, .. } =
            request;
        let history: Vec<Arc<Message>> = history.into_iter().map(Arc::new).collect();
        let thread = thread.map(|id| ThreadPlace { id, resource, saved: 0, per_step: options.save_per_step });
        if thread.is_some() && !history.is_empty() {
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                "pass `thread` or `history`, not both: a thread has its own history",
            ));
        }
        let mut durable = context.clone();
        durable.retain(|key, _| !transient.contains(key));
        let parent = parent.map(|(live, effect_id)| Parent::new(live.run_id.clone(), effect_id));
        let start = Start {
            input: input.into_messages(),
            history: (!history.is_empty()).then(|| History::Messages(history.clone())),
            thread: thread.as_ref().map(|thread| thread.id.clone()),
            parent: parent.clone(),
            context: durable,
        };
        let machine = AgentMachine::new(&plan, run_id.clone(), history, options)?;
        let now_ms = self.clock.now_ms();
        let mut info = RunInfo::new(run_id.clone(), &plan.spec.agent.name, now_ms);
        info.thread = start.thread.clone();
        info.parent.clone_from(&parent);
        let (inbox, receiver) = mpsc::unbounded_channel();
        let cancel = CancelToken::new();
        let live = Arc::new(Live {
            run_id: run_id.clone(),
            agent: plan.spec.agent.name.as_str().into(),
            parent,
            inbox,
            publisher: Publisher::new(run_id.clone(), self.clock.clone(), 0, queue, detached, cancel.clone()),
            cancel,
            context: Arc::new(context),
            transient,
            host,
            settled: Settled::default(),
        });
        self.add_live(&live)?;
        let limits = limits(&plan, machine.options().timeout_ms);
        let stream = plan.spec.agent.processors.stream.clone().into();
        let driver = Driver {
            engine: self.clone(),
            plan,
            live: live.clone(),
            inbox: receiver,
            machine,
            info,
            epoch: 1,
            thread,
            limits,
            stream,
            work: Work::default(),
        };
        self.spawn(driver, First::Start(Box::new(start), on_busy), begun);
        Ok(live)
    }

    fn add_live(&self, live: &Arc<Live>) -> Result<()> {
        let mut map = self.live.lock();
        if map.contains_key(&live.run_id) {
            let id = &live.run_id;
            return Err(Error::new(
                codes::RUN_EXISTS,
                format!("a run `{id}` exists already: choose another id or leave it out"),
            )
            .with("run_id", id.as_str()));
        }
        map.insert(live.run_id.clone(), live.clone());
        Ok(())
    }

    fn spawn(self: &Arc<Self>, driver: Driver, first: First, begun: Option<oneshot::Sender<Result<()>>>) {
        self.beat();
        self.handle.spawn(driver.drive(first, begun));
    }

    /// Keeps this engine's leases alive, where others could take its runs over.
    fn beat(self: &Arc<Self>) {
        if !self.store.capabilities().shared || self.beating.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        let lease_ms = self.config.lease_ms.max(300);
        self.handle.spawn(async move {
            while let Some(inner) = weak.upgrade() {
                if inner.closed.load(Ordering::Acquire) && inner.live.lock().is_empty() {
                    return;
                }
                let until_ms = inner.clock.now_ms() + lease_ms;
                if let Err(error) = inner.store.heartbeat(&inner.owner, until_ms).await {
                    inner.log(LogLevel::Warn, &format!("the store did not take the engine's heartbeat: {error}"));
                }
                drop(inner);
                tokio::time::sleep(Duration::from_millis(lease_ms / 3)).await;
            }
        });
    }

    /// The child run of an effect: a new one, or the one that an earlier attempt started.
    pub(crate) async fn child(
        self: &Arc<Self>,
        parent: &Arc<Live>,
        effect: &EffectId,
        agent: &str,
        prompt: String,
        run_id: RunId,
    ) -> Result<Arc<Live>> {
        let depth = run_id.as_str().matches('/').count() as u32;
        let limit = self.registry.plan(&parent.agent).map_or(16, |plan| plan.spec.agent.limits.depth());
        if depth > limit {
            return Err(Error::new(
                codes::DEPTH_EXCEEDED,
                format!("sub-agents nest {depth} deep, more than limits.depth = {limit}"),
            )
            .with("agent", agent));
        }
        if let Some(live) = self.live(&run_id) {
            return Ok(live);
        }
        if self.store.run(&run_id).await?.is_some() {
            return self.revive_child(&run_id, parent.host.clone()).await;
        }
        let mut request = StartRequest::new(agent, Input::Text(prompt));
        request.run_id = Some(run_id);
        request.context = (*parent.context).clone();
        request.transient.clone_from(&parent.transient);
        request.on_busy = OnBusy::Error;
        self.spawn_new(request, Some((parent, effect.clone())), parent.host.clone(), None, None)
    }

    /// A child that is in the store: at work again if it was, else as it was left.
    async fn revive_child(self: &Arc<Self>, run_id: &RunId, host: Option<HostSlot>) -> Result<Arc<Live>> {
        let _loading = self.loading.lock().await;
        if let Some(live) = self.live(run_id) {
            return Ok(live);
        }
        match self.load(run_id, host, None).await {
            Ok(driver) => {
                let live = driver.live.clone();
                self.add_live(&live)?;
                self.spawn(driver, First::Recover, None);
                Ok(live)
            }
            Err(error) if error.is(codes::RUN_FINISHED) => {
                let result = self.stored_result(run_id).await?;
                let (inbox, _) = mpsc::unbounded_channel();
                let cancel = CancelToken::new();
                let live = Live {
                    run_id: run_id.clone(),
                    agent: "".into(),
                    parent: None,
                    inbox,
                    publisher: Publisher::new(run_id.clone(), self.clock.clone(), 0, None, true, cancel.clone()),
                    cancel,
                    context: Arc::default(),
                    transient: Vec::new(),
                    host: None,
                    settled: Settled::default(),
                };
                live.settled.set(Ok(Arc::new(result)));
                Ok(Arc::new(live))
            }
            Err(error) => Err(error),
        }
    }

    /// Cancels a child that may only be in the store. In the background: its parent does not wait for it.
    pub(crate) fn cancel_child(self: &Arc<Self>, child: RunId) {
        let inner = self.clone();
        self.handle.spawn(async move {
            let reason = Some("the run that started it was cancelled".into());
            let _ = inner.command(&child, Command::Cancel { grace_ms: 0, reason }, None, None).await;
        });
    }

    /// Sends a command. Gives the live run if it was taken out of the store for this, with `queue` as its reader.
    pub(crate) async fn command(
        self: &Arc<Self>,
        run_id: &RunId,
        command: Command,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
    ) -> Result<Option<Arc<Live>>> {
        loop {
            self.open()?;
            if let Some(live) = self.live(run_id) {
                let (reply, replied) = oneshot::channel();
                let sent = live.inbox.send(Msg::Command(command.clone(), reply)).is_ok();
                if sent && matches!(command, Command::Cancel { .. }) {
                    live.cancel.cancel();
                }
                if let Ok(result) = replied.await {
                    return result.map(|()| None);
                }
                // It has just settled: its place in the store is up to date once it says so.
                let _ = live.settled.wait().await;
                continue;
            }
            let loading = self.loading.lock().await;
            if self.live(run_id).is_some() {
                continue;
            }
            let driver = self.load(run_id, host.clone(), queue.clone()).await?;
            if let Some((child, command)) = for_child(&driver.machine, &command) {
                // The parent waits for its child; the command is the child's.
                let effect = child.0;
                let live = driver.live.clone();
                self.add_live(&live)?;
                drop(loading);
                if let Err(error) = Box::pin(self.command(&child.1, command, host.clone(), None)).await {
                    let _ = self.store.release(run_id, driver.epoch).await;
                    self.forget(&live);
                    live.settled.set(Err(error.clone()));
                    live.publisher.end();
                    return Err(error);
                }
                let parent = live.parent.clone();
                self.spawn(driver, First::Attach(effect, child.1), None);
                self.wake_parent(run_id, parent, host).await;
                return Ok(Some(live));
            }
            let live = driver.live.clone();
            self.add_live(&live)?;
            drop(loading);
            let (reply, replied) = oneshot::channel();
            let parent = live.parent.clone();
            self.spawn(driver, First::Command(command, reply), None);
            replied.await.unwrap_or_else(|_| Err(closed()))?;
            self.wake_parent(run_id, parent, host).await;
            return Ok(Some(live));
        }
    }

    /// The run that started `child` waits for it again.
    async fn wake_parent(self: &Arc<Self>, child: &RunId, parent: Option<Parent>, host: Option<HostSlot>) {
        let Some(Parent { run_id, effect_id, .. }) = parent else { return };
        if let Some(live) = self.live(&run_id) {
            let _ = live.inbox.send(Msg::Attach(effect_id, child.clone()));
            return;
        }
        let _loading = self.loading.lock().await;
        if self.live(&run_id).is_some() {
            return;
        }
        match self.load(&run_id, host.clone(), None).await {
            Ok(driver) => {
                let live = driver.live.clone();
                if self.add_live(&live).is_ok() {
                    self.spawn(driver, First::Attach(effect_id, child.clone()), None);
                    drop(_loading);
                    Box::pin(self.wake_parent(&run_id, live.parent.clone(), host)).await;
                }
            }
            Err(error) => {
                self.log(LogLevel::Warn, &format!("run `{run_id}` cannot go on after its child `{child}`: {error}"))
            }
        }
    }

    async fn recover(self: &Arc<Self>) -> Result<StartReport> {
        self.open()?;
        let mut report = StartReport::default();
        let mut filter = RunFilter::default();
        filter.status = vec![RunStatus::Running, RunStatus::Blocked];
        filter.limit = Some(u32::MAX);
        // Our own sign of life comes first: what is claimed below must not look abandoned.
        if self.store.capabilities().shared {
            self.store.heartbeat(&self.owner, self.clock.now_ms() + self.config.lease_ms).await?;
        }
        for info in self.store.runs(&filter).await?.into_iter().rev().filter(is_unfinished) {
            let run_id = info.run_id.clone();
            // A child is taken up by its parent.
            if info.parent.is_some() || self.live(&run_id).is_some() {
                continue;
            }
            if info.recoveries >= self.config.recoveries_max {
                self.mark(&info, RunStatus::Poisoned, "it was recovered too often without progress").await?;
                report.poisoned.push(run_id);
                continue;
            }
            let _loading = self.loading.lock().await;
            match self.load(&run_id, None, None).await {
                Ok(driver) => {
                    let live = driver.live.clone();
                    if self.add_live(&live).is_ok() {
                        self.spawn(driver, First::Recover, None);
                        report.recovered.push(run_id);
                    }
                }
                Err(error) if error.is(codes::RUN_ACTIVE) => report.elsewhere.push(run_id),
                Err(error) => {
                    self.mark(&info, RunStatus::Blocked, &error.body().message).await?;
                    self.log(LogLevel::Warn, &format!("run `{run_id}` is blocked: {error}"));
                    report.blocked.push((run_id, error));
                }
            }
        }
        Ok(report)
    }

    async fn mark(&self, info: &RunInfo, status: RunStatus, why: &str) -> Result<()> {
        let Ok(epoch) = self.store.claim(&info.run_id, &self.owner, self.clock.now_ms()).await else { return Ok(()) };
        let mut info = info.clone();
        info.status = status;
        info.blocked_by = Some(why.to_owned());
        info.updated_at_ms = self.clock.now_ms();
        let mut batch = lomusai_core::storage::Batch::default();
        let (run_id, expected_seq) = (info.run_id.clone(), info.seq);
        batch.run = Some(lomusai_core::storage::RunAppend {
            expected_seq,
            epoch,
            owner: self.owner.clone(),
            events: Vec::new(),
            info,
        });
        let committed = self.store.commit(batch).await;
        self.store.release(&run_id, epoch).await?;
        match committed {
            // Somebody else has moved it on: then it is not stuck.
            Err(error) if error.is(codes::SEQUENCE_CONFLICT) => Ok(()),
            other => other,
        }
    }

    async fn wind_down(&self, timeout: Duration) {
        let durable = self.store.capabilities().durable;
        let lives: Vec<Arc<Live>> = self.live.lock().values().cloned().collect();
        for live in &lives {
            if !durable || !live.publisher.is_detached() {
                live.cancel(0, Some("the engine was closed".into()));
            }
        }
        let all = async {
            for live in &lives {
                if !durable || !live.publisher.is_detached() {
                    let _ = live.settled.wait().await;
                }
            }
        };
        if tokio::time::timeout(timeout, all).await.is_err() {
            self.log(LogLevel::Warn, "the engine was closed with runs that did not end in time");
        }
        if self.store.capabilities().shared {
            let _ = self.store.retire(&self.owner).await;
        }
        let _ = self.store.close().await;
        // Whoever still waits is told.
        for live in lives {
            live.settled.set(Err(closed()));
            live.publisher.end();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            // May happen on one of the runtime's own threads, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// The child a command is meant for, where the run itself only waits for children.
fn for_child(machine: &AgentMachine, command: &Command) -> Option<((EffectId, RunId), Command)> {
    let named = match command {
        Command::Approve { effect_id }
        | Command::Decline { effect_id, .. }
        | Command::Resume { effect_id, .. }
        | Command::ToolResult { effect_id, .. } => effect_id,
        _ => return None,
    };
    let pending = machine.pending();
    let children: Vec<_> = pending.iter().filter(|pending| pending.reason == PendingKind::Child).collect();
    let child = match named {
        Some(id) => children.iter().find(|pending| pending.effect_id == *id)?,
        None if pending.len() == 1 => children.first()?,
        None => return None,
    };
    let mut command = command.clone();
    match &mut command {
        Command::Approve { effect_id }
        | Command::Decline { effect_id, .. }
        | Command::Resume { effect_id, .. }
        | Command::ToolResult { effect_id, .. } => *effect_id = None,
        _ => {}
    }
    Some(((child.effect_id.clone(), child.child.clone()?), command))
}

fn limits(plan: &Plan, timeout_ms: Option<u64>) -> Limits {
    let limits = &plan.spec.agent.limits;
    Limits {
        run_ms: timeout_ms.or(limits.run_ms),
        run_bytes: limits.run_bytes(),
        message_bytes: limits.message_bytes(),
    }
}

fn check_run_id(id: &RunId) -> Result<()> {
    let text = id.as_str();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    if !text.is_empty() && text.len() <= 128 && text.chars().all(fits) {
        return Ok(());
    }
    Err(Error::new(
        codes::NAME_INVALID,
        format!("a run id has 1 to 128 letters, digits, `_`, `-`, `.` or `:`, was `{}`", text.escape_debug()),
    ))
}
