//! Lomusai: an agent engine that you embed.
//!
//! Open an [`Engine`], register a model provider, tools and agents, and run them. Runs are journaled: they can be suspended for
//! approval, survive their process, and read the same in every language.
//!
//! ```
//! use lomusai::{AgentSpec, Engine, StartRequest, testing::ScriptedModel, tool::TypedTool};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Sum { a: i64, b: i64 }
//!
//! # fn main() -> lomusai::Result<()> {
//! let engine = Engine::in_memory()?;
//! engine.register_provider("model", ScriptedModel::from_json(
//!     r#"[{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "1 + 2 is 3."}]"#,
//! )?)?;
//! engine.register_tool(TypedTool::new("add", "Adds two numbers", |_, sum: Sum| async move { Ok(sum.a + sum.b) }))?;
//! let mut agent = AgentSpec::new("calculator", "model");
//! agent.tools = vec!["add".into()];
//! engine.register_agent(agent)?;
//!
//! let result = engine.block_on({
//!     let engine = engine.clone();
//!     async move { engine.run(StartRequest::new("calculator", "What is 1 + 2?")).await }
//! })??;
//! assert_eq!(result.text(), "1 + 2 is 3.");
//! # Ok(()) }
//! ```
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `sqlite` | yes | [`stores::sqlite`]: runs that outlive their process, in one file |
//! | `remote` | yes | every provider over the network; [`llm::Router`] makes them by name, with keys from the environment |
//! | `local` | no | `llm::local`: models in this process; `local:smollm2-135m` is one |
//! | `compatible` | by `remote` | [`llm::Provider`]: models behind any OpenAI-compatible endpoint |

pub use lomusai_core::{BoxFuture, Error, Result};
pub use lomusai_runtime::{
    BudgetState, CassetteConfig, CassetteMode, ComponentKind, Engine, EngineBuilder, EngineConfig, Next, Observer, Run,
    RunResult, StartReport,
};
pub use lomusai_wire::{
    AgentSpec, Approval, Budget, Command, Event, EventBody, Fallback, Message, ModelInfo, OutputSpec, Part, Pending,
    Price, Role, RunFilter, RunId, RunInfo, RunStatus, StartRequest, ThreadId, ToolReply, ToolSpec, Usage, codes,
};

/// Tools as Rust functions.
pub mod tool {
    pub use lomusai_core::component::CallContext;
    pub use lomusai_core::tool::{FnTool, Tool, TypedTool, schema_of};
}

/// Functions that specs can name: instructions, processors, hooks, rules.
pub mod function {
    pub use lomusai_core::component::{CallContext, FnFunction, Function};
}

/// Workflows: graphs of steps as data, functions as steps, and a builder.
pub mod workflow {
    pub use lomusai_core::component::{CallContext, FnStep, Step};
    pub use lomusai_core::workflow::{Each, Part, Repeat, TypedStep, When, Workflow};
    pub use lomusai_wire::{
        Action, Condition, Mapping, Needs, Retry, StepReply, StepSpec, SuspendSpec, WaitSpec, WorkflowRequest,
        WorkflowSpec,
    };
}

/// Models: the trait to implement, and the providers that come along.
pub mod llm {
    pub use lomusai_core::llm::{EmbeddingProvider, LlmProvider, ModelStream};
    pub use lomusai_core::models::ModelTable;
    pub use lomusai_core::retry::Retry;
    pub use lomusai_core::schema::subset;
    #[cfg(feature = "local")]
    pub use lomusai_llm::local;
    #[cfg(feature = "compatible")]
    pub use lomusai_llm::{Embedder, KINDS, Kind, Provider, ProviderConfig, Router, Secret, Timeouts};
    pub use lomusai_runtime::layer;
    pub use lomusai_wire::{ModelChunk, ModelRequest};
}

/// Where runs are kept.
pub mod stores {
    pub use lomusai_core::storage::{MemoryStore, Store};
    #[cfg(feature = "sqlite")]
    pub use lomusai_stores::sqlite;
}

/// Doubles for tests.
pub mod testing {
    pub use lomusai_core::seam::{CountedIds, ManualClock};
    pub use lomusai_core::testing::{ScriptedModel, block_on};
}

/// Everything that crosses a border, as serde types.
pub use lomusai_wire as wire;

/// Journals: their canonical form and digest.
pub use lomusai_core::journal;

/// Watching an engine.
pub use lomusai_core::telemetry;
