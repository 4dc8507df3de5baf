//! A workflow that waits three times, in Rust. See tests/cross/README.md.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lomusai::stores::sqlite::{SqliteOptions, SqliteStore};
use lomusai::workflow::{
    Action, CallContext, Each, FnStep, Mapping, Part, StepReply, StepSpec, SuspendSpec, WaitSpec, When, Workflow,
    WorkflowRequest,
};
use lomusai::{Command, Engine, EngineConfig, Result, RunResult};
use serde_json::{Value, json};

/// A step whose answer is a function of its input alone.
fn step(name: &str, answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Part {
    let answer = move |_: CallContext, input: Value| std::future::ready(Ok(StepReply::output(answer(&input))));
    Part::of(name, FnStep(answer))
}

fn from(path: &str) -> Mapping {
    Mapping::From(path.into())
}

fn object<const N: usize>(fields: [(&str, &str); N]) -> Mapping {
    Mapping::Object(fields.into_iter().map(|(key, path)| (key.to_owned(), from(path))).collect::<BTreeMap<_, _>>())
}

fn suspend(id: &str, payload: Option<Mapping>) -> StepSpec {
    let mut suspend = SuspendSpec::default();
    (suspend.payload, suspend.label) = (payload, Some(id.into()));
    StepSpec::new(id, Action::Suspend(suspend))
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn handover() -> Workflow {
    let total = |of: &Value| {
        let prices: i64 = of["prices"].as_array().into_iter().flatten().map(int).sum();
        json!({"total": prices + int(&of["paid"])})
    };
    Workflow::new("handover")
        .then(step("check", |order| json!({"n": int(&order["n"]) * 2, "items": [1, 2, 3]})))
        .then(suspend("boss", Some(object([("sum", "steps.check.n")]))))
        .branch([
            ("steps.boss.ok".into(), step("yes", |_| json!("yes"))),
            (When::holds(|asked| asked["input"]["ok"] == true), step("many", |_| json!("many"))),
        ])
        .then(StepSpec::new("paid", Action::Wait(WaitSpec::new("paid"))))
        .foreach(
            step("price", |item| json!(int(item) * 10)).takes(from("steps.check.items")),
            Each { concurrency: Some(2), ..Each::default() },
        )
        .then(suspend("clerk", None))
        .then(step("total", total).takes(object([("prices", "steps.price"), ("paid", "steps.paid.sum")])))
}

/// What the run waits for at this stage.
async fn tell(engine: &Engine, stage: &str) -> Result<Arc<RunResult>> {
    let resume = |label: &str, data| Command::Resume { effect_id: None, label: Some(label.into()), data };
    let command = match stage {
        "0" => {
            let mut request = WorkflowRequest::new("handover", json!({"n": 3}));
            request.run_id = Some("handover".into());
            return engine.run(request).await;
        }
        "1" => resume("boss", json!({"ok": true})),
        "2" => Command::Signal { name: "paid".into(), data: json!({"sum": 5}) },
        _ => resume("clerk", Value::Null),
    };
    engine.resume(&"handover".into(), command, None).await?.result().await
}

/// Begins the work, or goes on with it once nobody else holds it.
async fn work(engine: &Engine, stage: &str) -> Result<()> {
    let toil = FnStep(|context: CallContext, _| async move {
        if context.attempt < 4 {
            println!("status working");
            // Killed here.
            std::thread::sleep(Duration::from_secs(600));
        }
        Ok(StepReply::output(context.attempt))
    });
    engine.register(Workflow::new("toil").then(Part::of("toil", toil)))?;
    if stage == "4" {
        let mut request = WorkflowRequest::new("toil", Value::Null);
        (request.run_id, request.detached) = (Some("toil".into()), true);
        engine.run(request).await?;
    }
    while stage == "5" && !engine.start().await?.recovered.contains(&"toil".into()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("status {}", json!(engine.result(&"toil".into()).await?.status).as_str().unwrap_or_default());
    println!("digest {}", engine.digest(&"toil".into()).await?);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, stages @ ..] = &arguments[..] else { panic!("FILE STAGE…") };
    let store = Arc::new(SqliteStore::open(file, SqliteOptions::default())?);
    let mut config = EngineConfig::default();
    config.lease_ms = 500;
    let engine = Engine::builder(config).with_store(store).build()?;
    if let [stage @ ("4" | "5")] = stages.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return work(&engine, stage).await;
    }
    engine.register(handover())?;
    let mut output = Value::Null;
    for stage in stages {
        let result = tell(&engine, stage).await?;
        println!("status {}", json!(result.status).as_str().unwrap_or_default());
        output = result.output.as_ref().and_then(|output| output.object.clone()).unwrap_or_default();
    }
    if stages.last().is_none_or(|stage| stage != "3") {
        // Killed here.
        std::thread::sleep(Duration::from_secs(600));
    }
    println!("total {}", output["total"]);
    println!("digest {}", engine.digest(&"handover".into()).await?);
    Ok(())
}
