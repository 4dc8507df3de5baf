//! A journal's canonical form and digest: the same run gives the same bytes in every language.
//!
//! 1. Durable events only, in the order of `seq`.
//! 2. Each longest stretch of neighbouring events of effects (and custom ones that they say) that serve calls of one step is sorted by call; events of one call keep their order. So parallel calls read the same whichever answered first, and what must come first still shows.
//!    In a workflow's journal, each longest stretch of neighbouring events that name an effect is sorted by its id: token by token, numbers by value and before words.
//! 3. Left out of each event: `seq`, `sub`, `at_ms`, `retry_at_ms`, `due_at_ms` (of a wait in `reasons`, too); from errors `host`, `retry_after_ms`, and `message` and `details` where the code is one a host words itself ([`HOST_WORDED`]).
//! 4. `run_id` (anywhere at the top of an event), `parent.run_id`, `forked_from.run_id` and `child` become `run:N`, `thread` becomes `thread:N`, by first appearance.
//! 5. Each event as RFC 8785 JSON and a newline; SHA-256 over one version byte and all of it. The digest is written as the version byte and the hash in hex.

mod difference;

use std::collections::HashMap;

use lomusai_wire::{Event, EventBody, SpecKind, codes};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub use difference::{Difference, EffectDifference, Sides, difference};

/// The version of the canonical form.
pub const VERSION: u8 = 1;

/// Codes of errors whose message is the host's own wording, which differs between languages.
pub const HOST_WORDED: [&str; 12] = [
    codes::TOOL_FAILED.name,
    codes::TOOL_RESULT_INVALID.name,
    codes::FUNCTION_FAILED.name,
    codes::FUNCTION_REPLY_INVALID.name,
    codes::PROVIDER_HOST_FAILED.name,
    codes::CALLBACK_PANICKED.name,
    codes::TOOL_UNANSWERED.name,
    codes::FUNCTION_UNANSWERED.name,
    codes::STEP_FAILED.name,
    codes::STEP_FATAL.name,
    codes::STEP_RESULT_INVALID.name,
    codes::STEP_UNANSWERED.name,
];

/// The digest of a journal.
pub fn digest(events: &[Event]) -> String {
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    for line in canonical(events) {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    let mut text = format!("{VERSION:02x}");
    hex(&hash.finalize(), &mut text);
    text
}

/// The canonical lines of a journal.
pub fn canonical(events: &[Event]) -> Vec<String> {
    let mut durable: Vec<&Event> = events.iter().filter(|event| event.is_durable()).collect();
    if is_workflow(&durable) {
        for block in durable.chunk_by_mut(|a, b| a.body.effect_id().is_some() && b.body.effect_id().is_some()) {
            block.sort_by(|a, b| match (a.body.effect_id(), b.body.effect_id()) {
                (Some(a), Some(b)) => a.canonical_cmp(b),
                _ => std::cmp::Ordering::Equal,
            });
        }
    } else {
        let step = |event: &Event| call_of(event).map(|(step, _)| step);
        for block in durable.chunk_by_mut(|a, b| step(a).is_some() && step(a) == step(b)) {
            block.sort_by_key(|event| call_of(event));
        }
    }
    let mut names = Names::default();
    durable.into_iter().map(|event| line(event, &mut names)).collect()
}

fn is_workflow(events: &[&Event]) -> bool {
    matches!(events.first().map(|event| &event.body), Some(EventBody::RunStarted(started)) if started.spec.kind == SpecKind::Workflow)
}

/// The step and the place in it of the call that an effect serves: the numbers an effect's id such as `2.0.after` begins with.
/// Only calls run side by side; everything else has one order.
fn call_of(event: &Event) -> Option<(u64, u64)> {
    let mut tokens = event.body.effect_id()?.as_str().split('.').map(str::parse);
    Some((tokens.next()?.ok()?, tokens.next()?.ok()?))
}

/// Ordinals in place of identities, by first appearance.
#[derive(Default)]
struct Names {
    runs: HashMap<String, String>,
    threads: HashMap<String, String>,
}

impl Names {
    fn replace(map: &mut HashMap<String, String>, prefix: &str, value: Option<&mut Value>) {
        if let Some(Value::String(text)) = value {
            let next = format!("{prefix}:{}", map.len());
            *text = map.entry(text.clone()).or_insert(next).clone();
        }
    }
}

fn line(event: &Event, names: &mut Names) -> String {
    let Ok(Value::Object(mut object)) = serde_json::to_value(event) else { unreachable!("an event is an object") };
    for key in ["seq", "sub", "at_ms", "retry_at_ms", "due_at_ms"] {
        object.remove(key);
    }
    Names::replace(&mut names.runs, "run", object.get_mut("run_id"));
    Names::replace(&mut names.runs, "run", object.get_mut("parent").and_then(|parent| parent.get_mut("run_id")));
    Names::replace(&mut names.runs, "run", object.get_mut("forked_from").and_then(|fork| fork.get_mut("run_id")));
    Names::replace(&mut names.runs, "run", object.get_mut("child"));
    if let Some(Value::Array(reasons)) = object.get_mut("reasons") {
        for reason in reasons {
            Names::replace(&mut names.runs, "run", reason.get_mut("child"));
            if let Some(reason) = reason.as_object_mut() {
                reason.remove("due_at_ms");
            }
        }
    }
    Names::replace(&mut names.threads, "thread", object.get_mut("thread"));
    if let Some(Value::Object(error)) = object.get_mut("error") {
        strip_error(error);
    }
    String::from_utf8(serde_json_canonicalizer::to_vec(&Value::Object(object)).expect("a tree of JSON is JSON"))
        .expect("JSON is UTF-8")
}

fn strip_error(error: &mut Map<String, Value>) {
    error.remove("host");
    error.remove("retry_after_ms");
    if error.get("code").and_then(Value::as_str).is_some_and(|code| HOST_WORDED.contains(&code)) {
        error.remove("message");
        error.remove("details");
    }
}

/// SHA-256 of some content, in hex: its name in [`Blobs`](crate::storage::Blobs).
pub fn content_hash(content: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    hex(&Sha256::digest(content), &mut text);
    text
}

/// SHA-256 of the canonical JSON of a value, in hex.
pub fn value_hash(value: &impl serde::Serialize) -> String {
    // Through a tree: raw schema texts have to be canonical as well.
    let tree = serde_json::to_value(value).expect("specs are JSON");
    content_hash(&serde_json_canonicalizer::to_vec(&tree).expect("a tree of JSON is JSON"))
}

fn hex(bytes: &[u8], into: &mut String) {
    use std::fmt::Write;
    for byte in bytes {
        let _ = write!(into, "{byte:02x}");
    }
}
