//! Cohere's chat API, version 2.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Chat;

/// Tools are told only: `strict_tools` holds for all tools of a request at once, and refuses those without a required argument. `response_format` is refused beside tools.
/// <https://docs.cohere.com/docs/structured-outputs>
static SCHEMAS: Schemas = Schemas::new(Rule::Told(&subset::OBJECT), Rule::Enforced(&subset::COHERE)).without_tools();

impl Wire for Chat {
    fn schemas(&'static self, _model: &str) -> &'static Schemas {
        &SCHEMAS
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        Ok(Post { path: vec!["v2".into(), "chat".into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
