//! The rules of a conversation: calls are paired with results, and ids do not repeat.

mod handover;
mod list;

pub use handover::{Accepts, Change, hand_over};
pub use list::{CANCELLED, COMPACTED, Transcript};

use std::collections::HashSet;
use std::sync::Arc;

use lomusai_wire::{CallId, Message, MessageId, Part, Role, codes};

use crate::{Error, Result};

/// Checks that every tool call is answered, once, in a tool message that follows it, that nothing else is answered, and that no
/// two messages have the same id.
///
/// # Errors
/// `transcript_invalid`, naming the message.
pub fn check(messages: &[Arc<Message>]) -> Result<()> {
    let mut waiting: Vec<(CallId, String)> = Vec::new();
    let mut ids = HashSet::new();
    for (number, message) in messages.iter().enumerate() {
        let at = || {
            message.id.as_ref().map_or_else(|| format!("message {number}"), |id| format!("message {number} (`{id}`)"))
        };
        if let Some(id) = message.id.as_ref().filter(|id| !ids.insert(*id)) {
            return Err(invalid(format!(
                "message {number} has the id `{id}`, which a message before it has: leave it out"
            )));
        }
        if message.role != Role::Tool
            && let Some((call, name)) = waiting.first()
        {
            return Err(invalid(format!(
                "{} comes before the result of tool call `{call}` (`{name}`): add a tool message with a tool_result",
                at()
            )));
        }
        let mut seen = HashSet::new();
        for call in message.tool_calls() {
            if message.role != Role::Assistant {
                return Err(invalid(format!("{} has a tool_call but its role is not assistant", at())));
            }
            if !seen.insert(&call.call_id) {
                return Err(invalid(format!("{} has the call id `{}` twice", at(), call.call_id)));
            }
            waiting.push((call.call_id.clone(), call.name.clone()));
        }
        for result in message.tool_results() {
            if message.role != Role::Tool {
                return Err(invalid(format!("{} has a tool_result but its role is not tool", at())));
            }
            let Some(place) = waiting.iter().position(|(call, _)| *call == result.call_id) else {
                return Err(invalid(format!(
                    "{} answers `{}`, which the message before it did not call",
                    at(),
                    result.call_id
                )));
            };
            waiting.remove(place);
        }
    }
    match waiting.first() {
        Some((call, name)) => {
            Err(invalid(format!("the history ends before the result of tool call `{call}` (`{name}`)")))
        }
        None => Ok(()),
    }
}

fn invalid(message: String) -> Error {
    Error::new(codes::TRANSCRIPT_INVALID, message)
}

/// Whether a message holds what only the model that wrote it can read: a signature, encrypted reasoning, or a part of no known type.
pub fn is_bound(message: &Message) -> bool {
    message.parts.iter().any(|part| match part {
        Part::Reasoning(reasoning) => reasoning.signature.is_some() || reasoning.encrypted.is_some(),
        Part::ToolCall(call) => call.signature.is_some(),
        Part::Unknown(_) => true,
        _ => false,
    })
}

/// Metadata key of an answer that has not ended: whoever wrote it wants to be asked to go on with it, and the next message does.
pub const PAUSED: &str = "paused";

/// Whether an answer has not ended, and its provider goes on with it when it is asked again.
pub fn is_paused(message: &Message) -> bool {
    message.role == Role::Assistant && message.metadata.get(PAUSED) == Some(&true.into())
}

/// The number the next message gets: more than any `m<number>` before it, and no less than how many there are.
pub fn next_number(messages: &[Arc<Message>]) -> u64 {
    let highest = messages.iter().filter_map(|message| message.id.as_ref()).filter_map(number_of).max();
    highest.map_or(0, |number| number + 1).max(messages.len() as u64)
}

/// The id of message `number`.
pub fn message_id(number: u64) -> MessageId {
    format!("m{number}").into()
}

/// A number so high that nobody counted up to it is a caller's own name, not one of ours.
fn number_of(id: &MessageId) -> Option<u64> {
    id.as_str().strip_prefix('m')?.parse().ok().filter(|number| *number < 1 << 32)
}

/// Gives an id to each message that has none, from `next` on. Ids that are there stay, and are given to no other.
pub fn number(messages: Vec<Message>, next: u64) -> Vec<Arc<Message>> {
    let given = messages.iter().filter_map(|message| message.id.as_ref()).filter_map(number_of).max();
    let mut next = given.map_or(next, |given| next.max(given + 1));
    messages
        .into_iter()
        .map(|mut message| {
            if message.id.is_none() {
                message.id = Some(message_id(next));
            }
            next += 1;
            Arc::new(message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lomusai_wire::{ToolCall, ToolResult, ToolStatus};
    use serde_json::json;

    fn call(id: &str) -> ToolCall {
        ToolCall::new(id, "t", "{}")
    }

    fn assistant(ids: &[&str]) -> Arc<Message> {
        Arc::new(Message::new(Role::Assistant, ids.iter().map(|id| Part::ToolCall(call(id))).collect()))
    }

    fn results(ids: &[&str]) -> Arc<Message> {
        let parts = ids.iter().map(|id| Part::ToolResult(ToolResult::new(&call(id), ToolStatus::Ok, json!(1))));
        Arc::new(Message::new(Role::Tool, parts.collect()))
    }

    #[test]
    fn pairs_are_checked() {
        let user = Arc::new(Message::user("x"));
        let ok = [
            user.clone(),
            assistant(&["a", "b"]),
            results(&["b"]),
            results(&["a"]),
            user.clone(),
            assistant(&["a"]),
            results(&["a"]),
        ];
        assert_eq!(check(&ok), Ok(()));
        for bad in [
            vec![assistant(&["a"]), user.clone()],
            vec![assistant(&["a"])],
            vec![results(&["a"])],
            vec![assistant(&["a"]), results(&["a", "a"])],
            vec![assistant(&["a", "a"])],
        ] {
            assert!(check(&bad).unwrap_err().is(codes::TRANSCRIPT_INVALID), "{bad:?}");
        }
    }

    #[test]
    fn numbers_go_on_after_the_highest() {
        let mut late = Message::user("x");
        late.id = Some("m7".into());
        assert_eq!(next_number(&[Arc::new(late)]), 8);
        assert_eq!(next_number(&[Arc::new(Message::user("a")), Arc::new(Message::user("b"))]), 2);
        let mut absurd = Message::user("x");
        absurd.id = Some(format!("m{}", u64::MAX).into());
        assert_eq!(next_number(&[Arc::new(absurd)]), 1);
    }

    #[test]
    fn given_ids_stay_and_are_given_to_no_other() {
        let mut given = Message::user("x");
        given.id = Some("m1".into());
        let numbered = number(vec![Message::user("a"), given.clone(), Message::user("b")], 0);
        let ids: Vec<&str> = numbered.iter().filter_map(|message| message.id.as_ref()).map(MessageId::as_str).collect();
        assert_eq!(ids, ["m2", "m1", "m4"]);
        assert_eq!(check(&numbered), Ok(()));
        assert!(check(&[Arc::new(given.clone()), Arc::new(given)]).unwrap_err().is(codes::TRANSCRIPT_INVALID));
    }
}
