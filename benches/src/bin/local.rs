//! Models in this process beside a plain loop over llama.cpp: the same file, one thread, greedy, in one process and one run. CPU time of
//! the process, best of three.

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
use lomusai::wire::RawJson;
use lomusai::{Message, OutputSpec, Usage};
use lomusai_benches::cpu_us;

const ROUNDS: usize = 3;
const CONTEXT: u32 = 2_048;
const WRITTEN: u32 = 64;
const TEXT: &str =
    "The sea is wide and the ships are small, and the harbour lies behind the hill where the old road ends. ";

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let store = Store::new(None, false);
    let file = runtime.block_on(store.fetch("smollm2-135m", Arc::new(|_| {}))).expect("the model can be had");
    runtime.block_on(measure(&file));
}

async fn measure(file: &Path) {
    let mut config = LocalConfig::default();
    (config.threads, config.parallel, config.context_tokens) = (Some(1), Some(8), Some(CONTEXT));
    config.model = Some(file.display().to_string());
    let models = LocalModels::new(config);
    models.load("", |_| {}).await.expect("it loads");
    // Loading and the first batch warm the caches of both.
    ask(&models, request("Hello", 2)).await;

    let long = TEXT.repeat(40);
    let (mut prefill, mut decode, mut again, mut read) = (f64::MAX, f64::MAX, f64::MAX, 0);
    for round in 0..ROUNDS {
        // Each round has a prompt of its own, which no slot has read.
        let question = format!("{round}: {long}");
        let (first, used) = ask(&models, request(&question, 1)).await;
        assert_eq!(used.cache_read, 0, "nothing of it was read before");
        read = used.input;
        prefill = prefill.min(first / used.input as f64);
        let (second, used) = ask(&models, next_turn(&question)).await;
        assert!(used.cache_read > 0, "the thread goes on");
        again = again.min(second / first);
        let (start, _) = ask(&models, request("Tell a long story.", 1)).await;
        let (whole, used) = ask(&models, request("Tell a long story.", WRITTEN + 1)).await;
        decode = decode.min((whole - start) / (used.output.max(2) - 1) as f64);
    }
    let plain = Plain::load(file);
    let (mut plain_prefill, mut plain_decode) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (read, written) = plain.run(read as usize, WRITTEN as usize);
        (plain_prefill, plain_decode) = (plain_prefill.min(read), plain_decode.min(written));
    }
    println!(
        "local: CPU time, one thread, best of {ROUNDS}; SmolLM2 135M, prompts of {read} tokens, {WRITTEN} written"
    );
    println!("{:<46} {:>12} {:>12} {:>8} {:>9}", "case", "plain loop", "engine", "ratio", "target");
    row("prompt, us per token", plain_prefill, prefill, "<= 1.15");
    row("answer, us per token", plain_decode, decode, "<= 1.15");
    println!("{:<46} {:>12} {:>12} {again:>8.3} {:>9}", "second turn of a thread / its first", "", "", "<= 0.1");

    let schemas: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../engine/lomusai_llm/tests/data/schemas.json")).expect("schemas");
    let mut ratios = Vec::new();
    for schema in &schemas {
        let mut best = f64::MAX;
        for _ in 0..ROUNDS {
            let mut held = request("Make up an example, as JSON.", 200);
            held.output = Some(OutputSpec::new(RawJson::from(schema)));
            let (constrained, used) = ask(&models, held).await;
            let (free, other) = ask(&models, free_of(used.output)).await;
            best = best.min(constrained / used.output.max(1) as f64 / (free / other.output.max(1) as f64));
        }
        ratios.push(best);
    }
    ratios.sort_by(f64::total_cmp);
    let (median, worst) = (ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    println!(
        "{:<46} {:>12} {:>12} {median:>8.3} {:>9}",
        "held to a schema / free, per token: median", "", "", "<= 1.25"
    );
    println!("{:<46} {:>12} {:>12} {worst:>8.3}", "held to a schema / free, per token: worst of 20", "", "");

    let (mut together, mut apart) = (f64::MAX, f64::MAX);
    for round in 0..ROUNDS {
        let of = |number: usize, kind: &str| request(&format!("{kind} {round}.{number}: tell of the sea."), 32);
        let before = cpu_us();
        for number in 0..8 {
            ask(&models, of(number, "One")).await;
        }
        apart = apart.min(cpu_us() - before);
        let before = cpu_us();
        join_all((0..8).map(|number| ask(&models, of(number, "All")))).await;
        together = together.min(cpu_us() - before);
    }
    println!(
        "{:<46} {:>12} {:>12} {:>8.3} {:>9}",
        "8 runs at once / one after another",
        "",
        "",
        together / apart,
        "<= 1"
    );

    let mut config = LocalConfig::default();
    (config.model, config.threads) = (Some("minilm-l6-v2".into()), Some(1));
    let embedder = LocalEmbedder::load(config, |_| {}).await.expect("the model can be had");
    let texts: Vec<String> =
        serde_json::from_str(include_str!("../../../engine/lomusai_llm/tests/data/minilm/texts.json")).expect("texts");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let before = cpu_us();
        embedder.embed(&texts).await.expect("vectors");
        best = best.min(cpu_us() - before);
    }
    println!(
        "embeddings: {:.1} texts per second of CPU, {} texts of all lengths",
        texts.len() as f64 * 1e6 / best,
        texts.len()
    );
}

fn row(case: &str, plain: f64, engine: f64, target: &str) {
    println!("{case:<46} {plain:>12.1} {engine:>12.1} {:>8.3} {target:>9}", engine / plain);
}

fn request(text: &str, tokens: u32) -> ModelRequest {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user(text))];
    request.settings.temperature = Some(0.0);
    request.settings.max_output_tokens = Some(tokens);
    request
}

/// As many tokens without a schema.
fn free_of(tokens: u64) -> ModelRequest {
    request("Make up an example, as a long story.", tokens as u32)
}

fn next_turn(question: &str) -> ModelRequest {
    let mut request = request(question, 1);
    request.messages.push(Arc::new(Message::assistant("Yes.")));
    request.messages.push(Arc::new(Message::user("And then?")));
    request
}

/// CPU time until an answer is whole, and what it used.
async fn ask(models: &LocalModels, request: ModelRequest) -> (f64, Usage) {
    let before = cpu_us();
    let call = CallContext::new("r1".into(), "1.model".into());
    let mut stream = models.stream(call, Arc::new(request)).await.expect("it can be asked");
    let mut used = Usage::default();
    while let Some(chunk) = stream.next().await {
        if let ModelChunk::Usage { usage } = chunk.expect("it answers") {
            used = usage;
        }
    }
    (cpu_us() - before, used)
}

/// llama.cpp as its own examples use it.
struct Plain {
    model: *mut sys::llama_model,
    context: *mut sys::llama_context,
}

impl Plain {
    fn load(file: &Path) -> Self {
        let path = CString::new(file.to_str().expect("a path")).expect("a path");
        // SAFETY: the parameters are the defaults, with plain numbers changed; both objects live as long as the program.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            let model = sys::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null(), "it loads");
            let mut params = sys::llama_context_default_params();
            (params.n_ctx, params.n_batch, params.n_ubatch) = (CONTEXT, 512, 512);
            (params.n_threads, params.n_threads_batch) = (1, 1);
            let context = sys::llama_init_from_model(model, params);
            assert!(!context.is_null(), "there is memory");
            Self { model, context }
        }
    }

    /// CPU time per token of reading so many, and of writing so many after a short prompt.
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
            for piece in tokens.chunks_mut(512) {
                let batch = sys::llama_batch_get_one(piece.as_mut_ptr(), piece.len() as i32);
                assert_eq!(sys::llama_decode(self.context, batch), 0);
            }
            let reading = (cpu_us() - before) / tokens.len() as f64;
            sys::llama_memory_clear(sys::llama_get_memory(self.context), true);
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), 40);
            assert_eq!(sys::llama_decode(self.context, batch), 0);
            let mut token = sys::llama_sampler_sample(sampler, self.context, -1);
            let before = cpu_us();
            for _ in 0..write {
                let batch = sys::llama_batch_get_one(&raw mut token, 1);
                assert_eq!(sys::llama_decode(self.context, batch), 0);
                token = sys::llama_sampler_sample(sampler, self.context, -1);
            }
            let writing = (cpu_us() - before) / write as f64;
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
