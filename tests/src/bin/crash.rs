//! A process that runs a workflow, killed at every write of its journal and at random times, and a checker that knows nothing of the engine.
//!
//! ```text
//! cargo xtask crash --kills N --seed S
//! ```
//! The work appends the idempotency key of each effect to a ledger outside of the store. After each kill another process goes on. In the
//! end the outcome must be that of a run that nobody killed: nothing that was acknowledged is lost, nothing is recorded twice, and what
//! was done twice was done under one key.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the parent reads what its child prints, and people the rest"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lomusai_core::component::{CallContext, FnStep};
use lomusai_core::storage::{Batch, Blobs, Capabilities, Journal, KeyValue, Leases, Store, ThreadInfo, Threads};
use lomusai_core::testing::{ScriptedModel, block_on};
use lomusai_core::tool::FnTool;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_runtime::{Engine, EngineConfig};
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore, rusqlite};
use lomusai_wire::{
    AgentSpec, Command as Told, Event, EventBody, Message, RunFilter, RunId, RunInfo, RunStatus, SqlStatement,
    StepReply, ThreadId, ToolSpec, WorkflowRequest, WorkflowSpec, codes,
};
use serde_json::{Value, json};

const RUN: &str = "main";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder, at] = &arguments[..]
        && mode == "child"
    {
        return work(Path::new(folder), at.parse().expect("a number"));
    }
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    match suite(number("--kills", 100), number("--seed", 1)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

// --- The process that is killed ------------------------------------------------------------------------------------------

/// Everything a workflow can do, in one.
fn workflow() -> Result<(WorkflowSpec, WorkflowSpec)> {
    let read = |spec: Value| serde_json::from_value(spec).map_err(|e| Error::new(codes::SPEC_INVALID, e.to_string()));
    let inner = read(json!({"name": "inner", "steps": [
        {"id": "n1", "run": {"step": "work"}},
        {"id": "n2", "after": ["n1"], "run": {"step": "work"}},
    ]}))?;
    let outer = read(json!({"name": "outer", "steps": [
        {"id": "first", "run": {"step": "work"}},
        {"id": "left", "after": ["first"], "run": {"step": "work"}},
        {"id": "right", "after": ["first"], "run": {"step": "flaky"}, "retry": {"max": 3, "delay_ms": 1}},
        {"id": "each", "after": ["left", "right"], "input": {"from": "input.items"},
         "run": {"foreach": {"concurrency": 2, "steps": [{"id": "item", "run": {"step": "work"}}]}}},
        {"id": "sleep", "after": ["each"], "run": {"sleep": {"value": 5}}},
        {"id": "nested", "after": ["sleep"], "run": {"workflow": "inner"}},
        {"id": "repeat", "after": ["nested"],
         "run": {"loop": {"steps": [{"id": "again", "run": {"step": "work"}}], "while": {"expr": "iteration < 3"}}}},
        {"id": "agent", "after": ["repeat"], "input": {"value": "Look it up."}, "run": {"agent": "clerk"}},
        {"id": "wait", "after": ["agent"], "run": {"suspend": {}}},
        {"id": "signal", "after": ["wait"], "run": {"wait": {"signal": "go"}}},
        {"id": "book", "after": ["signal"], "run": {"step": "book"}},
        {"id": "last", "after": ["book"], "run": {"step": "work"}},
    ], "output": {"object": {"each": {"from": "steps.each"}, "nested": {"from": "steps.nested"}, "agent": {"from": "steps.agent"},
       "right": {"from": "steps.right"}, "repeat": {"from": "steps.repeat"}, "wait": {"from": "steps.wait"}, "last": {"from": "steps.last"}}}}))?;
    Ok((inner, outer))
}

/// Says outside of the store that an effect was carried out.
fn note(ledger: &Path, context: &CallContext) {
    let line = format!("{}\n", context.idempotency_key());
    let file = std::fs::OpenOptions::new().create(true).append(true).open(ledger);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the ledger can be written");
}

fn engine(folder: &Path, kill_at: u64) -> Result<Engine> {
    let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default())?;
    let store = Arc::new(Deadly { store, commits: AtomicU64::new(0), kill_at });
    let mut config = EngineConfig::default();
    (config.threads, config.lease_ms) = (Some(2), 300);
    config.recoveries_max = 1_000;
    let engine = Engine::builder(config).with_store(store).build()?;
    let ledger = folder.join("ledger");
    let at = ledger.clone();
    engine.register_step(
        "work",
        FnStep(move |context: CallContext, _: Value| {
            let at = at.clone();
            async move {
                note(&at, &context);
                Ok(StepReply::output(context.effect_id.as_str()))
            }
        }),
    )?;
    // Its effect is in the store's own file, and is recorded with it: it happens once, whatever is killed.
    let at = ledger.clone();
    engine.register_step(
        "book",
        FnStep(move |context: CallContext, _: Value| {
            let at = at.clone();
            async move {
                note(&at, &context);
                let table = SqlStatement::new("CREATE TABLE IF NOT EXISTS booked (key TEXT NOT NULL)", Vec::new());
                let row =
                    SqlStatement::new("INSERT INTO booked (key) VALUES (?1)", vec![context.idempotency_key().into()]);
                Ok(StepReply::output("booked").with_sql(table).with_sql(row))
            }
        }),
    )?;
    let at = ledger.clone();
    engine.register_step(
        "flaky",
        FnStep(move |context: CallContext, _: Value| {
            let at = at.clone();
            async move {
                note(&at, &context);
                if context.attempt < 2 {
                    return Err(Error::new(codes::STEP_FAILED, "the first time it fails"));
                }
                Ok(StepReply::output("in the end"))
            }
        }),
    )?;
    let tool = FnTool::new(ToolSpec::new("look", "Looks it up."), move |context: CallContext, _: String| {
        let at = ledger.clone();
        async move {
            note(&at, &context);
            Ok(json!("found").into())
        }
    });
    engine.register_tool(tool)?;
    let script = json!([{"calls": [{"name": "look"}, {"name": "look"}]}, {"says": "It is there."}]);
    engine.register_provider("model", ScriptedModel::from_value(script)?)?;
    let mut clerk = AgentSpec::new("clerk", "model");
    clerk.tools = vec!["look".into()];
    engine.register_agent(clerk)?;
    let (inner, outer) = workflow()?;
    engine.register_workflow(inner)?;
    engine.register_workflow(outer)?;
    Ok(engine)
}

fn work(folder: &Path, kill_at: u64) -> ExitCode {
    match engine(folder, kill_at).and_then(|engine| {
        let inner = engine.clone();
        engine.block_on(async move { drive(&inner).await })?
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the run or takes it up, and tells it what it waits for, until it has ended.
async fn drive(engine: &Engine) -> Result<()> {
    let id = RunId::from(RUN);
    loop {
        let report = engine.start().await?;
        if report.elsewhere.is_empty() {
            break;
        }
        // The process before this one is dead; its lease is not yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if engine.run_info(&id).await.is_err_and(|error| error.is(codes::RUN_UNKNOWN)) {
        let mut request = WorkflowRequest::new("outer", json!({"items": [1, 2, 3]}));
        (request.run_id, request.detached) = (Some(id.clone()), true);
        drop(engine.stream(request).await?);
    }
    loop {
        let result = engine.result(&id).await?;
        match result.status {
            RunStatus::Completed => return Ok(()),
            RunStatus::Suspended => {
                let command = match result.pending[0].signal {
                    Some(_) => Told::Signal { name: "go".into(), data: json!("went") },
                    None => Told::Resume { effect_id: None, label: None, data: json!("resumed") },
                };
                match engine.command(&id, command).await {
                    Err(error) if !error.is(codes::RUN_ACTIVE) => return Err(error),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Ok(()) => {}
                }
            }
            RunStatus::Running | RunStatus::Waiting => tokio::time::sleep(Duration::from_millis(2)).await,
            status => return Err(Error::new(codes::INTERNAL, format!("the run is {status:?}: {:?}", result.error))),
        }
    }
}

/// A store that kills its process: before commit `n` when it is even, behind it when it is odd.
struct Deadly {
    store: SqliteStore,
    commits: AtomicU64,
    kill_at: u64,
}

fn die() -> ! {
    // SAFETY: no preconditions; the process is gone when it returns.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

impl Store for Deadly {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if number * 2 == self.kill_at {
            die();
        }
        let said = batch.run.as_ref().map(|run| (run.run_id.clone(), run.expected_seq + run.events.len() as u64));
        let commit = self.store.commit(batch);
        Box::pin(async move {
            commit.await?;
            if let Some((run, seq)) = said {
                // One write, so that lines of threads do not mix.
                let _ = std::io::stdout().write_all(format!("ack {run} {seq}\n").as_bytes());
            }
            if number * 2 + 1 == self.kill_at {
                die();
            }
            Ok(())
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.store.close()
    }
}

impl Journal for Deadly {
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.store.events(run, after, limit)
    }
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.store.run(run)
    }
    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.store.runs(filter)
    }
    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.store.delete_run(run)
    }
}

impl Threads for Deadly {
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>> {
        self.store.thread(thread)
    }
    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>> {
        self.store.threads(resource, offset, limit)
    }
    fn messages<'a>(
        &'a self,
        thread: &'a ThreadId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Message>>>> {
        self.store.messages(thread, from, limit)
    }
    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>> {
        self.store.delete_thread(thread)
    }
}

impl KeyValue for Deadly {
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>> {
        self.store.get(space, key)
    }
    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.store.keys(space, prefix)
    }
}

impl Blobs for Deadly {
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        self.store.blob(hash)
    }
}

impl Leases for Deadly {
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>> {
        self.store.claim(run, owner, now_ms)
    }
    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
        self.store.heartbeat(owner, until_ms)
    }
    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>> {
        self.store.release(run, epoch)
    }
    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>> {
        self.store.retire(owner)
    }
}

// --- The one that kills and checks ---------------------------------------------------------------------------------------

/// What a killed run is compared with.
struct Reference {
    output: Value,
    keys: BTreeSet<String>,
    commits: u64,
}

fn suite(kills: u64, seed: u64) -> std::result::Result<String, String> {
    let folder = std::env::temp_dir().join(format!("lomusai-crash-{}", std::process::id()));
    let mut random = Random(seed);
    let (mut killed, mut rounds, mut redone) = (0, 0, 0);
    let reference = {
        let folder = fresh(&folder.join("reference"))?;
        let (ended, acks) = child(&folder, 0, None)?;
        if !ended {
            return Err("the run that nobody kills did not end".into());
        }
        let checked = check(&folder, None)?;
        Reference { commits: acks.len() as u64, ..checked.0 }
    };
    // Before and behind each commit in turn, then at times of the dice.
    let mut next = 2;
    while killed < kills {
        let folder = fresh(&folder.join("killed"))?;
        let what = format!("seed {seed}, round {rounds}, first kill {next}");
        let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
        for process in 0.. {
            let (at, after) = match process {
                0 if next <= reference.commits * 2 + 1 => (next, None),
                0..2 => (0, Some(Duration::from_micros(500 + random.below(60_000)))),
                _ => (0, None),
            };
            let (ended, acks) = child(&folder, at, after).map_err(|why| format!("{what}: {why}"))?;
            for (run, seq) in acks {
                let known = acknowledged.entry(run).or_default();
                *known = (*known).max(seq);
            }
            is_there(&folder, &acknowledged).map_err(|why| format!("{what}, process {process}: {why}"))?;
            if ended {
                break;
            }
            killed += 1;
            if process > 20 {
                return Err(format!("{what}: it does not come to an end"));
            }
        }
        let (_, twice) = check(&folder, Some(&reference)).map_err(|why| format!("{what}: {why}"))?;
        redone += twice;
        rounds += 1;
        next += 1;
    }
    let _ = std::fs::remove_dir_all(&folder);
    Ok(format!(
        "{killed} kills in {rounds} runs of {} commits and {} effects; {redone} effects were carried out again, each under its key; no outcome differs",
        reference.commits,
        reference.keys.len()
    ))
}

fn fresh(folder: &Path) -> std::result::Result<PathBuf, String> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder.to_owned())
}

/// Runs a process until it ends or is killed, by itself or after some time. Gives whether it ended, and what it said was committed.
fn child(
    folder: &Path,
    kill_at: u64,
    after: Option<Duration>,
) -> std::result::Result<(bool, Vec<(String, u64)>), String> {
    let words = |e: std::io::Error| e.to_string();
    let program = std::env::current_exe().map_err(words)?;
    let mut child = Command::new(program)
        .args(["child", &folder.display().to_string(), &kill_at.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(words)?;
    let stdout = child.stdout.take().expect("piped");
    let killer = after.map(|after| {
        let id = child.id();
        std::thread::spawn(move || {
            std::thread::sleep(after);
            // SAFETY: a process of our own that has not been waited for, so that its id is not given away.
            unsafe { libc::kill(id as libc::pid_t, libc::SIGKILL) };
        })
    });
    let mut acks = Vec::new();
    // Lines that were in the pipe when it died count as well: they had been said.
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(words)?;
        if let Some((run, seq)) = line.strip_prefix("ack ").and_then(|rest| rest.split_once(' ')) {
            acks.push((run.to_owned(), seq.parse().map_err(|_| line.clone())?));
        }
    }
    if let Some(killer) = killer {
        let _ = killer.join();
    }
    let output = child.wait_with_output().map_err(words)?;
    use std::os::unix::process::ExitStatusExt as _;
    match (output.status.success(), output.status.signal()) {
        (true, _) => Ok((true, acks)),
        (_, Some(libc::SIGKILL)) => Ok((false, acks)),
        _ => Err(format!("the process ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// What was acknowledged is there.
fn is_there(folder: &Path, acknowledged: &BTreeMap<String, u64>) -> std::result::Result<(), String> {
    let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).map_err(|e| e.to_string())?;
    for (run, seq) in acknowledged {
        let info = block_on(store.run(&run.as_str().into())).map_err(|e| e.to_string())?;
        let found = info.map_or(0, |info| info.seq);
        if found < *seq {
            return Err(format!("event {seq} of run `{run}` was acknowledged, {found} are there"));
        }
    }
    drop(store);
    is_booked_once(folder)
}

/// What a step wrote with its answer is there exactly where the answer is.
fn is_booked_once(folder: &Path) -> std::result::Result<(), String> {
    let words = |e: rusqlite::Error| e.to_string();
    let conn = rusqlite::Connection::open(folder.join("store.db")).map_err(words)?;
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(words);
    let recorded = count(
        "SELECT count(*) FROM events WHERE body LIKE '%\"effect_completed\"%' AND body LIKE '%\"effect_id\":\"book\"%'",
    )?;
    let booked = match count("SELECT count(*) FROM sqlite_schema WHERE name = 'booked'")? {
        0 => 0,
        _ => count("SELECT count(*) FROM booked")?,
    };
    if booked == recorded && booked <= 1 {
        return Ok(());
    }
    Err(format!(
        "the step that writes with its answer is recorded {recorded} times, and its row is there {booked} times"
    ))
}

/// Reads the journals and the ledger, and says what is wrong with them. Gives what they came to, and how many effects were carried out again.
fn check(folder: &Path, reference: Option<&Reference>) -> std::result::Result<(Reference, usize), String> {
    let words = |e: Error| e.to_string();
    let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).map_err(words)?;
    let mut filter = RunFilter::default();
    filter.limit = Some(u32::MAX);
    let mut output = Value::Null;
    let mut attempts: BTreeMap<String, usize> = BTreeMap::new();
    for info in block_on(store.runs(&filter)).map_err(words)? {
        let run = info.run_id.as_str();
        let events = block_on(store.events(&info.run_id, 0, usize::MAX)).map_err(words)?;
        let mut open: BTreeSet<&str> = BTreeSet::new();
        let mut ended: BTreeSet<&str> = BTreeSet::new();
        for (number, event) in (1..).zip(&events) {
            if event.seq != number {
                return Err(format!("run `{run}` has event {} in place {number}", event.seq));
            }
            match &event.body {
                EventBody::EffectStarted { effect_id, .. } => {
                    open.insert(effect_id.as_str());
                    *attempts.entry(format!("{run}/{effect_id}")).or_default() += 1;
                    if ended.contains(effect_id.as_str()) {
                        return Err(format!("run `{run}`: {effect_id} was started after it had ended"));
                    }
                }
                EventBody::EffectSuspended { pending } => {
                    open.insert(pending.effect_id.as_str());
                }
                EventBody::EffectCompleted { effect_id, .. } => {
                    let asked = open.remove(effect_id.as_str()) || effect_id.as_str().ends_with(".while");
                    if !asked || !ended.insert(effect_id.as_str()) {
                        return Err(format!(
                            "run `{run}`: {effect_id} was completed without being under way, or twice"
                        ));
                    }
                }
                EventBody::RunFinished { output: Some(found), .. } if run == RUN => {
                    output = found.object.clone().unwrap_or_default();
                }
                _ => {}
            }
        }
        if info.status != RunStatus::Completed {
            return Err(format!("run `{run}` is {}", info.status.as_str()));
        }
    }
    is_booked_once(folder)?;
    let ledger = std::fs::read_to_string(folder.join("ledger")).map_err(|e| e.to_string())?;
    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    for key in ledger.lines() {
        *done.entry(key).or_default() += 1;
    }
    for (key, times) in &done {
        let begun = attempts.get(*key).copied().unwrap_or_default();
        if *times > begun {
            return Err(format!("{key} was carried out {times} times, and begun {begun} times"));
        }
    }
    let keys: BTreeSet<String> = done.keys().map(|key| (*key).to_owned()).collect();
    if let Some(reference) = reference {
        if output != reference.output {
            return Err(format!("the outcome differs:\n  {output}\n  {}", reference.output));
        }
        if keys != reference.keys {
            let odd: Vec<&String> = keys.symmetric_difference(&reference.keys).collect();
            return Err(format!("other effects were carried out: {odd:?}"));
        }
    }
    let twice = done.values().map(|times| times - 1).sum();
    Ok((Reference { output, keys, commits: 0 }, twice))
}

/// Knuth's MMIX generator; its high bits are the good ones.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}
