//! Runs every vector on the real engine, in memory and on a SQLite file, and cancels each run at every event.
//!
//! ```text
//! cargo test -p lomusai_tests --test driver [-- FILTER]
//! ```
#![allow(clippy::print_stdout, reason = "a line per vector is what this program is for")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lomusai_core::component::{CallContext, FnFunction, FnStep};
use lomusai_core::storage::{MemoryStore, Store};
use lomusai_core::testing::ScriptedModel;
use lomusai_core::tool::FnTool;
use lomusai_core::{Error, Result, journal, transcript};
use lomusai_runtime::{Engine, EngineConfig, Run, RunRequest, RunResult};
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore};
use lomusai_tests::behaviour::{Asked, Does, Reply};
use lomusai_tests::matching::{difference, events_difference};
use lomusai_tests::vector::{Expect, Sent, Turn, Vector};
use lomusai_wire::{Code, Command, Event, EventBody, RunId, RunStatus, StartRequest, StepReply, ToolReply, codes};
use serde_json::{Value, json};

/// Vectors that run at once: most of their time is waiting for retries.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    let filter: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut vectors = match Vector::read_all() {
        Ok(vectors) => vectors,
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    };
    vectors.retain(|vector| {
        filter.is_empty()
            || filter.iter().any(|text| vector.name.contains(text.as_str()) || vector.path.ends_with(text))
    });
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(vector) = vectors.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let faults = examine(vector);
                    if faults.is_empty() {
                        println!("test {} ... ok", vector.name);
                    } else {
                        failed.fetch_add(1, Ordering::SeqCst);
                        println!("test {} ({}) ... FAILED", vector.name, vector.path.display());
                        faults.iter().for_each(|fault| println!("  - {fault}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("\n{} passed, {failed} failed", vectors.len() - failed);
    if failed == 0 && !vectors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine(vector: &Vector) -> Vec<String> {
    let mut faults = Vec::new();
    let folder = std::env::temp_dir().join(format!("lomusai-driver-{}-{:p}", std::process::id(), vector));
    let _ = std::fs::create_dir_all(&folder);
    for stored in [false, true] {
        let where_ = if stored { "in SQLite" } else { "in memory" };
        let store = || -> Arc<dyn Store> {
            match stored {
                true => {
                    Arc::new(SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).expect("a store"))
                }
                false => Arc::new(MemoryStore::new()),
            }
        };
        let opened = World::open(vector, store());
        if let Some(code) = &vector.refused_spec {
            match opened {
                Err(why) if why.contains(&format!("[{code}]")) => continue,
                other => faults.push(format!("{where_}: was not refused with {code}: {:?}", other.err())),
            }
            continue;
        }
        match opened.and_then(|world| world.play()) {
            Ok(found) => faults.extend(found.into_iter().map(|fault| format!("{where_}: {fault}"))),
            Err(why) => faults.push(format!("{where_}: {why}")),
        }
    }
    let cancelled = || World::open(vector, Arc::new(MemoryStore::new())).and_then(|world| world.cancel_everywhere());
    match if vector.refused_spec.is_some() { Ok(Vec::new()) } else { cancelled() } {
        Ok(found) => faults.extend(found),
        Err(why) => faults.push(why),
    }
    let _ = std::fs::remove_dir_all(folder);
    faults
}

/// An engine with what a vector needs.
struct World<'v> {
    vector: &'v Vector,
    engine: Engine,
    /// Tools that are told to stop count themselves here when they were.
    at_work: Arc<AtomicUsize>,
}

impl<'v> World<'v> {
    fn open(vector: &'v Vector, store: Arc<dyn Store>) -> Result<Self, String> {
        let in_words = |error: Error| error.to_string();
        let engine = Engine::builder(EngineConfig::default()).with_store(store).build().map_err(in_words)?;
        let at_work = Arc::new(AtomicUsize::new(0));
        for (name, script) in &vector.models {
            engine
                .register_provider(name, ScriptedModel::from_value(script.clone()).map_err(in_words)?)
                .map_err(in_words)?;
        }
        for tool in &vector.tools {
            let (does, at_work) = (tool.does.clone(), at_work.clone());
            let call = move |context: CallContext, arguments: String| {
                let (does, at_work) = (does.clone(), at_work.clone());
                async move {
                    let input: Value = serde_json::from_str(&arguments).unwrap_or_default();
                    let reply = act(codes::TOOL_FAILED, &does, &context, &input, at_work).await?;
                    Ok(match reply {
                        Reply::Suspends(suspend) => ToolReply::Suspend { suspend },
                        Reply::Returns(output, content) => ToolReply::Output { output, content },
                        _ => unreachable!("acted out"),
                    })
                }
            };
            engine.register_tool(FnTool::new(tool.spec.clone(), call)).map_err(in_words)?;
        }
        for (name, does) in &vector.functions {
            let (does, at_work) = (does.clone(), at_work.clone());
            let call = move |context: CallContext, input: Value| {
                let (does, at_work) = (does.clone(), at_work.clone());
                async move {
                    match act(codes::FUNCTION_FAILED, &does, &context, &input, at_work).await? {
                        Reply::Returns(value, _) => Ok(value),
                        _ => Ok(Value::Null),
                    }
                }
            };
            engine.register_function(name, FnFunction(call)).map_err(in_words)?;
        }
        for (name, does) in &vector.steps {
            let (does, at_work) = (does.clone(), at_work.clone());
            let call = move |context: CallContext, input: Value| {
                let (does, at_work) = (does.clone(), at_work.clone());
                async move { step(&does, &context, &input, at_work).await }
            };
            engine.register_step(name, FnStep(call)).map_err(in_words)?;
        }
        for agent in vector.agents.iter().chain([&vector.agent]) {
            engine.register_agent(agent.clone()).map_err(in_words)?;
        }
        for workflow in vector.workflows.iter().chain(&vector.workflow) {
            engine.register_workflow(workflow.clone()).map_err(in_words)?;
        }
        Ok(Self { vector, engine, at_work })
    }

    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.engine.block_on(future).expect("the engine is open")
    }

    fn play(&self) -> Result<Vec<String>, String> {
        let mut faults = Vec::new();
        let mut messages = None;
        for turn in &self.vector.turns {
            let request = self.vector.request(turn, messages.as_ref())?;
            match (self.turn(request, turn, None), &turn.expect.refused) {
                (Err(error), Some(code)) if error.code() == code => {}
                (Err(error), _) => return Err(format!("the run was refused: {error}")),
                (Ok(_), Some(code)) => return Err(format!("the run was not refused with {code}")),
                (Ok(played), None) => {
                    faults.extend(played.faults.iter().cloned());
                    faults.extend(self.compare(&turn.expect, &played));
                    messages = Some(json!(played.result.messages));
                }
            }
        }
        self.engine.close(Duration::from_secs(10)).map_err(|error| error.to_string())?;
        Ok(faults)
    }

    /// Plays one turn to its end, or cancels it once `cancel_at` durable events were seen.
    fn turn(&self, request: RunRequest, turn: &Turn, cancel_at: Option<usize>) -> Result<Played> {
        let cancel_at = cancel_at.or(turn.cancel_at);
        let engine = self.engine.clone();
        let run = self.wait(async move { engine.stream(request).await })?;
        let id = run.id().clone();
        let (mut faults, mut pending, mut seen) = (Vec::new(), Vec::new(), 0);
        let mut lists = turn.commands.iter();
        let mut result = self.read(run, &mut seen, cancel_at)?;
        loop {
            if result.status != RunStatus::Suspended {
                return Ok(Played { id, result, pending, faults });
            }
            pending.push(result.pending.clone());
            let Some(commands) = lists.next() else {
                // It stands still before the event at which it was to be cancelled: that is a place to cancel it, too.
                if cancel_at.is_some_and(|at| at > seen) && turn.cancel_at.is_none() {
                    let (engine, to) = (self.engine.clone(), id.clone());
                    let cancel = Command::Cancel { grace_ms: 0, reason: None };
                    let run = self.wait(async move { engine.resume(&to, cancel, None).await })?;
                    result = self.read(run, &mut seen, None)?;
                    continue;
                }
                return Ok(Played { id, result, pending, faults });
            };
            for Sent { send, to, refused } in commands {
                match (self.send(&id, to.as_deref(), send.clone(), &mut seen, cancel_at), refused) {
                    (Err(error), Some(code)) if error.code() == code => {}
                    (Err(error), _) => faults.push(format!("{send:?} was refused: {error}")),
                    (Ok(_), Some(code)) => faults.push(format!("{send:?} was not refused with {code}")),
                    (Ok(after), None) => result = after,
                }
            }
        }
    }

    /// Sends a command to a suspended run or to a child of it, and waits until the run ends or is suspended again.
    fn send(
        &self,
        top: &RunId,
        child: Option<&str>,
        command: Command,
        seen: &mut usize,
        cancel_at: Option<usize>,
    ) -> Result<Arc<RunResult>> {
        let (engine, top) = (self.engine.clone(), top.clone());
        match child {
            None => {
                let run = self.wait(async move { engine.resume(&top, command, None).await })?;
                self.read(run, seen, cancel_at)
            }
            Some(child) => {
                let child: RunId = format!("{top}/{child}").into();
                // The run itself goes on as soon as its child does.
                self.wait(async move {
                    engine.command(&child, command).await?;
                    engine.result(&top).await
                })
            }
        }
    }

    /// Reads a run until it ends or is suspended, and cancels it once it has said so many durable events.
    fn read(&self, run: Run, seen: &mut usize, cancel_at: Option<usize>) -> Result<Arc<RunResult>> {
        let mut count = *seen;
        let (result, count) = self.wait(async move {
            while let Some(event) = run.next().await {
                count += usize::from(event.is_durable());
                if event.is_durable() && Some(count) == cancel_at {
                    run.cancel(0, None);
                }
            }
            (run.result().await, count)
        });
        *seen = count;
        result
    }

    fn compare(&self, expect: &Expect, played: &Played) -> Vec<String> {
        let result = &played.result;
        let mut faults = self.compare_run(expect, &played.id, result.status);
        let mut differs = |expected: &Option<Value>, found: Value, what: &str| {
            faults.extend(expected.as_ref().and_then(|expected| difference(expected, Some(&found), what)));
        };
        differs(&expect.messages, json!(result.messages), "messages");
        differs(&expect.pending, json!(played.pending), "pending");
        if result.status.is_final()
            && let Err(error) = transcript::check(&result.messages)
        {
            faults.push(format!("the transcript is invalid: {error}"));
        }
        for (child, expect) in &expect.children {
            let id: RunId = format!("{}/{child}", played.id).into();
            let (engine, of) = (self.engine.clone(), id.clone());
            match self.wait(async move { engine.run_info(&of).await }) {
                Ok(info) => faults.extend(
                    self.compare_run(expect, &id, info.status)
                        .into_iter()
                        .map(|fault| format!("child {child}: {fault}")),
                ),
                Err(error) => faults.push(format!("child {child}: {error}")),
            }
        }
        faults
    }

    fn compare_run(&self, expect: &Expect, id: &RunId, status: RunStatus) -> Vec<String> {
        let (engine, of) = (self.engine.clone(), id.clone());
        let events = match self.wait(async move { engine.export(&of).await }) {
            Ok(events) => events,
            Err(error) => return vec![error.to_string()],
        };
        let mut faults = Vec::new();
        let mut differs = |expected: Option<Value>, found: Value, what: &str| {
            faults.extend(expected.and_then(|expected| difference(&expected, Some(&found), what)));
        };
        let (output, error) = events.iter().rev().find_map(finished).unwrap_or_default();
        differs(expect.status.as_ref().map(|status| json!(status)), json!(status), "status");
        differs(expect.output.clone(), output, "output");
        differs(expect.error.clone(), error, "error");
        let digest = journal::digest(&events);
        differs(expect.digest.as_ref().map(|digest| json!(digest)), json!(digest), "digest");
        if let Some(expected) = &expect.events {
            let lines = journal::canonical(&events);
            let found: Vec<Value> =
                lines.iter().map(|line| serde_json::from_str(line).expect("canonical JSON")).collect();
            faults.extend(events_difference(expected, &found));
        }
        faults
    }

    /// Cancels the first turn at each of its events in turn: tools are told, nothing starts afterwards, the conversation stays valid
    /// and the next turn works.
    fn cancel_everywhere(&self) -> Result<Vec<String>, String> {
        let turn = &self.vector.turns[0];
        if turn.expect.refused.is_some() || turn.cancel_at.is_some() {
            return Ok(Vec::new());
        }
        let request = self.vector.request(turn, None)?;
        let mut faults = Vec::new();
        for at in 1.. {
            let mut request = request.clone();
            let id = Some(format!("cancelled-{at}").into());
            match &mut request {
                RunRequest::Agent(request) => {
                    request.run_id = id;
                    request.thread = request.thread.take().map(|thread| format!("{thread}-{at}").into());
                }
                RunRequest::Workflow(request) => request.run_id = id,
                _ => {}
            }
            let played = match self.turn(request, turn, Some(at)) {
                Ok(played) => played,
                Err(error) => {
                    faults.push(format!("cancelled at {at}: {error}"));
                    break;
                }
            };
            let (engine, of) = (self.engine.clone(), played.id.clone());
            let events = self.wait(async move { engine.export(&of).await }).map_err(|error| error.to_string())?;
            let told = events.iter().position(|event| matches!(event.body, EventBody::RunCancelling { .. }));
            if let Some(told) = told {
                let late = events[told..].iter().find(|event| matches!(event.body, EventBody::EffectStarted { .. }));
                faults.extend(late.map(|event| format!("cancelled at {at}: started afterwards: {:?}", event.body)));
            }
            if played.result.status.is_final()
                && let Err(error) = transcript::check(&played.result.messages)
            {
                faults.push(format!("cancelled at {at}: {error}"));
            }
            faults.extend(self.next_turn(&played, at));
            if events.len() <= at {
                break;
            }
        }
        // Every tool that hung was told.
        for _ in 0..200 {
            if self.at_work.load(Ordering::SeqCst) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = self.at_work.load(Ordering::SeqCst);
        if left > 0 {
            faults.push(format!("{left} components were not told of the cancellation"));
        }
        self.engine.close(Duration::from_secs(10)).map_err(|error| error.to_string())?;
        Ok(faults)
    }

    /// Whether a conversation that was cut can be gone on with.
    fn next_turn(&self, played: &Played, at: usize) -> Option<String> {
        if !played.result.status.is_final() || self.vector.workflow.is_some() {
            return None;
        }
        let name = format!("next-{at}");
        let mut agent = lomusai_wire::AgentSpec::new(&name, &name);
        agent.description = "goes on".into();
        self.engine
            .register_provider(&name, ScriptedModel::from_value(json!([{"says": "on we go"}])).expect("a script"))
            .ok()?;
        self.engine.register_agent(agent).ok()?;
        let mut request = StartRequest::new(name, "and now?");
        request.history = played.result.messages.iter().map(|message| (**message).clone()).collect();
        let engine = self.engine.clone();
        match self.wait(async move { engine.run(request).await }) {
            Ok(result) if result.status == RunStatus::Completed => None,
            Ok(result) => Some(format!("cancelled at {at}: the next turn is {:?}: {:?}", result.status, result.error)),
            Err(error) => Some(format!("cancelled at {at}: the next turn was refused: {error}")),
        }
    }
}

struct Played {
    id: RunId,
    result: Arc<RunResult>,
    pending: Vec<Vec<lomusai_wire::Pending>>,
    faults: Vec<String>,
}

fn finished(event: &Event) -> Option<(Value, Value)> {
    match &event.body {
        EventBody::RunFinished { output, error, .. } => Some((json!(output), json!(error))),
        _ => None,
    }
}

async fn step(does: &Does, context: &CallContext, input: &Value, at_work: Arc<AtomicUsize>) -> Result<StepReply> {
    let mut reply = match act(codes::STEP_FAILED, does, context, input, at_work).await? {
        Reply::Returns(output, _) => StepReply::output(output),
        Reply::Suspends(payload) => StepReply::suspend(payload),
        Reply::Bails(result) => StepReply::bail(result),
        _ => unreachable!("acted out"),
    };
    let asked = Asked {
        input,
        context: &context.context,
        attempt: context.attempt,
        resume: context.resume.as_ref(),
        state: Some(&context.state),
    };
    let (does, _) = does.reply(asked);
    (reply.state, reply.label) = (does.sets, does.label);
    Ok(reply)
}

/// Acts a behaviour out: what it reports, and that it hangs.
async fn act(
    code: Code,
    does: &Does,
    context: &CallContext,
    input: &Value,
    at_work: Arc<AtomicUsize>,
) -> Result<Reply> {
    let asked = Asked {
        input,
        context: &context.context,
        attempt: context.attempt,
        resume: context.resume.as_ref(),
        state: Some(&context.state),
    };
    let (does, reply) = does.reply(asked);
    for data in does.progress {
        context.progress(data);
    }
    for custom in does.custom {
        context.custom(custom.name, custom.data, true);
    }
    match reply {
        Reply::Fails(message) => Err(Error::new(code, message)),
        Reply::Fatal(message) => Err(Error::new(codes::STEP_FATAL, message)),
        Reply::Hangs => {
            /// Counts a component that was told, also when it is simply dropped.
            struct AtWork(Arc<AtomicUsize>);
            impl Drop for AtWork {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            at_work.fetch_add(1, Ordering::SeqCst);
            let _at_work = AtWork(at_work);
            context.cancel.cancelled().await;
            std::future::pending().await
        }
        reply => Ok(reply),
    }
}
