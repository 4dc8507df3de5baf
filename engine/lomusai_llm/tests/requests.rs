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
            "openai-chat" | "azure-chat" => "gpt-5.6",
            "anthropic" => "claude-opus-5-5",
            "bedrock" => "anthropic.claude-opus-5-5-v1:0",
            "groq" => "qwen/qwen3.8-27b",
            "xai-responses" => "grok-4.7",
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
    for request in &mut all {
        request.tools = vec![ModelTool::new("f", "does f", schema.clone())];
    }
    if kind == "bedrock" {
        let mut held = base(vec![Message::user("hi")]);
        held.model = "anthropic.claude-sonnet-4-5-20250929-v1:0".into();
        held.output = Some(OutputSpec::new(schema.clone()));
        all.push(held);
    }
    for choice in [ToolChoice::Auto, ToolChoice::None, ToolChoice::Required, ToolChoice::Tool("f".into())] {
        let mut request = base(vec![Message::user("hi")]);
        request.tools = vec![ModelTool::new("f", "does f", schema.clone())];
        request.tool_choice = choice;
        all.push(request);
    }
    if kind == "deepseek" {
        // Only a model that does not think can be made to call.
        let mut made = all[all.len() - 1].clone();
        made.settings.provider.insert(kind.into(), json!({"thinking": {"type": "disabled"}}));
        all.push(made);
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
    // (asked for a schema, for JSON beside tools, in a stream)
    for (kind, model, schema_held, beside_tools, in_pieces) in [
        ("openai", "gpt-5", true, true, true),
        ("openai-chat", "gpt-5", true, true, true),
        ("anthropic", "claude-sonnet-4-5", true, true, true),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", true, true, true),
        ("mistral", "mistral-large-latest", true, true, true),
        ("google", "gemini-3-flash-preview", true, true, true),
        ("google", "gemini-2.5-flash", true, false, true),
        ("google", "tunedModels/mine-gemini-1.5", true, false, true),
        ("cohere", "command-a-03-2025", true, false, true),
        ("ollama", "qwen3:4b", true, false, true),
        ("groq", "openai/gpt-oss-20b", true, false, false),
        ("groq", "qwen/qwen3.6-27b", true, false, false),
        ("groq", "llama-3.3-70b-versatile", false, false, false),
        ("llamacpp", "m", true, false, true),
        ("compatible", "m", true, false, true),
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
        assert_eq!(asked(&request), (true, !schema_held, streams), "{kind} {model}, alone");
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

/// Gemini holds an answer to JSON where it may call tools, not where it must.
#[test]
fn json_is_not_asked_for_where_gemini_must_call() {
    let mut request = ModelRequest::default();
    request.model = "gemini-3-flash-preview".into();
    request.messages = vec![Arc::new(Message::user("hi"))];
    let schema = RawJson::parse(r#"{"type":"object"}"#).unwrap();
    request.tools = vec![ModelTool::new("f", "", schema.clone())];
    request.output = Some(OutputSpec::new(schema));
    for (choice, expected) in [(ToolChoice::Auto, true), (ToolChoice::None, true), (ToolChoice::Required, false)] {
        request.tool_choice = choice;
        let body: Value = serde_json::from_slice(&replay::body("google", &request, true).unwrap()).unwrap();
        assert_eq!(body.pointer("/generationConfig/responseMimeType").is_some(), expected, "{:?}", request.tool_choice);
    }
}

fn body(kind: &str, model: &str, messages: Vec<Message>, tools: &[&str]) -> Value {
    let mut request = ModelRequest::default();
    request.model = model.into();
    request.messages = messages.into_iter().map(Arc::new).collect();
    let schema = RawJson::parse(r#"{"type":"object"}"#).unwrap();
    request.tools = tools.iter().map(|name| ModelTool::new(*name, "", schema.clone())).collect();
    serde_json::from_slice(&replay::body(kind, &request, true).unwrap()).unwrap()
}

/// A question, an answer of this provider's with a call in it, and what came of it.
fn called(kind: &str, facts: Value, before: Vec<Part>, output: Value) -> Vec<Message> {
    let call = ToolCall::new("c1.0", "f", "{}");
    let result = ToolResult::new(&call, ToolStatus::Ok, output);
    let mut answer = Message::new(Role::Assistant, before.into_iter().chain([Part::ToolCall(call)]).collect());
    answer.metadata.insert(kind.into(), facts);
    vec![Message::user("hi"), answer, Message::new(Role::Tool, vec![Part::ToolResult(result)])]
}

fn thought(text: &str, signature: Option<&str>) -> Part {
    let mut thought = Reasoning::default();
    (thought.text, thought.signature) = (text.into(), signature.map(str::to_owned));
    Part::Reasoning(thought)
}

#[test]
fn instructions_at_the_beginning_are_one_message() {
    for kind in ["compatible", "llamacpp", "ollama", "groq"] {
        let messages = vec![Message::system("be brief"), Message::system("be kind"), Message::user("hi")];
        let body = body(kind, "m", messages, &[]);
        assert_eq!(body["messages"][0], json!({"role": "system", "content": "be brief\n\nbe kind"}), "{kind}");
        assert_eq!(body["messages"].as_array().unwrap().len(), 2, "{kind}");
    }
}

#[test]
fn deepseek_is_told_of_thoughts_that_there_were_not_and_forced_only_where_it_does_not_think() {
    let mut request = ModelRequest::default();
    request.messages = called("openai", json!({"id": "x"}), vec![], json!(1)).into_iter().map(Arc::new).collect();
    let schema = RawJson::parse(r#"{"type":"object"}"#).unwrap();
    request.tools = ["f", "g"].map(|name| ModelTool::new(name, "", schema.clone())).into();
    request.tool_choice = ToolChoice::Tool("g".into());
    let written = |request: &ModelRequest| -> Value {
        serde_json::from_slice(&replay::body("deepseek", request, true).unwrap()).unwrap()
    };
    let body = written(&request);
    let answer = &body["messages"][1];
    assert_eq!((&answer["content"], &answer["reasoning_content"]), (&json!(""), &json!("")));
    assert_eq!(
        (body.get("tool_choice"), body["tools"].as_array().unwrap().len()),
        (None, 1),
        "it is the only one shown"
    );
    request.settings.provider.insert("deepseek".into(), json!({"thinking": {"type": "disabled"}}));
    assert_eq!(written(&request)["tool_choice"]["function"]["name"], "g");
}

#[test]
fn thoughts_go_to_models_that_read_them() {
    const PROFILE: &str = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2";
    let details = json!([{"type": "reasoning.text", "text": "hm", "signature": "s"}]);
    let written = |kind: &str, model: &str, facts: Value, part: Part| {
        body(kind, model, called(kind, facts, vec![part], json!(1)), &["f"])["messages"][1].clone()
    };
    let by_groq = json!({"model": "openai/gpt-oss-20b"});
    let unsigned = || thought("hm", None);
    assert_eq!(written("groq", "openai/gpt-oss-20b", by_groq.clone(), unsigned())["reasoning"], "hm");
    assert_eq!(written("groq", "llama-3.3-70b-versatile", by_groq, unsigned()).get("reasoning"), None);
    let by_claude = json!({"model": "anthropic/claude-sonnet-5", "reasoning_details": details});
    for (model, expected) in
        [("anthropic/claude-opus-5", true), ("openrouter/auto", true), ("google/gemini-3-flash", false)]
    {
        let answer = written("openrouter", model, by_claude.clone(), unsigned());
        assert_eq!(answer.get("reasoning_details").is_some(), expected, "{model}");
        assert_eq!(answer.get("reasoning").is_some(), expected, "{model}");
    }
    for (model, part, expected) in [
        ("anthropic.claude-opus-5-v1:0", thought("hm", Some("s")), true),
        ("amazon.nova-2-lite-v1:0", thought("hm", Some("s")), false),
        ("moonshot.kimi-k2-thinking", thought("hm", None), true),
        ("anthropic.claude-opus-5-v1:0", thought("hm", None), false),
        (PROFILE, thought("hm", Some("s")), true),
        (PROFILE, thought("hm", None), true),
    ] {
        let blocks = written("bedrock", model, json!({"id": "x"}), part)["content"].to_string();
        assert_eq!(blocks.contains("reasoningContent"), expected, "{model}");
    }
}

#[test]
fn what_was_said_before_calls_is_coheres_plan_of_them() {
    let answer =
        &body("cohere", "m", called("openai", json!({}), vec![Part::text("I look.")], json!(1)), &["f"])["messages"][1];
    assert_eq!((&answer["tool_plan"], answer.get("content")), (&json!("I look."), None), "{answer}");
}

#[test]
fn what_gemini_is_shown_of_results_stands_apart_from_them() {
    let mut messages = called("google", json!({}), vec![], json!({"schema": {"$ref": "#/a"}}));
    let image = Part::Image { source: Source::Data("aGVsbG8=".into()), media_type: Some("image/png".into()) };
    let Some(Part::ToolResult(result)) = messages[2].parts.first_mut() else { panic!("a result") };
    result.content = vec![image];
    messages.push(Message::user("well?"));
    let body = body("google", "gemini-3-flash-preview", messages, &["f"]);
    let contents = body["contents"].as_array().unwrap();
    assert_eq!(contents.len(), 4, "{contents:?}");
    let answer = &contents[2]["parts"];
    assert_eq!(answer.as_array().unwrap().len(), 1);
    assert_eq!(answer[0]["functionResponse"]["response"]["output"], r##"{"schema":{"$ref":"#/a"}}"##);
    assert_eq!(contents[3]["parts"].as_array().unwrap().len(), 2, "the image and the question");
}

#[test]
fn mistrals_assistant_speaks_between_a_result_and_what_came_with_it() {
    let mut messages = called("mistral", json!({}), vec![], json!(1));
    let image = Part::Image { source: Source::Data("aGVsbG8=".into()), media_type: Some("image/png".into()) };
    let Some(Part::ToolResult(result)) = messages[2].parts.first_mut() else { panic!("a result") };
    result.content = vec![image];
    let body = body("mistral", "m", messages, &["f"]);
    let roles: Vec<&str> = body["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
}

#[test]
fn bedrock_is_told_in_words_of_calls_that_it_has_no_tools_for() {
    let messages = || called("openai", json!({}), vec![], json!("  "));
    let told = body("bedrock", "anthropic.claude-opus-5-v1:0", messages(), &[]);
    assert_eq!(told["messages"][1]["content"][0]["text"], "(Called the tool f with {}.)");
    assert_eq!(told.get("toolConfig"), None);
    assert!(!told.to_string().contains("toolResult"), "{told}");
    assert_eq!(told["inferenceConfig"]["maxTokens"], 32_000, "else an answer ends at 4,096");
    let done = body("bedrock", "amazon.nova-pro-v1:0", messages(), &["f"]);
    assert_eq!(done["messages"][2]["content"][0]["toolResult"]["content"], json!([{"text": "(no output)"}]));
    assert_eq!(done.get("inferenceConfig"), None);
}

#[test]
fn a_blank_result_is_none_to_anthropic_which_refuses_blank_texts() {
    let body = body("anthropic", "claude-opus-5", called("openai", json!({}), vec![], json!(" \n")), &["f"]);
    let result = &body["messages"][2]["content"][0];
    assert_eq!((&result["type"], result.get("content")), (&json!("tool_result"), None), "{body}");
}

#[test]
fn items_that_lost_their_thoughts_go_back_to_openai_as_words() {
    let mut held = Reasoning::default();
    held.encrypted = Some("ZW5j".into());
    held.provider.insert("openai".into(), json!({"id": "rs_1", "summary": []}));
    let own = Part::Provider { provider: "openai".into(), data: json!({"item": {"id": "msg_1"}}), attached: true };
    let answer = |partial: bool| {
        let mut answer =
            Message::new(Role::Assistant, vec![Part::Reasoning(held.clone()), Part::text("Hel"), own.clone()]);
        answer.metadata.insert("openai".into(), json!({"id": "resp_1"}));
        if partial {
            answer.metadata.insert("partial".into(), true.into());
        }
        vec![Message::user("hi"), answer, Message::user("go on")]
    };
    for (model, partial, whole) in [("gpt-5", false, true), ("gpt-5", true, false), ("gpt-4o", false, false)] {
        let body = body("openai", model, answer(partial), &[]);
        let written = body["input"].to_string();
        assert_eq!(written.contains("rs_1") && written.contains("msg_1"), whole, "{model} {partial}: {written}");
        assert_eq!(written.contains("rs_1") || written.contains("msg_1"), whole, "{model} {partial}: {written}");
        assert!(written.contains("Hel"));
    }
}

#[test]
fn models_that_need_to_be_told_are_told() {
    for (kind, model, tools, field, expected) in [
        ("openai-chat", "gpt-5.6", &["f"][..], "reasoning_effort", Some("none")),
        ("openai-chat", "gpt-5.6", &[], "reasoning_effort", None),
        ("openai-chat", "gpt-5.2", &["f"], "reasoning_effort", None),
        ("groq", "qwen/qwen3.8-27b", &[], "reasoning_format", Some("parsed")),
        ("groq", "openai/gpt-oss-20b", &[], "reasoning_format", None),
    ] {
        let body = body(kind, model, vec![Message::user("hi")], tools);
        assert_eq!(body.get(field).and_then(Value::as_str), expected, "{kind} {model}");
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
