//! Questions to an engine as `name` and JSON parameters: one door for all bindings.

use lomusai_core::budget::Amount;
use lomusai_core::{Error, Result, journal, workflow};
use lomusai_runtime::Engine;
use lomusai_wire::{Command, Event, RunFilter, RunId, ThreadId, WorkflowDraft, codes};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::run::HostResult;
use crate::{read, read_object, write};

/// Every operation, its parameters and its answer.
pub const OPERATIONS: &[(&str, &str, &str)] = &[
    ("start", "{}", "{recovered: [run_id], blocked: [{run_id, error}], poisoned: [run_id], elsewhere: [run_id]}"),
    ("command", "{run_id, command}", "null, once it is recorded"),
    (
        "draft_workflow",
        "WorkflowDraft",
        "{spec, functions}: the spec of a builder's chain, and the names of functions that had none",
    ),
    ("run", "{run_id}", "RunInfo"),
    ("runs", "RunFilter", "[RunInfo]"),
    ("pending", "{}", "[RunInfo] of suspended runs"),
    ("result", "{run_id}", "a run's result; waits while it is at work here"),
    ("export", "{run_id}", "[Event], the run's journal"),
    ("digest", "{run_id}", "the digest of the run's journal"),
    ("digest_of", "{events}", "the digest of a journal that was exported"),
    ("delete_run", "{run_id}", "whether there was one"),
    ("thread", "{thread}", "ThreadInfo"),
    ("threads", "{resource?, offset?, limit?}", "[ThreadInfo]"),
    ("messages", "{thread}", "[Message]"),
    ("delete_thread", "{thread}", "whether there was one"),
    ("models", "{}", "[ModelInfo]: the models that are known, whether each can be asked now, what it can do and costs"),
    ("budgets", "{}", "[{name, limit, spent}] of the engine's shared budgets"),
    ("embed", "{embedder, texts}", "[[number]]"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfRun {
    run_id: RunId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfThread {
    thread: ThreadId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandTo {
    run_id: RunId,
    command: Command,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ThreadsOf {
    resource: Option<String>,
    offset: usize,
    limit: usize,
}

impl Default for ThreadsOf {
    fn default() -> Self {
        Self { resource: None, offset: 0, limit: 100 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embed {
    embedder: String,
    texts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    events: Vec<Event>,
}

/// Makes the spec of a builder's chain: a [`WorkflowDraft`] as JSON gives `{spec, functions}`. See [`Drafted`](workflow::Drafted).
///
/// # Errors
/// `json_invalid`, `argument_invalid`, `spec_invalid`.
pub fn draft_workflow(draft: &str) -> Result<String> {
    Ok(write(&workflow::drafted(read_object::<WorkflowDraft>("the workflow's draft", draft)?)?))
}

/// Answers a question. See [`OPERATIONS`].
pub(crate) async fn perform(engine: &Engine, name: &str, params: &str) -> Result<String> {
    let params = if params.trim().is_empty() { "{}" } else { params };
    let what = format!("the parameters of `{name}`");
    let of_run = || read::<OfRun>(&what, params).map(|of| of.run_id);
    let of_thread = || read::<OfThread>(&what, params).map(|of| of.thread);
    Ok(match name {
        "start" => {
            let report = engine.start().await?;
            let blocked: Vec<Value> =
                report.blocked.iter().map(|(run_id, error)| json!({"run_id": run_id, "error": error.body()})).collect();
            write(
                &json!({"recovered": report.recovered, "blocked": blocked, "poisoned": report.poisoned, "elsewhere": report.elsewhere}),
            )
        }
        "command" => {
            let CommandTo { run_id, command } = read(&what, params)?;
            engine.command(&run_id, command).await?;
            "null".into()
        }
        "draft_workflow" => draft_workflow(params)?,
        "run" => write(&engine.run_info(&of_run()?).await?),
        "runs" => write(&engine.runs(&read::<RunFilter>(&what, params)?).await?),
        "pending" => write(&engine.pending().await?),
        "result" => HostResult::new(&*engine.result(&of_run()?).await?).json,
        "export" => write(&engine.export(&of_run()?).await?),
        "digest" => write(&engine.digest(&of_run()?).await?),
        "digest_of" => write(&journal::digest(&read::<Events>(&what, params)?.events)),
        "delete_run" => write(&engine.delete_run(&of_run()?).await?),
        "thread" => write(&engine.thread(&of_thread()?).await?),
        "threads" => {
            let ThreadsOf { resource, offset, limit } = read(&what, params)?;
            write(&engine.threads(resource.as_deref(), offset, limit).await?)
        }
        "messages" => write(&engine.messages(&of_thread()?).await?),
        "delete_thread" => write(&engine.delete_thread(&of_thread()?).await?),
        "models" => write(&engine.models()),
        "budgets" => {
            let budgets: Vec<Value> = engine
                .budgets()
                .iter()
                .map(|budget| {
                    let Amount { tokens, nano_usd, calls, model_ms, .. } = budget.spent;
                    let spent =
                        json!({"tokens": tokens, "cost_nano_usd": nano_usd, "calls": calls, "model_ms": model_ms});
                    json!({"name": budget.name, "limit": budget.limit, "spent": spent})
                })
                .collect();
            write(&budgets)
        }
        "embed" => {
            let Embed { embedder, texts } = read(&what, params)?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            write(&engine.embed(&embedder, &texts).await?)
        }
        other => {
            let known: Vec<&str> = OPERATIONS.iter().map(|(name, ..)| *name).collect();
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("there is no operation `{other}`: there are {}", known.join(", ")),
            ));
        }
    })
}
