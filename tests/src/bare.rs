//! Runs a vector with no runtime: the machine, journals in memory, and a loop that asks a scripted model and host behaviours.
//!
//! Everything a real driver decides by timing is explicit here: which answer comes first, where the process stops, when the run
//! is cancelled. After every commit the journal is read back from its JSON and folded anew, and must give the same run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use lomusai_core::agent::{AgentMachine, Plan, PlannedTool, Start};
use lomusai_core::budget::{self, Amount, Book, Verdict};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, MessageBuilder, truncated};
use lomusai_core::machine::{ChildOutcome, Decision, Effect, EffectInput, Input, Machine, ModelOutcome};
use lomusai_core::testing::{ScriptedModel, block_on};
use lomusai_core::workflow::{self, WorkflowMachine, WorkflowPlan};
use lomusai_core::{Error, transcript};
use lomusai_runtime::RunRequest;
use lomusai_wire::{
    AgentSpec, Command, Context, EffectId, ErrorBody, Event, EventBody, History, Message, ModelRequest, Outcome,
    Parent, PartDelta, Pending, RunId, RunOptions, RunOutput, RunStatus, SpecKind, StartRequest, StepReply, ThreadId,
    ToolReply, Usage, WorkflowRequest, codes,
};
use serde_json::Value;

use crate::behaviour::{Asked, Does, Reply};
use crate::vector::{Turn, Vector};

/// A vector's components, ready to be asked.
pub struct World {
    plans: HashMap<String, Arc<Plan>>,
    workflows: HashMap<String, Arc<WorkflowPlan>>,
    steps: HashMap<String, Does>,
    models: HashMap<String, ScriptedModel>,
    tools: HashMap<String, Does>,
    functions: HashMap<String, Does>,
}

impl World {
    /// The components of a vector.
    ///
    /// # Errors
    /// What the vector has wrong.
    pub fn new(vector: &Vector) -> Result<Self, String> {
        let words = |e: Error| e.to_string();
        let specs: Vec<&AgentSpec> = vector.agents.iter().chain([&vector.agent]).collect();
        let mut plans = HashMap::new();
        for spec in &specs {
            let tools = spec.tools.iter().map(|name| {
                let tool = vector.tools.iter().find(|tool| tool.spec.name == *name);
                let tool = tool.ok_or_else(|| format!("the vector has no tool `{name}`"))?;
                PlannedTool::compile(tool.spec.clone()).map_err(words)
            });
            let agents = spec.agents.iter().map(|name| {
                let agent = specs.iter().find(|agent| agent.name == *name);
                let agent = agent.ok_or_else(|| format!("the vector has no agent `{name}`"))?;
                Ok((name.clone(), agent.description.clone()))
            });
            let agents = agents.collect::<Result<_, String>>()?;
            let plan =
                Plan::new((*spec).clone(), tools.collect::<Result<_, _>>()?, agents, Vec::new()).map_err(words)?;
            plans.insert(spec.name.clone(), Arc::new(plan));
        }
        let models = vector
            .models
            .iter()
            .map(|(name, script)| Ok((name.clone(), ScriptedModel::from_value(script.clone()).map_err(words)?)))
            .collect::<Result<_, String>>()?;
        let mut workflows = HashMap::new();
        for spec in vector.workflows.iter().chain(&vector.workflow) {
            let plan = WorkflowPlan::new(spec.clone()).map_err(words)?;
            workflows.insert(spec.name.clone(), Arc::new(plan));
        }
        Ok(Self {
            plans,
            workflows,
            steps: vector.steps.clone().into_iter().collect(),
            models,
            tools: vector.tools.iter().map(|tool| (tool.spec.name.clone(), tool.does.clone())).collect(),
            functions: vector.functions.clone().into_iter().collect(),
        })
    }
}

/// A start request with its history found.
#[derive(Clone, Debug)]
pub struct Request {
    /// As it was made.
    pub start: RunRequest,
    /// The conversation before it.
    pub history: Vec<Arc<Message>>,
}

/// What a vector's turns share: stored conversations, and the one handed from turn to turn.
#[derive(Debug, Default)]
pub struct Session {
    threads: HashMap<ThreadId, Vec<Arc<Message>>>,
    messages: Option<Value>,
}

impl Session {
    /// A turn's request.
    ///
    /// # Errors
    /// What the request has wrong.
    pub fn request(&self, vector: &Vector, turn: &Turn) -> Result<Request, String> {
        let start = vector.request(turn, self.messages.as_ref())?;
        let history = match &start {
            RunRequest::Agent(start) => match &start.thread {
                Some(thread) => self.threads.get(thread).cloned().unwrap_or_default(),
                None => start.history.iter().cloned().map(Arc::new).collect(),
            },
            _ => Vec::new(),
        };
        Ok(Request { start, history })
    }

    /// What a finished turn leaves behind.
    pub fn keep(&mut self, request: &Request, driver: &Driver<'_>) {
        let messages = driver.messages();
        self.messages = serde_json::to_value(messages).ok();
        if let RunRequest::Agent(start) = &request.start
            && let Some(thread) = &start.thread
            && driver.machine().keeps_messages()
        {
            self.threads.insert(thread.clone(), messages.to_vec());
        }
    }
}

/// Which of several answers comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// The one that was asked for first.
    Asked,
    /// The one that was asked for last.
    Reverse,
    /// Any, from this seed.
    Random(u64),
}

/// What one transaction wrote: to one run's journal.
pub type Commit = (RunId, Vec<Event>);

/// One run and its children.
pub struct Driver<'w> {
    world: &'w World,
    request: Request,
    order: Order,
    now_ms: u64,
    book: Book,
    runs: BTreeMap<RunId, Run>,
    /// Everything written, in order.
    pub commits: Vec<Commit>,
    /// The top run's waits, as they came.
    pub suspensions: Vec<Vec<Pending>>,
    /// What should not have happened.
    pub faults: Vec<String>,
}

struct Run {
    machine: Machine,
    parent: Option<(RunId, EffectId)>,
    /// The journaled part.
    context: Context,
    journal: Vec<Event>,
    /// Not answered yet.
    asked: Vec<Effect>,
}

const TOP: &str = "r";
const START_MS: u64 = 1_700_000_000_000;
/// No vector needs more commits; a machine that asks for ever does.
const COMMITS_MAX: usize = 2_000;

impl<'w> Driver<'w> {
    /// Starts a run.
    ///
    /// # Errors
    /// With what the engine refuses to start it.
    pub fn start(world: &'w World, request: &Request, order: Order) -> Result<Self, Error> {
        let mut driver = Self::empty(world, request, order);
        match request.start.clone() {
            RunRequest::Agent(start) => {
                let StartRequest { agent, input, thread, context, transient, options, .. } = *start;
                let context = context.into_iter().filter(|(key, _)| !transient.contains(key)).collect();
                let history = driver.history();
                let start = Start { input: input.into_messages(), history, thread, context, ..Start::default() };
                driver.begin(TOP.into(), &agent, None, request.history.clone(), options, start)?;
            }
            RunRequest::Workflow(start) => {
                let WorkflowRequest { workflow, input, context, transient, state, .. } = *start;
                let context = context.into_iter().filter(|(key, _)| !transient.contains(key)).collect();
                let start = workflow::Start { input, state, context, ..workflow::Start::default() };
                driver.begin_workflow(TOP.into(), &workflow, None, start)?;
            }
            _ => unreachable!("there are agents and workflows"),
        }
        Ok(driver)
    }

    /// Goes on from what a process had written when it stopped.
    pub fn recover(world: &'w World, request: &Request, commits: &[Commit]) -> Self {
        let mut driver = Self::empty(world, request, Order::Asked);
        driver.commits = commits.to_vec();
        for (id, events) in commits {
            let run = driver.runs.entry(id.clone()).or_insert_with(|| {
                let EventBody::RunStarted(started) = &events[0].body else {
                    panic!("a journal begins with run_started")
                };
                Run {
                    machine: folded(world, request, id, &[events[0].clone()]),
                    parent: started.parent.as_ref().map(|parent| (parent.run_id.clone(), parent.effect_id.clone())),
                    context: started.context.clone(),
                    journal: Vec::new(),
                    asked: Vec::new(),
                }
            });
            run.journal.extend(events.iter().cloned());
        }
        for (id, run) in &mut driver.runs {
            run.machine = folded(world, request, id, &run.journal);
        }
        // Children first, as they were started last: a parent then finds them as they are.
        for id in driver.runs.keys().rev().cloned().collect::<Vec<_>>() {
            driver.feed(&id, Input::Recover);
        }
        for child in driver.runs.keys().cloned().collect::<Vec<_>>() {
            driver.tell_parent(&child);
        }
        driver
    }

    fn empty(world: &'w World, request: &Request, order: Order) -> Self {
        Self {
            world,
            request: request.clone(),
            order,
            now_ms: START_MS,
            book: Book::default(),
            runs: BTreeMap::new(),
            commits: Vec::new(),
            suspensions: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn history(&self) -> Option<History> {
        let history = &self.request.history;
        if matches!(&self.request.start, RunRequest::Agent(start) if start.thread.is_some()) {
            return Some(History::Thread { upto: history.len() as u64 });
        }
        (!history.is_empty()).then(|| History::Messages(history.clone()))
    }

    // --- A turn ------------------------------------------------------------------------------------------------------

    /// Runs a turn to its end, or to a suspension that nothing answers. Commands are sent as the turn says.
    pub fn play(&mut self, turn: &Turn) {
        self.play_until(turn, usize::MAX);
    }

    /// As [`play`](Self::play), but stops after so many commits.
    pub fn play_until(&mut self, turn: &Turn, commits: usize) {
        loop {
            let reached = |driver: &Self| {
                let cancel = turn.cancel_at.is_some_and(|n| driver.journal().len() >= n) && !driver.is_cancelling();
                cancel || driver.commits.len() >= commits
            };
            while !reached(self) && self.work() {}
            if self.commits.len() >= commits {
                return;
            }
            if reached(self) && !self.machine().status().is_final() {
                self.cancel();
                continue;
            }
            if self.machine().status() != RunStatus::Suspended {
                if !self.machine().status().is_final() {
                    self.faults.push("the run hangs: nothing is left to answer".into());
                }
                return;
            }
            if !self.send_commands(turn) {
                return;
            }
        }
    }

    /// Sends what the turn says for this suspension. `false` if it says nothing.
    fn send_commands(&mut self, turn: &Turn) -> bool {
        self.suspensions.push(self.machine().pending());
        let number = self.journal().iter().filter(|event| matches!(event.body, EventBody::RunSuspended { .. })).count();
        let Some(commands) = turn.commands.get(number - 1) else { return false };
        for sent in commands {
            let to = sent.to.as_ref().map_or_else(|| TOP.into(), |to| RunId::from(format!("{TOP}/{to}")));
            let refused = self.send(&to, sent.send.clone()).err().map(|error| error.code().to_owned());
            if refused != sent.refused {
                self.faults
                    .push(format!("command {:?}: expected refusal {:?}, was {refused:?}", sent.send, sent.refused));
                return false;
            }
        }
        true
    }

    /// Cancels the run.
    pub fn cancel(&mut self) {
        let _ = self.send(&TOP.into(), Command::Cancel { grace_ms: 0, reason: None });
    }

    /// Sends a command. Who is cancelled cancels its children, before a grace of nothing is over.
    fn send(&mut self, id: &RunId, command: Command) -> Result<(), Error> {
        let grace_ms = if let Command::Cancel { grace_ms, .. } = &command { Some(*grace_ms) } else { None };
        self.command(id, command)?;
        if grace_ms.is_some() {
            for child in self.runs.keys().filter(|child| self.is_child(child, id)).cloned().collect::<Vec<_>>() {
                let reason = Some("the run that started it was cancelled".into());
                // One that has ended takes no commands.
                let _ = self.send(&child, Command::Cancel { grace_ms: 0, reason });
            }
        }
        if grace_ms == Some(0) {
            self.feed(id, Input::GraceOver);
        }
        Ok(())
    }

    fn is_child(&self, child: &RunId, of: &RunId) -> bool {
        self.runs[child].parent.as_ref().is_some_and(|(parent, _)| parent == of)
    }

    fn is_cancelling(&self) -> bool {
        self.journal().iter().any(|event| matches!(event.body, EventBody::RunCancelling { .. }))
    }

    // --- What came of it ---------------------------------------------------------------------------------------------

    /// The top run.
    pub fn machine(&self) -> &Machine {
        &self.runs[TOP].machine
    }

    /// The conversation.
    pub fn messages(&self) -> &[Arc<Message>] {
        self.machine().messages()
    }

    /// The top run's journal.
    pub fn journal(&self) -> &[Event] {
        &self.runs[TOP].journal
    }

    /// The journals of the top run's descendants, by what follows its id and a slash in theirs.
    pub fn children(&self) -> impl Iterator<Item = (&str, &[Event], RunStatus)> {
        self.runs.iter().filter_map(|(id, run)| {
            let rest = id.as_str().strip_prefix(TOP)?.strip_prefix('/')?;
            Some((rest, run.journal.as_slice(), run.machine.status()))
        })
    }

    /// What a journal says its run came to.
    pub fn finish(journal: &[Event]) -> (Option<RunOutput>, Option<ErrorBody>) {
        match journal.last().map(|event| &event.body) {
            Some(EventBody::RunFinished { output, error, .. }) => {
                (output.as_deref().cloned(), error.as_deref().cloned())
            }
            _ => (None, None),
        }
    }

    // --- One answer at a time ----------------------------------------------------------------------------------------

    /// Answers one effect, or lets time pass until one is to be tried again. `false` when there is nothing to do.
    pub fn work(&mut self) -> bool {
        if self.commits.len() > COMMITS_MAX {
            self.faults.push(format!("more than {COMMITS_MAX} commits"));
            return false;
        }
        let mut asked: Vec<(RunId, Effect)> = self
            .runs
            .iter()
            .flat_map(|(id, run)| run.asked.iter().map(move |effect| (id.clone(), effect.clone())))
            .collect();
        while !asked.is_empty() {
            let place = match &mut self.order {
                Order::Asked => 0,
                Order::Reverse => asked.len() - 1,
                Order::Random(seed) => {
                    // Knuth's MMIX generator; its high bits are the good ones.
                    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (*seed >> 33) as usize % asked.len()
                }
            };
            let (id, effect) = asked.remove(place);
            if self.answer(&id, &effect) {
                return true;
            }
        }
        self.retry()
    }

    fn retry(&mut self) -> bool {
        // A run that waits for commands is sent them first.
        let at_work = self.runs.iter().filter(|(_, run)| run.machine.status() != RunStatus::Suspended);
        let due = at_work.flat_map(|(id, run)| {
            run.machine.timers().into_iter().map(move |(effect, at_ms)| (at_ms, id.clone(), effect))
        });
        let Some((at_ms, id, effect)) = due.min_by_key(|(at_ms, ..)| *at_ms) else { return false };
        self.now_ms = self.now_ms.max(at_ms);
        self.feed(&id, Input::Due(effect));
        true
    }

    /// `false` when the answer never comes.
    fn answer(&mut self, id: &RunId, effect: &Effect) -> bool {
        let answer = match &effect.input {
            EffectInput::Model { request, number, .. } => self.ask_model(id, effect, request, *number),
            EffectInput::Tool { arguments } => {
                let arguments: Value = serde_json::from_str(arguments).expect("a tool gets JSON");
                let reply = self.ask_host(id, effect, self.world.tools.get(&*effect.component), &arguments);
                let failed = |message| Err(Error::new(codes::TOOL_FAILED, message));
                let result = match reply {
                    Reply::Returns(output, content) => Some(Ok(ToolReply::Output { output, content })),
                    Reply::Suspends(suspend) => Some(Ok(ToolReply::Suspend { suspend })),
                    Reply::Fails(message) => Some(failed(message)),
                    _ => None,
                };
                result.map(|result| Input::Tool(effect.effect_id.clone(), result))
            }
            EffectInput::Step { input, state } => {
                let context = self.context();
                let does = self.world.steps.get(&*effect.component);
                let asked = Asked { state: Some(state), ..asked(input, &context, effect) };
                let (does, reply) = does.map(|does| does.reply(asked)).unwrap_or_default();
                let mut answer = match reply {
                    Reply::Returns(output, _) => Ok(StepReply::output(output)),
                    Reply::Suspends(payload) => Ok(StepReply::suspend(payload)),
                    Reply::Bails(result) => Ok(StepReply::bail(result)),
                    Reply::Fails(message) => Err(Error::new(codes::STEP_FAILED, message)),
                    Reply::Fatal(message) => Err(Error::new(codes::STEP_FATAL, message)),
                    Reply::Hangs => return false,
                };
                for custom in does.custom {
                    let effect_id = effect.effect_id.clone();
                    self.feed(id, Input::Custom { effect_id, name: custom.name, data: custom.data });
                }
                if let Ok(answer) = &mut answer {
                    (answer.state, answer.label) = (does.sets, does.label);
                }
                Some(Input::step(effect.effect_id.clone(), answer))
            }
            EffectInput::Workflow { run_id, input } => {
                self.run_mut(id).asked.retain(|asked| asked.effect_id != effect.effect_id);
                self.ask_child_workflow(id, effect, run_id, input);
                return true;
            }
            EffectInput::Call { input } => {
                let reply = self.ask_host(id, effect, self.world.functions.get(&*effect.component), input);
                let result = match reply {
                    Reply::Returns(value, _) => Some(Ok(value)),
                    Reply::Fails(message) => Some(Err(Error::new(codes::FUNCTION_FAILED, message))),
                    _ => None,
                };
                result.map(|result| Input::Call(effect.effect_id.clone(), result))
            }
            EffectInput::Run { run_id, prompt } => {
                self.run_mut(id).asked.retain(|asked| asked.effect_id != effect.effect_id);
                self.ask_child(id, effect, run_id, prompt);
                return true;
            }
            _ => None,
        };
        let Some(answer) = answer else { return false };
        self.run_mut(id).asked.retain(|asked| asked.effect_id != effect.effect_id);
        self.feed(id, answer);
        true
    }

    fn ask_model(&mut self, id: &RunId, effect: &Effect, request: &Arc<ModelRequest>, number: u64) -> Option<Input> {
        if let Err(error) = transcript::check(&request.messages) {
            self.faults.push(format!("{}: the model is asked with an invalid transcript: {error}", effect.effect_id));
        }
        let world = self.world;
        let (provider, model) = effect.component.split_once('/').unwrap_or((&effect.component, ""));
        let Some(provider) = world.models.get(provider) else {
            self.faults.push(format!("the vector has no model `{provider}`"));
            return None;
        };
        let mut request = (**request).clone();
        request.model = model.to_owned();
        let budgets = self.open_budgets(id);
        let plan = budget::Plan::new(&request, None, effect.timeout_ms);
        let held = match self.book.reserve(&budgets, plan.need()) {
            Verdict::Granted(held) => held,
            Verdict::Exhausted(why) => {
                let (partial, usage, cost_nano_usd) = (None, Usage::default(), None);
                let outcome = ModelOutcome::Failed { error: why.into(), partial, usage, cost_nano_usd };
                return Some(Input::model(effect.effect_id.clone(), outcome));
            }
            Verdict::Wait => {
                self.faults.push(format!("{}: waits for a budget that nobody holds", effect.effect_id));
                return None;
            }
        };
        request.settings.max_output_tokens = match plan.answer_bound(&held) {
            Some(bound) => Some(request.settings.max_output_tokens.map_or(bound as u32, |set| set.min(bound as u32))),
            None => request.settings.max_output_tokens,
        };
        self.book.settle(held, Amount::default());
        let mut builder = MessageBuilder::new(transcript::message_id(number), number, 1 << 20);
        let mut shown: BTreeMap<u32, String> = BTreeMap::new();
        let failed = |error, builder: MessageBuilder| {
            let usage = builder.usage();
            Some(ModelOutcome::Failed { error, partial: builder.partial(), usage, cost_nano_usd: None })
        };
        let mut context = CallContext::new(id.clone(), effect.effect_id.clone());
        context.attempt = effect.attempt;
        let outcome = match block_on(provider.stream(context, Arc::new(request))) {
            Err(error) => failed(error, builder),
            Ok(mut stream) => loop {
                // A stream that is not ready has nothing more to say: the script hangs.
                let Some(item) = stream.next().now_or_never() else { break None };
                let mut emit = |event| {
                    if let EventBody::PartDelta { index, delta: PartDelta::Text(text), .. } = event {
                        shown.entry(index).or_default().push_str(&text);
                    }
                };
                match item.map(|chunk| chunk.and_then(|chunk| builder.push(chunk, &mut emit))) {
                    None => break failed(truncated(), builder),
                    Some(Err(error)) => break failed(error, builder),
                    Some(Ok(true)) => break Some(ModelOutcome::Answered(builder.finish())),
                    Some(Ok(false)) => {}
                }
            },
        };
        if let Some(ModelOutcome::Answered(answer)) = &outcome {
            for (index, text) in shown {
                if answer.message.parts[index as usize].as_text().is_some_and(|recorded| recorded != text) {
                    self.faults.push(format!("{}: shown {text:?}, recorded otherwise", effect.effect_id));
                }
            }
        }
        outcome.map(|outcome| Input::model(effect.effect_id.clone(), outcome))
    }

    /// The budgets that a run draws on, each with what its journals say was spent.
    fn open_budgets(&mut self, id: &RunId) -> Vec<String> {
        let parents = id.as_str().match_indices('/').map(|(end, _)| RunId::new(&id.as_str()[..end]));
        let keys: Vec<RunId> = parents.chain([id.clone()]).collect();
        for key in &keys {
            let Some(run) = self.runs.get(key) else { continue };
            let Some(limit) = run.machine.budget() else { continue };
            let below = format!("{key}/");
            let of_it = self.runs.iter().filter(|(id, _)| *id == key || id.as_str().starts_with(&below));
            let spent = of_it.fold(Amount::default(), |sum, (_, run)| sum.plus(budget::spent_by(&run.journal)));
            self.book.open(key.as_str(), "the run", limit, spent);
        }
        keys.iter().map(|key| key.as_str().to_owned()).collect()
    }

    fn ask_host(&mut self, id: &RunId, effect: &Effect, does: Option<&Does>, input: &Value) -> Reply {
        let Some(does) = does else {
            self.faults.push(format!("the vector has nothing named `{}`", effect.component));
            return Reply::Hangs;
        };
        let context = self.context();
        let (does, reply) = does.reply(asked(input, &context, effect));
        for custom in does.custom {
            let effect_id = effect.effect_id.clone();
            self.feed(id, Input::Custom { effect_id, name: custom.name, data: custom.data });
        }
        reply
    }

    /// What the caller of the top run wants its functions to know.
    fn context(&self) -> Context {
        match &self.request.start {
            RunRequest::Agent(start) => start.context.clone(),
            RunRequest::Workflow(start) => start.context.clone(),
            _ => Context::new(),
        }
    }

    fn ask_child_workflow(&mut self, id: &RunId, effect: &Effect, child: &RunId, input: &Value) {
        if self.runs.contains_key(child) {
            self.tell_parent(child);
            return;
        }
        let start = workflow::Start {
            input: input.clone(),
            parent: Some(Parent::new(id.clone(), effect.effect_id.clone())),
            context: self.runs[id].context.clone(),
            ..workflow::Start::default()
        };
        let parent = Some((id.clone(), effect.effect_id.clone()));
        let begun = self.begin_workflow(child.clone(), &effect.component, parent, start);
        self.child_begun(id, effect, begun);
    }

    fn child_begun(&mut self, id: &RunId, effect: &Effect, begun: Result<(), Error>) {
        if let Err(error) = begun {
            let outcome = ChildOutcome::Finished {
                outcome: Outcome::Failed,
                output: None,
                error: Some(error),
                usage: Usage::default(),
                cost_nano_usd: None,
            };
            self.feed(id, Input::child(effect.effect_id.clone(), outcome));
        }
    }

    fn begin_workflow(
        &mut self,
        id: RunId,
        workflow: &str,
        parent: Option<(RunId, EffectId)>,
        start: workflow::Start,
    ) -> Result<(), Error> {
        let plan = self.world.workflows.get(workflow).ok_or_else(|| Error::new(codes::WORKFLOW_UNKNOWN, workflow))?;
        let context = start.context.clone();
        let machine = WorkflowMachine::new(plan, id.clone());
        self.begin_machine(id, machine.into(), parent, context, Input::StartWorkflow(Box::new(start)))
    }

    fn begin_machine(
        &mut self,
        id: RunId,
        mut machine: Machine,
        parent: Option<(RunId, EffectId)>,
        context: Context,
        start: Input,
    ) -> Result<(), Error> {
        let decision = machine.step(start, self.now_ms)?;
        let run = Run { machine, parent, context, journal: Vec::new(), asked: Vec::new() };
        self.runs.insert(id.clone(), run);
        self.decided(&id, decision);
        Ok(())
    }

    /// Starts a child run, or finds it as it is when it was started before.
    fn ask_child(&mut self, id: &RunId, effect: &Effect, child: &RunId, prompt: &str) {
        if self.runs.contains_key(child) {
            self.tell_parent(child);
            return;
        }
        let start = Start {
            input: vec![Message::user(prompt)],
            parent: Some(Parent::new(id.clone(), effect.effect_id.clone())),
            context: self.runs[id].context.clone(),
            ..Start::default()
        };
        let parent = Some((id.clone(), effect.effect_id.clone()));
        let begun = self.begin(child.clone(), &effect.component, parent, Vec::new(), RunOptions::default(), start);
        self.child_begun(id, effect, begun);
    }

    fn begin(
        &mut self,
        id: RunId,
        agent: &str,
        parent: Option<(RunId, EffectId)>,
        history: Vec<Arc<Message>>,
        options: RunOptions,
        start: Start,
    ) -> Result<(), Error> {
        let plan = self.world.plans.get(agent).ok_or_else(|| Error::new(codes::AGENT_UNKNOWN, agent))?;
        let machine = AgentMachine::new(plan, id.clone(), history, options)?;
        let context = start.context.clone();
        self.begin_machine(id, machine.into(), parent, context, Input::Start(Box::new(start)))
    }

    fn feed(&mut self, id: &RunId, input: Input) {
        if let Err(error) = self.step(id, input) {
            self.faults.push(format!("run `{id}` refused an answer: {error}"));
        }
    }

    fn command(&mut self, id: &RunId, command: Command) -> Result<(), Error> {
        self.step(id, Input::Command(command))
    }

    fn step(&mut self, id: &RunId, input: Input) -> Result<(), Error> {
        let now_ms = self.now_ms;
        let run = self.runs.get_mut(id).ok_or_else(|| Error::new(codes::RUN_UNKNOWN, id.as_str()))?;
        let decision = run.machine.step(input, now_ms)?;
        self.decided(id, decision);
        Ok(())
    }

    /// Commits what a run decided, remembers what it asks, and tells its parent where it stands.
    fn decided(&mut self, id: &RunId, decision: Decision) {
        if decision.events.is_empty() {
            return;
        }
        // Each commit has its own time, so that a digest in which a time is left shows.
        self.now_ms += 1;
        let now_ms = self.now_ms;
        let run = self.run_mut(id);
        let first = run.journal.len() as u64 + 1;
        let events: Vec<Event> =
            (first..).zip(decision.events).map(|(seq, body)| Event::new(id.clone(), seq, 0, now_ms, body)).collect();
        run.journal.extend(events.iter().cloned());
        run.asked.extend(decision.effects);
        run.asked.retain(|effect| run.machine.is_open(&effect.effect_id));
        let waits = events.iter().any(|event| matches!(event.body, EventBody::RunSuspended { .. }));
        self.commits.push((id.clone(), events));
        self.check_fold(id);
        if waits || self.runs[id].machine.status().is_final() {
            self.tell_parent(id);
        }
    }

    fn tell_parent(&mut self, child: &RunId) {
        let run = &self.runs[child];
        let Some((parent, effect)) = run.parent.clone() else { return };
        let outcome = match run.machine.status() {
            RunStatus::Suspended => ChildOutcome::Suspended(run.machine.pending()),
            status if status.is_final() => match &run.journal.last().expect("it began").body {
                EventBody::RunFinished { outcome, output, error, usage, cost_nano_usd } => ChildOutcome::Finished {
                    outcome: *outcome,
                    output: output.as_deref().cloned(),
                    error: error.as_deref().cloned().map(Error::from),
                    usage: *usage,
                    cost_nano_usd: *cost_nano_usd,
                },
                other => return self.faults.push(format!("run `{child}` ended with {other:?}")),
            },
            _ => return,
        };
        self.feed(&parent, Input::child(effect, outcome));
    }

    /// The journal alone must tell all that the machine knows.
    fn check_fold(&mut self, id: &RunId) {
        let run = &self.runs[id];
        let fold = folded(self.world, &self.request, id, &run.journal);
        let ids: Vec<EffectId> = run.journal.iter().filter_map(|event| event.body.effect_id().cloned()).collect();
        let now_ms = self.now_ms;
        let seen = |machine: &Machine| {
            let open: Vec<Option<Effect>> = ids.iter().map(|id| machine.effect(id)).collect();
            (
                machine.status(),
                machine.pending(),
                machine.messages().to_vec(),
                machine.timers(),
                open,
                machine.advance(now_ms),
            )
        };
        let (live, fold) = (seen(&run.machine), seen(&fold));
        if live.5.is_some() {
            self.faults.push(format!("run `{id}` stopped although more follows: {:?}", live.5));
        }
        if live != fold {
            self.faults.push(format!("run `{id}`: the fold of the journal differs\n  live {live:?}\n  fold {fold:?}"));
        }
    }

    fn run_mut(&mut self, id: &RunId) -> &mut Run {
        self.runs.get_mut(id).expect("only runs that began are asked for")
    }
}

fn asked<'a>(input: &'a Value, context: &'a Context, effect: &'a Effect) -> Asked<'a> {
    Asked { input, context, attempt: effect.attempt, resume: effect.resume.as_deref(), state: None }
}

/// The machine that a journal leads to, each event read back from its JSON.
fn folded(world: &World, request: &Request, id: &RunId, journal: &[Event]) -> Machine {
    let EventBody::RunStarted(started) = &journal[0].body else { panic!("a journal begins with run_started") };
    let history = match &started.history {
        Some(History::Messages(messages)) => messages.clone(),
        Some(History::Thread { upto }) => request.history[..*upto as usize].to_vec(),
        _ => Vec::new(),
    };
    let mut machine: Machine = match started.spec.kind {
        SpecKind::Workflow => WorkflowMachine::new(&world.workflows[&started.spec.name], id.clone()).into(),
        _ => AgentMachine::new(&world.plans[&started.spec.name], id.clone(), history, started.options.clone())
            .expect("a run that was started can be loaded")
            .into(),
    };
    for event in journal {
        let text = serde_json::to_string(event).expect("an event is JSON");
        let read: Event = serde_json::from_str(&text).expect("an event reads itself back");
        assert_eq!(read, *event, "an event changed on its way through JSON");
        machine.apply(&read.body);
    }
    machine
}
