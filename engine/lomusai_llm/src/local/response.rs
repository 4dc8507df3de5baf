//! A model's tokens into chunks: text, reasoning, calls. Knows nothing of llama.cpp.

use lomusai_wire::ModelChunk;

use super::grammar::{ARGUMENTS_BEGIN, CALL_BEGINS};

const REASONING_BEGINS: &str = "<think>";
const REASONING_ENDS: &str = "</think>";

/// What the answer begins with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Start {
    /// Free text.
    Text,
    /// Reasoning that the prompt has begun.
    Reasoning,
    /// The name of a tool: the prompt has begun the call.
    Name,
    /// The arguments of this tool.
    Arguments(String),
    /// JSON that a grammar holds to its schema.
    Value,
    /// Either a call or such JSON.
    CallOrValue,
}

/// What a token meant for what comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Go,
    /// A call began. The bytes are those of the token up to where it did.
    CallBegan(Vec<u8>),
    /// A call ended.
    CallEnded,
    /// The answer is complete.
    Complete,
}

#[derive(Debug)]
enum Mode {
    Text,
    Reasoning,
    Name,
    Arguments(Nesting),
    /// The bracket that closes a call after its arguments.
    Closing,
    Value(Nesting),
    CallOrValue,
    /// Between calls: another may follow, but nothing else.
    After,
}

/// Folds tokens into chunks.
pub(super) struct Decoder {
    mode: Mode,
    /// Bytes that are no whole character yet.
    bytes: Vec<u8>,
    /// Text that is not said yet: it may be the beginning of something else.
    held: String,
    stops: Vec<String>,
    /// Whether calls may begin within the text.
    calls: bool,
    /// Calls so far.
    count: u32,
    /// Whether any text was said. White space before it is not.
    spoke: bool,
}

impl Decoder {
    pub(super) fn new(start: Start, stops: Vec<String>, calls: bool, ready: &mut Vec<ModelChunk>) -> Self {
        let mut decoder =
            Self { mode: Mode::Text, bytes: Vec::new(), held: String::new(), stops, calls, count: 0, spoke: false };
        decoder.mode = match start {
            Start::Text => Mode::Text,
            Start::Reasoning => Mode::Reasoning,
            Start::Name => Mode::Name,
            Start::Arguments(name) => {
                ready.push(decoder.call(Some(name), ""));
                Mode::Arguments(Nesting::default())
            }
            Start::Value => Mode::Value(Nesting::default()),
            Start::CallOrValue => Mode::CallOrValue,
        };
        decoder
    }

    /// How many calls there were, one that has begun included.
    pub(super) fn calls(&self) -> u32 {
        self.count + u32::from(matches!(self.mode, Mode::Arguments(_)))
    }

    /// Takes the bytes of a token; what can be said is added to `ready`.
    pub(super) fn push(&mut self, token: &[u8], ready: &mut Vec<ModelChunk>) -> Step {
        self.bytes.extend_from_slice(token);
        let whole = whole_characters(&mut self.bytes);
        self.text(&whole, token, ready)
    }

    /// The answer ended: what was held back is said.
    pub(super) fn finish(&mut self, ready: &mut Vec<ModelChunk>) {
        let mut rest = std::mem::take(&mut self.held);
        rest.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        match self.mode {
            Mode::Text | Mode::Value(_) | Mode::CallOrValue => self.say(rest, ready),
            Mode::Reasoning => reason(rest, ready),
            _ => {}
        }
    }

    fn text(&mut self, new: &str, token: &[u8], ready: &mut Vec<ModelChunk>) -> Step {
        match &mut self.mode {
            Mode::Text | Mode::Reasoning | Mode::After | Mode::CallOrValue => self.free(new, token, ready),
            Mode::Name => {
                self.held.push_str(new);
                let Some((name, rest)) = self.held.split_once(ARGUMENTS_BEGIN) else { return Step::Go };
                let (name, rest) = (name.to_owned(), rest.to_owned());
                self.held.clear();
                ready.push(self.call(Some(name), ""));
                self.mode = Mode::Arguments(Nesting::default());
                self.text(&rest, token, ready)
            }
            Mode::Arguments(nesting) => {
                let end = nesting.push(new);
                let (said, rest) = new.split_at(end.unwrap_or(new.len()));
                if !said.is_empty() {
                    ready.push(self.call(None, said));
                }
                if end.is_none() {
                    return Step::Go;
                }
                self.count += 1;
                self.mode = Mode::Closing;
                if rest.is_empty() { Step::CallEnded } else { self.text(rest, token, ready) }
            }
            // What remains of a call says nothing more.
            Mode::Closing => Step::CallEnded,
            Mode::Value(nesting) => {
                let end = nesting.push(new);
                let said = new[..end.unwrap_or(new.len())].to_owned();
                self.say(said, ready);
                if end.is_some() { Step::Complete } else { Step::Go }
            }
        }
    }

    /// The call's closing words are in the prompt now; another call may follow.
    pub(super) fn call_closed(&mut self) {
        (self.mode, self.held) = (Mode::After, String::new());
    }

    /// The words up to a call's name are in the prompt now.
    pub(super) fn call_begun(&mut self) {
        (self.mode, self.held) = (Mode::Name, String::new());
        self.bytes.clear();
    }

    fn free(&mut self, new: &str, token: &[u8], ready: &mut Vec<ModelChunk>) -> Step {
        self.held.push_str(new);
        loop {
            let reasoning = matches!(self.mode, Mode::Reasoning);
            if let Mode::CallOrValue = self.mode {
                let text = self.held.trim_start();
                if !text.is_empty() && !CALL_BEGINS.starts_with(text) && !text.starts_with(CALL_BEGINS) {
                    let text = std::mem::take(&mut self.held);
                    self.mode = Mode::Value(Nesting::default());
                    return self.text(&text, token, ready);
                }
            }
            // What ends this kind of text, and where it first stands.
            let mut marks: Vec<&str> = self.stops.iter().map(String::as_str).collect();
            if reasoning {
                marks.push(REASONING_ENDS);
            } else {
                if self.calls {
                    marks.push(CALL_BEGINS);
                }
                if !self.spoke && matches!(self.mode, Mode::Text) {
                    marks.push(REASONING_BEGINS);
                }
            }
            let found =
                marks.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min_by_key(|(place, _)| *place);
            let Some((place, mark)) = found else {
                let keep = marks.iter().map(|mark| overlap(&self.held, mark)).max().unwrap_or(0);
                let say = self.held.len() - keep;
                let rest = self.held.split_off(say);
                let text = std::mem::replace(&mut self.held, rest);
                return self.said(text, ready);
            };
            let mark = mark.to_owned();
            let after = self.held.split_off(place + mark.len());
            let mut before = std::mem::replace(&mut self.held, after);
            before.truncate(place);
            match mark.as_str() {
                REASONING_BEGINS if before.trim().is_empty() => self.mode = Mode::Reasoning,
                REASONING_ENDS if reasoning => {
                    reason(before, ready);
                    self.mode = Mode::Text;
                }
                CALL_BEGINS if self.calls => {
                    if let Step::Complete = self.said(before, ready) {
                        return Step::Complete;
                    }
                    // What the token says beyond the mark is not wanted.
                    let beyond = self.held.len() + self.bytes.len();
                    self.held.clear();
                    self.bytes.clear();
                    return Step::CallBegan(token[..token.len().saturating_sub(beyond)].to_vec());
                }
                REASONING_BEGINS => {
                    self.spoke = true;
                    before.push_str(REASONING_BEGINS);
                    self.said(before, ready);
                }
                _ => {
                    self.held.clear();
                    self.said(before, ready);
                    return Step::Complete;
                }
            }
        }
    }

    fn said(&mut self, text: String, ready: &mut Vec<ModelChunk>) -> Step {
        match self.mode {
            Mode::Reasoning => reason(text, ready),
            // After a call a model waits for its result. One that goes on talking makes the result up.
            Mode::After if !text.trim().is_empty() => return Step::Complete,
            Mode::After => {}
            _ => self.say(text, ready),
        }
        Step::Go
    }

    fn say(&mut self, text: String, ready: &mut Vec<ModelChunk>) {
        let text = if self.spoke { text } else { text.trim_start().to_owned() };
        if !text.is_empty() {
            self.spoke = true;
            ready.push(ModelChunk::text(text));
        }
    }

    fn call(&self, name: Option<String>, arguments: &str) -> ModelChunk {
        ModelChunk::ToolCallDelta { index: self.count, name, id: None, arguments: arguments.to_owned() }
    }
}

fn reason(text: String, ready: &mut Vec<ModelChunk>) {
    if !text.is_empty() {
        ready.push(ModelChunk::Reasoning { text, signature: None, encrypted: None });
    }
}

/// Takes the characters that are whole. Bytes that can never become one are replaced, one at a time.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(whole) => {
                text.push_str(whole);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(std::str::from_utf8(&bytes[..valid]).expect("checked up to here"));
                let Some(length) = error.error_len() else {
                    bytes.drain(..valid);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                bytes.drain(..valid + length);
            }
        }
    }
}

/// How much of the end of `text` is the beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    (1..mark.len().min(text.len() + 1))
        .rev()
        .find(|length| mark.is_char_boundary(*length) && text.ends_with(&mark[..*length]))
        .unwrap_or(0)
}

/// Where a JSON object or array ends.
#[derive(Debug, Default)]
struct Nesting {
    depth: u32,
    text: bool,
    escaped: bool,
}

impl Nesting {
    /// The length up to the bracket that closes the outermost, if it is within `json`.
    fn push(&mut self, json: &str) -> Option<usize> {
        for (place, byte) in json.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.text => self.escaped = true,
                b'"' => self.text = !self.text,
                _ if self.text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(place + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen {
        text: String,
        reasoning: String,
        calls: Vec<(String, String)>,
        steps: Vec<Step>,
    }

    fn seen(chunks: Vec<ModelChunk>, steps: Vec<Step>) -> Seen {
        let mut seen = Seen { text: String::new(), reasoning: String::new(), calls: Vec::new(), steps };
        for chunk in chunks {
            match chunk {
                ModelChunk::Text { text } => seen.text += &text,
                ModelChunk::Reasoning { text, .. } => seen.reasoning += &text,
                ModelChunk::ToolCallDelta { index, name, arguments, .. } => {
                    if let Some(name) = name {
                        assert_eq!(index as usize, seen.calls.len());
                        seen.calls.push((name, String::new()));
                    }
                    seen.calls[index as usize].1 += &arguments;
                }
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    /// Every way to cut the bytes into tokens of one length.
    fn for_every_cut(start: Start, stops: &[&str], calls: bool, bytes: &[u8], check: impl Fn(Seen)) {
        for length in 1..=bytes.len().max(1) {
            let mut ready = Vec::new();
            let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
            let mut decoder = Decoder::new(start.clone(), stops, calls, &mut ready);
            let mut steps = Vec::new();
            for token in bytes.chunks(length) {
                let step = decoder.push(token, &mut ready);
                let over = step != Step::Go;
                steps.push(step);
                if over {
                    break;
                }
            }
            if steps.iter().all(|step| *step == Step::Go) {
                decoder.finish(&mut ready);
            }
            check(seen(ready, steps));
        }
    }

    #[test]
    fn a_character_may_be_cut_anywhere() {
        let text = "Grüße 🦀 aus <Köln>: 1 < 2 — 終わり";
        for_every_cut(Start::Text, &["STOP"], true, text.as_bytes(), |seen| {
            assert_eq!(seen.text, text);
            assert!(seen.steps.iter().all(|step| *step == Step::Go));
        });
        for_every_cut(Start::Text, &[], false, b"a\xffb\xe2\x82", |seen| assert_eq!(seen.text, "a\u{fffd}b\u{fffd}"));
    }

    #[test]
    fn a_stop_text_is_never_said() {
        for_every_cut(Start::Text, &["END", "</s>"], false, b"one EN two END three", |seen| {
            assert_eq!(seen.text, "one EN two ");
            assert_eq!(seen.steps.last(), Some(&Step::Complete));
        });
    }

    #[test]
    fn text_before_a_call_is_said_and_the_call_taken_out_of_its_token() {
        for_every_cut(Start::Text, &[], true, b"Let me see.<tool_call>\n{", |seen| {
            assert_eq!(seen.text, "Let me see.");
            let Some(Step::CallBegan(kept)) = seen.steps.last() else { panic!("{:?}", seen.steps) };
            assert!(kept.ends_with(b">"), "{kept:?}");
        });
    }

    #[test]
    fn a_call_is_streamed() {
        let call = br#"look_up", "arguments": {"a": "}\"{", "b": [1, {"c": "\u00fc"}]}}"#;
        for_every_cut(Start::Name, &["arguments"], true, call, |seen| {
            let arguments = r#"{"a": "}\"{", "b": [1, {"c": "\u00fc"}]}"#;
            assert_eq!(seen.calls, [("look_up".to_owned(), arguments.to_owned())]);
            assert_eq!((seen.text.as_str(), seen.steps.last()), ("", Some(&Step::CallEnded)));
        });
        for_every_cut(Start::Arguments("f".into()), &[], true, b"{}", |seen| {
            assert_eq!(seen.calls, [("f".to_owned(), "{}".to_owned())]);
        });
    }

    #[test]
    fn who_talks_on_after_a_call_is_stopped() {
        let mut ready = Vec::new();
        let mut decoder = Decoder::new(Start::Text, Vec::new(), true, &mut ready);
        decoder.call_closed();
        assert_eq!(decoder.push(b"\n", &mut ready), Step::Go);
        assert_eq!(decoder.push(b"<tool_", &mut ready), Step::Go);
        assert_eq!(decoder.push(b"call>", &mut ready), Step::CallBegan(b"call>".to_vec()));
        decoder.call_closed();
        assert_eq!(decoder.push(b" The result is 3.", &mut ready), Step::Complete);
        assert!(ready.is_empty());
    }

    #[test]
    fn reasoning_is_told_from_text() {
        for_every_cut(Start::Text, &[], true, b"<think>\nhm <x\n</think>\n\nYes.", |seen| {
            assert_eq!((seen.reasoning.as_str(), seen.text.as_str()), ("\nhm <x\n", "Yes."));
        });
        for_every_cut(Start::Reasoning, &[], false, b"hm</think>Yes. <think>", |seen| {
            assert_eq!((seen.reasoning.as_str(), seen.text.as_str()), ("hm", "Yes. <think>"));
        });
    }

    #[test]
    fn json_ends_with_its_last_bracket() {
        for_every_cut(Start::Value, &["a"], false, br#"{"a": ["}"]} and more"#, |seen| {
            assert_eq!((seen.text.as_str(), seen.steps.last()), (r#"{"a": ["}"]}"#, Some(&Step::Complete)));
        });
        for_every_cut(Start::CallOrValue, &[], true, b"[1, 2]", |seen| assert_eq!(seen.text, "[1, 2]"));
        for_every_cut(Start::CallOrValue, &[], true, b"<tool_call>", |seen| {
            assert!(matches!(seen.steps.last(), Some(Step::CallBegan(_))));
        });
    }
}
