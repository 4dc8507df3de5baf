//! A secret shows nowhere: it is put into every place that takes one, and whatever comes out is searched for it, in every writing.
#![cfg(feature = "remote")]

mod server;

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use futures_util::StreamExt;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{EmbeddingProvider, LlmProvider};
use lomusai_llm::{Embedder, KINDS, Provider, ProviderConfig, Router, Secret};
use lomusai_wire::{Message, ModelRequest};
use server::{Request, STREAM, response, serve};

/// With what must be escaped in a URL, and in JSON.
const CANARY: &str = "canary/7f3a+9c=\\\"0123456789";

/// Where the secret is found in a text, if anywhere.
fn found(text: &str) -> Option<String> {
    let url: String = url_escaped(CANARY);
    let json = serde_json::to_string(CANARY).unwrap();
    let mut writings = vec![CANARY.to_owned(), url.to_lowercase(), url, json.trim_matches('"').to_owned()];
    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
        writings.push(engine.encode(CANARY));
        // Within a longer text base64 begins at any of three places; its middle tells.
        for shift in 0..3 {
            let shifted = engine.encode(format!("{}{CANARY}", &"aaa"[..shift]));
            writings.push(shifted[4..shifted.len() - 4].to_owned());
        }
    }
    writings.push(STANDARD.encode(STANDARD.encode(CANARY)));
    writings.into_iter().find(|writing| text.contains(writing.as_str()))
}

fn url_escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn config(port: u16) -> ProviderConfig {
    let secret = || Some(Secret::new(CANARY));
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}/?token={}", url_escaped(CANARY)));
    (config.api_key, config.access_key_id, config.secret_access_key, config.session_token) =
        (secret(), secret(), secret(), secret());
    config.headers = [("x-secret".to_owned(), Secret::new(format!("Bearer {CANARY}")))].into();
    (config.proxy, config.region, config.model) = (Some("none".into()), Some("us-east-1".into()), Some("m".into()));
    config
}

fn clean(what: &str, text: &str) {
    assert_eq!(found(text), None, "{what} shows the secret: {text}");
}

/// Serves each request with what quotes it whole, in several writings.
async fn quoting(answer: fn(&Request) -> Vec<u8>) -> u16 {
    serve(move |mut connection| async move {
        // Then closes: some of these answers have no other end.
        if let Some(request) = connection.next_request().await {
            connection.send(answer(&request)).await;
        }
    })
    .await
}

fn quotes(request: &Request) -> String {
    format!("you sent {} and {} or {}", request.head, STANDARD.encode(CANARY), url_escaped(CANARY))
}

/// Listens to all that this crate's dependencies say by `log` and `tracing`, in the finest grain.
#[derive(Default)]
struct Listener(Mutex<String>);

static LISTENER: LazyLock<Listener> = LazyLock::new(Listener::default);

impl Listener {
    fn hear(&self, fields: impl FnOnce(&mut dyn tracing::field::Visit)) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write;
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        fields(&mut Fields(&mut self.0.lock().unwrap()));
    }
}

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push_str(&format!("{} ", record.args()));
    }

    fn flush(&self) {}
}

impl tracing::Subscriber for &'static Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.hear(|visit| span.record(visit));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        self.hear(|visit| values.record(visit));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.hear(|visit| event.record(visit));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn no_error_event_log_or_debug_output_shows_a_secret() {
    log::set_logger(&*LISTENER).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    tracing::subscriber::set_global_default(&*LISTENER).unwrap();
    let refusing = quoting(|request| {
        let body = serde_json::json!({"error": {"message": quotes(request), "code": CANARY, "type": CANARY}, "message": quotes(request)});
        response("401 Unauthorized", "content-type: application/json\r\n", &body.to_string()).into_bytes()
    })
    .await;
    let garbling = quoting(|request| {
        response("200 OK", "content-type: text/html\r\n", &format!("<p>{}", quotes(request))).into_bytes()
    })
    .await;
    let breaking = quoting(|request| {
        let error = serde_json::json!({"error": {"message": quotes(request), "code": 500}, "type": "error"});
        format!("{STREAM}event: error\ndata: {error}\n\n").into_bytes()
    })
    .await;
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user("hi"))];
    let request = Arc::new(request);
    for kind in KINDS {
        // A port where nobody listens: the address may not show either.
        for port in [refusing, garbling, breaking, 1] {
            clean("the settings", &format!("{:?} {:#?}", config(port), config(port)));
            let provider = Provider::new(kind.name, config(port)).unwrap();
            clean("the provider", &format!("{provider:?} {provider:#?}"));
            let context = CallContext::new("r".into(), "1".into());
            let outcome = match provider.stream(context, request.clone()).await {
                Err(error) => Err(error),
                Ok(stream) => stream.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>(),
            };
            let error = outcome.expect_err("none of them answers");
            clean(kind.name, &format!("{error} {error:?} {}", serde_json::to_string(error.body()).unwrap()));
            // Who listens to everything hears something of each, and nothing of the secret.
            clean("a log", &std::mem::take(&mut *LISTENER.0.lock().unwrap()));
            if let Ok(embedder) = Embedder::new(kind.name, 2, config(port)) {
                let error = embedder.embed(&["a"]).await.unwrap_err();
                clean(
                    "the embedder",
                    &format!("{embedder:?} {error} {}", serde_json::to_string(error.body()).unwrap()),
                );
            }
        }
        let table = serde_json::json!({kind.name: {"base_url": format!("http://h/?token={}", url_escaped(CANARY)),
            "api_key": CANARY, "headers": {"x-secret": CANARY}, "proxy": format!("http://u:{}@h", url_escaped(CANARY))}});
        let router = Router::from_json(&table.to_string()).unwrap();
        clean("the router", &format!("{router:?} {router:#?} {:?}", lomusai_core::llm::Router::providers(&router)));
        clean("a kind", &format!("{kind:?}"));
        // Settings that are refused do not repeat what they hold.
        for spoil in [
            (|config| config.base_url = Some(format!("http://u:{CANARY}@h"))) as fn(&mut ProviderConfig),
            |config| config.api_key = Some(Secret::new(format!("{CANARY}\n"))),
            |config| config.proxy = Some(Secret::new(format!("ftp://{CANARY}"))),
            |config| config.headers = [("x".to_owned(), Secret::new(format!("{CANARY}\n")))].into(),
        ] {
            let mut config = config(1);
            spoil(&mut config);
            if let Err(error) = Provider::new(kind.name, config) {
                clean("a refused setting", &format!("{error} {error:?}"));
            }
        }
    }
}
