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
static SCHEMAS: Schemas = Schemas { tools: Rule::Told(&subset::OBJECT), output: Rule::Enforced(&subset::ANTHROPIC) };

/// Amazon's own models take less.
static OWN: Schemas = Schemas { tools: Rule::Told(&subset::BEDROCK), output: Rule::Enforced(&subset::ANTHROPIC) };

impl Wire for Converse {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        if model.contains("amazon.") { &OWN } else { &SCHEMAS }
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        let method = if question.stream { "converse-stream" } else { "converse" };
        Ok(Post { path: vec!["model".into(), question.model.into(), method.into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
