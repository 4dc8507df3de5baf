//! The folder of recorded traffic: cases, what was sent and answered, and which of our kinds speaks each API.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::print_stdout, reason = "what is skipped is for whoever runs the test")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use lomusai_core::llm::{Answer, MessageBuilder};
use lomusai_core::{Error, Result};
use lomusai_llm::{KINDS, replay};
use lomusai_wire::{MessageId, ModelChunk};
use serde_json::Value;

/// A recorded conversation.
pub(crate) struct Case {
    pub(crate) file: String,
    pub(crate) provider: String,
    pub(crate) api: String,
    pub(crate) kind: &'static str,
    pub(crate) situations: Vec<String>,
    pub(crate) exchanges: Vec<Exchange>,
}

/// One request and its answer.
pub(crate) struct Exchange {
    /// What was sent; null where only the answer was kept.
    pub(crate) request: Value,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body is a stream, and not one JSON document.
    pub(crate) streamed: bool,
    pub(crate) expected: Value,
}

impl Exchange {
    pub(crate) fn is_answer(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What the folder holds. Nothing where there is no folder and none is required.
pub(crate) fn cases() -> Vec<Case> {
    let required = std::env::var("LOMUSAI_REQUIRE_CONFORMANCE").is_ok_and(|value| value == "1");
    let Some(folder) = std::env::var_os("LOMUSAI_CONFORMANCE") else {
        assert!(!required, "LOMUSAI_REQUIRE_CONFORMANCE=1, but LOMUSAI_CONFORMANCE names no folder");
        println!("skipped: LOMUSAI_CONFORMANCE names no folder of recorded traffic");
        return Vec::new();
    };
    let folder = PathBuf::from(folder).join("traffic");
    let index = json_file(&folder.join("index.json"));
    let listed = index["cases"].as_array().expect("index.json has cases");
    let cases: Vec<Case> = listed.iter().map(|case| read(&folder, case)).collect();
    assert!(!cases.is_empty(), "{} holds no case", folder.display());
    cases
}

/// Which of our kinds speaks the API of a case: the provider's own, where it is one, else whoever speaks the same.
fn kind(api: &str, provider: &str) -> &'static str {
    let (own, any) = match api {
        "anthropic-messages" => ("anthropic", "anthropic"),
        "openai-chat" if provider == "openai" => ("openai-chat", "compatible"),
        "openai-chat" if provider == "azure" => ("azure-chat", "compatible"),
        // Ollama's own API is another one.
        "openai-chat" if matches!(provider, "ollama" | "google" | "anthropic" | "cohere" | "bedrock") => {
            ("compatible", "compatible")
        }
        "openai-chat" => (provider, "compatible"),
        "openai-responses" if provider == "xai" => ("xai-responses", "openai"),
        "openai-responses" if provider == "azure" => ("azure", "openai"),
        "openai-responses" => ("openai", "openai"),
        "gemini-generate" => ("google", "google"),
        "bedrock-converse" => ("bedrock", "bedrock"),
        "cohere-v2" => ("cohere", "cohere"),
        "ollama-chat" => ("ollama", "ollama"),
        other => panic!("no provider speaks the API {other}"),
    };
    let named = |name: &str| KINDS.iter().find(|kind| kind.name == name).map(|kind| kind.name);
    named(own).or_else(|| named(any)).unwrap_or_else(|| panic!("this build has no kind for {api} of {provider}"))
}

/// Which wire a kind speaks, as the recordings call it.
pub(crate) fn api(kind: &str) -> &'static str {
    match kind {
        "anthropic" => "anthropic-messages",
        "google" => "gemini-generate",
        "bedrock" => "bedrock-converse",
        "cohere" => "cohere-v2",
        "ollama" => "ollama-chat",
        "openai" | "azure" | "xai-responses" => "openai-responses",
        _ => "openai-chat",
    }
}

fn read(folder: &Path, case: &Value) -> Case {
    let file = folder.join(case["file"].as_str().expect("a case names its file"));
    let recorded = json_file(&file);
    let exchanges = recorded["exchanges"].as_array().expect("a case has exchanges").iter();
    let expected = case["expected"].as_array().expect("a case has expectations").iter();
    let text = |field: &str| case[field].as_str().unwrap_or_default().to_owned();
    let exchange = |(exchange, expected): (&Value, &Value)| {
        let response = &exchange["response"];
        let name = response["body_file"].as_str();
        let body = match name {
            Some(name) => {
                let bytes = std::fs::read(file.with_file_name(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
                if name.ends_with(".b64") { unbase64(&bytes) } else { bytes }
            }
            None => response["json"].to_string().into_bytes(),
        };
        let headers = response["headers"].as_object().into_iter().flatten();
        Exchange {
            request: exchange["request"]["json"].clone(),
            path: exchange["request"]["path"].as_str().unwrap_or_default().to_owned(),
            status: response["status"].as_u64().unwrap_or(200) as u16,
            headers: headers
                .filter_map(|(name, value)| Some((name.to_lowercase(), value.as_str()?.to_owned())))
                // These are of the connection that was recorded, not of the one that replays it.
                .filter(|(name, _)| {
                    !matches!(name.as_str(), "content-length" | "transfer-encoding" | "content-encoding")
                })
                .collect(),
            body,
            streamed: name.is_some(),
            expected: expected.clone(),
        }
    };
    Case {
        file: file.strip_prefix(folder).unwrap_or(&file).display().to_string(),
        kind: kind(&text("api"), &text("provider")),
        provider: text("provider"),
        api: text("api"),
        situations: case["situations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|s| Some(s.as_str()?.to_owned()))
            .collect(),
        exchanges: exchanges.zip(expected).map(exchange).collect(),
    }
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(text).expect("a body in base64")
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the pieces say, chunk by chunk, and how they ended.
pub(crate) fn chunks<'a>(kind: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<ModelChunk>, Option<Error>) {
    let (mut decoder, mut chunks) = (replay::decoder(kind, 16 << 20).expect("a known kind"), VecDeque::new());
    let decode = || -> Result<()> {
        for piece in pieces {
            decoder.push(piece, &mut chunks)?;
        }
        decoder.end(&mut chunks)
    };
    let error = decode().err();
    (chunks.into(), error)
}

/// What the pieces say, as a message.
pub(crate) fn answer<'a>(kind: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Answer> {
    let (chunks, error) = chunks(kind, pieces);
    error.map_or_else(|| built(chunks, 0), Err)
}

/// The message of these chunks; `number` numbers it within its conversation.
pub(crate) fn built(chunks: Vec<ModelChunk>, number: u64) -> Result<Answer> {
    let mut builder = MessageBuilder::new(MessageId::from(format!("m{number}").as_str()), number, u64::MAX);
    for chunk in chunks {
        builder.push(chunk, &mut |_| {})?;
    }
    Ok(builder.finish())
}

/// Numbers that are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
