//! The smallest program: a model, an agent, an answer.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use lomusai::testing::ScriptedModel;
use lomusai::{AgentSpec, Engine, StartRequest};

#[tokio::main]
async fn main() -> lomusai::Result<()> {
    let engine = Engine::in_memory()?;
    engine.register_provider("model", ScriptedModel::from_json(r#"[{"says": "Hello from Lomusai."}]"#)?)?;
    engine.register_agent(AgentSpec::new("greeter", "model"))?;

    let result = engine.run(StartRequest::new("greeter", "Say hello.")).await?;
    println!("{}", result.text());
    Ok(())
}
