//! An engine for hosts: JSON in, JSON out, callables in.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lomusai::llm::{ProviderConfig, Router};
use lomusai_core::component::HostSlot;
use lomusai_core::storage::{MemoryStore, Store};
use lomusai_core::telemetry::TelemetrySink;
use lomusai_core::testing::ScriptedModel;
use lomusai_core::{Error, Result};
use lomusai_runtime::{ComponentKind, Engine, EngineConfig, RunRequest};
use lomusai_wire::{AgentSpec, Command, LogLevel, RunId, StartRequest, ToolSpec, WorkflowRequest, WorkflowSpec, codes};
use serde::Deserialize;
use serde_json::Value;

use crate::adapters::{Callable, HostEmbedder, HostFunction, HostProvider, HostStep, HostTool};
use crate::answer::AnswerKind;
use crate::pool::{self, HostPool};
use crate::process::Process;
use crate::run::{HostObserver, HostRun};
use crate::{Handler, ops, read, read_object};

/// Where a callable is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On a thread of the host pool, where it may block.
    #[default]
    Pool,
    /// On the thread that drives the run, which it must never block. For callables that only pass the call on.
    Inline,
}

/// Takes the engine's notes: level, target, message.
pub type LogFn = Box<dyn Fn(LogLevel, &str, &str) + Send + Sync>;

/// Options of an engine, over [`EngineConfig`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    /// The store's file. Default: in memory.
    path: Option<String>,
    /// What a commit waits for.
    sync: SyncMode,
    /// How long to wait for another process's lock on the file.
    busy_ms: Option<u64>,
    /// Most callables at once. Default 256.
    callbacks_max: Option<usize>,
    /// Finished runs kept in memory. Default as `MemoryStore::new`.
    keep_finished: Option<usize>,
    /// Settings of providers that nobody registers, by the name before the slash of `provider/model`.
    providers: serde_json::Map<String, Value>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SyncMode {
    #[default]
    Normal,
    Full,
}

const OPTION_NAMES: [&str; 6] = ["path", "sync", "busy_ms", "callbacks_max", "keep_finished", "providers"];

/// An engine for hosts. Thread-safe. Belongs to the process that opened it.
pub struct HostEngine {
    engine: Option<Engine>,
    pool: Arc<HostPool>,
    process: Process,
}

impl HostEngine {
    /// Opens an engine. `options` is a JSON object: `path`, `sync` (`normal`, `full`), `busy_ms`, `callbacks_max`, `keep_finished`,
    /// `providers` (see [`Router`]) and the fields of [`EngineConfig`]. All have defaults; without a `path`, runs are kept in memory. Runs nothing yet.
    ///
    /// # Errors
    /// `json_invalid`, `argument_invalid`; the storage codes for the file.
    pub fn open(options: &str) -> Result<Arc<Self>> {
        let options = if options.trim().is_empty() { "{}" } else { options };
        let mut fields: serde_json::Map<String, Value> = read("the engine's options", options)?;
        let own: serde_json::Map<String, Value> =
            OPTION_NAMES.iter().filter_map(|name| fields.remove_entry(*name)).collect();
        let wrong = |e: serde_json::Error| {
            Error::new(codes::ARGUMENT_INVALID, format!("the engine's options cannot be read: {e}"))
        };
        let own: Options = serde_json::from_value(Value::Object(own)).map_err(wrong)?;
        let config: EngineConfig = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
        let store = open_store(&own)?;
        let router = Router::from_json(&Value::Object(own.providers).to_string())?;
        let engine = Engine::builder(config).with_store(store).with_router(Arc::new(router)).build()?;
        let pool = HostPool::new(own.callbacks_max.unwrap_or(256));
        Ok(Arc::new(Self { engine: Some(engine), pool, process: Process::this() }))
    }

    /// The engine, unless this process is a fork of the one that opened it.
    ///
    /// # Errors
    /// `engine_forked`.
    pub fn engine(&self) -> Result<&Engine> {
        self.check_process()?;
        Ok(self.engine.as_ref().expect("only taken when dropped"))
    }

    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process.is_this() {
            return Ok(());
        }
        Err(Error::new(
            codes::ENGINE_FORKED,
            "this engine was opened before the process forked, and its threads did not come along: open one in each process",
        ))
    }

    // --- Components --------------------------------------------------------------------------------------------------

    /// Registers a tool: its [`ToolSpec`] as JSON, and what carries it out. The handler is dropped when this fails.
    ///
    /// # Errors
    /// `json_invalid`, `argument_invalid`, `name_invalid`, `schema_invalid`, `name_taken`.
    pub fn register_tool(&self, spec: &str, placement: Placement, handler: Arc<dyn Handler>) -> Result<()> {
        let spec: ToolSpec = read("the tool's spec", spec)?;
        let callable = self.callable(&spec.name, AnswerKind::Tool, placement, handler);
        self.engine()?.register_tool(HostTool { spec, callable })
    }

    /// Registers a function that specs can name.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_function(&self, name: &str, placement: Placement, handler: Arc<dyn Handler>) -> Result<()> {
        let callable = self.callable(name, AnswerKind::Function, placement, handler);
        self.engine()?.register_function(name, HostFunction(callable))
    }

    /// Registers a model provider of the host. It is asked with a [`ModelRequest`](lomusai_wire::ModelRequest) and answers by chunks.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_provider(&self, name: &str, placement: Placement, handler: Arc<dyn Handler>) -> Result<()> {
        let callable = self.callable(name, AnswerKind::Provider, placement, handler);
        self.engine()?.register_provider(name, HostProvider(callable))
    }

    /// Registers a provider that comes with the engine: `{"type": "scripted", "script": …}`, or one of a kind of
    /// [`KINDS`](lomusai::llm::KINDS) with its settings: `{"type": "compatible", "base_url": …, …}`.
    ///
    /// # Errors
    /// `json_invalid`, `provider_unknown`, `argument_invalid`, `name_invalid`, `name_taken`, and what the provider says of its settings.
    pub fn register_builtin_provider(&self, name: &str, config: &str) -> Result<()> {
        let engine = self.engine()?;
        let mut fields: serde_json::Map<String, Value> = read("the provider's settings", config)?;
        let kind = fields.remove("type").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let wrong = |e: serde_json::Error| {
            Error::new(codes::ARGUMENT_INVALID, format!("the settings of provider `{name}` cannot be read: {e}"))
        };
        match kind.as_str() {
            "scripted" => {
                engine.register_provider(name, ScriptedModel::from_value(fields.remove("script").unwrap_or_default())?)
            }
            #[cfg(feature = "local")]
            "local" => {
                let config = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
                engine.register_provider(name, lomusai::llm::local::LocalModels::new(config))
            }
            #[cfg(not(feature = "local"))]
            "local" => Err(lomusai::llm::Router::local_missing()),
            "" => {
                let message =
                    format!("the settings of provider `{name}` have no `type`: `scripted`, or a kind such as `openai`");
                Err(Error::new(codes::ARGUMENT_INVALID, message))
            }
            kind => {
                let config: ProviderConfig = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
                config.secrets().for_each(|secret| engine.hide_secret(secret.expose()));
                engine.register_provider(name, lomusai::llm::Provider::new(kind, config)?)
            }
        }
    }

    /// Registers an embedder of the host: asked with `{texts}`, it answers one vector of `dimensions` numbers per text.
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_embedder(
        &self,
        name: &str,
        dimensions: usize,
        placement: Placement,
        handler: Arc<dyn Handler>,
    ) -> Result<()> {
        let callable = self.callable(name, AnswerKind::Function, placement, handler);
        self.engine()?.register_embedder(name, HostEmbedder { dimensions, callable })
    }

    /// Registers an agent: its [`AgentSpec`] as JSON.
    ///
    /// # Errors
    /// `json_invalid`, `argument_invalid`, `name_invalid`, `spec_invalid`, `name_taken`.
    pub fn register_agent(&self, spec: &str) -> Result<()> {
        self.engine()?.register_agent(read_object::<AgentSpec>("the agent's spec", spec)?)
    }

    /// Registers a workflow: its [`WorkflowSpec`] as JSON.
    ///
    /// # Errors
    /// `json_invalid`, `argument_invalid`, `name_taken`, and what is wrong with the spec: `step_cycle`, `step_duplicate`,
    /// `step_reference_unknown`, `expression_invalid`, `schema_invalid`, `spec_invalid`, `name_invalid`.
    pub fn register_workflow(&self, spec: &str) -> Result<()> {
        self.engine()?.register_workflow(read_object::<WorkflowSpec>("the workflow's spec", spec)?)
    }

    /// Registers a function that steps of workflows call. It is asked with the step's input and answers a value, or a
    /// [`StepReply`](lomusai_wire::StepReply) by [`Answer::reply`](crate::Answer::reply).
    ///
    /// # Errors
    /// `name_invalid`, `name_taken`.
    pub fn register_step(&self, name: &str, placement: Placement, handler: Arc<dyn Handler>) -> Result<()> {
        let callable = self.callable(name, AnswerKind::Step, placement, handler);
        self.engine()?.register_step(name, HostStep(callable))
    }

    /// Takes a component away; `kind` is `agent`, `tool`, `provider`, `function`, `embedder`, `workflow` or `step`. `false` if there was none.
    ///
    /// # Errors
    /// `argument_invalid` for another kind.
    pub fn unregister(&self, kind: &str, name: &str) -> Result<bool> {
        let kind = match kind {
            "agent" => ComponentKind::Agent,
            "tool" => ComponentKind::Tool,
            "provider" => ComponentKind::Provider,
            "function" => ComponentKind::Function,
            "embedder" => ComponentKind::Embedder,
            "workflow" => ComponentKind::Workflow,
            "step" => ComponentKind::Step,
            other => {
                let message = format!(
                    "a component is an agent, tool, provider, function, embedder, workflow or step, not `{other}`"
                );
                return Err(Error::new(codes::ARGUMENT_INVALID, message));
            }
        };
        Ok(self.engine()?.unregister(kind, name))
    }

    /// Gives the engine's notes to `log`, called on the engine's threads; `None` takes it away.
    ///
    /// # Errors
    /// `engine_forked`.
    pub fn set_log(&self, log: Option<LogFn>) -> Result<()> {
        struct Sink(Arc<LogFn>);
        impl TelemetrySink for Sink {
            fn log(&self, level: LogLevel, target: &str, message: &str) {
                (self.0)(level, target, message);
            }
        }
        let engine = self.engine()?;
        let log = log.map(Arc::new);
        // llama.cpp says things to a process, not to an engine: the log that was set last hears them.
        #[cfg(feature = "local")]
        lomusai::llm::local::set_listener(log.clone().map(|log| -> lomusai::llm::local::Listener {
            Arc::new(move |level, target, message| log(level, target, message))
        }));
        engine.set_telemetry(log.map(|log| Arc::new(Sink(log)) as Arc<dyn TelemetrySink>));
        Ok(())
    }

    fn callable(&self, name: &str, kind: AnswerKind, placement: Placement, handler: Arc<dyn Handler>) -> Callable {
        Callable { name: name.into(), kind, handler, placement, pool: self.pool.clone() }
    }

    // --- Runs --------------------------------------------------------------------------------------------------------

    /// Begins a run: a [`StartRequest`] or a [`WorkflowRequest`] as JSON, and a slot that the host's own callables find again. Does not wait: what cannot be
    /// told at once (`run_exists`, `thread_busy`, storage errors) is the run's result.
    ///
    /// # Errors
    /// `json_invalid`, `argument_invalid`, `agent_unknown`, `input_empty` and the like, `engine_closed`.
    pub fn run(self: &Arc<Self>, request: &str, host: Option<HostSlot>) -> Result<HostRun> {
        // What runs is told by what is named.
        #[derive(Deserialize)]
        struct Named {
            workflow: Option<serde::de::IgnoredAny>,
        }
        let request: RunRequest = match read::<Named>("the request", request)?.workflow {
            Some(_) => read::<WorkflowRequest>("the request", request)?.into(),
            None => read::<StartRequest>("the request", request)?.into(),
        };
        let run = self.engine()?.launch(request, host)?;
        Ok(HostRun::new(self.clone(), run))
    }

    /// Sends a command to a suspended run and reads on from there. Waits until the command is recorded.
    ///
    /// # Errors
    /// As [`Engine::resume`].
    pub fn resume(self: &Arc<Self>, run_id: &str, command: &str, host: Option<HostSlot>) -> Result<HostRun> {
        let this = self.clone();
        let (run_id, command) = (run_id.to_owned(), command.to_owned());
        self.wait(async move { this.resume_async(&run_id, &command, host).await })?
    }

    /// As [`resume`](Self::resume), as a task.
    ///
    /// # Errors
    /// As [`Engine::resume`].
    pub async fn resume_async(
        self: &Arc<Self>,
        run_id: &str,
        command: &str,
        host: Option<HostSlot>,
    ) -> Result<HostRun> {
        let command: Command = read("the command", command)?;
        let run = self.engine()?.resume(&RunId::new(run_id), command, host).await?;
        Ok(HostRun::new(self.clone(), run))
    }

    /// Reads a run's events after `seq` beside its primary reader.
    ///
    /// # Errors
    /// `run_unknown`.
    pub fn observe(self: &Arc<Self>, run_id: &str, seq: u64) -> Result<HostObserver> {
        let (this, run_id) = (self.clone(), run_id.to_owned());
        self.wait(async move { this.observe_async(&run_id, seq).await })?
    }

    /// As [`observe`](Self::observe), as a task.
    ///
    /// # Errors
    /// `run_unknown`.
    pub async fn observe_async(self: &Arc<Self>, run_id: &str, seq: u64) -> Result<HostObserver> {
        let observer = self.engine()?.observe(&RunId::new(run_id), seq).await?;
        Ok(HostObserver { engine: self.clone(), observer: Arc::new(tokio::sync::Mutex::new(observer)) })
    }

    /// Asks the engine something: see [`OPERATIONS`](crate::OPERATIONS). Waits on this thread.
    ///
    /// # Errors
    /// `argument_invalid` for an unknown operation; what the operation says.
    pub fn call(&self, operation: &str, params: &str) -> Result<String> {
        let engine = self.engine()?.clone();
        let (operation, params) = (operation.to_owned(), params.to_owned());
        self.wait(async move { ops::perform(&engine, &operation, &params).await })?
    }

    /// As [`call`](Self::call), as a task.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_async(&self, operation: &str, params: &str) -> Result<String> {
        ops::perform(self.engine()?, operation, params).await
    }

    /// Runs a future on the engine's threads. It is dropped unfinished when the engine closes first.
    ///
    /// # Errors
    /// `engine_closed`, `engine_forked`.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.engine()?.spawn(future)
    }

    /// Waits for a future on this thread, from anywhere: also from a callable.
    ///
    /// # Errors
    /// `engine_closed`, `engine_forked`.
    pub fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let engine = self.engine()?;
        pool::while_waiting(|| engine.block_on(future))
    }

    /// Runs work of the binding itself on a thread of the host pool, where it may block. `what` names it, should it not return when
    /// the engine closes. Dropped unrun when the engine closes before its turn.
    pub fn on_pool(&self, what: String, job: impl FnOnce() + Send + 'static) {
        self.pool.run(what, Box::new(job));
    }

    /// Closes the engine: runs that have a reader are cancelled, detached ones of a durable store are left for the next `start`.
    /// Waits at most `timeout` (default: the config's `close_ms`) for runs and callables. Doing it twice is fine.
    ///
    /// # Errors
    /// `close_timeout`, naming the callables that did not return; the engine is closed all the same, their threads are abandoned.
    pub fn close(&self, timeout: Option<Duration>) -> Result<()> {
        let engine = self.engine()?;
        let timeout = timeout.unwrap_or(Duration::from_millis(engine.config().close_ms));
        pool::while_waiting(|| engine.close(timeout))?;
        let abandoned = self.pool.close(timeout);
        if abandoned.is_empty() {
            return Ok(());
        }
        let names = abandoned.join(", ");
        Err(Error::new(
            codes::CLOSE_TIMEOUT,
            format!("callables did not return within {} ms and were abandoned: {names}", timeout.as_millis()),
        )
        .with("abandoned", abandoned))
    }

    /// Whether the engine is closed.
    pub fn is_closed(&self) -> bool {
        self.engine.as_ref().is_none_or(Engine::is_closed)
    }
}

impl Drop for HostEngine {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        if !self.process.is_this() {
            engine.abandon();
        }
    }
}

fn open_store(options: &Options) -> Result<Arc<dyn Store>> {
    use lomusai::stores::sqlite::{SqliteOptions, SqliteStore, Sync};
    let Some(path) = &options.path else {
        return Ok(Arc::new(options.keep_finished.map_or_else(MemoryStore::new, MemoryStore::keeping)));
    };
    let sync = match options.sync {
        SyncMode::Normal => Sync::Normal,
        SyncMode::Full => Sync::Full,
    };
    let mut settings = SqliteOptions { sync, ..Default::default() };
    if let Some(ms) = options.busy_ms {
        settings.busy_timeout = Duration::from_millis(ms);
    }
    Ok(Arc::new(SqliteStore::open(path, settings)?))
}
