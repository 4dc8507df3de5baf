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
    /// Whether a tool can be named that must be called. Where it cannot, it is the only one that the model is shown.
    names_tools: bool,
    /// Whether usage in a stream has to be asked for.
    asks_for_usage: bool,
    /// How it takes schemas. Where an answer can only be JSON of some kind, the schema stands in the instructions.
    schemas: &'static Schemas,
    /// How it takes them when it is asked for a model whose name holds this word.
    schemas_of: Option<(&'static str, &'static Schemas)>,
    /// How the model's thoughts go back to it.
    thoughts: Thoughts,
    /// What it takes beside text.
    media: Media,
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
static TOLD: Schemas = Schemas::new(Rule::Told(&subset::ALL), Rule::Told(&subset::ALL));

/// Any server that speaks this API: what most of them take.
pub(crate) static COMPATIBLE: Dialect = Dialect {
    max_tokens: "max_tokens",
    seed: Some("seed"),
    // Not OpenAI's, but of most servers that copy its API. One that has no such field says so, which is better than silence.
    top_k: true,
    required: "required",
    names_tools: true,
    asks_for_usage: true,
    schemas: &TOLD,
    schemas_of: None,
    thoughts: Thoughts::AsTheyCame,
    media: Media { images: true, audio: Audio::Described, files: Files::Held },
    ids: IdRule::Any,
};

/// OpenAI itself, and Azure. <https://platform.openai.com/docs/api-reference/chat/create>
#[cfg(any(feature = "openai", feature = "azure"))]
pub(crate) static OPENAI: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
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
    asks_for_usage: false,
    schemas: &Schemas::new(
        Rule::Told(&subset::OBJECT),
        Rule::Strict { enforced: &subset::MISTRAL, told: &subset::OBJECT },
    ),
    thoughts: Thoughts::Parts,
    media: Media { images: true, audio: Audio::Bare, files: Files::Addressed },
    ids: IdRule::NineAlphanumeric,
    ..COMPATIBLE
};

/// <https://api-docs.deepseek.com/api/create-chat-completion>
#[cfg(feature = "deepseek")]
pub(crate) static DEEPSEEK: Dialect = Dialect {
    seed: None,
    top_k: false,
    // `strict` tools are of another address, for trying out.
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Words),
    thoughts: Thoughts::ReasoningContent,
    media: Media { images: false, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

/// <https://console.groq.com/docs/api-reference#chat-create>
#[cfg(feature = "groq")]
pub(crate) static GROQ: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
    // JSON is refused beside tools and in a stream. <https://console.groq.com/docs/structured-outputs>
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Told(&subset::ALL)).whole_without_tools(),
    // Only these are held to a schema.
    schemas_of: Some((
        "gpt-oss",
        &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL })
            .whole_without_tools(),
    )),
    thoughts: Thoughts::Reasoning,
    media: Media { images: true, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

/// <https://docs.x.ai/docs/api-reference#chat-completions>
#[cfg(feature = "xai")]
pub(crate) static XAI: Dialect = Dialect {
    max_tokens: "max_completion_tokens",
    top_k: false,
    schemas: &Schemas::new(Rule::Told(&subset::XAI), Rule::Strict { enforced: &subset::XAI, told: &subset::ALL }),
    thoughts: Thoughts::ReasoningContent,
    media: Media { images: true, audio: Audio::No, files: Files::No },
    ..COMPATIBLE
};

/// <https://openrouter.ai/docs/api-reference/chat-completion>
#[cfg(feature = "openrouter")]
pub(crate) static OPENROUTER: Dialect = Dialect {
    // Whoever is behind it: tools are told, since what they enforce differs.
    schemas: &Schemas::new(Rule::Told(&subset::OBJECT), Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL }),
    thoughts: Thoughts::Details,
    media: Media { images: true, audio: Audio::Described, files: Files::Enclosed },
    ..COMPATIBLE
};

/// <https://github.com/ggml-org/llama.cpp/tree/master/tools/server>
#[cfg(feature = "llamacpp")]
pub(crate) static LLAMACPP: Dialect = Dialect {
    // A choice that is no word counts as `auto`.
    names_tools: false,
    schemas: &Schemas::new(Rule::Enforced(&subset::LLAMA), Rule::Enforced(&subset::LLAMA)),
    thoughts: Thoughts::ReasoningContent,
    media: Media { images: true, audio: Audio::Described, files: Files::No },
    ..COMPATIBLE
};

impl Wire for Dialect {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        match self.schemas_of {
            Some((word, schemas)) if model.contains(word) => schemas,
            _ => self.schemas,
        }
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(self, question)?;
        Ok(Post { path: vec!["chat".into(), "completions".into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Fold::new(name))
    }
}
