//! Time travel: the events that another run begins with, when it is to be as one was at some event, with one thing changed.

use std::sync::Arc;

use lomusai_wire::{
    EffectId, EffectKind, Event, EventBody, Fork, History, Message, Part, Pending, Role, RunId, SpecKind, codes,
    normalise,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Which run to fork, where, and what is different in the fork.
///
/// The place is `seq`, or the effect whose answer (`output`) or input is changed, or the beginning where the run's own `input` is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForkRequest {
    /// The run.
    pub run_id: RunId,
    /// The last of its events that the fork begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// In place of `seq`: with `output`, where this effect last ended; else where it first began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_id: Option<EffectId>,
    /// What the effect that ended there answered, in the fork. Of a model: a text, or a whole message.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// What the step that began there is given, in the fork. Without a place: the run's input.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The fork's id; made by the engine when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_run_id: Option<RunId>,
    /// What the fork is found by, in place of what the run is.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Further context, for this process: it is not journaled.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// Whether the fork goes on when its reader goes away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl ForkRequest {
    /// A fork of this run; where is still to be said.
    pub fn new(run_id: impl Into<RunId>) -> Self {
        Self {
            run_id: run_id.into(),
            seq: None,
            effect_id: None,
            output: None,
            input: None,
            new_run_id: None,
            metadata: Map::new(),
            context: Map::new(),
            detached: false,
        }
    }

    /// The same, as it was after this event.
    pub fn at(mut self, seq: u64) -> Self {
        self.seq = Some(seq);
        self
    }

    /// The same, where this effect answered something else.
    pub fn with_output(mut self, effect_id: impl Into<EffectId>, output: impl Into<Value>) -> Self {
        (self.effect_id, self.output) = (Some(effect_id.into()), Some(output.into()));
        self
    }

    /// The same, where this effect's step was given something else.
    pub fn with_input(mut self, effect_id: impl Into<EffectId>, input: impl Into<Value>) -> Self {
        (self.effect_id, self.input) = (Some(effect_id.into()), Some(input.into()));
        self
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Error {
        Error::new(codes::FORK_INVALID, format!("run `{}` cannot be forked so: {why}", self.run_id))
            .with("run_id", self.run_id.as_str())
    }

    /// Whether the run's own input is what changes.
    pub fn changes_the_start(&self) -> bool {
        self.input.is_some() && self.effect_id.is_none() && self.seq.is_none_or(|seq| seq == 1)
    }

    /// The event that the fork begins with last, of the run's journal.
    ///
    /// # Errors
    /// `fork_invalid`: there is no such event, the run has ended there, or it is not said where.
    pub fn place(&self, events: &[Event]) -> Result<u64> {
        if self.input.is_some() && self.output.is_some() {
            return Err(self.invalid("change the `output` of an effect or an `input`, not both at once"));
        }
        let seq = match (&self.seq, &self.effect_id) {
            (Some(_), Some(_)) => return Err(self.invalid("name the place by `seq` or by `effect_id`, not by both")),
            (Some(seq), None) => *seq,
            (None, Some(id)) => self.place_of(id, events)?,
            (None, None) if self.input.is_some() => 1,
            (None, None) => return Err(self.invalid("say where: `seq`, or an `effect_id`")),
        };
        let Some(event) = seq.checked_sub(1).and_then(|at| events.get(at as usize)) else {
            return Err(self.invalid(format_args!("its events are 1 to {}, not {seq}", events.len())));
        };
        if matches!(event.body, EventBody::RunFinished { .. }) {
            return Err(self.invalid(format_args!("event {seq} is its end: choose an earlier one")));
        }
        Ok(seq)
    }

    fn place_of(&self, id: &EffectId, events: &[Event]) -> Result<u64> {
        let of_effect = |event: &&Event| event.body.effect_id() == Some(id);
        let ends = |event: &&Event| {
            matches!(event.body, EventBody::EffectCompleted { .. } | EventBody::EffectFailed { retry_at_ms: None, .. })
        };
        // What takes no time, such as a mapping, has no beginning of its own: there is no input to change.
        let begins =
            |event: &&Event| matches!(event.body, EventBody::EffectStarted { .. } | EventBody::EffectSuspended { .. });
        let found = if self.output.is_some() {
            let end = events.iter().filter(of_effect).rfind(ends);
            // What a model answered is the message that follows.
            let message = |event: &&&Event| matches!(event.body, EventBody::MessageCompleted { .. });
            end.map(|end| match events.get(end.seq as usize).as_ref().filter(message) {
                Some(message) if id.as_str().ends_with(".model") => message.seq,
                _ => end.seq,
            })
        } else {
            events.iter().filter(of_effect).find(begins).map(|event| event.seq)
        };
        let what = if self.output.is_some() { "ended" } else { "begun" };
        found.ok_or_else(|| {
            let meant = |event: &&Event| if self.output.is_some() { ends(event) } else { begins(event) };
            let known = events.iter().filter(meant).filter_map(|event| event.body.effect_id()).map(EffectId::as_str);
            let known: std::collections::BTreeSet<&str> = known.collect();
            let known: Vec<&str> = known.into_iter().take(20).collect();
            let known =
                if known.is_empty() { "there are none".into() } else { format!("there are {}", known.join(", ")) };
            self.invalid(format_args!("no effect `{id}` has {what} in it: {known}")).with("effect_id", id.as_str())
        })
    }

    /// The events of a run up to `seq`, as those of a run `id`, with the last one changed as was asked for.
    ///
    /// # Errors
    /// `fork_invalid`: what was to be changed is not what this event says.
    pub fn prefix(
        &self,
        events: &[Event],
        seq: u64,
        id: &RunId,
        history: Option<Vec<Arc<Message>>>,
    ) -> Result<Vec<Event>> {
        let mut prefix = copied(&events[..seq as usize], id);
        if let Some(EventBody::RunStarted(started)) = prefix.first_mut().map(|event| &mut event.body) {
            started.forked_from = Some(Fork::new(self.run_id.clone(), seq));
            // A fork says nothing to a conversation, and answers to nobody.
            (started.thread, started.parent) = (None, None);
            if let Some(history) = history {
                started.history = (!history.is_empty()).then_some(History::Messages(history));
            }
            if !self.metadata.is_empty() {
                started.metadata = self.metadata.clone();
            }
        }
        let kind = prefix.last().and_then(|event| kind_of(&prefix, event.body.effect_id()?));
        let is_workflow = matches!(prefix.first().map(|event| &event.body),
            Some(EventBody::RunStarted(started)) if started.spec.kind == SpecKind::Workflow);
        if let (Some(last), Some(mut output)) = (prefix.last_mut(), self.output.clone()) {
            normalise(&mut output);
            self.change_output(&mut last.body, output, kind).map_err(|why| self.invalid(why))?;
        }
        if let (Some(last), Some(mut given)) = (prefix.last_mut(), self.input.clone().filter(|_| seq > 1)) {
            normalise(&mut given);
            match &mut last.body {
                EventBody::EffectStarted { kind: EffectKind::Call, effect_id, .. } => {
                    return Err(
                        self.invalid(format_args!("`{effect_id}` asks what the run knows: change its `output`"))
                    );
                }
                EventBody::EffectStarted { input, .. } if is_workflow => *input = Some(Arc::new(given)),
                EventBody::EffectStarted { effect_id, .. } => {
                    let why = format!(
                        "what `{effect_id}` asks follows from the conversation: change the `output` of a model"
                    );
                    return Err(self.invalid(why));
                }
                _ => {
                    return Err(
                        self.invalid(format_args!("event {seq} does not begin a step, which an `input` is for"))
                    );
                }
            }
        }
        Ok(prefix)
    }

    fn change_output(&self, body: &mut EventBody, value: Value, kind: Option<EffectKind>) -> Result<(), String> {
        match body {
            EventBody::EffectCompleted { effect_id, .. }
                if matches!(kind, Some(EffectKind::Group | EffectKind::Timer)) =>
            {
                Err(format!("`{effect_id}` answers nothing of its own: change a step in it or behind it"))
            }
            EventBody::EffectCompleted { effect_id, .. } if kind == Some(EffectKind::Model) => {
                Err(format!("what `{effect_id}` answered is the message that follows: name the effect, or that event"))
            }
            EventBody::EffectCompleted { output, content, .. } => {
                *output = Some(Arc::new(value));
                content.clear();
                Ok(())
            }
            EventBody::EffectFailed { effect_id, retry_at_ms: None, usage, cost_nano_usd, .. } => {
                *body = EventBody::EffectCompleted {
                    effect_id: effect_id.clone(),
                    output: Some(Arc::new(value)),
                    content: Vec::new(),
                    finish: None,
                    usage: *usage,
                    cost_nano_usd: *cost_nano_usd,
                };
                Ok(())
            }
            EventBody::MessageCompleted { message } if message.role == Role::Assistant => {
                let mut other = match value {
                    Value::String(text) => Message::new(Role::Assistant, vec![Part::text(text)]),
                    value => serde_json::from_value::<Message>(value)
                        .map_err(|e| format!("the message cannot be read: {e}"))?,
                };
                if other.role != Role::Assistant {
                    return Err("a model's message is an assistant's".into());
                }
                other.id.clone_from(&message.id);
                *message = Arc::new(other);
                Ok(())
            }
            _ => Err("the event there is nobody's answer: an `output` is for one that ends an effect".into()),
        }
    }
}

/// Events of one run as those of another: its id, and those of its children, which begin with it.
pub fn copied(events: &[Event], id: &RunId) -> Vec<Event> {
    let mut copies = events.to_vec();
    for event in &mut copies {
        let old = std::mem::replace(&mut event.run_id, id.clone());
        let rename = |pending: &mut Pending| {
            if let Some(rest) = pending.child.as_ref().and_then(|child| child.as_str().strip_prefix(old.as_str())) {
                pending.child = Some(format!("{id}{rest}").into());
            }
        };
        match &mut event.body {
            EventBody::EffectSuspended { pending } => rename(pending),
            EventBody::RunSuspended { reasons } => reasons.iter_mut().for_each(rename),
            _ => {}
        }
    }
    copies
}

/// How much of a child's journal was there when its parent was at an event of this time: up to where it last began to wait.
pub fn waiting_prefix(events: &[Event], at_ms: u64) -> Option<u64> {
    let waits = |event: &&Event| matches!(event.body, EventBody::RunSuspended { .. });
    let before = events.iter().filter(|event| event.at_ms <= at_ms).rfind(waits);
    before.or_else(|| events.iter().find(waits)).map(|event| event.seq)
}

fn kind_of(events: &[Event], id: &EffectId) -> Option<EffectKind> {
    events.iter().rev().find_map(|event| match &event.body {
        EventBody::EffectStarted { effect_id, kind, .. } if effect_id == id => Some(*kind),
        _ => None,
    })
}
