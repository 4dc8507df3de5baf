//! Questions to an engine as `name` and JSON parameters: one door for all bindings.

use lomusai_core::budget::Amount;
use lomusai_core::fork::ForkRequest;
use lomusai_core::{Error, Result, journal, workflow};
use lomusai_runtime::{Engine, PictureFormat, PictureOf, Retention};
use lomusai_wire::{Command, Event, RunFilter, RunId, ThreadId, WorkflowDraft, WorkflowSpec, codes};
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
    (
        "fork",
        "ForkRequest: {run_id, seq? or effect_id?, output? or input?, new_run_id?, metadata?, context?}",
        "{run_id} of the fork, which goes on without a reader",
    ),
    ("restart", "{run_id, new_run_id?}", "{run_id} of another run with the same input, which goes on without a reader"),
    (
        "difference",
        "{left, right}",
        "{left, right, same, input?, effects?, messages?, state?, outcome?}: how two runs differ",
    ),
    (
        "picture",
        "{workflow or run_id or spec, format?: svg, mermaid}",
        "a text: the workflow drawn, a run's steps in the colour of where they stand",
    ),
    (
        "register_migration",
        "Migration: {workflow, from, steps?, outputs?, state?, function?}",
        "null: runs that began under the spec `from` go on so",
    ),
    (
        "check_workflow",
        "{spec}",
        "[{run_id, status, hash, fits, needs_migration?, misfit?}]: whether unfinished runs could go on under this spec",
    ),
    (
        "compact",
        "{ended_ms_ago?}",
        "how many journals of runs that have ended take less room now; 0 from a store that cannot",
    ),
    ("prune", "{rules?: [Retention], only_tell?}", "[run_id] of the runs that were removed"),
    (
        "put_schedule",
        "Schedule: {name, cron or every_ms, timezone?, request, missed?, grace_ms?, from_ms?, until_ms?, paused?}",
        "ScheduleState: the schedule, next_ms?, last_ms?, last_run?, last_error?",
    ),
    ("schedules", "{}", "[ScheduleState], by name"),
    ("pause_schedule", "{name, paused?}", "ScheduleState; `paused: false` lets it go on"),
    ("delete_schedule", "{name}", "whether there was one"),
    ("fire_due", "{}", "[run_id] of the runs that were due and have begun"),
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    run_id: RunId,
    #[serde(default)]
    new_run_id: Option<RunId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TwoRuns {
    left: RunId,
    right: RunId,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Picture {
    format: PictureFormat,
    workflow: Option<String>,
    run_id: Option<RunId>,
    spec: Option<Box<WorkflowSpec>>,
}

impl Picture {
    fn of(self) -> Result<PictureOf> {
        match (self.workflow, self.run_id, self.spec) {
            (Some(name), None, None) => Ok(PictureOf::Workflow(name)),
            (None, Some(run_id), None) => Ok(PictureOf::RunId(run_id)),
            (None, None, Some(spec)) => Ok(PictureOf::Spec(spec)),
            _ => Err(Error::new(
                codes::ARGUMENT_INVALID,
                "a picture is of one thing: say `workflow`, `run_id` or `spec`, and only one of them",
            )),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Compact {
    ended_ms_ago: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Prune {
    rules: Option<Vec<Retention>>,
    only_tell: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSpec {
    spec: WorkflowSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSchedule {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    name: String,
    #[serde(default = "yes")]
    paused: bool,
}

fn yes() -> bool {
    true
}

/// Begins a fork that nobody reads.
async fn fork(engine: &Engine, mut request: ForkRequest) -> Result<String> {
    request.detached = true;
    let run = engine.fork(request, None).await?;
    Ok(write(&json!({"run_id": run.detach()})))
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
        "fork" => fork(engine, read(&what, params)?).await?,
        "restart" => {
            let Restart { run_id, new_run_id } = read(&what, params)?;
            let mut request = ForkRequest::new(run_id).at(1);
            request.new_run_id = new_run_id;
            fork(engine, request).await?
        }
        "difference" => {
            let TwoRuns { left, right } = read(&what, params)?;
            write(&engine.difference(&left, &right).await?)
        }
        "picture" => {
            let picture: Picture = read(&what, params)?;
            let format = picture.format;
            write(&engine.picture(&picture.of()?, format).await?)
        }
        "register_migration" => {
            engine.register_migration(read(&what, params)?)?;
            "null".into()
        }
        "check_workflow" => write(&engine.check_workflow(read::<OfSpec>(&what, params)?.spec).await?),
        "prune" => {
            let Prune { rules, only_tell } = read(&what, params)?;
            write(&engine.prune(rules.as_deref(), only_tell).await?)
        }
        "compact" => write(&engine.compact(read::<Compact>(&what, params)?.ended_ms_ago).await?),
        "put_schedule" => write(&engine.put_schedule(read(&what, params)?).await?),
        "schedules" => write(&engine.schedules().await?),
        "pause_schedule" => {
            let Pause { name, paused } = read(&what, params)?;
            write(&engine.pause_schedule(&name, paused).await?)
        }
        "delete_schedule" => write(&engine.delete_schedule(&read::<OfSchedule>(&what, params)?.name).await?),
        "fire_due" => write(&engine.fire_due().await?),
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
