//! What all machines have in common: what they are told, what they ask of the world, and how the world may answer.

use std::sync::Arc;

use lomusai_wire::{
    Budget, CallId, Code, Command, EffectId, EffectKind, EventBody, Message, ModelRequest, Outcome, Pending, RunId,
    RunOutput, RunStatus, StepReply, ToolReply, Usage,
};
use serde_json::{Map, Value};

use crate::agent::AgentMachine;
use crate::llm::Answer;
use crate::workflow::WorkflowMachine;
use crate::{Error, Result};

/// Something to carry out. Plain data: the same run in the same state asks for the same thing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Effect {
    /// Which, by position in the run.
    pub effect_id: EffectId,
    /// Of which kind.
    pub kind: EffectKind,
    /// The component to ask: a model as the spec names it, or the name of a tool, agent or function.
    pub component: Arc<str>,
    /// Counts from 1.
    pub attempt: u32,
    /// The tool call it serves.
    pub call_id: Option<CallId>,
    /// What resumed it.
    pub resume: Option<Arc<Value>>,
    /// Longest time it may take.
    pub timeout_ms: u64,
    /// What to ask.
    pub input: EffectInput,
}

/// What an effect asks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EffectInput {
    /// A model: this.
    Model {
        /// The request; `model` is still empty.
        request: Arc<ModelRequest>,
        /// Number of the message it will become.
        number: u64,
        /// Whether the answer's text is a JSON value of which parts can be shown early.
        structured: bool,
        /// Longest wait for its first piece.
        first_token_ms: Option<u64>,
        /// Longest wait between two pieces.
        between_tokens_ms: Option<u64>,
    },
    /// A tool: these arguments, which fit its schema.
    Tool {
        /// JSON text.
        arguments: String,
    },
    /// A child run of the agent.
    Run {
        /// The child's id.
        run_id: RunId,
        /// What it is asked.
        prompt: String,
    },
    /// A child run of the workflow.
    Workflow {
        /// The child's id.
        run_id: RunId,
        /// Its input.
        input: Value,
    },
    /// A step function: this.
    Step {
        /// The step's input.
        input: Arc<Value>,
        /// The run's state.
        state: Arc<Map<String, Value>>,
    },
    /// The clock: [`Machine::timers`](super::machine::Machine::timers) says when.
    Timer,
    /// Another function: this.
    Call {
        /// The question.
        input: Value,
    },
}

/// How a model call ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelOutcome {
    /// With an answer.
    Answered(Answer),
    /// With an error, after this much of an answer.
    Failed {
        /// Why.
        error: Error,
        /// What had been shown.
        partial: Option<Answer>,
        /// What it took all the same.
        usage: Usage,
        /// What that cost, in nano-dollars, where it is known.
        cost_nano_usd: Option<u64>,
    },
}

/// How a child run ended, or where it waits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ChildOutcome {
    /// It is over.
    Finished {
        /// How it ended.
        outcome: Outcome,
        /// What it came to.
        output: Option<RunOutput>,
        /// What went wrong.
        error: Option<Error>,
        /// What it took.
        usage: Usage,
        /// What that cost, in nano-dollars, where it is known.
        cost_nano_usd: Option<u64>,
    },
    /// It waits for commands.
    Suspended(Vec<Pending>),
}

/// What child runs used that were stopped with their run: the effect, tokens, and what they cost in nano-dollars where that is known.
pub type Spent = Vec<(EffectId, Usage, Option<u64>)>;

/// What the world tells a machine. What is large is boxed: on its way here an answer is moved a dozen times.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// An agent's run begins.
    Start(Box<crate::agent::Start>),
    /// A workflow's run begins.
    StartWorkflow(Box<crate::workflow::Start>),
    /// A model call ended.
    Model(EffectId, Box<ModelOutcome>),
    /// A tool answered.
    Tool(EffectId, Result<ToolReply>),
    /// A child run ended or waits.
    Child(EffectId, Box<ChildOutcome>),
    /// A function answered.
    Call(EffectId, Result<Value>),
    /// A step function answered.
    Step(EffectId, Result<Box<StepReply>>),
    /// A timer went off: an effect is to be tried again, a sleep is over, or a wait has lasted too long.
    Due(EffectId),
    /// A command came.
    Command(Command),
    /// The grace of a cancellation is over.
    GraceOver,
    /// The run may not go on: it crossed a limit. Nothing new starts, what is under way is ended with this error.
    Fail(Error, Spent),
    /// The run was loaded from its journal: what was under way is started again.
    Recover,
    /// A component says something for the journal.
    Custom {
        /// The effect it serves.
        effect_id: EffectId,
        /// What it is.
        name: String,
        /// The value.
        data: Value,
    },
}

impl Input {
    /// A model call ended so.
    pub fn model(id: EffectId, outcome: ModelOutcome) -> Self {
        Self::Model(id, Box::new(outcome))
    }

    /// A child run ended, or waits.
    pub fn child(id: EffectId, outcome: ChildOutcome) -> Self {
        Self::Child(id, Box::new(outcome))
    }

    /// A step function answered.
    pub fn step(id: EffectId, answer: Result<StepReply>) -> Self {
        Self::Step(id, answer.map(Box::new))
    }
}

/// What a machine decided: events to commit, then effects to carry out.
#[derive(Debug, Default)]
pub struct Decision {
    /// In order; already applied.
    pub events: Vec<EventBody>,
    /// What to ask the world.
    pub effects: Vec<Effect>,
}

/// So deep may what the host answers nest: JSON readers stop at 128, and an event puts it some levels deeper.
const DEPTH_MAX: u32 = 100;

/// Refuses what could be written into a journal but not be read back.
pub(crate) fn check_depth(value: &Value, code: Code, what: impl FnOnce() -> String) -> Result<()> {
    fn fits(value: &Value, left: u32) -> bool {
        match value {
            Value::Array(items) => left > 0 && items.iter().all(|item| fits(item, left - 1)),
            Value::Object(fields) => left > 0 && fields.values().all(|field| fits(field, left - 1)),
            _ => true,
        }
    }
    if fits(value, DEPTH_MAX) {
        return Ok(());
    }
    Err(Error::new(code, format!("{} nests deeper than {DEPTH_MAX} levels: flatten it, or pass it as text", what())))
}

/// Bytes of the value as compact JSON, about: escapes are left out and numbers count as eight. Costs no allocation.
pub fn json_size(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() as u64 + 2,
        Value::Array(items) => items.iter().map(|item| json_size(item) + 1).sum::<u64>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() as u64 + 4 + json_size(value)).sum::<u64>() + 2
        }
    }
}

/// Bytes of a message: its texts as they are, all else as JSON.
pub(crate) fn message_size(message: &Message) -> u64 {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    for part in &message.parts {
        match part.as_text() {
            Some(text) => count.0 += text.len() as u64,
            None => serde_json::to_writer(&mut count, part).expect("a part is JSON"),
        }
    }
    count.0
}

/// A run of any kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum Machine {
    /// Of an agent.
    Agent(Box<AgentMachine>),
    /// Of a workflow.
    Workflow(Box<WorkflowMachine>),
}

impl From<AgentMachine> for Machine {
    fn from(machine: AgentMachine) -> Self {
        Self::Agent(Box::new(machine))
    }
}

impl From<WorkflowMachine> for Machine {
    fn from(machine: WorkflowMachine) -> Self {
        Self::Workflow(Box::new(machine))
    }
}

/// The same question to either kind.
macro_rules! either {
    ($machine:expr, $it:ident => $ask:expr) => {
        match $machine {
            Machine::Agent($it) => $ask,
            Machine::Workflow($it) => $ask,
        }
    };
}

impl Machine {
    /// Handles an input, applies what follows from it, and says what to commit and to carry out.
    ///
    /// # Errors
    /// For starts and commands only: what is wrong with them. Nothing has changed then.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Result<Decision> {
        either!(self, machine => machine.step(input, now_ms))
    }

    /// Changes the state by one event.
    pub fn apply(&mut self, event: &EventBody) {
        either!(self, machine => machine.apply(event));
    }

    /// The next event that follows from the state. `None` when the world has to speak first.
    pub fn advance(&self, now_ms: u64) -> Option<EventBody> {
        match self {
            Self::Agent(machine) => machine.advance(),
            Self::Workflow(machine) => machine.advance(now_ms),
        }
    }

    /// Where the run stands.
    pub fn status(&self) -> RunStatus {
        either!(self, machine => machine.status())
    }

    /// What the run waits for.
    pub fn pending(&self) -> Vec<Pending> {
        either!(self, machine => machine.pending())
    }

    /// The whole conversation of an agent's run; a workflow has none.
    pub fn messages(&self) -> &[Arc<Message>] {
        match self {
            Self::Agent(machine) => machine.messages(),
            Self::Workflow(_) => &[],
        }
    }

    /// How many of [`messages`](Self::messages) were there before the run.
    pub fn history_len(&self) -> usize {
        match self {
            Self::Agent(machine) => machine.history_len(),
            Self::Workflow(_) => 0,
        }
    }

    /// Whether what was said is to be kept in the thread.
    pub fn keeps_messages(&self) -> bool {
        match self {
            Self::Agent(machine) => machine.keeps_messages(),
            Self::Workflow(_) => false,
        }
    }

    /// Tokens used so far by the run and its children.
    pub fn usage(&self) -> Usage {
        either!(self, machine => machine.usage())
    }

    /// What that cost, in nano-dollars. `None` where the price of any of it is not known.
    pub fn cost_nano_usd(&self) -> Option<u64> {
        either!(self, machine => machine.cost_nano_usd())
    }

    /// The part of the cost that is known.
    pub fn known_cost_nano_usd(&self) -> u64 {
        either!(self, machine => machine.known_cost_nano_usd())
    }

    /// What the run may use: an agent's own budget.
    pub fn budget(&self) -> Option<Budget> {
        match self {
            Self::Agent(machine) => machine.budget(),
            Self::Workflow(_) => None,
        }
    }

    /// What goes off by itself, and when: sleeps, next attempts, ends of waits.
    pub fn timers(&self) -> Vec<(EffectId, u64)> {
        match self {
            Self::Agent(machine) => machine.retries(),
            Self::Workflow(machine) => machine.timers(),
        }
    }

    /// Child runs that are suspended: the effect and the child.
    pub fn suspended_children(&self) -> Vec<(EffectId, RunId)> {
        either!(self, machine => machine.suspended_children())
    }

    /// Child runs that have not ended: the effect and the child.
    pub fn children(&self) -> Vec<(EffectId, RunId)> {
        either!(self, machine => machine.children())
    }

    /// Whether an effect is under way.
    pub fn is_open(&self, id: &EffectId) -> bool {
        either!(self, machine => machine.is_open(id))
    }

    /// What an open effect asks.
    pub fn effect(&self, id: &EffectId) -> Option<Effect> {
        either!(self, machine => machine.effect(id))
    }
}
