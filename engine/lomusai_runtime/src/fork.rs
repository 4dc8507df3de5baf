//! Forks: another run that begins as a copy of one, and how two runs differ.

use std::sync::Arc;

use lomusai_core::agent::{self, AgentMachine};
use lomusai_core::component::HostSlot;
use lomusai_core::fork::{self, ForkRequest};
use lomusai_core::journal::{self, Difference};
use lomusai_core::machine::{Input, Machine};
use lomusai_core::storage::{Batch, RunAppend};
use lomusai_core::workflow::{self, WorkflowMachine};
use lomusai_core::{Error, Result};
use lomusai_wire::{
    Event, EventBody, Fork, History, Input as Said, Message, Parent, RunId, RunInfo, RunStatus, SpecKind, codes,
};

use crate::driver::{AnyPlan, First};
use crate::inner::{Inner, check_run_id};
use crate::load::{Folded, Started, run_unknown};
use crate::queue::EventQueue;
use crate::run::Live;
use crate::{Engine, Run};

impl Engine {
    /// Forks a run: begins another one that is as this one was at some event, but for what was changed, and goes on from there. Nothing
    /// of the part before is carried out again; what was under way at that event begins again. The run itself stays as it is.
    ///
    /// A fork of an agent's run has no thread: its conversation is its own.
    ///
    /// # Errors
    /// `run_unknown`, `fork_invalid`, `run_exists`, `run_blocked`, `workflow_changed`, and what is wrong with the new output or input.
    pub async fn fork(&self, request: ForkRequest, host: Option<HostSlot>) -> Result<Run> {
        let queue = EventQueue::new(self.0.config.reader_events);
        let detached = request.detached;
        let live = self.0.fork(request, host, queue.clone()).await?;
        Ok(Run { live, queue, detached })
    }

    /// How two runs differ: where their journals part, and what each effect came to here and there.
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn difference(&self, left: &RunId, right: &RunId) -> Result<Difference> {
        Ok(journal::difference(&self.export(left).await?, &self.export(right).await?))
    }
}

/// A run that is about to be in the store.
struct Copy {
    events: Vec<Event>,
    machine: Machine,
    plan: AnyPlan,
}

impl Inner {
    async fn fork(
        self: &Arc<Self>,
        request: ForkRequest,
        host: Option<HostSlot>,
        queue: Arc<EventQueue>,
    ) -> Result<Arc<Live>> {
        self.open()?;
        let source = self.store.run(&request.run_id).await?.ok_or_else(|| run_unknown(&request.run_id))?;
        let events = self.journal(&request.run_id).await?;
        let seq = request.place(&events)?;
        let id = match &request.new_run_id {
            Some(id) => check_run_id(id).map(|()| id.clone())?,
            None => self.ids.run_id(),
        };
        if self.store.run(&id).await?.is_some() {
            return Err(lomusai_core::storage::refusal::run_exists(&id));
        }
        let history = self.history_of(&events, &request.run_id).await?;
        let prefix = if request.changes_the_start() {
            vec![self.other_start(&request, &events, &id, history)?]
        } else {
            request.prefix(&events, seq, &id, Some(history))?
        };
        let copy = self.copied(prefix, &id).await?;
        let at_ms = events[seq as usize - 1].at_ms;
        for (effect, child) in copy.machine.suspended_children() {
            let old = format!("{}{}", request.run_id, &child.as_str()[id.as_str().len()..]).into();
            Box::pin(self.copy_child(&old, at_ms, Parent::new(id.clone(), effect), &child)).await?;
        }
        let mut info = RunInfo::new(id.clone(), &source.agent, self.clock.now_ms());
        info.kind = source.kind;
        info.forked_from = Some(Fork::new(request.run_id.clone(), seq));
        info.metadata = if request.metadata.is_empty() { source.metadata } else { request.metadata };
        // From when it is in the store, whoever looks for runs that nobody drives may find it.
        let _loading = self.loading.lock().await;
        self.keep(copy, info).await?;
        let mut driver = self.load(&id, host, Some(queue)).await?;
        let live = Arc::get_mut(&mut driver.live).expect("nobody else has it yet");
        live.transient = request.context.keys().cloned().collect();
        Arc::make_mut(&mut live.context).extend(request.context);
        let live = driver.live.clone();
        self.add_live(&live)?;
        self.spawn(driver, First::GoOn, None);
        Ok(live)
    }

    /// The conversation that a run began with, whole.
    async fn history_of(&self, events: &[Event], id: &RunId) -> Result<Vec<Arc<Message>>> {
        let started = Started::of(events, id)?;
        self.history(started.history, started.thread).await
    }

    /// The start of a run with another input, and the rest of what it was started with.
    fn other_start(
        &self,
        request: &ForkRequest,
        events: &[Event],
        id: &RunId,
        history: Vec<Arc<Message>>,
    ) -> Result<Event> {
        let first = events.first().expect("it has a place");
        let Started { spec, context, options, metadata, .. } = Started::of(events, &request.run_id)?;
        let input = request.input.clone().unwrap_or_default();
        let metadata = if request.metadata.is_empty() { metadata } else { &request.metadata };
        let (context, metadata) = (context.clone(), metadata.clone());
        let mut bodies = match spec.kind {
            SpecKind::Workflow => {
                let EventBody::RunStarted(started) = &first.body else { unreachable!("checked") };
                let start = workflow::Start { input, state: started.state.clone(), parent: None, context, metadata };
                WorkflowMachine::new(&self.registry.workflow(&spec.name)?, id.clone())
                    .handle(Input::StartWorkflow(Box::new(start)), 0)?
            }
            _ => {
                let said: Said = serde_json::from_value(input).map_err(|e| {
                    Error::new(codes::INPUT_INVALID, format!("the input of agent `{}`: {e}", spec.name))
                })?;
                let start = agent::Start {
                    input: said.into_messages(),
                    history: (!history.is_empty()).then(|| History::Messages(history.clone())),
                    thread: None,
                    parent: None,
                    context,
                    metadata,
                };
                AgentMachine::new(&self.registry.plan(&spec.name)?, id.clone(), history, options.clone())?
                    .handle(Input::Start(Box::new(start)), 0)?
            }
        };
        let mut body = bodies.remove(0);
        if let EventBody::RunStarted(started) = &mut body {
            started.forked_from = Some(Fork::new(request.run_id.clone(), 1));
        }
        Ok(Event::new(id.clone(), 1, 0, first.at_ms, body))
    }

    /// Folds the events of a run that is not in the store yet, and looks whether its last one fits.
    async fn copied(&self, events: Vec<Event>, id: &RunId) -> Result<Copy> {
        let history = self.history_of(&events, id).await?;
        let (last, before) = events.split_last().expect("it has a place");
        // A start has nothing before it.
        let folded = if before.is_empty() { &events[..] } else { before };
        let Folded { plan, mut machine, migrated } = self.folded(folded, id, history).await?;
        if !migrated.is_empty() {
            // The last one is read with the names of the other spec, too.
            let all = self.folded(&events, id, Vec::new()).await?;
            machine = all.machine;
        } else if !before.is_empty() {
            if let Machine::Workflow(machine) = &machine {
                machine.check_changed(&last.body)?;
            }
            machine.apply(&last.body);
        }
        let stands = machine.status() == RunStatus::Running
            && machine.advance(0).is_none()
            && !events.iter().filter_map(|event| event.body.effect_id()).any(|effect| machine.is_open(effect));
        if stands {
            let message = format!("event {} is in the middle of what was decided at once: take the next one", last.seq);
            return Err(Error::new(codes::FORK_INVALID, message).with("seq", last.seq));
        }
        let seqs = last.seq + 1..;
        let migrated =
            migrated.into_iter().zip(seqs).map(|(body, seq)| Event::new(id.clone(), seq, 0, last.at_ms, body));
        let events = events.iter().cloned().chain(migrated).collect();
        Ok(Copy { events, machine, plan })
    }

    /// Copies a child that waits, and the children for which it waits.
    async fn copy_child(self: &Arc<Self>, old: &RunId, at_ms: u64, parent: Parent, id: &RunId) -> Result<()> {
        let source = self.store.run(old).await?.ok_or_else(|| run_unknown(old))?;
        let events = self.journal(old).await?;
        let Some(seq) = fork::waiting_prefix(&events, at_ms) else { return Ok(()) };
        let mut prefix = fork::copied(&events[..seq as usize], id);
        if let Some(EventBody::RunStarted(started)) = prefix.first_mut().map(|event| &mut event.body) {
            started.forked_from = Some(Fork::new(old.clone(), seq));
            started.parent = Some(parent.clone());
        }
        let copy = self.copied(prefix, id).await?;
        for (effect, child) in copy.machine.suspended_children() {
            let old = format!("{old}{}", &child.as_str()[id.as_str().len()..]).into();
            Box::pin(self.copy_child(&old, at_ms, Parent::new(id.clone(), effect), &child)).await?;
        }
        let mut info = RunInfo::new(id.clone(), &source.agent, self.clock.now_ms());
        (info.kind, info.parent, info.metadata) = (source.kind, Some(parent), source.metadata);
        info.forked_from = Some(Fork::new(old.clone(), seq));
        self.keep(copy, info).await
    }

    async fn keep(&self, copy: Copy, mut info: RunInfo) -> Result<()> {
        let Copy { events, machine, plan } = copy;
        info.seq = events.len() as u64;
        info.status = machine.status();
        if matches!(info.status, RunStatus::Suspended) {
            info.pending = machine.pending();
        }
        if matches!(info.status, RunStatus::Waiting | RunStatus::Suspended) {
            info.wakes_at_ms = machine.timers().into_iter().map(|(_, at_ms)| at_ms).min();
        }
        let run_id = info.run_id.clone();
        let mut batch = Batch::default();
        batch.blobs = self.unstored_spec(&plan);
        let events = events.into_iter().map(Arc::new).collect();
        batch.run = Some(RunAppend {
            run_id: run_id.clone(),
            expected_seq: 0,
            epoch: 1,
            owner: self.owner.clone(),
            events,
            info: Some(Box::new(info)),
        });
        self.store.commit(batch).await?;
        self.stored_specs.lock().insert(plan.hash().to_owned());
        self.store.release(&run_id, 1).await
    }
}
