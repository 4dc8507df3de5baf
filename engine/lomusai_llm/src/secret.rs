//! Text that must not be seen: keys, and whatever else a header or an address may carry.

use std::fmt;

use serde::Deserialize;

/// A text that is never shown. It prints as `***`, and it cannot be serialised, so that no log, journal or error holds it by accident.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this secret, in whatever writing: a server may quote in its answer what it was sent.
    #[cfg(feature = "_http")]
    pub(crate) fn scrub(&self, text: &str) -> String {
        // Shorter ones are placeholders such as `none`, and would tear holes into ordinary words.
        const SHORTEST: usize = 8;
        if self.0.len() < SHORTEST {
            return text.to_owned();
        }
        self.writings().iter().fold(text.to_owned(), |text, writing| text.replace(writing.as_str(), "***"))
    }

    /// The secret as it is, and as JSON, a URL and base64 write it.
    #[cfg(feature = "_http")]
    fn writings(&self) -> Vec<String> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
        let escaped = |keep: &dyn Fn(u8) -> bool| -> String {
            let byte = |byte: u8| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            self.0.bytes().map(byte).collect()
        };
        let json = serde_json::Value::from(self.0.as_str()).to_string();
        let all = escaped(&|byte| byte.is_ascii_alphanumeric());
        let some = escaped(&|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        let url: String = url::Url::parse_with_params("http://h", [("q", self.0.as_str())])
            .map(|url| url.query().unwrap_or_default().trim_start_matches("q=").to_owned())
            .unwrap_or_default();
        let mut writings = vec![self.0.clone(), json[1..json.len() - 1].to_owned(), url];
        writings.extend([all.to_lowercase(), some.to_lowercase(), all, some]);
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            writings.push(engine.encode(&self.0));
            // Within a longer text base64 begins at any of three places; the ends mix with what is around.
            for shift in 0..3 {
                let shifted = engine.encode(format!("{}{}", &"aaa"[..shift], self.0));
                writings.push(shifted[4..shifted.len() - 4].to_owned());
            }
        }
        // The longer first: one may stand within another.
        writings.retain(|writing| writing.len() >= 6);
        writings.sort_by_key(|writing| std::cmp::Reverse(writing.len()));
        writings.dedup();
        writings
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
