//! A tool that waits for a person, in a store that outlives the process.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use lomusai::stores::sqlite::{SqliteOptions, SqliteStore};
use lomusai::testing::ScriptedModel;
use lomusai::tool::TypedTool;
use lomusai::{AgentSpec, Approval, Command, Engine, EngineConfig, StartRequest};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Refund {
    order: String,
}

#[tokio::main]
async fn main() -> lomusai::Result<()> {
    let file = std::env::temp_dir().join(format!("lomusai-approval-{}.db", std::process::id()));
    let store = SqliteStore::open(&file, SqliteOptions::default())?;
    let engine = Engine::builder(EngineConfig::default()).with_store(std::sync::Arc::new(store)).build()?;
    let script = r#"[{"calls": [{"name": "refund", "arguments": {"order": "A-17"}}]}, {"says": "It is refunded."}]"#;
    engine.register_provider("model", ScriptedModel::from_json(script)?)?;
    let refund = TypedTool::new("refund", "Pays an order back.", |_, refund: Refund| async move {
        Ok(format!("paid back {}", refund.order))
    });
    engine.register_tool(refund.configure(|spec| spec.approval = Approval::Always))?;
    let mut agent = AgentSpec::new("clerk", "model");
    agent.tools = vec!["refund".into()];
    engine.register_agent(agent)?;

    let result = engine.run(StartRequest::new("clerk", "Refund A-17, please.")).await?;
    for wait in &result.pending {
        println!(
            "{} waits: {}({})",
            result.run_id,
            wait.tool.as_deref().unwrap_or(""),
            wait.arguments.as_deref().unwrap_or("")
        );
    }
    // Here the program could end. Any other that registers `refund` and `model` can go on.
    let run = engine.resume(&result.run_id, Command::Approve { effect_id: None }, None).await?;
    println!("{}", run.result().await?.text());

    engine.close(std::time::Duration::from_secs(5))?;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    Ok(())
}
