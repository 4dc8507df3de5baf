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
            let name = [":event-type", ":exception-type"].iter().find_map(|name| header(name));
            let data = match header(":error-code") {
                // An error has no payload: its headers say all.
                Some(code) if name.is_none() => {
                    let why = header(":error-message").unwrap_or_default();
                    serde_json::json!({"message": format!("{code}: {why}")}).to_string().into()
                }
                _ => String::from_utf8_lossy(message.payload()),
            };
            each(Event { name: name.as_deref().unwrap_or("error"), data: &data })?;
        }
        if self.buffer.len() > self.bytes_max {
            let message = format!("the provider sent an event of more than max_event_bytes = {}", self.bytes_max);
            return Err(Error::new(codes::PROVIDER_RESPONSE_INVALID, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32 (IEEE), bit by bit: the check sum of AWS's frames, computed here once more.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    /// A message as AWS describes it: lengths, their check sum, headers, payload, the check sum of all.
    /// <https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html>
    fn frame(headers: &[(&str, &str)], payload: &str) -> Vec<u8> {
        let mut head = Vec::new();
        for (name, value) in headers {
            head.push(name.len() as u8);
            head.extend_from_slice(name.as_bytes());
            // A text.
            head.push(7);
            head.extend_from_slice(&(value.len() as u16).to_be_bytes());
            head.extend_from_slice(value.as_bytes());
        }
        let mut bytes = ((16 + head.len() + payload.len()) as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&crc(&bytes).to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload.as_bytes());
        bytes.extend_from_slice(&crc(&bytes).to_be_bytes());
        bytes
    }

    fn decode(pieces: &[&[u8]], bytes_max: usize) -> Result<Vec<(String, String)>> {
        let (mut frames, mut events) = (Frames::new(bytes_max), Vec::new());
        for piece in pieces {
            frames.push(piece, &mut |event| {
                events.push((event.name.to_owned(), event.data.to_owned()));
                Ok(())
            })?;
        }
        Ok(events)
    }

    #[test]
    fn frames_built_by_hand_are_read_whatever_the_cut() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        let event = [(":event-type", "contentBlockDelta"), (":message-type", "event")];
        let exception = [(":exception-type", "throttlingException"), (":message-type", "exception")];
        let mut bytes = frame(&event, r#"{"delta":{"text":"한"}}"#);
        bytes.extend(frame(&exception, r#"{"message":"slow down"}"#));
        let error = [(":error-code", "internal"), (":error-message", "oh no"), (":message-type", "error")];
        bytes.extend(frame(&error, ""));
        let expected = [
            ("contentBlockDelta".to_owned(), r#"{"delta":{"text":"한"}}"#.to_owned()),
            ("throttlingException".to_owned(), r#"{"message":"slow down"}"#.to_owned()),
            ("error".to_owned(), r#"{"message":"internal: oh no"}"#.to_owned()),
        ];
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(decode(&[head, tail], 1 << 16).unwrap(), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&single, 1 << 16).unwrap(), expected);
    }

    #[test]
    fn a_damaged_or_endless_frame_is_an_error() {
        let whole = frame(&[(":event-type", "x")], r#"{"a":1}"#);
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            match decode(&[&bytes], 1 << 16) {
                Err(error) => assert_eq!(error.code(), "provider_response_invalid", "{place}"),
                // A length that is longer now: the rest has not come.
                Ok(events) => assert!(events.is_empty() && place < 4, "{place}: {events:?}"),
            }
        }
        let long = frame(&[], &"x".repeat(100));
        assert!(decode(&[&long[..90]], 64).unwrap_err().to_string().contains("max_event_bytes = 64"));
    }
}
