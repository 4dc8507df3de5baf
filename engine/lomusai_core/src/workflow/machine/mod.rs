//! The machine itself: inputs become events, events become state, state asks for more. One file for each of the three.

mod admits;
mod advance;
mod apply;
mod handle;
mod sight;

use std::sync::Arc;

use lomusai_wire::{
    Context, EffectId, EffectKind, ErrorBody, EventBody, Outcome, Parent, Pending, RunId, RunStatus, Usage, codes,
};
use serde_json::{Map, Value};

use super::plan::{Does, Node, Question, WorkflowPlan};
use super::state::{Asks, Open, OpenStatus, Phase, Place, State, Step, Todo};
use crate::machine::{Decision, Effect, EffectInput, Input};
use crate::{Error, Result};

/// One run of a workflow.
#[derive(Debug)]
pub struct WorkflowMachine {
    plan: Arc<WorkflowPlan>,
    run_id: RunId,
    state: State,
}

/// What starts a run.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The workflow's input.
    pub input: Value,
    /// The run's state.
    pub state: Map<String, Value>,
    /// Who started it.
    pub parent: Option<Parent>,
    /// The journaled part of the context.
    pub context: Context,
    /// What the caller wants to find it by.
    pub metadata: Map<String, Value>,
}

impl WorkflowMachine {
    /// A run that has not started.
    pub fn new(plan: &Arc<WorkflowPlan>, run_id: RunId) -> Self {
        Self { plan: plan.clone(), run_id, state: State::new() }
    }

    /// Handles an input, applies what follows from it, and says what to commit and to carry out.
    ///
    /// An input that is not waited for any more (a late answer) gives an empty decision.
    ///
    /// # Errors
    /// For starts and commands only: what is wrong with them. Nothing has changed then.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Result<Decision> {
        let events = self.handle(input, now_ms)?;
        Ok(self.follow(events, now_ms))
    }

    /// Applies what [`handle`](Self::handle) gave, and what follows from it, and says what to commit and to carry out.
    pub fn follow(&mut self, mut events: Vec<EventBody>, now_ms: u64) -> Decision {
        for event in &events {
            self.apply(event);
        }
        while let Some(event) = self.advance(now_ms) {
            self.apply(&event);
            events.push(event);
        }
        fn asked(event: &EventBody) -> Option<&EffectId> {
            match event {
                EventBody::EffectStarted { effect_id, kind, .. } if !is_kept_here(*kind) => Some(effect_id),
                _ => None,
            }
        }
        // Counted first: nearly always there is one, and room for four of them is half a kilobyte.
        let mut effects = Vec::with_capacity(events.iter().filter_map(asked).count());
        effects.extend(events.iter().filter_map(asked).filter_map(|id| self.effect(id)));
        Decision { events, effects }
    }

    /// Where the run stands.
    pub fn status(&self) -> RunStatus {
        match self.state.outcome {
            Some(outcome) => outcome.into(),
            None if self.state.suspended => RunStatus::Suspended,
            None if !self.state.is_busy() && self.state.sleeps() => RunStatus::Waiting,
            None => RunStatus::Running,
        }
    }

    /// What the run waits for.
    pub fn pending(&self) -> Vec<Pending> {
        let suspended = |open: &Open| match &open.status {
            OpenStatus::Suspended(pending) => Some((**pending).clone()),
            _ => None,
        };
        let mut pending: Vec<Pending> = self.state.open.values().map(Box::as_ref).filter_map(suspended).collect();
        pending.sort_by(|a, b| a.effect_id.canonical_cmp(&b.effect_id));
        pending
    }

    /// Tokens used so far by the run's children.
    pub fn usage(&self) -> Usage {
        self.state.usage
    }

    /// What that cost, in nano-dollars. `None` where the price of any of it is not known.
    pub fn cost_nano_usd(&self) -> Option<u64> {
        self.state.cost.nano_usd()
    }

    /// The part of the cost that is known.
    pub fn known_cost_nano_usd(&self) -> u64 {
        self.state.cost.known_nano_usd()
    }

    /// What goes off by itself, and when: sleeps, next attempts, ends of waits.
    pub fn timers(&self) -> Vec<(EffectId, u64)> {
        let due = |open: &Open| match &open.status {
            OpenStatus::Sleeping(at) | OpenStatus::Waiting(at) => Some(*at),
            OpenStatus::Suspended(pending) => pending.due_at_ms,
            OpenStatus::Running => None,
        };
        self.state.open.iter().filter_map(|(id, open)| Some((id.clone(), due(open)?))).collect()
    }

    /// Child runs that are suspended: the effect and the child.
    pub fn suspended_children(&self) -> Vec<(EffectId, RunId)> {
        self.pending().into_iter().filter_map(|pending| Some((pending.effect_id, pending.child?))).collect()
    }

    /// Child runs that have not ended: the effect and the child.
    pub fn children(&self) -> Vec<(EffectId, RunId)> {
        let children = self.state.open.iter().filter(|(_, open)| open.kind == EffectKind::Run);
        children.map(|(id, _)| (id.clone(), self.child_id(id))).collect()
    }

    /// Whether an effect is under way.
    pub fn is_open(&self, id: &EffectId) -> bool {
        self.state.open.contains_key(id)
    }

    /// Whether an event that was changed still fits: an output its step's `output_schema`, an input its `input_schema`. Any other is taken
    /// as it is.
    ///
    /// # Errors
    /// `step_result_invalid`, `result_too_large`, `input_invalid`.
    pub fn check_changed(&self, event: &EventBody) -> Result<()> {
        let Some((place, Asks::Action)) = event.effect_id().and_then(|id| self.place(id)) else { return Ok(()) };
        match event {
            EventBody::EffectCompleted { output: Some(output), .. } => self.check_output(place, output),
            EventBody::EffectStarted { input: Some(input), effect_id, .. } => {
                let schema = self.node(place).input_schema.as_ref();
                match (schema.and_then(|schema| schema.violations(input)), &self.node(place).action, input) {
                    (Some(why), ..) => {
                        let message = format!("what step `{effect_id}` is given does not fit its input_schema: {why}");
                        Err(Error::new(codes::INPUT_INVALID, message))
                    }
                    (None, Does::Foreach { .. }, input) if !input.is_array() => {
                        let message = format!("step `{effect_id}` goes through a list, was given {input}");
                        Err(Error::new(codes::INPUT_INVALID, message))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The workflow's plan.
    pub fn plan(&self) -> &Arc<WorkflowPlan> {
        &self.plan
    }

    /// The run's state: what its steps have set.
    pub fn values(&self) -> &Map<String, Value> {
        &self.state.values
    }

    /// What an open effect asks.
    pub fn effect(&self, id: &EffectId) -> Option<Effect> {
        let open = self.state.open.get(id)?;
        let node = self.node(open.place);
        let limits = &self.plan.spec.limits;
        let (input, timeout_ms) = match (open.asks, &node.action) {
            (Asks::When | Asks::Again, _) => {
                (EffectInput::Call { input: self.question(open.place, open.asks) }, limits.function_ms())
            }
            (_, Does::Step(_)) => {
                let input = self.open_given(open);
                (EffectInput::Step { input, state: self.state.values.clone() }, node.timeout_ms)
            }
            (_, Does::Tool(_)) => {
                let arguments = self.open_given(open).to_string();
                (EffectInput::Tool { arguments }, node.timeout_ms)
            }
            // A child has limits of its own.
            (_, Does::Agent(_)) => {
                let prompt = prompt(Arc::unwrap_or_clone(self.open_given(open)));
                (EffectInput::Run { run_id: self.child_id(id), prompt }, u64::MAX)
            }
            (_, Does::Workflow(_)) => {
                let input = Arc::unwrap_or_clone(self.open_given(open));
                (EffectInput::Workflow { run_id: self.child_id(id), input }, u64::MAX)
            }
            _ => (EffectInput::Timer, u64::MAX),
        };
        Some(Effect {
            effect_id: id.clone(),
            kind: open.kind,
            component: open.component.clone(),
            attempt: open.attempt,
            call_id: None,
            resume: open.resume.clone(),
            timeout_ms,
            input,
        })
    }

    /// The component that an effect asks when it begins anew.
    fn component(&self, open: &Open) -> &str {
        let node = self.node(open.place);
        let question = match (open.asks, &node.action) {
            (Asks::When, _) => node.when.as_ref(),
            (Asks::Again, Does::Loop { condition, .. }) => Some(condition),
            (_, Does::Step(name) | Does::Tool(name) | Does::Agent(name) | Does::Workflow(name)) => return name,
            _ => None,
        };
        if let Some(Question::Function(name)) = question { name } else { "" }
    }

    /// What an open effect's step is given: in a fork it may be something else than what the spec says.
    /// What cannot be made is null: that was told when the step began.
    fn open_given(&self, open: &Open) -> Arc<Value> {
        open.input.clone().unwrap_or_else(|| self.given(open.place).unwrap_or_default())
    }

    /// A child that failed stays as it is: the next attempt is another run.
    fn child_id(&self, effect: &EffectId) -> RunId {
        match self.state.lost.get(effect) {
            None => format!("{}/{effect}", self.run_id).into(),
            Some(lost) => format!("{}/{effect}~{lost}", self.run_id).into(),
        }
    }

    fn node(&self, place: Place) -> &Node {
        &self.plan.scopes[self.state.running(place.scope).scope].nodes[place.node]
    }

    /// The run's own text, also where it is that of the plan: a count that all its runs keep together is what their threads would wait for.
    fn effect_id(&self, place: Place) -> EffectId {
        let prefix = &self.state.running(place.scope).prefix;
        let id = &self.node(place).id;
        if prefix.is_empty() { EffectId::new(id.as_str()) } else { [prefix, id.as_str()].concat().into() }
    }

    /// The step that an effect's id names, and what is asked for it.
    fn place(&self, id: &EffectId) -> Option<(Place, Asks)> {
        // Nearly always it is under way, or the next that begins.
        if let Some(open) = self.state.open.get(id) {
            return Some((open.place, open.asks));
        }
        if let Some(Todo::Begin(place)) = self.state.todo.front() {
            let prefix = &self.state.running(place.scope).prefix;
            if id.as_str().strip_prefix(&**prefix) == Some(self.node(*place).id.as_str()) {
                return Some((*place, Asks::Action));
            }
        }
        self.find(id)
    }

    fn find(&self, id: &EffectId) -> Option<(Place, Asks)> {
        let mut scope = 0;
        let mut tokens = id.as_str().split('.');
        loop {
            let running = self.state.scopes.get(scope)?.as_ref()?;
            let node = self.plan.scopes[running.scope].find(tokens.next()?)?;
            let place = Place { scope, node };
            let index = match tokens.next() {
                None => return Some((place, Asks::Action)),
                Some("when") => return Some((place, Asks::When)),
                Some(index) => index.parse::<usize>().ok()?,
            };
            let Step::Group(group) = self.state.step(place) else { return None };
            let mut rest = tokens.clone();
            if let (Some("while" | "until"), None) = (rest.next(), rest.next()) {
                return (index + 1 == group.begun).then_some((place, Asks::Again));
            }
            scope = *group.active.get(&index)?;
        }
    }
}

/// Whether an effect of this kind is the machine's own affair: time passes by itself, and steps inside of a step are effects of their own.
fn is_kept_here(kind: EffectKind) -> bool {
    matches!(kind, EffectKind::Timer | EffectKind::Group)
}

fn prompt(input: Value) -> String {
    match input {
        Value::String(text) => text,
        Value::Object(mut fields) if fields.get("prompt").is_some_and(Value::is_string) => {
            fields.remove("prompt").and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

fn cancelled_error() -> ErrorBody {
    ErrorBody::new(codes::RUN_CANCELLED, "the run was cancelled")
}

/// Whether a child used a model: one that did not says nothing about costs.
fn used(usage: Usage, cost_nano_usd: Option<u64>) -> bool {
    cost_nano_usd.is_some() || !usage.is_empty()
}

fn completed(effect_id: EffectId, output: Option<Value>) -> EventBody {
    EventBody::EffectCompleted {
        effect_id,
        output: output.map(Arc::new),
        content: Vec::new(),
        finish: None,
        usage: Usage::default(),
        cost_nano_usd: None,
    }
}

fn failed(effect_id: EffectId, error: ErrorBody) -> EventBody {
    EventBody::EffectFailed {
        effect_id,
        error: error.into(),
        retry_at_ms: None,
        usage: Usage::default(),
        cost_nano_usd: None,
    }
}

impl WorkflowMachine {
    /// Whether the run has ended, and how.
    pub fn outcome(&self) -> Option<Outcome> {
        self.state.outcome
    }

    fn is_new(&self) -> bool {
        self.state.phase == Phase::New
    }
}
