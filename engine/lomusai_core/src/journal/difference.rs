//! How two runs differ: where their journals part, and what each effect came to here and there.

use std::collections::BTreeMap;

use lomusai_wire::{EffectId, Event, EventBody, RunId};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::canonical;

/// How two runs differ. What is the same in both is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The one run.
    pub left: RunId,
    /// The other.
    pub right: RunId,
    /// So many events at the beginning say the same in both: ids of runs and times apart, and where a fork came from.
    pub same: u64,
    /// What they were started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Sides>,
    /// Effects that came to something else, or are in one of them only. In the order of their ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<EffectDifference>,
    /// Messages, by id, that say something else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub messages: BTreeMap<String, Sides>,
    /// Values of the state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, Sides>,
    /// How they ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Sides>,
}

/// A thing on both sides. What is not there is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sides {
    /// In the one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Value>,
    /// In the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<Value>,
}

/// An effect that differs: `{status, component?, input?, output?, error?}` on each side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectDifference {
    /// Which.
    pub effect_id: EffectId,
    /// What it came to.
    #[serde(flatten)]
    pub sides: Sides,
}

/// How two journals differ.
pub fn difference(left: &[Event], right: &[Event]) -> Difference {
    let (a, b) = (Seen::of(left), Seen::of(right));
    let lines = |events: &[Event]| canonical(&comparable(events));
    let same = lines(left).iter().zip(&lines(right)).take_while(|(a, b)| a == b).count() as u64;
    let id = |events: &[Event]| events.first().map_or_else(|| "".into(), |event| event.run_id.clone());
    let mut effects: Vec<EffectDifference> = sides(&a.effects, &b.effects)
        .into_iter()
        .map(|(effect_id, sides)| EffectDifference { effect_id: effect_id.into(), sides })
        .collect();
    effects.sort_by(|a, b| a.effect_id.canonical_cmp(&b.effect_id));
    Difference {
        left: id(left),
        right: id(right),
        same,
        input: differ(a.input, b.input),
        effects,
        messages: sides(&a.messages, &b.messages),
        state: sides(&a.state, &b.state),
        outcome: differ(a.outcome, b.outcome),
    }
}

/// What a journal comes to, by what it is about.
#[derive(Default)]
struct Seen {
    input: Option<Value>,
    effects: BTreeMap<String, Value>,
    messages: BTreeMap<String, Value>,
    state: BTreeMap<String, Value>,
    outcome: Option<Value>,
}

impl Seen {
    fn of(events: &[Event]) -> Self {
        let mut seen = Self::default();
        for event in events {
            seen.see(&event.body);
        }
        seen
    }

    fn see(&mut self, body: &EventBody) {
        match body {
            EventBody::RunStarted(started) => {
                let input = &started.input;
                self.input = started.data.clone().or_else(|| (!input.is_empty()).then(|| json!(input)));
                self.state = started.state.clone().into_iter().collect();
            }
            EventBody::RunFinished { outcome, output, error, .. } => {
                let said = [("outcome", json!(outcome)), ("output", json!(output)), ("error", json!(error))];
                self.outcome = Some(object(said));
            }
            EventBody::EffectStarted { effect_id, component, input, .. } => {
                let said = [("status", json!("started")), ("component", json!(component)), ("input", json!(input))];
                let effect = self.effects.entry(effect_id.to_string()).or_insert_with(|| json!({}));
                *effect = object(said);
            }
            EventBody::EffectCompleted { effect_id, output, .. } => {
                self.end(effect_id, [("status", json!("completed")), ("output", json!(output))]);
            }
            EventBody::EffectFailed { effect_id, error, .. } => {
                self.end(effect_id, [("status", json!("failed")), ("error", json!(error))]);
            }
            EventBody::EffectSkipped { effect_id, why, .. } => {
                self.end(effect_id, [("status", json!("skipped")), ("why", json!(why))]);
            }
            EventBody::EffectSuspended { pending } => {
                let payload = json!(pending.payload);
                self.end(&pending.effect_id, [("status", json!("suspended")), ("payload", payload)]);
            }
            EventBody::MessageCompleted { message } => {
                let id = message.id.as_ref().map(ToString::to_string).unwrap_or_default();
                self.messages.insert(id, json!(message));
            }
            EventBody::StateSet { key, value: Value::Null, .. } => drop(self.state.remove(key)),
            EventBody::StateSet { key, value, .. } => drop(self.state.insert(key.clone(), value.clone())),
            _ => {}
        }
    }

    fn end<const N: usize>(&mut self, id: &EffectId, said: [(&str, Value); N]) {
        let effect = self.effects.entry(id.to_string()).or_insert_with(|| json!({}));
        let fields = effect.as_object_mut().expect("made as one");
        for gone in ["output", "error", "why", "payload"] {
            fields.remove(gone);
        }
        let Value::Object(said) = object(said) else { unreachable!("made as one") };
        fields.extend(said);
    }
}

/// An object of what is not null and not empty.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null() && *value != json!(""));
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn differ(left: Option<Value>, right: Option<Value>) -> Option<Sides> {
    (left != right).then_some(Sides { left, right })
}

fn sides(left: &BTreeMap<String, Value>, right: &BTreeMap<String, Value>) -> BTreeMap<String, Sides> {
    let keys = left.keys().chain(right.keys());
    keys.filter_map(|key| Some((key.clone(), differ(left.get(key).cloned(), right.get(key).cloned())?))).collect()
}

/// Events without what a fork says of itself: it is no difference that one run is the fork of the other.
fn comparable(events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    if let Some(EventBody::RunStarted(started)) = events.first_mut().map(|event| &mut event.body) {
        (started.forked_from, started.parent) = (None, None);
        started.metadata.clear();
    }
    events
}
