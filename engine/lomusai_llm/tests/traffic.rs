//! Recorded traffic of servers that speak this API, against what was recorded with it as its meaning.
//!
//! Every exchange must agree for OpenAI. Others are counted: each has its dialect, and this provider speaks the plain one.
#![cfg(feature = "compatible")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod decoder;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use decoder::{answer, chunks};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{Answer, LlmProvider};
use lomusai_llm::{Provider, ProviderConfig};
use lomusai_wire::{Message, ModelRequest, Part, ToolCall};
use serde_json::{Value, json};

/// One recorded answer.
struct Exchange {
    provider: String,
    file: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    expected: Value,
}

#[test]
fn recorded_answers_are_understood() {
    let mut score = Score::default();
    for exchange in exchanges().into_iter().flatten().filter(|exchange| exchange.status == 200) {
        score.add(
            &exchange,
            answer([exchange.body.as_slice()]).map_err(|error| error.to_string()).and_then(|answer| {
                let differences = differences(&answer, &exchange.expected);
                if differences.is_empty() { Ok(()) } else { Err(differences.join("\n    ")) }
            }),
        );
    }
    score.settle("answers");
}

#[tokio::test]
async fn recorded_errors_are_understood() {
    let mut score = Score::default();
    for exchange in exchanges().into_iter().flatten().filter(|exchange| exchange.status != 200) {
        let result = error_differs(&exchange).await;
        score.add(&exchange, result);
    }
    score.settle("errors");
}

#[test]
fn pieces_do_not_change_the_meaning() {
    let mut random = Random(0x5eed);
    for exchange in exchanges().into_iter().flatten().filter(|exchange| exchange.status == 200) {
        let body = exchange.body.as_slice();
        let whole = chunks([body]);
        let same = |pieces: &mut dyn Iterator<Item = &[u8]>, what: String| {
            assert!(chunks(pieces) == whole, "{}: {what}", exchange.file);
        };
        same(&mut body.chunks(1), "byte by byte".into());
        if body.len() <= 2048 {
            for cut in 0..=body.len() {
                let (head, tail) = body.split_at(cut);
                same(&mut [head, tail].into_iter(), format!("cut at {cut}"));
            }
        } else {
            for _ in 0..50 {
                let size = 1 + random.below(body.len());
                let (head, tail) = body.split_at(random.below(body.len()));
                same(&mut std::iter::once(head).chain(tail.chunks(size)), format!("cut at {}, {size}", head.len()));
            }
        }
    }
}

#[test]
fn a_lost_end_is_never_taken_for_an_answer() {
    let mut random = Random(0xcafe);
    for exchange in exchanges().into_iter().flatten().filter(|exchange| exchange.status == 200) {
        let Ok(whole) = answer([exchange.body.as_slice()]) else { continue };
        for _ in 0..50 {
            let cut = random.below(exchange.body.len());
            match answer([&exchange.body[..cut]]) {
                Err(error) => assert_eq!(error.code(), "stream_truncated", "{} cut at {cut}", exchange.file),
                // What is lost comes after the finish: usage, or the end mark.
                Ok(part) => assert_eq!(part.message.parts, whole.message.parts, "{} cut at {cut}", exchange.file),
            }
        }
    }
}

/// What an answer says otherwise than expected.
fn differences(answer: &Answer, expected: &Value) -> Vec<String> {
    let text = |field: &str| expected[field].as_str().unwrap_or_default();
    let (said, usage) = (&answer.message, answer.usage);
    let facts = &said.metadata["compatible"];
    let thought: String = said
        .parts
        .iter()
        .filter_map(|part| if let Part::Reasoning(reasoning) = part { Some(reasoning.text.as_str()) } else { None })
        .collect();
    let counted = &expected["usage"];
    let count = |field: &str| counted[field].as_u64().unwrap_or(0);
    // Where the recorded total is more than its two parts, the rest is reasoning that the server counts beside the answer.
    let beside = count("total").saturating_sub(count("input") + count("output"));
    let answered = if beside > 0 { usage.output } else { usage.output + usage.reasoning };
    // A recorded count of reasoning may be larger than the answer that contains it.
    let reasoned = if beside > 0 { beside } else { count("reasoning").min(count("output")) };
    let calls: Vec<Value> = said.tool_calls().map(called).collect();
    let mut expected_calls = expected["tool_calls"].as_array().cloned().unwrap_or_default();
    for call in &mut expected_calls {
        // Some servers give no ids, or empty ones; ours is given later.
        let id = call["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        *call = json!({"id": id, "name": call["name"], "args": call["args"]});
    }
    [
        ("text", json!(said.text()), json!([text("text"), text("refusal")].concat())),
        ("refusal", json!(facts["refusal"].as_str().unwrap_or_default()), json!(text("refusal"))),
        ("reasoning", json!(thought), json!(text("reasoning"))),
        ("tool_calls", json!(calls), json!(expected_calls)),
        ("finish", json!(answer.finish), expected["finish"].clone()),
        ("model", facts["model"].clone(), expected["model"].clone()),
        ("usage.input", json!(usage.input + usage.cache_read + usage.cache_write), json!(count("input"))),
        ("usage.cached_input", json!(usage.cache_read), json!(count("cached_input"))),
        ("usage.output", json!(answered), json!(count("output"))),
        ("usage.reasoning", json!(usage.reasoning), json!(reasoned)),
        ("usage.total", json!(usage.total()), json!(count("total"))),
    ]
    .into_iter()
    .filter(|(_, ours, theirs)| ours != theirs)
    .map(|(what, ours, theirs)| format!("{what}: {ours}, expected {theirs}"))
    .collect()
}

fn called(call: &ToolCall) -> Value {
    let args = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({"__unparsed__": call.arguments}));
    json!({"id": call.provider_id, "name": call.name, "args": args})
}

/// Sends the recorded error over HTTP, and compares what the provider makes of it.
async fn error_differs(exchange: &Exchange) -> Result<(), String> {
    let headers: String = exchange.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let body = String::from_utf8(exchange.body.clone()).unwrap();
    let port = server::answering(server::response(&format!("{} Recorded", exchange.status), &headers, &body)).await;
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
    config.proxy = Some("none".into());
    let mut request = ModelRequest::default();
    request.messages = vec![Message::user("hi").into()];
    let context = CallContext::new("r".into(), "1".into());
    let error = Provider::new("compatible", config).unwrap().generate(context, request.into()).await.unwrap_err();

    let expected = &exchange.expected["error"];
    let kind = match exchange.status {
        401 | 403 => "credentials_rejected",
        429 => "provider_rate_limited",
        500.. => "provider_failed",
        _ => "provider_rejected",
    };
    let code = [&expected["code"], &expected["type"]].into_iter().find(|code| code.is_string());
    let message = expected["message"].as_str().unwrap_or_default();
    let after = exchange.headers.iter().find(|(name, _)| name == "retry-after-ms").map(|(_, ms)| ms.parse().unwrap());
    let body = error.body();
    let agrees = error.code() == kind
        && body.message.contains(message)
        && body.details["status"] == expected["status"]
        && body.details.get("provider_code") == code
        && after.is_none_or(|ms: u64| body.retry_after_ms == Some(ms));
    if agrees { Ok(()) } else { Err(format!("{error:?}, expected {expected}")) }
}

/// How many exchanges agree, by provider.
#[derive(Default)]
struct Score {
    counts: BTreeMap<String, (usize, usize)>,
    wrong: Vec<String>,
}

impl Score {
    fn add(&mut self, exchange: &Exchange, result: Result<(), String>) {
        let (agreed, all) = self.counts.entry(exchange.provider.clone()).or_default();
        *all += 1;
        match result {
            Ok(()) => *agreed += 1,
            Err(why) => {
                println!("{}\n    {why}", exchange.file);
                if exchange.provider == "openai" {
                    self.wrong.push(exchange.file.clone());
                }
            }
        }
    }

    fn settle(self, what: &str) {
        for (provider, (agreed, all)) in &self.counts {
            println!("{what}: {provider} {agreed}/{all}");
        }
        assert!(self.wrong.is_empty(), "recorded {what} of OpenAI that are understood otherwise: {:#?}", self.wrong);
    }
}

/// What the folder holds of this API. Nothing where there is no folder and none is required.
fn exchanges() -> Option<Vec<Exchange>> {
    let required = std::env::var("LOMUSAI_REQUIRE_CONFORMANCE").is_ok_and(|value| value == "1");
    let Some(folder) = std::env::var_os("LOMUSAI_CONFORMANCE") else {
        assert!(!required, "LOMUSAI_REQUIRE_CONFORMANCE=1, but LOMUSAI_CONFORMANCE names no folder");
        println!("skipped: LOMUSAI_CONFORMANCE names no folder of recorded traffic");
        return None;
    };
    let folder = PathBuf::from(folder).join("traffic");
    let index = json_file(&folder.join("index.json"));
    let cases = index["cases"].as_array().expect("index.json has cases");
    let of_this_api = cases.iter().filter(|case| case["api"] == "openai-chat");
    let exchanges: Vec<Exchange> = of_this_api.flat_map(|case| read(&folder, case)).collect();
    assert!(!exchanges.is_empty(), "{} holds no exchange of openai-chat", folder.display());
    Some(exchanges)
}

fn read(folder: &Path, case: &Value) -> Vec<Exchange> {
    let file = folder.join(case["file"].as_str().expect("a case names its file"));
    let recorded = json_file(&file);
    let responses = recorded["exchanges"].as_array().expect("a case has exchanges").iter();
    let expected = case["expected"].as_array().expect("a case has expectations").iter();
    let exchange = |(exchange, expected): (&Value, &Value)| {
        let response = &exchange["response"];
        let body = match response["body_file"].as_str() {
            Some(name) => std::fs::read(file.with_file_name(name)).unwrap_or_else(|error| panic!("{name}: {error}")),
            None => response["json"].to_string().into_bytes(),
        };
        let headers = response["headers"].as_object().into_iter().flatten();
        Exchange {
            provider: case["provider"].as_str().unwrap_or_default().to_owned(),
            file: file.strip_prefix(folder).unwrap_or(&file).display().to_string(),
            status: response["status"].as_u64().unwrap_or(200) as u16,
            headers: headers
                .filter_map(|(name, value)| Some((name.to_lowercase(), value.as_str()?.to_owned())))
                // These are of the connection that was recorded, not of the one that replays it.
                .filter(|(name, _)| {
                    !matches!(name.as_str(), "content-length" | "transfer-encoding" | "content-encoding")
                })
                .collect(),
            body,
            expected: expected.clone(),
        }
    };
    responses.zip(expected).map(exchange).collect()
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
