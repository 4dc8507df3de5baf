//! Whether an event can follow the state: asked of journals that were written under another spec.

use std::collections::BTreeMap;

use lomusai_wire::{EffectKind, EventBody};
use serde_json::Value;

use super::{WorkflowMachine, completed};
use crate::workflow::plan::{Does, Question};
use crate::workflow::state::{Asks, Place, Step, Todo};

impl WorkflowMachine {
    /// Whether an event can follow the state. Of the same spec's journal every event does.
    pub(in crate::workflow) fn admits(&self, event: &EventBody) -> Result<(), String> {
        let Some(id) = event.effect_id() else { return Ok(()) };
        if matches!(event, EventBody::Custom { .. } | EventBody::StateSet { .. }) {
            return Ok(());
        }
        let Some((place, asks)) = self.place(id) else {
            return Err(format!("there is no step `{id}`, or what it lies in is not at work"));
        };
        let step = self.state.step(place);
        let is_open = self.state.open.contains_key(id);
        match asks {
            Asks::When => {
                let asked = matches!(self.node(place).when, Some(Question::Function(_)));
                return must(asked && matches!(step, Step::ToDo(_)), || {
                    format!("the condition `{id}` is asked nobody, or its step has not come to its turn")
                });
            }
            Asks::Again => {
                return must(matches!(step, Step::Group(_)), || format!("loop of `{id}` is not at work"));
            }
            Asks::Action => {}
        }
        if let Step::Waiting(_) = step {
            return Err(format!("step `{id}` waits for {}", self.missing(place)));
        }
        if matches!(step, Step::Done(_) | Step::Skipped) {
            return Err(format!("step `{id}` has ended before"));
        }
        let action = &self.node(place).action;
        match event {
            EventBody::EffectStarted { kind, .. } => {
                let fits = match action {
                    Does::Step(_) => *kind == EffectKind::Step,
                    Does::Tool(_) => *kind == EffectKind::Tool,
                    Does::Agent(_) | Does::Workflow(_) => *kind == EffectKind::Run,
                    Does::Sleep(_) | Does::SleepUntil(_) => *kind == EffectKind::Timer,
                    Does::Foreach { .. } | Does::Loop { .. } => *kind == EffectKind::Group,
                    Does::Map(_) | Does::Bail(_) | Does::Wait { .. } | Does::Suspend { .. } => false,
                };
                must(fits, || format!("step `{id}` does something of another kind"))
            }
            EventBody::EffectSuspended { pending } => {
                let fits = match action {
                    Does::Wait { signal, .. } => pending.signal.as_ref() == Some(signal),
                    Does::Suspend { .. } | Does::Step(_) | Does::Tool(_) | Does::Agent(_) | Does::Workflow(_) => true,
                    _ => false,
                };
                must(fits, || format!("step `{id}` waits for nobody, or for something else"))
            }
            EventBody::EffectCompleted { .. } => {
                let at_once = matches!(action, Does::Map(_) | Does::Bail(_) | Does::Wait { .. });
                let fits = is_open || at_once || matches!(step, Step::Group(_));
                must(fits, || format!("step `{id}` asks the world, and was not under way"))
            }
            EventBody::EffectSkipped { .. } => {
                must(matches!(step, Step::ToDo(_)), || format!("step `{id}` is under way"))
            }
            _ => Ok(()),
        }
    }

    /// Steps before one that have not ended.
    fn missing(&self, place: Place) -> String {
        let running = self.state.running(place.scope);
        let nodes = &self.plan.scopes[running.scope].nodes;
        let open = |before: &&usize| !matches!(running.nodes[**before], Step::Done(_) | Step::Skipped);
        let ids: Vec<&str> =
            nodes[place.node].after.iter().filter(open).map(|before| nodes[*before].id.as_str()).collect();
        format!("`{}`, which the run has not come to", ids.join("`, `"))
    }

    /// Steps whose turn has come and whose output is given end with it. Those that end are taken out.
    pub(in crate::workflow) fn complete_given(&mut self, given: &mut BTreeMap<String, Value>) {
        while !given.is_empty() {
            let due = self.state.todo.iter().find_map(|todo| match todo {
                Todo::Begin(place) => Some(self.effect_id(*place)).filter(|id| given.contains_key(id.as_str())),
                _ => None,
            });
            let Some(id) = due else { return };
            let output = given.remove(id.as_str());
            self.apply(&completed(id, output));
        }
    }
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
