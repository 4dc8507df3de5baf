//! Whole runs over each wire, against a server on this machine: what models do wrong is told to them, what a server pauses is gone on with, what a
//! schema loses is said, and a secret is written nowhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use lomusai::llm::{Provider, ProviderConfig};
use lomusai::telemetry::TelemetrySink;
use lomusai::tool::FnTool;
use lomusai::wire::LogLevel;
use lomusai::{
    AgentSpec, CassetteConfig, CassetteMode, Engine, EngineConfig, Event, EventBody, OutputSpec, RunResult, RunStatus,
    StartRequest, ThreadId, ToolReply, ToolSpec,
};
use lomusai_core::transcript;
use lomusai_wire::RawJson;
use serde_json::{Value, json};

const WIRES: [&str; 7] = ["openai-chat", "openai", "anthropic", "google", "bedrock", "cohere", "ollama"];

/// A server that gives these answers in turn, the last one again and again, and keeps what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn new(answers: Vec<(u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = asked.clone();
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                let Ok(mut socket) = socket else { return };
                let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
                let (mut line, mut length) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                    let lower = line.to_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() {
                    continue;
                }
                kept.lock().unwrap().push(serde_json::from_slice(&body).unwrap_or_default());
                let (status, answer) = &answers[number.min(answers.len() - 1)];
                let text = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    text.len()
                );
                let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(text.as_bytes()));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn provider(kind: &str, port: u16, key: &str) -> Provider {
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
    (config.proxy, config.api_key, config.region) = (Some("none".into()), Some(key.into()), Some("us-east-1".into()));
    (config.model, config.stream) = (Some("m".into()), false);
    Provider::new(kind, config).expect("a provider")
}

/// A whole answer as this wire gives it: calls with their arguments as they are, or a text.
fn says(kind: &str, text: &str, calls: &[(&str, &str, Value)]) -> Value {
    let chat = || -> Vec<Value> {
        let call = |(id, name, arguments): &(&str, &str, Value)| {
            let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        };
        calls.iter().map(call).collect()
    };
    let blocks = |text_block: Value, call: &dyn Fn(&(&str, &str, Value)) -> Value| -> Vec<Value> {
        let words = (!text.is_empty()).then_some(text_block);
        words.into_iter().chain(calls.iter().map(call)).collect()
    };
    match kind {
        "openai-chat" => json!({"choices": [{"message": {"role": "assistant", "content": text, "tool_calls": chat()},
            "finish_reason": if calls.is_empty() { "stop" } else { "tool_calls" }}]}),
        "openai" => json!({"id": "r", "status": "completed", "output": blocks(
            json!({"type": "message", "id": "i", "role": "assistant", "content": [{"type": "output_text", "text": text}]}),
            &|(id, name, arguments)| json!({"type": "function_call", "call_id": id, "name": name,
                "arguments": arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned)}))}),
        "anthropic" => json!({"type": "message", "role": "assistant", "stop_reason": "end_turn", "content": blocks(
            json!({"type": "text", "text": text}),
            &|(id, name, arguments)| json!({"type": "tool_use", "id": id, "name": name, "input": arguments}))}),
        "google" => json!({"candidates": [{"finishReason": "STOP", "content": {"role": "model", "parts": blocks(
            json!({"text": text}),
            &|(id, name, arguments)| json!({"functionCall": {"id": id, "name": name, "args": arguments}}))}}]}),
        "bedrock" => json!({"stopReason": "end_turn", "output": {"message": {"role": "assistant", "content": blocks(
            json!({"text": text}),
            &|(id, name, arguments)| json!({"toolUse": {"toolUseId": id, "name": name, "input": arguments}}))}}}),
        "cohere" => json!({"id": "r", "finish_reason": if calls.is_empty() { "COMPLETE" } else { "TOOL_CALL" },
            "message": {"role": "assistant", "tool_calls": chat(), "content": [{"type": "text", "text": text}]}}),
        _ => json!({"done": true, "done_reason": "stop", "message": {"role": "assistant", "content": text,
            "tool_calls": calls.iter().map(|(_, name, arguments)| json!({"function": {"name": name, "arguments": arguments}})).collect::<Vec<_>>()}}),
    }
}

fn engine(kind: &str, server: &Server, config: EngineConfig, key: &str) -> Engine {
    let engine = Engine::builder(config).build().expect("an engine");
    engine.register_provider(kind, provider(kind, server.port, key)).expect("a new name");
    engine
        .register_tool(FnTool::new(add(), |_, arguments| async move {
            let numbers: Value = serde_json::from_str(&arguments).expect("arguments are checked before");
            Ok(ToolReply::from(json!(numbers["a"].as_i64().unwrap_or(0) + numbers["b"].as_i64().unwrap_or(0))))
        }))
        .expect("a new name");
    engine
}

fn add() -> ToolSpec {
    let mut spec = ToolSpec::new("add", "Adds two integers.");
    spec.input_schema = RawJson::parse(
        r#"{"type":"object","properties":{"a":{"type":"integer","multipleOf":1},"b":{"type":"integer"},"note":{"type":"string","minLength":3}},"required":["a","b"]}"#,
    )
    .expect("a schema");
    spec
}

fn agent(kind: &str) -> AgentSpec {
    let mut spec = AgentSpec::new("agent", kind);
    spec.tools = vec!["add".into()];
    spec.settings.max_retries = Some(0);
    spec
}

fn run(engine: &Engine, request: StartRequest) -> Arc<RunResult> {
    let inner = engine.clone();
    engine.block_on(async move { inner.run(request).await }).expect("it is open").expect("a result")
}

fn request(input: &str) -> StartRequest {
    let mut request = StartRequest::new("agent", input);
    request.thread = Some(ThreadId::from("t"));
    request
}

#[test]
fn what_a_model_does_wrong_is_told_to_it_and_the_run_goes_on() {
    for kind in WIRES {
        let wrong: [(&str, &str, Value); 5] = [
            ("same", "add", json!({"a": 1, "b": 2})),
            ("same", "add", json!({"a": 3, "b": 4})),
            ("third", "add", json!([1, 2])),
            ("fourth", "subtract", json!({})),
            ("", "add", json!({"a": 1.5, "b": null})),
        ];
        let server = Server::new(vec![
            (200, says(kind, "", &wrong)),
            (200, says(kind, "", &[])),
            (200, says(kind, "It is 3.", &[])),
        ]);
        let engine = engine(kind, &server, EngineConfig::default(), "sk-test-0123456789");
        engine.register_agent(agent(kind)).unwrap();
        let result = run(&engine, request("Add"));
        assert_eq!(result.status, RunStatus::Completed, "{kind}: {:?}", result.error);
        transcript::check(&result.messages).unwrap();
        let results: Vec<String> = result
            .messages
            .iter()
            .flat_map(|message| message.tool_results())
            .map(|result| format!("{:?}: {}", result.status, result.to_text()))
            .collect();
        assert_eq!(results.len(), 5, "{kind}: {results:?}");
        assert_eq!(results[..2], ["Ok: 3", "Ok: 7"], "{kind}: one id twice is two calls");
        for (place, word) in [(2, "do not fit"), (3, "no tool `subtract`"), (4, "do not fit")] {
            assert!(results[place].starts_with("Error: ") && results[place].contains(word), "{kind}: {results:?}");
        }
        // The second answer said nothing at all. The conversation can still be gone on with.
        assert_eq!(result.text(), "", "{kind}");
        let result = run(&engine, request("And?"));
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "It is 3."), "{kind}: {:?}", result.error);
        let asked = server.asked();
        let last = asked[2].to_string();
        for told in ["do not fit", "subtract", "And?"] {
            assert!(last.contains(told), "{kind}: {told} is not in {last}");
        }
        engine.close(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn a_paused_answer_is_gone_on_with_where_it_stopped() {
    let search = json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "42"}});
    let paused = json!({"type": "message", "id": "a", "role": "assistant", "stop_reason": "pause_turn",
        "content": [{"type": "text", "text": "I search. "}, search], "usage": {"input_tokens": 5, "output_tokens": 2}});
    let rest = json!({"type": "message", "id": "b", "role": "assistant", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "It is 42."}], "usage": {"input_tokens": 9, "output_tokens": 3}});
    let server = Server::new(vec![(200, paused.clone()), (200, rest)]);
    let engine = engine("anthropic", &server, EngineConfig::default(), "sk-test-0123456789");
    engine.register_agent(agent("anthropic")).unwrap();
    let result = run(&engine, request("What is it?"));
    assert_eq!((result.status, result.text()), (RunStatus::Completed, "I search. It is 42."), "{:?}", result.error);
    assert_eq!((result.usage.input, result.usage.output), (14, 5));
    let asked = server.asked();
    let messages = asked[1]["messages"].as_array().unwrap();
    // The answer stands last, whole, and nothing behind it.
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!(messages[1], json!({"role": "assistant", "content": paused["content"]}));
    assert_eq!(asked.len(), 2);
}

/// What readers are told of a run.
fn events(engine: &Engine, request: StartRequest) -> Vec<Event> {
    let inner = engine.clone();
    let read = async move {
        let run = inner.stream(request).await.expect("a run");
        let mut events = Vec::new();
        while let Some(event) = run.next().await {
            events.push((*event).clone());
        }
        events
    };
    engine.block_on(read).expect("it is open")
}

#[test]
fn what_a_schema_loses_on_its_way_to_a_provider_is_said_once() {
    let server = Server::new(vec![
        (200, says("openai", "", &[("c", "add", json!({"a": 1, "b": 2, "note": null}))])),
        (200, says("openai", r#"{"sum": 3, "why": null}"#, &[])),
    ]);
    let engine = engine("openai", &server, EngineConfig::default(), "sk-test-0123456789");
    let mut spec = agent("openai");
    spec.output = Some(OutputSpec::new(
        RawJson::parse(r#"{"type":"object","properties":{"sum":{"type":"integer"},"why":{"type":"string","maxLength":9}},"required":["sum"]}"#).unwrap(),
    ));
    engine.register_agent(spec).unwrap();
    let events = events(&engine, request("Add"));
    let said: Vec<String> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::Log { level: LogLevel::Info, message } => Some(message.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(said.len(), 2, "of two steps, each said once: {said:?}");
    assert!(said[0].starts_with("the schema of tool `add` lost `minLength` at /properties/note: "), "{said:?}");
    assert!(said[1].starts_with("the schema of the answer lost `maxLength` at /properties/why: "), "{said:?}");
    let Some(EventBody::RunFinished { output: Some(output), .. }) = events.last().map(|event| &event.body) else {
        panic!("{:?}", events.last())
    };
    // Nulls that stand for what was left out are none of the original's.
    assert_eq!(output.object, Some(json!({"sum": 3})));
    let asked = server.asked();
    let (tool, format) = (&asked[0]["tools"][0], &asked[0]["text"]["format"]);
    assert_eq!((&tool["strict"], &format["strict"]), (&json!(true), &json!(true)));
    assert_eq!(tool["parameters"]["required"], json!(["a", "b", "note"]));
    assert!(asked[1].to_string().contains(r#""output":"3""#), "{}", asked[1]);
}

/// With what must be escaped in a URL, and in JSON.
const CANARY: &str = "canary/7f3a+9c=\\\"0123456789";

/// Where the secret is found in a text, if anywhere: as it is, in base64 at any of three places, escaped for a URL and for JSON.
fn found(text: &str) -> Option<String> {
    let url: String = CANARY
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let json = serde_json::to_string(CANARY).unwrap();
    let twice = serde_json::to_string(&json).unwrap();
    let mut writings = vec![CANARY.to_owned(), url.to_lowercase(), url, json.trim_matches('"').to_owned()];
    writings.push(twice.trim_matches('"').trim_matches(['\\', '"']).to_owned());
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        for shift in 0..3 {
            let shifted = engine.encode(format!("{}{CANARY}", &"aaa"[..shift]));
            writings.push(shifted[4..shifted.len() - 4].to_owned());
        }
    }
    writings.into_iter().find(|writing| text.contains(writing.as_str()))
}

#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl TelemetrySink for Listener {
    fn log(&self, level: LogLevel, target: &str, message: &str) {
        self.0.lock().unwrap().push(format!("{level:?} {target} {message}"));
    }

    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(format!("{event:?} {}", serde_json::to_string(event).unwrap()));
    }
}

/// A key that the server quotes back, in its errors and in its answers' facts, shows in nothing that the engine writes or says.
#[test]
fn a_providers_key_is_in_no_log_event_journal_export_or_cassette() {
    let folder = tempfile::tempdir().unwrap();
    for kind in WIRES {
        let quoted =
            format!("bad key {CANARY} ({} or {})", STANDARD.encode(CANARY), STANDARD.encode(format!("a{CANARY}")));
        let refusal = json!({"error": {"message": quoted, "type": CANARY, "code": CANARY}, "message": quoted});
        let mut answer = says(kind, "Hello", &[]);
        answer["id"] = CANARY.into();
        for answers in [
            vec![(401, refusal.clone())],
            vec![(500, json!(quoted))],
            vec![(200, json!({"x": quoted}))],
            vec![(200, answer)],
        ] {
            let server = Server::new(answers);
            let tape = folder.path().join(format!("{kind}-{}.jsonl", server.port));
            let mut config = EngineConfig::default();
            config.cassette = Some(CassetteConfig::new(CassetteMode::Record, tape.clone()));
            let engine = engine(kind, &server, config, CANARY);
            engine.hide_secret(CANARY);
            let listener = Arc::new(Listener::default());
            engine.set_telemetry(Some(listener.clone()));
            engine.register_agent(agent(kind)).unwrap();
            let events = events(&engine, request("Hi"));
            let run_id = events[0].run_id.clone();
            let clean = |what: &str, text: &str| assert_eq!(found(text), None, "{kind}: {what}: {text}");
            let quotes = |event: &&Event| !matches!(event.body, EventBody::MessageCompleted { .. });
            // What a model says is the conversation's own, facts about its answer included; all else is ours.
            for event in events.iter().filter(quotes) {
                clean("an event", &format!("{event:?} {}", serde_json::to_string(event).unwrap()));
            }
            let inner = engine.clone();
            let exported = engine.block_on(async move { inner.export(&run_id).await }).unwrap().unwrap();
            for event in exported.iter().filter(quotes) {
                clean("the journal", &serde_json::to_string(event).unwrap());
            }
            clean("the cassette", &std::fs::read_to_string(&tape).unwrap());
            for line in listener.0.lock().unwrap().iter().filter(|line| !line.contains("MessageCompleted")) {
                clean("a log", line);
            }
            let result = {
                let inner = engine.clone();
                let id = events[0].run_id.clone();
                engine.block_on(async move { inner.result(&id).await }).unwrap().unwrap()
            };
            if let Some(error) = &result.error {
                assert!(!error.to_string().contains("bad key") || error.to_string().contains("***"), "{kind}: {error}");
                clean("the error", &format!("{error} {error:?} {}", serde_json::to_string(error.body()).unwrap()));
                let mut cause: Option<&dyn std::error::Error> = Some(error);
                while let Some(error) = cause {
                    clean("a cause", &format!("{error} {error:?}"));
                    cause = error.source();
                }
            }
            clean("the engine", &format!("{:?} {:?}", engine.config(), engine.models()));
            clean("a result", &format!("{:?}", result.error));
            engine.close(Duration::from_secs(5)).unwrap();
        }
    }
}
