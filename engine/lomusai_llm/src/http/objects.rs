//! JSON objects that follow one another: in lines, over many lines, or as the items of one list. Pieces may end anywhere.

use lomusai_core::Result;
use lomusai_core::llm::truncated;

/// Takes bytes and gives whole objects.
pub(crate) struct Objects {
    object: Vec<u8>,
    /// How many brackets of the object are open.
    depth: usize,
    in_text: bool,
    after_backslash: bool,
    bytes_max: usize,
}

/// An object grew over the bound.
#[derive(Debug, PartialEq)]
pub(crate) struct ObjectTooLarge;

impl Objects {
    /// A decoder that holds at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { object: Vec::new(), depth: 0, in_text: false, after_backslash: false, bytes_max }
    }

    /// Takes the next bytes, and gives each object that they complete to `each`.
    pub(crate) fn push<E: From<ObjectTooLarge>>(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&str) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut start = 0;
        for (place, byte) in bytes.iter().enumerate() {
            if self.depth == 0 {
                // Between objects: line ends, and the brackets and commas of a list around them.
                start = place;
                if *byte == b'{' {
                    self.depth = 1;
                }
                continue;
            }
            if self.in_text {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                self.grow(&bytes[start..=place])?;
                let result = each(&String::from_utf8_lossy(&self.object));
                self.object.clear();
                result?;
            }
        }
        if self.depth > 0 { Ok(self.grow(&bytes[start..])?) } else { Ok(()) }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// `stream_truncated` within an object.
    pub(crate) fn end(&self) -> Result<()> {
        if self.depth > 0 { Err(truncated()) } else { Ok(()) }
    }

    fn grow(&mut self, bytes: &[u8]) -> std::result::Result<(), ObjectTooLarge> {
        if self.object.len() + bytes.len() > self.bytes_max {
            return Err(ObjectTooLarge);
        }
        self.object.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> std::result::Result<Vec<String>, ObjectTooLarge> {
        let (mut decoder, mut objects) = (Objects::new(40), Vec::new());
        for piece in pieces {
            decoder.push(piece, &mut |object| {
                objects.push(object.to_owned());
                Ok::<(), ObjectTooLarge>(())
            })?;
        }
        Ok(objects)
    }

    #[test]
    fn every_cut_gives_the_same_objects() {
        let text = "[{\"a\": \"}\\\"{한\"},\n{\"b\": [\n{}, {}]\n}\r\n]\n{} {\"c\": 1}";
        let expected = ["{\"a\": \"}\\\"{한\"}", "{\"b\": [\n{}, {}]\n}", "{}", "{\"c\": 1}"];
        assert_eq!(decode(&[text.as_bytes()]).unwrap(), expected);
        for cut in 0..=text.len() {
            let (head, tail) = text.as_bytes().split_at(cut);
            assert_eq!(decode(&[head, tail]).unwrap(), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn an_object_has_a_bound_and_an_end() {
        let endless = [b'{'; 64];
        assert_eq!(decode(&[&endless]), Err(ObjectTooLarge));
        let single: Vec<&[u8]> = endless.chunks(1).collect();
        assert_eq!(decode(&single), Err(ObjectTooLarge));
        let mut cut = Objects::new(40);
        cut.push(b"{\"a\":", &mut |_| Ok::<(), ObjectTooLarge>(())).unwrap();
        assert!(cut.end().is_err());
    }
}
