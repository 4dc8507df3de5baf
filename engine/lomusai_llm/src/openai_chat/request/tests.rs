use std::sync::Arc;

use super::*;
use crate::question::{Fitter, Question};
use lomusai_wire::{ModelRequest, ModelTool, OutputSpec, Source, ToolCall, ToolStatus};

const NAME: &str = "compatible";

fn model(request: &ModelRequest) -> &str {
    if request.model.is_empty() { "default-model" } else { &request.model }
}

fn request(messages: Vec<Message>) -> ModelRequest {
    let mut request = ModelRequest::default();
    request.messages = messages.into_iter().map(Arc::new).collect();
    request
}

fn posted(request: &ModelRequest) -> Result<Vec<u8>> {
    posted_to(model(request), request)
}

fn posted_to(model: &str, request: &ModelRequest) -> Result<Vec<u8>> {
    let fitter = Fitter::default();
    let dialect = &crate::openai_chat::COMPATIBLE;
    body(dialect, &Question::new(NAME, model, true, request, dialect.schemas, &fitter))
}

fn written(request: &ModelRequest) -> Value {
    serde_json::from_slice(&posted(request).unwrap()).unwrap()
}

fn called(call_id: &str, provider_id: Option<&str>) -> Message {
    let mut call = ToolCall::new(call_id, "f", "{}");
    call.provider_id = provider_id.map(str::to_owned);
    Message::new(Role::Assistant, vec![Part::ToolCall(call)])
}

fn answered(call_id: &str, output: Value) -> ToolResult {
    ToolResult::new(&ToolCall::new(call_id, "f", "{}"), ToolStatus::Ok, output)
}

fn tool(result: ToolResult) -> Message {
    Message::new(Role::Tool, vec![Part::ToolResult(result)])
}

fn file(source: Source, media_type: &str) -> Part {
    Part::File { source, media_type: Some(media_type.into()), name: Some("a.x".into()) }
}

#[test]
fn settings_tools_and_output_are_written() {
    let mut asked = request(vec![Message::system("be brief"), Message::user("hi")]);
    asked.model = "m".into();
    // Not sorted: property order steers models.
    let schema = r#"{"type":"object","properties":{"z":{},"a":{}}}"#;
    asked.tools = vec![ModelTool::new("f", "does f", RawJson::parse(schema).unwrap())];
    asked.tool_choice = ToolChoice::Tool("f".into());
    let settings = &mut asked.settings;
    (settings.temperature, settings.top_p, settings.max_output_tokens) = (Some(0.5), Some(0.9), Some(7));
    (settings.presence_penalty, settings.frequency_penalty, settings.seed) = (Some(1.0), Some(-1.0), Some(42));
    (settings.stop_sequences, settings.top_k) = (vec!["END".into()], Some(40));

    let text = String::from_utf8(posted(&asked).unwrap()).unwrap();
    assert!(text.contains(schema), "schemas go as they were written: {text}");
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "f", "description": "does f",
                "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}}],
            "tool_choice": "required",
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "max_tokens": 7, "stop": ["END"],
            "presence_penalty": 1.0, "frequency_penalty": -1.0, "seed": 42,
            "stream": true, "stream_options": {"include_usage": true},
        })
    );
    let mut asked = request(vec![Message::user("hi")]);
    asked.output = Some(OutputSpec::new(RawJson::parse(schema).unwrap()));
    let text = String::from_utf8(posted(&asked).unwrap()).unwrap();
    assert!(text.contains(schema), "schemas go as they were written: {text}");
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap()["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "output",
            "schema": {"type": "object", "properties": {"z": {}, "a": {}}}}})
    );
}

#[test]
fn nothing_is_written_that_was_not_asked_for() {
    let mut asked = request(vec![Message::user("hi")]);
    // Without tools there is nothing to choose, and servers say so.
    asked.tool_choice = ToolChoice::Required;
    assert_eq!(
        written(&asked),
        json!({"model": "default-model", "messages": [{"role": "user", "content": "hi"}],
            "stream": true, "stream_options": {"include_usage": true}})
    );
    let without_model: Value = serde_json::from_slice(&posted_to("", &asked).unwrap()).unwrap();
    assert_eq!(without_model.get("model"), None);
}

#[test]
fn provider_fields_add_replace_and_remove() {
    let mut asked = request(vec![Message::user("hi")]);
    asked.settings.max_output_tokens = Some(5);
    let fields = json!({"max_tokens": null, "max_completion_tokens": 9, "stream_options": null, "model": "other"});
    asked.settings.provider.insert(NAME.into(), fields);
    asked.settings.provider.insert("another".into(), json!({"ignored": 1}));
    assert_eq!(
        written(&asked),
        json!({"model": "other", "messages": [{"role": "user", "content": "hi"}], "stream": true,
            "max_completion_tokens": 9})
    );
    asked.settings.provider.insert(NAME.into(), json!([1]));
    assert_eq!(posted(&asked).unwrap_err().code(), "argument_invalid");
}

#[test]
fn parts_take_the_form_that_the_api_has() {
    let data = |bytes: &str| Source::Data(bytes.into());
    let asked = request(vec![Message::new(
        Role::User,
        vec![
            Part::text("look"),
            Part::Image { source: data("iVBORw0K"), media_type: None },
            Part::Image { source: data("/9j/4AAQ"), media_type: None },
            Part::Image { source: Source::Url("https://x.example/a.png".into()), media_type: None },
            Part::Image { source: Source::Reference("file-1".into()), media_type: None },
            file(data("JVBERg=="), "application/pdf"),
            file(data("UklGRg=="), "audio/wav"),
            file(data("aGk="), "text/plain"),
            file(data("not base64"), "text/plain"),
            file(data("iVBORw0K"), "image/png"),
            file(Source::Reference("file-2".into()), "application/pdf"),
            file(Source::Url("https://x.example/a.pdf".into()), "application/pdf"),
            Part::Data { name: "n".into(), data: json!(1) },
            Part::Reasoning(Default::default()),
            Part::Unknown(json!({"type": "video_url", "video_url": {"url": "u"}}).as_object().unwrap().clone()),
        ],
    )]);
    assert_eq!(
        written(&asked)["messages"][0]["content"],
        json!([
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"filename": "a.x", "file_data": "data:application/pdf;base64,JVBERg=="}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "text", "text": "a.x:\nhi"},
            {"type": "file", "file": {"filename": "a.x", "file_data": "data:text/plain;base64,not base64"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}},
            {"type": "file", "file": {"file_id": "file-2"}},
            {"type": "text", "text": "[file a.x: https://x.example/a.pdf]"},
            {"type": "video_url", "video_url": {"url": "u"}},
        ])
    );
}

#[test]
fn messages_that_say_nothing_are_left_out() {
    let host_only = Part::Data { name: "n".into(), data: json!(1) };
    let asked = request(vec![
        Message::system(""),
        Message::new(Role::User, vec![host_only]),
        Message::new(Role::Assistant, vec![Part::Reasoning(Default::default())]),
        Message::new(Role::Assistant, vec![Part::text("a"), Part::Reasoning(Default::default()), Part::text("b")]),
    ]);
    assert_eq!(written(&asked)["messages"], json!([{"role": "assistant", "content": "ab"}]));
}

#[test]
fn results_find_the_nearest_call_and_ids_are_unique() {
    let mut failed = answered("c0.0", json!("boom"));
    failed.status = ToolStatus::Error;
    let asked = request(vec![
        called("c0.0", Some("x")),
        tool(answered("c0.0", json!({"b": [1, 2.5]}))),
        // A later run of the thread counts from the same number, and the provider repeats its id.
        called("c0.0", Some("x")),
        tool(failed),
        called("c0.0", None),
        tool(answered("c0.0", Value::Null)),
        called(&"long.".repeat(20), Some("")),
        tool(answered("nobody", json!("lost"))),
    ]);
    let messages = written(&asked)["messages"].as_array().unwrap().clone();
    let seen: Vec<String> = messages
        .iter()
        .map(|message| {
            let call = &message["tool_calls"][0]["id"];
            let id = if call.is_null() { &message["tool_call_id"] } else { call };
            format!("{} {} {}", message["role"].as_str().unwrap(), id.as_str().unwrap_or("-"), message["content"])
        })
        .collect();
    let expected = [
        "assistant x null",
        r#"tool x "{\"b\":[1,2.5]}""#,
        "assistant call_c0_0 null",
        r#"tool call_c0_0 "boom""#,
        "assistant call_c0_0_2 null",
        r#"tool call_c0_0_2 "null""#,
        "assistant call_long_long_long_long_long_lo null",
        r#"user - "Result of the tool f: lost""#,
    ];
    assert_eq!(seen, expected);
}

#[test]
fn arguments_that_are_no_json_go_back_as_they_came() {
    let call = ToolCall::new("c0.0", "f", r#"{"a": "#);
    let asked = request(vec![Message::new(Role::Assistant, vec![Part::text("hm"), Part::ToolCall(call)])]);
    assert_eq!(
        written(&asked)["messages"][0],
        json!({"role": "assistant", "content": "hm", "tool_calls": [
            {"id": "call_c0_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\": "}}]})
    );
}

#[test]
fn pictures_of_results_wait_until_all_results_are_told() {
    let picture = Part::Image { source: Source::Url("u".into()), media_type: None };
    let calls: Vec<Part> = called("c0.0", None).parts.into_iter().chain(called("c0.1", None).parts).collect();
    let mut first = answered("c0.0", json!("see"));
    first.content = vec![picture];
    let asked = request(vec![
        Message::new(Role::Assistant, calls),
        tool(first),
        tool(answered("c0.1", json!("ok"))),
        Message::user("go on"),
    ]);
    let messages = &written(&asked)["messages"];
    let roles: Vec<&str> = messages.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["assistant", "tool", "tool", "user", "user"]);
    assert_eq!(
        messages[3]["content"],
        json!([{"type": "text", "text": "Content of the result of the tool f:"},
            {"type": "image_url", "image_url": {"url": "u"}}])
    );
}
