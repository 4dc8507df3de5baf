//! Workflows across engines on one store: what a vector, which lives in one engine, cannot say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lomusai_core::component::{CallContext, FnStep};
use lomusai_core::storage::{MemoryStore, Store};
use lomusai_core::telemetry::TelemetrySink;
use lomusai_core::{Error, Result};
use lomusai_host::{Answer, CallInfo, HostEngine, Placement};
use lomusai_runtime::{Engine, EngineConfig};
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore};
use lomusai_wire::{
    Command, Event, EventBody, LogLevel, RunId, RunStatus, StepReply, WorkflowRequest, WorkflowSpec, codes,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Tells of runs that end.
struct Ends(mpsc::UnboundedSender<RunId>);

impl TelemetrySink for Ends {
    fn log(&self, _: LogLevel, _: &str, _: &str) {}

    fn event(&self, event: &Event) {
        if matches!(event.body, EventBody::RunFinished { .. }) {
            let _ = self.0.send(event.run_id.clone());
        }
    }
}

fn workflow(steps: Value) -> WorkflowSpec {
    serde_json::from_value(json!({"name": "w", "steps": steps})).expect("a spec")
}

/// An engine that counts calls of its step `work`; the first `fails` of them fail.
fn engine(
    store: Arc<dyn Store>,
    spec: WorkflowSpec,
    fails: usize,
) -> (Engine, Arc<AtomicUsize>, mpsc::UnboundedReceiver<RunId>) {
    let (sender, ends) = mpsc::unbounded_channel();
    let engine = Engine::builder(EngineConfig::default())
        .with_store(store)
        .with_telemetry(Arc::new(Ends(sender)))
        .build()
        .expect("threads");
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let work = move |_: CallContext, input: Value| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match number < fails {
                true => Err(Error::new(codes::STEP_FAILED, "not yet")),
                false => Ok(StepReply::output(input)),
            }
        }
    };
    engine.register_step("work", FnStep(work)).expect("a step");
    engine.register_workflow(spec).expect("a workflow");
    (engine, calls, ends)
}

fn wait<T: Send + 'static>(engine: &Engine, future: impl Future<Output = T> + Send + 'static) -> T {
    engine.block_on(future).expect("the engine is open")
}

fn request(id: &str) -> WorkflowRequest {
    let mut request = WorkflowRequest::new("w", json!({"n": 1}));
    (request.run_id, request.detached) = (Some(id.into()), true);
    request
}

fn started(engine: &Engine, id: &str) {
    let (inner, request) = (engine.clone(), request(id));
    wait(engine, async move { inner.stream(request).await.map(|run| run.detach()) }).expect("it starts");
}

fn status(engine: &Engine, id: &'static str) -> RunStatus {
    let inner = engine.clone();
    wait(engine, async move { inner.run_info(&id.into()).await }).expect("the run").status
}

#[test]
fn a_suspended_run_s_wait_ends_when_its_time_is_over() {
    let spec = workflow(json!([{"id": "w", "run": {"wait": {"signal": "go", "timeout_ms": 20}}}]));
    let (engine, _, mut ends) = engine(Arc::new(MemoryStore::new()), spec, 0);
    started(&engine, "r");
    wait(&engine, async move { ends.recv().await });
    assert_eq!(status(&engine, "r"), RunStatus::Failed);
}

#[test]
fn a_run_that_sleeps_is_let_go_of_and_goes_on_in_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let store = || Arc::new(SqliteStore::open(folder.path().join("s.db"), SqliteOptions::default()).unwrap());
    let spec = || {
        workflow(
            json!([{"id": "z", "run": {"sleep_until": {"from": "input.at"}}}, {"id": "a", "after": ["z"], "run": {"step": "work"}}]),
        )
    };
    let (first, _, _) = engine(store(), spec(), 0);
    let inner = first.clone();
    // So far away that it is not kept in memory; the other engine's clock is set to behind it.
    let at = 4_000_000_000_000_u64;
    let mut request = request("r");
    request.input = json!({"at": at});
    let result: Result<_> = wait(&first, async move {
        let run = inner.stream(request).await?;
        while let Some(event) = run.next().await {
            if matches!(event.body, EventBody::EffectStarted { .. }) {
                break;
            }
        }
        run.detach();
        Ok(())
    });
    result.unwrap();
    first.close(Duration::from_secs(5)).unwrap();

    let (sender, mut ends) = mpsc::unbounded_channel();
    let later = Arc::new(lomusai_core::seam::ManualClock::new(at));
    let second = Engine::builder(EngineConfig::default())
        .with_store(store())
        .with_clock(later)
        .with_telemetry(Arc::new(Ends(sender)))
        .build()
        .unwrap();
    second.register_step("work", FnStep(|_, _| async { Ok(StepReply::output("woken")) })).unwrap();
    second.register_workflow(spec()).unwrap();
    let inner = second.clone();
    wait(&second, async move {
        inner.start().await.unwrap();
        ends.recv().await
    });
    let inner = second.clone();
    let result = wait(&second, async move { inner.result(&"r".into()).await }).unwrap();
    assert_eq!((result.status, result.output.clone().unwrap().object), (RunStatus::Completed, Some(json!("woken"))));
}

#[test]
fn a_failed_run_goes_on_from_the_failed_step() {
    let spec = workflow(
        json!([{"id": "m", "run": {"map": {"value": 7}}}, {"id": "a", "after": ["m"], "run": {"step": "work"}}]),
    );
    let (engine, calls, _) = engine(Arc::new(MemoryStore::new()), spec, 1);
    let inner = engine.clone();
    let result = wait(&engine, async move {
        let result = inner.run(request("r")).await?;
        assert_eq!(result.status, RunStatus::Failed);
        let run = inner.resume(&"r".into(), Command::Retry, None).await?;
        run.result().await
    });
    assert_eq!(result.unwrap().output.clone().unwrap().object, Some(json!(7)));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let inner = engine.clone();
    let again = wait(&engine, async move { inner.command(&"r".into(), Command::Retry).await });
    assert!(again.unwrap_err().is(codes::RUN_FINISHED));
}

#[test]
fn a_run_of_another_spec_is_refused_with_the_difference() {
    let store = Arc::new(MemoryStore::new());
    let (first, _, _) = engine(store.clone(), workflow(json!([{"id": "s", "run": {"suspend": {}}}])), 0);
    let inner = first.clone();
    assert_eq!(wait(&first, async move { inner.run(request("r")).await }).unwrap().status, RunStatus::Suspended);
    let other =
        workflow(json!([{"id": "s", "run": {"suspend": {}}}, {"id": "new", "after": ["s"], "run": {"step": "work"}}]));
    let (second, _, _) = engine(store, other, 0);
    let inner = second.clone();
    let resume = Command::Resume { effect_id: None, label: None, data: Value::Null };
    let refused = wait(&second, async move { inner.command(&"r".into(), resume).await }).unwrap_err();
    assert!(refused.is(codes::WORKFLOW_CHANGED) && refused.to_string().contains("new steps new"), "{refused}");
    assert_eq!(status(&first, "r"), RunStatus::Suspended, "nothing was lost");
}

#[test]
fn a_host_runs_workflows_with_steps_of_its_own() {
    let engine = HostEngine::open("{}").unwrap();
    let spec = json!({"name": "w", "steps": [{"id": "a", "run": {"step": "ask"}}, {"id": "b", "after": ["a"], "run": {"step": "tell"}}]});
    engine.register_workflow(&spec.to_string()).unwrap();
    let ask = |call: CallInfo, answer: Answer| {
        let facts: Value = serde_json::from_str(&call.facts()).unwrap();
        let _ = match facts.get("resume") {
            None => answer.reply(r#"{"suspend": {"q": 1}, "label": "boss", "state": {"asked": true}}"#),
            Some(with) => answer.resolve(&with.to_string()),
        };
    };
    let tell = |call: CallInfo, answer: Answer| {
        let facts: Value = serde_json::from_str(&call.facts()).unwrap();
        let _ = answer.resolve(&json!([call.input, facts["state"]["asked"]]).to_string());
    };
    engine.register_step("ask", Placement::Pool, Arc::new(ask)).unwrap();
    engine.register_step("tell", Placement::Inline, Arc::new(tell)).unwrap();
    let run = engine.run(r#"{"workflow": "w", "run_id": "r"}"#, None).unwrap();
    run.discard_events();
    let waits: Value = serde_json::from_str(&run.result(None).unwrap().unwrap().json).unwrap();
    assert_eq!(waits["pending"][0]["label"], "boss");
    let run = engine.resume("r", r#"{"type": "resume", "label": "boss", "data": "yes"}"#, None).unwrap();
    run.discard_events();
    let ended: Value = serde_json::from_str(&run.result(None).unwrap().unwrap().json).unwrap();
    assert_eq!(ended["output"]["object"], json!(["\"yes\"", true]));
    engine.close(None).unwrap();
}

/// An engine on this store that recovers a run twice without progress, with or without a step that never ends.
fn hanging(store: Arc<dyn Store>, with_step: bool) -> Engine {
    let mut config = EngineConfig::default();
    config.recoveries_max = 2;
    let engine = Engine::builder(config).with_store(store).build().expect("threads");
    engine.register_workflow(workflow(json!([{"id": "a", "run": {"step": "hang"}}]))).expect("a workflow");
    if with_step {
        engine.register_step("hang", FnStep(|_, _| std::future::pending())).expect("a step");
    }
    engine
}

fn start(engine: &Engine) -> lomusai_runtime::StartReport {
    let inner = engine.clone();
    wait(engine, async move {
        let report = inner.start().await.expect("it starts");
        // What was recovered has recorded so before the next engine takes it over.
        for id in &report.recovered {
            let seq = inner.run_info(id).await.expect("the run").seq;
            let mut observer = inner.observe(id, 0).await.expect("the run");
            while observer.next().await.is_some_and(|event| event.seq < seq) {}
        }
        report
    })
}

#[test]
fn a_run_without_progress_is_poisoned_kept_and_not_tried_again() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let first = hanging(store.clone(), true);
    started(&first, "r");
    let mut engines = vec![first];
    for attempt in 2..=3 {
        let next = hanging(store.clone(), true);
        assert_eq!(start(&next).recovered, [RunId::from("r")], "attempt {attempt}");
        let inner = next.clone();
        wait(&next, async move {
            let mut observer = inner.observe(&"r".into(), 0).await.unwrap();
            let again =
                |event: &Event| matches!(&event.body, EventBody::EffectStarted { attempt: n, .. } if *n == attempt);
            while !observer.next().await.is_none_or(|event| again(&event)) {}
        });
        engines.push(next);
    }
    let last = hanging(store, true);
    assert_eq!(start(&last).poisoned, [RunId::from("r")]);
    assert_eq!(status(&last, "r"), RunStatus::Poisoned);
    assert_eq!(start(&last), Default::default(), "it is left alone");
}

#[test]
fn a_run_that_lacks_a_step_is_blocked_until_it_is_there() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let first = hanging(store.clone(), true);
    started(&first, "r");
    let second = hanging(store, false);
    let report = start(&second);
    assert!(report.blocked[0].1.is(codes::RUN_BLOCKED), "{report:?}");
    let inner = second.clone();
    let info = wait(&second, async move { inner.run_info(&"r".into()).await }).unwrap();
    assert!(info.status == RunStatus::Blocked && info.blocked_by.unwrap().contains("`hang`"));
    second.register_step("hang", FnStep(|_, _| std::future::pending())).unwrap();
    assert_eq!(start(&second).recovered, [RunId::from("r")]);
}
