//! Runs on a real runtime, with scripted models.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::Result;
use lomusai_core::component::{FnFunction, FnStep};
use lomusai_core::storage::MemoryStore;
use lomusai_core::testing::ScriptedModel;
use lomusai_core::tool::{FnTool, TypedTool};
use lomusai_runtime::{ComponentKind, Engine, EngineConfig, Next};
use lomusai_wire::{
    Action, AgentSpec, Approval, Command, EventBody, RunStatus, StartRequest, StepSpec, ToolReply, ToolSpec,
    WorkflowRequest, WorkflowSpec, codes,
};
use serde_json::{Value, json};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Sum {
    a: i64,
    b: i64,
}

fn engine(script: Value) -> Engine {
    let engine = Engine::in_memory().unwrap();
    engine.register_provider("model", ScriptedModel::from_value(script).unwrap()).unwrap();
    let add = TypedTool::new("add", "Adds", |_, sum: Sum| async move { Ok(sum.a + sum.b) });
    engine.register_tool(add).unwrap();
    engine
}

fn agent(change: impl FnOnce(&mut AgentSpec)) -> AgentSpec {
    let mut spec = AgentSpec::new("agent", "model");
    spec.tools = vec!["add".into()];
    change(&mut spec);
    spec
}

fn adds_then_says() -> Value {
    json!([{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "It is 3.", "usage": {"input": 2, "output": 3}}])
}

fn run<T: Send + 'static>(engine: &Engine, f: impl AsyncFnOnceSend<T>) -> T {
    let inner = engine.clone();
    engine.block_on(async move { f.call(inner).await }).unwrap()
}

/// A closure that takes the engine and gives a future that can move between threads.
trait AsyncFnOnceSend<T>: Send + 'static {
    fn call(self, engine: Engine) -> impl Future<Output = T> + Send;
}

impl<T, F, Fut> AsyncFnOnceSend<T> for F
where
    F: FnOnce(Engine) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send,
{
    fn call(self, engine: Engine) -> impl Future<Output = T> + Send {
        self(engine)
    }
}

#[test]
fn an_agent_calls_a_tool_and_answers() {
    let engine = engine(adds_then_says());
    engine.register_agent(agent(|_| {})).unwrap();
    run(&engine, |engine: Engine| async move {
        let result = engine.run(StartRequest::new("agent", "1+2?")).await.unwrap();
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "It is 3."));
        assert_eq!(result.usage.total(), 5);
        assert_eq!(result.messages.len(), 4);
        let digest = engine.digest(&result.run_id).await.unwrap();
        let again = engine.run(StartRequest::new("agent", "1+2?")).await.unwrap();
        assert_eq!(engine.digest(&again.run_id).await.unwrap(), digest);
    });
    engine.close(Duration::from_secs(5)).unwrap();
    let error = engine.block_on(async {}).unwrap_err();
    assert!(error.is(codes::ENGINE_CLOSED));
}

#[test]
fn a_reader_sees_deltas_between_durable_events() {
    let engine = engine(adds_then_says());
    engine.register_agent(agent(|_| {})).unwrap();
    let run =
        run(&engine, |engine: Engine| async move { engine.stream(StartRequest::new("agent", "1+2?")).await.unwrap() });
    let (mut text, mut last) = (String::new(), (0, 0));
    loop {
        match run.next_blocking(Some(Duration::from_secs(5))) {
            Next::Event(event) => {
                assert!((event.seq, event.sub) > last, "{event:?}");
                last = (event.seq, event.sub);
                if let EventBody::PartDelta { delta: lomusai_wire::PartDelta::Text(more), .. } = &event.body {
                    text.push_str(more);
                }
            }
            Next::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(text, "It is 3.");
}

#[test]
fn an_approval_suspends_the_run_until_a_command_comes() {
    let engine = engine(adds_then_says());
    engine.register_agent(agent(|spec| spec.approval = Approval::Always)).unwrap();
    run(&engine, |engine: Engine| async move {
        let result = engine.run(StartRequest::new("agent", "1+2?")).await.unwrap();
        assert_eq!(result.status, RunStatus::Suspended);
        assert_eq!(engine.pending().await.unwrap()[0].pending[0].tool.as_deref(), Some("add"));
        let wrong = engine
            .command(&result.run_id, Command::Resume { effect_id: None, label: None, data: json!(1) })
            .await
            .unwrap_err();
        assert!(wrong.is(codes::EFFECT_UNKNOWN), "{wrong}");
        let run = engine.resume(&result.run_id, Command::Approve { effect_id: None }, None).await.unwrap();
        let result = run.result().await.unwrap();
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "It is 3."));
        let late = engine.command(&result.run_id, Command::Approve { effect_id: None }).await.unwrap_err();
        assert!(late.is(codes::RUN_FINISHED), "{late}");
    });
}

#[test]
fn a_sub_agents_approval_can_be_given_through_its_parent() {
    let engine = engine(adds_then_says());
    engine.register_agent(agent(|spec| spec.approval = Approval::Always)).unwrap();
    let script = json!([{"calls": [{"name": "agent-agent", "arguments": {"prompt": "1+2?"}}]}, {"says": "Three."}]);
    engine.register_provider("boss-model", ScriptedModel::from_value(script).unwrap()).unwrap();
    let mut boss = AgentSpec::new("boss", "boss-model");
    boss.agents = vec!["agent".into()];
    engine.register_agent(boss).unwrap();
    run(&engine, |engine: Engine| async move {
        let result = engine.run(StartRequest::new("boss", "go")).await.unwrap();
        assert_eq!(result.status, RunStatus::Suspended, "{result:?}");
        assert_eq!(engine.pending().await.unwrap().len(), 2);
        let run = engine.resume(&result.run_id, Command::Approve { effect_id: None }, None).await.unwrap();
        let result = run.result().await.unwrap();
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "Three."), "{result:?}");
        // And once more, to the child itself.
        let result = engine.run(StartRequest::new("boss", "go")).await.unwrap();
        let child = result.pending[0].child.clone().unwrap();
        engine.command(&child, Command::Approve { effect_id: None }).await.unwrap();
        let result = engine.result(&result.run_id).await.unwrap();
        assert_eq!((result.status, result.text()), (RunStatus::Completed, "Three."), "{result:?}");
        assert!(engine.delete_run(&result.run_id).await.unwrap());
        assert!(engine.run_info(&child).await.unwrap_err().is(codes::RUN_UNKNOWN));
    });
}

#[test]
fn cancelling_reaches_the_tool_and_leaves_a_valid_conversation() {
    let engine = engine(json!([{"calls": [{"name": "hang"}]}, {"says": "on"}]));
    let (told, tells) = std::sync::mpsc::channel();
    let hang = FnTool::new(ToolSpec::new("hang", ""), move |context: lomusai_core::component::CallContext, _| {
        let told = told.clone();
        async move {
            // Without a grace the future is dropped at once: a listener hears of it all the same.
            let _told = context.cancel.on_cancel(move || told.send(()).unwrap());
            std::future::pending::<Result<ToolReply>>().await
        }
    });
    engine.register_tool(hang).unwrap();
    engine.register_agent(agent(|spec| spec.tools = vec!["hang".into()])).unwrap();
    let messages = run(&engine, |engine: Engine| async move {
        let run = engine.stream(StartRequest::new("agent", "go")).await.unwrap();
        while let Some(event) = run.next().await {
            if matches!(&event.body, EventBody::EffectStarted { component, .. } if **component == *"hang") {
                run.cancel(0, Some("enough".into()));
            }
        }
        let result = run.result().await.unwrap();
        assert_eq!(result.status, RunStatus::Cancelled);
        result.messages.clone()
    });
    tells.recv_timeout(Duration::from_secs(5)).unwrap();
    lomusai_core::transcript::check(&messages).unwrap();
}

#[test]
fn what_was_shown_of_an_answer_is_recorded_when_it_is_cancelled() {
    let engine = engine(json!([{"says": "Once upon a time ", "hangs": true}]));
    engine.register_agent(agent(|_| {})).unwrap();
    let result = run(&engine, |engine: Engine| async move {
        let run = engine.stream(StartRequest::new("agent", "a story")).await.unwrap();
        let mut shown = String::new();
        while let Some(event) = run.next().await {
            if let EventBody::PartDelta { delta: lomusai_wire::PartDelta::Text(text), .. } = &event.body {
                shown.push_str(text);
                if shown == "Once upon a time " {
                    run.cancel(0, None);
                }
            }
        }
        run.result().await.unwrap()
    });
    assert_eq!((result.status, result.text()), (RunStatus::Cancelled, "Once upon a time "));
    assert_eq!(result.messages.len(), 2);
}

#[test]
fn threads_are_written_at_the_end_and_one_run_at_a_time() {
    let engine = engine(json!({"answers": [{"says": "hi"}], "repeat": true}));
    engine.register_agent(agent(|_| {})).unwrap();
    run(&engine, |engine: Engine| async move {
        let mut request = StartRequest::new("agent", "hello");
        request.thread = Some("t".into());
        let all = futures_util::future::join_all((0..10).map(|_| engine.run(request.clone()))).await;
        assert!(all.into_iter().all(|result| result.unwrap().status == RunStatus::Completed));
        let messages = engine.messages(&"t".into()).await.unwrap();
        assert_eq!(messages.len(), 20);
        let ids: std::collections::HashSet<_> = messages.iter().map(|message| message.id.clone()).collect();
        assert_eq!(ids.len(), 20);
    });
}

#[test]
fn an_engine_goes_on_with_what_another_left() {
    let store = Arc::new(MemoryStore::new());
    let open = |script: Value| {
        let engine = Engine::builder(EngineConfig::default()).with_store(store.clone()).build().unwrap();
        engine.register_provider("model", ScriptedModel::from_value(script).unwrap()).unwrap();
        engine
    };
    let first = open(adds_then_says());
    first.register_tool(TypedTool::new("add", "Adds", |_, sum: Sum| async move { Ok(sum.a + sum.b) })).unwrap();
    first.register_agent(agent(|spec| spec.approval = Approval::Always)).unwrap();
    let suspended =
        run(&first, |engine: Engine| async move { engine.run(StartRequest::new("agent", "1+2?")).await.unwrap() });
    std::mem::forget(first);

    // Not even the agent is needed, only what it names.
    let second = open(adds_then_says());
    let id = suspended.run_id.clone();
    let blocked = run(&second, |engine: Engine| async move {
        engine.command(&id, Command::Approve { effect_id: None }).await.unwrap_err()
    });
    assert!(blocked.is(codes::RUN_BLOCKED), "{blocked}");
    second.register_tool(TypedTool::new("add", "Adds up", |_, sum: Sum| async move { Ok(sum.a + sum.b) })).unwrap();
    let id = suspended.run_id.clone();
    let result = run(&second, |engine: Engine| async move {
        engine.resume(&id, Command::Approve { effect_id: None }, None).await.unwrap().result().await.unwrap()
    });
    assert_eq!((result.status, result.text()), (RunStatus::Completed, "It is 3."));
}

#[test]
fn thousands_of_runs_at_once() {
    let engine = engine(json!([{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "It is 3."}]));
    engine.register_agent(agent(|_| {})).unwrap();
    run(&engine, |engine: Engine| async move {
        let all =
            futures_util::future::join_all((0..3_000).map(|_| engine.run(StartRequest::new("agent", "1+2?")))).await;
        assert!(all.into_iter().all(|result| result.unwrap().status == RunStatus::Completed));
    });
}

#[test]
fn a_stream_processor_changes_what_is_shown_and_recorded() {
    let engine = engine(json!([{"says": "the secret is out"}]));
    let function = FnFunction(|_, input: Value| async move {
        Ok(json!({"text": input["text"].as_str().unwrap_or_default().replace("secret", "***")}))
    });
    engine.register_function("mask", function).unwrap();
    engine.register_agent(agent(|spec| spec.processors.stream = vec!["mask".into()])).unwrap();
    let result =
        run(&engine, |engine: Engine| async move { engine.run(StartRequest::new("agent", "?")).await.unwrap() });
    assert_eq!(result.text(), "the *** is out");
}

#[test]
fn a_panicking_tool_is_an_error_the_model_is_told() {
    let engine = engine(json!([{"calls": [{"name": "boom"}]}, {"says": "sorry"}]));
    let boom = FnTool::new(ToolSpec::new("boom", ""), |_, _| async { panic!("boom") });
    engine.register_tool(boom).unwrap();
    engine.register_agent(agent(|spec| spec.tools = vec!["boom".into()])).unwrap();
    let result =
        run(&engine, |engine: Engine| async move { engine.run(StartRequest::new("agent", "?")).await.unwrap() });
    assert_eq!((result.status, result.text()), (RunStatus::Completed, "sorry"));
    let told = result.messages[2].tool_results().next().unwrap().to_text();
    assert!(told.contains("panicked: boom"), "{told}");
}

/// Whoever begins a run while the engine is closed is told so, or has it ended: nobody waits for ever.
#[test]
fn runs_that_begin_while_the_engine_closes_end() {
    for _ in 0..300 {
        let engine = engine(json!({"answers": [{"says": "It is 3."}], "repeat": true}));
        engine.register_agent(agent(|_| {})).unwrap();
        let begins = |engine: Engine| {
            move || {
                let refused = loop {
                    match engine.launch(StartRequest::new("agent", "1+2?"), None) {
                        Ok(run) => {
                            run.discard_events();
                            let ended = run.result_blocking(Some(Duration::from_secs(20)));
                            assert!(ended.is_some(), "a run that was begun never ended");
                        }
                        Err(error) => break error,
                    }
                };
                assert!(refused.is(codes::ENGINE_CLOSED), "{refused:?}");
            }
        };
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(begins(engine.clone()))).collect();
        std::thread::yield_now();
        engine.close(Duration::from_secs(5)).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn a_step_that_is_replaced_is_the_new_one_for_the_runs_that_are_under_way() {
    let engine = Engine::in_memory().unwrap();
    let inner = engine.clone();
    let first = FnStep(move |_, _| {
        let engine = inner.clone();
        async move {
            assert!(engine.unregister(ComponentKind::Step, "work"));
            engine.register_step("work", FnStep(|_, _| async { Ok(json!("new").into()) }))?;
            Ok(json!("old").into())
        }
    });
    engine.register_step("work", first).unwrap();
    let step = |id: &str| StepSpec::new(id, Action::Step("work".into()));
    let steps = vec![step("a"), step("b").after(["a"]), step("c").after(["b"])];
    let mut spec = WorkflowSpec::new("w", steps);
    spec.output = Some(serde_json::from_value(json!({"list": [{"from": "steps.a"}, {"from": "steps.b"}]})).unwrap());
    engine.register_workflow(spec).unwrap();
    let result = run(&engine, async |engine: Engine| engine.run(WorkflowRequest::new("w", Value::Null)).await).unwrap();
    assert_eq!(result.output.as_ref().unwrap().object, Some(json!(["old", "new"])), "{:?}", result.error);
}
