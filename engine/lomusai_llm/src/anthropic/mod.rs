//! Anthropic's Messages API.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Messages;

impl Wire for Messages {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(name, request, model, stream)?;
        Ok(Post { path: vec!["v1".into(), "messages".into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
