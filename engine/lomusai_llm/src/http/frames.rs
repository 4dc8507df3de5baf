//! AWS event streams, decoded as they come by AWS's own decoder: binary messages with headers that name the event, and check sums.

use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use bytes::BytesMut;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;

use super::failure::nonsense;
use crate::wire::Event;

/// Takes bytes and gives whole events.
pub(crate) struct Frames {
    decoder: MessageFrameDecoder,
    buffer: BytesMut,
    bytes_max: usize,
}

impl Frames {
    /// A decoder that holds at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { decoder: MessageFrameDecoder::new(), buffer: BytesMut::new(), bytes_max }
    }

    /// Takes the next bytes, and gives each event that they complete to `each`. An exception is an event of its own name.
    pub(crate) fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        loop {
            let frame = self.decoder.decode_frame(&mut self.buffer);
            let frame = frame.map_err(|error| nonsense(&format!("not an event stream: {error}"), ""))?;
            let DecodedFrame::Complete(message) = frame else { break };
            let header = |name: &str| {
                let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
                Some(found.value().as_string().ok()?.as_str().to_owned())
            };
            let name = [":event-type", ":exception-type", ":error-code"].iter().find_map(|name| header(name));
            let data = String::from_utf8_lossy(message.payload());
            each(Event { name: name.as_deref().unwrap_or("error"), data: &data })?;
        }
        if self.buffer.len() > self.bytes_max {
            let message = format!("the provider sent an event of more than max_event_bytes = {}", self.bytes_max);
            return Err(Error::new(codes::PROVIDER_RESPONSE_INVALID, message));
        }
        Ok(())
    }
}
