//! Recorded traffic of real services, against what was recorded with it as its meaning.
//!
//! Every exchange must agree, but for those in `data/exceptions.toml`, each with its reason from the raw bytes.
#![cfg(feature = "remote")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod recorded;

use std::collections::BTreeMap;

use lomusai_core::llm::Answer;
use lomusai_llm::replay;
use lomusai_wire::{Part, ToolCall};
use recorded::{Case, Exchange, Random, answer, cases, chunks};
use serde::Deserialize;
use serde_json::{Value, json};

/// A disagreement that is known, and is not ours.
#[derive(Deserialize)]
struct Exception {
    file: String,
    /// Counts from 0.
    exchange: usize,
    /// The field that differs.
    field: String,
    /// What the raw bytes say.
    reason: String,
}

fn exceptions() -> Vec<Exception> {
    #[derive(Deserialize)]
    struct Table {
        #[serde(default)]
        exception: Vec<Exception>,
    }
    let table: Table = toml::from_str(include_str!("data/exceptions.toml")).expect("the list of exceptions");
    assert!(table.exception.iter().all(|exception| exception.reason.len() > 20), "each exception has its reason");
    table.exception
}

#[test]
fn recorded_answers_are_understood() {
    let exceptions = exceptions();
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases() {
        for (number, exchange) in case.exchanges.iter().enumerate() {
            let mut found =
                if exchange.is_answer() { differences(&case, exchange) } else { error_differences(&case, exchange) };
            let before = found.len();
            found.retain(|(field, _)| {
                !exceptions
                    .iter()
                    .any(|known| known.file == case.file && known.exchange == number && known.field == *field)
            });
            let [all, agree, excepted] = counts.entry(case.provider.clone()).or_default();
            *all += 1;
            match (before, found.len()) {
                (0, _) => *agree += 1,
                (_, 0) => *excepted += 1,
                _ => wrong.extend(
                    found
                        .into_iter()
                        .map(|(field, what)| format!("{} #{number} ({}): {field}: {what}", case.file, case.kind)),
                ),
            }
        }
    }
    for (provider, [all, agree, excepted]) in &counts {
        println!("traffic: {provider}: {all} exchanges, {agree} agree, {excepted} excepted");
    }
    let sum = |place: usize| counts.values().map(|counts| counts[place]).sum::<usize>();
    println!("traffic: {} exchanges, {} agree, {} excepted", sum(0), sum(1), sum(2));
    assert!(wrong.is_empty(), "understood otherwise than recorded: {}\n{}", wrong.len(), wrong.join("\n"));
    for provider in ["openai", "anthropic"] {
        assert_eq!(counts.get(provider).map_or(0, |counts| counts[2]), 0, "{provider} has no exceptions");
    }
    assert!(sum(2) * 50 <= sum(0), "exceptions are under 2 %");
}

#[test]
fn pieces_do_not_change_the_meaning() {
    let mut random = Random(0x5eed);
    let mut counts = [0, 0];
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer()) {
            let body = exchange.body.as_slice();
            let whole = chunks(case.kind, [body]);
            counts[0] += 1;
            let mut same = |pieces: &mut dyn Iterator<Item = &[u8]>, what: String| {
                counts[1] += 1;
                assert!(chunks(case.kind, pieces) == whole, "{}: {what}", case.file);
            };
            same(&mut body.chunks(1), "byte by byte".into());
            if !exchange.streamed {
                continue;
            }
            if body.len() <= 2048 {
                for cut in 0..=body.len() {
                    let (head, tail) = body.split_at(cut);
                    same(&mut [head, tail].into_iter(), format!("cut at {cut}"));
                }
            } else {
                for _ in 0..200 {
                    let size = 1 + random.below(body.len());
                    let (head, tail) = body.split_at(random.below(body.len()));
                    same(&mut std::iter::once(head).chain(tail.chunks(size)), format!("cut at {}, {size}", head.len()));
                }
            }
        }
    }
    println!("cuts: {} answers, {} times, identical", counts[0], counts[1]);
}

#[test]
fn a_lost_end_is_never_taken_for_an_answer() {
    let mut random = Random(0xcafe);
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer()) {
            let Ok(whole) = answer(case.kind, [exchange.body.as_slice()]) else { continue };
            for _ in 0..20 {
                let cut = random.below(exchange.body.len());
                match answer(case.kind, [&exchange.body[..cut]]) {
                    Err(error) => assert_eq!(error.code(), "stream_truncated", "{} cut at {cut}: {error}", case.file),
                    // What is lost comes after the finish: usage, or the end mark.
                    Ok(part) => assert_eq!(part.message.text(), whole.message.text(), "{} cut at {cut}", case.file),
                }
            }
        }
    }
}

/// What an answer says otherwise than expected.
fn differences(case: &Case, exchange: &Exchange) -> Vec<(&'static str, String)> {
    let expected = &exchange.expected;
    let answer = match answer(case.kind, [exchange.body.as_slice()]) {
        Ok(_) if expected["error"].is_object() => {
            return vec![("error", format!("none, expected {}", expected["error"]))];
        }
        Ok(answer) => answer,
        Err(error) if expected["error"].is_object() => return complaint_differences(&error, expected),
        Err(error) => return vec![("error", error.to_string())],
    };
    let text = |field: &str| expected[field].as_str().unwrap_or_default();
    let said = &answer.message;
    let facts = &said.metadata.get(case.kind).cloned().unwrap_or_default();
    let thought: String = reasoning(&answer);
    let redacted = said.parts.iter().filter(|part| matches!(part, Part::Reasoning(r) if r.encrypted.is_some() && r.text.is_empty() && r.provider.is_empty())).count();
    // What the provider called of its own tools stands among the recorded calls of this API.
    let calls: Vec<Value> = said
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::ToolCall(call) => Some(called(call)),
            Part::Provider { data, .. } if case.api == "bedrock-converse" && data["toolUse"].is_object() => {
                let tool = &data["toolUse"];
                Some(json!({"id": tool["toolUseId"], "name": tool["name"], "args": tool["input"]}))
            }
            _ => None,
        })
        .collect();
    let mut expected_calls = expected["tool_calls"].as_array().cloned().unwrap_or_default();
    for call in &mut expected_calls {
        // Some servers give no ids, or empty ones; ours is given later.
        let id = call["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        *call = json!({"id": id, "name": call["name"], "args": call["args"]});
    }
    let calls = json!(calls);
    // Pieces of one call, which the recording took for calls without a name: put together here once more from the raw bytes.
    let in_pieces = expected_calls.iter().any(|call| call["name"].is_null());
    let (calls, expected_calls) =
        if in_pieces { (by_path(&calls), from_pieces(exchange)) } else { (calls, json!(expected_calls)) };
    // Where the pieces of a stream do not make up the whole text that it ends with, both are recorded.
    let pieces = expected["delta_text"].as_str().filter(|pieces| *pieces == said.text());
    let expected_text = pieces.map_or_else(|| [text("text"), text("refusal")].concat(), str::to_owned);
    let mut found = vec![
        ("text", json!(said.text()), json!(expected_text)),
        ("reasoning", json!(thought), json!([plan(case, exchange), text("reasoning").to_owned()].concat())),
        ("tool_calls", calls, expected_calls),
        ("finish", finish(case, &answer, facts), expected["finish"].clone()),
    ];
    if expected["model"].is_string() {
        found.push(("model", facts["model"].clone(), expected["model"].clone()));
    }
    if expected["refusal"].is_string() || case.api.starts_with("openai") {
        found.push(("refusal", json!(facts["refusal"].as_str().unwrap_or_default()), json!(text("refusal"))));
    }
    if expected["redacted_thinking"].is_number() {
        found.push(("redacted_thinking", json!(redacted), expected["redacted_thinking"].clone()));
    }
    if expected["server_items"].is_array() {
        found.push(("server_items", server_items(&answer), expected["server_items"].clone()));
    }
    found.extend(usage(case, exchange, &answer, &expected["usage"]));
    let different = found.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    different.map(|(what, ours, theirs)| (what, differing(&ours, &theirs))).collect()
}

/// Both, from shortly before where they begin to differ.
fn differing(ours: &Value, theirs: &Value) -> String {
    let (ours, theirs) = (ours.to_string(), theirs.to_string());
    let same = ours.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count().saturating_sub(40);
    let from = |text: &str| text.chars().skip(same).take(300).collect::<String>();
    format!("{}, expected {}", from(&ours), from(&theirs))
}

/// What the model thought.
fn reasoning(answer: &Answer) -> String {
    let texts = answer.message.parts.iter().filter_map(|part| match part {
        Part::Reasoning(reasoning) => Some(reasoning.text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// Cohere's plan for its tools, by the raw bytes: it is thinking to us, and the recording leaves it out.
fn plan(case: &Case, exchange: &Exchange) -> String {
    let plan = |message: &Value| message["tool_plan"].as_str().unwrap_or_default().to_owned();
    match case.api.as_str() {
        "cohere-v2" if exchange.streamed => events(exchange).map(|event| plan(&event["delta"]["message"])).collect(),
        "cohere-v2" => {
            serde_json::from_slice::<Value>(&exchange.body).map_or(String::new(), |body| plan(&body["message"]))
        }
        _ => String::new(),
    }
}

/// The JSON of each event of a stream.
fn events(exchange: &Exchange) -> impl Iterator<Item = Value> {
    let text = String::from_utf8_lossy(&exchange.body).into_owned();
    let events = text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?.trim()).ok());
    events.collect::<Vec<Value>>().into_iter()
}

/// Calls whose arguments came in pieces, as the values by path that the bytes hold.
fn from_pieces(exchange: &Exchange) -> Value {
    let mut calls: Vec<Value> = Vec::new();
    let mut open = false;
    for event in events(exchange) {
        for part in event["candidates"][0]["content"]["parts"].as_array().into_iter().flatten() {
            let Some(call) = part["functionCall"].as_object() else { continue };
            if !open {
                calls.push(json!({"name": call["name"], "values": {}}));
            }
            let values = &mut calls.last_mut().expect("it began")["values"];
            for piece in call.get("partialArgs").and_then(Value::as_array).into_iter().flatten() {
                let place = &mut values[piece["jsonPath"].as_str().expect("a path")];
                let value = ["stringValue", "numberValue", "boolValue"].iter().find_map(|kind| piece.get(*kind));
                *place = match (&*place, value.cloned().unwrap_or_default()) {
                    (Value::String(so_far), Value::String(more)) => format!("{so_far}{more}").into(),
                    (_, value) => value,
                };
            }
            open = call.get("willContinue") == Some(&Value::Bool(true));
        }
    }
    json!(calls)
}

/// The same of whole calls.
fn by_path(calls: &Value) -> Value {
    fn walk(value: &Value, path: &str, found: &mut serde_json::Map<String, Value>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| walk(value, &format!("{path}.{name}"), found))
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(place, value)| walk(value, &format!("{path}[{place}]"), found));
            }
            value => drop(found.insert(path.to_owned(), value.clone())),
        }
    }
    let values = |call: &Value| {
        let mut found = serde_json::Map::new();
        walk(&call["args"], "$", &mut found);
        json!({"name": call["name"], "values": found})
    };
    calls.as_array().into_iter().flatten().map(values).collect()
}

fn called(call: &ToolCall) -> Value {
    let args = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({"__unparsed__": call.arguments}));
    json!({"id": call.provider_id, "name": call.name, "args": args})
}

/// The provider's own word for why the answer ended.
fn finish(case: &Case, answer: &Answer, facts: &Value) -> Value {
    match case.api.as_str() {
        "openai-chat" => json!(answer.finish),
        "anthropic-messages" => facts["stop_reason"].clone(),
        "openai-responses" => match (facts["status"].as_str(), facts["incomplete_details"]["reason"].as_str()) {
            (Some(status), Some(reason)) => json!(format!("{status}:{reason}")),
            _ => facts["status"].clone(),
        },
        "gemini-generate" => match facts["promptFeedback"]["blockReason"].as_str() {
            Some(reason) => json!(format!("blocked:{reason}")),
            None => facts["finishReason"].clone(),
        },
        "cohere-v2" => facts["finish_reason"].clone(),
        "ollama-chat" => facts["done_reason"].clone(),
        _ => facts["stopReason"].clone(),
    }
}

/// The provider's own blocks, by type.
fn server_items(answer: &Answer) -> Value {
    let items = answer.message.parts.iter().filter_map(|part| match part {
        Part::Provider { data, attached: false, .. } if data["type"].is_string() => Some(data["type"].clone()),
        // The API names the type by the field that holds it.
        Part::Provider { data, attached: false, .. } => {
            let fields = data
                .as_object()?
                .keys()
                .filter(|field| !matches!(field.as_str(), "thoughtSignature" | "thought" | "text"));
            fields.map(|field| json!(field)).next()
        }
        _ => None,
    });
    items.collect()
}

/// What providers call tokens read from a cache, and written to one.
const CACHE_READ: [&str; 6] = [
    "cached_tokens",
    "cache_read_input_tokens",
    "cacheReadInputTokens",
    "cachedContentTokenCount",
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
];
const CACHE_WRITE: [&str; 3] = ["cache_creation_input_tokens", "cacheWriteInputTokens", "cache_write_tokens"];

/// The largest count of one of these names in the raw bytes.
fn raw_count(exchange: &Exchange, names: &[&str]) -> u64 {
    let text = String::from_utf8_lossy(&exchange.body);
    let mut most = 0;
    for name in names.iter().map(|name| format!("\"{name}\":")) {
        for rest in text.split(&name).skip(1) {
            let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
            most = most.max(digits.parse().unwrap_or(0));
        }
    }
    most
}

/// The counts of tokens, in each provider's own meaning.
fn usage(case: &Case, exchange: &Exchange, answer: &Answer, counted: &Value) -> Vec<(&'static str, Value, Value)> {
    if !counted.is_object() {
        return Vec::new();
    }
    let usage = answer.usage;
    let count = |field: &str| counted[field].as_u64().unwrap_or(0);
    let prompt = usage.input + usage.cache_read + usage.cache_write;
    let mut found = vec![("usage.cached_input", usage.cache_read, count("cached_input"))];
    match case.api.as_str() {
        "anthropic-messages" | "bedrock-converse" => {
            found.push(("usage.input", usage.input, count("input")));
            found.push(("usage.cache_write", usage.cache_write, count("cache_write")));
            found.push(("usage.output", usage.output + usage.reasoning, count("output")));
            found.push(("usage.reasoning", usage.reasoning, count("reasoning")));
        }
        "gemini-generate" => {
            found.push(("usage.input", prompt, count("input") + count("tool_use_prompt")));
            found.push(("usage.output", usage.output, count("output")));
            found.push(("usage.reasoning", usage.reasoning, count("reasoning")));
            found.push(("usage.total", usage.total(), count("total")));
        }
        _ => {
            // Where the recorded total is more than its two parts, the rest is reasoning that the server counts beside the answer.
            let beside = count("total").saturating_sub(count("input") + count("output"));
            let answered = if beside > 0 { usage.output } else { usage.output + usage.reasoning };
            // A recorded count of reasoning may be larger than the answer that contains it.
            let reasoned = if beside > 0 { beside } else { count("reasoning").min(count("output")) };
            found.push(("usage.input", prompt, count("input")));
            found.push(("usage.output", answered, count("output")));
            found.push(("usage.reasoning", usage.reasoning, reasoned));
            found.push(("usage.total", usage.total(), count("total")));
        }
    }
    // Where no total was recorded, its parts are all there is to compare; where nothing of a cache was, the raw bytes say.
    if !counted["total"].is_u64() {
        found.retain(|(what, ..)| *what != "usage.total");
    }
    for (what, field, names) in [
        ("usage.cached_input", "cached_input", CACHE_READ.as_slice()),
        ("usage.cache_write", "cache_write", CACHE_WRITE.as_slice()),
    ] {
        for (_, _, theirs) in found.iter_mut().filter(|(found, ..)| *found == what && !counted[field].is_u64()) {
            *theirs = raw_count(exchange, names);
        }
    }
    found.into_iter().map(|(what, ours, theirs)| (what, json!(ours), json!(theirs))).collect()
}

/// What a recorded error is understood as, otherwise than expected.
fn error_differences(case: &Case, exchange: &Exchange) -> Vec<(&'static str, String)> {
    let body = String::from_utf8_lossy(&exchange.body);
    let error = replay::error(case.kind, exchange.status, &exchange.headers, &body).expect("a known kind");
    let kind = match exchange.status {
        401 | 403 => "credentials_rejected",
        429 => "provider_rate_limited",
        408 | 409 | 500.. => "provider_failed",
        _ => "provider_rejected",
    };
    let mut found = complaint_differences(&error, &exchange.expected);
    if error.code() != kind {
        found.push(("code", format!("{}, expected {kind}", error.code())));
    }
    if error.body().details["status"] != json!(exchange.status) {
        found.push(("status", error.body().details["status"].to_string()));
    }
    let after = exchange.headers.iter().find(|(name, _)| name == "retry-after-ms").map(|(_, ms)| ms.parse().unwrap());
    if after.is_some_and(|ms: u64| error.body().retry_after_ms != Some(ms)) {
        found.push(("retry_after_ms", format!("{:?}, expected {after:?}", error.body().retry_after_ms)));
    }
    found
}

fn complaint_differences(error: &lomusai_core::Error, expected: &Value) -> Vec<(&'static str, String)> {
    let expected = &expected["error"];
    let code = [&expected["code"], &expected["type"], &expected["status"]].into_iter().find(|code| code.is_string());
    let message = expected["message"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    if !error.body().message.contains(message) {
        found.push(("error", format!("{:?}, expected {message:?}", error.body().message)));
    }
    if code.is_some() && error.body().details.get("provider_code") != code {
        found.push((
            "provider_code",
            format!("{:?}, expected {code:?} of {expected}", error.body().details.get("provider_code")),
        ));
    }
    found
}
