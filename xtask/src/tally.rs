//! How many tests passed, read from what test runners print.

use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    pub(crate) const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// How to read a runner's lines. Each line counts for itself; most count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// `cargo test`: `test result: ok. 5 passed; 0 failed; 1 ignored; …`, once per binary; or as a program of our own.
    Libtest,
    /// pytest's last line: `== 5 passed, 1 skipped in 0.12s ==`.
    #[allow(dead_code, reason = "the Python suite reads with it")]
    Pytest,
    /// `node --test`, as TAP (`# pass 5`) or spec (`ℹ pass 5`).
    #[allow(dead_code, reason = "the Node suite reads with it")]
    Node,
    /// Programs of our own: `5 passed, 0 failed` or `5 vectors passed, 0 failed`, with `, 1 skipped` where it applies,
    /// alone on a line.
    #[allow(dead_code, reason = "the C suite reads with it")]
    Plain,
}

impl Reader {
    /// What a line says.
    pub(crate) fn read(self, line: &str) -> Tally {
        let line = without_escapes(line);
        let line = line.trim();
        match self {
            Self::Libtest => match line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
                Some((_, counts)) => counted(counts, ';', |_| false).unwrap_or_default(),
                None => Self::Plain.read(line),
            },
            Self::Pytest => {
                let summary = line.trim_matches('=').trim();
                match summary.rsplit_once(" in ") {
                    // `5 passed in 0.12s` or `… in 75.30s (0:01:15)`
                    Some((counts, time)) if time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('s') => {
                        counted(counts, ',', |word| matches!(word, "warning" | "warnings" | "deselected"))
                            .unwrap_or_default()
                    }
                    _ => Tally::default(),
                }
            }
            Self::Node => match line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ ")) {
                Some(rest) => rest.split_once(' ').and_then(|(word, n)| one(n, word)).unwrap_or_default(),
                None => Tally::default(),
            },
            Self::Plain => counted(line, ',', |_| false).unwrap_or_default(),
        }
    }
}

/// `5 passed, 1 skipped` in parts. `None` if any part is something else.
fn counted(text: &str, separator: char, also: impl Fn(&str) -> bool) -> Option<Tally> {
    let mut tally = Tally::default();
    for part in text.split(separator).map(str::trim).filter(|part| !part.is_empty()) {
        let (number, word) = part.split_once(' ')?;
        match one(number, word) {
            Some(count) => tally += count,
            None if also(word) => {}
            // What libtest measured, filtered out, and how long it took.
            None if word.starts_with("measured") || word.starts_with("filtered") || number == "finished" => {}
            None => return None,
        }
    }
    Some(tally)
}

/// What `5` and `passed`, or `vectors passed`, say.
fn one(number: &str, words: &str) -> Option<Tally> {
    let n = number.trim().parse().ok()?;
    let word = words.rsplit(' ').next()?;
    Some(match word {
        "passed" | "pass" | "xpassed" => Tally { passed: n, ..Tally::default() },
        "failed" | "fail" | "error" | "errors" | "cancelled" => Tally { failed: n, ..Tally::default() },
        "skipped" | "ignored" | "xfailed" | "todo" => Tally { skipped: n, ..Tally::default() },
        _ => return None,
    })
}

/// The line without colours.
fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |end| end + 1);
        rest = &after[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: Reader, text: &str) -> (u64, u64, u64) {
        let mut sum = Tally::default();
        text.lines().for_each(|line| sum += reader.read(line));
        (sum.passed, sum.failed, sum.skipped)
    }

    #[test]
    fn libtest_is_read() {
        let text = "running 2 tests\ntest a ... ok\n\ntest result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s\n\
                    test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(read(Reader::Libtest, text), (8, 2, 1));
        assert_eq!(read(Reader::Libtest, "ok      a case\n110 vectors passed, 9 failed\n"), (110, 9, 0));
    }

    #[test]
    fn pytest_is_read() {
        assert_eq!(read(Reader::Pytest, "===== 5 passed, 1 skipped, 2 warnings in 0.12s ====="), (5, 0, 1));
        assert_eq!(
            read(Reader::Pytest, "\u{1b}[31m== 1 failed, 2 passed, 1 error in 75.30s (0:01:15) ==\u{1b}[0m"),
            (2, 2, 0)
        );
        assert_eq!(read(Reader::Pytest, "3 passed in 0.01s\ntests/test_a.py::test_b PASSED  [ 50%]"), (3, 0, 0));
        assert_eq!(read(Reader::Pytest, "E  2 failed in some way\nslowest 3 passed in"), (0, 0, 0));
    }

    #[test]
    fn node_is_read() {
        let tap = "TAP version 13\nok 1 - a\n# tests 7\n# suites 0\n# pass 4\n# fail 1\n# cancelled 1\n# skipped 1\n# todo 0\n# duration_ms 12.3";
        assert_eq!(read(Reader::Node, tap), (4, 2, 1));
        assert_eq!(read(Reader::Node, "\u{1b}[34mℹ pass 5\u{1b}[39m\nℹ fail 0\nℹ tests 5"), (5, 0, 0));
    }

    #[test]
    fn our_own_programs_are_read() {
        assert_eq!(read(Reader::Plain, "case a\n12 passed, 1 failed\n3 passed, 0 failed, 2 skipped"), (15, 1, 2));
        assert_eq!(read(Reader::Plain, "2 passed the gate, 1 failed"), (0, 0, 0));
    }
}
