//! Amazon Bedrock's Converse API.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::wire::{Fold, Post, Wire};

/// The wire.
#[derive(Debug)]
pub(crate) struct Converse;

impl Wire for Converse {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(name, request)?;
        let method = if stream { "converse-stream" } else { "converse" };
        Ok(Post { path: vec!["model".into(), model.into(), method.into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Answer::new(name))
    }
}
