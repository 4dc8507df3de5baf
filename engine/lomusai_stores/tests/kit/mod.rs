//! Runs, events and batches to write, in a word each. Shared by the test programs here; none uses all of it.

#![allow(dead_code)]

use std::sync::Arc;

use lomusai_core::Error;
use lomusai_core::storage::{Batch, RunAppend, Store, ThreadChange};
use lomusai_core::testing::block_on;
use lomusai_wire::{Code, Event, EventBody, Message, RunId, RunInfo, RunStatus};
use serde_json::json;

/// A durable event that says `data`.
pub(crate) fn event(run: &str, seq: u64, data: &str) -> Arc<Event> {
    let body = EventBody::Custom { effect_id: None, name: "note".into(), data: json!(data), durable: true };
    Arc::new(Event::new(run.into(), seq, 0, 1_000 + seq, body))
}

/// What an event made by [`event`] says.
pub(crate) fn said(event: &Event) -> &str {
    let EventBody::Custom { data, .. } = &event.body else { panic!("not one of these: {event:?}") };
    data.as_str().unwrap()
}

/// Appends one event for each text behind `expected_seq`, under epoch 1, by the owner `here`.
pub(crate) fn append(run: &str, expected_seq: u64, says: &[&str]) -> RunAppend {
    let events: Arc<[_]> = (expected_seq + 1..).zip(says).map(|(seq, data)| event(run, seq, data)).collect();
    let mut info = RunInfo::new(run.into(), "clerk", 1_000);
    info.seq = expected_seq + events.len() as u64;
    info.updated_at_ms = 1_000 + info.seq;
    let info = Some(Box::new(info));
    RunAppend { run_id: run.into(), expected_seq, epoch: 1, owner: "here".into(), events, info }
}

/// The same for a run whose line changes by nothing else.
pub(crate) fn more(run: &str, expected_seq: u64, says: &[&str]) -> RunAppend {
    RunAppend { info: None, ..append(run, expected_seq, says) }
}

/// The line that an append writes.
pub(crate) fn line(append: &mut RunAppend) -> &mut RunInfo {
    append.info.as_mut().expect("an append with a line")
}

/// The same, with a status.
pub(crate) fn append_as(status: RunStatus, run: &str, expected_seq: u64, says: &[&str]) -> RunAppend {
    let mut append = append(run, expected_seq, says);
    line(&mut append).status = status;
    append
}

/// A batch of an append.
pub(crate) fn of(append: RunAppend) -> Batch {
    let mut batch = Batch::default();
    batch.run = Some(append);
    batch
}

/// A batch of a change to a thread.
pub(crate) fn change(thread: &str, now_ms: u64, edit: impl FnOnce(&mut ThreadChange)) -> Batch {
    let mut change = ThreadChange::new(thread.into(), now_ms);
    edit(&mut change);
    let mut batch = Batch::default();
    batch.thread = Some(Box::new(change));
    batch
}

/// A batch of values.
pub(crate) fn values(values: &[(&str, &str, Option<serde_json::Value>)]) -> Batch {
    let mut batch = Batch::default();
    batch.values = values.iter().map(|(space, key, value)| ((*space).into(), (*key).into(), value.clone())).collect();
    batch
}

/// Users' messages.
pub(crate) fn messages(texts: &[&str]) -> Vec<Arc<Message>> {
    texts.iter().map(|text| Arc::new(Message::user(*text))).collect()
}

pub(crate) fn commit(store: &dyn Store, batch: Batch) {
    block_on(store.commit(batch)).unwrap();
}

/// Commits what must be refused.
#[track_caller]
pub(crate) fn refuse(store: &dyn Store, code: Code, batch: Batch) -> Error {
    let error = block_on(store.commit(batch)).unwrap_err();
    assert!(error.is(code), "expected {}, was {error:?}", code.name);
    error
}

/// What the events of a run say, and that they are numbered without a gap from `after + 1`.
#[track_caller]
pub(crate) fn told(store: &dyn Store, run: &str, after: u64, limit: usize) -> Vec<String> {
    let events = block_on(store.events(&run.into(), after, limit)).unwrap();
    for (n, event) in (1..).zip(&events) {
        assert_eq!((event.run_id.as_str(), event.seq), (run, after + n));
    }
    events.iter().map(|event| said(event).to_owned()).collect()
}

pub(crate) fn info(store: &dyn Store, run: &str) -> Option<RunInfo> {
    block_on(store.run(&RunId::from(run))).unwrap()
}
