//! Bytes into a whole answer, in pieces of the caller's choice.

use std::collections::VecDeque;

use lomusai_core::Result;
use lomusai_core::llm::{Answer, MessageBuilder};
use lomusai_llm::replay::decoder;
use lomusai_wire::ModelChunk;

/// What the pieces say, chunk by chunk.
pub(crate) fn chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ModelChunk>> {
    let (mut decoder, mut chunks) = (decoder("compatible", 16 << 20)?, VecDeque::new());
    for piece in pieces {
        decoder.push(piece, &mut chunks)?;
    }
    decoder.end(&mut chunks)?;
    Ok(chunks.into())
}

/// What the pieces say, as a message.
pub(crate) fn answer<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Answer> {
    let mut builder = MessageBuilder::new("m0".into(), 0, u64::MAX);
    for chunk in chunks(pieces)? {
        builder.push(chunk, &mut |_| {})?;
    }
    Ok(builder.finish())
}
