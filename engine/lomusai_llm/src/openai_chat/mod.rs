//! OpenAI's Chat Completions, and what speaks it: hosted models, gateways, llama.cpp, vLLM and their like. Each provider's dialect is a
//! value that says what is different. A server that answers with one JSON body where a stream was asked for is understood as well.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::ids::IdRule;
use crate::wire::{Fold, Post, Wire};

/// What one provider does in a way of its own.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// The field of the most tokens in an answer.
    max_tokens: &'static str,
    /// The field of the seed.
    seed: &'static str,
    /// Whether it knows `top_k`.
    top_k: bool,
    /// The word for "some tool must be called".
    required: &'static str,
    /// Whether usage in a stream has to be asked for.
    asks_for_usage: bool,
    /// Whether an answer can be of a schema; else only JSON of some kind, and the schema stands in the instructions.
    schemas: bool,
    /// How the model's thoughts go back to it.
    thoughts: Thoughts,
    /// Which ids of calls it takes.
    ids: IdRule,
}

/// How thoughts go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thoughts {
    /// Not at all: the server takes them from nobody.
    Kept,
    /// In the field in which they came.
    AsTheyCame,
    /// In the field `reasoning_content`.
    ReasoningContent,
    /// In the field `reasoning`.
    Reasoning,
    /// In `reasoning`, and with their signatures in `reasoning_details`.
    Details,
    /// As parts of the content.
    Parts,
}

/// Any server that speaks this API: what most of them take.
pub(crate) static COMPATIBLE: Dialect = Dialect {
    max_tokens: "max_tokens",
    seed: "seed",
    // Not OpenAI's, but of most servers that copy its API. One that has no such field says so, which is better than silence.
    top_k: true,
    required: "required",
    asks_for_usage: true,
    schemas: true,
    thoughts: Thoughts::AsTheyCame,
    ids: IdRule::Any,
};

/// OpenAI itself, and Azure. <https://platform.openai.com/docs/api-reference/chat/create>
#[cfg(any(feature = "openai", feature = "azure"))]
pub(crate) static OPENAI: Dialect =
    Dialect { max_tokens: "max_completion_tokens", top_k: false, thoughts: Thoughts::Kept, ..COMPATIBLE };

/// <https://docs.mistral.ai/api/endpoint/chat>
#[cfg(feature = "mistral")]
pub(crate) static MISTRAL: Dialect = Dialect {
    seed: "random_seed",
    top_k: false,
    required: "any",
    asks_for_usage: false,
    thoughts: Thoughts::Parts,
    ids: IdRule::NineAlphanumeric,
    ..COMPATIBLE
};

/// <https://api-docs.deepseek.com/api/create-chat-completion>
#[cfg(feature = "deepseek")]
pub(crate) static DEEPSEEK: Dialect =
    Dialect { top_k: false, schemas: false, thoughts: Thoughts::ReasoningContent, ..COMPATIBLE };

/// <https://console.groq.com/docs/api-reference#chat-create>
#[cfg(feature = "groq")]
pub(crate) static GROQ: Dialect =
    Dialect { max_tokens: "max_completion_tokens", top_k: false, thoughts: Thoughts::Reasoning, ..COMPATIBLE };

/// <https://docs.x.ai/docs/api-reference#chat-completions>
#[cfg(feature = "xai")]
pub(crate) static XAI: Dialect =
    Dialect { max_tokens: "max_completion_tokens", top_k: false, thoughts: Thoughts::ReasoningContent, ..COMPATIBLE };

/// <https://openrouter.ai/docs/api-reference/chat-completion>
#[cfg(feature = "openrouter")]
pub(crate) static OPENROUTER: Dialect = Dialect { thoughts: Thoughts::Details, ..COMPATIBLE };

/// <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>
#[cfg(feature = "llamacpp")]
pub(crate) static LLAMACPP: Dialect = Dialect { thoughts: Thoughts::ReasoningContent, ..COMPATIBLE };

impl Wire for Dialect {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(self, name, request, model, stream)?;
        Ok(Post { path: vec!["chat".into(), "completions".into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Fold::new(name))
    }
}
