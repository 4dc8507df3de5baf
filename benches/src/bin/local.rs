//! Models in this process beside a plain loop over llama.cpp: the same file, one thread, greedy, in one process. What is compared is
//! measured by turns, in pairs, as CPU time of the process; the median pair counts. A line of JSON per case for `cargo xtask bench local`.

// Printing is what this program does.
#![allow(clippy::print_stdout)]

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use llama_cpp_sys_2 as sys;
use lomusai::llm::local::{LocalConfig, LocalEmbedder, LocalModels, Store};
use lomusai::llm::{EmbeddingProvider, LlmProvider, ModelChunk, ModelRequest};
use lomusai::tool::CallContext;
use lomusai::wire::{ModelTool, RawJson, ToolChoice};
use lomusai::{Message, OutputSpec, Usage};
use lomusai_benches::{cpu_us, now};
use serde_json::{Value, json};

/// Odd, so that there is one in the middle.
const PAIRS: usize = 5;
const CONTEXT: u32 = 2_048;
const BATCH: u32 = 512;
const WRITTEN: u32 = 64;
const TEXT: &str =
    "The sea is wide and the ships are small, and the harbour lies behind the hill where the old road ends. ";

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let store = Store::new(None, false);
    let file = runtime.block_on(store.fetch("smollm2-135m", Arc::new(|_| {}))).expect("the model can be had");
    runtime.block_on(async {
        let models = models(&file);
        models.load("", |_| {}).await.expect("it loads");
        // The first batch warms the caches of both.
        ask(&models, request("Hello", 2)).await;
        beside_a_plain_loop(&models, &Plain::load(&file)).await;
        next_turn(&models).await;
        held_to_schemas(&models).await;
        forced_calls(&models).await;
        at_once(&models).await;
        embeddings().await;
    });
}

fn models(file: &Path) -> LocalModels {
    let mut config = LocalConfig::default();
    (config.threads, config.parallel, config.context_tokens) = (Some(1), Some(8), Some(CONTEXT));
    config.model = Some(file.display().to_string());
    LocalModels::new(config)
}

async fn beside_a_plain_loop(models: &LocalModels, plain: &Plain) {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // A prompt of its own, which no slot has read.
        let question = format!("{pair}: {}", TEXT.repeat(20));
        let engine = || async {
            let asked = ask(models, request(&question, WRITTEN)).await;
            assert_eq!(asked.used.cache_read, 0, "nothing of it was read before");
            asked
        };
        let (asked, (read, written)) = if pair % 2 == 0 {
            let asked = engine().await;
            let tokens = asked.used.input as usize;
            (asked, plain.run(tokens, WRITTEN as usize))
        } else {
            let looped = plain.run(540, WRITTEN as usize);
            (engine().await, looped)
        };
        prefill.push((asked.first_us / asked.used.input as f64, read));
        decode.push((asked.rest_us / (asked.used.output.max(2) - 1) as f64, written));
    }
    pairs("prompt, per token", &prefill, 1.15);
    pairs("answer, per token", &decode, 1.15);
}

async fn next_turn(models: &LocalModels) {
    let mut ratios = Vec::new();
    for round in 0..3 {
        let mut request = request(&format!("{round} again: {}", TEXT.repeat(42)), 1);
        let first = ask(models, request.clone()).await;
        assert!(first.used.input > 950, "a thread of a thousand tokens, was {}", first.used.input);
        request.messages.push(Arc::new(Message::assistant("Yes.")));
        request.messages.push(Arc::new(Message::user("And then?")));
        let second = ask(models, request).await;
        assert!(second.used.cache_read > 900, "the thread goes on");
        ratios.push(second.first_us / first.first_us);
    }
    ratio("second turn of a 1,000-token thread / its first, until the first token", median(&ratios), 0.1);
}

/// Per token of the answer, its first left out: what comes before is the same work with and without a schema.
async fn held_to_schemas(models: &LocalModels) {
    let schemas: Vec<Value> =
        serde_json::from_str(include_str!("../../../engine/lomusai_llm/tests/data/schemas.json")).expect("schemas");
    let per_token = |asked: &Asked| asked.rest_us / (asked.used.output.max(2) - 1) as f64;
    let mut costs = Vec::new();
    for schema in &schemas {
        let mut ratios = Vec::new();
        for _ in 0..3 {
            let mut held = request("Make up an example, as JSON.", 120);
            held.output = Some(OutputSpec::new(RawJson::from(schema)));
            let held = ask(models, held).await;
            let free = ask(models, request("Make up an example, as a long story.", held.used.output as u32)).await;
            ratios.push(per_token(&held) / per_token(&free));
        }
        costs.push(median(&ratios));
    }
    let worst = costs.iter().copied().fold(0.0, f64::max);
    ratio(&format!("held to a schema / free, per token: median of {}", costs.len()), median(&costs), 1.25);
    println!("{}", json!({"case": "held to a schema / free, per token: worst", "ratio": worst}));
}

async fn forced_calls(models: &LocalModels) {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "days", "unit"],
        "additionalProperties": false,
    });
    let fits = |text: &str| {
        let Ok(Value::Object(call)) = serde_json::from_str::<Value>(text) else { return false };
        let letters = call.get("city").and_then(Value::as_str).map_or(0, |city| city.chars().count());
        let days = call.get("days").and_then(Value::as_i64).unwrap_or_default();
        let unit = call.get("unit").and_then(Value::as_str).unwrap_or_default();
        call.len() == 3
            && (1..=20).contains(&letters)
            && (1..=14).contains(&days)
            && ["celsius", "fahrenheit"].contains(&unit)
    };
    let answers = join_all((0..100).map(|seed| {
        let mut request = request("What will the weather be like on the coast?", 100);
        request.tools = vec![ModelTool::new("weather", "Looks the weather up", RawJson::from(&schema))];
        request.tool_choice = ToolChoice::Tool("weather".into());
        (request.settings.temperature, request.settings.seed) = (Some(1.5), Some(seed));
        ask(models, request)
    }))
    .await;
    let valid = answers.iter().filter(|asked| fits(&asked.arguments)).count();
    println!(
        "{}",
        json!({"case": "forced calls that fit, of 100", "count": valid, "wanted": ">= 100", "met": valid == 100})
    );
}

async fn at_once(models: &LocalModels) {
    let (mut by_cpu, mut by_clock) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let of = |kind: &str, number: usize| request(&format!("{kind} {pair}.{number}: tell of the sea."), 32);
        let apart = || async {
            let (cpu, clock) = (cpu_us(), now());
            for number in 0..8 {
                ask(models, of("One", number)).await;
            }
            (cpu_us() - cpu, clock.elapsed().as_secs_f64())
        };
        let together = || async {
            let (cpu, clock) = (cpu_us(), now());
            join_all((0..8).map(|number| ask(models, of("All", number)))).await;
            (cpu_us() - cpu, clock.elapsed().as_secs_f64())
        };
        let (apart, together) = if pair % 2 == 0 {
            let apart = apart().await;
            (apart, together().await)
        } else {
            let together = together().await;
            (apart().await, together)
        };
        by_cpu.push(together.0 / apart.0);
        by_clock.push(together.1 / apart.1);
    }
    ratio("8 runs at once / one after another, CPU time", median(&by_cpu), 1.0);
    ratio("8 runs at once / one after another, by the clock", median(&by_clock), 1.0);
}

async fn embeddings() {
    let mut config = LocalConfig::default();
    (config.model, config.threads) = (Some("minilm-l6-v2".into()), Some(1));
    let embedder = LocalEmbedder::load(config, |_| {}).await.expect("the model can be had");
    let texts: Vec<String> =
        serde_json::from_str(include_str!("../../../engine/lomusai_llm/tests/data/minilm/texts.json")).expect("texts");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut rates = Vec::new();
    for _ in 0..3 {
        let before = cpu_us();
        embedder.embed(&texts).await.expect("vectors");
        rates.push(texts.len() as f64 * 1e6 / (cpu_us() - before));
    }
    let case = format!("embeddings, texts of all lengths per second of CPU, of {}", texts.len());
    println!("{}", json!({"case": case, "count": median(&rates)}));
}

/// Pairs of what the engine and the plain loop took.
fn pairs(case: &str, pairs: &[(f64, f64)], most: f64) {
    let (engine, plain): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ratios: Vec<f64> = pairs.iter().map(|(engine, plain)| engine / plain).collect();
    let (plain, engine, ratio) = (median(&plain), median(&engine), median(&ratios));
    let wanted = format!("<= {most}");
    println!(
        "{}",
        json!({"case": case, "plain_us": plain, "engine_us": engine, "ratio": ratio, "wanted": wanted, "met": ratio <= most})
    );
}

fn ratio(case: &str, ratio: f64, most: f64) {
    println!("{}", json!({"case": case, "ratio": ratio, "wanted": format!("<= {most}"), "met": ratio <= most}));
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Always the likeliest token, so many at most.
fn request(text: &str, tokens: u32) -> ModelRequest {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user(text))];
    request.settings.temperature = Some(0.0);
    request.settings.max_output_tokens = Some(tokens);
    request
}

/// An answer, and its CPU time until its first piece and from there to its end.
struct Asked {
    first_us: f64,
    rest_us: f64,
    used: Usage,
    arguments: String,
}

async fn ask(models: &LocalModels, request: ModelRequest) -> Asked {
    let before = cpu_us();
    let call = CallContext::new("r1".into(), "1.model".into());
    let mut stream = models.stream(call, Arc::new(request)).await.expect("it can be asked");
    let (mut first, mut used, mut arguments) = (None, Usage::default(), String::new());
    while let Some(chunk) = stream.next().await {
        first.get_or_insert_with(cpu_us);
        match chunk.expect("it answers") {
            ModelChunk::Usage { usage } => used = usage,
            ModelChunk::ToolArguments { text, .. } => arguments.push_str(&text),
            _ => {}
        }
    }
    let first = first.expect("it says something");
    Asked { first_us: first - before, rest_us: cpu_us() - first, used, arguments }
}

/// llama.cpp as its own examples use it.
struct Plain {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
}

impl Plain {
    fn load(file: &Path) -> Self {
        let path = CString::new(file.to_str().expect("a path")).expect("a path");
        // SAFETY: the parameters are the defaults, with plain numbers changed; both objects live as long as `Plain`.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null(), "it loads");
            let mut params = sys::llama_context_default_params();
            (params.n_ctx, params.n_batch, params.n_ubatch) = (CONTEXT, BATCH, BATCH);
            (params.n_threads, params.n_threads_batch) = (1, 1);
            let context = sys::llama_init_from_model(model, params);
            assert!(!context.is_null(), "there is memory");
            Self { model, context }
        }
    }

    /// CPU time per token of reading so many, and of writing so many after them.
    fn run(&self, read: usize, write: usize) -> (f64, f64) {
        // SAFETY: batches point to tokens that live while they are decoded, and stay within `n_batch`; the sampler is freed.
        unsafe {
            let vocab = sys::llama_model_get_vocab(self.model);
            let text = TEXT.repeat(60);
            let mut tokens = vec![0; text.len()];
            let length = text.len() as i32;
            let count =
                sys::llama_tokenize(vocab, text.as_ptr().cast(), length, tokens.as_mut_ptr(), length, true, true);
            tokens.truncate((count as usize).min(read));
            let sampler = sys::llama_sampler_init_greedy();
            sys::llama_memory_clear(sys::llama_get_memory(self.context), true);
            let before = cpu_us();
            for piece in tokens.chunks_mut(BATCH as usize) {
                let batch = sys::llama_batch_get_one(piece.as_mut_ptr(), piece.len() as i32);
                assert_eq!(sys::llama_decode(self.context, batch), 0);
            }
            let mut token = sys::llama_sampler_sample(sampler, self.context, -1);
            let reading = (cpu_us() - before) / tokens.len() as f64;
            let before = cpu_us();
            for _ in 1..write {
                let batch = sys::llama_batch_get_one(&raw mut token, 1);
                assert_eq!(sys::llama_decode(self.context, batch), 0);
                token = sys::llama_sampler_sample(sampler, self.context, -1);
            }
            let writing = (cpu_us() - before) / (write - 1) as f64;
            sys::llama_sampler_free(sampler);
            (reading, writing)
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: both are owned, and the context goes first.
        unsafe {
            sys::llama_free(self.context);
            sys::llama_model_free(self.model);
        }
    }
}
