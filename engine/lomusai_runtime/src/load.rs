//! Runs that are in the store: loading them to go on, and reading what they came to.

use std::sync::Arc;

use lomusai_core::agent::AgentMachine;
use lomusai_core::budget::Amount;
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{HostSlot, StepWork};
use lomusai_core::machine::Machine;
use lomusai_core::storage::Batch;
use lomusai_core::workflow::{self, WorkflowMachine};
use lomusai_core::{Error, Result};
use lomusai_wire::{
    Context, Event, EventBody, History, Message, RunId, RunInfo, RunOptions, RunStarted, RunStatus, SpecKind, SpecRef,
    ThreadId, WorkflowSpec, codes,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::budgets::spent_by;
use crate::driver::{AnyPlan, Driver, ThreadPlace, Work};
use crate::inner::Inner;
use crate::publisher::Publisher;
use crate::queue::EventQueue;
use crate::run::{Live, RunResult, Settled};

/// So many rows are read at once.
const PAGE: usize = 1_000;

impl Inner {
    /// Takes a stored run over and folds its journal. Nothing goes on yet.
    pub(crate) async fn load(
        self: &Arc<Self>,
        run_id: &RunId,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
    ) -> Result<Driver> {
        self.load_for(run_id, host, queue, false).await
    }

    /// As [`load`](Self::load); to `retry`, also one that has failed.
    pub(crate) async fn load_for(
        self: &Arc<Self>,
        run_id: &RunId,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
        retry: bool,
    ) -> Result<Driver> {
        let info = self.store.run(run_id).await?.ok_or_else(|| run_unknown(run_id))?;
        if info.status.is_final() && !(retry && info.status == RunStatus::Failed && info.kind == SpecKind::Workflow) {
            return Err(Error::new(codes::RUN_FINISHED, format!("run `{run_id}` has ended and takes no commands"))
                .with("run_id", run_id.as_str()));
        }
        self.alive().await?;
        let epoch = self.store.claim(run_id, &self.owner, self.clock.now_ms()).await?;
        match self.fold(info, epoch, host, queue).await {
            Ok(driver) => Ok(driver),
            Err(error) => {
                let _ = self.store.release(run_id, epoch).await;
                Err(error)
            }
        }
    }

    async fn fold(
        self: &Arc<Self>,
        info: RunInfo,
        epoch: u64,
        host: Option<HostSlot>,
        queue: Option<Arc<EventQueue>>,
    ) -> Result<Driver> {
        let run_id = info.run_id.clone();
        // Read again: the holder before us may have written on until we claimed the run.
        let info = self.store.run(&run_id).await?.unwrap_or(info);
        let events = self.journal(&run_id).await?;
        let started = Started::of(&events, &run_id)?;
        let history = self.history(started.history, started.thread).await?;
        let saved = history.len();
        let Folded { plan, machine, migrated } = self.folded(&events, &run_id, history).await?;
        let thread = match started.thread {
            Some(id) => {
                let in_thread = self.store.thread(id).await?.map_or(0, |thread| thread.messages as usize);
                let per_step = started.options.save_per_step;
                Some(ThreadPlace {
                    id: id.clone(),
                    resource: None,
                    saved: if per_step { in_thread } else { saved },
                    per_step,
                })
            }
            None => None,
        };
        let seq = events.last().map_or(0, |event| event.seq);
        let (inbox, receiver) = mpsc::unbounded_channel();
        let cancel = CancelToken::new();
        let detached = queue.is_none();
        let own = machine.budget();
        let counted = own.is_some() || info.parent.is_some();
        let spent = if counted { spent_by(&*self.store, &run_id, &events).await? } else { Amount::default() };
        let budgets = self.budgets.of_run(&run_id, own, &started.options.shared_budgets, spent)?;
        let live = Arc::new(Live {
            run_id: run_id.clone(),
            agent: info.agent.as_str().into(),
            depth: plan.depth(),
            parent: info.parent.clone(),
            inbox,
            publisher: Publisher::new(run_id, self.clock.clone(), seq, queue, detached, cancel.clone()),
            cancel,
            budgets,
            context: Arc::new(started.context.clone()),
            transient: Vec::new(),
            host,
            work: StepWork::new(),
            settled: Settled::default(),
        });
        Ok(Driver {
            engine: self.clone(),
            limits: plan.limits(started.options.timeout_ms),
            stream: plan.stream(),
            plan,
            live,
            inbox: receiver,
            machine,
            info,
            info_stored: false,
            epoch,
            owner: Arc::from(&*self.owner),
            thread,
            context: None,
            with: Batch::default(),
            migrated,
            work: Work::default(),
        })
    }

    /// The spec of a workflow's run, as it was when it began.
    pub(crate) async fn workflow_of(&self, events: &[Event], run_id: &RunId) -> Result<WorkflowSpec> {
        let started = Started::of(events, run_id)?;
        if started.spec.kind != SpecKind::Workflow {
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("run `{run_id}` is of an agent, and has no graph"),
            )
            .with("run_id", run_id.as_str()));
        }
        self.stored_spec(started.spec).await
    }

    /// The machine of a stored run as its journal says.
    pub(crate) async fn folded(&self, events: &[Event], run_id: &RunId, history: Vec<Arc<Message>>) -> Result<Folded> {
        let started = Started::of(events, run_id)?;
        let hash = &started.spec.hash;
        if started.spec.kind != SpecKind::Workflow {
            let plan = self.registry.plan_for_stored(self.stored_spec(started.spec).await?, hash)?;
            let mut machine = AgentMachine::new(&plan, run_id.clone(), history, started.options.clone())?;
            events.iter().for_each(|event| machine.apply(&event.body));
            return Ok(Folded { plan: AnyPlan::Agent(plan), machine: machine.into(), migrated: Vec::new() });
        }
        match self.registry.workflow_for_stored(self.stored_spec(started.spec).await?, hash) {
            Ok(plan) => {
                let is_migrated = events.iter().any(|event| matches!(event.body, EventBody::RunMigrated { .. }));
                let machine = if is_migrated {
                    workflow::fold(&plan, run_id.clone(), events).map_err(|misfit| {
                        Error::new(
                            codes::STORE_CORRUPT,
                            format!("the journal of run `{run_id}` does not fit: {misfit}"),
                        )
                        .with("run_id", run_id.as_str())
                    })?
                } else {
                    let mut machine = WorkflowMachine::new(&plan, run_id.clone());
                    events.iter().for_each(|event| machine.apply(&event.body));
                    machine
                };
                Ok(Folded { plan: AnyPlan::Workflow(plan), machine: machine.into(), migrated: Vec::new() })
            }
            Err(changed) if changed.is(codes::WORKFLOW_CHANGED) => {
                let (plan, machine, body) = self.migrated(changed, events, run_id, hash).await?;
                Ok(Folded { plan: AnyPlan::Workflow(plan), machine: machine.into(), migrated: vec![body] })
            }
            Err(error) => Err(error),
        }
    }

    async fn stored_spec<T: DeserializeOwned>(&self, spec: &SpecRef) -> Result<T> {
        let corrupt = |why: String| {
            Error::new(
                codes::STORE_CORRUPT,
                format!("the spec of `{}` ({}) cannot be read: {why}", spec.name, spec.hash),
            )
        };
        let bytes = self.store.blob(&spec.hash).await?.ok_or_else(|| corrupt("it is not in the store".into()))?;
        serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))
    }

    pub(crate) async fn history(
        &self,
        history: Option<&History>,
        thread: Option<&ThreadId>,
    ) -> Result<Vec<Arc<Message>>> {
        match (history, thread) {
            (Some(History::Thread { upto }), Some(thread)) => self.thread_messages(thread, *upto).await,
            (Some(History::Messages(messages)), _) => Ok(messages.clone()),
            _ => Ok(Vec::new()),
        }
    }

    /// The first `upto` messages of a thread.
    pub(crate) async fn thread_messages(&self, thread: &ThreadId, upto: u64) -> Result<Vec<Arc<Message>>> {
        let mut messages = Vec::new();
        loop {
            let room = (upto - messages.len() as u64).min(PAGE as u64) as usize;
            let page =
                if room == 0 { Vec::new() } else { self.store.messages(thread, messages.len() as u64, room).await? };
            let last = page.len() < room || room == 0;
            messages.extend(page);
            if last {
                return Ok(messages);
            }
        }
    }

    /// All events of a run.
    pub(crate) async fn journal(&self, run_id: &RunId) -> Result<Vec<Event>> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let page = self.store.events(run_id, events.last().map_or(0, |event| event.seq), PAGE).await?;
            let last = page.len() < PAGE;
            events.extend(page);
            if last {
                return Ok(events);
            }
        }
    }

    /// What a run that is not at work came to, or where it waits.
    pub(crate) async fn stored_result(&self, run_id: &RunId) -> Result<RunResult> {
        let info = self.store.run(run_id).await?.ok_or_else(|| run_unknown(run_id))?;
        let events = self.journal(run_id).await?;
        let started = Started::of(&events, run_id)?;
        let mut messages = self.history(started.history, started.thread).await?;
        let history = messages.len();
        let mut result = RunResult {
            run_id: run_id.clone(),
            status: info.status,
            output: None,
            error: None,
            usage: Default::default(),
            cost_nano_usd: None,
            messages: Vec::new(),
            history,
            pending: info.pending,
        };
        for event in &events {
            match &event.body {
                EventBody::RunStarted(started) => messages.extend(started.input.iter().cloned()),
                EventBody::MessageCompleted { message } => {
                    match messages.iter_mut().find(|old| old.id == message.id && old.id.is_some()) {
                        Some(old) => *old = message.clone(),
                        None => messages.push(message.clone()),
                    }
                }
                EventBody::RunFinished { output, error, usage, cost_nano_usd, .. } => {
                    result.output = output.as_deref().cloned();
                    result.error = error.as_deref().cloned().map(Error::from);
                    (result.usage, result.cost_nano_usd) = (*usage, *cost_nano_usd);
                }
                _ => {}
            }
        }
        result.messages = messages;
        Ok(result)
    }
}

/// A run as its journal says.
pub(crate) struct Folded {
    pub(crate) plan: AnyPlan,
    pub(crate) machine: Machine,
    /// What has to be recorded before anything else: the run goes on under another spec.
    pub(crate) migrated: Vec<EventBody>,
}

/// What a journal says of the run as a whole: its first event, but for the spec, which a later one may have changed.
pub(crate) struct Started<'a> {
    pub(crate) spec: &'a SpecRef,
    pub(crate) history: Option<&'a History>,
    pub(crate) thread: Option<&'a ThreadId>,
    pub(crate) context: &'a Context,
    pub(crate) metadata: &'a Map<String, Value>,
    pub(crate) options: &'a RunOptions,
}

impl<'a> Started<'a> {
    pub(crate) fn of(events: &'a [Event], run_id: &RunId) -> Result<Self> {
        match events.first().map(|event| &event.body) {
            Some(EventBody::RunStarted(started)) => {
                let RunStarted { spec, history, thread, context, metadata, options, .. } = &**started;
                let later = events.iter().rev().find_map(|event| match &event.body {
                    EventBody::RunMigrated { spec, .. } => Some(&**spec),
                    _ => None,
                });
                let spec = later.unwrap_or(spec);
                Ok(Self { spec, history: history.as_ref(), thread: thread.as_ref(), context, metadata, options })
            }
            _ => Err(Error::new(
                codes::STORE_CORRUPT,
                format!("the journal of run `{run_id}` does not begin with its start"),
            )
            .with("run_id", run_id.as_str())),
        }
    }
}

pub(crate) fn run_unknown(run_id: &RunId) -> Error {
    Error::new(
        codes::RUN_UNKNOWN,
        format!("no run `{run_id}` is in the store: check the id, or open the store it was started on"),
    )
    .with("run_id", run_id.as_str())
}
