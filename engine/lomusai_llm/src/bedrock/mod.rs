//! Amazon Bedrock's Converse API.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Converse;

/// Answers are held to what Anthropic's models take, too.
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html>
static SCHEMAS: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Enforced(&subset::ANTHROPIC));

/// Names of those that hold an answer to a schema. Of Claude's, newer ones refuse to be asked.
/// <https://github.com/vercel/ai/issues/17919>
const HOLDS: [&str; 15] = [
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "qwen3",
    "magistral",
    "ministral-3",
    "mistral-large-3",
    "voxtral",
    "gemma-3",
    "minimax-m2",
    "nemotron",
    "moonshot",
    "kimi",
    "zai",
    "glm",
];

static TOLD: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Words);

/// Amazon's own models take less, and hold no answer to a schema.
static OWN: Schemas = Schemas::new(Rule::Told(&subset::BEDROCK), Rule::Words);

impl Wire for Converse {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        match model {
            _ if model.contains("amazon.") => &OWN,
            _ if HOLDS.iter().any(|name| model.contains(name)) => &SCHEMAS,
            _ => &TOLD,
        }
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        let method = if question.stream { "converse-stream" } else { "converse" };
        Ok(Post { path: vec!["model".into(), question.model.into(), method.into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
