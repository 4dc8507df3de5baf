//! Anthropic's Messages API.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::claude;
use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Messages;

/// Tools are told only: each enforced one makes a grammar, and a request with too many of them is refused, at a size that is not documented.
/// <https://docs.claude.com/en/docs/build-with-claude/structured-outputs>
static SCHEMAS: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Enforced(&subset::ANTHROPIC));

static OLD: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Words);

impl Wire for Messages {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        if claude::is_old(model) { &OLD } else { &SCHEMAS }
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        let headers: &[_] =
            if claude::binds_thoughts(question.model) { &[("anthropic-beta", claude::BINDING_BETA)] } else { &[] };
        Ok(Post { path: vec!["v1".into(), "messages".into()], query: &[], headers, body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
