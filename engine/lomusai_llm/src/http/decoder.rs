//! An answer, from bytes into chunks. Pure: it is fed with pieces that may end anywhere, and the pieces never change the result.

use std::collections::VecDeque;

use lomusai_core::{Error, Result};
use lomusai_wire::{ModelChunk, codes};

use super::failure::nonsense;
use super::objects::{ObjectTooLarge, Objects};
use super::sse::{EventTooLarge, SseDecoder};
use crate::wire::{Event, Fold};

/// How much of an answer is kept to be shown.
const HEAD_BYTES: usize = 256;

/// Decodes one answer, be it a stream or one JSON body.
pub struct Decoder {
    framing: Framing,
    fold: Box<dyn Fold>,
    /// The beginning of the answer, to show where it makes no sense.
    head: Vec<u8>,
    bytes_max: usize,
}

/// What the first byte tells. The content type is not asked: proxies and small servers get it wrong.
enum Framing {
    Unknown,
    Events(SseDecoder),
    Objects(Objects),
    #[cfg(feature = "bedrock")]
    Frames(super::frames::Frames),
    Body(Vec<u8>),
}

impl Decoder {
    /// A decoder of events, or of a body, of at most `bytes_max` bytes.
    pub(crate) fn new(fold: Box<dyn Fold>, bytes_max: usize) -> Self {
        Self { framing: Framing::Unknown, fold, head: Vec::new(), bytes_max }
    }

    /// Takes the next bytes and adds what they say to `chunks`.
    ///
    /// # Errors
    /// What the server complains of, or `provider_response_invalid`.
    pub fn push(&mut self, mut bytes: &[u8], chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        if let Framing::Unknown = self.framing {
            // White space and a byte order mark say nothing.
            let blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xEF\xBB\xBF".contains(byte);
            bytes = &bytes[bytes.iter().take_while(|byte| blank(byte)).count()..];
            self.framing = match bytes.first() {
                None => return Ok(()),
                Some(b'{' | b'[') if self.fold.is_of_objects() => Framing::Objects(Objects::new(self.bytes_max)),
                Some(b'{' | b'[') => Framing::Body(Vec::new()),
                // The length of a message, which is never so long that its first byte counts.
                #[cfg(feature = "bedrock")]
                Some(0) => Framing::Frames(super::frames::Frames::new(self.bytes_max)),
                Some(_) => Framing::Events(SseDecoder::new(self.bytes_max)),
            };
        }
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES - self.head.len())]);
        let fold = &mut self.fold;
        let result = match &mut self.framing {
            Framing::Body(body) => {
                body.extend_from_slice(bytes);
                if body.len() > self.bytes_max { Err(Stop::TooLarge) } else { Ok(()) }
            }
            Framing::Events(events) => events.push(bytes, &mut |event| fold.event(event, chunks).map_err(Stop::Failed)),
            Framing::Objects(objects) => {
                objects.push(bytes, &mut |data| fold.event(Event { name: "", data }, chunks).map_err(Stop::Failed))
            }
            #[cfg(feature = "bedrock")]
            Framing::Frames(frames) => frames.push(bytes, &mut |event| fold.event(event, chunks)).map_err(Stop::Failed),
            Framing::Unknown => Ok(()),
        };
        result.map_err(|stop| self.error(stop))
    }

    /// Ends the answer: adds its end to `chunks`.
    ///
    /// # Errors
    /// `stream_truncated` where the answer is not complete; else as [`push`](Self::push).
    pub fn end(&mut self, chunks: &mut VecDeque<ModelChunk>) -> Result<()> {
        match &mut self.framing {
            Framing::Unknown => {}
            #[cfg(feature = "bedrock")]
            Framing::Frames(_) => {}
            Framing::Body(body) => self.fold.body(body, chunks)?,
            Framing::Objects(objects) => objects.end()?,
            Framing::Events(events) => {
                let fold = &mut self.fold;
                // An event that the end cut off is no JSON. That is a cut, not nonsense.
                let result = events.end(&mut |event| match fold.event(event, chunks) {
                    Err(error) if error.is(codes::PROVIDER_RESPONSE_INVALID) => {
                        Err(Stop::Failed(lomusai_core::llm::truncated()))
                    }
                    result => result.map_err(Stop::Failed),
                });
                let recognised = events.recognised();
                result.map_err(|stop| self.error(stop))?;
                // The end may have cut off even the first word.
                let cut = ["data", "event", "id", "retry"].iter().any(|field| field.as_bytes().starts_with(&self.head));
                if !recognised && !cut {
                    return Err(nonsense("neither JSON nor server-sent events", &String::from_utf8_lossy(&self.head)));
                }
            }
        }
        self.fold.end(chunks)
    }

    /// Whether the model has said why it stopped: only its usage may still come.
    pub fn has_finish(&self) -> bool {
        self.fold.has_finish()
    }

    /// Whether the answer has ended, so that nothing more is to be read.
    pub fn is_done(&self) -> bool {
        self.fold.is_done()
    }

    fn error(&self, stop: Stop) -> Error {
        match stop {
            Stop::Failed(error) => error,
            Stop::TooLarge => {
                let message = format!("the provider sent an event of more than max_event_bytes = {}", self.bytes_max);
                Error::new(codes::PROVIDER_RESPONSE_INVALID, message)
            }
        }
    }
}

/// Why the decoding of events stopped.
enum Stop {
    Failed(Error),
    TooLarge,
}

impl From<EventTooLarge> for Stop {
    fn from(_: EventTooLarge) -> Self {
        Self::TooLarge
    }
}

impl From<ObjectTooLarge> for Stop {
    fn from(_: ObjectTooLarge) -> Self {
        Self::TooLarge
    }
}
