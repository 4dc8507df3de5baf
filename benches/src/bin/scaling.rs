//! What a second core is worth: a thousand runs at once, of a scripted model (`turns`) or of a workflow of ten steps (`workflows`), inside
//! the process. Pinned by `cargo xtask bench` to one core or to two; says what it took by the clock, in CPU time, and on its busiest thread.

// Printing is what this program does.
#![allow(clippy::print_stdout)]

use lomusai::testing::ScriptedModel;
use lomusai::{AgentSpec, Engine, Result, StartRequest};
use lomusai_benches::flows::{self, STEPS};
use lomusai_benches::{cpu_us, now, threads_cpu_us};
use serde_json::json;

const AT_ONCE: usize = 1_000;
const ROUNDS: usize = 20;

#[global_allocator]
static ALLOCATOR: lomusai_benches::Allocator = lomusai_benches::Allocator;

fn main() -> Result<()> {
    let workflows = std::env::args().nth(1).is_some_and(|job| job == "workflows");
    let engine = if workflows { flows::engine(None, None)? } else { turns()? };
    let rounds = |rounds: usize| {
        let engine = engine.clone();
        async move {
            for _ in 0..rounds {
                if workflows {
                    let runs = (0..AT_ONCE).map(|_| flows::run_chain(&engine, "bare", STEPS));
                    futures_util::future::try_join_all(runs).await?;
                    continue;
                }
                let runs = (0..AT_ONCE).map(|_| engine.run(StartRequest::new("agent", "go")));
                for result in futures_util::future::try_join_all(runs).await? {
                    assert!(!result.text().is_empty(), "{:?}", result.error);
                }
            }
            Ok::<(), lomusai::Error>(())
        }
    };
    engine.block_on(rounds(2))??;
    let (cpu, threads, wall) = (cpu_us(), threads_cpu_us(), now());
    engine.block_on(rounds(ROUNDS))??;
    let wall_us = wall.elapsed().as_secs_f64() * 1e6;
    let after = threads_cpu_us();
    let busiest = after.iter().map(|(id, us)| us - threads.get(id).copied().unwrap_or(0.0)).fold(0.0, f64::max);
    let runs = (AT_ONCE * ROUNDS) as f64;
    println!(
        "{}",
        json!({"runs": runs, "wall_us": wall_us / runs, "cpu_us": (cpu_us() - cpu) / runs, "busiest_us": busiest / runs})
    );
    Ok(())
}

/// An engine whose agent answers behind one round of a tool.
fn turns() -> Result<Engine> {
    let engine = Engine::in_memory()?;
    let call = json!({"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]});
    engine.register_provider("model", ScriptedModel::from_value(json!([call, {"says": "word ".repeat(20)}]))?)?;
    engine.register_tool(lomusai_benches::add("add"))?;
    let mut agent = AgentSpec::new("agent", "model");
    agent.tools = vec!["add".into()];
    engine.register_agent(agent)?;
    Ok(engine)
}
