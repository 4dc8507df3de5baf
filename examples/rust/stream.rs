//! Reading a run while it happens.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use lomusai::testing::ScriptedModel;
use lomusai::wire::PartDelta;
use lomusai::{AgentSpec, Engine, EventBody, StartRequest};

#[tokio::main]
async fn main() -> lomusai::Result<()> {
    let engine = Engine::in_memory()?;
    let script = r#"[{"reasons": "They want a story.", "says": "Once upon a time there was a crab."}]"#;
    engine.register_provider("model", ScriptedModel::from_json(script)?)?;
    engine.register_agent(AgentSpec::new("teller", "model"))?;

    let run = engine.stream(StartRequest::new("teller", "Tell me a story.")).await?;
    while let Some(event) = run.next().await {
        match &event.body {
            EventBody::PartStarted { part_type, .. } => print!("\n[{part_type}] "),
            EventBody::PartDelta { delta: PartDelta::Text(text), .. } => print!("{text}"),
            EventBody::RunFinished { outcome, .. } => println!("\n{outcome:?} after {} events", event.seq),
            _ => {}
        }
    }
    Ok(())
}
