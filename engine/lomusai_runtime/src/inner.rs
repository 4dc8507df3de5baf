//! What every clone of an engine shares: the runs at work, and how they are begun, taken up, told and ended.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lomusai_core::agent::{AgentMachine, Start};
use lomusai_core::budget::Amount;
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{CallContext, HostSlot, StepWork};
use lomusai_core::llm::LlmProvider;
use lomusai_core::machine::{Input, Machine};
use lomusai_core::models::ModelTable;
use lomusai_core::seam::{Clock, Ids};
use lomusai_core::storage::{Batch, Store};
use lomusai_core::sync::{Apart, Mutex};
use lomusai_core::table::Table;
use lomusai_core::tool::Tool;
use lomusai_core::workflow::{self, WorkflowMachine};
use lomusai_core::{Error, Result};
use lomusai_wire::{
    Command, Context, EffectId, Event, History, Kind, LogLevel, Message, ModelInfo, OnBusy, Parent, PendingKind, RunId,
    RunInfo, RunStatus, SpecKind, StartRequest, ToolReply, WorkflowRequest, codes,
};
use tokio::sync::{mpsc, oneshot};

use crate::budgets::{Budgets, RunBudgets};
use crate::cassette::{self, Cassette, Taped};
use crate::config::EngineConfig;
use crate::driver::{AnyPlan, Driver, First, ThreadPlace, Work};
use crate::publisher::Publisher;
use crate::queue::EventQueue;
use crate::registry::{Registry, split};
use crate::run::{Child, Live, Msg, RunRequest, Settled};
use crate::telemetry::Telemetry;
use crate::threads::Threads;

/// What every clone of an engine shares.
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) registry: Registry,
    pub(crate) models: ModelTable,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) cassette: Option<Arc<Cassette>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) telemetry: Telemetry,
    /// Who this engine is to the store's leases.
    pub(crate) owner: Arc<str>,
    pub(crate) live: Apart<Mutex<Table<RunId, Arc<Live>>>>,
    /// Hashes of specs that are in the store already.
    pub(crate) stored_specs: Mutex<HashSet<String>>,
    /// Held while a stored run is taken over, so that it is not taken twice by this engine.
    pub(crate) loading: tokio::sync::Mutex<()>,
    pub(crate) threads: Threads,
    pub(crate) closed: AtomicBool,
    /// Set once a shared store has had the engine's first sign of life.
    pub(crate) seen_alive: tokio::sync::OnceCell<()>,
    /// Whether the heartbeat of a shared store has been started.
    pub(crate) beating: AtomicBool,
    /// Runs that are not in memory and go on at a time to come, soonest first.
    pub(crate) wakes: Mutex<BTreeSet<(u64, RunId)>>,
    /// Told when there is a new first of them.
    pub(crate) woken: tokio::sync::Notify,
    /// Whether somebody waits for them.
    pub(crate) waking: AtomicBool,
    /// Told when a schedule has changed here.
    pub(crate) rescheduled: tokio::sync::Notify,
    /// Whether somebody looks after the schedules.
    pub(crate) scheduling: AtomicBool,
}

/// How often runs to be woken are looked at in any case.
const WAKE_LOOK_MS: u64 = 1_000;

impl Inner {
    pub(crate) fn open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn live(&self, run_id: &RunId) -> Option<Arc<Live>> {
        self.live.lock().get(run_id).cloned()
    }

    /// What is known of a model that a spec names.
    pub(crate) fn model_info(&self, model: &str) -> Option<ModelInfo> {
        let (provider, name) = split(model);
        self.models.find(provider, name).cloned()
    }

    /// A provider with the cassette before it, where one is open.
    pub(crate) fn taped(&self, provider: Option<Arc<dyn LlmProvider>>, component: &str) -> Arc<dyn LlmProvider> {
        match &self.cassette {
            Some(cassette) => {
                Arc::new(Taped { inner: provider, cassette: cassette.clone(), component: component.to_owned() })
            }
            None => provider.expect("only a cassette answers for nobody"),
        }
    }

    pub(crate) async fn call_tool(
        &self,
        tool: &dyn Tool,
        name: &str,
        context: CallContext,
        arguments: &str,
    ) -> Result<ToolReply> {
        match &self.cassette {
            Some(cassette) => cassette::call_tool(cassette, tool, name, context, arguments).await,
            None => tool.call(context, arguments).await,
        }
    }

    /// A driver has ended its work.
    pub(crate) fn forget(&self, live: &Arc<Live>) {
        let mut map = self.live.lock();
        if map.get(&live.run_id).is_some_and(|current| Arc::ptr_eq(current, live)) {
            map.remove(&live.run_id);
        }
    }

    pub(crate) fn log(&self, level: LogLevel, message: &str) {
        self.telemetry.with(|sink| sink.log(level, "lomusai", message));
    }

    pub(crate) fn observe_events(&self, events: &[Arc<Event>]) {
        self.telemetry.with(|sink| events.iter().for_each(|event| sink.event(event)));
    }

    /// The spec of a run that is being started, if the store may not have it yet.
    pub(crate) fn unstored_spec(&self, plan: &AnyPlan) -> Vec<(String, Arc<[u8]>)> {
        let hash = plan.hash();
        if self.stored_specs.lock().contains(hash) {
            return Vec::new();
        }
        vec![plan.blob()]
    }

    /// Begins a new run in a task of its own.
    pub(crate) fn spawn_new(
        self: &Arc<Self>,
        request: RunRequest,
        parent: Option<(&Live, EffectId)>,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
    ) -> Result<Arc<Live>> {
        self.spawn_with(request, parent, host, queue, begun, Batch::default())
    }

    /// As [`spawn_new`](Self::spawn_new), with more for the commit of its first events.
    pub(crate) fn spawn_with(
        self: &Arc<Self>,
        request: RunRequest,
        parent: Option<(&Live, EffectId)>,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
        with: Batch,
    ) -> Result<Arc<Live>> {
        self.open()?;
        let spawned = match request {
            RunRequest::Agent(request) => self.spawn_agent(*request, parent, host, queue, begun, with),
            RunRequest::Workflow(request) => self.spawn_workflow(*request, parent, host, queue, begun, with),
        };
        // Whoever closes the engine takes its components away: what is missing meanwhile is not what is wrong.
        spawned.map_err(|error| self.open().err().unwrap_or(error))
    }

    fn new_id(&self, asked: Option<RunId>, parent: Option<&(&Live, EffectId)>) -> Result<RunId> {
        match (asked, parent) {
            (Some(id), None) => check_run_id(&id).map(|()| id),
            (Some(id), Some(_)) => Ok(id),
            (None, _) => Ok(self.ids.run_id()),
        }
    }

    fn spawn_agent(
        self: &Arc<Self>,
        request: StartRequest,
        parent: Option<(&Live, EffectId)>,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
        with: Batch,
    ) -> Result<Arc<Live>> {
        let plan = self.registry.plan(&request.agent)?;
        let run_id = self.new_id(request.run_id, parent.as_ref())?;
        let StartRequest {
            input,
            history,
            thread,
            resource,
            context,
            transient,
            metadata,
            detached,
            on_busy,
            options,
            ..
        } = request;
        let history: Vec<Arc<Message>> = history.into_iter().map(Arc::new).collect();
        let thread = thread.map(|id| ThreadPlace { id, resource, saved: 0, per_step: options.save_per_step });
        if thread.is_some() && !history.is_empty() {
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                "pass `thread` or `history`, not both: a thread has its own history",
            ));
        }
        let parent = parent.map(|(live, effect_id)| Parent::new(live.run_id.clone(), effect_id));
        let start = Start {
            input: input.into_messages(),
            history: (!history.is_empty()).then(|| History::Messages(history.clone())),
            thread: thread.as_ref().map(|thread| thread.id.clone()),
            parent: parent.clone(),
            context: durable(&context, &transient),
            metadata: metadata.clone(),
        };
        let own = options.budget.or(plan.spec.agent.budget);
        let budgets = self.budgets.of_run(&run_id, own, &options.shared_budgets, Amount::default())?;
        let timeout_ms = options.timeout_ms;
        let machine = AgentMachine::new(&plan, run_id.clone(), history, options)?;
        let mut info = RunInfo::new(run_id, &plan.spec.agent.name, self.clock.now_ms());
        info.parent.clone_from(&parent);
        (info.thread, info.metadata) = (start.thread.clone(), metadata);
        let new = New { info, context, transient, detached, host, thread, timeout_ms, budgets, with };
        let first = First::Start(Box::new(start), on_busy);
        self.spawn_machine(machine.into(), AnyPlan::Agent(plan), new, first, queue, begun)
    }

    fn spawn_workflow(
        self: &Arc<Self>,
        request: WorkflowRequest,
        parent: Option<(&Live, EffectId)>,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
        with: Batch,
    ) -> Result<Arc<Live>> {
        let plan = self.registry.workflow(&request.workflow)?;
        let run_id = self.new_id(request.run_id, parent.as_ref())?;
        let WorkflowRequest { input, context, transient, state, metadata, detached, .. } = request;
        let shared = parent.as_ref().map_or_else(Vec::new, |(live, _)| live.budgets.shared());
        let parent = parent.map(|(live, effect_id)| Parent::new(live.run_id.clone(), effect_id));
        let start = workflow::Start {
            input,
            state,
            parent: parent.clone(),
            context: durable(&context, &transient),
            metadata: metadata.clone(),
        };
        let machine = WorkflowMachine::new(&plan, run_id.clone());
        // What is wrong with the input is told at once, before there is a run.
        let begin = machine.handle(Input::StartWorkflow(Box::new(start)), 0)?;
        let mut info = RunInfo::new(run_id, &plan.spec.name, self.clock.now_ms());
        info.kind = SpecKind::Workflow;
        (info.parent, info.metadata) = (parent, metadata);
        // What its children use is counted where its own parents and the engine count.
        let budgets = self.budgets.of_run(&info.run_id, None, &shared, Amount::default())?;
        let new = New { info, context, transient, detached, host, thread: None, timeout_ms: None, budgets, with };
        let first = First::StartWorkflow(begin);
        self.spawn_machine(machine.into(), AnyPlan::Workflow(plan), new, first, queue, begun)
    }

    fn spawn_machine(
        self: &Arc<Self>,
        machine: Machine,
        plan: AnyPlan,
        new: New,
        first: First,
        queue: Option<Arc<EventQueue>>,
        begun: Option<oneshot::Sender<Result<()>>>,
    ) -> Result<Arc<Live>> {
        let New { info, context, transient, detached, host, thread, timeout_ms, budgets, with } = new;
        let run_id = info.run_id.clone();
        let (inbox, receiver) = mpsc::unbounded_channel();
        let cancel = CancelToken::new();
        let live = Arc::new(Live {
            run_id: run_id.clone(),
            agent: info.agent.as_str().into(),
            depth: plan.depth(),
            parent: info.parent.clone(),
            inbox,
            publisher: Publisher::new(run_id, self.clock.clone(), 0, queue, detached, cancel.clone()),
            cancel,
            budgets,
            context: Arc::new(context),
            transient,
            host,
            work: StepWork::new(),
            settled: Settled::default(),
        });
        self.add_live(&live)?;
        let driver = Driver {
            engine: self.clone(),
            limits: plan.limits(timeout_ms),
            stream: plan.stream(),
            plan,
            live: live.clone(),
            inbox: receiver,
            machine,
            info,
            info_stored: false,
            epoch: 1,
            owner: Arc::from(&*self.owner),
            thread,
            context: None,
            with,
            migrated: Vec::new(),
            work: Work::default(),
        };
        self.spawn(driver, first, begun);
        Ok(live)
    }

    /// # Errors
    /// `run_exists`; `engine_closed`: whoever closes the engine ends the runs that are here by then, and none comes after it.
    pub(crate) fn add_live(&self, live: &Arc<Live>) -> Result<()> {
        let mut map = self.live.lock();
        self.open()?;
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

    pub(crate) fn spawn(self: &Arc<Self>, driver: Driver, first: First, begun: Option<oneshot::Sender<Result<()>>>) {
        self.beat();
        // In a box from the beginning: on its way into a task, and at its end there, a future is copied whole. This one is of kilobytes.
        self.threads.spawn(Box::pin(driver.drive(first, begun)));
    }

    /// Keeps this engine's leases alive, where others could take its runs over.
    pub(crate) fn beat(self: &Arc<Self>) {
        if !self.store.capabilities().shared || self.beating.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        let lease_ms = self.config.lease_ms.max(300);
        self.threads.spawn(async move {
            while let Some(inner) = weak.upgrade() {
                if inner.closed.load(Ordering::Acquire) && inner.live.lock().is_empty() {
                    return;
                }
                if let Err(error) = inner.sign_of_life().await {
                    inner.log(LogLevel::Warn, &format!("the store did not take the engine's heartbeat: {error}"));
                }
                drop(inner);
                tokio::time::sleep(Duration::from_millis(lease_ms / 3)).await;
            }
        });
    }

    pub(crate) async fn sign_of_life(&self) -> Result<()> {
        let until_ms = self.clock.now_ms() + self.config.lease_ms.max(300);
        self.store.heartbeat(&self.owner, until_ms).await
    }

    /// Waits until the store has had this engine's first sign of life: a run of an engine that gave none yet looks abandoned.
    pub(crate) async fn alive(&self) -> Result<()> {
        if self.store.capabilities().shared {
            self.seen_alive.get_or_try_init(|| self.sign_of_life()).await?;
        }
        Ok(())
    }

    /// Has a run that is let go of go on at this time. Its row in the store says the same, for the next `start`.
    pub(crate) fn wake_at(self: &Arc<Self>, run_id: &RunId, at_ms: u64) {
        self.wakes.lock().insert((at_ms, run_id.clone()));
        self.woken.notify_one();
        if self.waking.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        self.threads.spawn(async move {
            while let Some(inner) = weak.upgrade() {
                if inner.closed.load(Ordering::Acquire) {
                    return;
                }
                let now_ms = inner.clock.now_ms();
                let first = inner.wakes.lock().first().cloned();
                match first {
                    Some((at_ms, run_id)) if at_ms <= now_ms => {
                        inner.wakes.lock().remove(&(at_ms, run_id.clone()));
                        inner.wake(&run_id).await;
                    }
                    // Looked at now and then whatever happens: the engine may be gone, or the clock set.
                    first => {
                        let wait = first.map_or(WAKE_LOOK_MS, |(at_ms, _)| (at_ms - now_ms).min(WAKE_LOOK_MS));
                        let woken = inner.woken.notified();
                        tokio::pin!(woken);
                        woken.as_mut().enable();
                        let _ = tokio::time::timeout(Duration::from_millis(wait), woken).await;
                    }
                }
            }
        });
    }

    /// A run's time has come. Who else takes it up, or has ended it, is welcome to.
    async fn wake(self: &Arc<Self>, run_id: &RunId) {
        let _loading = self.loading.lock().await;
        if self.live(run_id).is_some() {
            return;
        }
        match self.load(run_id, None, None).await {
            Ok(driver) => {
                let live = driver.live.clone();
                let parent = live.parent.clone();
                if self.add_live(&live).is_ok() {
                    // One that stopped in the middle is begun again.
                    let first =
                        if driver.machine.status() == RunStatus::Running { First::Recover } else { First::Wake };
                    self.spawn(driver, first, None);
                    drop(_loading);
                    self.wake_parent(run_id, parent, None).await;
                }
            }
            Err(error) if error.is(codes::RUN_FINISHED) || error.is(codes::RUN_UNKNOWN) => {}
            // Its holder lets it go on; where that is dead, its lease has to run out first.
            Err(error) if error.is(codes::RUN_ACTIVE) || error.kind() == Kind::Storage => {
                let later = self.clock.now_ms() + self.config.lease_ms.max(300);
                self.wakes.lock().insert((later, run_id.clone()));
            }
            Err(error) => self.log(LogLevel::Warn, &format!("run `{run_id}` is due and cannot go on here: {error}")),
        }
    }

    /// The child run of an effect: a new one, or the one that an earlier attempt started.
    pub(crate) async fn child(
        self: &Arc<Self>,
        parent: &Arc<Live>,
        effect: &EffectId,
        child: Child,
        run_id: RunId,
    ) -> Result<Arc<Live>> {
        let depth = run_id.as_str().matches('/').count() as u32;
        if depth > parent.depth {
            let limit = parent.depth;
            return Err(Error::new(
                codes::DEPTH_EXCEEDED,
                format!("runs inside of runs nest {depth} deep, more than limits.depth = {limit}"),
            )
            .with("agent", child.name()));
        }
        if let Some(live) = self.live(&run_id) {
            return Ok(live);
        }
        if self.store.run(&run_id).await?.is_some() {
            return self.revive_child(&run_id, parent.host.clone()).await;
        }
        // Nothing begins once its run was told to stop.
        if parent.cancel.is_cancelled() {
            return Err(Error::new(codes::RUN_CANCELLED, "the run was cancelled"));
        }
        let (context, transient) = ((*parent.context).clone(), parent.transient.clone());
        let request: RunRequest = match child {
            Child::Agent(mut request) => {
                (request.run_id, request.context, request.transient) = (Some(run_id), context, transient);
                request.on_busy = OnBusy::Error;
                request.options.shared_budgets = parent.budgets.shared();
                RunRequest::Agent(request)
            }
            Child::Workflow(mut request) => {
                (request.run_id, request.context, request.transient) = (Some(run_id), context, transient);
                RunRequest::Workflow(request)
            }
        };
        self.spawn_new(request, Some((parent, effect.clone())), parent.host.clone(), None, None)
    }

    /// Whether there is such a run, at work here or in the store.
    pub(crate) async fn is_known(&self, run_id: &RunId) -> Result<bool> {
        Ok(self.live(run_id).is_some() || self.store.run(run_id).await?.is_some())
    }

    /// A child that is in the store: at work again if it was, else as it was left.
    pub(crate) async fn revive_child(self: &Arc<Self>, run_id: &RunId, host: Option<HostSlot>) -> Result<Arc<Live>> {
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
                    depth: 0,
                    parent: None,
                    inbox,
                    publisher: Publisher::new(run_id.clone(), self.clock.clone(), 0, None, true, cancel.clone()),
                    cancel,
                    budgets: self.budgets.of_run(run_id, None, &[], Amount::default())?,
                    context: Arc::default(),
                    transient: Vec::new(),
                    host: None,
                    work: StepWork::new(),
                    settled: Settled::default(),
                };
                live.settled.set(Ok(Arc::new(result)));
                Ok(Arc::new(live))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a command. Gives the live run if it was taken out of the store for this, with `queue` as its reader.
    ///
    /// In a task of its own: whoever waits for the answer may go away in the middle of a run being taken over.
    pub(crate) async fn command(
        self: &Arc<Self>,
        run_id: &RunId,
        command: Command,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
    ) -> Result<Option<Arc<Live>>> {
        let (inner, run_id) = (self.clone(), run_id.clone());
        let told = self.threads.spawn(async move { inner.command_here(&run_id, command, host, queue).await });
        told.ok_or_else(closed)?.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn command_here(
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
                let sent = live.inbox.send(Box::new(Msg::Command(command.clone(), reply))).is_ok();
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
            let retry = matches!(command, Command::Retry);
            let driver = self.load_for(run_id, host.clone(), queue.clone(), retry).await?;
            if let Some((child, command)) = for_child(&driver.machine, &command) {
                // The parent waits for its child; the command is the child's.
                let effect = child.0;
                let live = driver.live.clone();
                self.add_live(&live)?;
                drop(loading);
                if let Err(error) = Box::pin(self.command_here(&child.1, command, host.clone(), None)).await {
                    // Driven all the same: what others have told it meanwhile must not be lost.
                    self.spawn(driver, First::Wake, None);
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
    pub(crate) async fn wake_parent(self: &Arc<Self>, child: &RunId, parent: Option<Parent>, host: Option<HostSlot>) {
        let Some(Parent { run_id, effect_id, .. }) = parent else { return };
        let _loading = loop {
            if let Some(live) = self.live(&run_id) {
                if live.inbox.send(Box::new(Msg::Attach(effect_id.clone(), child.clone()))).is_ok() {
                    // Who waits for that one need not know that it is at work again.
                    return Box::pin(self.wake_parent(&run_id, live.parent.clone(), host)).await;
                }
                // It has just settled.
                let _ = live.settled.wait().await;
            }
            let loading = self.loading.lock().await;
            if self.live(&run_id).is_none() {
                break loading;
            }
        };
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
                self.log(LogLevel::Warn, &format!("run `{run_id}` cannot go on after its child `{child}`: {error}"));
                // Its holder does not know of the child: once that has let go of it, it is looked at again.
                if error.is(codes::RUN_ACTIVE) || error.kind() == Kind::Storage {
                    self.wake_at(&run_id, self.clock.now_ms() + self.config.lease_ms.max(300));
                }
            }
        }
    }

    pub(crate) async fn wind_down(&self, timeout: Duration) {
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

/// The child a command is meant for, where the run itself only waits for children.
fn for_child(machine: &Machine, command: &Command) -> Option<((EffectId, RunId), Command)> {
    let named = match command {
        Command::Approve { effect_id }
        | Command::Decline { effect_id, .. }
        | Command::Resume { effect_id, .. }
        | Command::ToolResult { effect_id, .. } => effect_id,
        // An agent waits for no signal itself; a workflow that it runs as a tool may.
        Command::Signal { .. } if matches!(machine, Machine::Agent(_)) => &None,
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

/// The part of a context that is journaled.
fn durable(context: &Context, transient: &[String]) -> Context {
    let mut durable = context.clone();
    durable.retain(|key, _| !transient.contains(key));
    durable
}

/// What a new run needs beside its machine.
struct New {
    info: RunInfo,
    context: Context,
    transient: Vec<String>,
    detached: bool,
    host: Option<HostSlot>,
    thread: Option<ThreadPlace>,
    timeout_ms: Option<u64>,
    budgets: RunBudgets,
    with: Batch,
}

pub(crate) fn check_run_id(id: &RunId) -> Result<()> {
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

pub(crate) fn closed() -> Error {
    Error::new(codes::ENGINE_CLOSED, "the engine is closed: open a new one")
}

pub(crate) fn run_active(run_id: &RunId) -> Error {
    Error::new(codes::RUN_ACTIVE, format!("run `{run_id}` is at work: wait for it, observe it, or cancel it"))
        .with("run_id", run_id.as_str())
}
