//! The wires without a network: what would be posted, and what recorded bytes mean. For tests and benchmarks.

use http::{HeaderMap, HeaderName, HeaderValue};
use lomusai_core::{Error, Result};
use lomusai_wire::ModelRequest;

pub use crate::http::decoder::Decoder;
use crate::kinds::Kind;
use crate::question::{Fitter, Question};

/// What decodes an answer of this kind of provider.
///
/// # Errors
/// `provider_unknown`.
pub fn decoder(kind: &str, bytes_max: usize) -> Result<Decoder> {
    let kind = Kind::named(kind)?;
    Ok(Decoder::new(kind.wire.fold(kind.name), bytes_max))
}

/// The body that this kind of provider would be sent.
///
/// # Errors
/// `provider_unknown`, and what the wire says of the request.
pub fn body(kind: &str, request: &ModelRequest, stream: bool) -> Result<Vec<u8>> {
    let kind = Kind::named(kind)?;
    let (model, fitter) = (request.model.as_str(), Fitter::default());
    let question = Question::new(kind.name, model, stream, request, kind.wire.schemas(model), &fitter);
    Ok(kind.wire.post(&question)?.body)
}

/// The error that an answer of this status is.
///
/// # Errors
/// `provider_unknown`.
pub fn error(kind: &str, status: u16, headers: &[(String, String)], body: &str) -> Result<Error> {
    let kind = Kind::named(kind)?;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            map.insert(name, value);
        }
    }
    Ok(crate::http::complaint::of_body(kind.name, status, &map, body))
}
