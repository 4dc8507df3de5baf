//! How two specs of a workflow differ, in words.

use std::collections::BTreeMap;

use lomusai_wire::{Action, StepSpec, WorkflowSpec};
use serde_json::Value;

/// What changed from one spec to another: steps that came, went or differ, and fields of the workflow itself.
pub fn difference(then: &WorkflowSpec, now: &WorkflowSpec) -> String {
    let (old, new) = (by_path(&then.steps), by_path(&now.steps));
    let mut said = Vec::new();
    let mut say = |what: &str, ids: Vec<&str>| {
        if !ids.is_empty() {
            said.push(format!("{what} {}", ids.join(", ")));
        }
    };
    say("new steps", new.keys().filter(|id| !old.contains_key(*id)).map(String::as_str).collect());
    say("steps that are gone", old.keys().filter(|id| !new.contains_key(*id)).map(String::as_str).collect());
    let differ = old.iter().filter_map(|(id, step)| {
        let fields = fields_that_differ(step, new.get(id)?);
        (!fields.is_empty()).then(|| format!("{id} ({})", fields.join(", ")))
    });
    let differ: Vec<String> = differ.collect();
    say("steps that differ", differ.iter().map(String::as_str).collect());
    let (mut then, mut now) =
        (serde_json::to_value(then).unwrap_or_default(), serde_json::to_value(now).unwrap_or_default());
    for spec in [&mut then, &mut now] {
        spec.as_object_mut().map(|fields| fields.remove("steps"));
    }
    let fields = fields_that_differ(&then, &now);
    say("fields that differ", fields.iter().map(String::as_str).collect());
    if said.is_empty() { "only the order of steps differs".into() } else { said.join("; ") }
}

/// Steps by the ids of those around them and their own.
fn by_path(steps: &[StepSpec]) -> BTreeMap<String, Value> {
    fn add(steps: &[StepSpec], prefix: &str, into: &mut BTreeMap<String, Value>) {
        for step in steps {
            let path = format!("{prefix}{}", step.id);
            let mut value = serde_json::to_value(step).unwrap_or_default();
            let inner: &[StepSpec] = match &step.run {
                Action::Foreach(foreach) => &foreach.steps,
                Action::Loop(repeat) => &repeat.steps,
                _ => &[],
            };
            if !inner.is_empty() {
                let run = value["run"].as_object_mut().and_then(|run| run.values_mut().next());
                run.and_then(Value::as_object_mut).map(|fields| fields.remove("steps"));
            }
            add(inner, &format!("{path}."), into);
            into.insert(path, value);
        }
    }
    let mut paths = BTreeMap::new();
    add(steps, "", &mut paths);
    paths
}

fn fields_that_differ(then: &Value, now: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let (then, now) = (then.as_object().unwrap_or(&empty), now.as_object().unwrap_or(&empty));
    let mut fields: Vec<&String> = then.keys().chain(now.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    fields.into_iter().filter(|field| then.get(*field) != now.get(*field)).cloned().collect()
}
