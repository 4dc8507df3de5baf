//! Child runs that end with the run that started them.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::Result;
use lomusai_core::component::CallContext;
use lomusai_core::testing::ScriptedModel;
use lomusai_core::tool::FnTool;
use lomusai_runtime::Engine;
use lomusai_wire::{AgentSpec, Command, RunStatus, StartRequest, ToolReply, ToolSpec, codes};
use serde_json::json;
use tokio::sync::Semaphore;

/// A boss whose two helpers hang in a tool, each after a model's answer of 100 tokens; the boss's own took 10. Beside them the boss
/// calls `burst`, which waits until they hang and then says more than `run_bytes` allow, if they are set.
fn hanging_helpers(run_bytes: Option<u64>) -> (Engine, Arc<Semaphore>) {
    let engine = Engine::in_memory().unwrap();
    let script = json!([{"calls": [
        {"name": "agent-helper", "arguments": {"prompt": "One."}},
        {"name": "agent-helper", "arguments": {"prompt": "Two."}},
        {"name": "burst"},
    ], "usage": {"input": 8, "output": 2}}]);
    engine.register_provider("boss", ScriptedModel::from_value(script).unwrap()).unwrap();
    let script = json!([{"calls": [{"name": "hang"}], "usage": {"input": 80, "output": 20}}]);
    engine.register_provider("helper", ScriptedModel::from_value(script).unwrap()).unwrap();
    let hanging = Arc::new(Semaphore::new(0));
    let hangs = hanging.clone();
    let hang = FnTool::new(ToolSpec::new("hang", ""), move |_: CallContext, _| {
        hangs.add_permits(1);
        std::future::pending::<Result<ToolReply>>()
    });
    engine.register_tool(hang).unwrap();
    let hangs = hanging.clone();
    let burst = FnTool::new(ToolSpec::new("burst", ""), move |context: CallContext, _| {
        let hangs = hangs.clone();
        async move {
            if run_bytes.is_some() {
                let _both = hangs.acquire_many(2).await.unwrap();
                context.custom("burst", json!("x".repeat(10_000)), true);
            }
            std::future::pending::<Result<ToolReply>>().await
        }
    });
    engine.register_tool(burst).unwrap();
    let mut helper = AgentSpec::new("helper", "helper");
    (helper.description, helper.tools) = ("Helps.".into(), vec!["hang".into()]);
    engine.register_agent(helper).unwrap();
    let mut boss = AgentSpec::new("boss", "boss");
    (boss.agents, boss.tools) = (vec!["helper".into()], vec!["burst".into()]);
    boss.limits.run_bytes = run_bytes;
    engine.register_agent(boss).unwrap();
    (engine, hanging)
}

#[test]
fn what_children_used_is_counted_when_their_run_is_cancelled() {
    for grace_ms in [0, 10] {
        let (engine, hanging) = hanging_helpers(None);
        let inner = engine.clone();
        engine
            .block_on(async move {
                let run = inner.stream(StartRequest::new("boss", "Go")).await.unwrap();
                run.discard_events();
                let _both = hanging.acquire_many(2).await.unwrap();
                inner.command(run.id(), Command::Cancel { grace_ms, reason: None }).await.unwrap();
                let result = run.result().await.unwrap();
                assert_eq!(result.status, RunStatus::Cancelled);
                assert_eq!(result.usage.total(), 210, "with a grace of {grace_ms} ms");
                for child in ["1.0", "1.1"] {
                    let child = inner.result(&format!("{}/{child}", run.id()).into()).await.unwrap();
                    assert_eq!((child.status, child.usage.total()), (RunStatus::Cancelled, 100));
                }
            })
            .unwrap();
        engine.close(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn what_children_used_is_counted_when_their_run_crosses_a_limit() {
    let (engine, _) = hanging_helpers(Some(5_000));
    let inner = engine.clone();
    engine
        .block_on(async move {
            let result = inner.run(StartRequest::new("boss", "Go")).await.unwrap();
            assert_eq!(result.status, RunStatus::Failed);
            assert!(result.error.as_ref().unwrap().is(codes::RUN_TOO_LARGE));
            assert_eq!(result.usage.total(), 210);
        })
        .unwrap();
    engine.close(Duration::from_secs(5)).unwrap();
}
