//! Vectors of texts, by a model in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use lomusai_core::llm::EmbeddingProvider;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::codes;
use tokio::sync::{OnceCell, oneshot};

use super::config::{self, LocalConfig, Plan};
use super::native::{Context, Decoded, Shape, Token};
use super::store::{Progress, Store};
use super::{context, errors};

/// Tokens per batch.
const BATCH: u32 = 2_048;
/// Texts per batch.
const TEXTS: u32 = 64;

/// A source of embeddings in this process: the MiniLM and BGE kind, and models that were made for it.
///
/// Vectors have L2 norm 1 and come in the order of their texts. A text longer than the model takes is cut off there, as the model's
/// authors do. One thread of its own computes; callers wait their turn. Dropping the future of a call ends its computation with the
/// batch at work.
///
/// # Errors
/// `embed` gives `provider_failed` where llama.cpp cannot compute, `engine_closed` once the embedder is closed.
pub struct LocalEmbedder {
    dimensions: usize,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

struct Work {
    texts: Vec<String>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

impl LocalEmbedder {
    /// Loads a model, and downloads it before where need be. Of the settings `model`, `threads`, `no_mmap`, `models_dir` and `offline`
    /// count.
    ///
    /// # Errors
    /// Those of [`LocalModels`](super::LocalModels) that have to do with the file and the machine; `model_unsupported` for a model that
    /// gives no vectors.
    pub async fn load(config: LocalConfig, progress: impl Fn(Progress) + Send + Sync + 'static) -> Result<Self> {
        let progress: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(progress);
        let store = Store::new(config.models_dir.clone(), config.offline);
        let Some(name) = config.model.clone() else {
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                "an embedder of local models needs `model`: a name, a path or an address",
            ));
        };
        let file = store.fetch(&name, progress.clone()).await?;
        let (send, receive) = oneshot::channel();
        std::thread::Builder::new()
            .name("lomusai-load".into())
            .spawn(move || drop(send.send(Self::open(&config, &file, &*progress))))
            .map_err(|error| Error::new(codes::INTERNAL, format!("no thread to load a model: {error}")))?;
        receive.await.map_err(|_| Error::new(codes::INTERNAL, "loading the model panicked"))?
    }

    /// An embedder that is loaded when it is first asked. It knows how long its vectors are from the table of known models, or from
    /// the file.
    ///
    /// # Errors
    /// `argument_invalid` without a model, or with one that neither is known nor is a file yet.
    pub fn lazy(config: LocalConfig) -> Result<impl EmbeddingProvider> {
        let name = config.model.clone().unwrap_or_default();
        let known = Store::known().iter().find(|known| known.name == name).and_then(|known| known.dimensions);
        let of_file = || {
            let file = Path::new(&name);
            if !file.is_file() {
                let message = format!(
                    "the embedding model `{name}` is neither known nor a file: download it first, and give its path"
                );
                return Err(Error::new(codes::MODEL_UNKNOWN, message).with("model", name.as_str()));
            }
            let length = errors::header_of(file)?.shape("embedding_length");
            length
                .and_then(|length| usize::try_from(length).ok())
                .ok_or_else(|| errors::wrong_kind(file, "it has no vectors"))
        };
        let dimensions = known.map_or_else(of_file, Ok)?;
        Ok(Lazy { config, dimensions, loaded: OnceCell::new() })
    }

    fn open(config: &LocalConfig, file: &Path, progress: &dyn Fn(Progress)) -> Result<Self> {
        config::check_cpu()?;
        let header = errors::header_of(file)?;
        if !header.embeds() {
            return Err(errors::wrong_kind(file, "it does not say how it makes one vector of a text (pooling_type)"));
        }
        let taught = header.shape("context_length").unwrap_or(512).min(u64::from(BATCH)) as u32;
        // What its authors cut texts off at may be less than what it could take.
        let tokens = header.integer("lomusai.tokens_max").map_or(taught, |most| taught.min(most as u32)).max(2);
        let plan = Plan { tokens, slots: TEXTS, threads: config.threads()?, mmap: !config.no_mmap, bytes: 512 << 20 };
        config::check_memory(file, &plan, config::available_memory())?;
        let shape = Shape { tokens, sequences: TEXTS, batch: BATCH, threads: plan.threads, embeddings: true };
        let stop = Arc::new(AtomicBool::new(false));
        let context = context(file, &plan, &shape, &stop, progress)?;
        if !context.pools() {
            return Err(errors::wrong_kind(file, "it gives a vector per token, and none per text"));
        }
        let dimensions = context.model().embedding_length();
        let (work, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("lomusai-embed".into())
            .spawn(move || Embedder { context, tokens: tokens as usize }.serve(&jobs))
            .map_err(|error| Error::new(codes::INTERNAL, format!("no thread for the local model: {error}")))?;
        Ok(Self { dimensions, work: Some(work), thread: Some(thread), stop })
    }
}

struct Lazy {
    config: LocalConfig,
    dimensions: usize,
    loaded: OnceCell<LocalEmbedder>,
}

impl EmbeddingProvider for Lazy {
    fn embed<'a>(&'a self, texts: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Vec<f32>>>> {
        Box::pin(async move {
            let load = || LocalEmbedder::load(self.config.clone(), |_| {});
            self.loaded.get_or_try_init(load).await?.embed(texts).await
        })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }
}

impl EmbeddingProvider for LocalEmbedder {
    fn embed<'a>(&'a self, texts: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Vec<f32>>>> {
        Box::pin(async move {
            let closed = || Error::new(codes::ENGINE_CLOSED, "the local embedder is closed");
            let (answer, receive) = oneshot::channel();
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            let work = self.work.as_ref().expect("only taken when dropped");
            work.send(Work { texts, answer }).map_err(|_| closed())?;
            receive.await.map_err(|_| closed())?
        })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }
}

impl Drop for LocalEmbedder {
    fn drop(&mut self) {
        self.work = None;
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Embedder {
    context: Context,
    tokens: usize,
}

impl Embedder {
    fn serve(mut self, jobs: &Receiver<Work>) {
        while let Ok(Work { texts, answer }) = jobs.recv() {
            let vectors = self.embed(&texts, || answer.is_closed());
            let _ = answer.send(vectors);
        }
    }

    fn embed(&mut self, texts: &[String], unwanted: impl Fn() -> bool) -> Result<Vec<Vec<f32>>> {
        let tokens: Vec<Vec<Token>> = texts.iter().map(|text| self.read(text)).collect();
        // By length: what is computed together should be alike.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|number| tokens[*number].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() && !unwanted() {
            let mut count = 0;
            let mut sum = 0;
            while count < rest.len() && count < TEXTS as usize && sum + tokens[rest[count]].len() <= BATCH as usize {
                sum += tokens[rest[count]].len();
                count += 1;
            }
            let (batch, later) = rest.split_at(count);
            for (sequence, number) in batch.iter().enumerate() {
                for (position, token) in tokens[*number].iter().enumerate() {
                    self.context.add(*token, position, sequence, true);
                }
            }
            if let result @ (Decoded::Stopped | Decoded::Failed(_)) = self.context.decode() {
                return Err(Error::new(
                    codes::PROVIDER_FAILED,
                    format!("llama.cpp could not embed the texts ({result:?})"),
                ));
            }
            for (sequence, number) in batch.iter().enumerate() {
                vectors[*number] = self.context.embedding(sequence).and_then(normalised).ok_or_else(|| {
                    Error::new(codes::PROVIDER_RESPONSE_INVALID, "the local model gave no vector for a text")
                })?;
                self.context.forget(sequence, 0);
            }
            rest = later;
        }
        Ok(vectors)
    }

    /// A text's tokens, cut off at what the model takes. The last one, which ends a text, stays the last.
    fn read(&self, text: &str) -> Vec<Token> {
        let model = self.context.model();
        let mut tokens = match if model.is_word_piece() { without_giants(text) } else { None } {
            // As the authors' tokenizers do, which read `[SEP]` in a text as the token.
            Some(text) => model.tokenize(&text, true, true),
            None => model.tokenize(text, true, true),
        };
        if tokens.len() > self.tokens
            && let Some(last) = tokens.last().copied()
        {
            tokens.truncate(self.tokens);
            tokens[self.tokens - 1] = last;
        }
        if tokens.is_empty() {
            tokens.push(self.context.model().end().max(0));
        }
        tokens
    }
}

/// Longest word that BERT's own tokenizer takes apart, in characters.
const WORD_MAX: usize = 100;

/// The text with a word that no vocabulary has in place of each that is too long: BERT counts those as unknown, and llama.cpp
/// would take them apart. `None`: there are none.
fn without_giants(text: &str) -> Option<String> {
    let word = |letter: char| letter.is_alphanumeric() && !('\u{2e80}'..='\u{9fff}').contains(&letter);
    let runs = text.split_inclusive(|letter| !word(letter));
    let giant = |run: &str| run.chars().filter(|letter| word(*letter)).count() > WORD_MAX;
    if !runs.clone().any(giant) {
        return None;
    }
    let shorter = runs.map(|run| {
        if !giant(run) {
            return run.to_owned();
        }
        // What ended the word stays.
        format!(
            " \u{a66e} {}",
            run.chars().next_back().filter(|letter| !word(*letter)).map(String::from).unwrap_or_default()
        )
    });
    Some(shorter.collect())
}

/// A vector of length 1. Nothing where it has no length.
fn normalised(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    (length.is_finite() && length > 0.0)
        .then(|| vector.iter().map(|number| (f64::from(*number) / length) as f32).collect())
}
