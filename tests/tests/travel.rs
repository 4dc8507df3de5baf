//! Runs beside runs: forks and how they differ, schedules, retention, what a step writes with its answer, and workflows as tools.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lomusai_core::component::{CallContext, FnFunction, FnStep};
use lomusai_core::fork::ForkRequest;
use lomusai_core::seam::ManualClock;
use lomusai_core::storage::{MemoryStore, Store};
use lomusai_core::testing::ScriptedModel;
use lomusai_core::tool::FnTool;
use lomusai_core::{Error, Result};
use lomusai_host::HostEngine;
use lomusai_runtime::{ComponentKind, Engine, EngineConfig, Migration, Missed, Retention, RunResult, Schedule};
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore, in_transaction, rusqlite};
use lomusai_wire::{
    AgentSpec, Command, EventBody, RunFilter, RunId, RunStatus, SpecKind, SqlStatement, StartRequest, StepReply,
    ToolSpec, WorkflowRequest, WorkflowSpec, codes,
};
use serde_json::{Value, json};

/// What was done, by idempotency key.
type Ledger = Arc<Mutex<Vec<String>>>;

fn spec(name: &str, steps: Value) -> WorkflowSpec {
    serde_json::from_value(json!({"name": name, "steps": steps})).expect("a spec")
}

fn built(store: Arc<dyn Store>, clock: Option<Arc<ManualClock>>) -> (Engine, Ledger) {
    let mut builder = Engine::builder(EngineConfig::default()).with_store(store);
    if let Some(clock) = clock {
        builder = builder.with_clock(clock);
    }
    let engine = builder.build().expect("threads");
    let ledger = Ledger::default();
    let kept = ledger.clone();
    // Says what it was given and who it is; fails where it is told to.
    let work = move |context: CallContext, input: Value| {
        kept.lock().unwrap().push(context.idempotency_key());
        async move {
            match input == json!("fail") {
                true => Err(Error::new(codes::STEP_FAILED, "as it was told")),
                false => Ok(StepReply::output(json!({"by": context.effect_id, "of": input}))),
            }
        }
    };
    engine.register_step("work", FnStep(work)).expect("a step");
    (engine, ledger)
}

fn engine(workflows: &[WorkflowSpec]) -> (Engine, Ledger) {
    let (engine, ledger) = built(Arc::new(MemoryStore::new()), None);
    workflows.iter().for_each(|spec| engine.register_workflow(spec.clone()).expect("a workflow"));
    (engine, ledger)
}

fn wait<T: Send + 'static>(engine: &Engine, work: impl AsyncFnOnce(Engine) -> T + Send + 'static) -> T {
    let inner = engine.clone();
    // A thread of its own: not every future here can move between threads.
    std::thread::spawn(move || lomusai_core::testing::block_on(work(inner))).join().expect("no panic")
}

async fn run(engine: &Engine, workflow: &str, id: &str, input: Value) -> Arc<RunResult> {
    let mut request = WorkflowRequest::new(workflow, input);
    request.run_id = Some(id.into());
    engine.run(request).await.expect("it runs")
}

async fn forked(engine: &Engine, mut request: ForkRequest, id: &str) -> Result<Arc<RunResult>> {
    request.new_run_id = Some(id.into());
    engine.fork(request, None).await?.result().await
}

fn object(result: &RunResult) -> Value {
    result.output.as_ref().and_then(|output| output.object.clone()).unwrap_or_default()
}

fn chain() -> WorkflowSpec {
    spec(
        "chain",
        json!([
            {"id": "a", "run": {"step": "work"}},
            {"id": "b", "after": ["a"], "run": {"step": "work"}},
            {"id": "c", "after": ["b"], "run": {"step": "work"}},
        ]),
    )
}

// --- Forks ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_fork_goes_on_from_another_output_and_does_nothing_of_what_was_before() {
    let (engine, ledger) = engine(&[chain()]);
    wait(&engine, async |engine| {
        run(&engine, "chain", "r", json!(1)).await;
        let fork = ForkRequest::new("r").with_output("b", json!("other"));
        let result = forked(&engine, fork, "f").await.unwrap();
        assert_eq!(object(&result), json!({"by": "c", "of": "other"}));
        // The run itself is as it was.
        let left = engine.result(&"r".into()).await.unwrap();
        assert_eq!(object(&left)["of"]["of"]["of"], json!(1));
        let info = engine.run_info(&"f".into()).await.unwrap();
        assert_eq!(info.forked_from.map(|fork| fork.run_id), Some(RunId::from("r")));

        let difference = engine.difference(&"r".into(), &"f".into()).await.unwrap();
        let effects: Vec<&str> = difference.effects.iter().map(|effect| effect.effect_id.as_str()).collect();
        assert_eq!((effects, difference.same), (vec!["b", "c"], 4), "{difference:?}");
        assert_eq!(difference.effects[0].sides.right.as_ref().unwrap()["output"], json!("other"));
        let none = engine.difference(&"r".into(), &"r".into()).await.unwrap();
        assert!(none.effects.is_empty() && none.outcome.is_none() && none.input.is_none());
    });
    assert_eq!(*ledger.lock().unwrap(), ["r/a", "r/b", "r/c", "f/c"]);
}

#[test]
fn a_fork_can_be_at_any_event_and_comes_to_the_same_where_nothing_was_changed() {
    let (engine, ledger) = engine(&[chain()]);
    let ledger = ledger.clone();
    wait(&engine, async move |engine| {
        let original = run(&engine, "chain", "r", json!(1)).await;
        let events = engine.export(&"r".into()).await.unwrap();
        for seq in 1..events.len() as u64 {
            let before = ledger.lock().unwrap().len();
            let done = events[..seq as usize].iter();
            let done = done.filter(|event| matches!(event.body, EventBody::EffectCompleted { .. })).count();
            let result = forked(&engine, ForkRequest::new("r").at(seq), &format!("f{seq}")).await.unwrap();
            assert_eq!(object(&result), object(&original), "at event {seq}");
            assert_eq!(ledger.lock().unwrap().len() - before, 3 - done, "effects of a fork at event {seq}");
        }
    });
}

#[test]
fn a_step_of_a_fork_is_given_something_else_and_keeps_it_through_its_retries() {
    let mut retried = chain();
    retried.steps[1].retry = Some(lomusai_wire::Retry::new(1));
    let (engine, ledger) = engine(&[retried]);
    wait(&engine, async |engine| {
        run(&engine, "chain", "r", json!(1)).await;
        let result = forked(&engine, ForkRequest::new("r").with_input("b", json!({"n": 2})), "f").await.unwrap();
        assert_eq!(object(&result)["of"], json!({"by": "b", "of": {"n": 2}}));
        let result = forked(&engine, ForkRequest::new("r").with_input("b", json!("fail")), "g").await.unwrap();
        assert_eq!(result.status, RunStatus::Failed);
        let journal = engine.export(&"g".into()).await.unwrap();
        let attempts: Vec<u32> = journal
            .iter()
            .filter_map(|event| match &event.body {
                EventBody::EffectStarted { effect_id, attempt, .. } if effect_id.as_str() == "b" => Some(*attempt),
                _ => None,
            })
            .collect();
        // The first is the copy's: it was never carried out.
        assert_eq!(attempts, [1, 2, 3], "{}", json!(journal));
        let mut start = ForkRequest::new("r");
        start.input = Some(json!(5));
        let result = forked(&engine, start, "h").await.unwrap();
        assert_eq!(object(&result)["of"]["of"]["of"], json!(5));
    });
    let ledger = ledger.lock().unwrap();
    let of = |run: &str| ledger.iter().filter(|key| key.starts_with(run)).cloned().collect::<Vec<_>>();
    assert_eq!(of("f/"), ["f/b", "f/c"]);
    assert_eq!(of("g/"), ["g/b", "g/b"]);
    assert_eq!(of("h/"), ["h/a", "h/b", "h/c"]);
}

#[test]
fn a_step_that_failed_is_given_its_output_by_hand() {
    let (engine, ledger) = engine(&[chain()]);
    wait(&engine, async |engine| {
        assert_eq!(run(&engine, "chain", "r", json!("fail")).await.status, RunStatus::Failed);
        let result = forked(&engine, ForkRequest::new("r").with_output("a", json!("mended")), "f").await.unwrap();
        assert_eq!(object(&result)["of"], json!({"by": "b", "of": "mended"}));
    });
    assert_eq!(*ledger.lock().unwrap(), ["r/a", "f/b", "f/c"]);
}

#[test]
fn a_fork_waits_as_the_run_did_and_so_do_its_children() {
    let inner = spec(
        "inner",
        json!([{"id": "ask", "run": {"suspend": {}}}, {"id": "w", "after": ["ask"], "run": {"step": "work"}}]),
    );
    let outer = spec(
        "outer",
        json!([{"id": "a", "run": {"step": "work"}}, {"id": "n", "after": ["a"], "run": {"workflow": "inner"}}]),
    );
    let (engine, ledger) = engine(&[inner, outer]);
    wait(&engine, async |engine| {
        let suspended = run(&engine, "outer", "r", json!(1)).await;
        assert_eq!(suspended.status, RunStatus::Suspended);
        let seq = engine.run_info(&"r".into()).await.unwrap().seq;
        let resume = |data: Value| Command::Resume { effect_id: None, label: None, data };
        engine.resume(&"r".into(), resume(json!("yes")), None).await.unwrap().result().await.unwrap();

        let fork = forked(&engine, ForkRequest::new("r").at(seq), "f").await.unwrap();
        assert_eq!(fork.status, RunStatus::Suspended);
        assert_eq!(fork.pending[0].child, Some("f/n".into()));
        let ended = engine.resume(&"f".into(), resume(json!("no")), None).await.unwrap().result().await.unwrap();
        assert_eq!(object(&ended), json!({"by": "w", "of": "no"}));
        assert_eq!(object(&engine.result(&"r".into()).await.unwrap()), json!({"by": "w", "of": "yes"}));
    });
    assert_eq!(*ledger.lock().unwrap(), ["r/a", "r/n/w", "f/n/w"]);
}

#[test]
fn a_fork_that_cannot_be_is_refused_and_nothing_is_there() {
    let mut checked = chain();
    checked.steps[1].output_schema = Some(serde_json::from_value(json!({"type": "object"})).unwrap());
    let (engine, _) = engine(&[checked]);
    wait(&engine, async |engine| {
        run(&engine, "chain", "r", json!(1)).await;
        let last = engine.run_info(&"r".into()).await.unwrap().seq;
        let new = || ForkRequest::new("r");
        let mut both = new().with_output("b", json!({}));
        both.seq = Some(3);
        for (request, code) in [
            (ForkRequest::new("nobody").at(1), codes::RUN_UNKNOWN),
            (new(), codes::FORK_INVALID),
            (new().at(0), codes::FORK_INVALID),
            (new().at(last), codes::FORK_INVALID),
            (new().at(last + 1), codes::FORK_INVALID),
            (both, codes::FORK_INVALID),
            (new().with_output("x", json!(1)), codes::FORK_INVALID),
            (new().with_output("b", json!("no object")), codes::STEP_RESULT_INVALID),
        ] {
            let said = format!("{request:?}");
            let error = forked(&engine, request, "f").await.err().unwrap_or_else(|| panic!("{said}"));
            assert!(error.is(code), "{said}: {error:?}");
        }
        assert!(forked(&engine, new().at(2), "r").await.unwrap_err().is(codes::RUN_EXISTS));
        assert!(engine.run_info(&"f".into()).await.unwrap_err().is(codes::RUN_UNKNOWN));
    });
}

#[test]
fn an_agent_s_run_goes_on_from_another_answer_of_its_tool_or_its_model() {
    let (engine, _) = engine(&[]);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let look = FnTool::new(ToolSpec::new("look", "Looks."), move |_: CallContext, _: String| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(json!("rain").into()) }
    });
    engine.register_tool(look).unwrap();
    let script = json!([{"calls": [{"name": "look"}]}, {"says": "It rains."}]);
    engine.register_provider("model", ScriptedModel::from_value(script).unwrap()).unwrap();
    let mut agent = AgentSpec::new("clerk", "model");
    agent.tools = vec!["look".into()];
    engine.register_agent(agent).unwrap();
    wait(&engine, async |engine| {
        let mut request = StartRequest::new("clerk", "How is it?");
        (request.run_id, request.thread) = (Some("r".into()), Some("t".into()));
        assert_eq!(engine.run(request).await.unwrap().text(), "It rains.");

        let result = forked(&engine, ForkRequest::new("r").with_output("1.0", json!("sun")), "f").await.unwrap();
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "It rains."));
        let told = serde_json::to_string(&result.messages).unwrap();
        assert!(told.contains("\"sun\"") && !told.contains("\"rain\""), "{told}");
        // The conversation that the run was of is as it was.
        assert_eq!(engine.messages(&"t".into()).await.unwrap().len(), 4);

        let said = ForkRequest::new("r").with_output("2.model", json!("It is dry."));
        assert_eq!(forked(&engine, said, "g").await.unwrap().text(), "It is dry.");
    });
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

// --- Changed workflows ---------------------------------------------------------------------------------------------------

fn waiting(steps: Value) -> WorkflowSpec {
    spec("w", steps)
}

fn then() -> WorkflowSpec {
    waiting(json!([
        {"id": "a", "run": {"step": "work"}},
        {"id": "ask", "after": ["a"], "run": {"suspend": {}}},
        {"id": "z", "after": ["ask"], "run": {"step": "work"}},
    ]))
}

fn now() -> WorkflowSpec {
    waiting(json!([
        {"id": "first", "run": {"step": "work"}},
        {"id": "new", "after": ["first"], "run": {"step": "work"}},
        {"id": "question", "after": ["new"], "run": {"suspend": {}}},
        {"id": "z", "after": ["question"], "input": {"object": {"first": {"from": "steps.first"}, "new": {"from": "steps.new"}, "said": {"from": "steps.question"}, "v": {"from": "state.v"}}}, "run": {"step": "work"}},
    ]))
}

#[test]
fn a_run_goes_on_under_a_changed_spec_as_its_migration_says_and_its_journal_keeps_it() {
    let store = Arc::new(MemoryStore::new());
    let (first, _) = built(store.clone(), None);
    first.register_workflow(then()).unwrap();
    wait(&first, async |engine| {
        for id in ["r", "s"] {
            assert_eq!(run(&engine, "w", id, json!(1)).await.status, RunStatus::Suspended);
        }
    });
    let (second, ledger) = built(store.clone(), None);
    second.register_workflow(now()).unwrap();
    let hash = wait(&first, async |engine| {
        let EventBody::RunStarted(started) = engine.export(&"r".into()).await.unwrap()[0].body.clone() else {
            panic!()
        };
        started.spec.hash
    });
    wait(&second, async move |engine| {
        let resume = || Command::Resume { effect_id: None, label: None, data: json!("yes") };
        assert!(engine.command(&"r".into(), resume()).await.unwrap_err().is(codes::WORKFLOW_CHANGED));
        let fits = engine.check_workflow(now()).await.unwrap();
        assert!(fits.iter().all(|fit| !fit.fits && fit.needs_migration), "{fits:?}");
        assert!(engine.check_workflow(then()).await.unwrap().iter().all(|fit| fit.fits));

        // One that leaves a gap is refused, and says where.
        let renames = [("a", "first"), ("ask", "question")];
        let renames = renames.map(|(old, new)| (old.to_owned(), Some(new.to_owned())));
        let mut migration = Migration::new("w", &hash);
        migration.steps = renames.clone().into();
        migration.function = Some("map".into());
        let bare = FnFunction(|_: CallContext, _: Value| async { Ok(json!({})) });
        engine.register_function("map", bare).unwrap();
        engine.register_migration(migration).unwrap();
        let refused = engine.command(&"r".into(), resume()).await.unwrap_err();
        assert!(refused.is(codes::WORKFLOW_CHANGED) && refused.to_string().contains("`new`"), "{refused}");
        assert_eq!(engine.run_info(&"r".into()).await.unwrap().status, RunStatus::Suspended);
        engine.unregister(ComponentKind::Function, "map");
        let map = FnFunction(|_: CallContext, asked: Value| async move {
            Ok(json!({"outputs": {"new": asked["outputs"]["a"]["of"]}, "state": {"v": 2}}))
        });
        engine.register_function("map", map).unwrap();

        let ended = engine.resume(&"r".into(), resume(), None).await.unwrap().result().await.unwrap();
        let of = object(&ended)["of"].clone();
        assert_eq!(of, json!({"first": {"by": "a", "of": 1}, "new": 1, "said": "yes", "v": 2}));
        let types: Vec<Value> =
            engine.export(&"r".into()).await.unwrap().iter().map(|event| json!(event)["type"].clone()).collect();
        assert!(types.contains(&json!("run_migrated")), "{types:?}");
        // A fork of it, before and behind.
        let fork = forked(&engine, ForkRequest::new("r").with_output("z", json!(0)), "f").await.unwrap();
        assert_eq!(object(&fork), json!(0));
    });
    // What was migrated is read from the journal alone: no migration is registered here.
    let (third, _) = built(store, None);
    third.register_workflow(now()).unwrap();
    wait(&third, async |engine| {
        let fork = forked(&engine, ForkRequest::new("r").with_input("z", json!("again")), "g").await.unwrap();
        assert_eq!(object(&fork), json!({"by": "z", "of": "again"}));
    });
    assert_eq!(*ledger.lock().unwrap(), ["r/z"]);
}

#[test]
fn a_step_behind_what_has_run_comes_without_any_renaming_and_one_before_it_does_not() {
    let store = Arc::new(MemoryStore::new());
    let (first, _) = built(store.clone(), None);
    first.register_workflow(then()).unwrap();
    wait(&first, async |engine| drop(run(&engine, "w", "r", json!(1)).await));
    let (second, _) = built(store, None);
    let mut longer = then();
    longer.steps.push(serde_json::from_value(json!({"id": "more", "after": ["z"], "run": {"step": "work"}})).unwrap());
    let mut sooner = then();
    sooner.steps[1].after = vec!["more".into()];
    sooner.steps.push(serde_json::from_value(json!({"id": "more", "after": ["a"], "run": {"step": "work"}})).unwrap());
    second.register_workflow(longer.clone()).unwrap();
    wait(&second, async move |engine| {
        let hash = engine.check_workflow(longer.clone()).await.unwrap()[0].hash.clone();
        engine.register_migration(Migration::new("w", hash)).unwrap();
        assert!(engine.check_workflow(longer).await.unwrap()[0].fits);
        let misfit = engine.check_workflow(sooner).await.unwrap()[0].misfit.clone().unwrap();
        assert_eq!(misfit.effect_id, Some("ask".into()));
        assert!(misfit.why.contains("`more`"), "{misfit}");
        let resume = Command::Resume { effect_id: None, label: None, data: Value::Null };
        let ended = engine.resume(&"r".into(), resume, None).await.unwrap().result().await.unwrap();
        assert_eq!(object(&ended)["by"], json!("more"));
    });
}

// --- Schedules -----------------------------------------------------------------------------------------------------------

fn every(ms: u64, missed: Missed) -> Schedule {
    let mut schedule = Schedule::new("tick", json!({"workflow": "chain", "input": 1}));
    (schedule.every_ms, schedule.missed) = (Some(ms), missed);
    schedule
}

#[test]
fn each_time_begins_one_run_however_many_engines_are_on_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let engines: Vec<(Engine, Ledger)> = (0..4)
        .map(|_| {
            let store = SqliteStore::open(folder.path().join("s.db"), SqliteOptions::default()).unwrap();
            let (engine, ledger) = built(Arc::new(store), Some(clock.clone()));
            engine.register_workflow(chain()).unwrap();
            (engine, ledger)
        })
        .collect();
    wait(&engines[0].0, async |engine| drop(engine.put_schedule(every(1_000, Missed::All)).await.unwrap()));
    for _ in 0..5 {
        clock.advance(2_000);
        let racing: Vec<_> = engines
            .iter()
            .map(|(engine, _)| {
                let engine = engine.clone();
                std::thread::spawn(move || lomusai_core::testing::block_on(async { engine.fire_due().await.unwrap() }))
            })
            .collect();
        let begun: Vec<RunId> = racing.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(begun.len(), 2, "{begun:?}");
    }
    wait(&engines[0].0, async |engine| {
        let runs = engine.runs(&RunFilter::default()).await.unwrap();
        assert_eq!(runs.len(), 10);
        for info in &runs {
            assert_eq!(info.metadata["schedule"], json!("tick"));
        }
    });
}

#[test]
fn a_schedule_rests_goes_on_is_replaced_and_removed() {
    let clock = Arc::new(ManualClock::new(500_000));
    let (engine, _) = built(Arc::new(MemoryStore::new()), Some(clock.clone()));
    engine.register_workflow(chain()).unwrap();
    wait(&engine, async move |engine| {
        let put = engine.put_schedule(every(1_000, Missed::Once)).await.unwrap();
        assert_eq!(put.next_ms, Some(501_000));
        assert_eq!(engine.fire_due().await.unwrap(), [] as [RunId; 0]);
        clock.advance(3_500);
        // One run for the three that were missed: that of the last.
        assert_eq!(engine.fire_due().await.unwrap(), ["schedule:tick:503000".into()]);
        assert_eq!(engine.fire_due().await.unwrap(), [] as [RunId; 0]);
        engine.pause_schedule("tick", true).await.unwrap();
        clock.advance(10_000);
        assert_eq!(engine.fire_due().await.unwrap(), [] as [RunId; 0]);
        let state = engine.pause_schedule("tick", false).await.unwrap();
        assert_eq!(state.next_ms, Some(514_000));
        clock.advance(500);
        assert_eq!(engine.fire_due().await.unwrap(), ["schedule:tick:514000".into()]);
        let mut ends = every(1_000, Missed::All);
        ends.until_ms = Some(516_000);
        engine.put_schedule(ends).await.unwrap();
        clock.advance(60_000);
        assert_eq!(engine.fire_due().await.unwrap().len(), 1);
        assert_eq!(engine.schedules().await.unwrap()[0].next_ms, None);
        assert!(engine.delete_schedule("tick").await.unwrap());
        assert!(!engine.delete_schedule("tick").await.unwrap());
        assert!(engine.pause_schedule("tick", true).await.unwrap_err().is(codes::SCHEDULE_UNKNOWN));
    });
}

#[test]
fn a_run_that_cannot_begin_is_told_and_the_schedule_goes_on() {
    let clock = Arc::new(ManualClock::new(0));
    let (engine, _) = built(Arc::new(MemoryStore::new()), Some(clock.clone()));
    wait(&engine, async move |engine| {
        engine.put_schedule(every(1_000, Missed::Once)).await.unwrap();
        clock.advance(1_000);
        assert_eq!(engine.fire_due().await.unwrap(), [] as [RunId; 0]);
        let state = &engine.schedules().await.unwrap()[0];
        assert_eq!(state.last_error.as_ref().map(|error| error.code.as_str()), Some("workflow_unknown"));
        engine.register_workflow(chain()).unwrap();
        clock.advance(1_000);
        assert_eq!(engine.fire_due().await.unwrap(), ["schedule:tick:2000".into()]);
    });
}

#[test]
fn a_started_engine_fires_by_itself_also_what_was_put_before_it_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = || Arc::new(SqliteStore::open(folder.path().join("s.db"), SqliteOptions::default()).unwrap());
    let (first, _) = built(store(), Some(Arc::new(ManualClock::new(1_000))));
    wait(&first, async |engine| drop(engine.put_schedule(every(5_000, Missed::Once)).await));
    // It never registered the workflow: what puts need not be who runs.
    let failed = wait(&first, async |engine| engine.schedules().await.unwrap());
    assert_eq!(failed.len(), 1);
    first.close(std::time::Duration::from_secs(5)).unwrap();

    let (second, _) = built(store(), Some(Arc::new(ManualClock::new(7_000))));
    second.register_workflow(chain()).unwrap();
    wait(&second, async |engine| {
        engine.start().await.unwrap();
        let id = RunId::from("schedule:tick:6000");
        // Told by its own events, not by the clock: it begins within the second.
        let mut observer = loop {
            match engine.observe(&id, 0).await {
                Ok(observer) => break observer,
                Err(_) => std::thread::yield_now(),
            }
        };
        while observer.next().await.is_some() {}
        assert_eq!(engine.result(&id).await.unwrap().status, RunStatus::Completed);
    });
}

// --- What a step writes with its answer ----------------------------------------------------------------------------------

fn rows(path: &std::path::Path, sql: &str) -> Vec<String> {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(|row| row.unwrap()).collect()
}

#[test]
fn what_a_step_writes_is_there_with_its_record_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let (engine, _) = built(Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap()), None);
    let book = |context: CallContext, input: Value| async move {
        let create = SqlStatement::new("CREATE TABLE IF NOT EXISTS booked (key TEXT PRIMARY KEY)", vec![]);
        let insert = SqlStatement::new("INSERT INTO booked (key) VALUES (?1)", vec![input["key"].clone()]);
        let mut more = input["more"].as_array().cloned().unwrap_or_default();
        let more = more.drain(..).map(|statement| serde_json::from_value(statement).unwrap());
        let reply = StepReply::output(context.effect_id.as_str()).with_sql(create).with_sql(insert);
        Ok(more.fold(reply, StepReply::with_sql))
    };
    engine.register_step("book", FnStep(book)).unwrap();
    engine.register_workflow(spec("book", json!([{"id": "a", "run": {"step": "book"}}]))).unwrap();
    wait(&engine, async |engine| {
        assert_eq!(object(&*run(&engine, "book", "r1", json!({"key": "one"})).await), json!("a"));
        let none = json!([{"sql": "UPDATE booked SET key = 'x' WHERE key = ?1", "params": ["nobody"], "rows": 1}]);
        for (id, input) in [
            // Twice the same.
            ("r2", json!({"key": "one"})),
            ("r3", json!({"key": "three", "more": none})),
            ("r4", json!({"key": "four", "more": [{"sql": "DELETE FROM runs"}]})),
            ("r5", json!({"key": "five", "more": [{"sql": "COMMIT"}]})),
            ("r6", json!({"key": "six", "more": [{"sql": "PRAGMA user_version = 9"}]})),
            ("r7", json!({"key": "seven", "more": [{"sql": "no sql"}]})),
            ("r8", json!({"key": "eight", "more": [{"sql": "INSERT INTO booked VALUES (?1)", "params": []}]})),
        ] {
            let failed = run(&engine, "book", id, input).await;
            let error = failed.error.as_ref().unwrap_or_else(|| panic!("{id} did not fail"));
            assert!(error.is(codes::STEP_SQL_FAILED), "{id}: {error:?}");
            let journal = engine.export(&id.into()).await.unwrap();
            assert!(!journal.iter().any(|event| matches!(event.body, EventBody::EffectCompleted { .. })), "{id}");
        }
    });
    assert_eq!(rows(&path, "SELECT key FROM booked"), ["one"]);
}

#[test]
fn a_step_in_rust_works_in_the_transaction_and_is_tried_again_where_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let (engine, _) = built(Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap()), None);
    let take = |context: CallContext, _: Value| async move {
        let attempt = context.attempt;
        in_transaction(&context, move |conn| {
            conn.execute_batch("CREATE TABLE IF NOT EXISTS stock (n INTEGER); INSERT INTO stock VALUES (1)")?;
            assert!(attempt != 1, "a panic is a failure, too");
            if attempt == 2 {
                return Err("not yet".into());
            }
            Ok(())
        });
        Ok(StepReply::output(attempt))
    };
    engine.register_step("take", FnStep(take)).unwrap();
    engine.register_workflow(spec("take", json!([{"id": "a", "run": {"step": "take"}, "retry": {"max": 2}}]))).unwrap();
    wait(&engine, async |engine| {
        assert_eq!(object(&*run(&engine, "take", "r", Value::Null).await), json!(3));
    });
    assert_eq!(rows(&path, "SELECT 'one' FROM stock"), ["one"]);
}

#[test]
fn a_store_without_tables_says_so() {
    let (engine, _) = engine(&[spec("w", json!([{"id": "a", "run": {"step": "sql"}}]))]);
    let sql =
        |_: CallContext, _: Value| async { Ok(StepReply::output(1).with_sql(SqlStatement::new("SELECT 1", vec![]))) };
    engine.register_step("sql", FnStep(sql)).unwrap();
    wait(&engine, async |engine| {
        let result = run(&engine, "w", "r", Value::Null).await;
        assert!(result.error.as_ref().unwrap().is(codes::UNSUPPORTED), "{result:?}");
    });
}

// --- Workflows as tools --------------------------------------------------------------------------------------------------

#[test]
fn an_agent_runs_a_workflow_as_a_tool_waits_with_it_and_ends_it() {
    let mut refund = spec(
        "refund",
        json!([{"id": "ask", "run": {"wait": {"signal": "go"}}}, {"id": "pay", "after": ["ask"], "input": {"from": "input.order"}, "run": {"step": "work"}}]),
    );
    refund.description = "Pays back.".into();
    refund.input_schema = Some(
        serde_json::from_value(
            json!({"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}),
        )
        .unwrap(),
    );
    let (engine, ledger) = engine(&[refund]);
    let script = json!([{"calls": [{"name": "workflow-refund", "arguments": {"order": "7"}}]}, {"says": "Done."}]);
    let provider = ScriptedModel::from_value(script).unwrap();
    engine.register_provider("model", provider).unwrap();
    let mut agent = AgentSpec::new("clerk", "model");
    agent.workflows = vec!["refund".into()];
    engine.register_agent(agent).unwrap();
    wait(&engine, async |engine| {
        for id in ["r", "c"] {
            let mut request = StartRequest::new("clerk", "Please.");
            request.run_id = Some(id.into());
            let waits = engine.run(request).await.unwrap();
            assert_eq!(waits.status, RunStatus::Suspended, "{waits:?}");
            assert_eq!(waits.pending[0].child, Some(format!("{id}/1.0").into()));
        }
        // The signal is for the workflow, and is told to whom the caller knows.
        let go = Command::Signal { name: "go".into(), data: json!("yes") };
        let ended = engine.resume(&"r".into(), go, None).await.unwrap().result().await.unwrap();
        assert_eq!((ended.status, ended.text()), (RunStatus::Completed, "Done."));
        let told = serde_json::to_string(&ended.messages).unwrap();
        assert!(told.contains(r#"{"by":"pay","of":"7"}"#), "{told}");

        engine.cancel(&"c".into(), 0, None).await.unwrap();
        assert_eq!(engine.result(&"c".into()).await.unwrap().status, RunStatus::Cancelled);
        let child = RunId::from("c/1.0");
        // Its parent does not wait for it.
        while engine.run_info(&child).await.unwrap().status != RunStatus::Cancelled {
            std::thread::yield_now();
        }
    });
    assert_eq!(*ledger.lock().unwrap(), ["r/1.0/pay"]);
}

// --- Lists and retention -------------------------------------------------------------------------------------------------

#[test]
fn runs_are_found_by_what_they_were_given_and_kept_as_long_as_was_said() {
    let clock = Arc::new(ManualClock::new(1_000));
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(folder.path().join("s.db"), SqliteOptions::default()).unwrap();
    for store in [Arc::new(MemoryStore::new()) as Arc<dyn Store>, Arc::new(sqlite)] {
        let (engine, _) = built(store, Some(clock.clone()));
        let outer = spec("outer", json!([{"id": "n", "run": {"workflow": "chain"}}]));
        engine.register_workflow(chain()).unwrap();
        engine.register_workflow(outer).unwrap();
        let clock = clock.clone();
        wait(&engine, async move |engine| {
            let began = lomusai_core::seam::Clock::now_ms(&*clock);
            for n in 0..6 {
                let mut request = WorkflowRequest::new(if n == 5 { "outer" } else { "chain" }, json!(n));
                request.run_id = Some(format!("r{n}").into());
                request.metadata.insert("shop".into(), json!(n % 2));
                engine.run(request).await.unwrap();
                clock.advance(1_000);
            }
            let found = async |edit: &dyn Fn(&mut RunFilter)| {
                let mut filter = RunFilter::default();
                edit(&mut filter);
                let runs = engine.runs(&filter).await.unwrap();
                runs.iter().map(|info| info.run_id.to_string()).collect::<Vec<_>>()
            };
            let shop = |filter: &mut RunFilter| drop(filter.metadata.insert("shop".into(), json!(1)));
            assert_eq!(found(&shop).await, ["r5", "r3", "r1"]);
            assert_eq!(found(&|f| (f.kind, f.limit) = (Some(SpecKind::Agent), None)).await, [] as [&str; 0]);
            assert_eq!(found(&|f| (f.top, f.limit, f.offset) = (true, Some(2), Some(1))).await, ["r4", "r3"]);
            let early = |f: &mut RunFilter| {
                (f.created_from_ms, f.created_until_ms) = (Some(began + 1_000), Some(began + 3_000))
            };
            assert_eq!(found(&early).await, ["r2", "r1"]);

            let mut last = Retention::newest(2);
            last.agent = Some("chain".into());
            let told = engine.prune(Some(&[last.clone()]), true).await.unwrap();
            assert_eq!(told, ["r2", "r1", "r0"].map(RunId::from));
            assert_eq!(found(&|f| f.top = true).await.len(), 6, "only told");
            assert_eq!(engine.prune(Some(&[last]), false).await.unwrap(), told);
            let old = Retention::for_ms(1_500);
            assert_eq!(engine.prune(Some(&[old]), false).await.unwrap(), ["r4", "r3"].map(RunId::from));
            // A child stays as long as its parent, and goes with it.
            assert_eq!(found(&|_| {}).await, ["r5/n", "r5"]);
            assert_eq!(engine.prune(Some(&[Retention::for_ms(0)]), false).await.unwrap(), ["r5"].map(RunId::from));
            assert_eq!(found(&|_| {}).await, [] as [&str; 0]);
            assert!(engine.prune(Some(&[Retention::default()]), false).await.unwrap_err().is(codes::ARGUMENT_INVALID));
        });
    }
}

#[test]
fn compacted_runs_read_fork_and_are_retried_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("runs.db"), SqliteOptions::default()).unwrap();
    let (engine, ledger) = built(Arc::new(store), None);
    engine.register_workflow(chain()).unwrap();
    let fails = json!([
        {"id": "a", "run": {"step": "work"}},
        {"id": "b", "after": ["a"], "run": {"step": "work"}, "input": {"value": "fail"}},
    ]);
    engine.register_workflow(spec("fails", fails)).unwrap();
    wait(&engine, async |engine| {
        run(&engine, "chain", "r", json!(1)).await;
        assert_eq!(run(&engine, "fails", "failed", json!(1)).await.status, RunStatus::Failed);
        let (before, digest) = (engine.export(&"r".into()).await.unwrap(), engine.digest(&"r".into()).await.unwrap());
        assert_eq!(engine.compact(None).await.unwrap(), 0, "an hour has not passed");
        assert_eq!(engine.compact(Some(0)).await.unwrap(), 2);
        assert_eq!(engine.compact(Some(0)).await.unwrap(), 0);
        assert_eq!(engine.export(&"r".into()).await.unwrap(), before);
        assert_eq!(engine.digest(&"r".into()).await.unwrap(), digest);

        let fork = ForkRequest::new("r").with_output("b", json!("other"));
        assert_eq!(object(&forked(&engine, fork, "f").await.unwrap())["of"], "other");
        assert!(!engine.difference(&"r".into(), &"f".into()).await.unwrap().effects.is_empty());

        engine.command(&"failed".into(), Command::Retry).await.unwrap();
        assert_eq!(engine.result(&"failed".into()).await.unwrap().status, RunStatus::Failed);
        assert_eq!(engine.compact(Some(0)).await.unwrap(), 2);
        let numbers: Vec<u64> = engine.export(&"failed".into()).await.unwrap().iter().map(|event| event.seq).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    });
    // Step `a` of the run that failed was not done again.
    assert_eq!(ledger.lock().unwrap().iter().filter(|key| key.starts_with("failed") && key.ends_with("/a")).count(), 1);
}

// --- From every host -----------------------------------------------------------------------------------------------------

#[test]
fn hosts_ask_for_all_of_it_by_operations() {
    let engine = HostEngine::open("{}").unwrap();
    let spec = json!({"name": "w", "steps": [{"id": "a", "run": {"map": {"from": "input"}}}, {"id": "b", "after": ["a"], "run": {"map": {"from": "steps.a"}}}]});
    engine.register_workflow(&spec.to_string()).unwrap();
    let run = engine.run(r#"{"workflow": "w", "run_id": "r", "input": 1}"#, None).unwrap();
    run.discard_events();
    run.result(None).unwrap().unwrap();
    let ask = |operation: &str, params: Value| -> Value {
        serde_json::from_str(&engine.call(operation, &params.to_string()).unwrap()).unwrap()
    };
    assert_eq!(
        ask("fork", json!({"run_id": "r", "effect_id": "a", "output": 2, "new_run_id": "f"})),
        json!({"run_id": "f"})
    );
    assert_eq!(ask("result", json!({"run_id": "f"}))["output"]["object"], json!(2));
    assert_eq!(ask("restart", json!({"run_id": "r", "new_run_id": "g"})), json!({"run_id": "g"}));
    assert_eq!(ask("result", json!({"run_id": "g"}))["output"]["object"], json!(1));
    assert_eq!(ask("difference", json!({"left": "r", "right": "f"}))["effects"][0]["effect_id"], "a");
    let svg = ask("picture", json!({"run_id": "f"}));
    assert!(svg.as_str().unwrap().starts_with("<svg "), "{svg}");
    let mermaid = ask("picture", json!({"workflow": "w", "format": "mermaid"}));
    assert!(mermaid.as_str().unwrap().contains("s0 --> s1"), "{mermaid}");
    let schedule = json!({"name": "s", "cron": "0 9 * * *", "timezone": "Asia/Tokyo", "request": {"workflow": "w"}, "paused": true});
    assert_eq!(ask("put_schedule", schedule)["paused"], json!(true));
    assert_eq!(ask("pause_schedule", json!({"name": "s", "paused": false})).get("paused"), None);
    assert_eq!(ask("schedules", json!({})).as_array().unwrap().len(), 1);
    assert_eq!(ask("fire_due", json!({})), json!([]));
    assert_eq!(ask("delete_schedule", json!({"name": "s"})), json!(true));
    assert_eq!(ask("prune", json!({"rules": [{"keep_runs": 1}]})), json!(["f", "r"]));
    let refused = engine
        .call("put_schedule", &json!({"name": "s", "cron": "nonsense", "request": {"workflow": "w"}}).to_string());
    assert!(refused.unwrap_err().is(codes::SCHEDULE_INVALID));
    engine.close(None).unwrap();
}
