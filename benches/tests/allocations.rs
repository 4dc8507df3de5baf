//! How often the engine asks for memory: per turn, per delta, per round of a tool and per step of a workflow. Counts do not depend on how busy the machine is.
//!
//! A bound that is crossed is a cost that somebody added. One that is far away hides the next: lower it with the cost.

use lomusai::testing::ScriptedModel;
use lomusai::{AgentSpec, Engine, EngineConfig, EventBody, Result, StartRequest};
use lomusai_benches::Counting;
use lomusai_benches::flows::{self, STEPS};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of one run of a model with this script, the least of several: what is made once belongs to no run.
fn allocations(answers: Vec<Value>, read: bool) -> Result<u64> {
    let mut config = EngineConfig::default();
    config.threads = Some(1);
    let engine = Engine::builder(config).build()?;
    let mut agent = AgentSpec::new("agent", "model");
    agent.max_steps = Some(u32::try_from(answers.len()).expect("a short script"));
    agent.tools = vec!["add".into()];
    engine.register_provider("model", ScriptedModel::from_value(json!(answers))?)?;
    engine.register_tool(lomusai_benches::add("add"))?;
    engine.register_agent(agent)?;
    let runs = {
        let engine = engine.clone();
        async move {
            let mut least = u64::MAX;
            for _ in 0..50 {
                let before = Counting::allocations();
                if read {
                    let run = engine.stream(StartRequest::new("agent", "go")).await?;
                    let mut deltas = 0;
                    while let Some(event) = run.next().await {
                        deltas += u32::from(matches!(event.body, EventBody::PartDelta { .. }));
                    }
                    assert!(deltas > 0, "the deltas are read");
                } else {
                    assert!(!engine.run(StartRequest::new("agent", "go")).await?.text().is_empty());
                }
                least = least.min(Counting::allocations() - before);
            }
            Ok(least)
        }
    };
    engine.block_on(runs)?
}

/// Allocations of one run of a workflow, the least of several.
async fn of_workflow(engine: &Engine, name: &str, steps: u64) -> Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..20 {
        let before = Counting::allocations();
        match name {
            "fan" => flows::run_fan(engine).await?,
            chain => flows::run_chain(engine, chain, steps).await?,
        }
        least = least.min(Counting::allocations() - before);
    }
    Ok(least)
}

/// Allocations of a run of ten steps, and of each step and each item of a foreach more.
fn workflows() -> Result<[f64; 3]> {
    let engine = flows::engine(None, Some(1))?;
    let runs = {
        let engine = engine.clone();
        async move {
            let short = of_workflow(&engine, "bare", STEPS).await?;
            let long = of_workflow(&engine, "bare-long", 10 * STEPS).await?;
            let fan = of_workflow(&engine, "fan", 1_011).await?;
            Ok([short as f64, (long - short) as f64 / (9 * STEPS) as f64, fan as f64 / 1_011.0])
        }
    };
    engine.block_on(runs)?
}

fn says(words: usize) -> Value {
    json!({"says": "word ".repeat(words)})
}

fn rounds(count: usize) -> Vec<Value> {
    let call = json!({"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]});
    std::iter::repeat_n(call, count).chain([says(1)]).collect()
}

// One test: the allocator counts for the whole process.
#[test]
fn turns_deltas_rounds_and_steps_stay_within_their_allocations() -> Result<()> {
    let turn = allocations(vec![says(1)], false)?;
    let delta = (allocations(vec![says(101)], false)? - turn) as f64 / 100.0;
    let turn_read = allocations(vec![says(1)], true)?;
    let delta_read = (allocations(vec![says(101)], true)? - turn_read) as f64 / 100.0;
    let round = (allocations(rounds(21), false)? - allocations(rounds(1), false)?) as f64 / 20.0;
    let [flow, step, item] = workflows()?;
    let counted = [
        ("turn", turn as f64, 115.0),
        ("turn that is read", turn_read as f64, 125.0),
        ("delta", delta, 1.2),
        ("delta that is read", delta_read, 2.2),
        ("round of a tool", round, 110.0),
        ("workflow of ten steps", flow, 252.0),
        ("step of a workflow", step, 18.2),
        ("step of a fan", item, 20.3),
    ];
    let shown: Vec<String> = counted.iter().map(|(what, is, most)| format!("{what}: {is}, at most {most}")).collect();
    assert!(counted.iter().all(|(_, is, most)| is <= most), "allocations: {}", shown.join("; "));
    Ok(())
}
