//! OpenAI's Chat Completions, and what speaks it: hosted models, gateways, llama.cpp, vLLM and their like. Each provider's dialect is a
//! value that says what is different. A server that answers with one JSON body where a stream was asked for is understood as well.

mod request;
mod response;

use lomusai_core::Result;
use lomusai_wire::ModelRequest;

use crate::wire::{Fold, Post, Wire};

/// What one provider does otherwise than OpenAI.
#[derive(Debug)]
pub(crate) struct Dialect {}

/// Any server that speaks this API.
pub(crate) static COMPATIBLE: Dialect = Dialect {};

impl Wire for Dialect {
    fn post(&self, name: &'static str, request: &ModelRequest, model: &str, stream: bool) -> Result<Post> {
        let body = request::body(name, request, model, stream)?;
        Ok(Post { path: vec!["chat".into(), "completions".into()], query: &[], body })
    }

    fn fold(&self, name: &'static str) -> Box<dyn Fold> {
        Box::new(response::Fold::new(name))
    }
}
