//! Recorded answers as another version of their server might write them: the same meaning.
//!
//! Fields that say nothing come and go, unknown ones appear, keys are in another order, lines end otherwise, keep-alives and events of
//! a later version stand in between. None of it may change what is understood.
#![cfg(feature = "remote")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};

use lomusai_core::llm::Answer;
use lomusai_wire::Part;
use recorded::{Case, Exchange, answer, cases};
use serde_json::{Value, json};

/// Documents of hosts and models: what is in them is their own.
const OWN: [&str; 11] = [
    "input",
    "args",
    "arguments",
    "parameters",
    "input_schema",
    "schema",
    "tools",
    "metadata",
    "json",
    "partialArgs",
    "response_format",
];

/// What is understood of an answer, but for facts and for blocks of the provider's own, which are kept as they come.
fn meaning(answer: &Answer) -> Value {
    let parts = &answer.message.parts;
    let thought: String = parts
        .iter()
        .filter_map(|part| if let Part::Reasoning(reasoning) = part { Some(reasoning.text.as_str()) } else { None })
        .collect();
    let calls: Vec<Value> = answer
        .message
        .tool_calls()
        .map(|call| {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!(call.arguments));
            json!({"name": call.name, "id": call.provider_id, "arguments": arguments})
        })
        .collect();
    let signatures: Vec<Value> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Reasoning(reasoning) => Some(json!([reasoning.signature, reasoning.encrypted])),
            Part::ToolCall(call) => Some(json!(call.signature)),
            _ => None,
        })
        .filter(|signature| *signature != json!([null, null]) && !signature.is_null())
        .collect();
    json!({"text": answer.message.text(), "thought": thought, "calls": calls, "signatures": signatures,
        "finish": answer.finish, "usage": answer.usage})
}

/// The body with each JSON document in it changed. `None` where it is of another framing.
fn changed(exchange: &Exchange, change: &mut dyn FnMut(&mut Value)) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(&exchange.body).ok()?;
    let mut document = |text: &str| -> Option<String> {
        let mut value: Value = serde_json::from_str(text).ok()?;
        change(&mut value);
        Some(value.to_string())
    };
    if !exchange.streamed {
        return document(text).map(String::into_bytes);
    }
    let mut out = String::new();
    for line in text.lines() {
        let (begin, rest) = match line.strip_prefix("data:") {
            Some(rest) => ("data: ", rest.trim()),
            None => ("", line),
        };
        match (begin, rest.starts_with('{')) {
            (_, true) => out.extend([begin, &document(rest)?]),
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    Some(out.into_bytes())
}

/// Shows each object with its place, from the inside out.
fn visit(value: &mut Value, place: &str, see: &mut dyn FnMut(&str, &mut serde_json::Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, &format!("{place}[]"), see)),
        Value::Object(fields) => {
            // What its type has no field for is not put into it.
            let here = format!("{place}<{}>", fields.get("type").and_then(Value::as_str).unwrap_or_default());
            for (name, value) in fields.iter_mut().filter(|(name, _)| !OWN.contains(&name.as_str())) {
                visit(value, &format!("{here}.{name}"), see);
            }
            see(&here, fields);
        }
        _ => {}
    }
}

fn answers(cases: &[Case]) -> impl Iterator<Item = (&Case, &Exchange, Answer)> {
    cases.iter().flat_map(|case| {
        let exchanges = case.exchanges.iter().filter(|exchange| exchange.is_answer());
        exchanges
            .filter_map(move |exchange| Some((case, exchange, answer(case.kind, [exchange.body.as_slice()]).ok()?)))
    })
}

fn assert_same(case: &Case, whole: &Answer, body: &[u8], what: &str) -> Option<String> {
    match answer(case.kind, [body]) {
        Ok(found) if meaning(&found) == meaning(whole) => None,
        Ok(found) => {
            let (found, expected) = (meaning(&found), meaning(whole));
            let fields = ["text", "thought", "calls", "signatures", "finish", "usage"];
            let differs: Vec<_> = fields.iter().filter(|field| found[**field] != expected[**field]).collect();
            let short = |value: &Value| value.to_string().chars().take(200).collect::<String>();
            let first = differs.first().map_or("", |field| field);
            Some(format!(
                "{}: {what}: {differs:?}: {}, was {}",
                case.file,
                short(&found[first]),
                short(&expected[first])
            ))
        }
        Err(error) => Some(format!("{}: {what}: {error}", case.file)),
    }
}

fn assert_none(what: &str, count: usize, wrong: Vec<String>) {
    println!("variants: {what}: {count} answers");
    assert!(wrong.is_empty(), "{what}: {} of {count}\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

#[test]
fn an_absent_field_may_be_null_and_a_null_absent() {
    let cases = cases();
    let mut known: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (case, exchange, _) in answers(&cases) {
        changed(exchange, &mut |document| {
            visit(document, "", &mut |place, fields| {
                let seen = known.entry((case.api.clone(), place.to_owned())).or_default();
                seen.extend(fields.keys().cloned());
            });
        });
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for (case, exchange, whole) in answers(&cases) {
        let with = changed(exchange, &mut |document| {
            visit(document, "", &mut |place, fields| {
                for field in known.get(&(case.api.clone(), place.to_owned())).into_iter().flatten() {
                    fields.entry(field.clone()).or_insert(Value::Null);
                }
            });
        });
        let without = changed(exchange, &mut |document| {
            visit(document, "", &mut |_, fields| fields.retain(|_, value| !value.is_null()));
        });
        for (what, body) in [("null for absent", with), ("absent for null", without)] {
            let Some(body) = body else { continue };
            count += 1;
            wrong.extend(assert_same(case, &whole, &body, what));
        }
    }
    assert_none("null and absent", count, wrong);
}

#[test]
fn unknown_fields_and_the_order_of_keys_do_not_matter() {
    let cases = cases();
    let (mut count, mut wrong) = (0, Vec::new());
    for (case, exchange, whole) in answers(&cases) {
        let unknown = changed(exchange, &mut |document| {
            visit(document, "", &mut |_, fields| drop(fields.insert("x_later".into(), json!({"a": [1, null, "b"]}))));
        });
        // Written by way of a sorted map: the keys stand in another order.
        let sorted = changed(exchange, &mut |_| {});
        for (what, body) in [("unknown fields", unknown), ("sorted keys", sorted)] {
            let Some(body) = body else { continue };
            count += 1;
            wrong.extend(assert_same(case, &whole, &body, what));
        }
    }
    assert_none("unknown fields", count, wrong);
}

#[test]
fn other_line_ends_keep_alives_and_later_events_do_not_matter() {
    let cases = cases();
    let (mut count, mut wrong) = (0, Vec::new());
    for (case, exchange, whole) in answers(&cases).filter(|(_, exchange, _)| exchange.streamed) {
        let Ok(text) = std::str::from_utf8(&exchange.body) else { continue };
        if !text.contains("data:") {
            continue;
        }
        let later = r#"{"type":"later.event","sequence_number":7,"x":{"y":[]}}"#;
        let typed = matches!(case.api.as_str(), "anthropic-messages" | "openai-responses" | "cohere-v2");
        let between = format!(
            "\n\n: keep-alive\n\n{}",
            if typed { format!("event: later.event\ndata: {later}\n\n") } else { String::new() }
        );
        for (what, body) in [
            ("line ends of CR LF", text.replace("\r\n", "\n").replace('\n', "\r\n")),
            ("line ends of CR", text.replace("\r\n", "\n").replace('\n', "\r")),
            ("no space after the colon", text.replace("data: ", "data:")),
            ("keep-alives and later events", text.replace("\r\n", "\n").replace("\n\n", &between)),
            ("ids and times to retry", text.replace("\r\n", "\n").replace("\ndata:", "\nid: 1\nretry: 10\ndata:")),
            ("a byte order mark", format!("\u{feff}{text}")),
        ] {
            count += 1;
            wrong.extend(assert_same(case, &whole, body.as_bytes(), what));
        }
    }
    assert_none("framings", count, wrong);
}

/// The events of a stream, each with its name where the framing gives one.
fn events(text: &str) -> Vec<(Option<&str>, Value)> {
    let mut name = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(given) = line.strip_prefix("event:") {
            name = Some(given.trim());
        } else if let Some(data) = line.strip_prefix("data:")
            && let Ok(data) = serde_json::from_str(data.trim())
        {
            found.push((name.take(), data));
        }
    }
    found
}

fn written(events: &[(Option<&str>, Value)], keep: impl Fn(&str) -> bool) -> String {
    let kept = events.iter().filter(|(name, data)| keep(data["type"].as_str().or(*name).unwrap_or_default()));
    kept.map(|(_, data)| format!("data: {data}\n\n")).collect()
}

#[test]
fn events_that_only_repeat_others_need_not_come() {
    let cases = cases();
    let (mut count, mut wrong) = (0, Vec::new());
    for (case, exchange, whole) in answers(&cases).filter(|(_, exchange, _)| exchange.streamed) {
        let Ok(text) = std::str::from_utf8(&exchange.body) else { continue };
        let events = events(text);
        let whole_items = events.iter().any(|(_, data)| data["type"] == "response.output_item.done");
        let last = events.iter().rev().find(|(_, data)| data["response"]["output"].is_array()).map(|(_, data)| data);
        let mut variants = Vec::new();
        match case.api.as_str() {
            "openai-responses" if whole_items => {
                let is_item = |name: &str| name.starts_with("response.output_item");
                variants.push(("no names of events", written(&events, |_| true)));
                variants.push((
                    "no ends of texts",
                    written(&events, |name| is_item(name) || !name.ends_with(".done") || name == "response.done"),
                ));
                variants.push((
                    "no pieces",
                    written(&events, |name| is_item(name) || !(name.ends_with(".delta") || name.ends_with(".done"))),
                ));
                // Where the list at the end is whole, it alone says all.
                let items = events.iter().filter(|(_, data)| data["type"] == "response.output_item.done").count();
                if let Some(last) =
                    last.filter(|last| last["response"]["output"].as_array().map(Vec::len) == Some(items))
                {
                    let same = |(_, done): &&(Option<&str>, Value)| {
                        done["type"] == "response.output_item.done"
                            && last["response"]["output"].as_array().is_some_and(|all| all.contains(&done["item"]))
                    };
                    if events.iter().filter(same).count() == items {
                        variants.push(("the end alone", format!("data: {last}\n\n")));
                    }
                }
            }
            "anthropic-messages" => {
                variants.push(("no names of events", written(&events, |_| true)));
                variants.push((
                    "no pings and ends of blocks",
                    written(&events, |name| !matches!(name, "ping" | "content_block_stop")),
                ));
                variants.push(("no last event", written(&events, |name| name != "message_stop")));
            }
            "openai-chat" => variants.push(("no [DONE]", written(&events, |_| true))),
            "gemini-generate" => {
                let list: Vec<String> = events.iter().map(|(_, data)| data.to_string()).collect();
                variants.push(("one list", format!("[{}]", list.join(",\r\n"))));
                variants.push(("lines of JSON", list.join("\n")));
            }
            "cohere-v2" => {
                variants.push((
                    "no ends of parts",
                    written(&events, |name| !name.ends_with("-end") || name == "message-end"),
                ));
            }
            _ => {}
        }
        // Where the pieces do not make up the whole, which of them are there matters.
        let differs = exchange.expected["delta_text"].is_string();
        for (what, body) in
            variants.into_iter().filter(|(what, _)| !differs || !matches!(*what, "no pieces" | "the end alone"))
        {
            count += 1;
            wrong.extend(assert_same(case, &whole, body.as_bytes(), what));
        }
    }
    assert_none("events that repeat others", count, wrong);
}
