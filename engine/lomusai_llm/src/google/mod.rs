//! Google's Gemini API: `generateContent`.

mod partial;
mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct GenerateContent;

impl Wire for GenerateContent {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(name, request, model)?;
        let method = if stream { "streamGenerateContent" } else { "generateContent" };
        // A tuned model has its own collection.
        let full = if model.contains('/') { model.to_owned() } else { format!("models/{model}") };
        let mut path = vec!["v1beta".to_owned()];
        path.extend(format!("{full}:{method}").split('/').map(str::to_owned));
        Ok(Post { path, query: if stream { &[("alt", "sse")] } else { &[] }, body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
