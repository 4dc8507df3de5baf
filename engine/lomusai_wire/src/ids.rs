//! Names of things that runs talk about. All are opaque text; cloning one copies a pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(#[schemars(with = "String")] Arc<str>);

        impl $name {
            /// Wraps a text as it is.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(text.as_ref().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// One execution of an agent. A child run's id is its parent's, a slash, and the effect that started it.
    RunId
}
id! {
    /// A conversation.
    ThreadId
}
id! {
    /// A message, unique within its conversation: `m0`, `m1`, … by position.
    MessageId
}
id! {
    /// A tool call, by the engine's own count: `c<message>.<index>`. A provider's id is kept beside it, since providers repeat theirs.
    CallId
}
id! {
    /// What a run asked of the world, by position in the run: dot-separated tokens such as `2.0` (step 2, first tool call).
    ///
    /// Deterministic, never random: the same run asks with the same ids in every process and language.
    EffectId
}

impl EffectId {
    /// Orders two ids token by token, numbers by value, numbers before words.
    pub fn canonical_cmp(&self, other: &Self) -> Ordering {
        let mut left = self.as_str().split('.');
        let mut right = other.as_str().split('.');
        loop {
            let order = match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.cmp(&b),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    (Err(_), Err(_)) => a.cmp(b),
                },
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_ids_order_by_number_then_word() {
        let mut ids: Vec<EffectId> =
            ["2.10", "2.model", "2.2.after", "10.model", "2.2", "1.model"].map(Into::into).into();
        ids.sort_by(EffectId::canonical_cmp);
        assert_eq!(
            ids.iter().map(EffectId::as_str).collect::<Vec<_>>(),
            ["1.model", "2.2", "2.2.after", "2.10", "2.model", "10.model"]
        );
    }
}
