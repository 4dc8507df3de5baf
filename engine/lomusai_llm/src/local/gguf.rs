//! Looks through a GGUF file before llama.cpp does, which ends the process at some of what a damaged file can say. Also writes the
//! format, for models that come in another one.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use llama_cpp_sys_2 as sys;

/// A value of the file's metadata. Arrays of numbers are only counted: vocabularies hold hundreds of thousands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field {
    Integer(i128),
    Number(f64),
    Bool(bool),
    Text(String),
    /// An array of texts, with the total of its entries.
    Array {
        length: u64,
        texts: bool,
        /// The largest of its integers.
        largest: Option<i128>,
        smallest: Option<i128>,
    },
}

/// What a file says about itself.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) fields: BTreeMap<String, Field>,
    /// How many tensors there are.
    pub(super) tensors: u64,
}

/// Why a file is not what it should be.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    /// It could not be read.
    Unreadable(String),
    /// It is not a GGUF file at all.
    Foreign(String),
    /// It is one, and damaged.
    Damaged(String),
    /// It is sound, and of a kind that is not supported.
    Unsupported(String),
}

/// Longest text of the metadata, in bytes. Chat templates have some ten thousand.
const TEXT_BYTES_MAX: u64 = 16 << 20;
const FIELDS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 20;
const ARRAY_MAX: u64 = 1 << 26;

impl Header {
    /// Reads and checks the header of a file: that everything it announces is there, and fits together.
    pub(super) fn read(path: &Path) -> Result<Self, Flaw> {
        let file = File::open(path).map_err(|e| Flaw::Unreadable(e.to_string()))?;
        let length = file.metadata().map_err(|e| Flaw::Unreadable(e.to_string()))?.len();
        Self::of(BufReader::new(file), length)
    }

    fn of(file: impl Read + Seek, length: u64) -> Result<Self, Flaw> {
        let mut reader = Reader { file, left: length, length };
        let mut magic = [0; 4];
        if reader.bytes(&mut magic).is_err() || &magic != b"GGUF" {
            return Err(Flaw::Foreign("it does not begin with the letters GGUF".into()));
        }
        let version = reader.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(Flaw::Unsupported(format!("it is of version {version} of the format; 2 and 3 can be read")));
        }
        let (tensors, count) = (reader.u64()?, reader.u64()?);
        if count > FIELDS_MAX || tensors > TENSORS_MAX {
            return Err(Flaw::Damaged(format!("it announces {count} fields and {tensors} tensors")));
        }
        let mut fields = BTreeMap::new();
        for _ in 0..count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            if fields.insert(key.clone(), value).is_some() {
                return Err(Flaw::Damaged(format!("its field {key:?} is there twice")));
            }
        }
        let header = Self { fields, tensors };
        let alignment = header.integer("general.alignment").unwrap_or(32);
        if !(8..=65_536).contains(&alignment) || !alignment.is_power_of_two() {
            return Err(Flaw::Damaged(format!("its alignment is {alignment}")));
        }
        header.check_tensors(&mut reader, alignment)?;
        Ok(header)
    }

    fn check_tensors<F: Read + Seek>(&self, reader: &mut Reader<F>, alignment: u64) -> Result<(), Flaw> {
        let mut names = HashSet::new();
        let mut end = 0;
        for _ in 0..self.tensors {
            let name = reader.text()?;
            let wrong = |why: String| Flaw::Damaged(format!("its tensor {name:?} {why}"));
            let rank = reader.u32()?;
            if !(1..=4).contains(&rank) {
                return Err(wrong(format!("has {rank} dimensions")));
            }
            let mut values: u64 = 1;
            let mut first = 0;
            for dimension in 0..rank {
                let size = reader.u64()?;
                if dimension == 0 {
                    first = size;
                }
                // Within what a signed size of bytes can hold, four bytes each.
                values = values
                    .checked_mul(size)
                    .filter(|values| (1..1 << 60).contains(values))
                    .ok_or_else(|| wrong(format!("has a dimension of {size}")))?;
            }
            let kind = reader.u32()?;
            let offset = reader.u64()?;
            let (block, bytes) = block(kind);
            if block == 0 {
                return Err(Flaw::Unsupported(format!("its tensor {name:?} is of the unknown type {kind}")));
            }
            if !first.is_multiple_of(block) {
                return Err(wrong(format!("has rows of {first} values, which its type cannot hold")));
            }
            if !offset.is_multiple_of(alignment) {
                return Err(wrong(format!("begins at {offset}, which is not aligned to {alignment}")));
            }
            end = end.max(offset.checked_add(values / block * bytes).ok_or_else(|| wrong("ends nowhere".into()))?);
            if !names.insert(name.clone()) {
                return Err(wrong("is there twice".into()));
            }
        }
        let data = (reader.length - reader.left).next_multiple_of(alignment);
        let wanted = data.saturating_add(end);
        if wanted > reader.length {
            return Err(truncated(reader.length, wanted));
        }
        Ok(())
    }

    /// A text of the metadata.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        if let Some(Field::Text(text)) = self.fields.get(key) { Some(text) } else { None }
    }

    /// A whole number of the metadata; of an array its largest.
    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        match self.fields.get(key)? {
            Field::Integer(value) => u64::try_from(*value).ok(),
            Field::Array { largest, .. } => u64::try_from((*largest)?).ok(),
            _ => None,
        }
    }

    /// The name of the model's architecture.
    pub(super) fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// A number that every architecture has under its own name.
    pub(super) fn shape(&self, key: &str) -> Option<u64> {
        self.integer(&format!("{}.{key}", self.architecture()))
    }

    /// The chat template.
    pub(super) fn template(&self) -> Option<&str> {
        self.text("tokenizer.chat_template").filter(|template| !template.trim().is_empty())
    }

    /// Whether it makes vectors of texts, and no text.
    pub(super) fn embeds(&self) -> bool {
        self.fields.contains_key(&format!("{}.pooling_type", self.architecture()))
    }

    /// Checks what llama.cpp takes for granted: a model with layers, and a vocabulary that its ids are within.
    pub(super) fn check_model(&self) -> Result<(), Flaw> {
        let architecture = self.architecture();
        if architecture.is_empty() {
            return Err(Flaw::Unsupported("it does not say which architecture it is of (general.architecture)".into()));
        }
        if self.tensors == 0 {
            return Err(Flaw::Unsupported("it holds no tensors, only metadata".into()));
        }
        for (key, most) in [
            ("block_count", 1_024),
            ("embedding_length", 1 << 20),
            ("attention.head_count", 1 << 16),
            ("context_length", 1 << 31),
        ] {
            let value = self.shape(key);
            // Some architectures have no attention, and so no heads.
            if key == "attention.head_count" && value.is_none() {
                continue;
            }
            if !value.is_some_and(|value| (1..=most).contains(&value)) {
                let found = value.map_or("missing".to_owned(), |value| value.to_string());
                return Err(Flaw::Damaged(format!("its {architecture}.{key} is {found}")));
            }
        }
        if self.text("tokenizer.ggml.model").is_none() {
            return Err(Flaw::Unsupported("it has no tokenizer (tokenizer.ggml.model)".into()));
        }
        let Some(Field::Array { length: tokens @ 1.., texts: true, .. }) = self.fields.get("tokenizer.ggml.tokens")
        else {
            return Err(Flaw::Damaged("its vocabulary (tokenizer.ggml.tokens) is missing or empty".into()));
        };
        for (key, value) in &self.fields {
            let Some(name) = key.strip_prefix("tokenizer.ggml.") else { continue };
            let outside = match value {
                Field::Integer(id) if name.ends_with("_token_id") => *id < 0 || *id >= i128::from(*tokens),
                Field::Array { length, .. } if matches!(name, "scores" | "token_type") => length != tokens,
                Field::Array { smallest, largest, .. } if name.ends_with("_token_ids") => {
                    smallest.is_some_and(|id| id < 0) || largest.is_some_and(|id| id >= i128::from(*tokens))
                }
                _ => false,
            };
            if outside {
                return Err(Flaw::Damaged(format!("its {key} does not fit its vocabulary of {tokens} tokens")));
            }
        }
        Ok(())
    }
}

/// Values per block and bytes per block of a tensor type; zero where there is no such type (any more).
fn block(kind: u32) -> (u64, u64) {
    if kind >= sys::GGML_TYPE_COUNT {
        return (0, 0);
    }
    // SAFETY: they look the type up in a table, and it is one of those there.
    unsafe { (sys::ggml_blck_size(kind) as u64, sys::ggml_type_size(kind) as u64) }
}

fn truncated(length: u64, wanted: u64) -> Flaw {
    Flaw::Damaged(format!("it ends too early: it has {length} bytes and announces at least {wanted}"))
}

struct Reader<F> {
    file: F,
    left: u64,
    length: u64,
}

impl<F: Read + Seek> Reader<F> {
    fn take(&mut self, bytes: u64) -> Result<(), Flaw> {
        let end = (self.length - self.left).saturating_add(bytes);
        self.left = self.left.checked_sub(bytes).ok_or_else(|| truncated(self.length, end))?;
        Ok(())
    }

    fn bytes(&mut self, into: &mut [u8]) -> Result<(), Flaw> {
        self.take(into.len() as u64)?;
        self.file.read_exact(into).map_err(|e| Flaw::Unreadable(e.to_string()))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        self.bytes(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, Flaw> {
        let length = self.u64()?;
        if length > TEXT_BYTES_MAX {
            return Err(Flaw::Damaged(format!("it has a text of {length} bytes among its metadata")));
        }
        let mut bytes = vec![0; usize::try_from(length.min(self.left)).unwrap_or(0)];
        if (bytes.len() as u64) < length {
            return Err(truncated(self.length, self.length - self.left + length));
        }
        self.bytes(&mut bytes)?;
        // A vocabulary may hold halves of characters.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Field, Flaw> {
        Ok(match kind {
            0 => Field::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Field::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Field::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Field::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Field::Integer(self.u32()?.into()),
            5 => Field::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Field::Number(f32::from_le_bytes(self.array()?).into()),
            7 => Field::Bool(self.array::<1>()?[0] != 0),
            8 => Field::Text(self.text()?),
            9 => self.array_value()?,
            10 => Field::Integer(self.u64()?.into()),
            11 => Field::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Field::Number(f64::from_le_bytes(self.array()?)),
            other => return Err(Flaw::Damaged(format!("it has a field of the unknown type {other}"))),
        })
    }

    fn array_value(&mut self) -> Result<Field, Flaw> {
        let kind = self.u32()?;
        let length = self.u64()?;
        if length > ARRAY_MAX || kind == 9 {
            return Err(Flaw::Damaged(format!("it has an array of {length} entries of type {kind}")));
        }
        let (mut largest, mut smallest) = (None, None);
        match kind {
            8 => {
                for _ in 0..length {
                    let bytes = self.u64()?;
                    self.take(bytes)?;
                    let skip = i64::try_from(bytes).map_err(|_| truncated(self.length, u64::MAX))?;
                    self.file.seek_relative(skip).map_err(|e| Flaw::Unreadable(e.to_string()))?;
                }
            }
            6 | 7 | 12 => {
                let bytes = length * [4, 1, 8][usize::from(kind == 7) + 2 * usize::from(kind == 12)];
                self.take(bytes)?;
                self.file.seek_relative(bytes as i64).map_err(|e| Flaw::Unreadable(e.to_string()))?;
            }
            _ => {
                for _ in 0..length {
                    if let Field::Integer(value) = self.value(kind)? {
                        largest = largest.max(Some(value));
                        smallest = Some(smallest.map_or(value, |least: i128| least.min(value)));
                    }
                }
            }
        }
        Ok(Field::Array { length, texts: kind == 8, largest, smallest })
    }
}

/// Writes a GGUF file: its fields first, then its tensors.
pub(super) struct Writer {
    fields: Vec<u8>,
    count: u64,
    tensors: Vec<Tensor>,
}

/// A tensor to write.
pub(super) struct Tensor {
    pub(super) name: String,
    /// The innermost dimension first.
    pub(super) shape: Vec<u64>,
    /// 0 is f32.
    pub(super) kind: u32,
    pub(super) bytes: u64,
}

const ALIGNMENT: u64 = 32;

impl Writer {
    pub(super) fn new(architecture: &str) -> Self {
        let mut writer = Self { fields: Vec::new(), count: 0, tensors: Vec::new() };
        writer.text("general.architecture", architecture);
        writer
    }

    fn key(&mut self, key: &str, kind: u32) {
        put_text(&mut self.fields, key.as_bytes());
        self.fields.extend(kind.to_le_bytes());
        self.count += 1;
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        put_text(&mut self.fields, value.as_bytes());
    }

    pub(super) fn u32(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.fields.extend(value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.fields.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.fields.push(u8::from(value));
    }

    pub(super) fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        self.key(key, 9);
        self.fields.extend(8u32.to_le_bytes());
        self.fields.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put_text(&mut self.fields, value.as_bytes());
        }
    }

    pub(super) fn i32s(&mut self, key: &str, values: &[i32]) {
        self.key(key, 9);
        self.fields.extend(5u32.to_le_bytes());
        self.fields.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| self.fields.extend(value.to_le_bytes()));
    }

    /// Announces a tensor; its values follow in the same order.
    pub(super) fn tensor(&mut self, tensor: Tensor) {
        self.tensors.push(tensor);
    }

    /// Writes everything. `values` gives the bytes of the tensor of this number.
    pub(super) fn write(
        self,
        mut into: impl Write,
        mut values: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend(self.count.to_le_bytes());
        head.extend(self.fields);
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_text(&mut head, tensor.name.as_bytes());
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|size| head.extend(size.to_le_bytes()));
            head.extend(tensor.kind.to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes).next_multiple_of(ALIGNMENT);
        }
        head.resize((head.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        into.write_all(&head)?;
        for (number, tensor) in self.tensors.iter().enumerate() {
            values(number, &mut into)?;
            let padding = tensor.bytes.next_multiple_of(ALIGNMENT) - tensor.bytes;
            into.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        into.flush()
    }
}

fn put_text(into: &mut Vec<u8>, text: &[u8]) {
    into.extend((text.len() as u64).to_le_bytes());
    into.extend(text);
}

/// A file for tests: the smallest that passes every check, but for what `change` does to it.
#[cfg(test)]
pub(super) fn sample(change: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new("llama");
    writer.u32("llama.block_count", 1);
    writer.u32("llama.embedding_length", 32);
    writer.u32("llama.attention.head_count", 1);
    writer.u32("llama.context_length", 64);
    writer.text("tokenizer.ggml.model", "gpt2");
    writer.texts("tokenizer.ggml.tokens", ["a", "b"].into_iter());
    change(&mut writer);
    writer.tensor(Tensor { name: "token_embd.weight".into(), shape: vec![32, 2], kind: 0, bytes: 256 });
    let mut bytes = Vec::new();
    writer.write(&mut bytes, |_, into| into.write_all(&[0; 256])).expect("a vector takes everything");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn look(bytes: &[u8]) -> Result<Header, Flaw> {
        let header = Header::of(Cursor::new(bytes), bytes.len() as u64)?;
        header.check_model()?;
        Ok(header)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let header = look(&sample(|writer| writer.text("tokenizer.chat_template", "{{ messages }}"))).unwrap();
        assert_eq!((header.architecture(), header.shape("context_length"), header.tensors), ("llama", Some(64), 1));
        assert_eq!(header.template(), Some("{{ messages }}"));
        assert!(!header.embeds());
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error() {
        let whole = sample(|_| {});
        for length in 0..whole.len() {
            let flaw = look(&whole[..length]).expect_err("something is missing");
            assert!(matches!(flaw, Flaw::Damaged(_) | Flaw::Foreign(_)), "{length}: {flaw:?}");
        }
    }

    #[test]
    fn a_changed_byte_never_reads_out_of_bounds() {
        let whole = sample(|_| {});
        for place in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[place] = value;
                // Either it is noticed, or what was changed is a name or a value: never a panic.
                let _ = look(&changed);
            }
        }
    }

    #[test]
    fn what_llama_cpp_takes_for_granted_is_checked() {
        for (change, named) in [
            (
                Box::new(|w: &mut Writer| w.u32("tokenizer.ggml.bos_token_id", 2)) as Box<dyn FnOnce(&mut Writer)>,
                "bos_token_id",
            ),
            (Box::new(|w| w.i32s("tokenizer.ggml.token_type", &[1])), "token_type"),
            (Box::new(|w| w.u32("general.alignment", 3)), "alignment"),
            (Box::new(|w| w.u32("llama.block_count", 1)), "block_count"),
        ] {
            match look(&sample(change)) {
                Err(Flaw::Damaged(why)) => assert!(why.contains(named), "{why}"),
                other => panic!("{named}: {other:?}"),
            }
        }
        let missing = Writer::new("llama");
        let mut bytes = Vec::new();
        missing.write(&mut bytes, |_, _| Ok(())).unwrap();
        assert!(matches!(look(&bytes), Err(Flaw::Unsupported(why)) if why.contains("no tensors")));
        assert!(matches!(look(b"PK\x03\x04 a zip file"), Err(Flaw::Foreign(_))));
    }
}
