//! Ids of tool calls on the wire. The API knows a call by its id alone, so each is unique within a request, and the same in every
//! later request of the conversation, which keeps the server's prompt cache valid.

use std::collections::{HashMap, HashSet};

use lomusai_wire::{CallId, ToolCall};

/// Longest id that OpenAI takes, in characters.
const CHARS_MAX: usize = 40;

#[derive(Default)]
pub(super) struct WireIds<'a> {
    used: HashSet<String>,
    /// The wire's id of the nearest call before, by our own id: runs of one thread count from the same number.
    nearest: HashMap<&'a str, String>,
}

impl<'a> WireIds<'a> {
    /// The id of the next call: the provider's own, unless an earlier call has it.
    pub(super) fn of_call(&mut self, call: &'a ToolCall) -> String {
        let given = call.provider_id.as_deref().filter(|id| !id.is_empty() && !self.used.contains(*id));
        let id = given.map_or_else(|| self.derive(&call.call_id), str::to_owned);
        self.used.insert(id.clone());
        self.nearest.insert(call.call_id.as_str(), id.clone());
        id
    }

    /// The id of the call that a result answers.
    pub(super) fn of_result(&self, call_id: &CallId) -> Option<&str> {
        self.nearest.get(call_id.as_str()).map(String::as_str)
    }

    fn derive(&self, call_id: &CallId) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        // Room is left for a number.
        let stem: String = "call_".chars().chain(call_id.as_str().chars().map(plain)).take(CHARS_MAX - 8).collect();
        let numbered = (2_u64..).map(|number| format!("{stem}_{number}"));
        std::iter::once(stem.clone())
            .chain(numbered)
            .find(|id| !self.used.contains(id))
            .expect("a finite set leaves a number free")
    }
}
