//! What a run asks of the world, and how the world may answer.

use std::sync::Arc;

use lomusai_wire::{CallId, EffectId, EffectKind, ModelRequest, Outcome, Pending, RunId, RunOutput, Usage};
use serde_json::Value;

use crate::Error;
use crate::llm::Answer;

/// Something to carry out. Plain data: the same run in the same state asks for the same thing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Effect {
    /// Which, by position in the run.
    pub effect_id: EffectId,
    /// Of which kind.
    pub kind: EffectKind,
    /// The component to ask: a model as the spec names it, or the name of a tool, agent or function.
    pub component: String,
    /// Counts from 1.
    pub attempt: u32,
    /// The tool call it serves.
    pub call_id: Option<CallId>,
    /// What resumed it.
    pub resume: Option<Value>,
    /// Longest time it may take.
    pub timeout_ms: u64,
    /// What to ask.
    pub input: EffectInput,
}

/// What an effect asks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EffectInput {
    /// A model: this.
    Model {
        /// The request; `model` is still empty.
        request: Arc<ModelRequest>,
        /// Number of the message it will become.
        number: u64,
        /// Whether the answer's text is a JSON value of which parts can be shown early.
        structured: bool,
        /// Longest wait for its first piece.
        first_token_ms: Option<u64>,
        /// Longest wait between two pieces.
        between_tokens_ms: Option<u64>,
    },
    /// A tool: these arguments, which fit its schema.
    Tool {
        /// JSON text.
        arguments: String,
    },
    /// A child run of the agent.
    Run {
        /// The child's id.
        run_id: RunId,
        /// What it is asked.
        prompt: String,
    },
    /// Another function: this.
    Call {
        /// The question.
        input: Value,
    },
}

/// How a model call ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelOutcome {
    /// With an answer.
    Answered(Answer),
    /// With an error, after this much of an answer.
    Failed {
        /// Why.
        error: Error,
        /// What had been shown.
        partial: Option<Answer>,
        /// What it took all the same.
        usage: Usage,
        /// What that cost, in nano-dollars, where it is known.
        cost_nano_usd: Option<u64>,
    },
}

/// How a child run ended, or where it waits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ChildOutcome {
    /// It is over.
    Finished {
        /// How it ended.
        outcome: Outcome,
        /// What it came to.
        output: Option<RunOutput>,
        /// What went wrong.
        error: Option<Error>,
        /// What it took.
        usage: Usage,
        /// What that cost, in nano-dollars, where it is known.
        cost_nano_usd: Option<u64>,
    },
    /// It waits for commands.
    Suspended(Vec<Pending>),
}
