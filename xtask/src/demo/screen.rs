//! What the demo looks like: titles, who speaks in a column of its own, words as they come, a bar while something is loaded.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

/// Where the words begin.
const INDENT: usize = 11;
/// Where a line is broken, at the latest.
const WIDTH: usize = 92;
const BAR: usize = 32;

/// Who speaks, and in which colour.
const SPEAKERS: &[(&str, &str)] = &[
    ("you", "1;37"),
    ("model", "1;35"),
    ("call", "33"),
    ("python", "1;34"),
    ("node", "1;32"),
    ("waits", "1;33"),
    ("killed", "1;31"),
    ("digest", "1;36"),
];

/// A terminal, or a pipe.
pub(crate) struct Screen {
    terminal: bool,
    /// Number of the next title.
    titles: usize,
    /// Columns written in this line.
    column: usize,
    /// Whether a bar stands in this line.
    bar: bool,
}

impl Screen {
    /// Colours and moving things only where somebody can see them.
    pub(crate) fn of_terminal() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal: wanted && std::io::stdout().is_terminal(), ..Self::plain() }
    }

    pub(crate) fn plain() -> Self {
        Self { terminal: false, titles: 0, column: 0, bar: false }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn now(&self) -> Instant {
        #[allow(clippy::disallowed_methods, reason = "a task times the real world; nothing is replayed")]
        Instant::now()
    }

    /// A language, and what happens in it.
    pub(crate) fn title(&mut self, language: &str, what: &str) {
        let number = match self.titles {
            0 => String::new(),
            number => format!("{number} "),
        };
        self.titles += 1;
        let (head, what) = (self.painted("1;30;46", &format!(" {number}{language} ")), self.painted("1", what));
        println!("\n{head} {what}");
    }

    /// A text of several lines.
    pub(crate) fn paragraph(&mut self, text: &str) {
        println!();
        let mut line = String::new();
        let end = |screen: &Self, line: &mut String| {
            println!("  {}", screen.painted("2", line));
            line.clear();
        };
        for word in text.split_whitespace() {
            if line.len() + word.len() + 3 > WIDTH {
                end(self, &mut line);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        end(self, &mut line);
    }

    /// Something that takes its time, and how long it took.
    pub(crate) fn task<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let started = self.now();
        if self.terminal {
            print!("  {} {what} ", self.painted("33", "…"));
        } else {
            print!("  {what} ... ");
        }
        flush();
        let result = work();
        let took = seconds(started.elapsed());
        let mark = match (&result, self.terminal) {
            (Ok(_), true) => self.painted("32", "✓"),
            (Err(_), true) => self.painted("31", "✗"),
            (Ok(_), false) => "done".into(),
            (Err(_), false) => "failed".into(),
        };
        if self.terminal {
            println!("\r\x1b[2K  {mark} {what} {}", self.painted("2", &took));
        } else {
            println!("{mark} in {took}");
        }
        result
    }

    /// One line of a speaker.
    pub(crate) fn line(&mut self, who: &str, text: &str) {
        self.speaker(who);
        text.chars().for_each(|letter| self.letter(letter));
        self.line_end();
    }

    /// How long it took, and where to go from here.
    pub(crate) fn end(&mut self, started: Instant, text: &str) {
        let mark = if self.terminal { self.painted("32", "✓ ") } else { String::new() };
        println!("\n{mark}Done in {}. {text}", seconds(started.elapsed()));
    }

    /// Shows what a program says: a word for who speaks, then what is said, letter by letter. Stops at a line `run ID` and gives the id.
    pub(crate) fn show(&mut self, output: impl Read) -> Result<Option<String>, String> {
        let mut output = BufReader::new(output);
        loop {
            let Some(who) = until(&mut output, b" \n")? else { return Ok(None) };
            match who.as_str() {
                "run" => return rest(&mut output).map(|id| Some(id.trim().to_owned())),
                "step" => {
                    let what = rest(&mut output)?;
                    println!("\n  {}", self.painted("1;4", &what));
                }
                "bar" => {
                    let numbers = rest(&mut output)?;
                    let mut numbers = numbers.split(' ').map(|number| number.parse().unwrap_or(0));
                    self.bar(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                }
                who => {
                    self.bar_end();
                    self.speaker(who);
                    let mut bytes = Vec::new();
                    while let Some(byte) = next(&mut output)?.filter(|byte| *byte != b'\n') {
                        bytes.push(byte);
                        // A letter may have several bytes.
                        if let Ok(text) = std::str::from_utf8(&bytes) {
                            text.chars().for_each(|letter| self.letter(letter));
                            bytes.clear();
                        }
                    }
                    self.line_end();
                }
            }
        }
    }

    fn speaker(&mut self, who: &str) {
        let colour = SPEAKERS.iter().find(|(name, _)| *name == who).map_or("2", |(_, colour)| colour);
        let padding = " ".repeat(INDENT.saturating_sub(who.len() + 2));
        print!("  {}{padding}", self.painted(colour, who));
        self.column = INDENT;
        flush();
    }

    fn letter(&mut self, letter: char) {
        if letter == ' ' && self.terminal && self.column + 10 > WIDTH {
            print!("\n{}", " ".repeat(INDENT));
            self.column = INDENT;
        } else if !letter.is_control() {
            print!("{letter}");
            self.column += 1;
        }
        flush();
    }

    fn line_end(&mut self) {
        println!();
        self.column = 0;
    }

    /// How much of a file is there: a bar in a terminal, else one line at the end.
    fn bar(&mut self, done: u64, total: u64) {
        if total == 0 {
            return;
        }
        let what = if total == 100 { "loading" } else { "downloading" };
        let of = if total == 100 {
            format!("{done} %")
        } else {
            format!("{} of {} MB", done / 1_000_000, total / 1_000_000)
        };
        if self.terminal {
            let full = (BAR as u64 * done.min(total) / total) as usize;
            let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR - full));
            print!("\r\x1b[2K  {what:<9}{} {of}", self.painted("36", &bar));
            self.bar = true;
            flush();
        } else if done >= total {
            println!("  {what:<9}{of}");
        }
    }

    fn bar_end(&mut self) {
        if std::mem::take(&mut self.bar) {
            print!("\r\x1b[2K");
        }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What stands there is seen at once.
fn flush() {
    // Nobody watching is no reason to stop.
    let _ = std::io::stdout().flush();
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn next(from: &mut impl BufRead) -> Result<Option<u8>, String> {
    let byte = from.fill_buf().map_err(|e| e.to_string())?.first().copied();
    from.consume(usize::from(byte.is_some()));
    Ok(byte)
}

/// What comes before one of these, which is taken away. `None`: nothing comes.
fn until(from: &mut impl BufRead, ends: &[u8]) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    loop {
        match next(from)? {
            Some(byte) if ends.contains(&byte) => break,
            Some(byte) => bytes.push(byte),
            None if bytes.is_empty() => return Ok(None),
            None => break,
        }
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn rest(from: &mut impl BufRead) -> Result<String, String> {
    until(from, b"\n").map(Option::unwrap_or_default)
}
