//! The vocabulary of Lomusai: what crosses a border, a file or a wire, as serde types and nothing else.
//!
//! Every type here serialises to the same JSON in every language. The wire grows by addition: tags are snake_case, unknown
//! variants are kept, integer times carry their unit in the name (`at_ms`), and defaults are never written.

mod command;
mod draft;
mod error;
mod event;
mod ids;
mod json;
mod message;
mod model;
mod price;
mod spec;
mod usage;
mod workflow;

pub use command::{Command, Context, Input, OnBusy, RunFilter, RunInfo, RunOptions, RunStatus, StartRequest};
pub use draft::{ForeachLink, Link, LoopLink, WorkflowDraft};
pub use error::{Code, ErrorBody, Kind, codes};
pub use event::{
    EffectKind, Event, EventBody, Fork, History, LogLevel, Outcome, Parent, PartDelta, Pending, PendingKind, RunOutput,
    RunStarted, SignalKind, SpecKind, SpecRef,
};
pub use ids::{CallId, EffectId, MessageId, RunId, ThreadId};
pub use json::{MAX_SAFE_INTEGER, RawJson, normalise};
pub use message::{Message, Part, Reasoning, Role, Source, ToolCall, ToolResult, ToolStatus};
pub use model::{FinishReason, FunctionReply, ModelChunk, ModelRequest, ModelTool, ToolReply};
pub use price::{Budget, LongPrice, ModelInfo, Price};
pub use spec::{
    AgentSpec, Approval, Fallback, Hooks, Instructions, Limits, ModelSettings, OutputSpec, Processors, RunSpec,
    StopCondition, ToolChoice, ToolSpec,
};
pub use usage::Usage;
pub use workflow::{
    Action, Condition, ForeachSpec, LoopSpec, Mapping, Needs, Retry, SqlStatement, StepReply, StepSpec, SuspendSpec,
    WaitSpec, WorkflowRequest, WorkflowSpec,
};
