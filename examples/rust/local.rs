//! An agent on a model in this process. Needs the feature `local`; downloads 98 MB the first time.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use lomusai::llm::Router;
use lomusai::{AgentSpec, Engine, EngineConfig, StartRequest};

fn main() -> lomusai::Result<()> {
    let engine = Engine::builder(EngineConfig::default()).with_router(Arc::new(Router::from_env())).build()?;
    let mut agent = AgentSpec::new("poet", "local:smollm2-135m");
    agent.settings.max_output_tokens = Some(40);
    engine.register_agent(agent)?;
    let result = engine.block_on({
        let engine = engine.clone();
        async move { engine.run(StartRequest::new("poet", "What is the sea? Answer in one sentence.")).await }
    })??;
    println!("{}\n{} tokens", result.text(), result.usage.total());
    Ok(())
}
