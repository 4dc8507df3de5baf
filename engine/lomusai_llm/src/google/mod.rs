//! Google's Gemini API: `generateContent`.

mod partial;
mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct GenerateContent;

static SCHEMAS: Schemas =
    Schemas::new(Rule::Told(&subset::GEMINI_JSON), Rule::Enforced(&subset::GEMINI_JSON)).unforced();

/// Of models before Gemini 3, which refuse tools and JSON in one request.
/// <https://ai.google.dev/gemini-api/docs/structured-output>
static OLD: Schemas =
    Schemas::new(Rule::Told(&subset::GEMINI_JSON), Rule::Enforced(&subset::GEMINI_JSON)).without_tools();

/// Whether a model is of those before Gemini 3.
fn is_old(model: &str) -> bool {
    ["gemini-1", "gemini-2"].iter().any(|old| model.contains(old))
}

impl Wire for GenerateContent {
    fn schemas(&'static self, model: &str) -> &'static Schemas {
        if is_old(model) { &OLD } else { &SCHEMAS }
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question)?;
        let (model, stream) = (question.model, question.stream);
        let method = if stream { "streamGenerateContent" } else { "generateContent" };
        // A tuned model has its own collection.
        let full = if model.contains('/') { model.to_owned() } else { format!("models/{model}") };
        let mut path = vec!["v1beta".to_owned()];
        path.extend(format!("{full}:{method}").split('/').map(str::to_owned));
        Ok(Post { path, query: if stream { &[("alt", "sse")] } else { &[] }, headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
