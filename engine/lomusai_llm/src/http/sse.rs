//! Server-sent events, decoded from bytes as they come. Any line ending, and pieces that end anywhere, within a character too.

use memchr::memchr2;

use crate::wire::Event;

/// Takes bytes and gives whole events.
pub(crate) struct SseDecoder {
    /// The line so far.
    line: Vec<u8>,
    /// The last byte was a CR, so that an LF next belongs to it.
    after_cr: bool,
    /// Bytes have come, so that a byte order mark is none any more.
    begun: bool,
    name: String,
    data: Vec<u8>,
    /// The event has a `data` line, were it an empty one.
    has_data: bool,
    /// Any line so far was one of the format's: a field or a comment.
    recognised: bool,
    bytes_max: usize,
}

/// An event grew over the bound.
#[derive(Debug, PartialEq)]
pub(crate) struct EventTooLarge;

impl SseDecoder {
    /// A decoder that holds at most about twice `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            after_cr: false,
            begun: false,
            name: String::new(),
            data: Vec::new(),
            has_data: false,
            recognised: false,
            bytes_max,
        }
    }

    /// Takes the next bytes, and gives each event that they complete to `each`.
    pub(crate) fn push<E: From<EventTooLarge>>(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr2(b'\n', b'\r', bytes);
            let (line, ended) = (&bytes[..end.unwrap_or(bytes.len())], end.map(|end| bytes[end]));
            bytes = bytes.get(line.len() + 1..).unwrap_or_default();
            if self.line.len() + line.len() > self.bytes_max {
                return Err(EventTooLarge.into());
            }
            // A line that came in one piece is read where it is.
            if let (Some(ended), true) = (ended, self.line.is_empty()) {
                self.after_cr = ended == b'\r';
                self.line_done(line, each)?;
                continue;
            }
            self.line.extend_from_slice(line);
            if let Some(ended) = ended {
                self.after_cr = ended == b'\r';
                self.kept_line_done(each)?;
            }
        }
        Ok(())
    }

    /// Ends the stream. An event without its empty line counts, since servers leave that out at the end.
    pub(crate) fn end<E: From<EventTooLarge>>(
        &mut self,
        each: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.line.is_empty() {
            self.kept_line_done(each)?;
        }
        self.dispatch(each)
    }

    /// Whether anything so far looked like server-sent events.
    pub(crate) fn recognised(&self) -> bool {
        self.recognised
    }

    /// The end of a line that came in pieces.
    fn kept_line_done<E: From<EventTooLarge>>(
        &mut self,
        each: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut line = std::mem::take(&mut self.line);
        let result = self.line_done(&line, each);
        // The buffer is kept: a stream has thousands of lines.
        line.clear();
        self.line = line;
        result
    }

    fn line_done<E: From<EventTooLarge>>(
        &mut self,
        line: &[u8],
        each: &mut dyn FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        match &line[start..] {
            [] => self.dispatch(each),
            text => self.field(text),
        }
    }

    fn field<E: From<EventTooLarge>>(&mut self, line: &[u8]) -> Result<(), E> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
                if self.data.len() > self.bytes_max {
                    return Err(EventTooLarge.into());
                }
            }
            b"event" => {
                self.name.clear();
                self.name.push_str(&String::from_utf8_lossy(value));
            }
            b"" | b"id" | b"retry" => {}
            _ => return Ok(()),
        }
        self.recognised = true;
        Ok(())
    }

    fn dispatch<E>(&mut self, each: &mut dyn FnMut(Event<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut name = std::mem::take(&mut self.name);
        if !std::mem::take(&mut self.has_data) {
            return Ok(());
        }
        let mut data = std::mem::take(&mut self.data);
        let result = match std::str::from_utf8(&data) {
            Ok(text) => each(Event { name: &name, data: text }),
            Err(_) => each(Event { name: &name, data: &String::from_utf8_lossy(&data) }),
        };
        // The buffers are kept: a stream has thousands of events.
        data.clear();
        self.data = data;
        name.clear();
        self.name = name;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, EventTooLarge> {
        let (mut decoder, mut events) = (SseDecoder::new(64), Vec::new());
        let mut each = |event: Event<'_>| {
            events.push((event.name.to_owned(), event.data.to_owned()));
            Ok(())
        };
        for piece in pieces {
            decoder.push(piece, &mut each)?;
        }
        decoder.end(&mut each)?;
        Ok(events)
    }

    #[test]
    fn every_cut_gives_the_same_events() {
        let text = "\u{feff}: hello\r\n\r\nevent: a\rdata: 한\rdata:\rdata:  x\r\rid: 1\n\ndata\n\nunknown: 1\ndata: 😀\r\ndata: [DONE]";
        let expected: Vec<(String, String)> = [("a", "한\n\n x"), ("", ""), ("", "😀\n[DONE]")]
            .map(|(name, data)| (name.to_owned(), data.to_owned()))
            .into();
        assert_eq!(decode(&[text.as_bytes()]).unwrap(), expected);
        for cut in 0..=text.len() {
            let (head, tail) = text.as_bytes().split_at(cut);
            assert_eq!(decode(&[head, tail]).unwrap(), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(decode(&[b"data: a\xFFb\n\n"]).unwrap()[0].1, "a\u{fffd}b");
    }

    #[test]
    fn an_event_has_a_bound_in_one_line_and_in_many() {
        assert_eq!(decode(&[&[b'x'; 65]]), Err(EventTooLarge));
        assert_eq!(decode(&[b"data: 0123456789012345\n".repeat(4).as_slice()]), Err(EventTooLarge));
        assert_eq!(decode(&[b"data: 0123456789012345\n\n".repeat(40).as_slice()]).unwrap().len(), 40);
    }
}
