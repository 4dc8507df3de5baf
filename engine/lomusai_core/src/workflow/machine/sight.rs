//! What a step can see: what it is given, and what mappings and expressions refer to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::WorkflowMachine;
use crate::Result;
use crate::workflow::expression::seen;
use crate::workflow::mapping::{Known, Made, Root};
use crate::workflow::plan::{Does, Question};
use crate::workflow::state::{Asks, Place, Running, Step};

/// What is known inside of a running scope.
pub(super) struct View<'m> {
    machine: &'m WorkflowMachine,
    scope: usize,
    /// What a loop's last time came to.
    output: Option<&'m Value>,
    /// How often the loop had run before, where the scope is the loop's own surroundings.
    iteration: Option<usize>,
}

impl WorkflowMachine {
    pub(super) fn view(&self, scope: usize) -> View<'_> {
        View { machine: self, scope, output: None, iteration: None }
    }

    /// What a step is given.
    ///
    /// # Errors
    /// `expression_failed`.
    pub(super) fn given(&self, place: Place) -> Result<Arc<Value>> {
        let node = self.node(place);
        if let Some(input) = &node.input {
            return input.make(&self.view(place.scope)).map(Arc::new);
        }
        let running = self.state.running(place.scope);
        Ok(match &node.after[..] {
            [] => running.given.clone(),
            [only] => done(running, *only).cloned().unwrap_or_default(),
            several => Arc::new(self.outputs(running, several)),
        })
    }

    /// Outputs of steps by id; those that were skipped are left out.
    fn outputs(&self, running: &Running, steps: &[usize]) -> Value {
        let nodes = &self.plan.scopes[running.scope].nodes;
        let named = |node: &usize| Some((nodes[*node].id.to_string(), Value::clone(done(running, *node)?)));
        Value::Object(steps.iter().filter_map(named).collect::<Map<_, _>>())
    }

    /// What a scope came to.
    ///
    /// # Errors
    /// `expression_failed`.
    pub(super) fn came_to(&self, scope: usize) -> Result<Arc<Value>> {
        let running = self.state.running(scope);
        let plan = &self.plan.scopes[running.scope];
        match (&plan.output, &plan.last[..]) {
            (Some(output), _) => output.make(&self.view(scope)).map(Arc::new),
            (None, [only]) => Ok(done(running, *only).cloned().unwrap_or_default()),
            (None, several) => Ok(Arc::new(self.outputs(running, several))),
        }
    }

    /// Whether a condition of a step holds, where that is an expression.
    ///
    /// # Errors
    /// `expression_failed`.
    pub(super) fn holds(&self, question: &Question, place: Place, asks: Asks) -> Result<bool> {
        let Question::Expr(asked) = question else { unreachable!("functions are asked, not evaluated") };
        let view = self.condition_view(place, asks);
        asked.expression.holds(view.shown(&asked.needs))
    }

    /// A loop's condition sees what its steps came to, which were let go with their scope: all but `output` is further out.
    fn condition_view(&self, place: Place, asks: Asks) -> View<'_> {
        if asks != Asks::Again {
            return self.view(place.scope);
        }
        let Step::Group(group) = self.state.step(place) else { unreachable!("a loop that decides is a group") };
        let scope = group.active.values().next().copied().unwrap_or(place.scope);
        View {
            machine: self,
            scope,
            output: group.results.last().map(|output| &**output),
            iteration: Some(group.begun),
        }
    }

    /// What a condition's function is asked.
    pub(super) fn question(&self, place: Place, asks: Asks) -> Value {
        let node = self.node(place);
        let mut question = json!({
            "workflow": self.plan.spec.name,
            "step": node.id,
            "input": *self.given(place).unwrap_or_default(),
            "state": *self.state.values,
        });
        let view = self.condition_view(place, asks);
        let fields = question.as_object_mut().expect("an object");
        for root in [Root::Item, Root::Index, Root::Iteration, Root::Output] {
            if let Some(value) = view.look(&root) {
                fields.insert(root.name().into(), value.into_owned());
            }
        }
        question
    }

    /// How often a wait lasts, or which list a group goes through: a value that cannot be made is its step's failure.
    pub(super) fn made(&self, made: &Made, place: Place) -> Result<Value> {
        made.make(&self.view(place.scope))
    }
}

fn done(running: &Running, node: usize) -> Option<&Arc<Value>> {
    if let Step::Done(output) = &running.nodes[node] { Some(output) } else { None }
}

impl View<'_> {
    /// The nearest scope from here outwards that is in a foreach, or in a loop.
    fn nearest(&self, foreach: bool) -> Option<&Running> {
        let mut scope = self.machine.state.running(self.scope);
        loop {
            let parent = scope.parent?;
            if matches!(self.machine.node(parent).action, Does::Foreach { .. }) == foreach {
                return Some(scope);
            }
            scope = self.machine.state.running(parent.scope);
        }
    }

    /// The scope so many further out.
    fn out(&self, up: usize) -> Option<&Running> {
        let mut scope = self.machine.state.running(self.scope);
        for _ in 0..up {
            scope = self.machine.state.running(scope.parent?.scope);
        }
        Some(scope)
    }
}

impl Known for View<'_> {
    fn look(&self, root: &Root) -> Option<Cow<'_, Value>> {
        let state = &self.machine.state;
        Some(match root {
            Root::Input => Cow::Borrowed(&*state.input),
            Root::State => Cow::Owned(Value::Object((*state.values).clone())),
            Root::Step { up, node } => Cow::Borrowed(&**done(self.out(*up)?, *node)?),
            Root::Item => {
                let scope = self.nearest(true)?;
                Cow::Borrowed(&*scope.given)
            }
            Root::Index => Cow::Owned(self.nearest(true)?.index.into()),
            Root::Iteration => match self.iteration {
                Some(iteration) => Cow::Owned(iteration.into()),
                None => Cow::Owned((self.nearest(false)?.index + 1).into()),
            },
            Root::Output => Cow::Borrowed(self.output?),
        })
    }

    fn shown(&self, needs: &BTreeSet<Root>) -> Vec<(&'static str, minijinja::Value)> {
        let mut shown = Vec::with_capacity(needs.len());
        let mut steps: Vec<(String, minijinja::Value)> = Vec::new();
        let mut any_step = false;
        for root in needs {
            if let Root::Step { up, node } = root {
                any_step = true;
                let Some(scope) = self.out(*up) else { continue };
                let id = self.machine.plan.scopes[scope.scope].nodes[*node].id.as_str();
                // What was skipped stays undefined.
                steps.extend(done(scope, *node).map(|value| (id.replace('-', "_"), seen(value))));
            } else if let Some(value) = self.look(root) {
                shown.push((root.name(), seen(&value)));
            }
        }
        if any_step {
            shown.push(("steps", minijinja::Value::from_pairs(steps)));
        }
        shown
    }
}
