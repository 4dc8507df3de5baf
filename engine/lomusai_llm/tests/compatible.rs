//! The provider against a server on this machine: streams, errors, timeouts, proxies and TLS.
#![cfg(feature = "compatible")]

mod server;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{Answer, LlmProvider};
use lomusai_core::{Error, Result};
use lomusai_llm::{Provider, ProviderConfig};
use lomusai_wire::{FinishReason, Message, ModelChunk, ModelRequest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use server::{STREAM, answering, response, serve, serve_wrapped};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

const KEY: &str = "sk-test-0123456789";

const HELLO: &str = r#"data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}]}

data: {"id":"x","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}

data: {"id":"x","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}

data: [DONE]

"#;

fn config(port: u16) -> ProviderConfig {
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}/v1"));
    // Whatever proxy this machine is behind, it does not lead to this machine.
    config.proxy = Some("none".into());
    config.api_key = Some(KEY.into());
    config
}

fn request() -> Arc<ModelRequest> {
    let mut request = ModelRequest::default();
    request.model = "m".into();
    request.messages = vec![Arc::new(Message::user("hi"))];
    Arc::new(request)
}

fn context() -> CallContext {
    CallContext::new("r".into(), "1".into())
}

async fn ask(config: ProviderConfig) -> Result<Answer> {
    Provider::new("compatible", config)?.generate(context(), request()).await
}

async fn refused(answer: impl Into<Vec<u8>>) -> Error {
    ask(config(answering(answer).await)).await.unwrap_err()
}

fn assert_hello(answer: Result<Answer>) {
    let answer = answer.unwrap();
    assert_eq!((answer.message.text().as_str(), answer.finish), ("Hello", FinishReason::Stop));
    assert_eq!((answer.usage.input, answer.usage.output), (9, 2));
}

#[tokio::test]
async fn a_stream_is_asked_for_and_read() {
    let (tell, mut told) = mpsc::channel(1);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            tell.send(connection.request().await).await.unwrap_or_default();
            connection.send(STREAM).await;
            connection.send(HELLO).await;
        }
    })
    .await;
    let mut config = config(port);
    config.base_url = config.base_url.map(|url| url + "/?api-version=1");
    config.headers =
        [("X-Team", "blue"), ("User-Agent", "mine")].map(|(name, value)| (name.into(), value.into())).into();
    assert_hello(ask(config).await);

    let request = told.recv().await.unwrap();
    assert!(request.head.starts_with("POST /v1/chat/completions?api-version=1 HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!((request.header("x-team"), request.header("user-agent")), (Some("blue"), Some("mine")));
    assert_eq!(
        request.body,
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true,
            "stream_options": {"include_usage": true}})
    );
}

#[tokio::test]
#[cfg(feature = "anthropic")]
async fn a_header_that_a_request_needs_stands_beside_the_hosts_own() {
    let answer = r#"{"type":"message","id":"a","role":"assistant","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn",
        "usage":{"input_tokens":9,"output_tokens":2},"input_transformations":[{"type":"thinking_dropped"}]}"#;
    let (tell, mut told) = mpsc::channel(4);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            tell.send(connection.request().await).await.unwrap_or_default();
            connection.send(response("200 OK", "content-type: application/json\r\n", answer)).await;
        }
    })
    .await;
    for (model, own, expected) in [
        ("claude-opus-5-5", None, Some("thinking-binding-controls-2026-08-01")),
        ("claude-opus-5-5", Some("mine"), Some("mine,thinking-binding-controls-2026-08-01")),
        ("claude-opus-5", Some("mine"), Some("mine")),
        ("claude-opus-5", None, None),
    ] {
        let mut config = config(port);
        config.headers = own.map(|betas| ("anthropic-beta".into(), betas.into())).into_iter().collect();
        config.model = Some(model.into());
        let mut request = ModelRequest::default();
        request.messages = vec![Arc::new(Message::user("hi"))];
        let answer = Provider::new("anthropic", config).unwrap().generate(context(), Arc::new(request)).await;
        let facts = &answer.unwrap().message.metadata["anthropic"];
        assert_eq!(facts["input_transformations"][0]["type"], "thinking_dropped", "what was left out is told");
        assert_eq!(told.recv().await.unwrap().header("anthropic-beta"), expected, "{model} {own:?}");
    }
}

#[tokio::test]
async fn chunks_come_as_the_server_sends_them() {
    let (go, going) = oneshot::channel::<()>();
    let going = Arc::new(tokio::sync::Mutex::new(Some(going)));
    let port = serve(move |mut connection| {
        let going = going.clone();
        async move {
            connection.request().await;
            connection.send(STREAM).await;
            let (first, rest) = HELLO.split_once("\n\n").unwrap();
            connection.send(format!("{first}\n\n: keep-alive\n\n")).await;
            let going = going.lock().await.take();
            let _ = going.unwrap().await;
            // In single bytes.
            for byte in rest.as_bytes() {
                connection.send([*byte]).await;
            }
        }
    })
    .await;
    let provider = Provider::new("compatible", config(port)).unwrap();
    let mut stream = provider.stream(context(), request()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ModelChunk::text("Hel"));
    go.send(()).unwrap();
    let rest: Vec<ModelChunk> = stream.map(|chunk| chunk.unwrap()).collect().await;
    assert!(rest.contains(&ModelChunk::text("lo")));
    assert_eq!(rest.last(), Some(&ModelChunk::Finish { reason: Some(FinishReason::Stop) }));
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2}});
    let port = answering(response("200 OK", "content-type: application/json\r\n", &body.to_string())).await;
    assert_hello(ask(config(port)).await);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let port = serve(move |mut connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            while connection.next_request().await.is_some() {
                connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                connection.send(format!("{:x}\r\n{HELLO}\r\n", HELLO.len())).await;
                // The end of the body comes by itself.
                tokio::task::yield_now().await;
                connection.send("0\r\n\r\n").await;
            }
        }
    })
    .await;
    let provider = Provider::new("compatible", config(port)).unwrap();
    for _ in 0..3 {
        assert_hello(provider.generate(context(), request()).await);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Answers the first request, and lets `then` have the connection; tells when that has ended.
async fn answering_once<F, Fut>(then: F) -> (u16, mpsc::Receiver<()>, Arc<AtomicUsize>)
where
    F: Fn(server::Connection) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let (tell, told) = mpsc::channel(4);
    let port = serve(move |mut connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (tell, then) = (tell.clone(), then.clone());
        async move {
            connection.request().await;
            connection.send(response("200 OK", "", HELLO)).await;
            then(connection).await;
            let _ = tell.send(()).await;
        }
    })
    .await;
    (port, told, connections)
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_not_used() {
    let (port, mut closed, connections) = answering_once(|connection| async { drop(connection) }).await;
    let provider = Provider::new("compatible", config(port)).unwrap();
    assert_hello(provider.generate(context(), request()).await);
    closed.recv().await.unwrap();
    // Another connection's traffic shows that what the first has to say has arrived as well.
    assert_hello(ask(config(answering(response("200 OK", "", HELLO)).await)).await);
    assert_hello(provider.generate(context(), request()).await);
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_request_that_the_server_may_have_seen_is_not_sent_again() {
    let (port, _closed, connections) = answering_once(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let provider = Provider::new("compatible", config(port)).unwrap();
    assert_hello(provider.generate(context(), request()).await);
    let error = provider.generate(context(), request()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("provider_unreachable", true));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_is_not_used_beyond_its_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let servers = runtime();
    let (port, _closed, connections) = servers.block_on(answering_once(|mut connection| async move {
        connection.closed().await;
    }));
    let serving = std::thread::spawn(move || servers.block_on(std::future::pending::<()>()));
    let provider = Provider::new("compatible", config(port)).unwrap();
    let (one, other) = (runtime(), runtime());
    assert_hello(one.block_on(provider.generate(context(), request())));
    // The first still lives, but nobody would look after its sockets.
    assert_hello(other.block_on(provider.generate(context(), request())));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    drop(serving);
}

#[tokio::test]
async fn a_server_that_never_hangs_up_does_not_hold_the_answer_back() {
    let port = serve(|mut connection| async move {
        connection.request().await;
        connection.send(STREAM).await;
        connection.send(HELLO).await;
        connection.closed().await;
    })
    .await;
    assert_hello(ask(config(port)).await);
}

#[tokio::test]
async fn statuses_have_codes() {
    let body = r#"{"error":{"message":"no such thing","type":"t","code":"c"}}"#;
    for (status, code, retryable) in [
        ("400 Bad Request", "provider_rejected", false),
        ("401 Unauthorized", "credentials_rejected", false),
        ("403 Forbidden", "credentials_rejected", false),
        ("404 Not Found", "provider_rejected", false),
        ("408 Request Timeout", "provider_failed", true),
        ("409 Conflict", "provider_failed", true),
        ("422 Unprocessable Content", "provider_rejected", false),
        ("429 Too Many Requests", "provider_rate_limited", true),
        ("500 Internal Server Error", "provider_failed", true),
        ("503 Service Unavailable", "provider_failed", true),
        ("529 Overloaded", "provider_failed", true),
    ] {
        let error = refused(response(status, "x-request-id: q1\r\n", body)).await;
        assert_eq!((error.code(), error.is_retryable()), (code, retryable), "{status}");
        assert!(error.body().message.contains(&format!("answered {}: no such thing", &status[..3])), "{error}");
        let details = serde_json::to_value(&error.body().details).unwrap();
        assert_eq!(
            details,
            json!({"status": status[..3].parse::<u16>().unwrap(), "provider_code": "c", "request_id": "q1",
                "provider": "compatible", "model": "m"})
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let error = refused(response("308 Permanent Redirect", "location: https://other.example/v1\r\n", "")).await;
    assert_eq!(error.code(), "provider_rejected");
    assert!(error.to_string().contains("https://other.example/v1"), "{error}");
}

#[tokio::test]
async fn retry_after_is_passed_on() {
    let error = refused(response("429 Too Many Requests", "retry-after: 3\r\n", "slow down")).await;
    assert_eq!(error.body().retry_after_ms, Some(3_000));
    assert!(error.to_string().contains("slow down"), "{error}");
    let dates = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:42 GMT\r\n";
    let error = refused(response("503 Service Unavailable", dates, "")).await;
    assert_eq!((error.code(), error.body().retry_after_ms), ("provider_failed", Some(5_000)));
}

#[tokio::test]
async fn a_long_error_is_cut_and_a_key_in_it_hidden() {
    let body = format!(r#"{{"message": "key {KEY} is wrong, {}"}}"#, "very ".repeat(5_000));
    let error = refused(response("401 Unauthorized", "", &body)).await;
    assert!(error.to_string().contains("key *** is wrong"), "{error}");
    assert!(error.to_string().len() < 5_000);
    // Larger than what is read of it.
    let error = refused(response("500 Internal Server Error", "", &"x".repeat(1 << 20))).await;
    assert!(error.to_string().len() < 1_000, "{error}");
    let in_stream = format!("{STREAM}data: {{\"error\": \"bad key {KEY}\"}}\n\n");
    assert!(refused(in_stream).await.to_string().contains("bad key ***"));
}

#[tokio::test]
async fn a_cut_stream_is_told_after_what_it_said() {
    let chunked = |bytes: &str| format!("{:x}\r\n{bytes}\r\n", bytes.len());
    let said = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    for cut in [
        // The connection ends within a chunked body, within an event, and where it may.
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", chunked(said)),
        format!("{STREAM}{said}data: {{\"cho"),
        format!("{STREAM}{said}"),
    ] {
        let provider = Provider::new("compatible", config(answering(cut).await)).unwrap();
        let mut stream = provider.stream(context(), request()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), ModelChunk::text("Hel"));
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), "stream_truncated");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_bad_end_after_the_finish_costs_only_the_usage() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n";
    let cut = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n", event.len());
    let answer = ask(config(answering(cut).await)).await.unwrap();
    assert_eq!((answer.message.text().as_str(), answer.usage.is_empty()), ("hi", true));
}

#[tokio::test]
async fn nonsense_is_invalid() {
    let error = refused(response("200 OK", "content-type: text/html\r\n", "<html>login</html>")).await;
    assert_eq!(error.code(), "provider_response_invalid");
    assert!(error.to_string().contains("<html>login"), "{error}");
    let mut small = config(answering(format!("{STREAM}data: {}", "x".repeat(2_000))).await);
    small.max_event_bytes = 1_000;
    let error = ask(small).await.unwrap_err();
    assert_eq!(error.code(), "provider_response_invalid");
    assert!(error.to_string().contains("max_event_bytes = 1000"), "{error}");
}

#[tokio::test]
async fn silence_times_out_before_the_head_and_between_pieces() {
    for said in ["", STREAM] {
        let port = serve(move |mut connection| async move {
            connection.request().await;
            connection.send(said).await;
            connection.closed().await;
        })
        .await;
        let mut config = config(port);
        config.timeouts.idle_ms = 50;
        let error = ask(config).await.unwrap_err();
        assert_eq!(error.code(), "model_timeout");
        assert!(error.to_string().contains("idle_ms = 50"), "{error}");
    }
}

#[tokio::test]
async fn keep_alives_keep_a_slow_stream_alive() {
    let port = serve(|mut connection| async move {
        connection.request().await;
        connection.send(STREAM).await;
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            connection.send(": still thinking\n\n").await;
        }
        connection.send(HELLO).await;
    })
    .await;
    let mut config = config(port);
    config.timeouts.idle_ms = 300;
    assert_hello(ask(config).await);
}

/// A server that says this much and then waits; tells when the client has gone.
async fn waiting(said: &'static str) -> (u16, mpsc::Receiver<&'static str>) {
    let (tell, told) = mpsc::channel(4);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            connection.request().await;
            connection.send(said).await;
            let _ = tell.send("asked").await;
            connection.closed().await;
            let _ = tell.send("closed").await;
        }
    })
    .await;
    (port, told)
}

#[tokio::test]
async fn cancelling_closes_the_connection_while_the_head_is_awaited() {
    let (port, mut told) = waiting("").await;
    let (context, provider) = (context(), Provider::new("compatible", config(port)).unwrap());
    let cancel = context.cancel.clone();
    let asking = tokio::spawn(async move { provider.stream(context, request()).await.map(|_| ()) });
    assert_eq!(told.recv().await, Some("asked"));
    cancel.cancel();
    assert_eq!(asking.await.unwrap().unwrap_err().code(), "run_cancelled");
    assert_eq!(told.recv().await, Some("closed"));
}

#[tokio::test]
async fn cancelling_ends_a_stream_and_dropping_it_closes_the_connection() {
    const SAID: &str = "HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    for cancelled in [false, true] {
        let (port, mut told) = waiting(SAID).await;
        let (context, provider) = (context(), Provider::new("compatible", config(port)).unwrap());
        let cancel = context.cancel.clone();
        let mut stream = provider.stream(context, request()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), ModelChunk::text("Hel"));
        assert_eq!(told.recv().await, Some("asked"));
        if cancelled {
            cancel.cancel();
            assert_eq!(stream.next().await.unwrap().unwrap_err().code(), "run_cancelled");
        }
        drop(stream);
        assert_eq!(told.recv().await, Some("closed"));
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named_and_the_key_is_not() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut config = config(closed);
    config.base_url = config.base_url.map(|url| url + "?token=hidden");
    let error = ask(config).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("provider_unreachable", true));
    assert!(error.to_string().contains(&format!("127.0.0.1:{closed}")), "{error}");
    assert!(!error.to_string().contains(KEY) && !error.to_string().contains("hidden"), "{error}");
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let provider = Provider::new("compatible", config(1)).unwrap();
    let asked = lomusai_core::testing::block_on(provider.stream(context(), request()));
    assert_eq!(asked.map(|_| ()).unwrap_err().code(), "unsupported");
}

#[test]
fn settings_are_checked_and_named() {
    let broken = |change: &dyn Fn(&mut ProviderConfig)| {
        let mut config = config(1);
        change(&mut config);
        let error = Provider::new("compatible", config).unwrap_err();
        assert!(["argument_invalid", "credentials_missing"].contains(&error.code()), "{error}");
        error.to_string()
    };
    for (url, named) in [
        ("api.example/v1", "api.example/v1"),
        ("ftp://api.example", "ftp://api.example"),
        ("http://", "base_url"),
        ("https://me:pass@api.example", "user name"),
    ] {
        let error = broken(&|config| config.base_url = Some(url.into()));
        assert!(error.contains(named) && !error.contains("pass@"), "{error}");
    }
    let unset = |config: &mut ProviderConfig| {
        (config.api_key, config.api_key_env) = (None, Some("LOMUSAI_TEST_NO_SUCH_KEY".into()));
    };
    assert!(broken(&unset).contains("LOMUSAI_TEST_NO_SUCH_KEY"));
    assert!(broken(&|config| config.headers = [("a b".into(), "c".into())].into()).contains("a b"));
    assert!(!broken(&|config| config.api_key = Some("secret\nkey".into())).contains("secret"));
    assert!(broken(&|config| config.timeouts.idle_ms = 0).contains("idle_ms"));
    assert!(broken(&|config| config.ca_file = Some("no/such/file.pem".into())).contains("no/such/file.pem"));
    assert!(broken(&|config| config.ca_pem = Some("not pem".into())).contains("ca_pem"));
    let error = broken(&|config| config.proxy = Some("socks5://me:pass@proxy.example".into()));
    assert!(error.contains("proxy") && !error.contains("pass"), "{error}");
}

#[test]
fn settings_are_read_from_json_and_hide_their_secrets() {
    let config: ProviderConfig = serde_json::from_value(json!({
        "base_url": "https://api.example/v1", "api_key": KEY, "headers": {"x-key": "hidden-header"},
        "proxy": "http://me:hidden-pass@proxy.example", "timeouts": {"idle_ms": 7},
    }))
    .unwrap();
    assert_eq!((config.timeouts.connect_ms, config.timeouts.idle_ms), (10_000, 7));
    let provider = Provider::new("compatible", config.clone()).unwrap();
    let shown = format!("{config:?} {provider:?}");
    assert!(!shown.contains(KEY) && !shown.contains("hidden"), "{shown}");
    let unknown = json!({"base_url": "https://api.example/v1", "organisation": "x"});
    assert!(serde_json::from_value::<ProviderConfig>(unknown).is_err());
}

#[tokio::test]
async fn a_key_is_read_from_the_environment() {
    let (tell, mut told) = mpsc::channel(1);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            tell.send(connection.request().await).await.unwrap_or_default();
            connection.send(format!("{STREAM}{HELLO}")).await;
        }
    })
    .await;
    let mut config = config(port);
    // A variable that the test runner sets.
    (config.api_key, config.api_key_env) = (None, Some("CARGO_PKG_NAME".into()));
    assert_hello(ask(config).await);
    assert_eq!(told.recv().await.unwrap().header("authorization"), Some("Bearer lomusai_llm"));
}

#[tokio::test]
async fn a_proxy_gets_the_whole_address() {
    let (tell, mut told) = mpsc::channel(1);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            tell.send(connection.request().await).await.unwrap_or_default();
            connection.send(format!("{STREAM}{HELLO}")).await;
        }
    })
    .await;
    let mut config = ProviderConfig::new("http://model.invalid/v1/");
    config.proxy = Some(format!("http://me:pass@127.0.0.1:{port}").into());
    assert_hello(ask(config).await);
    let request = told.recv().await.unwrap();
    assert!(request.head.starts_with("POST http://model.invalid/v1/chat/completions HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6cGFzcw=="));
}

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// What speaks TLS as `localhost`, by an authority of our own.
fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(format!("{DATA}/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(format!("{DATA}/server.key")).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(tls))
}

/// Serves each connection over TLS.
async fn serve_tls<F, Fut>(protocols: &[&[u8]], handler: F) -> u16
where
    F: Fn(server::Connection) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let acceptor = acceptor(protocols);
    let wrap = move |socket| {
        let acceptor = acceptor.clone();
        let accepted = async move { Some(Box::new(acceptor.accept(socket).await.ok()?) as Box<dyn server::Socket>) };
        Box::pin(accepted) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    serve_wrapped(Box::new(wrap), handler).await
}

fn tls_config(port: u16) -> ProviderConfig {
    let mut config = config(port);
    config.base_url = Some(format!("https://localhost:{port}/v1"));
    config.ca_file = Some(format!("{DATA}/ca.pem").into());
    config
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let port = serve_tls(&[], |mut connection| async move {
        connection.request().await;
        connection.send(format!("{STREAM}{HELLO}")).await;
    })
    .await;
    let mut config = tls_config(port);
    let authority = config.ca_file.take();
    // Some machines have no authorities at all; then a provider over TLS says so at once.
    match Provider::new("compatible", config.clone()) {
        Ok(stranger) => {
            let error = stranger.generate(context(), request()).await.unwrap_err();
            assert_eq!(error.code(), "provider_unreachable");
            assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
        }
        Err(error) => assert_eq!(error.code(), "argument_invalid"),
    }
    config.ca_file = authority;
    assert_hello(ask(config.clone()).await);
    (config.ca_pem, config.ca_file) = (Some(std::fs::read_to_string(config.ca_file.unwrap()).unwrap()), None);
    assert_hello(ask(config).await);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "the process is the host's: nothing is installed");
}

#[tokio::test]
async fn a_proxy_leads_to_a_server_over_tls_without_seeing_what_is_said() {
    let (tell, mut told) = mpsc::channel(1);
    let port = serve(move |mut connection| {
        let tell = tell.clone();
        async move {
            tell.send(connection.request().await).await.unwrap_or_default();
            connection.send("HTTP/1.1 200 Connection established\r\n\r\n").await;
            let socket = acceptor(&[]).accept(connection.0).await.unwrap();
            let mut connection = server::Connection(Box::new(socket));
            let request = connection.request().await;
            assert_eq!(request.header("proxy-authorization"), None);
            connection.send(format!("{STREAM}{HELLO}")).await;
        }
    })
    .await;
    let mut config = tls_config(4_433);
    config.proxy = Some(format!("http://me:pass@127.0.0.1:{port}").into());
    assert_hello(ask(config).await);
    let request = told.recv().await.unwrap();
    assert!(request.head.starts_with("CONNECT localhost:4433 HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6cGFzcw=="));
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_offers_it_and_shares_one_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let (tell, mut told) = mpsc::channel(8);
    let port = serve_tls(&[b"h2", b"http/1.1"], move |connection| {
        counted.fetch_add(1, Ordering::SeqCst);
        let tell = tell.clone();
        async move {
            let mut connection = h2::server::handshake(connection.0).await.unwrap();
            let mut open = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
                sending.send_data(HELLO.into(), false).unwrap();
                // Without an end, and alive: the answer has said its own.
                open.push(sending);
                tell.send(request.into_parts().0).await.unwrap();
            }
        }
    })
    .await;
    let provider = Provider::new("compatible", tls_config(port)).unwrap();
    assert_hello(provider.generate(context(), request()).await);
    let asked = told.recv().await.unwrap();
    assert_eq!(asked.uri.to_string(), format!("https://localhost:{port}/v1/chat/completions"));
    assert_eq!(
        (asked.headers.get("host"), asked.headers["authorization"].to_str().unwrap()),
        (None, &*format!("Bearer {KEY}"))
    );
    let (one, two) = tokio::join!(provider.generate(context(), request()), provider.generate(context(), request()));
    assert_hello(one);
    assert_hello(two);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
