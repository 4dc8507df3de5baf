//! Models in this process, with the real ones: SmolLM2 135M chats, MiniLM embeds. Both come through the store, as a user's would.
//! What a model says is never asserted, only that it says it in the form it was held to.

#![cfg(feature = "local")]

mod broken;
mod chat;
mod download;
mod embeddings;
#[path = "../server/mod.rs"]
mod server;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use futures_util::StreamExt;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{Answer, LlmProvider, MessageBuilder};
use lomusai_core::{Error, Result};
use lomusai_llm::local::{LocalConfig, LocalModels, Store};
use lomusai_wire::{Message, ModelRequest};
use tokio::runtime::Runtime;

/// One runtime for all tests, as an engine has.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"));

/// The demonstration model, loaded once for all tests.
static SMOL: LazyLock<Arc<LocalModels>> = LazyLock::new(|| {
    let mut config = config();
    config.model = Some("smollm2-135m".into());
    config.context_tokens = Some(2_048);
    config.parallel = Some(8);
    Arc::new(LocalModels::new(config))
});

fn config() -> LocalConfig {
    let mut config = LocalConfig::default();
    // Tests run side by side: more threads would only wait for one another.
    config.threads = Some(1);
    config
}

/// A file of the store, downloaded where it is not there yet.
fn file(name: &'static str) -> PathBuf {
    RUNTIME.block_on(Store::new(None, false).fetch(name, Arc::new(|_| {}))).expect("the model can be had")
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lomusai-local-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn call() -> CallContext {
    CallContext::new("r1".into(), "1.model".into())
}

fn says(text: &str) -> ModelRequest {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user(text))];
    request.settings.max_output_tokens = Some(32);
    request.settings.seed = Some(1);
    request
}

async fn answer(models: &LocalModels, request: ModelRequest) -> Result<Answer> {
    let mut stream = models.stream(call(), Arc::new(request)).await?;
    let mut builder = MessageBuilder::new("m1".into(), 1, u64::MAX);
    while let Some(chunk) = stream.next().await {
        if builder.push(chunk?, &mut |_| {})? {
            return Ok(builder.finish());
        }
    }
    panic!("a stream ends with its finish, or an error")
}

fn refused(models: &LocalModels, request: ModelRequest) -> Error {
    RUNTIME.block_on(answer(models, request)).map(drop).expect_err("it cannot be answered")
}
