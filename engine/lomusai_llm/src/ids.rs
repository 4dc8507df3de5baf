//! Ids of tool calls on the wire. An API knows a call by its id alone, so each is unique within a request, and the same in every
//! later request of the conversation, which keeps the server's prompt cache valid.

use std::collections::{HashMap, HashSet};

use lomusai_wire::{CallId, ToolCall};

/// Which ids an API takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdRule {
    /// Any, up to 40 characters where we make it: OpenAI's limit.
    Any,
    /// Letters, digits, `_` and `-`.
    Plain,
    /// Nine letters and digits.
    NineAlphanumeric,
}

pub(crate) struct WireIds<'a> {
    rule: IdRule,
    used: HashSet<String>,
    /// The wire's id of the nearest call before, by our own id: runs of one thread count from the same number.
    nearest: HashMap<&'a str, String>,
}

impl<'a> WireIds<'a> {
    /// No ids yet.
    pub(crate) fn new(rule: IdRule) -> Self {
        Self { rule, used: HashSet::new(), nearest: HashMap::new() }
    }

    /// The id of the next call: the provider's, unless an earlier call has it. One from elsewhere (`foreign`) must fit the rule.
    pub(crate) fn of_call(&mut self, call: &'a ToolCall, foreign: bool) -> String {
        let fits = |id: &str| !id.is_empty() && (!foreign || self.rule.takes(id)) && !self.used.contains(id);
        let given = call.provider_id.as_deref().filter(|id| fits(id));
        let id = given.map_or_else(|| self.derive(&call.call_id), str::to_owned);
        self.used.insert(id.clone());
        self.nearest.insert(call.call_id.as_str(), id.clone());
        id
    }

    /// The id of the call that a result answers.
    pub(crate) fn of_result(&self, call_id: &CallId) -> Option<&str> {
        self.nearest.get(call_id.as_str()).map(String::as_str)
    }

    fn derive(&self, call_id: &CallId) -> String {
        let numbered = |number: u64| match self.rule {
            IdRule::NineAlphanumeric => nine(call_id.as_str(), number),
            IdRule::Any | IdRule::Plain => {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                // Room is left for a number.
                let stem: String = "call_".chars().chain(call_id.as_str().chars().map(plain)).take(32).collect();
                if number == 1 { stem } else { format!("{stem}_{number}") }
            }
        };
        (1_u64..).map(numbered).find(|id| !self.used.contains(id)).expect("a finite set leaves a number free")
    }
}

impl IdRule {
    fn takes(self, id: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match self {
            Self::Any => true,
            Self::Plain => id.chars().all(plain),
            Self::NineAlphanumeric => id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()),
        }
    }
}

/// Nine letters and digits that stand for a call: FNV-1a of its id, in base 36.
fn nine(call_id: &str, number: u64) -> String {
    let hash = call_id
        .bytes()
        .chain(number.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let digit = |place: u32| char::from_digit((hash / 36_u64.pow(place) % 36) as u32, 36).expect("below 36");
    (0..9).map(digit).collect()
}
