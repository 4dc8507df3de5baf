//! Embeddings against a server on this machine: batches, order, length, and what goes wrong.
#![cfg(feature = "remote")]

mod server;

use std::sync::{Arc, Mutex};

use lomusai_core::llm::EmbeddingProvider;
use lomusai_llm::{Embedder, ProviderConfig};
use serde_json::{Value, json};
use server::{Request, response, serve};

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A server that answers each request as `answer` says, and what it was asked.
async fn serving(answer: fn(&Request) -> Value) -> (u16, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let port = serve(move |mut connection| {
        let seen = seen.clone();
        async move {
            while let Some(request) = connection.next_request().await {
                let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = answer(&request).to_string();
                seen.lock().unwrap().push((path, request.body));
                connection.send(response("200 OK", "content-type: application/json\r\n", &body)).await;
            }
        }
    })
    .await;
    (port, asked)
}

fn embedder(kind: &str, port: u16) -> Embedder {
    let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
    (config.proxy, config.api_key, config.model) =
        (Some("none".into()), Some("sk-test-0123456789".into()), Some("m".into()));
    Embedder::new(kind, 2, config).unwrap()
}

/// A text of ours is a number: a vector of that direction, and of some length.
fn vector(text: &Value) -> Value {
    let number: f64 = text.as_str().unwrap().parse().unwrap();
    let (sin, cos) = (number / 100.0).sin_cos();
    json!([5.0 * cos, 5.0 * sin])
}

/// How a server answers.
type Answer = fn(&Request) -> Value;

/// Every kind that embeds, its path, and how it answers.
const KINDS: [(&str, &str, Answer); 6] = [
    ("openai", "/embeddings", openai),
    ("mistral", "/embeddings", openai),
    ("compatible", "/embeddings", openai),
    ("google", "/v1beta/models/m:batchEmbedContents", google),
    ("cohere", "/v2/embed", |request| json!({"embeddings": {"float": of(&request.body["texts"])}})),
    ("ollama", "/api/embed", |request| json!({"embeddings": of(&request.body["input"])})),
];

#[tokio::test]
async fn every_kind_keeps_the_order() {
    for (kind, path, answer) in KINDS {
        let (port, asked) = serving(answer).await;
        let texts: Vec<String> = (0..600).map(|number| number.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = embedder(kind, port).embed(&texts).await.unwrap();
        assert_eq!(vectors.len(), 600, "{kind}");
        for (number, vector) in vectors.iter().enumerate() {
            let (sin, cos) = (number as f32 / 100.0).sin_cos();
            let near = (vector[0] - cos).abs() < 1e-5 && (vector[1] - sin).abs() < 1e-5;
            assert!(near && vector.len() == 2, "{kind} {number}: {vector:?}");
        }
        let asked = asked.lock().unwrap();
        assert!(asked.len() > 2, "{kind} is asked in batches");
        assert!(asked.iter().all(|(asked, _)| asked == path), "{kind}: {}", asked[0].0);
    }
}

#[tokio::test]
async fn long_texts_are_asked_for_within_what_mistral_takes_at_once() {
    let (port, asked) = serving(openai).await;
    let long = format!("{:0>9000}", 1);
    let longest = format!("{:0>40000}", 2);
    let vectors = embedder("mistral", port).embed(&["1", &long, &long, &longest, "2", "3"]).await.unwrap();
    assert_eq!(vectors.len(), 6);
    let counts: Vec<usize> =
        asked.lock().unwrap().iter().map(|(_, body)| body["input"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [2, 1, 1, 2]);
}

#[tokio::test]
async fn a_length_is_asked_for_of_models_that_have_several() {
    for (kind, model, answer, field, expected) in [
        ("cohere", "embed-v4.0", KINDS[4].2, "output_dimension", Some(2)),
        ("cohere", "embed-english-v3.0", KINDS[4].2, "output_dimension", None),
        ("mistral", "codestral-embed-2505", openai as Answer, "output_dimension", Some(2)),
        ("mistral", "mistral-embed", openai, "output_dimension", None),
        ("openai", "text-embedding-3-small", openai, "dimensions", Some(2)),
        ("openai", "text-embedding-ada-002", openai, "dimensions", None),
    ] {
        let (port, asked) = serving(answer).await;
        let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
        (config.proxy, config.api_key, config.model) =
            (Some("none".into()), Some("sk-test-0123456789".into()), Some(model.into()));
        Embedder::new(kind, 2, config).unwrap().embed(&["1"]).await.unwrap();
        assert_eq!(asked.lock().unwrap()[0].1.get(field).and_then(Value::as_u64), expected, "{kind} {model}");
    }
}

fn of(texts: &Value) -> Value {
    texts.as_array().unwrap().iter().map(vector).collect()
}

/// Answers in the opposite order, each with its place.
fn openai(request: &Request) -> Value {
    let texts = request.body["input"].as_array().unwrap();
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .rev()
        .map(|(index, text)| json!({"index": index, "embedding": vector(text)}))
        .collect();
    json!({"data": data})
}

fn google(request: &Request) -> Value {
    let requests = request.body["requests"].as_array().unwrap();
    let values = |request: &Value| json!({"values": vector(&request["content"]["parts"][0]["text"])});
    json!({"embeddings": requests.iter().map(values).collect::<Vec<_>>()})
}

#[tokio::test]
async fn every_kind_checks_the_length_and_the_number() {
    for (kind, _, answer) in KINDS {
        let (port, _) = serving(answer).await;
        let mut config = ProviderConfig::new(format!("http://127.0.0.1:{port}"));
        (config.proxy, config.api_key, config.model) =
            (Some("none".into()), Some("sk-test-0123456789".into()), Some("m".into()));
        let error = Embedder::new(kind, 3, config).unwrap().embed(&["1"]).await.unwrap_err();
        assert_eq!(error.code(), "provider_response_invalid", "{kind}");
        assert!(error.body().message.contains("set dimensions to 2"), "{kind}: {error}");
        assert_eq!(error.body().details["provider"].as_str(), Some(kind));
        for nothing in
            [json!({}), json!({"data": [], "embeddings": []}), json!({"embeddings": {"float": []}}), json!([1])]
        {
            let port = serve(move |mut connection| {
                let body = response("200 OK", "content-type: application/json\r\n", &nothing.to_string());
                async move {
                    connection.request().await;
                    connection.send(body).await;
                }
            })
            .await;
            let error = embedder(kind, port).embed(&["1"]).await.unwrap_err();
            assert_eq!(error.code(), "provider_response_invalid", "{kind}: {error}");
        }
    }
}

#[tokio::test]
async fn a_wrong_length_or_number_is_an_error_that_says_which() {
    let (port, _) = serving(|_| json!({"data": [{"index": 0, "embedding": [1.0, 2.0, 3.0]}]})).await;
    let error = embedder("openai", port).embed(&["a"]).await.unwrap_err();
    assert_eq!(error.code(), "provider_response_invalid");
    assert!(error.body().message.contains("set dimensions to 3"), "{error}");
    let error = embedder("openai", port).embed(&["a", "b"]).await.unwrap_err();
    assert!(error.body().message.contains("1 embeddings for 2 texts"), "{error}");
    let (port, asked) = serving(|_| json!({"data": [{"index": 0, "embedding": [0.0, 0.0]}]})).await;
    let error = embedder("openai", port).embed(&["a"]).await.unwrap_err();
    assert_eq!((error.code(), error.body().details["model"].as_str()), ("provider_response_invalid", Some("m")));
    // Nothing is asked for nothing.
    let asked_before = asked.lock().unwrap().len();
    assert!(embedder("openai", port).embed(&[]).await.unwrap().is_empty());
    assert_eq!(asked.lock().unwrap().len(), asked_before);
}

#[test]
fn what_cannot_embed_says_so() {
    let new = |kind: &str, dimensions, model: Option<&str>| {
        let mut config = ProviderConfig::new("http://127.0.0.1:9");
        (config.model, config.api_key) = (model.map(str::to_owned), Some("k".into()));
        Embedder::new(kind, dimensions, config).unwrap_err()
    };
    assert_eq!(new("anthropic", 2, Some("m")).code(), "unsupported");
    assert_eq!(new("openai", 0, Some("m")).code(), "argument_invalid");
    assert_eq!(new("openai", 2, None).code(), "argument_invalid");
    assert_eq!(new("nobody", 2, None).code(), "provider_unknown");
}
