//! The table of builders, by the Rust one: the same calls come to the same spec in every language.

use lomusai::workflow::{
    Action, Each, Mapping, Part, Repeat, Retry, StepReply, StepSpec, SuspendSpec, TypedStep, WaitSpec, When, Workflow,
    WorkflowRequest,
};
use lomusai::{Engine, codes};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"))
}

fn condition(of: &Value) -> When {
    of["expr"].as_str().map_or_else(|| When::holds(|_| true), When::from)
}

fn part(of: &Value) -> Part {
    let mut part = Part::from(of["step"].as_str().expect("a step"));
    for (key, value) in of.as_object().expect("an object") {
        part = match key.as_str() {
            "step" => part,
            "id" => part.named(value.as_str().expect("an id")),
            "after" => part.after(read::<Vec<String>>(value)),
            "when" => part.when(condition(value)),
            "takes" => part.takes(read(value)),
            "needs" => part.needs(read(value)),
            "retry" => part.retried(read(value)),
            other => panic!("a step does not say {other}"),
        };
    }
    part
}

fn parts(of: &Value) -> Vec<Part> {
    of.as_array().expect("steps").iter().map(part).collect()
}

/// A time: milliseconds, or how they are made.
fn time(of: &Value) -> Mapping {
    if of.is_u64() { Mapping::Value(of.clone()) } else { read(of) }
}

fn call(workflow: Workflow, one: &Value) -> Workflow {
    let id = one["id"].as_str().unwrap_or_default().to_owned();
    let action = |workflow: Workflow, action: Action| workflow.then(StepSpec::new(id.clone(), action));
    let repeat = || Repeat { id: id.clone(), max: one["max"].as_u64().map(|max| max as u32) };
    let calls = [
        "then",
        "parallel",
        "branch",
        "foreach",
        "dowhile",
        "dountil",
        "map",
        "bail",
        "sleep",
        "sleep_until",
        "wait_for",
        "suspend",
        "add",
        "output",
    ];
    let kind = calls.into_iter().find(|kind| one.get(kind).is_some()).unwrap_or_else(|| panic!("unknown call {one}"));
    let given = &one[kind];
    match kind {
        "then" => workflow.then(part(given)),
        "parallel" => workflow.parallel(parts(given)),
        "add" => workflow.steps(parts(given)),
        "branch" => {
            let arms = given.as_array().expect("arms").iter();
            workflow.branch(arms.map(|arm| (condition(&arm[0]), part(&arm[1]))))
        }
        "foreach" => {
            let concurrency = one["concurrency"].as_u64().map(|most| most as u32);
            workflow.foreach(part(given), Each { id: id.clone(), concurrency })
        }
        "dowhile" => workflow.do_while(part(given), condition(&one["condition"]), repeat()),
        "dountil" => workflow.do_until(part(given), condition(&one["condition"]), repeat()),
        "map" => action(workflow, Action::Map(read(given))),
        "bail" => action(workflow, Action::Bail(read(given))),
        "sleep" => action(workflow, Action::Sleep(time(given))),
        "sleep_until" => action(workflow, Action::SleepUntil(time(given))),
        "wait_for" => {
            let mut wait = WaitSpec::new(given.as_str().expect("a signal"));
            wait.timeout_ms = one["timeout_ms"].as_u64();
            action(workflow, Action::Wait(wait))
        }
        "suspend" => action(workflow, Action::Suspend(read::<SuspendSpec>(given))),
        _ => workflow.output(read(given)),
    }
}

#[test]
fn the_builder_makes_the_specs_of_the_table() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../conformance/builders.json")).expect("the table");
    for case in &cases {
        let workflow = Workflow::new(case["workflow"].as_str().expect("a name")).configure(|draft| {
            for (key, value) in case["options"].as_object().into_iter().flatten() {
                match key.as_str() {
                    "description" => draft.description = read(value),
                    "input_schema" => draft.input_schema = Some(read(value)),
                    "output_schema" => draft.output_schema = Some(read(value)),
                    "retry" => draft.retry = Some(read(value)),
                    "limits" => draft.limits = read(value),
                    "metadata" => draft.metadata = read(value),
                    other => panic!("a workflow does not say {other}"),
                }
            }
        });
        let calls = case["calls"].as_array().expect("calls").iter();
        let built = calls.fold(workflow, call).build().unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
        assert_eq!(json!(built.spec), case["spec"], "{}", case["name"]);
    }
    assert!(cases.len() > 10);
}

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct Order {
    amount: u64,
}

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct Receipt {
    paid: u64,
    asked: bool,
}

fn refund(engine: &Engine, limit: u64) -> Result<(), lomusai::Error> {
    let check = TypedStep::new("check", |_, order: Order| async move { Ok(Order { amount: order.amount + 20 }) });
    let ask = Part::of(
        "ask",
        lomusai::workflow::FnStep(|context: lomusai::workflow::CallContext, _| async move {
            Ok(match context.resume {
                Some(answer) => StepReply::output(answer),
                None => StepReply::suspend("may it?").with_state("asked", true),
            })
        }),
    );
    let pay = TypedStep::new("pay", |context, order: Order| async move {
        let asked = context.state.get("asked").is_some();
        Ok(Receipt { paid: order.amount, asked })
    });
    let much = move |asked: &Value| asked["input"]["amount"].as_u64() > Some(limit);
    engine.register(
        Workflow::new("refund")
            .then(check)
            .branch([(When::holds(much), ask)])
            .then(Part::from(pay).takes(Mapping::From("steps.check".into())).retried(Retry::new(3))),
    )
}

#[test]
fn typed_steps_and_a_predicate_run() {
    let engine = Engine::in_memory().unwrap();
    refund(&engine, 100).unwrap();
    let inner = engine.clone();
    let small = engine.block_on(async move { inner.run(WorkflowRequest::new("refund", json!({"amount": 10}))).await });
    assert_eq!(small.unwrap().unwrap().output.clone().unwrap().object, Some(json!({"paid": 30, "asked": false})));

    let inner = engine.clone();
    let much = engine.block_on(async move {
        let waits = inner.run(WorkflowRequest::new("refund", json!({"amount": 100}))).await?;
        let resume = lomusai::Command::Resume { effect_id: None, label: None, data: json!(true) };
        inner.resume(&waits.run_id, resume, None).await?.result().await
    });
    assert_eq!(much.unwrap().unwrap().output.clone().unwrap().object, Some(json!({"paid": 120, "asked": true})));

    let inner = engine.clone();
    let wrong = engine.block_on(async move { inner.run(WorkflowRequest::new("refund", json!({"amount": "x"}))).await });
    assert!(wrong.unwrap().unwrap().error.as_ref().unwrap().is(codes::INPUT_INVALID));
}

#[test]
fn a_refused_workflow_leaves_nothing_behind() {
    let engine = Engine::in_memory().unwrap();
    let step = || TypedStep::new("a", |_, n: u64| async move { Ok(n) });
    let refused = engine.register(Workflow::new("w").then(step()).then(step())).unwrap_err();
    assert!(refused.is(codes::NAME_TAKEN), "{refused}");
    let refused = engine.register(Workflow::new("w").then(step()).then("a")).unwrap_err();
    assert!(refused.is(codes::STEP_DUPLICATE), "{refused}");
    engine.register(Workflow::new("w").then(step())).unwrap();
}
