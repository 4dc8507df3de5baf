//! A stored run under another spec: its journal read as if the run had been of that spec, and whether that can be.
//!
//! What a migration says is an event of the journal, so that the state stays the fold of the journal: the events before it are read with its
//! names and outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use lomusai_wire::{EffectId, Event, EventBody, RunId};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{WorkflowMachine, WorkflowPlan};

/// Why a stored run cannot be of a spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// The event that cannot have been.
    pub seq: u64,
    /// The effect that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect_id: Option<EffectId>,
    /// Why not.
    pub why: String,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "event {}: {}", self.seq, self.why)
    }
}

/// The run as this journal says, under a plan that need not be the one it began with. Nothing is carried out.
///
/// # Errors
/// The first event that the plan does not allow.
pub fn fold(plan: &Arc<WorkflowPlan>, run_id: RunId, events: &[Event]) -> Result<WorkflowMachine, Misfit> {
    let (events, mut given) = translated(events);
    let mut machine = WorkflowMachine::new(plan, run_id);
    for event in &events {
        if let Err(why) = machine.admits(&event.body) {
            return Err(Misfit { seq: event.seq, effect_id: event.body.effect_id().cloned(), why });
        }
        machine.apply(&event.body);
        machine.complete_given(&mut given);
    }
    Ok(machine)
}

/// Events as they are read behind the migrations among them, and the outputs of steps that the run never had.
fn translated(events: &[Event]) -> (Vec<Event>, BTreeMap<String, Value>) {
    let mut read: Vec<Event> = Vec::with_capacity(events.len());
    let mut given = BTreeMap::new();
    for event in events {
        if let EventBody::RunMigrated { steps, outputs, .. } = &event.body {
            read = read.into_iter().filter_map(|event| renamed(event, steps)).collect();
            let mut outputs: BTreeMap<String, Value> = outputs.clone().into_iter().collect();
            for event in &mut read {
                if let EventBody::EffectCompleted { effect_id, output, .. } = &mut event.body
                    && let Some(other) = outputs.remove(effect_id.as_str())
                {
                    *output = Some(Arc::new(other));
                }
            }
            given.extend(outputs);
        }
        read.push(event.clone());
    }
    (read, given)
}

/// An event under other names of steps; `None` where its step is forgotten.
fn renamed(mut event: Event, steps: &BTreeMap<String, Option<String>>) -> Option<Event> {
    let rename = |id: &EffectId| {
        let tokens = id.as_str().split('.').map(|token| match steps.get(token) {
            Some(new) => new.as_deref(),
            None => Some(token),
        });
        tokens.collect::<Option<Vec<_>>>().map(|tokens| EffectId::from(tokens.join(".")))
    };
    match &mut event.body {
        EventBody::EffectStarted { effect_id, .. }
        | EventBody::EffectCompleted { effect_id, .. }
        | EventBody::EffectFailed { effect_id, .. }
        | EventBody::EffectSkipped { effect_id, .. } => *effect_id = rename(effect_id)?,
        EventBody::EffectSuspended { pending } => pending.effect_id = rename(&pending.effect_id)?,
        EventBody::SignalReceived { effect_id: Some(effect_id), .. } => *effect_id = rename(effect_id)?,
        EventBody::StateSet { effect_id: Some(effect_id), .. }
        | EventBody::Custom { effect_id: Some(effect_id), .. } => {
            // What a step has set stays set, also where the step is forgotten.
            if let Some(new) = rename(effect_id) {
                *effect_id = new;
            }
        }
        _ => {}
    }
    Some(event)
}

/// Outputs by effect, and the state, as a journal says: what a function that migrates is shown.
pub fn shown(events: &[Event]) -> (Map<String, Value>, Map<String, Value>) {
    let (mut outputs, mut state) = (Map::new(), Map::new());
    for event in events {
        match &event.body {
            EventBody::RunStarted(started) => state = started.state.clone(),
            EventBody::StateSet { key, value: Value::Null, .. } => drop(state.remove(key)),
            EventBody::StateSet { key, value, .. } => drop(state.insert(key.clone(), value.clone())),
            EventBody::EffectCompleted { effect_id, output: Some(output), .. } => {
                outputs.insert(effect_id.to_string(), (**output).clone());
            }
            _ => {}
        }
    }
    (outputs, state)
}
