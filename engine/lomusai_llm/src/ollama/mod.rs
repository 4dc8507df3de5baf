//! Ollama's own API: `api/chat`.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Chat;

impl Wire for Chat {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(name, request, model, stream)?;
        Ok(Post { path: vec!["api".into(), "chat".into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
