//! The engine: what a host opens, registers components with, and runs agents on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lomusai_core::budget::Amount;
use lomusai_core::component::{Function, HostSlot, Step};
use lomusai_core::llm::{EmbeddingProvider, LlmProvider, Router};
use lomusai_core::models::ModelTable;
use lomusai_core::seam::{Clock, Ids};
use lomusai_core::storage::{MemoryStore, Store, ThreadInfo};
use lomusai_core::sync::{Apart, Mutex};
use lomusai_core::telemetry::TelemetrySink;
use lomusai_core::tool::Tool;
use lomusai_core::workflow::{Built, Workflow, WorkflowPlan, picture};
use lomusai_core::{Error, Result, journal};
use lomusai_wire::{
    AgentSpec, Budget, Command, Event, Message, ModelInfo, RunFilter, RunId, RunInfo, RunStatus, ThreadId,
    WorkflowSpec, codes,
};
use serde::Deserialize;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::budgets::Budgets;
use crate::cassette::Cassette;
use crate::clock::{RandomIds, SystemClock};
use crate::config::EngineConfig;
use crate::inner::{Inner, closed, run_active};
use crate::load::run_unknown;
use crate::queue::EventQueue;
use crate::registry::{ComponentKind, Registry};
use crate::retention::Retention;
use crate::run::{Live, Observer, Run, RunRequest, RunResult};
use crate::telemetry::Telemetry;
use crate::threads::Threads;

/// An agent engine. Clones share it. Thread-safe throughout.
///
/// It owns its threads and can be closed; there is never a global runtime. Dropping the last clone stops its threads without waiting.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

/// Puts an engine together: values in the config, components with `with_*`.
pub struct EngineBuilder {
    config: EngineConfig,
    store: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    telemetry: Option<Arc<dyn TelemetrySink>>,
    router: Option<Arc<dyn Router>>,
    runtime: Option<Handle>,
}

/// What to draw.
#[derive(Clone, Debug, PartialEq)]
pub enum PictureOf {
    /// The registered workflow of this name.
    Workflow(String),
    /// This workflow, registered or not.
    Spec(Box<WorkflowSpec>),
    /// The workflow of this run, as it was when it began, and where its steps stand.
    RunId(RunId),
}

/// How to draw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureFormat {
    /// A picture by itself.
    #[default]
    Svg,
    /// A flowchart for documents that know Mermaid.
    Mermaid,
}

/// A shared budget and what was spent of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetState {
    /// Its name.
    pub name: String,
    /// What may be used.
    pub limit: Budget,
    /// What was used, of all that can be bounded.
    pub spent: Amount,
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

    /// Finds models whose providers are not registered. Default: nobody does.
    pub fn with_router(mut self, router: Arc<dyn Router>) -> Self {
        self.router = Some(router);
        self
    }

    /// Drives runs on this runtime, and starts no threads. Its owner keeps it going; closing the engine leaves it alone.
    ///
    /// For a program that has one and wants no other, and for a simulation, whose runtime has a clock of its own. On a runtime with one
    /// thread the blocking calls ([`Engine::block_on`], [`Engine::close`]) must not be made from that thread.
    pub fn with_runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Starts the engine's threads. Runs nothing: see [`Engine::start`].
    ///
    /// # Errors
    /// `internal` when the system gives no threads; `cassette_invalid`; `argument_invalid` for the cassette or the retention.
    pub fn build(self) -> Result<Engine> {
        self.config.retention.iter().try_for_each(Retention::check)?;
        let cassette = match &self.config.cassette {
            Some(config) => Some(Cassette::open(config)?),
            None => Cassette::of_env()?,
        };
        if let (Some(cassette), Some(router)) = (&cassette, &self.router) {
            router.secrets().iter().for_each(|secret| cassette.secrets.hide(secret));
        }
        let replays = cassette.as_ref().is_some_and(|cassette| cassette.only_replays());
        let registry = Registry::new(self.router, self.config.provider_limits.clone(), replays);
        let threads = match self.runtime {
            Some(handle) => Threads::of(handle),
            None => Threads::start(self.config.threads)?,
        };
        Ok(Engine(Arc::new(Inner {
            models: ModelTable::built_in().clone().with(&self.config.models),
            budgets: Budgets::new(self.config.budgets.clone()),
            cassette,
            config: self.config,
            registry,
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            clock: self.clock,
            owner: self.ids.owner().into(),
            ids: self.ids,
            telemetry: Telemetry::new(self.telemetry),
            live: Apart::default(),
            stored_specs: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
            threads,
            closed: AtomicBool::new(false),
            seen_alive: tokio::sync::OnceCell::new(),
            beating: AtomicBool::new(false),
            wakes: Mutex::default(),
            woken: tokio::sync::Notify::new(),
            waking: AtomicBool::new(false),
            rescheduled: tokio::sync::Notify::new(),
            scheduling: AtomicBool::new(false),
        })))
    }
}

impl Engine {
    /// Begins an engine with these settings.
    pub fn builder(config: EngineConfig) -> EngineBuilder {
        EngineBuilder {
            config,
            store: None,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            telemetry: None,
            router: None,
            runtime: None,
        }
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

    /// Registers a workflow. It is checked whole; the components it calls are looked up when it runs.
    ///
    /// # Errors
    /// As [`WorkflowPlan::new`](lomusai_core::workflow::WorkflowPlan::new), and `name_taken`.
    pub fn register_workflow(&self, spec: WorkflowSpec) -> Result<()> {
        self.0.registry.add_workflow(spec)
    }

    /// Registers a workflow that was built in Rust, with its functions. Where that fails, none of them stays.
    ///
    /// # Errors
    /// As [`register_workflow`](Self::register_workflow), and `name_taken` of a function.
    pub fn register(&self, workflow: Workflow) -> Result<()> {
        let Built { spec, steps, functions } = workflow.build()?;
        let mut added = Vec::new();
        let registered = (|| {
            for (name, step) in steps {
                self.0.registry.add_step(&name, step)?;
                added.push((ComponentKind::Step, name));
            }
            for (name, function) in functions {
                self.0.registry.add_function(&name, function)?;
                added.push((ComponentKind::Function, name));
            }
            self.register_workflow(spec)
        })();
        if registered.is_err() {
            for (kind, name) in &added {
                self.unregister(*kind, name);
            }
        }
        registered
    }

    /// Registers a function that steps of workflows can call.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_step(&self, name: &str, step: impl Step + 'static) -> Result<()> {
        self.0.registry.add_step(name, Arc::new(step))
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

    /// The models that are known: of the table, of the settings, and every provider that can be asked, with what each can do and costs.
    /// By provider, then model. `configured` says whether a run could ask it now.
    pub fn models(&self) -> Vec<ModelInfo> {
        let providers = self.0.registry.providers();
        let mut models: Vec<ModelInfo> = self.0.models.iter().cloned().collect();
        for name in providers.keys() {
            if !models.iter().any(|info| info.provider == *name) {
                models.push(ModelInfo::new(name, ""));
            }
        }
        for info in &mut models {
            (info.configured, info.missing) = match providers.get(&info.provider) {
                Some(missing) => (missing.is_none(), missing.clone()),
                None => (false, None),
            };
        }
        models.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        models
    }

    /// The shared budgets, and what was spent of each. By name.
    pub fn budgets(&self) -> Vec<BudgetState> {
        let budgets = self.0.config.budgets.iter();
        budgets
            .map(|(name, limit)| BudgetState {
                name: name.clone(),
                limit: *limit,
                spent: self.0.budgets.spent(name).unwrap_or_default(),
            })
            .collect()
    }

    /// Keeps a text out of the cassette: a key that the engine cannot know of.
    pub fn hide_secret(&self, secret: &str) {
        if let Some(cassette) = &self.0.cassette {
            cassette.secrets.hide(secret);
        }
    }

    /// Gives notes and events to this sink from now on.
    pub fn set_telemetry(&self, sink: Option<Arc<dyn TelemetrySink>>) {
        self.0.telemetry.set(sink);
    }

    // --- Runs --------------------------------------------------------------------------------------------------------

    /// Recovers the unfinished runs of the store, once the components they need are registered. Call it again to look again.
    ///
    /// # Errors
    /// Storage errors. A run that cannot go on is in the report, not an error.
    pub async fn start(&self) -> Result<StartReport> {
        self.0.recover().await
    }

    /// Runs an agent or a workflow until it ends or is suspended. Dropping the future cancels the run, unless the request is `detached`.
    ///
    /// # Errors
    /// What is wrong with the request, and why a run could not be driven on. A run that failed is no error here; see [`RunResult::ok`].
    pub async fn run(&self, request: impl Into<RunRequest>) -> Result<Arc<RunResult>> {
        self.run_with(request, None).await
    }

    /// As [`run`](Self::run), with a slot that the caller's own components find in their context.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_with(&self, request: impl Into<RunRequest>, host: Option<HostSlot>) -> Result<Arc<RunResult>> {
        let request = request.into();
        let detached = request.is_detached();
        let live = self.0.spawn_new(request, None, host, None, None)?;
        let guard = CancelOnDrop { live: (!detached).then(|| live.clone()) };
        let result = live.settled.wait().await;
        guard.disarm();
        result
    }

    /// Runs an agent or a workflow and reads its events. Returns once the run is recorded.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub async fn stream(&self, request: impl Into<RunRequest>) -> Result<Run> {
        self.stream_with(request, None).await
    }

    /// As [`stream`](Self::stream), with a slot that the caller's own components find in their context.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_with(&self, request: impl Into<RunRequest>, host: Option<HostSlot>) -> Result<Run> {
        let (begun, begins) = oneshot::channel();
        let queue = EventQueue::new(self.0.config.reader_events);
        let request = request.into();
        let detached = request.is_detached();
        let live = self.0.spawn_new(request, None, host, Some(queue.clone()), Some(begun))?;
        let run = Run { live, queue, detached };
        begins.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(run)
    }

    /// Begins a run without waiting for its record: what is wrong with that is then the run's [`result`](Run::result).
    ///
    /// # Errors
    /// What can be told at once: `agent_unknown`, `transcript_invalid`, `schema_invalid`, `engine_closed` and the like.
    pub fn launch(&self, request: impl Into<RunRequest>, host: Option<HostSlot>) -> Result<Run> {
        let queue = EventQueue::new(self.0.config.reader_events);
        let request = request.into();
        let detached = request.is_detached();
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

    /// A workflow as a picture: a registered one by its name, or a run's with each step in the colour of where it stands.
    ///
    /// # Errors
    /// `workflow_unknown`, `run_unknown`; `argument_invalid` for an agent's run.
    pub async fn picture(&self, of: &PictureOf, format: PictureFormat) -> Result<String> {
        let (spec, statuses) = match of {
            PictureOf::Workflow(name) => (self.0.registry.workflow_spec(name)?, BTreeMap::new()),
            PictureOf::Spec(spec) => (WorkflowPlan::new((**spec).clone())?.spec, BTreeMap::new()),
            PictureOf::RunId(run_id) => {
                let events = self.export(run_id).await?;
                (self.0.workflow_of(&events, run_id).await?, picture::statuses(&events))
            }
        };
        Ok(match format {
            PictureFormat::Svg => picture::svg(&spec, &statuses),
            PictureFormat::Mermaid => picture::mermaid(&spec, &statuses),
        })
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
        self.0.threads.spawn(async move {
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
        self.0.threads.spawn(future).map(drop).ok_or_else(closed)
    }

    /// Closes the engine: refuses new work, cancels runs that have a reader, leaves detached runs of a durable store for the next
    /// [`start`](Self::start), waits until all is quiet, at most `timeout`, and stops the threads. Doing it twice is fine.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inner = self.0.clone();
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.0.threads.spawn(async move {
            inner.wind_down(timeout).await;
            let _ = sender.send(());
        });
        // A little more than the runs get, for the store.
        let _ = may_block(|| receiver.recv_timeout(timeout + Duration::from_secs(5)));
        self.0.threads.stop();
        self.0.registry.forget_routed();
        Ok(())
    }

    /// Whether the engine is closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Leaves the engine's threads alone for good: for a child process after a fork, in which they do not exist.
    pub fn abandon(self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.threads.abandon();
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
