//! Events become state. The only place where it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use lomusai_wire::{EffectId, EffectKind, ErrorBody, EventBody, Outcome, SignalKind, Usage};
use serde_json::Value;

use super::{WorkflowMachine, used};
use crate::workflow::plan::Does;
use crate::workflow::state::{Asks, Group, Open, OpenStatus, Phase, Place, Running, Step, Todo, Turn};

impl WorkflowMachine {
    /// Changes the state by one event. The only place that does.
    pub fn apply(&mut self, event: &EventBody) {
        let state = &mut self.state;
        match event {
            EventBody::RunStarted(started) => {
                state.input = Arc::new(started.data.clone().unwrap_or_default());
                state.values = Arc::new(started.state.clone());
                state.phase = Phase::Running;
                let given = state.input.clone();
                self.enter(0, None, String::new(), 0, given);
            }
            EventBody::RunMigrated { state: changed, .. } => {
                let values = Arc::make_mut(&mut state.values);
                for (key, value) in changed {
                    match value {
                        Value::Null => values.remove(key),
                        value => values.insert(key.clone(), value.clone()),
                    };
                }
                // What waited may wait for nothing now.
                state.suspended = false;
            }
            EventBody::RunSuspended { .. } => state.suspended = true,
            EventBody::RunResumed => state.suspended = false,
            // What it waited for does not matter any more, other than that its children have to end.
            EventBody::RunCancelling { .. } => (state.cancelling, state.suspended) = (true, false),
            EventBody::RunFinished { outcome, .. } => {
                state.outcome = Some(*outcome);
                state.phase = Phase::Closed;
                state.suspended = false;
                // Only what failed can go on again.
                if *outcome != Outcome::Failed {
                    state.open.clear();
                    state.todo.clear();
                    state.scopes.clear();
                    state.signals.clear();
                }
            }
            EventBody::StateSet { key, value, .. } => {
                let values = Arc::make_mut(&mut state.values);
                match value {
                    Value::Null => values.remove(key),
                    value => values.insert(key.clone(), value.clone()),
                };
            }
            EventBody::SignalReceived { signal: SignalKind::Signal, name: Some(name), effect_id: None, data } => {
                state.signals.push_back((name.clone(), data.clone().unwrap_or_default()));
            }
            EventBody::SignalReceived { signal: SignalKind::Retry, .. } => self.reopen(),
            _ => {
                if let Some((place, asks)) = event.effect_id().and_then(|id| self.place(id)) {
                    self.apply_at(event, place, asks);
                } else if let EventBody::SignalReceived {
                    signal: SignalKind::Resume, effect_id: Some(id), data, ..
                } = event
                    && let Some((place, _)) = self.place(id)
                {
                    self.resumed(id, place, data.clone().unwrap_or_default());
                }
            }
        }
    }

    fn apply_at(&mut self, event: &EventBody, place: Place, asks: Asks) {
        if let EventBody::EffectFailed { effect_id, .. } = event
            && let Some(open) = self.state.open.get(effect_id)
        {
            match (open.kind, asks) {
                (EffectKind::Run, _) => *self.state.lost.entry(effect_id.clone()).or_default() += 1,
                (_, Asks::Action) => {}
                _ => drop(self.state.lost.insert(effect_id.clone(), open.attempt)),
            }
        }
        match event {
            EventBody::EffectStarted { effect_id, kind, component, attempt, resume, due_at_ms, input, .. } => {
                self.take_todo(place);
                if *kind == EffectKind::Group {
                    return self.group(place, input.clone());
                }
                let known = self.state.open.get(effect_id);
                let tries = match (known, self.state.step(place)) {
                    (Some(open), _) => open.tries,
                    (None, Step::ToDo(Some(turn))) => turn.tries,
                    _ => 0,
                };
                if asks == Asks::Action {
                    *self.state.step_mut(place) = Step::Open;
                }
                let open = Open {
                    place,
                    kind: *kind,
                    component: component.clone(),
                    asks,
                    attempt: *attempt,
                    tries,
                    resume: resume.clone(),
                    input: input.clone(),
                    status: due_at_ms.map_or(OpenStatus::Running, OpenStatus::Sleeping),
                };
                self.state.open.insert(effect_id.clone(), Box::new(open));
            }
            EventBody::EffectSuspended { pending } => {
                self.take_todo(place);
                let status = OpenStatus::Suspended(pending.clone());
                match self.state.open.get_mut(&pending.effect_id) {
                    Some(open) => open.status = status,
                    None => {
                        *self.state.step_mut(place) = Step::Open;
                        let open = Open {
                            component: Arc::default(),
                            place,
                            kind: EffectKind::Step,
                            asks,
                            attempt: 0,
                            tries: 0,
                            resume: None,
                            input: None,
                            status,
                        };
                        self.state.open.insert(pending.effect_id.clone(), Box::new(open));
                    }
                }
            }
            EventBody::EffectCompleted { effect_id, output, usage, cost_nano_usd, .. } => {
                let open = self.state.open.remove(effect_id);
                self.spend(open.as_ref().map(|open| open.kind), *usage, *cost_nano_usd);
                match asks {
                    Asks::Action => {
                        let was_open = open.is_some();
                        self.completed(place, output.as_ref(), was_open, open.and_then(|open| open.input));
                    }
                    asks => self.answered(place, asks, output.as_deref().and_then(Value::as_bool).unwrap_or(false)),
                }
            }
            EventBody::EffectFailed { effect_id, retry_at_ms: Some(at), usage, cost_nano_usd, .. } => {
                self.spend(self.state.open.get(effect_id).map(|open| open.kind), *usage, *cost_nano_usd);
                if let Some(open) = self.state.open.get_mut(effect_id) {
                    open.status = OpenStatus::Waiting(*at);
                    open.tries += 1;
                }
            }
            EventBody::EffectFailed { effect_id, error, usage, cost_nano_usd, .. } => {
                let open = self.state.open.remove(effect_id);
                self.spend(open.as_ref().map(|open| open.kind), *usage, *cost_nano_usd);
                self.failed(place, asks, open, error);
            }
            EventBody::EffectSkipped { .. } => {
                self.take_todo(place);
                self.ended(place, Step::Skipped);
            }
            _ => {}
        }
    }

    /// Counts what an effect took, of the kind it was under way as. What it cost is not known where it used a model and does not say so.
    fn spend(&mut self, kind: Option<EffectKind>, usage: Usage, cost_nano_usd: Option<u64>) {
        self.state.usage += usage;
        if kind == Some(EffectKind::Run) && used(usage, cost_nano_usd) {
            self.state.cost.add(cost_nano_usd);
        }
    }

    fn take_todo(&mut self, place: Place) {
        let todo = &mut self.state.todo;
        let is_it = |todo: &Todo| matches!(todo, Todo::Begin(p) | Todo::Decide(p) | Todo::End(p) if *p == place);
        // Nearly always the first.
        if let Some(at) = todo.iter().position(is_it) {
            todo.remove(at);
        }
    }

    fn enter(&mut self, scope: usize, parent: Option<Place>, prefix: String, index: usize, given: Arc<Value>) -> usize {
        let planned = &self.plan.scopes[scope];
        self.state.enter(planned, Running::new(scope, planned, parent, prefix, index, given))
    }

    // --- A step ends -------------------------------------------------------------------------------------------------

    fn completed(&mut self, place: Place, output: Option<&Arc<Value>>, was_open: bool, given: Option<Arc<Value>>) {
        self.take_todo(place);
        let output = match &self.plan.scopes[self.state.running(place.scope).scope].nodes[place.node].action {
            Does::Sleep(_) | Does::SleepUntil(_) => given.unwrap_or_else(|| self.given(place).unwrap_or_default()),
            Does::Foreach { .. } | Does::Loop { .. } => match self.state.step(place) {
                Step::Group(group) => self.group_output(place, &group.results),
                _ => Arc::default(),
            },
            Does::Wait { signal, .. } if !was_open => {
                let signals = &mut self.state.signals;
                if let Some(at) = signals.iter().position(|(name, _)| name == signal) {
                    signals.remove(at);
                }
                output.cloned().unwrap_or_default()
            }
            Does::Bail(_) => {
                let output = output.cloned().unwrap_or_default();
                self.state.bailed = Some(Value::clone(&output));
                output
            }
            _ => output.cloned().unwrap_or_default(),
        };
        self.ended(place, Step::Done(output));
    }

    fn ended(&mut self, place: Place, step: Step) {
        let running = self.state.scopes[place.scope].as_mut().expect("a step's scope is at work");
        running.nodes[place.node] = step;
        running.left -= 1;
        for &node in &self.plan.scopes[running.scope].nodes[place.node].before {
            if let Step::Waiting(left) = &mut running.nodes[node] {
                *left -= 1;
                if *left == 0 {
                    running.nodes[node] = Step::ToDo(None);
                    self.state.todo.push_back(Todo::Begin(Place { scope: place.scope, node }));
                }
            }
        }
        if running.left == 0
            && let Some(group) = running.parent
        {
            self.scope_ended(place.scope, group);
        }
    }

    fn failed(&mut self, place: Place, asks: Asks, open: Option<Box<Open>>, error: &ErrorBody) {
        // A condition that cannot be told does not hold; but not when the run itself ends it.
        let ends = self.state.cancelling || self.state.failure.is_some() || self.state.bailed.is_some();
        if asks != Asks::Action && !ends {
            return self.answered(place, asks, false);
        }
        if !ends {
            self.state.failure = Some(error.clone());
        }
        if let Some(open) = open {
            if asks == Asks::Action {
                let turn =
                    Turn { when: Some(true), resume: open.resume, attempts: open.attempt, tries: 0, input: open.input };
                *self.state.step_mut(place) = Step::ToDo(Some(Box::new(turn)));
            }
            self.state.failed.push(place);
        }
    }

    /// What failed is to do again; what had not begun is still to do.
    fn reopen(&mut self) {
        let state = &mut self.state;
        state.phase = Phase::Running;
        (state.outcome, state.failure) = (None, None);
        for place in std::mem::take(&mut state.failed) {
            let todo =
                if matches!(state.step(place), Step::Group(_)) { Todo::Decide(place) } else { Todo::Begin(place) };
            state.todo.push_back(todo);
        }
    }

    fn resumed(&mut self, id: &EffectId, place: Place, data: Value) {
        let node = &self.plan.scopes[self.state.running(place.scope).scope].nodes[place.node];
        // What follows completes a declared wait, which stays open until then.
        if matches!(node.action, Does::Suspend { .. }) {
            return;
        }
        if let Some(open) = self.state.open.remove(id) {
            let turn = Turn {
                when: Some(true),
                resume: Some(Arc::new(data)),
                attempts: open.attempt,
                tries: open.tries,
                input: open.input,
            };
            *self.state.step_mut(place) = Step::ToDo(Some(Box::new(turn)));
            self.state.todo.push_back(Todo::Begin(place));
        }
    }

    /// A condition was asked and answered.
    fn answered(&mut self, place: Place, asks: Asks, holds: bool) {
        if asks == Asks::Again {
            return self.decided(place, holds);
        }
        if let Step::ToDo(turn) = self.state.step_mut(place) {
            turn.get_or_insert_default().when = Some(holds);
        }
        self.state.todo.push_back(Todo::Begin(place));
    }

    // --- Groups ------------------------------------------------------------------------------------------------------

    fn group(&mut self, place: Place, given: Option<Arc<Value>>) {
        let given = given.unwrap_or_else(|| self.given(place).unwrap_or_default());
        let is_loop = matches!(self.node(place).action, Does::Loop { .. });
        let items: Vec<Arc<Value>> = match &*given {
            Value::Array(items) if !is_loop => items.iter().rev().map(|item| Arc::new(item.clone())).collect(),
            _ => vec![given],
        };
        let results = if is_loop { Vec::new() } else { vec![Arc::default(); items.len()] };
        let group = Group { items, begun: 0, active: BTreeMap::new(), results };
        *self.state.step_mut(place) = Step::Group(Box::new(group));
        self.fill(place);
    }

    /// Begins as many of a group's items as may be at work at once.
    fn fill(&mut self, place: Place) {
        let (scope, most) = match self.node(place).action {
            Does::Foreach { scope, concurrency } => (scope, concurrency),
            Does::Loop { scope, .. } => (scope, 1),
            _ => unreachable!("only groups have steps"),
        };
        let id = self.effect_id(place);
        loop {
            let Step::Group(group) = self.state.step_mut(place) else { unreachable!("a group at work") };
            if group.active.len() >= most {
                return;
            }
            let Some(item) = group.items.pop() else {
                if group.active.is_empty() {
                    self.state.todo.push_back(Todo::End(place));
                }
                return;
            };
            let index = group.begun;
            group.begun += 1;
            let entered = self.enter(scope, Some(place), format!("{id}.{index}."), index, item);
            let Step::Group(group) = self.state.step_mut(place) else { unreachable!("a group at work") };
            group.active.insert(index, entered);
        }
    }

    /// The last step of a scope in a group has ended.
    fn scope_ended(&mut self, scope: usize, place: Place) {
        // Outputs of these scopes hold no expressions, so nothing here can fail.
        let output = self.came_to(scope).unwrap_or_default();
        let index = self.state.running(scope).index;
        let is_loop = matches!(self.node(place).action, Does::Loop { .. });
        let Step::Group(group) = self.state.step_mut(place) else { unreachable!("a group at work") };
        if is_loop {
            // Its steps stay known until the condition is answered.
            group.results = vec![output];
            self.state.todo.push_back(Todo::Decide(place));
            return;
        }
        group.results[index] = output;
        group.active.remove(&index);
        self.state.scopes[scope] = None;
        self.fill(place);
    }

    /// A loop's condition was answered.
    fn decided(&mut self, place: Place, holds: bool) {
        self.take_todo(place);
        let Does::Loop { until, max, .. } = self.node(place).action else { unreachable!("only loops decide") };
        let again = holds != until;
        let Step::Group(group) = self.state.step_mut(place) else { unreachable!("a loop that decides is a group") };
        if again && group.begun >= max as usize {
            // A function said so: the limit is told after its answer.
            let error = self.exhausted(place, max);
            self.state.failure.get_or_insert(error);
            self.state.failed.push(place);
            return;
        }
        let ended = std::mem::take(&mut group.active);
        if again {
            let output = group.results.last().cloned().unwrap_or_default();
            group.items.push(output);
        }
        for scope in ended.into_values() {
            self.state.scopes[scope] = None;
        }
        self.fill(place);
    }
}
