//! What never gets into a cassette: keys that are known, texts that look like keys, and fields that are named like secrets.
//!
//! Known are the values of environment variables whose names end like a secret's (`…_API_KEY`, `…_TOKEN`, `…_SECRET`, `…_PASSWORD`,
//! `…_ACCESS_KEY`), and what a provider's settings were given. Each is found as it is, in base64 and percent-encoded, also where a stream cut it.

use std::ops::Range;

use lomusai_core::sync::RwLock;
use serde_json::Value;

/// What stands in a secret's place.
const HIDDEN: &str = "[REDACTED]";

/// Ends of environment variables' names that hold secrets.
const VARIABLES: [&str; 6] = ["_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_ACCESS_KEY", "_SECRET_KEY"];

/// Names of fields whose texts are secrets, in small letters and without separators.
const FIELDS: [&str; 14] = [
    "password",
    "passwd",
    "secret",
    "apikey",
    "authorization",
    "bearer",
    "bearertoken",
    "accesstoken",
    "refreshtoken",
    "authtoken",
    "clientsecret",
    "privatekey",
    "secretaccesskey",
    "sessiontoken",
];

/// How keys begin that say so themselves, and how many letters follow at least.
const LOOKS: [(&str, usize); 13] = [
    ("sk-", 20),
    ("sk_live_", 16),
    ("rk_live_", 16),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("ghp_", 30),
    ("gho_", 30),
    ("github_pat_", 30),
    ("xoxb-", 20),
    ("gsk_", 20),
    ("xai-", 20),
    ("hf_", 30),
];

/// Shorter texts are no keys, and would be found everywhere.
const SHORTEST: usize = 8;

/// The secrets that are known, in each way they may be written.
#[derive(Default)]
pub(crate) struct Secrets(RwLock<Vec<String>>);

impl Secrets {
    pub(crate) fn of_env() -> Self {
        let secrets = Self::default();
        for (name, value) in std::env::vars() {
            if VARIABLES.iter().any(|end| name.to_ascii_uppercase().ends_with(end)) {
                secrets.hide(&value);
            }
        }
        secrets
    }

    /// Takes a secret out of all that is written from now on.
    pub(crate) fn hide(&self, secret: &str) {
        let secret = secret.trim();
        if secret.len() < SHORTEST {
            return;
        }
        let mut known = self.0.write();
        for form in forms(secret) {
            if !known.contains(&form) {
                known.push(form);
            }
        }
        // The longest first, so that none is hidden but for its tail.
        known.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// Where the secrets of a text are, in order, none over another.
    pub(crate) fn spans(&self, text: &str) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for secret in self.0.read().iter() {
            found.extend(text.match_indices(secret.as_str()).map(|(at, _)| at..at + secret.len()));
        }
        for (prefix, least) in LOOKS {
            for (at, _) in text.match_indices(prefix) {
                let before = text[..at].chars().next_back();
                let rest = &text[at + prefix.len()..];
                let more = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')).count();
                if more >= least && !before.is_some_and(char::is_alphanumeric) {
                    found.push(at..at + prefix.len() + more);
                }
            }
        }
        for (at, word) in text.match_indices("Bearer ").chain(text.match_indices("bearer ")) {
            let start = at + word.len();
            let more = text[start..].bytes().take_while(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',')).count();
            if more >= 16 {
                found.push(start..start + more);
            }
        }
        let mut end = 0;
        while let Some(at) = text[end..].find("-----BEGIN ").map(|at| at + end) {
            let stop = text[at..].find("-----END ").map_or(text.len(), |stop| at + stop);
            end = stop.max(at + 11).min(text.len());
            if text[at..end].contains("PRIVATE KEY") {
                found.push(at..end);
            }
        }
        found.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        let mut spans: Vec<Range<usize>> = Vec::new();
        for span in found {
            match spans.last_mut() {
                Some(last) if span.start < last.end => last.end = last.end.max(span.end),
                _ => spans.push(span),
            }
        }
        spans
    }

    /// A text without its secrets.
    pub(crate) fn text(&self, text: &str) -> Option<String> {
        let spans = self.spans(text);
        if spans.is_empty() {
            return None;
        }
        let (mut clean, mut end) = (String::with_capacity(text.len()), 0);
        for span in spans {
            clean.push_str(&text[end..span.start]);
            clean.push_str(HIDDEN);
            end = span.end;
        }
        clean.push_str(&text[end..]);
        Some(clean)
    }

    /// Takes the secrets out of a tree, in place. `true` if there were any.
    pub(crate) fn clean(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                // Arguments and results are JSON in a text: their fields have names, too.
                if text.starts_with(['{', '['])
                    && let Ok(mut inner) = serde_json::from_str::<Value>(text)
                    && self.clean(&mut inner)
                {
                    *text = inner.to_string();
                    return true;
                }
                match self.text(text) {
                    Some(clean) => {
                        *text = clean;
                        true
                    }
                    None => false,
                }
            }
            Value::Array(items) => items.iter_mut().fold(false, |any, item| self.clean(item) | any),
            Value::Object(fields) => {
                let mut any = false;
                for (name, value) in fields.iter_mut() {
                    let bare: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
                    if let Value::String(text) = value
                        && FIELDS.contains(&bare.to_ascii_lowercase().as_str())
                        && text != HIDDEN
                    {
                        *text = HIDDEN.into();
                        any = true;
                    } else {
                        any |= self.clean(value);
                    }
                }
                any
            }
            _ => false,
        }
    }

    /// Takes secrets out of a text that came in pieces, wherever they were cut.
    pub(crate) fn pieces(&self, pieces: &mut [&mut String]) {
        let whole: String = pieces.iter().map(|piece| piece.as_str()).collect();
        let spans = self.spans(&whole);
        if spans.is_empty() {
            return;
        }
        let mut start = 0;
        for piece in pieces {
            let end = start + piece.len();
            let (mut clean, mut kept) = (String::new(), start);
            for span in spans.iter().filter(|span| span.start < end && span.end > start) {
                clean.push_str(&whole[kept..span.start.max(kept)]);
                if span.start >= start {
                    clean.push_str(HIDDEN);
                }
                kept = span.end.min(end);
            }
            clean.push_str(&whole[kept..end]);
            **piece = clean;
            start = end;
        }
    }
}

/// A secret as it is, in base64 (whatever stands before it: three offsets), and percent-encoded.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    for lead in 0..3 {
        for alphabet in [BASE64, BASE64_URL] {
            let encoded = base64(&[&[0; 2][..lead], secret.as_bytes()].concat(), alphabet);
            // The letters at the ends also hold bits of the neighbours.
            let from = if lead == 0 { 0 } else { lead + 1 };
            let to = encoded.len() - usize::from(!(lead + secret.len()).is_multiple_of(3));
            forms.push(encoded[from..to].to_owned());
        }
    }
    let percent = secret.bytes().fold(String::new(), |mut text, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(b));
        } else {
            text.push_str(&format!("%{b:02X}"));
        }
        text
    });
    forms.push(percent);
    forms.sort_unstable();
    forms.dedup();
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 without padding.
fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(alphabet[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CANARY: &str = "canary/9f+8=e7 d6";

    fn secrets() -> Secrets {
        let secrets = Secrets::default();
        secrets.hide(CANARY);
        secrets
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let secrets = secrets();
        for before in ["", "a", "ab", "abc"] {
            let encoded = base64(format!("{before}{CANARY}xyz").as_bytes(), BASE64);
            let clean = secrets.text(&encoded).unwrap_or_else(|| panic!("not found behind {before:?}: {encoded}"));
            assert!(clean.contains(HIDDEN) && clean.len() < HIDDEN.len() + 14, "{clean}");
        }
        assert_eq!(secrets.text("?key=canary%2F9f%2B8%3De7%20d6&x").unwrap(), "?key=[REDACTED]&x");
        assert_eq!(secrets.text(&format!("a {CANARY} b")).unwrap(), "a [REDACTED] b");
        assert_eq!(secrets.text("nothing here"), None);
    }

    #[test]
    fn keys_are_known_by_their_looks() {
        let secrets = Secrets::default();
        for key in [
            "sk-proj-abcdefghijklmnopqrstuvwxyz",
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
            "Bearer abcdefghijklmnop.qrstuv",
        ] {
            assert!(
                secrets.text(&format!("it is {key}, take it")).is_some_and(|clean| clean.contains(HIDDEN)),
                "{key}"
            );
        }
        for plain in ["ask-somebody-who-knows-about-everything", "sk-short", "a task-oriented-dialogue-system-for-you"]
        {
            assert_eq!(secrets.text(plain), None);
        }
    }

    #[test]
    fn fields_named_like_secrets_are_hidden_also_inside_of_texts() {
        let mut value = json!({"api-key": "x", "tokens": "5", "arguments": "{\"password\": \"p\", \"n\": 1}", "secret": {"type": "string"}});
        assert!(secrets().clean(&mut value));
        assert_eq!(
            value,
            json!({"api-key": HIDDEN, "tokens": "5", "arguments": "{\"n\":1,\"password\":\"[REDACTED]\"}", "secret": {"type": "string"}})
        );
        let mut same = json!({"arguments": "{ \"n\":1 }"});
        assert!(!secrets().clean(&mut same));
        assert_eq!(same, json!({"arguments": "{ \"n\":1 }"}), "what hides nothing keeps its bytes");
    }

    #[test]
    fn a_secret_cut_anywhere_is_hidden() {
        let whole = format!("say {CANARY}!");
        for cut in (0..=whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
            for second in cut..=whole.len() {
                let mut parts = [whole[..cut].to_owned(), whole[cut..second].to_owned(), whole[second..].to_owned()];
                let [a, b, c] = &mut parts;
                secrets().pieces(&mut [a, b, c]);
                assert_eq!(parts.concat(), "say [REDACTED]!", "{parts:?}");
            }
        }
    }
}
