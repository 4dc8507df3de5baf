//! What our encoders write: each field stands in `data/fields.toml` with its source, and is of the type that recorded clients send.
#![cfg(feature = "remote")]
#![allow(clippy::print_stdout, reason = "counts are for whoever runs the test")]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lomusai_llm::{KINDS, replay};
use lomusai_wire::{
    Message, ModelRequest, ModelTool, OutputSpec, Part, RawJson, Reasoning, Role, Source, ToolCall, ToolChoice,
    ToolResult, ToolStatus,
};
use recorded::{api, cases};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    sources: Vec<String>,
    fields: Vec<String>,
}

/// The fields that each kind may send, with the page that lists them.
fn table() -> BTreeMap<String, Fields> {
    let table: BTreeMap<String, Fields> = toml::from_str(include_str!("data/fields.toml")).expect("the list of fields");
    let sourced = |fields: &Fields| {
        !fields.sources.is_empty() && fields.sources.iter().all(|source| source.starts_with("https://"))
    };
    assert!(table.values().all(sourced), "each list has its sources");
    table
}

/// Paths and types of a request. Documents that a host writes (schemas, arguments, results) are its own.
fn shape(value: &Value, path: &str, found: &mut BTreeSet<(String, &'static str)>) {
    const OWN: &[&str] = &[
        "parameters",
        "input_schema",
        "schema",
        "json_schema",
        "inputSchema.json",
        "parametersJsonSchema",
        "responseJsonSchema",
        "format.properties",
        "function.arguments",
        "toolUse.input",
        "toolResult.content[].json",
        "functionCall.args",
        "functionResponse.response",
    ];
    let is_own = OWN.iter().any(|own| path.ends_with(own)) || path.ends_with("content[].input");
    let kind = match value {
        Value::Object(_) | Value::Array(_) if is_own => "own",
        Value::Object(fields) => {
            for (name, value) in fields {
                shape(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
            }
            return;
        }
        Value::Array(items) => {
            items.iter().for_each(|item| shape(item, &format!("{path}[]"), found));
            return;
        }
        Value::String(_) => "text",
        Value::Bool(_) => "flag",
        Value::Number(_) => "number",
        Value::Null => "null",
    };
    found.insert((path.to_owned(), kind));
}

/// Requests of every feature.
fn requests(kind: &str) -> Vec<ModelRequest> {
    let schema = RawJson::parse(r#"{"type":"object","properties":{"a":{"type":"string"}}}"#).unwrap();
    let facts = json!({"id": "x1"});
    let said = |parts: Vec<Part>| {
        let mut message = Message::new(Role::Assistant, parts);
        message.metadata.insert(kind.into(), facts.clone());
        message
    };
    let file = |media_type: &str, source: Source| Part::File {
        source,
        media_type: Some(media_type.into()),
        name: Some("a.x".into()),
    };
    let data = || Source::Data("aGVsbG8=".into());
    let url = || Source::Url("https://example.org/a".into());
    let image = |source| Part::Image { source, media_type: Some("image/png".into()) };
    let mut call = ToolCall::new("c1.0", "f", r#"{"a":"b"}"#);
    call.provider_id = Some("call_12345".into());
    call.signature = Some("c2ln".into());
    let mut result = ToolResult::new(&call, ToolStatus::Ok, json!({"ok": true}));
    result.content = vec![image(data()), file("application/pdf", data())];
    let mut failed = ToolResult::new(&call, ToolStatus::Error, json!("no"));
    failed.content = Vec::new();
    let mut signed = Reasoning::default();
    (signed.text, signed.signature) = ("hm".into(), Some("c2ln".into()));
    let item = |id: &str| match kind {
        "openai" | "azure" | "xai-responses" => json!({"id": id, "summary": []}),
        "mistral" => json!({"closed": true}),
        "cohere" => json!({"plan": id == "rs_3"}),
        _ => json!({}),
    };
    signed.provider.insert(kind.into(), item("rs_1"));
    let mut hidden = Reasoning::default();
    hidden.encrypted = Some("ZW5j".into());
    hidden.provider.insert(kind.into(), item("rs_2"));
    let messages = |last: ToolResult| {
        vec![
            Message::system("be brief"),
            Message::user("hi"),
            said(vec![Part::text("Hello")]),
            Message::new(
                Role::User,
                vec![
                    Part::text("look"),
                    image(data()),
                    image(url()),
                    file("application/pdf", data()),
                    file("application/pdf", url()),
                    file("text/plain", data()),
                    file("audio/wav", data()),
                ],
            ),
            said(vec![
                Part::Reasoning(signed.clone()),
                Part::Reasoning(hidden.clone()),
                Part::text("I call"),
                Part::ToolCall(call.clone()),
            ]),
            Message::new(Role::Tool, vec![Part::ToolResult(last)]),
        ]
    };
    let base = |messages: Vec<Message>| {
        let mut request = ModelRequest::default();
        // Of those that take all that the API has.
        request.model = match kind {
            "openai" => "gpt-5",
            "anthropic" => "claude-opus-5-5",
            "bedrock" => "anthropic.claude-opus-5-5-v1:0",
            _ => "m",
        }
        .into();
        request.messages = messages.into_iter().map(Arc::new).collect();
        request
    };
    // What the server has already, and what only some of them say and take back.
    let reference = || Source::Reference("file_1".into());
    let bucket = || Source::Url("s3://bucket/a".into());
    let mut held = vec![image(reference()), file("application/pdf", reference())];
    if kind == "bedrock" {
        held = vec![image(bucket()), file("application/pdf", bucket()), file("video/mp4", data())];
    }
    let mut planned = Reasoning::default();
    planned.text = "first this".into();
    planned.provider.insert(kind.into(), item("rs_3"));
    let mut special = said(vec![Part::Reasoning(planned), Part::text("Hello"), Part::ToolCall(call.clone())]);
    let own = match kind {
        "openai-chat" | "azure-chat" => json!({"refusal": "no", "audio": {"id": "audio_1"}}),
        "openrouter" => {
            json!({"reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "c2ln", "index": 0, "format": "f"}]})
        }
        "cohere" => {
            json!({"citations": [{"start": 0, "end": 5, "text": "Hello", "sources": [{"type": "tool", "id": "t"}]}]})
        }
        "compatible" => json!({"reasoning_field": "reasoning_content"}),
        _ => json!({}),
    };
    special.metadata.insert(kind.into(), own);
    let answered = ToolResult::new(&call, ToolStatus::Ok, json!("done"));
    let special =
        vec![Message::new(Role::User, held), special, Message::new(Role::Tool, vec![Part::ToolResult(answered)])];
    let mut all = vec![base(messages(result)), base(messages(failed)), base(special)];
    for choice in [ToolChoice::Auto, ToolChoice::None, ToolChoice::Required, ToolChoice::Tool("f".into())] {
        let mut request = base(vec![Message::user("hi")]);
        request.tools = vec![ModelTool::new("f", "does f", schema.clone())];
        request.tool_choice = choice;
        all.push(request);
    }
    let mut request = base(vec![Message::user("hi")]);
    let settings = &mut request.settings;
    (settings.temperature, settings.top_p, settings.top_k, settings.max_output_tokens) =
        (Some(0.5), Some(0.9), Some(4), Some(7));
    (settings.presence_penalty, settings.frequency_penalty, settings.seed) = (Some(0.5), Some(0.5), Some(42));
    settings.stop_sequences = vec!["END".into()];
    request.output = Some(OutputSpec::new(schema));
    all.push(request);
    all
}

fn written(kind: &str) -> BTreeSet<(String, &'static str)> {
    let mut found = BTreeSet::new();
    for request in requests(kind) {
        for stream in [true, false] {
            let body = replay::body(kind, &request, stream).unwrap();
            shape(&serde_json::from_slice(&body).unwrap(), "", &mut found);
        }
    }
    found
}

#[test]
fn every_field_is_listed_with_its_source() {
    let table = table();
    let mut wrong = Vec::new();
    for kind in KINDS {
        let Some(listed) = table.get(kind.name) else {
            wrong.push(format!("{}: no list", kind.name));
            continue;
        };
        let ours: BTreeSet<String> = written(kind.name).into_iter().map(|(path, _)| path).collect();
        wrong.extend(
            listed
                .fields
                .iter()
                .filter(|path| !ours.contains(*path))
                .map(|path| format!("{}: {path} is never sent", kind.name)),
        );
        wrong.extend(
            ours.iter().filter(|path| !listed.fields.contains(path)).map(|path| format!("{}: {path}", kind.name)),
        );
    }
    assert!(wrong.is_empty(), "fields that are not listed:\n{}", wrong.join("\n"));
}

#[test]
fn fields_are_of_the_types_that_recorded_clients_send() {
    let mut recorded: BTreeMap<String, BTreeMap<String, BTreeSet<&'static str>>> = BTreeMap::new();
    for case in cases() {
        for exchange in case.exchanges.iter().filter(|exchange| exchange.is_answer() && exchange.request.is_object()) {
            let mut found = BTreeSet::new();
            shape(&exchange.request, "", &mut found);
            for (path, kind) in found {
                recorded.entry(case.api.clone()).or_default().entry(path).or_default().insert(kind);
            }
        }
    }
    let (mut seen, mut unseen, mut wrong) = (0, Vec::new(), Vec::new());
    for kind in KINDS {
        let Some(theirs) = recorded.get(api(kind.name)) else { continue };
        for (path, ours) in written(kind.name) {
            // A field that nobody recorded stands in the list with its source.
            let Some(types) = theirs.get(&path) else {
                unseen.push((kind.name, path));
                continue;
            };
            seen += 1;
            // One that was only ever sent as null says nothing of its type.
            if !types.contains(ours) && types.iter().any(|kind| *kind != "null") {
                wrong.push(format!("{}: {path} is {ours}, recorded {types:?}", kind.name));
            }
        }
    }
    println!(
        "requests: {seen} fields of {} kinds are of the recorded types; {} are in no recorded request:",
        KINDS.len(),
        unseen.len()
    );
    for (kind, path) in unseen {
        println!("    {kind}: {path}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where JSON is not to be had beside tools the model is told in words; where it is not to be had in pieces it is asked for whole.
#[test]
fn json_is_asked_for_where_it_may_be() {
    const FORMATS: &[&str] = &[
        "/response_format",
        "/format",
        "/text/format",
        "/output_config",
        "/outputConfig",
        "/generationConfig/responseMimeType",
    ];
    let tool = ModelTool::new("f", "does f", RawJson::parse(r#"{"type":"object"}"#).unwrap());
    let schema =
        r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#;
    // (asked for JSON beside tools, in a stream)
    for (kind, model, beside_tools, in_pieces) in [
        ("openai", "gpt-5", true, true),
        ("openai-chat", "gpt-5", true, true),
        ("anthropic", "claude-sonnet-4-5", true, true),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", true, true),
        ("mistral", "mistral-large-latest", true, true),
        ("google", "gemini-3-flash-preview", true, true),
        ("google", "gemini-2.5-flash", false, true),
        ("google", "tunedModels/mine-gemini-1.5", false, true),
        ("cohere", "command-a-03-2025", false, true),
        ("ollama", "qwen3:4b", false, true),
        ("groq", "openai/gpt-oss-20b", false, false),
        ("groq", "llama-3.3-70b-versatile", false, false),
        ("llamacpp", "m", true, true),
        ("compatible", "m", true, true),
    ] {
        let mut request = ModelRequest::default();
        request.model = model.into();
        request.messages = vec![Arc::new(Message::user("hi"))];
        request.output = Some(OutputSpec::new(RawJson::parse(schema).unwrap()));
        let asked = |request: &ModelRequest| {
            let text = String::from_utf8(replay::body(kind, request, true).unwrap()).unwrap();
            let body: Value = serde_json::from_str(&text).unwrap();
            let json = FORMATS.iter().any(|place| body.pointer(place).is_some());
            (json, text.contains("Answer with JSON of this schema"), body["stream"].as_bool())
        };
        let streams = (!matches!(kind, "google" | "bedrock")).then_some(in_pieces);
        assert_eq!(asked(&request), (true, false, streams), "{kind} {model}, alone");
        request.tools = vec![tool.clone()];
        let streams = streams.map(|_| true);
        assert_eq!(asked(&request), (beside_tools, !beside_tools, streams), "{kind} {model}, beside tools");
    }
}

/// Models that would refuse their own thoughts once anything before them has changed are told to leave those out instead.
#[test]
fn thoughts_are_left_out_rather_than_refused() {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user("hi"))];
    let drop = json!({"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}});
    for (kind, bound, free, place) in [
        ("anthropic", "claude-sonnet-5-5", "claude-sonnet-5", ""),
        (
            "bedrock",
            "us.anthropic.claude-fable-5-1-v1:0",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "/additionalModelRequestFields",
        ),
    ] {
        let thinking = |request: &ModelRequest| {
            let body: Value = serde_json::from_slice(&replay::body(kind, request, true).unwrap()).unwrap();
            let own = body.pointer(place).cloned().unwrap_or_default();
            (own["thinking"].clone(), own["anthropic_beta"].clone())
        };
        request.settings.provider.clear();
        request.model = free.into();
        assert_eq!(thinking(&request), (Value::Null, Value::Null), "{kind} {free}");
        request.model = bound.into();
        assert_eq!(thinking(&request).0, drop, "{kind} {bound}");
        // What the host says of thinking is said with it, but where that is not to be.
        let mut said = |own: Value| {
            let fields = if place.is_empty() { own } else { json!({"additionalModelRequestFields": own}) };
            request.settings.provider.insert(kind.into(), fields);
            thinking(&request)
        };
        let (asked, betas) = said(json!({"thinking": {"display": "summarized"}, "anthropic_beta": ["mine"]}));
        assert_eq!(
            (&asked["display"], &asked["block_binding"]),
            (&json!("summarized"), &drop["block_binding"]),
            "{kind}"
        );
        if kind == "bedrock" {
            assert_eq!(betas, json!(["thinking-binding-controls-2026-08-01", "mine"]));
        }
        assert_eq!(said(json!({"thinking": {"type": "disabled"}})).0, json!({"type": "disabled"}), "{kind}");
        assert_eq!(said(json!({"thinking": null})).0, Value::Null, "{kind}");
        let strict = json!({"thinking": {"block_binding": {"prefix_mismatch_behavior": "error"}}});
        assert_eq!(said(strict).0["block_binding"]["prefix_mismatch_behavior"], "error", "{kind}");
    }
}

#[test]
fn a_tool_that_must_be_called_is_the_only_one_where_it_cannot_be_named() {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user("hi"))];
    let tool = |name: &str| ModelTool::new(name, "", RawJson::parse(r#"{"type":"object"}"#).unwrap());
    request.tools = vec![tool("f"), tool("g")];
    request.tool_choice = ToolChoice::Tool("g".into());
    for (kind, choice) in [("llamacpp", json!("required")), ("cohere", json!("REQUIRED")), ("ollama", json!(null))] {
        let body: Value = serde_json::from_slice(&replay::body(kind, &request, true).unwrap()).unwrap();
        let names: Vec<&Value> =
            body["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
        assert_eq!((names, &body["tool_choice"]), (vec![&json!("g")], &choice), "{kind}");
    }
}

#[test]
fn what_came_with_results_is_shown_to_xai_behind_all_of_them() {
    let calls = [ToolCall::new("c1.0", "see", "{}"), ToolCall::new("c1.1", "count", "{}")];
    let mut seen = ToolResult::new(&calls[0], ToolStatus::Ok, json!("a cat"));
    seen.content = vec![Part::Image { source: Source::Data("aGVsbG8=".into()), media_type: Some("image/png".into()) }];
    let counted = ToolResult::new(&calls[1], ToolStatus::Ok, json!(3));
    let mut request = ModelRequest::default();
    request.model = "grok-4".into();
    let calls = calls.map(Part::ToolCall).into();
    let messages = [
        Message::user("look"),
        Message::new(Role::Assistant, calls),
        Message::new(Role::Tool, vec![Part::ToolResult(seen)]),
        Message::new(Role::Tool, vec![Part::ToolResult(counted)]),
        Message::user("well?"),
    ];
    request.messages = messages.into_iter().map(Arc::new).collect();
    let items = |kind: &str| -> Vec<Value> {
        let body: Value = serde_json::from_slice(&replay::body(kind, &request, true).unwrap()).unwrap();
        body["input"].as_array().unwrap().clone()
    };
    let words: Vec<String> = items("xai-responses")
        .iter()
        .map(|item| (item["type"].as_str().or(item["role"].as_str())).unwrap().into())
        .collect();
    assert_eq!(
        words,
        ["user", "function_call", "function_call", "function_call_output", "function_call_output", "user", "user"]
    );
    let xai = items("xai-responses");
    assert_eq!((&xai[3]["output"], &xai[4]["output"]), (&json!("a cat"), &json!("3")));
    assert_eq!(xai[5]["content"][0]["text"], "Content of the result of the tool see:");
    assert_eq!(xai[5]["content"][1]["image_url"], "data:image/png;base64,aGVsbG8=");
    // OpenAI takes it in the result itself.
    assert_eq!(items("openai")[3]["output"][1]["type"], "input_image");
}
