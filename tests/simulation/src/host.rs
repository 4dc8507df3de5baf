//! The host in each process: an engine with the components that scenarios name. What they do is decided by dice, what they answer is not.

use std::sync::Arc;

use lomusai_core::component::{CallContext, FnFunction, FnStep};
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::testing::ScriptedModel;
use lomusai_core::tool::FnTool;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_runtime::{Engine, EngineConfig};
use lomusai_wire::{AgentSpec, ModelRequest, StepReply, ToolReply, ToolSpec, codes};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use crate::fault::Fault;
use crate::scenario::kind;
use crate::store::SimulatedStore;
use crate::world::Seat;

/// How long a lease outlives its holder's last sign of life.
pub(crate) const LEASE_MS: u64 = 1_500;
/// Longer than any step waits.
const LATE_MS: u64 = 2_000;

/// An engine in a process.
pub(crate) fn open(seat: &Arc<Seat>) -> Result<Engine> {
    let mut config = EngineConfig::default();
    (config.lease_ms, config.recoveries_max) = (LEASE_MS, u32::MAX);
    let engine = Engine::builder(config)
        .with_runtime(Handle::current())
        .with_store(Arc::new(SimulatedStore(seat.clone())))
        .with_clock(seat.clone())
        .with_ids(seat.clone())
        .with_telemetry(seat.clone())
        .build()?;
    let at = seat.clone();
    let work = FnStep(move |context: CallContext, input: Value| {
        let at = at.clone();
        async move { work(&at, context, &input).await }
    });
    engine.register_step("work", work)?;
    let at = seat.clone();
    let ask = FnStep(move |context: CallContext, input: Value| {
        let at = at.clone();
        async move {
            act(&at, "ask", &context, &input.to_string()).await;
            Ok(match context.resume {
                None => StepReply::suspend(json!({"why": context.effect_id})),
                Some(said) => StepReply::output(said),
            })
        }
    });
    engine.register_step("ask", ask)?;
    let at = seat.clone();
    let odd = FnFunction(move |context: CallContext, question: Value| {
        let at = at.clone();
        async move {
            act(&at, "odd", &context, &question.to_string()).await;
            Ok(json!(question["input"]["n"].as_u64().unwrap_or_default() % 2 == 1))
        }
    });
    engine.register_function("odd", odd)?;
    let at = seat.clone();
    let look = move |context: CallContext, arguments: String| {
        let at = at.clone();
        async move {
            act(&at, "look", &context, &arguments).await;
            Ok(json!("found").into())
        }
    };
    engine.register_tool(FnTool::new(ToolSpec::new("look", "Looks it up."), look))?;
    let mut person = ToolSpec::new("person", "Asks somebody.");
    person.may_suspend = true;
    let at = seat.clone();
    let person = FnTool::new(person, move |context: CallContext, arguments: String| {
        let at = at.clone();
        async move {
            act(&at, "person", &context, &arguments).await;
            Ok(match context.resume {
                None => ToolReply::Suspend { suspend: json!("who knows?") },
                Some(said) => said.into(),
            })
        }
    });
    engine.register_tool(person)?;
    for (name, tool) in [("clerk", "look"), ("asker", "person")] {
        let script = json!([{"calls": [{"name": tool}, {"name": tool}]}, {"says": "It is there."}]);
        engine.register_provider(name, Model { seat: seat.clone(), script: ScriptedModel::from_value(script)? })?;
        let mut agent = AgentSpec::new(name, name);
        agent.tools = vec![tool.into()];
        engine.register_agent(agent)?;
    }
    for spec in &seat.world.scenario.workflows {
        engine.register_workflow(spec.clone())?;
    }
    Ok(engine)
}

/// What every component does: the world sees it, it takes time, and its process may die meanwhile.
async fn act(seat: &Seat, component: &str, context: &CallContext, asked: &str) {
    seat.process.gate().await;
    seat.carried_out(component, context, asked);
    if seat.world.happens(Fault::CrashInStep) {
        seat.process.die().await;
    }
    let ms = match seat.world.between(0, 9) {
        0..4 => 0,
        4..9 => seat.world.between(1, 40),
        _ => seat.world.between(100, 400),
    };
    if ms > 0 {
        sleep(Duration::from_millis(ms)).await;
    }
    seat.process.gate().await;
}

async fn work(seat: &Arc<Seat>, context: CallContext, input: &Value) -> Result<StepReply> {
    act(seat, "work", &context, &input.to_string()).await;
    let key = context.idempotency_key();
    let failed = |why: &str| Err(Error::new(codes::STEP_FAILED, why));
    match kind(context.effect_id.as_str()) {
        "frag" if !seat.world.state.lock().repaired => return failed("it is broken"),
        "flaky" => {
            if seat.world.fails(Fault::StepFails, &key, 2) {
                return failed("not yet");
            }
            if seat.world.fails(Fault::StepLate, &key, 3) {
                sleep(Duration::from_millis(LATE_MS)).await;
            }
            if seat.world.fails(Fault::StepSilent, &key, 3) {
                std::future::pending::<()>().await;
            }
        }
        _ => {}
    }
    let answer = StepReply::output(json!({"did": context.effect_id}));
    if seat.world.happens(Fault::StepTwice) {
        return Ok(twice(context, answer).await);
    }
    Ok(answer)
}

/// Somebody else answers, and does not stop then: another answer follows, and words for the journal before and behind both.
async fn twice(context: CallContext, answer: StepReply) -> StepReply {
    let (sender, mut answers) = mpsc::unbounded_channel();
    context.custom("working", json!(1), true);
    tokio::spawn(async move {
        sleep(Duration::from_millis(5)).await;
        let _ = sender.send(answer.clone());
        context.custom("late", json!(2), true);
        sleep(Duration::from_millis(5)).await;
        context.custom("later", json!(3), true);
        let _ = sender.send(answer);
    });
    answers.recv().await.expect("the other one answers")
}

/// A scripted model in a process.
struct Model {
    seat: Arc<Seat>,
    script: ScriptedModel,
}

impl LlmProvider for Model {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            act(&self.seat, "model", &context, "").await;
            if self.seat.world.fails(Fault::StepFails, &context.idempotency_key(), 1) {
                return Err(Error::new(codes::PROVIDER_FAILED, "the model is busy"));
            }
            self.script.stream(context, request).await
        })
    }
}
