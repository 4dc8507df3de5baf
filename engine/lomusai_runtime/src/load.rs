//! Runs that are in the store: loading them to go on, and reading what they came to.

use std::sync::Arc;

use lomusai_core::agent::AgentMachine;
use lomusai_core::budget::Amount;
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::HostSlot;
use lomusai_core::machine::Machine;
use lomusai_core::workflow::WorkflowMachine;
use lomusai_core::{Error, Result};
use lomusai_wire::{
    Context, Event, EventBody, History, Message, RunId, RunInfo, RunOptions, RunStatus, SpecKind, SpecRef, ThreadId,
    codes,
};
use serde::de::DeserializeOwned;
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
        let hash = &started.spec.hash;
        let history = self.history(started.history, started.thread).await?;
        let saved = history.len();
        let (plan, mut machine): (AnyPlan, Machine) = match started.spec.kind {
            SpecKind::Workflow => {
                let plan = self.registry.workflow_for_stored(self.stored_spec(started.spec).await?, hash)?;
                let machine = WorkflowMachine::new(&plan, run_id.clone());
                (AnyPlan::Workflow(plan), machine.into())
            }
            _ => {
                let plan = self.registry.plan_for_stored(self.stored_spec(started.spec).await?, hash)?;
                let machine = AgentMachine::new(&plan, run_id.clone(), history, started.options.clone())?;
                (AnyPlan::Agent(plan), machine.into())
            }
        };
        for event in &events {
            machine.apply(&event.body);
        }
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
            epoch,
            thread,
            context: None,
            work: Work::default(),
        })
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

    async fn history(&self, history: Option<&History>, thread: Option<&ThreadId>) -> Result<Vec<Arc<Message>>> {
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
                EventBody::RunStarted { input, .. } => messages.extend(input.iter().cloned()),
                EventBody::MessageCompleted { message } => {
                    match messages.iter_mut().find(|old| old.id == message.id && old.id.is_some()) {
                        Some(old) => *old = message.clone(),
                        None => messages.push(message.clone()),
                    }
                }
                EventBody::RunFinished { output, error, usage, cost_nano_usd, .. } => {
                    result.output.clone_from(output);
                    result.error = error.clone().map(Error::from);
                    (result.usage, result.cost_nano_usd) = (*usage, *cost_nano_usd);
                }
                _ => {}
            }
        }
        result.messages = messages;
        Ok(result)
    }
}

/// What the first event of a journal says.
struct Started<'a> {
    spec: &'a SpecRef,
    history: Option<&'a History>,
    thread: Option<&'a ThreadId>,
    context: &'a Context,
    options: &'a RunOptions,
}

impl<'a> Started<'a> {
    fn of(events: &'a [Event], run_id: &RunId) -> Result<Self> {
        match events.first().map(|event| &event.body) {
            Some(EventBody::RunStarted { spec, history, thread, context, options, .. }) => {
                Ok(Self { spec, history: history.as_ref(), thread: thread.as_ref(), context, options })
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
