//! What a provider said goes back to it: an answer is decoded and written again as part of the next request.
//!
//! Each value must come back where it was: in the same item of the answer, under the same name. Nothing may be missing but the fields
//! in `data/server_only.toml`, each with its source. And where a recorded conversation goes on, what its next request took from the answer
//! is in ours, in the same field of a message of the same role.
#![cfg(feature = "remote")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lomusai_core::transcript::{self, Accepts};
use lomusai_llm::{KINDS, replay};
use lomusai_wire::{Message, ModelRequest, ModelTool, Part, RawJson, Role, ToolCall, ToolResult, ToolStatus};
use recorded::{Case, Exchange, built, cases, chunks};
use serde::Deserialize;
use serde_json::{Value, json};

/// A field that only the server writes.
#[derive(Deserialize)]
struct ServerOnly {
    api: String,
    /// A path such as `content[].citations`; all below it, too.
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

fn is_listed(table: &[ServerOnly], api: &str, path: &str) -> bool {
    table.iter().filter(|known| known.api == api).any(|known| {
        path == known.field || path.strip_prefix(&known.field).is_some_and(|rest| rest.starts_with(['.', '[']))
    })
}

/// Values of a document by path, without those that say nothing. `indexed` names the places in lists, too.
fn leaves(value: &Value, path: &str, indexed: bool, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &path, indexed, found);
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                let path = if indexed { format!("{path}[{place}]") } else { format!("{path}[]") };
                leaves(item, &path, indexed, found);
            }
        }
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        // Arguments are a document within a text.
        Value::String(text) if text.starts_with('{') => match serde_json::from_str::<Value>(text) {
            Ok(inner @ Value::Object(_)) => leaves(&inner, path, indexed, found),
            _ => found.push((path.to_owned(), value.clone())),
        },
        Value::Number(number) => found.push((path.to_owned(), json!(number.as_f64()))),
        _ => found.push((path.to_owned(), value.clone())),
    }
}

fn by_path(value: &Value) -> BTreeMap<String, Value> {
    let mut found = Vec::new();
    leaves(value, "", true, &mut found);
    found.into_iter().collect()
}

/// The items of an answer that the model wrote, in order, each as the API names them.
fn said(api: &str, body: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let items = match api {
        "openai-responses" => list(&body["output"]),
        "anthropic-messages" => list(&body["content"]),
        "gemini-generate" => list(&body["candidates"][0]["content"]["parts"]),
        "bedrock-converse" => list(&body["output"]["message"]["content"]),
        "openai-chat" => vec![body["choices"][0]["message"].clone()],
        _ => vec![body["message"].clone()],
    };
    items.into_iter().filter(|item| !is_silent(item)).collect()
}

/// An empty text, which no API takes back.
fn is_silent(item: &Value) -> bool {
    let fields = item.as_object().map_or(0, |fields| fields.keys().filter(|name| *name != "type").count());
    fields == 1 && item["text"] == ""
}

/// What of a request stands for the first answer in it, in the same form.
fn written(api: &str, request: &Value) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let turn = |messages: &Value, role: &str| {
        list(messages).into_iter().find(|message| message["role"] == role).unwrap_or_default()
    };
    match api {
        // Between the question and what follows the answer.
        "openai-responses" => {
            let items = list(&request["input"]);
            let end = items
                .iter()
                .skip(1)
                .position(|item| item["role"] == "user" || item["type"] == "function_call_output")
                .map_or(items.len(), |place| place + 1);
            items[1..end].to_vec()
        }
        "gemini-generate" => list(&turn(&request["contents"], "model")["parts"]),
        "anthropic-messages" | "bedrock-converse" => list(&turn(&request["messages"], "assistant")["content"]),
        _ => vec![turn(&request["messages"], "assistant")],
    }
}

/// The forms of one thing that an API takes for the same.
fn unified(api: &str, mut items: Vec<Value>) -> Vec<Value> {
    for item in &mut items {
        let Some(fields) = item.as_object_mut() else { continue };
        // A text alone is a list of one text.
        if let Some(Value::String(text)) = fields.get("content").filter(|_| api != "ollama-chat") {
            let kind = if api == "openai-responses" { "output_text" } else { "text" };
            let list = if text.is_empty() { json!([]) } else { json!([{"type": kind, "text": text}]) };
            fields.insert("content".into(), list);
        }
        if api == "openai-responses" && fields.get("role").is_some_and(|role| role == "assistant") {
            fields.entry("type").or_insert_with(|| "message".into());
        }
        if api == "openai-chat" {
            // Texts of one answer are one text, and old servers have one call outside of the list.
            if let Some(Value::Array(parts)) = fields.get_mut("content")
                && parts.iter().all(|part| part["type"] == "text")
            {
                let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                *parts = if text.is_empty() { Vec::new() } else { vec![json!({"type": "text", "text": text})] };
            }
        }
    }
    items
}

/// The message of an answer.
fn message(case: &Case, exchange: &Exchange, number: u64) -> Option<Message> {
    let (chunks, error) = chunks(case.kind, [exchange.body.as_slice()]);
    if error.is_some() {
        return None;
    }
    Some(built(chunks, number).expect("within its bound").message)
}

/// The tools that were called.
fn tools(answers: &[Message]) -> Vec<ModelTool> {
    let names: BTreeSet<&str> = answers.iter().flat_map(Message::tool_calls).map(|call| &*call.name).collect();
    let schema = RawJson::parse(r#"{"type":"object"}"#).expect("a schema");
    names.into_iter().map(|name| ModelTool::new(name, "", schema.clone())).collect()
}

/// A request that goes on after these answers: each call is answered.
fn request_after(case: &Case, answers: &[Message], previous: &Value) -> Value {
    let mut request = ModelRequest::default();
    // As of a model that takes everything back: the one that answered, where it says which it was.
    let said = answers.iter().find_map(|answer| answer.metadata.get(case.kind)?["model"].as_str());
    let signed = |part: &Part| matches!(part, Part::Reasoning(thought) if thought.signature.is_some() || thought.encrypted.is_some());
    request.model = match (case.kind, said) {
        ("google", _) => "gemini-2.5-flash".into(),
        ("bedrock", _) if answers.iter().flat_map(|answer| &answer.parts).any(signed) => "anthropic.claude-m".into(),
        (_, said) => said.unwrap_or("m").into(),
    };
    request.tools = tools(answers);
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

/// What a stream says as a whole, put together here once more: by the API's own last word, or block by block.
fn whole(case: &Case, exchange: &Exchange) -> Option<Value> {
    if !exchange.streamed {
        return serde_json::from_slice(&exchange.body).ok();
    }
    let text = std::str::from_utf8(&exchange.body).ok()?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?.trim()).ok());
    match case.api.as_str() {
        "openai-responses" => {
            // Each item when it is whole: some servers leave items out of the list at the end, or give them other ids there.
            let (mut items, mut id) = (BTreeMap::new(), Value::Null);
            for event in events {
                if event["type"] == "response.output_item.done" {
                    items.insert(event["output_index"].as_u64().unwrap_or(0), event["item"].clone());
                }
                if event["response"]["id"].is_string() {
                    id = event["response"]["id"].clone();
                }
            }
            (!items.is_empty()).then(|| json!({"id": id, "output": items.into_values().collect::<Vec<_>>()}))
        }
        "anthropic-messages" => {
            let mut blocks: BTreeMap<u64, Value> = BTreeMap::new();
            let mut inputs: BTreeMap<u64, String> = BTreeMap::new();
            for event in events {
                let index = event["index"].as_u64().unwrap_or(0);
                match event["type"].as_str()? {
                    "content_block_start" => drop(blocks.insert(index, event["content_block"].clone())),
                    "content_block_delta" => {
                        let (delta, block) = (&event["delta"], blocks.get_mut(&index)?);
                        let mut grow = |field: &str| {
                            let so_far = block[field].as_str().unwrap_or_default();
                            block[field] = format!("{so_far}{}", delta[field].as_str().unwrap_or_default()).into();
                        };
                        match delta["type"].as_str()? {
                            "text_delta" => grow("text"),
                            "thinking_delta" => grow("thinking"),
                            "signature_delta" => grow("signature"),
                            "citations_delta" => match &mut block["citations"] {
                                Value::Array(citations) => citations.push(delta["citation"].clone()),
                                none => *none = json!([delta["citation"]]),
                            },
                            "input_json_delta" => {
                                inputs.entry(index).or_default().push_str(delta["partial_json"].as_str()?);
                            }
                            _ => return None,
                        }
                    }
                    _ => {}
                }
            }
            for (index, input) in inputs.into_iter().filter(|(_, input)| !input.is_empty()) {
                blocks.get_mut(&index)?["input"] = serde_json::from_str(&input).ok()?;
            }
            Some(json!({"content": blocks.into_values().collect::<Vec<_>>()}))
        }
        "gemini-generate" => {
            let mut parts: Vec<Value> = Vec::new();
            for part in events
                .flat_map(|event| event["candidates"][0]["content"]["parts"].as_array().cloned().unwrap_or_default())
            {
                // Texts without a signature are pieces of one; a thought goes on until it is signed.
                let plain = |part: &Value| part["text"].is_string() && part.get("thoughtSignature").is_none();
                match parts.last_mut() {
                    Some(last)
                        if plain(last)
                            && last["thought"] == part["thought"]
                            && part["text"].is_string()
                            && (plain(&part) || part["thought"] == true) =>
                    {
                        let text = format!("{}{}", last["text"].as_str()?, part["text"].as_str()?);
                        last["text"] = text.into();
                        if let Some(signature) = part.get("thoughtSignature") {
                            last["thoughtSignature"] = signature.clone();
                        }
                    }
                    _ if part["functionCall"]["partialArgs"].is_array()
                        || part["functionCall"]["willContinue"] == true =>
                    {
                        return None;
                    }
                    _ if part["functionCall"] == json!({}) => return None,
                    _ => parts.push(part),
                }
            }
            Some(json!({"candidates": [{"content": {"parts": parts}}]}))
        }
        _ => None,
    }
}

#[test]
fn an_answer_goes_back_whole_and_in_its_place() {
    let table = table();
    let mut lost: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut moved = Vec::new();
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer()) {
            let Some(message) = message(&case, exchange, 1) else { continue };
            let Some(body) = whole(&case, exchange) else { continue };
            let request = request_after(&case, &[message], &Value::Null);
            let theirs = unified(&case.api, said(&case.api, &body));
            let ours = unified(&case.api, written(&case.api, &request));
            let [answers, streamed, values] = counts.entry(case.api.clone()).or_default();
            *answers += 1;
            *streamed += usize::from(exchange.streamed);
            let (theirs, ours) = (by_path(&json!(theirs)), by_path(&json!(ours)));
            for (path, value) in theirs {
                *values += 1;
                let plain: String =
                    path.split_once(']').map_or(path.as_str(), |(_, rest)| rest).trim_start_matches('.').into();
                let plain = without_places(&plain);
                // The role is written by us, of a message that says anything.
                let role = path == "[0].role";
                if role || is_listed(&table, &case.api, &plain) || ours.get(&path) == Some(&value) {
                    continue;
                }
                if is_anywhere(&value, ours.values()) {
                    moved.push(format!("{}: {path}", case.file));
                    continue;
                }
                let short = |value: &Value| value.to_string().chars().take(120).collect::<String>();
                let found = ours.get(&path).map_or("nothing".to_owned(), short);
                let example = || format!("{}: {path}: {} became {found}", case.file, short(&value));
                lost.entry(format!("{} {plain}", case.api)).or_insert_with(|| (0, example())).0 += 1;
            }
        }
    }
    for (api, [answers, streamed, values]) in &counts {
        println!("round trip: {api}: {answers} answers ({streamed} streamed), {values} values");
    }
    assert!(lost.is_empty(), "lost on the way back: {lost:#?}");
    assert_few("stand in another place", counts.values().map(|[.., values]| values).sum(), &moved);
}

#[test]
fn fields_of_a_later_version_go_back_with_what_they_are_of() {
    let mut count = 0;
    for case in cases() {
        let place = match case.api.as_str() {
            "anthropic-messages" => "/content",
            "gemini-generate" => "/candidates/0/content/parts",
            "openai-responses" => "/output",
            _ => continue,
        };
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer() && !exchange.streamed) {
            let mut body: Value = serde_json::from_slice(&exchange.body).expect("a body of JSON");
            let Some(items) = body.pointer_mut(place).and_then(Value::as_array_mut) else { continue };
            items.retain(|item| !is_silent(item));
            for (number, item) in items.iter_mut().enumerate() {
                item["x_later"] = json!({"number": number});
            }
            let (chunks, error) = chunks(case.kind, [body.to_string().as_bytes()]);
            if error.is_some() {
                continue;
            }
            let message = built(chunks, 1).expect("within its bound").message;
            let ours = written(&case.api, &request_after(&case, &[message], &Value::Null));
            for (number, item) in said(&case.api, &body).iter().enumerate() {
                count += 1;
                let back = ours.get(number).unwrap_or(&Value::Null);
                assert_eq!(back["x_later"], item["x_later"], "{}: {item} became {back}", case.file);
            }
        }
    }
    println!("later fields: {count} items keep theirs");
}

/// Whether a value is among these, or within one.
fn is_anywhere<'a>(value: &Value, mut among: impl Iterator<Item = &'a Value>) -> bool {
    among.any(|other| {
        other == value || value.as_str().zip(other.as_str()).is_some_and(|(text, other)| other.contains(text))
    })
}

/// Servers and clients have habits that nobody has recorded yet; a habit of ours would show in more than one of a hundred values.
fn assert_few(what: &str, all: usize, moved: &[String]) {
    println!("{} of {all} values {what}", moved.len());
    assert!(moved.len() * 100 <= all, "{} of {all} values {what}:\n{}", moved.len(), moved.join("\n"));
    moved.iter().for_each(|place| println!("    {place}"));
}

/// A path without the places in lists.
fn without_places(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => (inside, out) = (true, out + "["),
            ']' => (inside, out) = (false, out + "]"),
            _ if inside => {}
            c => out.push(c),
        }
    }
    out
}

/// Fields that recorded clients moved, each with where it came from: theirs, ours, and why.
const MOVED: [(&str, &str, &str); 7] = [
    // The client took the thought out of the text, between `<think>` and `</think>`.
    ("ollama-chat", "[].thinking", "[].content"),
    // It sent a refusal back as a text, and a thought under another of its two names.
    ("openai-chat", "[].content[].text", "[].refusal"),
    ("openai-chat", "[].reasoning_content", "[].reasoning"),
    // It called a call by the id of its item.
    ("openai-responses", "[].call_id", "[].id"),
    // The result of a client's own tool search names its call.
    ("openai-responses", "[].call_id", "[].call_id"),
    // It wrote a search for tools in another form of its own.
    ("openai-responses", "[].arguments.queries[]", "[].arguments.paths[]"),
    ("openai-chat", "[].tool_calls[].function.arguments.queries[]", "[].tool_calls[].function.arguments.id"),
];

/// Of a request: the values in messages of the model, and in those of others, by field. Names are the API's own, whichever way a client
/// writes them.
fn fields(api: &str, request: &Value) -> Vec<(bool, String, Value)> {
    let items = ["messages", "input", "contents"].iter().find_map(|name| request[*name].as_array()).cloned();
    let mut found = Vec::new();
    for item in items.unwrap_or_default() {
        let role = item["role"].as_str();
        let own = matches!(role, Some("assistant" | "model"))
            || role.is_none() && item["type"].as_str().is_some_and(|kind| !kind.ends_with("_output"));
        let mut values = Vec::new();
        leaves(&json!(unified(api, vec![item])), "", false, &mut values);
        found.extend(values.into_iter().map(|(path, value)| (own, camel(api, &path), value)));
    }
    if let Some(id) = request["previous_response_id"].as_str() {
        found.push((false, "previous_response_id".into(), id.into()));
    }
    found
}

/// Google's API takes its names in either form.
fn camel(api: &str, path: &str) -> String {
    let mut words = path.split('_');
    if api != "gemini-generate" {
        return path.to_owned();
    }
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1.min(word.len())].to_uppercase() + &word[1.min(word.len())..])
}

#[test]
fn what_the_next_request_took_from_an_answer_is_in_ours_in_its_field() {
    let table = table();
    let (mut pairs, mut values_seen, mut apart) = (0, 0, Vec::new());
    let (mut lost, mut moved) = (Vec::new(), Vec::new());
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
            let ours = fields(&case.api, &request_after(&case, &answers, &next.request["previous_response_id"]));
            let before: Vec<Value> = fields(&case.api, &now.request).into_iter().map(|(_, _, value)| value).collect();
            // What the answer said, by its raw bytes: of a stream, by what was made of it.
            let source = match whole(&case, now) {
                Some(body) => json!({"said": said(&case.api, &body), "id": body["id"]}),
                None => json!(answers.last().map(|answer| (&answer.parts, &answer.metadata))),
            };
            let mut theirs = Vec::new();
            leaves(&source, "", false, &mut theirs);
            // A short text may be in a long one by chance.
            let within = |said: &Value, value: &Value| {
                said.as_str().zip(value.as_str()).is_some_and(|(said, value)| value.len() >= 40 && said.contains(value))
            };
            let has = |value: &Value| theirs.iter().any(|(_, said)| said == value || within(said, value));
            let short = |value: &Value| value.as_str().is_none_or(|text| text.chars().count() < 8);
            let taken: Vec<_> = fields(&case.api, &next.request)
                .into_iter()
                .filter(|(own, path, value)| {
                    let path = path.trim_start_matches("[].");
                    // Of what others say, the ids are the answer's: what a tool says is its own.
                    let last = path.rsplit('.').next().unwrap_or(path).to_lowercase();
                    let kept = *own || last.ends_with("id");
                    kept && !short(value)
                        && has(value)
                        && !before.contains(value)
                        && !is_listed(&table, &case.api, path)
                })
                .collect();
            if taken.is_empty() {
                apart.push(format!("{} #{number}", case.file));
                continue;
            }
            pairs += 1;
            for wanted in taken {
                values_seen += 1;
                let (own, path, value) = &wanted;
                let is_there = ours.iter().any(|(by, place, said)| {
                    let moved = MOVED.contains(&(case.api.as_str(), path.as_str(), place.as_str()));
                    // A text that the client cut is within the whole one.
                    ((by, place) == (own, path) || moved) && (said == value || within(said, value))
                });
                let anywhere = || is_anywhere(value, ours.iter().map(|(_, _, value)| value));
                if !is_there && anywhere() {
                    moved.push(format!("{} #{number}: {path}", case.file));
                } else if !is_there {
                    let who = if *own { "the model's" } else { "another's" };
                    let value = value.to_string().chars().take(120).collect::<String>();
                    lost.push(format!("{} #{number} ({}): {who} {path}: {value}", case.file, case.kind));
                }
            }
        }
    }
    println!("conversations: {pairs} pairs go on, {values_seen} values from answers, {} pairs do not:", apart.len());
    for pair in &apart {
        println!("    {pair}");
    }
    assert!(lost.is_empty(), "lost from the next request: {}\n{}", lost.len(), lost.join("\n"));
    assert_few("stand in another field", values_seen, &moved);
}

/// What only its provider can read: signatures, encrypted thoughts, and what is in blocks of its own.
fn opaque(message: &Message) -> Vec<String> {
    let mut found = Vec::new();
    for part in &message.parts {
        match part {
            Part::Reasoning(reasoning) => {
                found.extend([reasoning.signature.clone(), reasoning.encrypted.clone()].into_iter().flatten())
            }
            Part::ToolCall(call) => found.extend(call.signature.clone()),
            Part::Provider { data, .. } => {
                let mut values = Vec::new();
                leaves(data, "", false, &mut values);
                let named = |path: &str| path.ends_with("id") || path.contains("encrypted") || path.ends_with("data");
                found.extend(
                    values
                        .into_iter()
                        .filter(|(path, _)| named(path))
                        .filter_map(|(_, value)| Some(value.as_str()?.to_owned())),
                );
            }
            _ => {}
        }
    }
    found.retain(|text| text.len() >= 16 && !message.text().contains(text.as_str()));
    found
}

/// A text as it stands within JSON.
fn within_json(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text");
    json[1..json.len() - 1].to_owned()
}

#[test]
fn another_provider_is_shown_nothing_of_ones_own_and_all_that_was_said() {
    let (mut count, mut kept) = (0, 0);
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer()) {
            let Some(mut answer) = message(&case, exchange, 1) else { continue };
            let secrets = opaque(&answer);
            if secrets.is_empty() {
                continue;
            }
            if transcript::is_bound(&answer) {
                answer.metadata.insert("model".into(), format!("{}/m", case.kind).into());
            }
            let results: Vec<Part> = answer
                .tool_calls()
                .map(|call| Part::ToolResult(ToolResult::new(call, ToolStatus::Ok, json!("done"))))
                .collect();
            let next = if results.is_empty() { Message::user("go on") } else { Message::new(Role::Tool, results) };
            let messages: Vec<Arc<Message>> = [Message::user("hi"), answer.clone(), next].map(Arc::new).to_vec();
            for kind in KINDS.iter().filter(|kind| kind.name != case.kind) {
                let mut request = ModelRequest::default();
                request.model = "m".into();
                request.tools = tools(std::slice::from_ref(&answer));
                request.messages = transcript::hand_over(&messages, &Accepts::of(kind.name)).0;
                let body = replay::body(kind.name, &request, true).expect("a request");
                let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
                let written = body.to_string();
                count += 1;
                for secret in &secrets {
                    assert!(!written.contains(&within_json(secret)), "{} at {}: {secret}", case.file, kind.name);
                }
                for call in answer.tool_calls() {
                    assert!(
                        written.contains(&format!("\"{}\"", call.name)),
                        "{} at {}: {}",
                        case.file,
                        kind.name,
                        call.name
                    );
                }
                for text in answer.parts.iter().filter_map(Part::as_text) {
                    kept += 1;
                    let line = text.lines().map(str::trim).find(|line| line.len() > 8).unwrap_or_default();
                    assert!(written.contains(&within_json(line)), "{} at {}: {line}", case.file, kind.name);
                }
            }
        }
    }
    println!("handed over: {count} answers, {kept} texts");
    assert!(count == 0 || count > 1_000, "{count}");
}
