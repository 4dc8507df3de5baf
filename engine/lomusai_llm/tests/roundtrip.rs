//! What a provider said goes back to it: an answer is decoded and written again as part of the next request.
//!
//! Nothing may be missing but the fields in `data/server_only.toml`, each with its source. And where a recorded conversation goes on,
//! what its next request took from the answer is in ours.
#![cfg(feature = "remote")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lomusai_llm::replay;
use lomusai_wire::{Message, ModelRequest, Part, Role, ToolCall, ToolResult, ToolStatus};
use recorded::{Case, Exchange, built, cases, chunks};
use serde::Deserialize;
use serde_json::{Value, json};

/// A field that only the server writes.
#[derive(Deserialize)]
struct ServerOnly {
    api: String,
    /// A path such as `content[].citations`; all below it, too. `*` at its end: any field that begins so.
    field: String,
    /// The page of the API reference that says so, or why.
    source: String,
}

#[derive(Deserialize)]
struct Table {
    server_only: Vec<ServerOnly>,
}

fn table() -> Vec<ServerOnly> {
    let table: Table = toml::from_str(include_str!("data/server_only.toml")).expect("the list of server-only fields");
    assert!(table.server_only.iter().all(|field| field.source.len() > 10), "each field has its source");
    table.server_only
}

/// Values of a document by path, without those that say nothing.
fn leaves(value: &Value, path: String, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, format!("{path}[]"), found)),
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        // Arguments are a document within a text.
        Value::String(text) if text.starts_with('{') => match serde_json::from_str::<Value>(text) {
            Ok(inner @ Value::Object(_)) => leaves(&inner, path, found),
            _ => found.push((path, value.clone())),
        },
        _ => found.push((path, value.clone())),
    }
}

/// All texts and numbers of a request, joined by what cannot be in them, to look values up.
struct Written {
    texts: String,
    numbers: BTreeSet<String>,
}

impl Written {
    fn new(request: &Value) -> Self {
        let mut found = Vec::new();
        leaves(request, String::new(), &mut found);
        let mut written = Self { texts: String::new(), numbers: BTreeSet::new() };
        for (_, value) in found {
            match value {
                Value::String(text) => written.texts.extend([text.as_str(), "\0"]),
                other => {
                    written.numbers.insert(number(&other));
                }
            }
        }
        written
    }

    fn has(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.texts.contains(text.as_str()),
            other => self.numbers.contains(&number(other)),
        }
    }
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string())
}

/// The part of an answer that is the model's, as one document.
fn said(api: &str, body: &Value) -> Value {
    match api {
        "openai-chat" => body["choices"][0]["message"].clone(),
        "openai-responses" => json!({"output": body["output"]}),
        "anthropic-messages" => json!({"content": body["content"]}),
        "gemini-generate" => body["candidates"][0]["content"].clone(),
        "bedrock-converse" => body["output"]["message"].clone(),
        _ => body["message"].clone(),
    }
}

/// The message of an answer.
fn message(case: &Case, exchange: &Exchange, number: u64) -> Option<Message> {
    let (chunks, error) = chunks(case.kind, [exchange.body.as_slice()]);
    if error.is_some() {
        return None;
    }
    Some(built(chunks, number).expect("within its bound").message)
}

/// A request that goes on after these answers: each call is answered.
fn request_after(case: &Case, answers: &[Message], previous: &Value) -> Value {
    let mut request = ModelRequest::default();
    // As of a model that takes everything back.
    request.model = if case.kind == "google" { "gemini-2.5-flash".into() } else { "m".into() };
    if previous.is_string() {
        request.settings.provider.insert(case.kind.into(), json!({"previous_response_id": previous}));
    }
    request.messages.push(Arc::new(Message::user("hi")));
    for answer in answers {
        request.messages.push(Arc::new(answer.clone()));
        let results: Vec<Part> = answer
            .tool_calls()
            .map(|call: &ToolCall| Part::ToolResult(ToolResult::new(call, ToolStatus::Ok, json!("done"))))
            .collect();
        request.messages.push(Arc::new(if results.is_empty() {
            Message::user("go on")
        } else {
            Message::new(Role::Tool, results)
        }));
    }
    let body = replay::body(case.kind, &request, true).expect("a request");
    serde_json::from_slice(&body).expect("a request is JSON")
}

fn is_listed(table: &[ServerOnly], api: &str, path: &str) -> bool {
    table.iter().filter(|known| known.api == api).any(|known| match known.field.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == known.field || path.strip_prefix(&known.field).is_some_and(|rest| rest.starts_with(['.', '['])),
    })
}

#[test]
fn an_answer_goes_back_whole() {
    let table = table();
    let mut lost: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut count = 0;
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer() && !exchange.streamed) {
            let Some(message) = message(&case, exchange, 1) else { continue };
            let body: Value = serde_json::from_slice(&exchange.body).expect("a body of JSON");
            let written = Written::new(&request_after(&case, &[message], &Value::Null));
            let mut values = Vec::new();
            leaves(&said(&case.api, &body), String::new(), &mut values);
            count += 1;
            for (path, value) in values {
                // A provider without ids gets ours, and the role is written by us.
                if path != "role" && !is_listed(&table, &case.api, &path) && !written.has(&value) {
                    let example =
                        || format!("{}: {}", case.file, value.to_string().chars().take(120).collect::<String>());
                    lost.entry(format!("{} {path}", case.api)).or_insert_with(|| (0, example())).0 += 1;
                }
            }
        }
    }
    println!("round trip: {count} whole answers go back");
    assert!(lost.is_empty(), "lost on the way back: {lost:#?}");
}

#[test]
fn what_the_next_request_took_from_an_answer_is_in_ours() {
    let table = table();
    let (mut pairs, mut values_seen, mut apart) = (0, 0, Vec::new());
    let mut lost = Vec::new();
    for case in cases() {
        let mut answers: Vec<Message> = Vec::new();
        for number in 0..case.exchanges.len().saturating_sub(1) {
            let (now, next) = (&case.exchanges[number], &case.exchanges[number + 1]);
            let answer = if now.is_answer() { message(&case, now, number as u64 + 1) } else { None };
            let Some(answer) = answer.filter(|_| !next.request.is_null()) else {
                apart.push(format!("{} #{number}", case.file));
                continue;
            };
            answers.push(answer);
            let ours = Written::new(&request_after(&case, &answers, &next.request["previous_response_id"]));
            let before = Written::new(&now.request);
            // What the answer said, by its raw bytes: of a stream, by what was made of it.
            let source = match serde_json::from_slice::<Value>(&now.body) {
                Ok(body) => said(&case.api, &body),
                Err(_) => json!(answers.last().map(|answer| &answer.parts)),
            };
            let theirs = Written::new(&source);
            let mut taken = Vec::new();
            leaves(&next.request, String::new(), &mut taken);
            // The conversation, and not what stands beside it.
            let spoken = ["messages", "input", "contents", "previous_response_id"];
            taken.retain(|(path, _)| spoken.iter().any(|place| path.starts_with(place)));
            let short = |value: &Value| value.as_str().is_none_or(|text| text.chars().count() < 8);
            taken.retain(|(path, value)| {
                !short(value) && theirs.has(value) && !before.has(value) && !is_listed(&table, &case.api, path)
            });
            if taken.is_empty() {
                apart.push(format!("{} #{number}", case.file));
                continue;
            }
            pairs += 1;
            for (path, value) in taken {
                values_seen += 1;
                if !ours.has(&value) {
                    lost.push(format!(
                        "{} #{number}: {path}: {}",
                        case.file,
                        value.to_string().chars().take(160).collect::<String>()
                    ));
                }
            }
        }
    }
    println!("conversations: {pairs} pairs go on, {values_seen} values from answers, {} pairs do not:", apart.len());
    for pair in &apart {
        println!("    {pair}");
    }
    assert!(lost.is_empty(), "lost from the next request: {}\n{}", lost.len(), lost.join("\n"));
}
