//! What servers do wrong, against every kind of provider: one table, and for each line a stable code that says who, what and what to do.
#![cfg(feature = "remote")]

mod recorded;
mod server;

use std::sync::Arc;

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message as Frame};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{Answer, LlmProvider};
use lomusai_core::{Error, Result};
use lomusai_llm::{KINDS, Provider, ProviderConfig};
use lomusai_wire::{Message, ModelRequest};
use recorded::api;
use serde_json::{Value, json};
use server::{answering, response, serve};

const HEAD: &str = "HTTP/1.1 200 OK\r\nx-request-id: q1\r\nconnection: close\r\n";

/// One of each wire: their kinds differ in what is sent, not in what is understood.
const WIRES: [&str; 7] = ["openai-chat", "openai", "anthropic", "google", "bedrock", "cohere", "ollama"];

fn config(port: u16) -> ProviderConfig {
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
    config.proxy = Some("none".into());
    config.api_key = Some("sk-test-0123456789".into());
    config.model = Some("m".into());
    config.region = Some("us-east-1".into());
    config
}

async fn ask(kind: &str, config: ProviderConfig) -> Result<Answer> {
    ask_of(&Provider::new(kind, config)?).await
}

async fn ask_of(provider: &Provider) -> Result<Answer> {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user("hi"))];
    provider.generate(CallContext::new("r".into(), "1".into()), Arc::new(request)).await
}

fn sse(events: &[Value]) -> Vec<u8> {
    let event = |event: &Value| match event["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    };
    events.iter().map(event).collect::<String>().into_bytes()
}

fn frames(events: &[(&str, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in events {
        let header = |name: &'static str, value: &str| Header::new(name, HeaderValue::String(value.to_owned().into()));
        let frame = Frame::new(data.to_string())
            .add_header(header(":event-type", name))
            .add_header(header(":message-type", "event"));
        write_message_to(&frame, &mut bytes).unwrap();
    }
    bytes
}

/// A short answer, "Hello", as this wire streams it.
fn hello(kind: &str) -> Vec<u8> {
    match api(kind) {
        "openai-chat" => {
            let mut bytes = sse(&[
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]}),
            ]);
            bytes.extend_from_slice(b"data: [DONE]\n\n");
            bytes
        }
        "openai-responses" => sse(&[
            json!({"type": "response.created", "response": {"id": "r1"}}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "i1"}}),
            json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hel"}),
            json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "lo"}),
            json!({"type": "response.completed", "response": {"id": "r1", "status": "completed"}}),
        ]),
        "anthropic-messages" => sse(&[
            json!({"type": "message_start", "message": {"id": "m1", "content": []}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
            json!({"type": "message_stop"}),
        ]),
        "gemini-generate" => sse(&[
            json!({"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}),
            json!({"candidates": [{"content": {"parts": [{"text": "lo"}]}, "finishReason": "STOP"}]}),
        ]),
        "bedrock-converse" => frames(&[
            ("messageStart", json!({"role": "assistant"})),
            ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "Hel"}})),
            ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "lo"}})),
            ("contentBlockStop", json!({"contentBlockIndex": 0})),
            ("messageStop", json!({"stopReason": "end_turn"})),
            ("metadata", json!({"usage": {"inputTokens": 1, "outputTokens": 1}})),
        ]),
        "cohere-v2" => sse(&[
            json!({"type": "message-start", "id": "m1"}),
            json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hel"}}}}),
            json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "lo"}}}}),
            json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}),
        ]),
        _ => {
            let line = |text: &str, done: bool| json!({"message": {"content": text}, "done": done}).to_string() + "\n";
            (line("Hel", false) + &line("lo", true)).into_bytes()
        }
    }
}

/// The error, after checks of what every one has: who, which request, and a way out.
fn told(kind: &str, what: &str, error: &Error, with_id: bool) -> String {
    let body = error.body();
    let detail = |name: &str| body.details.get(name).and_then(Value::as_str);
    assert_eq!((detail("provider"), detail("model")), (Some(kind), Some("m")), "{kind}: {what}: {error}");
    assert!(!with_id || detail("request_id") == Some("q1"), "{kind}: {what}: {body:?}");
    let ways_out = ["Check ", "Send less", "Set ", "set ", "Try again", "try again", "raise ", "Raise "];
    assert!(ways_out.iter().any(|way| body.message.contains(way)), "{kind}: {what}: no way out: {error}");
    assert!(body.message.len() < 5_000, "{kind}: {what}");
    error.code().to_owned()
}

#[tokio::test]
async fn whatever_a_server_answers_has_a_code_and_a_way_out() {
    let page = "<!doctype html><html><title>Sign in</title></html>";
    let complaint = r#"{"error": {"message": "no such thing", "type": "t"}, "message": "no such thing"}"#;
    let whole =
        |body: &str| format!("{HEAD}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let refused = |status: &str, body: &str| response(status, "x-request-id: q1\r\n", body);
    let mut table = vec![
        ("malformed JSON", whole(r#"{"a": nope}"#), "provider_response_invalid"),
        ("JSON of something else", whole(r#"{"weather": "nice"}"#), "provider_response_invalid"),
        ("a page of HTML", whole(page), "provider_response_invalid"),
        ("a malformed event", format!("{HEAD}\r\ndata: {{\"a\": nope}}\n\n"), "provider_response_invalid"),
        ("an empty body", whole(""), "stream_truncated"),
        ("a body that ends early", format!("{HEAD}content-length: 99\r\n\r\n{{\"a\""), "stream_truncated"),
        ("half of a body", whole(r#"{"a": "#), "stream_truncated"),
    ];
    for (status, code) in [
        ("400 Bad Request", "provider_rejected"),
        ("401 Unauthorized", "credentials_rejected"),
        ("403 Forbidden", "credentials_rejected"),
        ("404 Not Found", "provider_rejected"),
        ("413 Content Too Large", "provider_rejected"),
        ("422 Unprocessable Content", "provider_rejected"),
        ("429 Too Many Requests", "provider_rate_limited"),
        ("500 Internal Server Error", "provider_failed"),
        ("503 Service Unavailable", "provider_failed"),
        ("529 Overloaded", "provider_failed"),
    ] {
        for body in [complaint, page, ""] {
            table.push((status, refused(status, body), code));
        }
    }
    for (what, answer, code) in table {
        let port = answering(answer).await;
        for kind in KINDS {
            let error = ask(kind.name, config(port)).await.map(|answer| answer.message).expect_err(kind.name);
            assert_eq!(told(kind.name, what, &error, true), code, "{}: {what}: {error}", kind.name);
        }
    }
}

#[tokio::test]
async fn a_wrong_content_type_does_not_matter() {
    for kind in KINDS {
        for content_type in ["text/html", "application/octet-stream", "application/json", "text/event-stream"] {
            let mut answer = format!("{HEAD}content-type: {content_type}\r\n\r\n").into_bytes();
            answer.extend(hello(kind.name));
            let answer = ask(kind.name, config(answering(answer).await)).await;
            assert_eq!(
                answer.map(|answer| answer.message.text()),
                Ok("Hello".into()),
                "{} as {content_type}",
                kind.name
            );
        }
    }
}

#[tokio::test]
async fn a_connection_may_end_at_any_byte() {
    for kind in WIRES {
        let mut whole = format!("{HEAD}\r\n").into_bytes();
        let head = whole.len();
        whole.extend(hello(kind));
        // The server is asked once for each place, in order.
        let (bytes, place) = (Arc::new(whole), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let length = bytes.len();
        let port = serve(move |mut connection| {
            let (bytes, place) = (bytes.clone(), place.clone());
            async move {
                connection.request().await;
                let cut = place.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                connection.send(&bytes[..cut.min(bytes.len())]).await;
            }
        })
        .await;
        let provider = Provider::new(kind, config(port)).unwrap();
        for cut in 0..=length {
            match ask_of(&provider).await {
                // What is lost comes after the finish.
                Ok(answer) => assert!(answer.message.text() == "Hello" && cut > head, "{kind} cut at {cut}"),
                Err(error) => {
                    let expected = if cut < head { "provider_unreachable" } else { "stream_truncated" };
                    let code = told(kind, &format!("cut at {cut} of {head}"), &error, cut >= head);
                    assert_eq!(code, expected, "{kind} cut at {cut} of {head}: {error}");
                    assert!(error.is_retryable() && cut < length, "{kind} cut at {cut}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_never_ends_is_ended() {
    let endless = |begin: &'static [u8], piece: Vec<u8>| {
        serve(move |mut connection| {
            let piece = piece.clone();
            async move {
                connection.request().await;
                connection.send(format!("{HEAD}\r\n")).await;
                connection.send(begin).await;
                // Until nobody listens: one gigabyte is where the test gives up.
                for _ in 0..16_384 {
                    if !connection.sent(&piece).await {
                        return;
                    }
                }
                panic!("a gigabyte was read");
            }
        })
    };
    let filler = vec![b'x'; 65_536];
    for kind in WIRES {
        let keep_alive = match api(kind) {
            "bedrock-converse" => frames(&[("messageStart", json!({"p": "x".repeat(1_000)}))]),
            "ollama-chat" => json!({"message": {"content": ""}, "done": false}).to_string().into_bytes(),
            _ => b": keep-alive\n\n".to_vec(),
        };
        let keep_alives = keep_alive.repeat(65_536 / keep_alive.len() + 1);
        for (what, port, bound) in [
            ("an endless body", endless(b"{\"a\": \"", filler.clone()).await, "max_event_bytes"),
            ("an endless line", endless(b"data: ", filler.clone()).await, "max_event_bytes"),
            ("an endless event", endless(b"", b"data: x\n".repeat(8_192)).await, "max_event_bytes"),
            ("endless keep-alives", endless(b"", keep_alives).await, "max_response_bytes"),
            (
                "a frame of sixteen megabytes",
                endless(if kind == "bedrock" { &HUGE[..] } else { &b"{\"\":\""[..] }, filler.clone()).await,
                "",
            ),
        ] {
            let mut config = config(port);
            (config.max_event_bytes, config.max_response_bytes) = (1 << 18, 1 << 22);
            let error = ask(kind, config).await.map(|answer| answer.message).expect_err(what);
            let code = told(kind, what, &error, true);
            assert_eq!(code, "provider_response_invalid", "{kind}: {what}: {error}");
            // An AWS stream has no lines: what has none of its check sums is no such stream.
            let named = error.to_string().contains(bound) || kind == "bedrock" && what != "endless keep-alives";
            assert!(named, "{kind}: {what}: {error}");
        }
    }
}

/// The beginning of a frame that says how long it is.
static HUGE: [u8; 12] = [0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xd9, 0xb4, 0xf9, 0x19];

#[tokio::test]
async fn an_error_within_a_stream_is_the_servers_own() {
    for kind in WIRES {
        let events: Vec<u8> = match api(kind) {
            "openai-chat" => sse(&[json!({"error": {"message": "too busy", "code": 529}})]),
            "openai-responses" => sse(&[json!({"type": "error", "code": "server_error", "message": "too busy"})]),
            "anthropic-messages" => {
                sse(&[json!({"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}})])
            }
            "gemini-generate" => {
                sse(&[json!({"error": {"code": 503, "message": "too busy", "status": "UNAVAILABLE"}})])
            }
            "bedrock-converse" => frames(&[("throttlingException", json!({"message": "too busy"}))]),
            "cohere-v2" => {
                sse(&[json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "too busy"}})])
            }
            _ => b"{\"error\": \"too busy\"}\n".to_vec(),
        };
        let mut answer = format!("{HEAD}\r\n").into_bytes();
        answer.extend(events);
        let error = ask(kind, config(answering(answer).await)).await.map(|answer| answer.message).expect_err(kind);
        let code = told(kind, "an error in the stream", &error, true);
        assert!(["provider_failed", "provider_rate_limited"].contains(&code.as_str()), "{kind}: {error}");
        assert!(error.to_string().contains("too busy") && error.is_retryable(), "{kind}: {error}");
    }
}
