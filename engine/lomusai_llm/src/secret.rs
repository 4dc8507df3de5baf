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

    /// `text` without this secret: a server may quote in its answer what it was sent.
    #[cfg(feature = "_http")]
    pub(crate) fn scrub(&self, text: &str) -> String {
        // Shorter ones are placeholders such as `none`, and would tear holes into ordinary words.
        const SHORTEST: usize = 8;
        if self.0.len() < SHORTEST { text.to_owned() } else { text.replace(&self.0, "***") }
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
