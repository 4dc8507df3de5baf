//! The decoder alone: what servers send in place of what the API promises.
#![cfg(feature = "compatible")]

mod decoder;

use decoder::{answer, chunks};
use lomusai_core::llm::Answer;
use lomusai_wire::{FinishReason, ModelChunk};
use serde_json::{Value, json};

/// A stream of these events, with `[DONE]` at its end.
fn stream(events: &[Value]) -> String {
    let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    events + "data: [DONE]\n\n"
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn read(events: &[Value]) -> Answer {
    let text = stream(events);
    answer([text.as_bytes()]).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn code(bytes: &str) -> String {
    answer([bytes.as_bytes()]).unwrap_err().code().to_owned()
}

/// The calls of an answer as `id name arguments`. Each event is a list of call deltas.
fn calls(events: Value) -> Vec<String> {
    let mut events: Vec<Value> =
        events.as_array().unwrap().iter().map(|calls| delta(json!({"tool_calls": calls}))).collect();
    events.push(finish("tool_calls"));
    let answer = read(&events);
    let shown = |call: &lomusai_wire::ToolCall| {
        format!("{} {} {}", call.provider_id.as_deref().unwrap_or("-"), call.name, call.arguments)
    };
    answer.message.tool_calls().map(shown).collect()
}

fn call(index: Option<u64>, id: Option<&str>, name: Option<&str>, arguments: Option<&str>) -> Value {
    let mut call = json!({"function": {}});
    for (field, value) in [("index", index.map(Value::from)), ("id", id.map(Value::from))] {
        if let Some(value) = value {
            call[field] = value;
        }
    }
    for (field, value) in [("name", name), ("arguments", arguments)] {
        if let Some(value) = value {
            call["function"][field] = value.into();
        }
    }
    call
}

#[test]
fn calls_as_the_api_sends_them() {
    assert_eq!(
        calls(json!([
            [call(Some(0), Some("a"), Some("f"), Some(""))],
            [call(Some(0), None, None, Some(r#"{"x""#))],
            [call(Some(0), None, None, Some(":1}"))],
            [call(Some(1), Some("b"), Some("g"), Some(""))],
            [call(Some(1), None, None, Some("{}"))],
        ])),
        [r#"a f {"x":1}"#, "b g {}"]
    );
}

#[test]
fn pieces_of_parallel_calls_may_alternate() {
    assert_eq!(
        calls(json!([
            [call(Some(0), Some("a"), Some("f"), Some("{")), call(Some(1), Some("b"), Some("g"), Some("{"))],
            [call(Some(1), None, None, Some(r#""y":2"#)), call(Some(0), None, None, Some(r#""x":1"#))],
            [call(Some(0), None, None, Some("}"))],
            [call(Some(1), None, None, Some("}"))],
        ])),
        [r#"a f {"x":1}"#, r#"b g {"y":2}"#]
    );
}

#[test]
fn one_index_for_every_call() {
    let whole = |id, name| call(Some(0), id, name, Some(r#"{"x":1}"#));
    let expected = [r#"a f {"x":1}"#, r#"b f {"x":1}"#];
    assert_eq!(calls(json!([[whole(Some("a"), Some("f"))], [whole(Some("b"), Some("f"))]])), expected);
    assert_eq!(calls(json!([[whole(Some("a"), Some("f")), whole(Some("b"), Some("f"))]])), expected);
    // The name of the second comes late.
    assert_eq!(
        calls(json!([
            [whole(Some("a"), Some("f"))],
            [call(Some(0), Some("b"), None, Some(""))],
            [call(Some(0), Some("b"), Some("g"), Some("{}"))]
        ])),
        [r#"a f {"x":1}"#, "b g {}"]
    );
    // Neither ids nor differing indices.
    let again = call(Some(0), None, Some("f"), Some(r#"{"x":2}"#));
    assert_eq!(calls(json!([[whole(None, Some("f"))], [again]])), [r#"- f {"x":1}"#, r#"- f {"x":2}"#]);
    // Calls without arguments are complete from the beginning.
    let bare = |id, name| call(Some(0), Some(id), Some(name), Some(""));
    assert_eq!(calls(json!([[bare("a", "f")], [bare("b", "g")]])), ["a f {}", "b g {}"]);
}

#[test]
fn no_index_at_all() {
    let piece = |id, name, arguments| call(None, id, name, Some(arguments));
    let expected = [r#"a f {"x":1}"#, r#"b g {"y":2}"#];
    // By id.
    assert_eq!(
        calls(json!([
            [piece(Some("a"), Some("f"), "{")],
            [piece(Some("b"), Some("g"), "{")],
            [piece(Some("a"), None, r#""x":1}"#)],
            [piece(Some("b"), None, r#""y":2}"#)]
        ])),
        expected
    );
    // The last one.
    assert_eq!(
        calls(json!([
            [piece(Some("a"), Some("f"), "{")],
            [piece(None, None, r#""x":1}"#)],
            [piece(Some("b"), Some("g"), "")],
            [piece(None, None, r#"{"y":2}"#)]
        ])),
        expected
    );
    // By position.
    assert_eq!(
        calls(json!([
            [piece(Some("a"), Some("f"), "{"), piece(Some("b"), Some("g"), "{")],
            [piece(None, None, r#""x":1}"#), piece(None, None, r#""y":2}"#)]
        ])),
        expected
    );
    // By name only.
    assert_eq!(
        calls(json!([[piece(None, Some("f"), "{}")], [piece(None, Some("g"), "{}")], [piece(None, Some("g"), "{ }")]])),
        ["- f {}", "- g {}", "- g { }"]
    );
}

#[test]
fn names_and_ids_come_late_repeat_or_come_in_pieces() {
    let first = |id, name, arguments| call(Some(0), id, name, Some(arguments));
    assert_eq!(calls(json!([[first(None, None, "{")], [first(Some("a"), Some("f"), "}")]])), ["a f {}"]);
    assert_eq!(
        calls(json!([
            [first(Some("a"), Some("f"), "{")],
            [first(Some("a"), Some("f"), "}")],
            [first(Some(""), Some(""), "")]
        ])),
        ["a f {}"]
    );
    assert_eq!(
        calls(json!([
            [first(Some("a"), Some("get_"), "")],
            [first(None, Some("time"), "")],
            [first(None, None, "{}")]
        ])),
        ["a get_time {}"]
    );
    // A new id for every piece, as a server makes them up.
    assert_eq!(calls(json!([[first(Some("a"), Some("f"), "{")], [first(Some("b"), None, "}")]])), ["a f {}"]);
}

#[test]
fn a_wrong_index_on_the_rest_of_a_call() {
    // With the id.
    assert_eq!(
        calls(json!([[call(Some(0), Some("a"), Some("f"), Some("{"))], [call(Some(1), Some("a"), None, Some("}"))]])),
        ["a f {}"]
    );
    // With nothing: the rest completes the call before.
    assert_eq!(
        calls(json!([
            [call(Some(0), Some("a"), Some("f"), Some(r#"{"x":"#))],
            [call(Some(1), None, None, Some("1"))],
            [call(Some(1), None, None, Some("}"))]
        ])),
        [r#"a f {"x":1}"#]
    );
    // It completes nothing: kept, so that the model is told that there is no such tool.
    assert_eq!(
        calls(json!([[call(Some(0), Some("a"), Some("f"), Some("{}"))], [call(Some(1), None, None, Some("{}"))]])),
        ["a f {}", "-  {}"]
    );
}

#[test]
fn repeated_ids_are_two_calls_and_a_repeated_call_is_one() {
    let other = |index| call(index, Some("a"), Some("f"), Some(r#"{"x":2}"#));
    for index in [Some(0), None] {
        let whole = call(index, Some("a"), Some("f"), Some(r#"{"x":1}"#));
        assert_eq!(calls(json!([[whole], [whole]])), [r#"a f {"x":1}"#], "a server that ends with the whole once more");
        assert_eq!(calls(json!([[whole], [other(index)]])), [r#"a f {"x":1}"#, r#"a f {"x":2}"#]);
    }
    let whole = call(Some(0), Some("a"), Some("f"), Some(r#"{"x":1}"#));
    assert_eq!(calls(json!([[whole], [other(Some(1))]])), [r#"a f {"x":1}"#, r#"a f {"x":2}"#]);
}

#[test]
fn arguments_may_be_an_object_null_or_absent() {
    let with = |arguments: Value| json!([[{"index": 0, "id": "a", "function": {"name": "f", "arguments": arguments}}]]);
    assert_eq!(calls(with(json!({"x": 1}))), [r#"a f {"x":1}"#]);
    assert_eq!(calls(with(Value::Null)), ["a f {}"]);
    assert_eq!(calls(json!([[call(Some(0), Some("a"), Some("f"), None)]])), ["a f {}"]);
    // Order and spelling are the model's.
    let text = r#"data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":{"z":1e2, "a":2}}}]}}]}

data: [DONE]

"#;
    let answer = answer([text.as_bytes()]).unwrap();
    assert_eq!(answer.message.tool_calls().next().unwrap().arguments, r#"{"z":1e2, "a":2}"#);
}

#[test]
fn the_form_before_tool_calls() {
    let answer = read(&[
        delta(json!({"function_call": {"name": "f", "arguments": "{"}})),
        delta(json!({"function_call": {"arguments": "}"}})),
        finish("function_call"),
    ]);
    let call = answer.message.tool_calls().next().unwrap();
    assert_eq!((&*call.name, &*call.arguments, answer.finish), ("f", "{}", FinishReason::ToolCalls));
}

#[test]
fn reasoning_has_two_names_and_is_told_once() {
    let answer = read(&[
        delta(json!({"reasoning_content": "a", "reasoning": "a"})),
        delta(json!({"reasoning": "b", "content": ""})),
        delta(json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "c"}]}]})),
        delta(json!({"content": [{"type": "text", "text": "said"}]})),
        finish("stop"),
    ]);
    let parts = serde_json::to_value(&answer.message.parts).unwrap();
    assert_eq!(parts, json!([{"type": "reasoning", "text": "abc"}, {"type": "text", "text": "said"}]));
}

#[test]
fn a_refusal_is_text_and_marked() {
    let answer = read(&[delta(json!({"refusal": "I ca"})), delta(json!({"refusal": "nnot"})), finish("stop")]);
    assert_eq!(answer.message.text(), "I cannot");
    assert_eq!(answer.message.metadata["compatible"]["refusal"], "I cannot");
}

#[test]
fn facts_about_the_answer_are_kept() {
    let mut event = delta(json!({"content": "hi", "annotations": [1]}));
    for (field, value) in [("id", "x"), ("model", "m"), ("system_fingerprint", "fp"), ("object", "no")] {
        event[field] = value.into();
    }
    let mut last = finish("strange");
    last["choices"][0]["delta"]["annotations"] = json!([2]);
    let answer = read(&[event.clone(), last]);
    let expected =
        json!({"id": "x", "model": "m", "system_fingerprint": "fp", "annotations": [1, 2], "finish_reason": "strange"});
    assert_eq!((answer.finish, &answer.message.metadata["compatible"]), (FinishReason::Other, &expected));
    // Told at once, and not again with every event.
    let told = chunks([stream(&[event.clone(), delta(json!({"content": "!"})), finish("stop")]).as_bytes()]).unwrap();
    assert_eq!(told.iter().filter(|chunk| matches!(chunk, ModelChunk::Metadata { .. })).count(), 1);
}

#[test]
fn finish_reasons_have_one_meaning() {
    for (reason, expected) in [
        ("stop", FinishReason::Stop),
        ("length", FinishReason::Length),
        ("content_filter", FinishReason::ContentFilter),
        ("model_length", FinishReason::Length),
        ("whatever", FinishReason::Other),
    ] {
        assert_eq!(read(&[delta(json!({"content": "x"})), finish(reason)]).finish, expected, "{reason}");
    }
    let called = delta(json!({"tool_calls": [call(Some(0), Some("a"), Some("f"), Some("{}"))]}));
    assert_eq!(read(&[called.clone(), finish("stop")]).finish, FinishReason::ToolCalls);
    assert_eq!(read(&[called.clone(), finish("length")]).finish, FinishReason::Length);
    assert_eq!(read(&[called]).finish, FinishReason::ToolCalls, "[DONE] without a reason");
}

#[test]
fn the_last_usage_counts() {
    let counted = |prompt: u64| json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 1}});
    let answer =
        read(&[counted(1), delta(json!({"content": "x"})), finish("stop"), counted(7), json!({"usage": null})]);
    assert_eq!((answer.usage.input, answer.usage.output), (7, 1));
}

#[test]
fn only_the_first_choice_is_read() {
    let second = json!({"choices": [{"index": 1, "delta": {"content": "no"}}]});
    assert_eq!(read(&[delta(json!({"content": "yes"})), second, finish("stop")]).message.text(), "yes");
}

#[test]
fn what_is_new_counts_where_a_server_also_sends_all_so_far() {
    let both = |new: &str, all: &str| json!({"choices": [{"delta": {"content": new}, "message": {"content": all}, "finish_reason": null}]});
    let end = json!({"choices": [{"delta": {"content": ""}, "message": {"content": "ab"}, "finish_reason": "stop"}]});
    assert_eq!(read(&[both("a", "a"), both("b", "ab"), end]).message.text(), "ab");
    // One event with a whole message.
    let only = json!({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]});
    assert_eq!(read(&[only]).message.text(), "whole");
}

#[test]
fn a_body_is_read_as_well_as_a_stream() {
    let body = json!({"id": "x", "choices": [{"index": 0, "finish_reason": "stop", "message": {
        "content": "hi", "reasoning_content": "hm",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "a", "function": {"name": "f", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    .to_string();
    let answer = answer([b"\n ".as_slice(), body.as_bytes(), b"\n"]).unwrap();
    assert_eq!((answer.message.text().as_str(), answer.message.tool_calls().count()), ("hi", 2));
    assert_eq!((answer.finish, answer.usage.output), (FinishReason::ToolCalls, 4));
    assert_eq!(code(&body[..body.len() - 2]), "stream_truncated");
}

#[test]
fn a_stream_ends_with_its_reason_or_not_at_all() {
    let event = |event: Value| format!("data: {event}\n\n");
    let said = event(delta(json!({"content": "x"})));
    assert_eq!(code(""), "stream_truncated");
    assert_eq!(code(": keep-alive\n\n"), "stream_truncated");
    assert_eq!(code(&said), "stream_truncated");
    assert_eq!(code("data: [DONE]\n\n"), "stream_truncated");
    assert_eq!(code(&format!("{said}data: {{\"choi")), "stream_truncated");
    for end in ["", "data: [DONE]", "data: [DONE]\n\ndata: nonsense\n\n"] {
        assert_eq!(answer([format!("{said}{}{end}", event(finish("stop"))).as_bytes()]).unwrap().message.text(), "x");
    }
}

#[test]
fn errors_within_a_stream_have_the_code_of_their_kind() {
    let in_stream = |error: Value| code(&format!("data: {}\n\ndata: {error}\n\n", delta(json!({"content": "x"}))));
    for (error, expected) in [
        (json!({"error": {"message": "m", "code": 400}}), "provider_rejected"),
        (json!({"error": {"message": "m", "code": 429}}), "provider_rate_limited"),
        (json!({"error": {"message": "m", "code": 502}, "choices": []}), "provider_failed"),
        (json!({"error": {"message": "m", "type": "invalid_request_error"}}), "provider_rejected"),
        (json!({"error": {"message": "m", "type": "rate_limit_exceeded"}}), "provider_rate_limited"),
        (json!({"error": {"message": "m", "type": "authentication_error"}}), "credentials_rejected"),
        (json!({"error": {"message": "m", "type": "server_error"}}), "provider_failed"),
        (json!({"error": "m"}), "provider_failed"),
        (json!({"object": "error", "message": "m", "code": 400}), "provider_rejected"),
        (json!({"error": {"message": "m", "type": "image_too_large"}}), "provider_rejected"),
        (json!({"error": {"message": "m", "type": "cyber_policy"}}), "provider_rejected"),
        (json!({"error": {"message": "m", "code": "credit_balance_exhausted"}}), "provider_rate_limited"),
        (json!({"error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}), "provider_rate_limited"),
        (json!({"choices": [{"delta": {}, "error": {"message": "m", "code": 429}}]}), "provider_rate_limited"),
        (finish("error"), "provider_failed"),
        (finish("abort"), "provider_failed"),
        (finish("insufficient_system_resource"), "provider_failed"),
    ] {
        assert_eq!(in_stream(error.clone()), expected, "{error}");
    }
    assert_eq!(code("event: error\ndata: {\"message\": \"m\"}\n\n"), "provider_failed");
    assert_eq!(code(r#"{"error": {"message": "m", "code": 429}}"#), "provider_rate_limited");
    assert_eq!(code(r#"[{"error": {"message": "m", "code": 400}}]"#), "provider_rejected");
}

#[test]
fn nonsense_is_shown() {
    for nonsense in ["<html>busy</html>", "data: {oops}\n\ndata: [DONE]\n\n", r#"{"hello": 1}"#, "{1}", "[]"] {
        assert_eq!(code(nonsense), "provider_response_invalid", "{nonsense}");
    }
    let error = answer([b"<html>busy</html>".as_slice()]).unwrap_err();
    assert!(error.to_string().contains("<html>busy"), "{error}");
}
