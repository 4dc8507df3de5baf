//! OpenAI's Chat Completions, and what speaks it: hosted models, gateways, llama.cpp, vLLM and their like. Each provider's dialect is a
//! value that says what is different. A server that answers with one JSON body where a stream was asked for is understood as well.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::ids::IdRule;
use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// What one provider does in a way of its own.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// The field of the most tokens in an answer.
    max_tokens: &'static str,
    /// The field of the seed, where there is one.
    seed: Option<&'static str>,
    /// Whether it knows `top_k`.
    top_k: bool,
    /// The word for "some tool must be called".
    required: &'static str,
    /// How a model is made to call a tool.
    forces: Forces,
    /// Whether an assistant that only calls tools says nothing, rather than an empty text.
    says_nothing: bool,
    /// Whether usage in a stream has to be asked for.
    asks_for_usage: bool,
    /// What some models have to be told unasked.
    defaults: &'static [Preset],
    /// How it takes schemas. Where an answer can only be JSON of some kind, the schema stands in the instructions.
    schemas: &'static Schemas,
    /// How it takes them when it is asked for a model whose name holds one of these words, the first that it holds.
    schemas_of: &'static [(&'static str, &'static Schemas)],
    /// How the model's thoughts go back to it.
    thoughts: Thoughts,
    /// Whether the user may speak right after a tool.
    user_after_tool: bool,
    /// What it takes beside text.
    media: Media,
    /// Which ids of calls it takes.
    ids: IdRule,
}

/// A field that models are sent where the host does not set it.
#[derive(Debug)]
struct Preset {
    /// What their names begin with, behind the vendor's.
    models: &'static [&'static str],
    only_beside_tools: bool,
    field: &'static str,
    value: &'static str,
}

/// How a model is made to call a tool. Where the tool cannot be named, it is the only one that the model is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forces {
    /// By its name.
    Named,
    /// Any, by a word.
    Any,
    /// By its name, but not at all while the model thinks, which it does where it is not told otherwise.
    Thoughtless,
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
    /// There as well, and that there were none is said, too: the server refuses an answer without the field.
    AlwaysReasoningContent,
    /// In the field `reasoning`, and to the model that had them: others refuse it.
    Reasoning,
    /// In `reasoning`, and with their signatures in `reasoning_details`, to models of the vendor whose model had them.
    Details,
    /// As parts of the content.
    Parts,
}

/// What is taken beside text, and how. What is not becomes text, or a line that says what it was.
#[derive(Clone, Copy, Debug)]
struct Media {
    images: bool,
    audio: Audio,
    files: Files,
}

/// How sounds are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audio {
    No,
    /// `{data, format}`.
    Described,
    /// The bytes alone.
    Bare,
}

/// How files are taken that are neither images nor sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    No,
    /// Within the request, or by the id that they were given.
    Held,
    /// Within the request, or by an address in the same field.
    Enclosed,
    /// By an address, which may hold the bytes.
    Addressed,
}

/// What a server that nobody knows is told: everything, since none says what it forgets.
///
/// Beside tools many, such as vLLM's, hold a model to JSON from its first word on, so that it calls none.
/// <https://github.com/vllm-project/vllm/issues/39929>
static TOLD: Schemas = Schemas::new(Rule::Told(&subset::ALL), Rule::Told(&subset::ALL)).without_tools();

/// Any server that speaks this API: what most of them take.
pub(crate) static COMPATIBLE: Dialect = Dialect {
    max_tokens: "max_tokens",
    seed: Some("seed"),
    // Not OpenAI's, but of most servers that copy its API. One that has no such field says so, which is better than silence.
    top_k: true,
    required: "required",
    // Not all take the name of one. <https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/670>
    forces: Forces::Any,
    says_nothing: true,
    asks_for_usage: true,
    defaults: &[],
    schemas: &TOLD,
    schemas_of: &[],
    thoughts: Thoughts::AsTheyCame,
    user_after_tool: true,
    media: Media { images: true, audio: Audio::Described, files: Files::Held },
    ids: IdRule::Any,
};

/// OpenAI itself, and Azure. <https://platform.openai.com/docs/api-reference/chat/create>
#[cfg(any(feature = "openai", feature = "azure"))]
pub(crate) static OPENAI: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
    forces: Forces::Named,
    // These think unasked, and refuse tools of this API while they do; others refuse them always. <https://github.com/BerriAI/litellm/pull/34569>
    defaults: &[Preset {
        models: &["gpt-5.5", "gpt-5.6", "gpt-6-sol", "gpt-6-luna", "gpt-6.1-terra"],
        only_beside_tools: true,
        field: "reasoning_effort",
        value: "none",
    }],
    schemas: &Schemas::new(
        Rule::Strict { enforced: &subset::OPENAI, told: &subset::OBJECT },
        Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL },
    ),
    thoughts: Thoughts::Kept,
    ..COMPATIBLE
};

/// <https://docs.mistral.ai/api/endpoint/chat>
#[cfg(feature = "mistral")]
pub(crate) static MISTRAL: Dialect = Dialect {
    seed: Some("random_seed"),
    top_k: false,
    required: "any",
    forces: Forces::Named,
    asks_for_usage: false,
    schemas: &Schemas::new(
        Rule::Told(&subset::OBJECT),
        Rule::Strict { enforced: &subset::MISTRAL, told: &subset::OBJECT },
    ),
    thoughts: Thoughts::Parts,
    user_after_tool: false,
    media: Media { images: true, audio: Audio::Bare, files: Files::Addressed },
    ids: IdRule::NineAlphanumeric,
    ..COMPATIBLE
};

/// <https://api-docs.deepseek.com/api/create-chat-completion>
#[cfg(feature = "deepseek")]
pub(crate) static DEEPSEEK: Dialect = Dialect {
    seed: None,
    top_k: false,
    // <https://github.com/deepseek-ai/DeepSeek-V3/issues/1376>
    forces: Forces::Thoughtless,
    says_nothing: false,
    // `strict` tools are of another address, for trying out.
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Words),
    // <https://api-docs.deepseek.com/guides/thinking_mode>
    thoughts: Thoughts::AlwaysReasoningContent,
    media: Media { images: false, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

#[cfg(feature = "groq")]
static GROQ_TOLD: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Told(&subset::ALL)).whole_without_tools();

#[cfg(feature = "groq")]
static GROQ_STRICT: Schemas =
    Schemas::new(Rule::Told(&subset::OBJECT), Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL })
        .whole_without_tools();

/// <https://console.groq.com/docs/api-reference#chat-create>
#[cfg(feature = "groq")]
pub(crate) static GROQ: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
    forces: Forces::Named,
    // Their thoughts would stand in the answer. <https://console.groq.com/docs/reasoning>
    defaults: &[Preset { models: &["qwen"], only_beside_tools: false, field: "reasoning_format", value: "parsed" }],
    // JSON is refused beside tools and in a stream, and a schema by most models. <https://console.groq.com/docs/structured-outputs>
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Words).whole_without_tools(),
    schemas_of: &[
        ("gpt-oss-safeguard", &GROQ_TOLD),
        ("qwen3.6", &GROQ_TOLD),
        ("gpt-oss", &GROQ_STRICT),
        ("qwen3.8", &GROQ_STRICT),
    ],
    thoughts: Thoughts::Reasoning,
    media: Media { images: true, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

/// <https://docs.x.ai/docs/api-reference#chat-completions>
#[cfg(feature = "xai")]
pub(crate) static XAI: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
    forces: Forces::Named,
    // <https://github.com/langchain-ai/langchain/issues/34140>
    says_nothing: false,
    schemas: &Schemas::new(Rule::Told(&subset::XAI), Rule::Strict { enforced: &subset::XAI, told: &subset::ALL }),
    thoughts: Thoughts::ReasoningContent,
    media: Media { images: true, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

/// <https://openrouter.ai/docs/api-reference/chat-completion>
#[cfg(feature = "openrouter")]
pub(crate) static OPENROUTER: Dialect = Dialect {
    forces: Forces::Named,
    // Whoever is behind it: tools are told, since what they enforce differs.
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL }),
    thoughts: Thoughts::Details,
    media: Media { images: true, audio: Audio::Described, files: Files::Enclosed },
    ..COMPATIBLE
};

/// <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>
#[cfg(feature = "llamacpp")]
pub(crate) static LLAMACPP: Dialect = Dialect {
    // A choice that is no word counts as `auto`, and beside a format no tool is ever called.
    forces: Forces::Any,
    schemas: &Schemas::new(Rule::Enforced(&subset::LLAMA), Rule::Enforced(&subset::LLAMA)).without_tools(),
    thoughts: Thoughts::ReasoningContent,
    media: Media { images: true, audio: Audio::Described, files: Files::No },
    ..COMPATIBLE
};

impl Wire for Dialect {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        self.schemas_of.iter().find(|(word, _)| model.contains(word)).map_or(self.schemas, |(_, schemas)| schemas)
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(self, question)?;
        Ok(Post { path: vec!["chat".into(), "completions".into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Fold::new(name))
    }
}
