//! A tool from a Rust function: its schema comes from the type of its arguments.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use lomusai::testing::ScriptedModel;
use lomusai::tool::TypedTool;
use lomusai::{AgentSpec, Engine, StartRequest};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Sum {
    /// The first number.
    a: i64,
    /// The second number.
    b: i64,
}

#[tokio::main]
async fn main() -> lomusai::Result<()> {
    let engine = Engine::in_memory()?;
    let script = r#"[{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "1 + 2 is 3."}]"#;
    engine.register_provider("model", ScriptedModel::from_json(script)?)?;
    engine.register_tool(TypedTool::new("add", "Adds two numbers.", |context, sum: Sum| async move {
        println!("adding {} and {} under the key {}", sum.a, sum.b, context.effect_id);
        Ok(sum.a + sum.b)
    }))?;
    let mut agent = AgentSpec::new("calculator", "model");
    agent.tools = vec!["add".into()];
    engine.register_agent(agent)?;

    let result = engine.run(StartRequest::new("calculator", "What is 1 + 2?")).await?;
    println!("{}", result.text());
    println!("digest {}", engine.digest(&result.run_id).await?);
    Ok(())
}
