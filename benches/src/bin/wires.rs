//! What the words of providers cost: recorded streams into chunks, one delta from its bytes to its reader, a long conversation into a request.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use lomusai::llm::{LlmProvider, ModelStream};
use lomusai::tool::CallContext;
use lomusai::wire::{Message, ModelChunk, ModelRequest, Part, Role, ToolCall, ToolResult, ToolStatus};
use lomusai::{AgentSpec, BoxFuture, Engine, EventBody, Result, StartRequest};
use lomusai_benches::{Counting, cpu_us, print_case, print_count, print_speed};
use lomusai_llm::replay;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many bytes of each wire are decoded at least.
const BYTES: usize = 16 << 20;
/// As many bytes as a socket gives at once.
const PIECE: usize = 8 << 10;
/// Most bytes of an event.
const EVENT_MAX: usize = 16 << 20;

/// The APIs of the recorded traffic, and a kind of provider that speaks each.
const WIRES: [(&str, &str); 7] = [
    ("openai-chat", "compatible"),
    ("openai-responses", "openai"),
    ("anthropic-messages", "anthropic"),
    ("gemini-generate", "google"),
    ("bedrock-converse", "bedrock"),
    ("cohere-v2", "cohere"),
    ("ollama-chat", "ollama"),
];

fn main() -> Result<()> {
    let streams =
        std::env::var_os("LOMUSAI_CONFORMANCE").map(|folder| recorded(&PathBuf::from(folder).join("traffic")));
    for (api, kind) in WIRES {
        // Without the recorded traffic there is nothing to decode.
        if let Some(bodies) = streams.as_ref().and_then(|streams| streams.get(api)) {
            decode(api, kind, bodies)?;
        }
    }
    let conversation = conversation();
    for (api, kind) in WIRES {
        let encode = || replay::body(kind, &conversation, true);
        encode()?;
        let (began, n) = (cpu_us(), 200);
        for _ in 0..n {
            encode()?;
        }
        print_case(&format!("encode {api}: 200 messages"), n, cpu_us() - began);
    }
    delta()
}

/// The streams of each API.
fn recorded(folder: &Path) -> BTreeMap<String, Vec<Vec<u8>>> {
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json = |path: &Path| -> Value {
        serde_json::from_slice(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let index = json(&folder.join("index.json"));
    let mut streams: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for case in index["cases"].as_array().into_iter().flatten() {
        let (Some(api), Some(file)) = (case["api"].as_str(), case["file"].as_str()) else { continue };
        let file = folder.join(file);
        for exchange in json(&file)["exchanges"].as_array().into_iter().flatten() {
            let response = &exchange["response"];
            let Some(name) = response["body_file"].as_str() else { continue };
            if response["status"].as_u64().unwrap_or(200) != 200 {
                continue;
            }
            let mut body = read(&file.with_file_name(name));
            if name.ends_with(".b64") {
                body.retain(|byte| !byte.is_ascii_whitespace());
                body = STANDARD.decode(body).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            streams.entry(api.to_owned()).or_default().push(body);
        }
    }
    streams
}

fn decode(api: &str, kind: &str, bodies: &[Vec<u8>]) -> Result<()> {
    let once = |chunks: &mut VecDeque<ModelChunk>| -> Result<usize> {
        let mut bytes = 0;
        for body in bodies {
            let mut decoder = replay::decoder(kind, EVENT_MAX)?;
            // Some were recorded because they break off or complain: what is decoded until then counts.
            let whole = body.chunks(PIECE).try_for_each(|piece| decoder.push(piece, chunks));
            let _ = whole.and_then(|()| decoder.end(chunks));
            chunks.clear();
            bytes += body.len();
        }
        Ok(bytes)
    };
    let mut chunks = VecDeque::new();
    once(&mut chunks)?;
    let (mut bytes, began) = (0, cpu_us());
    while bytes < BYTES {
        bytes += once(&mut chunks)?;
    }
    print_speed(&format!("decode {api}: {} streams", bodies.len()), bytes as f64 / (cpu_us() - began));
    Ok(())
}

/// 200 messages: questions, calls, results and answers by turns.
fn conversation() -> ModelRequest {
    let text = "The quick brown fox jumps over the lazy dog, and says \"nothing\" about it. ".repeat(3);
    let mut request = ModelRequest::default();
    request.model = "m".into();
    for turn in 0..50 {
        let call = ToolCall::new(format!("c{turn}.0"), "search", r#"{"query": "fox", "limit": 10}"#);
        let result = ToolResult::new(&call, ToolStatus::Ok, json!({"found": [text, text]}));
        request.messages.extend([
            Arc::new(Message::user(&text)),
            Arc::new(Message::new(Role::Assistant, vec![Part::ToolCall(call)])),
            Arc::new(Message::new(Role::Tool, vec![Part::ToolResult(result)])),
            Arc::new(Message::new(Role::Assistant, vec![Part::Text(text.clone())])),
        ]);
    }
    request
}

/// A model whose answer is the bytes of a server that streams: everything but the network.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(deltas: usize) -> Self {
        let event = |delta: Value, finish: Value| {
            let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
            format!("data: {chunk}\n\n")
        };
        let words = (0..deltas).map(|_| event(json!({"content": "word "}), Value::Null));
        let end = [event(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()];
        Self(words.chain(end).collect::<String>().into_bytes())
    }
}

impl LlmProvider for Bytes {
    fn stream<'a>(&'a self, _: CallContext, _: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        let state = (replay::decoder("compatible", EVENT_MAX), VecDeque::new(), self.0.clone(), 0);
        let chunks = stream::unfold(state, |(mut decoder, mut ready, bytes, at)| async move {
            let mut at: usize = at;
            loop {
                if let Some(chunk) = ready.pop_front() {
                    return Some((Ok(chunk), (decoder, ready, bytes, at)));
                }
                let piece = &bytes[at..bytes.len().min(at + PIECE)];
                if piece.is_empty() {
                    return None;
                }
                at += piece.len();
                let pushed = decoder.as_mut().expect("a known kind").push(piece, &mut ready);
                if let Err(error) = pushed {
                    return Some((Err(error), (decoder, ready, bytes, at)));
                }
            }
        });
        Box::pin(async move { Ok(Box::pin(chunks) as ModelStream) })
    }
}

/// One delta, from its bytes to whoever reads the run: what a long answer costs more than a short one.
fn delta() -> Result<()> {
    const MORE: usize = 20_000;
    let (short_us, short) = turn(1)?;
    let (long_us, long) = turn(1 + MORE)?;
    print_case("delta, from bytes to its reader", MORE as u64, long_us - short_us);
    print_count("delta, from bytes to its reader: allocations", (long as f64 - short as f64) / MORE as f64);
    Ok(())
}

/// CPU time and allocations of one turn, the least of several.
fn turn(deltas: usize) -> Result<(f64, u64)> {
    let engine = Engine::in_memory()?;
    engine.register_provider("model", Bytes::new(deltas))?;
    engine.register_agent(AgentSpec::new("agent", "model"))?;
    let reading = {
        let engine = engine.clone();
        async move {
            let (mut us, mut allocations) = (f64::INFINITY, u64::MAX);
            for _ in 0..8 {
                let (began, before) = (cpu_us(), Counting::allocations());
                let run = engine.stream(StartRequest::new("agent", "go")).await?;
                let mut read = 0;
                while let Some(event) = run.next().await {
                    read += usize::from(matches!(event.body, EventBody::PartDelta { .. }));
                }
                assert_eq!(read, deltas, "the deltas are read");
                us = us.min(cpu_us() - began);
                allocations = allocations.min(Counting::allocations() - before);
            }
            Ok((us, allocations))
        }
    };
    engine.block_on(reading)?
}
