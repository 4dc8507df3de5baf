//! A model of one's own: anything that can answer in chunks.

// Printing is what an example does.
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use futures_util::stream;
use lomusai::llm::{LlmProvider, ModelChunk, ModelRequest, ModelStream};
use lomusai::tool::CallContext;
use lomusai::{AgentSpec, Engine, Result, StartRequest};

/// Says back what it is told, word by word.
struct Echo;

impl LlmProvider for Echo {
    fn stream<'a>(
        &'a self,
        _context: CallContext,
        request: Arc<ModelRequest>,
    ) -> lomusai::BoxFuture<'a, Result<ModelStream>> {
        let text = request.messages.last().map(|message| message.text()).unwrap_or_default();
        let words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
        let chunks = words.into_iter().map(|word| Ok(ModelChunk::text(word)));
        // The end is explicit: a stream that just stops was cut off.
        let chunks = chunks.chain([Ok(ModelChunk::Finish { reason: None })]);
        Box::pin(std::future::ready(Ok(Box::pin(stream::iter(chunks.collect::<Vec<_>>())) as ModelStream)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let engine = Engine::in_memory()?;
    engine.register_provider("echo", Echo)?;
    engine.register_agent(AgentSpec::new("parrot", "echo"))?;

    let result = engine.run(StartRequest::new("parrot", "Polly wants a cracker.")).await?;
    println!("{}", result.text());
    Ok(())
}
