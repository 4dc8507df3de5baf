//! Ollama's own API: `api/chat`.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Chat;

/// A model that is held to a schema from its first word on can call no tool.
/// <https://github.com/ollama/ollama/issues/11185>
static SCHEMAS: Schemas = Schemas::new(Rule::Told(&subset::OLLAMA), Rule::Enforced(&subset::LLAMA)).without_tools();

impl Wire for Chat {
    fn schemas(&'static self, _model: &str) -> &'static Schemas {
        &SCHEMAS
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        Ok(Post { path: vec!["api".into(), "chat".into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
