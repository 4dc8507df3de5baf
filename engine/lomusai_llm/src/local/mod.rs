//! Models in this process, by llama.cpp: any GGUF file, chat and embeddings, on the CPU, with no server and no key.
//!
//! ```no_run
//! use lomusai_llm::local::{LocalConfig, LocalModels};
//!
//! // Requests name the model: `local/smollm2-135m`, `local//models/qwen3-4b.gguf`.
//! let provider = LocalModels::new(LocalConfig::default());
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `store/` | finds a model's file, or downloads it |
//! | `gguf.rs`, `errors.rs` | looks through the file before llama.cpp does |
//! | `template.rs`, `request.rs` | the conversation into a prompt |
//! | `grammar.rs` | JSON Schemas into grammars, to which calls and answers are held |
//! | `worker.rs` | the thread that computes, for several runs at once |
//! | `response.rs` | tokens into chunks |
//! | `embed.rs`, `convert.rs` | vectors of texts |
//! | `native.rs` | llama.cpp itself; all `unsafe` code is there |

mod config;
mod convert;
mod embed;
mod errors;
mod gguf;
mod grammar;
mod log;
mod native;
mod ordered;
mod request;
mod response;
mod store;
mod template;
mod worker;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream;
use lomusai_core::cancel::CancelGuard;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream, truncated};
use lomusai_core::sync::Mutex;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{LogLevel, ModelChunk, ModelRequest, codes};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OnceCell, oneshot};

pub use config::LocalConfig;
pub use embed::LocalEmbedder;
pub use log::{Listener, set_listener};
pub use store::{Known, Progress, Store};

use config::{BATCH, Plan};
use native::{Context, Model, Shape};
use template::Template;
use worker::{Job, Worker};

/// The name under which [`ModelSettings::provider`](lomusai_wire::ModelSettings::provider) holds fields for this provider: `min_p`,
/// `repeat_penalty`, and `template`, an object of variables for the chat template such as `enable_thinking`.
pub const NAME: &str = "local";

/// A provider of models in this process. Each model is loaded when it is first asked for, and stays until the provider is dropped.
///
/// Tool calls and structured output are held to their schemas while they are written, so that they fit whatever the model: what it
/// chooses is checked, and only where it does not fit are its other choices gone through. Absent settings: temperature 0.8, `top_p`
/// 0.95, `top_k` 40, `min_p` 0.05, an answer as long as the context allows.
///
/// The end of a thread's last turn stays in memory, so that its next turn reads only what is new: [`Usage`](lomusai_wire::Usage) says
/// so as `cache_read`. Several runs of one model are computed together; more than [`LocalConfig::parallel`] wait their turn. Dropping a
/// stream, or cancelling its call, ends the computation at once.
///
/// Calls must be made within a tokio runtime. Computing and loading happen on threads of their own.
///
/// # Errors
/// | code | when |
/// |---|---|
/// | `model_unknown` | no model has this name, or it is not there and may not be downloaded |
/// | `download_failed`, `checksum_mismatch`, `disk_full`, `model_file_unreadable` | getting the file failed; see [`Store`] |
/// | `model_file_invalid` | it is damaged, cut off, or no GGUF file |
/// | `model_unsupported` | llama.cpp does not know its architecture, or it is no chat model |
/// | `model_template_invalid` | it has no chat template, or one that fails |
/// | `memory_insufficient`, `cpu_unsupported` | this machine cannot run it |
/// | `context_too_long` | the conversation is longer than the context |
/// | `schema_unsupported` | a schema has no grammar |
/// | `unsupported` | pictures and files |
/// | `argument_invalid` | a setting is out of its range |
/// | `run_cancelled` | the call's token was cancelled |
pub struct LocalModels {
    config: LocalConfig,
    store: Store,
    loaded: Mutex<HashMap<String, Arc<OnceCell<Arc<Loaded>>>>>,
}

struct Loaded {
    worker: Worker,
    template: Template,
}

impl LocalModels {
    /// A provider. Nothing is loaded yet.
    pub fn new(config: LocalConfig) -> Self {
        let store = Store::new(config.models_dir.clone(), config.offline);
        Self { config, store, loaded: Mutex::default() }
    }

    /// Loads a model before it is first asked for; downloads it if need be. An empty name is [`LocalConfig::model`].
    ///
    /// # Errors
    /// Those of the provider that have to do with the file and the machine.
    pub async fn load(&self, model: &str, progress: impl Fn(Progress) + Send + Sync + 'static) -> Result<()> {
        self.loaded(model, Arc::new(progress)).await.map(drop)
    }

    async fn loaded(&self, model: &str, progress: Arc<dyn Fn(Progress) + Send + Sync>) -> Result<Arc<Loaded>> {
        let name = match (model, &self.config.model) {
            ("", Some(name)) => name,
            ("", None) => {
                return Err(Error::new(
                    codes::MODEL_UNKNOWN,
                    format!("no local model is named: say which, as `local:NAME`; known are {}", Store::names()),
                ));
            }
            (name, _) => name,
        };
        let cell = self.loaded.lock().entry(name.to_owned()).or_default().clone();
        let loaded = cell.get_or_try_init(|| async {
            let file = self.store.fetch(name, progress.clone()).await?;
            let config = self.config.clone();
            let (send, receive) = oneshot::channel();
            // A load takes seconds and reads a disk: not on the engine's threads.
            std::thread::Builder::new()
                .name("lomusai-load".into())
                .spawn(move || drop(send.send(load(&config, &file, &*progress))))
                .map_err(|error| Error::new(codes::INTERNAL, format!("no thread to load a model: {error}")))?;
            receive.await.map_err(|_| Error::new(codes::INTERNAL, "loading the model panicked"))?
        });
        Ok(loaded.await?.clone())
    }

    async fn ask(&self, context: CallContext, request: Arc<ModelRequest>) -> Result<ModelStream> {
        let watcher = context.clone();
        let progress = Arc::new(move |progress: Progress| watcher.progress(progress.to_value()));
        let cancelled = || Error::new(codes::RUN_CANCELLED, "the call was cancelled");
        if context.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let loaded = self.loaded(&request.model, progress).await?;
        let task = request::task(&request, &loaded.template)?;
        let flag = Arc::new(AtomicBool::new(false));
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        loaded.worker.send(Job { task, chunks: send, cancelled: flag.clone() });
        let wake = loaded.worker.cancel();
        let stop = Arc::new(move || {
            flag.store(true, Ordering::Release);
            wake();
        });
        let guard = context.cancel.on_cancel({
            let stop = stop.clone();
            move || stop()
        });
        let answer = Answer { receive, context, ended: false, stop, _guard: guard, _loaded: loaded };
        Ok(Box::pin(stream::unfold(answer, |mut answer| async move {
            let next = answer.next().await;
            next.map(|chunk| (chunk, answer))
        })))
    }
}

impl LlmProvider for LocalModels {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(self.ask(context, request))
    }
}

/// An answer that is being written.
struct Answer {
    receive: UnboundedReceiver<Result<ModelChunk>>,
    context: CallContext,
    ended: bool,
    /// Ends the computation.
    stop: Arc<dyn Fn() + Send + Sync>,
    _guard: CancelGuard,
    _loaded: Arc<Loaded>,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<ModelChunk>> {
        if self.ended {
            return None;
        }
        let next = self.receive.recv().await;
        self.ended = matches!(next, None | Some(Err(_)) | Some(Ok(ModelChunk::Finish { .. })));
        Some(next.unwrap_or_else(|| {
            Err(if self.context.cancel.is_cancelled() {
                Error::new(codes::RUN_CANCELLED, "the call was cancelled")
            } else {
                truncated()
            })
        }))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            (self.stop)();
        }
    }
}

/// Loads a chat model.
fn load(config: &LocalConfig, file: &Path, progress: &dyn Fn(Progress)) -> Result<Arc<Loaded>> {
    config::check_cpu()?;
    let header = errors::header_of(file)?;
    let name = file.display().to_string();
    if header.embeds() {
        return Err(errors::wrong_kind(file, "it makes vectors of texts and cannot chat"));
    }
    let source = match (&config.chat_template, header.template()) {
        (Some(source), _) => source.as_str(),
        (None, Some(source)) => source,
        (None, None) => {
            let message = format!(
                "{name} has no chat template: it is no chat model, or set chat_template in the provider's settings"
            );
            return Err(Error::new(codes::MODEL_TEMPLATE_INVALID, message).with("file", name));
        }
    };
    let bytes = std::fs::metadata(file).map_or(0, |file| file.len());
    let plan = config.plan(&header, bytes)?;
    config::check_memory(file, &plan, config::available_memory())?;
    let shape = Shape {
        tokens: plan.tokens,
        sequences: plan.slots,
        batch: BATCH.max(plan.slots),
        threads: plan.threads,
        embeddings: false,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let context = context(file, &plan, &shape, &stop, progress)?;
    let template = Template::new(source, context.model().bos_eos(), &name)?;
    log::note(
        LogLevel::Info,
        &format!("loaded {name}: {} runs of {} tokens, {} threads", plan.slots, plan.tokens, plan.threads),
    );
    let (slots, tokens, batch) = (plan.slots as usize, plan.tokens as usize, shape.batch as usize);
    Ok(Arc::new(Loaded { worker: Worker::start(context, slots, tokens, batch, stop, name)?, template }))
}

/// Loads a file that was looked through, and makes a context.
fn context(
    file: &Path,
    plan: &Plan,
    shape: &Shape,
    stop: &Arc<AtomicBool>,
    progress: &dyn Fn(Progress),
) -> Result<Context> {
    let mut told = 0;
    let model = Model::load(file, plan.mmap, |share| {
        let percent = (share * 100.0) as u32;
        if percent >= told + 5 || percent == 100 && told < 100 {
            told = percent;
            progress(Progress::Loading { file: PathBuf::from(file), percent });
        }
        true
    });
    let model = Arc::new(model.map_err(|said| errors::of_load(file, &said))?);
    Context::new(model, shape, stop.clone()).map_err(|said| config::out_of_memory(file, plan, &said))
}
