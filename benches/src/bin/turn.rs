//! What a turn costs the engine itself: CPU time and allocations of a run with a scripted model, without any network.

use lomusai::testing::ScriptedModel;
use lomusai::tool::FnTool;
use lomusai::{AgentSpec, Engine, Result, StartRequest, ToolSpec};
use lomusai_benches::{Counting, cpu_us, print_case, print_count};
use serde_json::{Value, json};

const TURNS: u64 = 2000;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether somebody reads the events: else deltas are never made.
#[derive(Clone, Copy, PartialEq)]
enum Reader {
    Reads,
    Discards,
}

/// CPU time in microseconds and allocations, each of one turn.
#[derive(Clone, Copy)]
struct Cost {
    us: f64,
    allocations: f64,
}

impl Cost {
    /// What each of `more` things costs by which the other turn is longer.
    fn per(self, longer: Cost, more: f64) -> Cost {
        Cost { us: (longer.us - self.us) / more, allocations: (longer.allocations - self.allocations) / more }
    }
}

/// Turns of an agent whose model answers from this script.
fn measure(answers: Vec<Value>, reader: Reader) -> Result<Cost> {
    let engine = Engine::in_memory()?;
    let steps = u32::try_from(answers.len()).expect("a short script");
    engine.register_provider("model", ScriptedModel::from_value(json!(answers))?)?;
    engine.register_tool(FnTool::new(ToolSpec::new("add", ""), |_context, _arguments: String| async {
        Ok(json!(3).into())
    }))?;
    let mut agent = AgentSpec::new("agent", "model");
    agent.tools = vec!["add".into()];
    agent.max_steps = Some(steps);
    engine.register_agent(agent)?;
    let (mut us, mut allocations) = (0.0, 0);
    // The first tenth warms up.
    for turn in 0..TURNS + TURNS / 10 {
        if turn == TURNS / 10 {
            (us, allocations) = (cpu_us(), Counting::allocations());
        }
        let run = engine.launch(StartRequest::new("agent", "go"), None)?;
        match reader {
            Reader::Discards => run.discard_events(),
            Reader::Reads => while let lomusai::Next::Event(_) = run.next_blocking(None) {},
        }
        run.result_blocking(None).expect("no timeout was given")?;
    }
    let turns = TURNS as f64;
    Ok(Cost { us: (cpu_us() - us) / turns, allocations: (Counting::allocations() - allocations) as f64 / turns })
}

/// An answer of so many deltas.
fn says(words: usize) -> Value {
    json!({"says": "word ".repeat(words)})
}

fn rounds(count: usize) -> Vec<Value> {
    let mut answers = vec![json!({"calls": [{"name": "add", "arguments": {"x": 1, "y": 2}}]}); count];
    answers.push(says(1));
    answers
}

fn main() -> Result<()> {
    let short = measure(vec![says(20)], Reader::Discards)?;
    let read = measure(vec![says(20)], Reader::Reads)?;
    let long_read = measure(vec![says(120)], Reader::Reads)?;
    let long = measure(vec![says(120)], Reader::Discards)?;
    let one = measure(rounds(1), Reader::Discards)?;
    let many = measure(rounds(11), Reader::Discards)?;
    for (case, cost) in [
        ("Rust: turn, 20 deltas, not read", short),
        ("Rust: turn, 20 deltas, read", read),
        ("Rust: each delta more, not read", short.per(long, 100.0)),
        ("Rust: each delta more, read", read.per(long_read, 100.0)),
        ("Rust: turn with one tool round", one),
        ("Rust: each tool round more", one.per(many, 10.0)),
    ] {
        print_case(case, TURNS, cost.us * TURNS as f64);
        print_count(&format!("{case}: allocations"), cost.allocations);
    }
    Ok(())
}
