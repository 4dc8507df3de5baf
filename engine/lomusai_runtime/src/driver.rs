//! One run's task: feeds its machine, commits what it decides, then carries it out. Nothing is carried out before it is committed.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lomusai_core::agent::{AgentMachine, Plan, Start};
use lomusai_core::cancel::CancelToken;
use lomusai_core::component::{CallContext, RunContext, StoreWork};
use lomusai_core::machine::{ChildOutcome, Decision, Effect, EffectInput, Input, Machine, ModelOutcome, Spent};
use lomusai_core::storage::{Batch, RunAppend, ThreadChange, refusal};
use lomusai_core::table::Few;
use lomusai_core::workflow::WorkflowPlan;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{
    Command, EffectId, EffectKind, ErrorBody, EventBody, History, Kind, LogLevel, OnBusy, Outcome, RunId, RunInfo,
    RunOutput, RunStatus, SqlStatement, ThreadId, Usage, codes,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::effects::{attach, carry_out, context, stop, weight};
use crate::inner::Inner;
use crate::registry::KnownSteps;
use crate::run::{Live, Msg, RunResult};

/// How often a thread that another process holds is looked at.
const THREAD_POLL: Duration = Duration::from_millis(50);

/// The longest that tokio's clock is asked to wait at once; it holds two years.
const TIMER_MAX_MS: u64 = 30 * 24 * 3_600_000;
/// A run that has to wait longer than this is not kept in memory.
const PARK_AFTER: Duration = Duration::from_secs(5);
/// So much earlier than the engine's clock says may a timer go off.
const EARLY_MS: u64 = 50;

pub(crate) struct Driver {
    pub(crate) engine: Arc<Inner>,
    pub(crate) plan: AnyPlan,
    pub(crate) live: Arc<Live>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Box<Msg>>,
    pub(crate) machine: Machine,
    pub(crate) info: RunInfo,
    /// Whether the store has `info`, but for what the last event says.
    pub(crate) info_stored: bool,
    pub(crate) epoch: u64,
    /// The engine's name, of which the run has a copy of its own: a count that all threads change for each commit is what they wait for.
    pub(crate) owner: Arc<str>,
    pub(crate) thread: Option<ThreadPlace>,
    /// What else the commit of the first events writes, and under which conditions.
    pub(crate) with: Batch,
    /// What has to be recorded before anything else: the run goes on under another spec.
    pub(crate) migrated: Vec<EventBody>,
    pub(crate) limits: Limits,
    /// Names of stream processors.
    pub(crate) stream: Arc<[String]>,
    /// What all calls of the run are told. Made when the first effect begins.
    pub(crate) context: Option<Arc<RunContext>>,
    pub(crate) work: Work,
}

/// What a run executes.
#[derive(Clone)]
pub(crate) enum AnyPlan {
    Agent(Arc<Plan>),
    Workflow(Arc<WorkflowPlan>),
}

impl AnyPlan {
    /// The spec that a run names, by its hash.
    pub(crate) fn blob(&self) -> (String, Arc<[u8]>) {
        let (hash, bytes) = match self {
            Self::Agent(plan) => (&plan.hash, serde_json::to_vec(&plan.spec)),
            Self::Workflow(plan) => (&plan.hash, serde_json::to_vec(&plan.spec)),
        };
        (hash.clone(), bytes.expect("specs are JSON").into())
    }

    pub(crate) fn hash(&self) -> &str {
        match self {
            Self::Agent(plan) => &plan.hash,
            Self::Workflow(plan) => &plan.hash,
        }
    }

    /// How deep runs may nest inside of one.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Self::Agent(plan) => plan.spec.agent.limits.depth(),
            Self::Workflow(plan) => plan.spec.limits.depth(),
        }
    }

    pub(crate) fn limits(&self, timeout_ms: Option<u64>) -> Limits {
        let limits = match self {
            Self::Agent(plan) => &plan.spec.agent.limits,
            Self::Workflow(plan) => &plan.spec.limits,
        };
        Limits {
            run_ms: timeout_ms.or(limits.run_ms),
            run_bytes: limits.run_bytes(),
            message_bytes: limits.message_bytes(),
        }
    }

    /// Names of stream processors.
    pub(crate) fn stream(&self) -> Arc<[String]> {
        match self {
            Self::Agent(plan) => plan.spec.agent.processors.stream.clone().into(),
            Self::Workflow(_) => Arc::default(),
        }
    }
}

/// The run's thread, and how much of the conversation is in it already.
pub(crate) struct ThreadPlace {
    pub(crate) id: ThreadId,
    pub(crate) resource: Option<String>,
    pub(crate) saved: usize,
    pub(crate) per_step: bool,
}

pub(crate) struct Limits {
    pub(crate) run_ms: Option<u64>,
    pub(crate) run_bytes: u64,
    pub(crate) message_bytes: u64,
}

/// What is under way.
#[derive(Default)]
pub(crate) struct Work {
    /// Effects that have just begun, oldest first: many answer when they are first asked.
    fresh: VecDeque<BoxFuture<'static, Result<Input>>>,
    /// Effects that are waited for.
    effects: FuturesUnordered<BoxFuture<'static, Result<Input>>>,
    /// Child runs that have not ended, by the effect they are for: they are told when nobody waits for them any more.
    children: BTreeMap<EffectId, RunId>,
    /// Sorted: who is told of a cancellation is told in one order, in every process.
    tokens: Few<EffectId, CancelToken>,
    timers: Vec<Timer>,
    steps: KnownSteps,
    grace: Option<Instant>,
    deadline: Option<Instant>,
    bytes: u64,
    /// The last error of a host function, with the host's own object, which no journal can hold.
    host_error: Option<Error>,
    finished: Option<Finished>,
}

impl Work {
    /// Whether no effect is under way.
    fn is_idle(&self) -> bool {
        self.fresh.is_empty() && self.effects.is_empty()
    }
}

/// What a step writes together with its answer.
struct Writes {
    effect_id: EffectId,
    sql: Vec<SqlStatement>,
    work: Vec<StoreWork>,
}

/// Something that goes off by itself.
struct Timer {
    at: Instant,
    /// The same by the engine's clock, whose word counts.
    at_ms: u64,
    effect_id: EffectId,
}

struct Finished {
    output: Option<Box<RunOutput>>,
    error: Option<Box<ErrorBody>>,
    usage: Usage,
    cost_nano_usd: Option<u64>,
}

/// What a driver does first.
pub(crate) enum First {
    /// Begin a new run of an agent.
    Start(Box<Start>, OnBusy),
    /// Begin a new run of a workflow, with the events that its machine makes of its start.
    StartWorkflow(Vec<EventBody>),
    /// Go on with a run that was under way.
    Recover,
    /// Handle this and say whether it was accepted.
    Command(Command, oneshot::Sender<Result<()>>),
    /// Go on with a run that begins as a copy of another.
    GoOn,
    /// Let what is due go off.
    Wake,
    /// Only wait for suspended children that are at work again.
    Attach(EffectId, RunId),
}

enum Woken {
    Message(Option<Box<Msg>>),
    Ended(Result<Input>),
    Timer,
}

impl Driver {
    // What most runs never come to is boxed where it is awaited: a run's task has room for the largest of all that it may ever wait for, and
    // there may be thousands.

    /// Drives the run until it ends or waits for a command. `begun` is told once its first events are committed, or why they could not be.
    pub(crate) async fn drive(mut self, first: First, begun: Option<oneshot::Sender<Result<()>>>) {
        // Readers must be told the end whatever happens, also when a store or the engine itself panics.
        let result = self.begin_and_loop(first, begun).await;
        self.settle(result).await;
    }

    async fn begin_and_loop(&mut self, first: First, begun: Option<oneshot::Sender<Result<()>>>) -> Result<()> {
        self.engine.alive().await?;
        self.work.deadline = self.limits.run_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        self.reattach().await?;
        // Of a run that was loaded: whoever carried out what is under way is gone, so that it is begun again, before anything else comes.
        let interrupted = self.info.seq > 0 && self.machine.status() == RunStatus::Running;
        let is_cancel = matches!(&first, First::Command(Command::Cancel { .. }, _));
        if interrupted && !is_cancel && !matches!(first, First::Recover | First::GoOn) {
            self.recover().await?;
        }
        let began = match first {
            First::Start(start, on_busy) => self.start(*start, on_busy).await,
            First::StartWorkflow(events) => self.start_workflow(events).await,
            First::Recover => self.recover().await,
            First::GoOn => self.turn(Input::Recover).await,
            First::Command(command, reply) => Box::pin(self.command(command, reply)).await,
            First::Wake => Box::pin(self.timer()).await,
            First::Attach(effect, child) => {
                self.attach(effect, child);
                Ok(())
            }
        };
        if let Some(begun) = begun {
            let _ = begun.send(began.clone());
        }
        began?;
        if interrupted && is_cancel {
            // Nothing is begun again then: what was under way is ended.
            self.recover().await?;
        }
        while !self.is_settled() {
            match self.wake().await {
                Woken::Message(Some(message)) => self.message(*message).await?,
                // Every handle keeps the sender: the engine itself is gone.
                Woken::Message(None) => return Err(engine_closed()),
                Woken::Ended(input) => {
                    let input = input?;
                    if let Input::Child(id, outcome) = &input {
                        match **outcome {
                            ChildOutcome::Finished { .. } => drop(self.work.children.remove(id)),
                            // It can be waited for again, also where what it waits for is known already and is not said twice.
                            ChildOutcome::Suspended(_) => drop(self.work.tokens.remove(id)),
                            _ => {}
                        }
                    }
                    // What a component said before it answered comes before its answer.
                    while let Ok(message) = self.inbox.try_recv() {
                        self.message(*message).await?;
                    }
                    self.remember_host_error(&input);
                    self.turn(input).await?;
                }
                Woken::Timer => Box::pin(self.timer()).await?,
            }
        }
        Ok(())
    }

    async fn recover(&mut self) -> Result<()> {
        self.info.recoveries += 1;
        self.info_stored = false;
        self.turn(Input::Recover).await
    }

    /// Begins a new run; where it has a thread, on the conversation as it stands once the thread is free.
    async fn start(&mut self, mut start: Start, on_busy: OnBusy) -> Result<()> {
        loop {
            if let (Some(thread), AnyPlan::Agent(plan), Machine::Agent(machine)) =
                (&mut self.thread, &self.plan, &self.machine)
            {
                let history = self.engine.thread_messages(&thread.id, u64::MAX).await?;
                thread.saved = history.len();
                start.history = Some(History::Thread { upto: history.len() as u64 });
                let run_id = self.live.run_id.clone();
                self.machine = AgentMachine::new(plan, run_id, history, machine.options().clone())?.into();
            }
            match self.turn(Input::Start(Box::new(start.clone()))).await {
                Err(busy) if busy.is(codes::THREAD_BUSY) && on_busy == OnBusy::Wait => {
                    Box::pin(self.wait_for_thread(busy)).await?
                }
                // Another run ended between our reading and our claim: read again.
                Err(moved_on) if moved_on.is(codes::SEQUENCE_CONFLICT) && self.thread.is_some() => {}
                done => return done,
            }
        }
    }

    async fn start_workflow(&mut self, events: Vec<EventBody>) -> Result<()> {
        let Machine::Workflow(machine) = &mut self.machine else { unreachable!("a workflow's run has its machine") };
        let now_ms = self.engine.clock.now_ms();
        let decision = machine.follow(events, now_ms);
        self.commit(decision, now_ms).await
    }

    /// Waits until the run that holds the thread has ended. One that is suspended may never: that is the error then.
    async fn wait_for_thread(&mut self, busy: Error) -> Result<()> {
        let holder: RunId = busy.body().details.get("run_id").and_then(|id| id.as_str()).unwrap_or_default().into();
        let ended = async {
            if let Some(live) = self.engine.live(&holder) {
                let _ = live.settled.wait().await;
            } else {
                // The holder is in another process, which tells us nothing: look again.
                tokio::time::sleep(THREAD_POLL).await;
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = self.live.cancel.cancelled() => return Err(Error::new(codes::RUN_CANCELLED, "the run was cancelled before its thread was free")),
        }
        match self.engine.store.run(&holder).await? {
            Some(info) if info.status != RunStatus::Running && !info.status.is_final() => Err(busy),
            _ => Ok(()),
        }
    }

    /// Timers of a run that was loaded, and children that wait no more: they were told something, and whoever would have told this run of it
    /// is gone.
    async fn reattach(&mut self) -> Result<()> {
        for (effect_id, at_ms) in self.machine.timers() {
            self.set_timer(effect_id, at_ms);
        }
        for (id, child) in self.machine.suspended_children() {
            match Box::pin(self.engine.has_moved_on(&child)).await? {
                true => self.attach(id, child),
                false => drop(self.work.children.insert(id, child)),
            }
        }
        Ok(())
    }

    fn set_timer(&mut self, effect_id: EffectId, at_ms: u64) {
        let wait = Duration::from_millis(at_ms.saturating_sub(self.engine.clock.now_ms()).min(TIMER_MAX_MS));
        self.work.timers.push(Timer { at: Instant::now() + wait, at_ms, effect_id });
    }

    fn attach(&mut self, id: EffectId, child: RunId) {
        if self.work.tokens.contains_key(&id) {
            return;
        }
        let token = CancelToken::new();
        self.work.tokens.insert(id.clone(), token.clone());
        self.work.children.insert(id.clone(), child.clone());
        self.work.effects.push(attach(&self.engine, id, child, token));
    }

    fn is_settled(&self) -> bool {
        match self.machine.status() {
            RunStatus::Running => false,
            RunStatus::Waiting => self.can_park(),
            RunStatus::Suspended => self.work.is_idle(),
            _ => true,
        }
    }

    /// Whether a run that only waits for a time to come can be let go of until then: nobody looks at it, and it is long.
    fn can_park(&self) -> bool {
        let soon = Instant::now() + PARK_AFTER;
        let publisher = &self.live.publisher;
        // One is the engine's, one is ours: more are somebody who waits for the result.
        let watched = !publisher.is_detached() || publisher.is_read() || Arc::strong_count(&self.live) > 2;
        self.work.is_idle() && !watched && self.work.timers.iter().all(|timer| timer.at > soon)
    }

    async fn wake(&mut self) -> Woken {
        // Others of this thread get their turn, too, where every effect answers at once.
        tokio::task::consume_budget().await;
        // The order is the one below.
        while !self.work.fresh.is_empty() {
            if let Ok(message) = self.inbox.try_recv() {
                return Woken::Message(Some(message));
            }
            let Some(mut effect) = self.work.fresh.pop_front() else { break };
            match poll_fn(|cx| Poll::Ready(effect.as_mut().poll(cx))).await {
                Poll::Ready(input) => return Woken::Ended(input),
                Poll::Pending => self.work.effects.push(effect),
            }
        }
        let work = &mut self.work;
        let timer = work.timers.iter().map(|timer| timer.at).chain(work.grace).chain(work.deadline).min();
        tokio::select! {
            // In this order: a command is never starved, and a result that is there counts before a timer that ran out.
            biased;
            message = self.inbox.recv() => Woken::Message(message),
            Some(input) = work.effects.next(), if !work.effects.is_empty() => Woken::Ended(input),
            () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Woken::Timer,
        }
    }

    async fn message(&mut self, message: Msg) -> Result<()> {
        match message {
            Msg::Command(command, reply) => Box::pin(self.command(command, reply)).await,
            Msg::Emit(EventBody::Custom { effect_id: Some(effect_id), name, data, .. }) => {
                self.turn(Input::Custom { effect_id, name, data }).await
            }
            Msg::Emit(_) => Ok(()),
            Msg::Attach(id, child) => {
                if self.machine.is_open(&id) {
                    self.attach(id, child);
                }
                Ok(())
            }
        }
    }

    async fn command(&mut self, command: Command, reply: oneshot::Sender<Result<()>>) -> Result<()> {
        let grace = if let Command::Cancel { grace_ms, .. } = &command { Some(*grace_ms) } else { None };
        let now_ms = self.engine.clock.now_ms();
        let decision = match self.machine.step(Input::Command(command), now_ms) {
            Ok(decision) => decision,
            // What is wrong with a command is its sender's business, not the run's.
            Err(error) => {
                let _ = reply.send(Err(error));
                return Ok(());
            }
        };
        if let Some(grace_ms) = grace {
            self.live.cancel.cancel();
            self.work.grace = Some(Instant::now() + Duration::from_millis(grace_ms));
        }
        let done = self.commit(decision, now_ms).await;
        let _ = reply.send(done.clone());
        done?;
        if grace == Some(0) {
            // At once, before anybody is told: what a component says to being cancelled is not a result that came in time.
            self.work.grace = None;
            self.end_answer().await?;
            Box::pin(self.end_grace()).await?;
        } else if grace.is_some() {
            self.stop_suspended();
        }
        if grace.is_some() {
            self.work.tokens.values().for_each(CancelToken::cancel);
        }
        Ok(())
    }

    /// Ends a model's answer where it is: what was shown of it is recorded. Nothing else is at work beside a model.
    async fn end_answer(&mut self) -> Result<()> {
        let model = self.work.tokens.iter().find(|(id, _)| id.as_str().ends_with(".model"));
        let (Machine::Agent(_), Some((_, token))) = (&self.machine, model) else { return Ok(()) };
        token.cancel();
        match self.work.effects.next().await {
            Some(input) => self.turn(input?).await,
            None => Ok(()),
        }
    }

    /// Ends what still works for a run that was told to stop. What its children used counts.
    async fn end_grace(&mut self) -> Result<()> {
        for (id, outcome) in self.end_children().await? {
            self.turn(Input::Child(id, outcome)).await?;
        }
        self.turn(Input::GraceOver).await
    }

    /// Ends child runs where they are. Gives how they ended, which says what they used.
    async fn end_children(&mut self) -> Result<Vec<(EffectId, Box<ChildOutcome>)>> {
        self.stop_suspended();
        let mut children = self.machine.children();
        children.iter().filter_map(|(id, _)| self.work.tokens.get(id)).for_each(CancelToken::cancel);
        let (mut ended, mut told) = (Vec::with_capacity(children.len()), Vec::new());
        while !children.is_empty() {
            match self.work.effects.next().await.transpose()? {
                Some(Input::Child(id, outcome)) => {
                    let Some(place) = children.iter().position(|(known, _)| *known == id) else { continue };
                    let waits = matches!(*outcome, ChildOutcome::Suspended(_));
                    if waits && !told.contains(&id) {
                        // It came to wait just before it was told.
                        told.push(id.clone());
                        self.work.effects.push(stop(&self.engine, id, children[place].1.clone()));
                        continue;
                    }
                    children.swap_remove(place);
                    if !waits {
                        self.work.children.remove(&id);
                        ended.push((id, outcome));
                    }
                }
                // What else there is comes too late.
                Some(_) => {}
                None => break,
            }
        }
        Ok(ended)
    }

    /// Tells children that wait for a command that they are not wanted any more. How they end is heard like the end of any other.
    fn stop_suspended(&mut self) {
        for (id, child) in self.machine.suspended_children() {
            if !self.work.tokens.contains_key(&id) {
                self.work.tokens.insert(id.clone(), CancelToken::new());
                self.work.effects.push(stop(&self.engine, id, child));
            }
        }
    }

    /// Ends a run that crossed a limit, and its children with it.
    async fn fail(&mut self, error: Error) -> Result<()> {
        let mut spent = Spent::new();
        for (id, outcome) in self.end_children().await? {
            if let ChildOutcome::Finished { usage, cost_nano_usd, .. } = *outcome {
                spent.push((id, usage, cost_nano_usd));
            }
        }
        let now_ms = self.engine.clock.now_ms();
        let decision = self.machine.step(Input::Fail(error, spent), now_ms)?;
        self.commit(decision, now_ms).await
    }

    async fn timer(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.work.grace.is_some_and(|at| at <= now) {
            self.work.grace = None;
            return self.end_grace().await;
        }
        if self.work.deadline.is_some_and(|at| at <= now) {
            self.work.deadline = None;
            let ms = self.limits.run_ms.unwrap_or_default();
            let message = format!("the run worked longer than its limit of {ms} ms: raise timeout_ms or limits.run_ms");
            return self.fail(Error::new(codes::RUN_TIMEOUT, message)).await;
        }
        while let Some(place) = self.work.timers.iter().position(|timer| timer.at <= now) {
            let Timer { at_ms, effect_id, .. } = self.work.timers.swap_remove(place);
            let now_ms = self.engine.clock.now_ms();
            // The two clocks need not agree: a little early counts, much too early is waited for again.
            if at_ms > now_ms + EARLY_MS {
                self.set_timer(effect_id, at_ms);
                continue;
            }
            self.turn_at(Input::Due(effect_id), now_ms.max(at_ms)).await?;
        }
        Ok(())
    }

    async fn turn(&mut self, input: Input) -> Result<()> {
        let now_ms = self.engine.clock.now_ms();
        self.turn_at(input, now_ms).await
    }

    async fn turn_at(&mut self, input: Input, now_ms: u64) -> Result<()> {
        let (input, writes) = self.writes(input);
        let decision = self.machine.step(input, now_ms)?;
        match writes {
            Some(writes) => Box::pin(self.commit_writes(decision, writes, now_ms)).await?,
            None => self.commit(decision, now_ms).await?,
        }
        if self.work.bytes > self.limits.run_bytes && self.machine.status() == RunStatus::Running {
            self.work.bytes = 0;
            let limit = self.limits.run_bytes;
            let message = format!("the run's journal is larger than limits.run_bytes = {limit}");
            Box::pin(self.fail(Error::new(codes::RUN_TOO_LARGE, message))).await?;
        }
        Ok(())
    }

    /// What a step wants written in the transaction that records its answer.
    fn writes(&self, input: Input) -> (Input, Option<Writes>) {
        let Input::Step(id, Ok(mut reply)) = input else { return (input, None) };
        let work = self.live.work.take(&id);
        if reply.sql.is_empty() && work.is_empty() {
            return (Input::Step(id, Ok(reply)), None);
        }
        if !self.engine.store.capabilities().sql {
            return (Input::Step(id, Err(refusal::no_sql())), None);
        }
        // A step that suspends is told that it cannot.
        let sql = if reply.suspend.is_some() { Vec::new() } else { std::mem::take(&mut reply.sql) };
        let writes = Writes { effect_id: id.clone(), sql, work };
        (Input::Step(id, Ok(reply)), Some(writes))
    }

    /// Commits a step's answer together with what the step writes. Where that fails the step has failed, and nothing has happened.
    async fn commit_writes(&mut self, decision: Decision, writes: Writes, now_ms: u64) -> Result<()> {
        let Writes { effect_id, sql, work } = writes;
        let counts =
            |event: &EventBody| matches!(event, EventBody::EffectCompleted { effect_id: id, .. } if *id == effect_id);
        if decision.events.iter().any(counts) {
            (self.with.sql, self.with.work) = (sql, work);
        }
        match self.commit(decision, now_ms).await {
            Err(error) if error.is(codes::STEP_SQL_FAILED) || error.is(codes::UNSUPPORTED) => {
                // What the machine decided did not happen: it is what the journal says again.
                let events = self.engine.journal(&self.live.run_id).await?;
                self.machine = self.engine.folded(&events, &self.live.run_id, Vec::new()).await?.machine;
                self.turn(Input::Step(effect_id, Err(error))).await
            }
            other => other,
        }
    }

    /// Commits events, tells the readers, begins effects: in this order.
    async fn commit(&mut self, decision: Decision, now_ms: u64) -> Result<()> {
        if decision.events.is_empty() {
            return Ok(());
        }
        let expected_seq = self.live.publisher.seq();
        self.work.bytes += decision.events.iter().map(weight).sum::<u64>();
        let progress = decision.events.iter().any(|event| matches!(event, EventBody::EffectCompleted { .. }));
        let bodies = if self.migrated.is_empty() {
            decision.events
        } else {
            self.migrated.iter().cloned().chain(decision.events).collect()
        };
        let events = self.live.publisher.number(bodies, expected_seq, now_ms);
        self.info.seq = expected_seq + events.len() as u64;
        self.info.updated_at_ms = now_ms;
        self.look_at_machine(progress);
        // Kept until it is written: a run that waits for its thread tries again.
        let mut batch = if expected_seq == 0 { self.with.clone() } else { std::mem::take(&mut self.with) };
        batch.thread = self.thread_change(expected_seq == 0, now_ms).map(Box::new);
        if expected_seq == 0 || !self.migrated.is_empty() {
            batch.blobs = self.engine.unstored_spec(&self.plan);
        }
        let brings_spec = !batch.blobs.is_empty();
        batch.run = Some(RunAppend {
            run_id: self.live.run_id.clone(),
            expected_seq,
            epoch: self.epoch,
            owner: self.owner.clone(),
            events: events.clone(),
            info: (!self.info_stored).then(|| Box::new(self.info.clone())),
        });
        self.engine.store.commit(batch).await?;
        self.info_stored = true;
        self.migrated.clear();
        if expected_seq == 0 {
            self.with = Batch::default();
        }
        if brings_spec {
            self.engine.stored_specs.lock().insert(self.plan.hash().to_owned());
        }
        for event in &*events {
            self.note(&event.body);
        }
        self.engine.observe_events(&events);
        self.live.publisher.committed(&events).await;
        for effect in decision.effects {
            self.begin(effect, now_ms);
        }
        Ok(())
    }

    /// Brings the run's line up to where the machine stands.
    fn look_at_machine(&mut self, progress: bool) {
        let status = self.machine.status();
        let wakes_at_ms = match status {
            RunStatus::Waiting | RunStatus::Suspended => {
                self.machine.timers().into_iter().map(|(_, at_ms)| at_ms).min()
            }
            _ => None,
        };
        let pending = if status == RunStatus::Suspended { self.machine.pending() } else { Vec::new() };
        let recoveries = if progress { 0 } else { self.info.recoveries };
        let info = &mut self.info;
        self.info_stored &= info.status == status
            && info.wakes_at_ms == wakes_at_ms
            && info.pending == pending
            && info.blocked_by.is_none()
            && info.recoveries == recoveries;
        (info.status, info.wakes_at_ms, info.pending) = (status, wakes_at_ms, pending);
        (info.blocked_by, info.recoveries) = (None, recoveries);
    }

    fn begin(&mut self, effect: Effect, now_ms: u64) {
        // A model and a child run are sure to be waited for.
        let waits = matches!(effect.kind, EffectKind::Model | EffectKind::Run);
        let run = self.context.get_or_insert_with(|| context(&self.live)).clone();
        let mut context = CallContext::of(run, effect.effect_id.clone());
        context.deadline_ms = Some(now_ms.saturating_add(effect.timeout_ms));
        self.work.tokens.insert(effect.effect_id.clone(), context.cancel.clone());
        if let EffectInput::Run { run_id, .. } | EffectInput::Workflow { run_id, .. } = &effect.input {
            self.work.children.insert(effect.effect_id.clone(), run_id.clone());
        }
        let future = carry_out(
            &self.engine,
            &self.live,
            effect,
            context,
            &self.stream,
            self.limits.message_bytes,
            &mut self.work.steps,
        );
        if waits {
            self.work.effects.push(future);
        } else {
            self.work.fresh.push_back(future);
        }
    }

    fn thread_change(&mut self, first: bool, now_ms: u64) -> Option<ThreadChange> {
        let messages = self.machine.messages();
        let ended = self.machine.status().is_final();
        let run_id = &self.live.run_id;
        let thread = self.thread.as_mut()?;
        let mut change = ThreadChange::new(thread.id.clone(), now_ms);
        change.resource.clone_from(&thread.resource);
        change.claim = first.then(|| run_id.clone());
        change.expected_messages = first.then_some(thread.saved as u64);
        change.release = ended.then(|| run_id.clone());
        // Between steps only whole pairs of calls and results are kept.
        let whole = messages.last().is_none_or(|last| last.tool_calls().next().is_none());
        let keep = if ended { self.machine.keeps_messages() } else { thread.per_step && whole };
        if keep {
            change.append = messages[thread.saved.min(messages.len())..].to_vec();
            thread.saved = messages.len();
        }
        (first || ended || !change.append.is_empty()).then_some(change)
    }

    /// What a committed event means for what is under way.
    fn note(&mut self, body: &EventBody) {
        match body {
            EventBody::EffectCompleted { effect_id, .. }
            | EventBody::EffectSkipped { effect_id, .. }
            | EventBody::EffectFailed { effect_id, retry_at_ms: None, .. } => {
                // Whoever still works on it is told; for an effect that answered this means nothing.
                if let Some(token) = self.work.tokens.remove(effect_id) {
                    token.cancel_others();
                }
                // Its own future may be dropped before it can tell the child.
                if let Some(child) = self.work.children.remove(effect_id) {
                    self.engine.cancel_child(child);
                }
                self.work.timers.retain(|timer| timer.effect_id != *effect_id);
            }
            EventBody::EffectFailed { effect_id, retry_at_ms: Some(at_ms), .. } => {
                self.work.tokens.remove(effect_id);
                self.set_timer(effect_id.clone(), *at_ms);
            }
            EventBody::EffectStarted { effect_id, due_at_ms: Some(at_ms), .. } => {
                self.set_timer(effect_id.clone(), *at_ms);
            }
            EventBody::EffectSuspended { pending } => {
                self.work.tokens.remove(&pending.effect_id);
                if let Some(at_ms) = pending.due_at_ms {
                    self.set_timer(pending.effect_id.clone(), at_ms);
                }
            }
            EventBody::RunFinished { outcome, output, error, usage, cost_nano_usd } => {
                // What waited when a run failed waits on, for the run to be tried again. A child is not: its parent begins another.
                if *outcome != Outcome::Failed || self.live.parent.is_some() {
                    std::mem::take(&mut self.work.children)
                        .into_values()
                        .for_each(|child| self.engine.cancel_child(child));
                }
                self.work.finished = Some(Finished {
                    output: output.clone(),
                    error: error.clone(),
                    usage: *usage,
                    cost_nano_usd: *cost_nano_usd,
                });
            }
            _ => {}
        }
    }

    fn remember_host_error(&mut self, input: &Input) {
        let error = match input {
            Input::Tool(_, Err(error)) | Input::Call(_, Err(error)) | Input::Step(_, Err(error)) => error,
            Input::Model(_, outcome) => match &**outcome {
                ModelOutcome::Failed { error, .. } => error,
                _ => return,
            },
            Input::Child(_, outcome) => match &**outcome {
                ChildOutcome::Finished { error: Some(error), .. } => error,
                _ => return,
            },
            _ => return,
        };
        if error.host().is_some() {
            self.work.host_error = Some(error.clone());
        }
    }

    async fn settle(mut self, result: Result<()>) {
        self.work.tokens.values().for_each(CancelToken::cancel);
        // Drops what is under way: nobody waits for it any more.
        self.work.fresh.clear();
        self.work.steps = KnownSteps::default();
        self.work.effects.clear();
        let settled = match result {
            Ok(()) => Ok(Arc::new(self.result())),
            Err(error) => {
                self.engine.log(LogLevel::Warn, &format!("run `{}` stopped: {error}", self.live.run_id));
                Err(error)
            }
        };
        // A run that never began may have the name of one that is somebody else's.
        if !self.machine.status().is_final() && self.live.publisher.seq() > 0 {
            // The next one to take the run over need not wait for the lease to run out.
            let _ = self.engine.store.release(&self.live.run_id, self.epoch).await;
        }
        self.inbox.close();
        let mut missed_a_child = false;
        while let Ok(message) = self.inbox.try_recv() {
            missed_a_child |= matches!(*message, Msg::Attach(..));
        }
        let child_gone_on = match &settled {
            Ok(_) => child_gone_on(&self.engine, self.machine.suspended_children()).await,
            Err(_) => None,
        };
        self.engine.forget(&self.live);
        // Behind `forget`: a wake-up that is due finds the run gone from memory.
        let wakes_at_ms = match &settled {
            Ok(_) if missed_a_child => Some(0),
            Ok(_) => child_gone_on.into_iter().chain(self.info.wakes_at_ms).min(),
            // Looked at again: the store may have recovered, and whoever has taken the run over may have died.
            Err(error)
                if error.kind() == Kind::Storage
                    || error.is(codes::RUN_ACTIVE)
                    || error.is(codes::SEQUENCE_CONFLICT) =>
            {
                Some(self.engine.clock.now_ms() + self.engine.config.lease_ms.max(300))
            }
            Err(_) => None,
        };
        if let Some(at_ms) = wakes_at_ms {
            self.engine.wake_at(&self.live.run_id, at_ms);
        }
        self.live.settled.set(settled);
        self.live.publisher.end();
    }

    fn result(&mut self) -> RunResult {
        let finished = self.work.finished.take();
        let error = finished.as_ref().and_then(|finished| finished.error.as_deref().cloned()).map(|body| {
            match self.work.host_error.take() {
                Some(error) if *error.body() == body => error,
                _ => Error::from(body),
            }
        });
        RunResult {
            run_id: self.live.run_id.clone(),
            status: self.machine.status(),
            usage: finished.as_ref().map_or(self.machine.usage(), |finished| finished.usage),
            cost_nano_usd: finished.as_ref().map_or(self.machine.cost_nano_usd(), |finished| finished.cost_nano_usd),
            output: finished.and_then(|finished| finished.output).map(|output| *output),
            error,
            messages: self.machine.messages().to_vec(),
            history: self.machine.history_len(),
            pending: self.machine.pending(),
        }
    }
}

fn engine_closed() -> Error {
    Error::new(codes::ENGINE_CLOSED, "the engine is closed: open a new one")
}

/// When to look again at a child that has gone on in another engine, while its parent was held here and could not be told: at once where it
/// has ended. Asked once the parent is let go of: from then on it can be told.
async fn child_gone_on(engine: &Inner, suspended: Vec<(EffectId, RunId)>) -> Option<u64> {
    let later = engine.clock.now_ms() + engine.config.lease_ms.max(300);
    let mut again = None;
    for (_, child) in suspended {
        match engine.store.run(&child).await {
            Ok(Some(info)) if info.status.is_final() => return Some(0),
            Ok(Some(info)) if info.status != RunStatus::Running => {}
            Ok(None) => {}
            Ok(_) | Err(_) => again = Some(later),
        }
    }
    again
}
