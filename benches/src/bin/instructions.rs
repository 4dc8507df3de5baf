//! One thing, done so many times on one thread, for callgrind to count: `instructions CASE TIMES`.

// Complaining is what a program does that was called wrongly.
#![allow(clippy::print_stderr)]

use lomusai::testing::ScriptedModel;
use lomusai::{AgentSpec, Engine, EngineConfig, Result, StartRequest};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (case, times) = match &words[..] {
        [case, times] => (case.as_str(), times.parse::<usize>().expect("a count")),
        _ => {
            eprintln!("instructions CASE TIMES");
            std::process::exit(2);
        }
    };
    let call = json!({"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]});
    let says = |words: usize| json!({"says": "word ".repeat(words)});
    match case {
        "turn" => turns(vec![says(1)], times, false),
        "delta" => turns(vec![says(times)], 1, false),
        "delta-read" => turns(vec![says(times)], 1, true),
        "round" => turns(std::iter::repeat_n(call, times).chain([says(1)]).collect(), 1, false),
        _ => {
            eprintln!("there is no case `{case}`");
            std::process::exit(2);
        }
    }
}

fn turns(answers: Vec<Value>, times: usize, read: bool) -> Result<()> {
    let mut config = EngineConfig::default();
    config.threads = Some(1);
    let engine = Engine::builder(config).build()?;
    let mut agent = AgentSpec::new("agent", "model");
    agent.max_steps = Some(answers.len() as u32);
    agent.tools = vec!["add".into()];
    engine.register_provider("model", ScriptedModel::from_value(json!(answers))?)?;
    engine.register_tool(lomusai_benches::add("add"))?;
    engine.register_agent(agent)?;
    // On the engine's one thread, reader and run by turns: nothing depends on which of two threads is faster.
    let work = {
        let engine = engine.clone();
        async move {
            for _ in 0..times {
                let result = if read {
                    let run = engine.stream(StartRequest::new("agent", "go")).await?;
                    while run.next().await.is_some() {}
                    run.result().await?
                } else {
                    engine.run(StartRequest::new("agent", "go")).await?
                };
                assert!(!result.text().is_empty(), "{:?}", result.error);
            }
            Ok(())
        }
    };
    engine.block_on(work)?
}
