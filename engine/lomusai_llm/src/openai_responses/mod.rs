//! OpenAI's Responses API, and what speaks it: Azure, xAI.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_core::schema::subset;

use crate::question::{Question, Rule, Schemas};
use crate::wire::{Fold, Post, Wire};

/// The wire, as one provider takes it.
#[derive(Debug)]
pub(crate) struct Responses {
    schemas: Schemas,
    /// Whether results of tools are texts: images and files that came with them are shown by a user's message behind them.
    text_results: bool,
}

/// OpenAI itself, and Azure. <https://platform.openai.com/docs/api-reference/responses/create>
#[cfg(any(feature = "openai", feature = "azure"))]
pub(crate) static OPENAI: Responses = Responses {
    schemas: Schemas::new(
        Rule::Strict { enforced: &subset::OPENAI, told: &subset::OBJECT },
        Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL },
    ),
    text_results: false,
};

/// xAI, which enforces what it is given, asked or not. <https://docs.x.ai/docs/api-reference#create-new-response>
#[cfg(feature = "xai")]
pub(crate) static XAI: Responses = Responses {
    schemas: Schemas::new(Rule::Told(&subset::XAI), Rule::Strict { enforced: &subset::XAI, told: &subset::ALL }),
    text_results: true,
};

impl Wire for Responses {
    fn schemas(&'static self, _model: &str) -> &'static Schemas {
        &self.schemas
    }

    fn post(&self, question: &Question<'_>) -> Result<Post> {
        let body = request::body(question, self.text_results)?;
        Ok(Post { path: vec!["responses".into()], query: &[], headers: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
