//! A conversation that cannot be invalid.
//!
//! ```text
//! Settled  --push(assistant with calls)-->          Open       calls wait for results
//! Open     --answer | reject | push(tool)-->        Open, or Settled once all are answered
//! Open     --abort-->                               Settled    what waits is answered `cancelled`
//! any      --edit | truncate | compact | hand_over  as it was  calls and results go and stay together
//! ```

use std::ops::Deref;
use std::sync::Arc;

use lomusai_wire::{CallId, Message, MessageId, Part, Role, ToolCall, ToolResult, ToolStatus};
use serde_json::Value;

use super::{check, invalid, message_id, next_number};
use crate::{Error, Result};

/// What a cancelled call is answered with.
pub const CANCELLED: &str = "The call was cancelled.";

/// Metadata key of a summary that stands for messages left out: how many they were.
pub const COMPACTED: &str = "compacted";

/// A conversation whose calls are paired with results, in order, with ids that do not repeat. Calls of the last answer may still wait.
///
/// Every operation keeps it so: what would break it is an error, and then nothing has changed. Signatures stay beside what they sign, since
/// messages are kept, left out and changed in parts that no signature covers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    messages: Vec<Arc<Message>>,
    /// Calls of the last answer that have no result yet, in order.
    open: Vec<ToolCall>,
}

impl Deref for Transcript {
    type Target = [Arc<Message>];

    fn deref(&self) -> &Self::Target {
        &self.messages
    }
}

impl Transcript {
    /// A conversation that was had before.
    ///
    /// # Errors
    /// `transcript_invalid`, naming the message.
    pub fn new(messages: Vec<Arc<Message>>) -> Result<Self> {
        check(&messages)?;
        Ok(Self { messages, open: Vec::new() })
    }

    /// The calls that wait for a result.
    pub fn open_calls(&self) -> &[ToolCall] {
        &self.open
    }

    /// Whether nothing waits, so that the conversation can be given to a model.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// The messages.
    pub fn into_messages(self) -> Vec<Arc<Message>> {
        self.messages
    }

    /// Adds a message: an answer, whose calls then wait; results of waiting calls; or, where nothing waits, anything else.
    ///
    /// # Errors
    /// `transcript_invalid`, and nothing has changed.
    pub fn push(&mut self, message: impl Into<Arc<Message>>) -> Result<()> {
        let message = message.into();
        if let Some(id) = message.id.as_ref().filter(|id| self.messages.iter().any(|old| old.id.as_ref() == Some(id))) {
            return Err(invalid(format!("the message has the id `{id}`, which a message before it has: leave it out")));
        }
        if message.role != Role::Tool
            && let Some(call) = self.open.first()
        {
            return Err(invalid(format!(
                "tool call `{}` (`{}`) waits for its result: answer it, or abort, before the next message",
                call.call_id, call.name
            )));
        }
        let mut open = self.open.clone();
        for call in message.tool_calls() {
            if message.role != Role::Assistant {
                return Err(invalid("a message with a tool_call must be the assistant's".into()));
            }
            if open.iter().any(|other| other.call_id == call.call_id) {
                return Err(invalid(format!("the message has the call id `{}` twice", call.call_id)));
            }
            open.push(call.clone());
        }
        for result in message.tool_results() {
            if message.role != Role::Tool {
                return Err(invalid("a message with a tool_result must be the tool's".into()));
            }
            let Some(place) = open.iter().position(|call| call.call_id == result.call_id) else {
                return Err(invalid(format!("nothing waits for a result of call `{}`", result.call_id)));
            };
            open.remove(place);
        }
        if message.role == Role::Tool && message.tool_results().next().is_none() {
            return Err(invalid("a message of the tool needs a tool_result".into()));
        }
        self.open = open;
        self.messages.push(message);
        Ok(())
    }

    /// Adds what a journal holds. A journal is not argued with: what would not fit is made to, by answering what waits.
    pub fn record(&mut self, message: &Arc<Message>) {
        if self.push(message.clone()).is_ok() {
            return;
        }
        self.abort(None);
        let mut fitting = (**message).clone();
        fitting.parts.retain(|part| !matches!(part, Part::ToolResult(_)));
        let _ = self.push(fitting);
    }

    /// Gives a waiting call its result. Results given one after the other share one message.
    ///
    /// # Errors
    /// `transcript_invalid` for a call that does not wait.
    pub fn answer(&mut self, result: ToolResult) -> Result<()> {
        let place = self.waiting(&result.call_id)?;
        self.open.remove(place);
        let part = Part::ToolResult(result);
        match self.messages.last_mut().filter(|last| last.role == Role::Tool) {
            Some(last) => Arc::make_mut(last).parts.push(part),
            None => {
                let message = self.numbered(Message::new(Role::Tool, vec![part]));
                self.messages.push(message);
            }
        }
        Ok(())
    }

    fn waiting(&self, call: &CallId) -> Result<usize> {
        self.open
            .iter()
            .position(|open| open.call_id == *call)
            .ok_or_else(|| invalid(format!("nothing waits for a result of call `{call}`")))
    }

    fn numbered(&self, mut message: Message) -> Arc<Message> {
        message.id.get_or_insert_with(|| message_id(next_number(&self.messages)));
        Arc::new(message)
    }

    /// The waiting call that somebody approved. It goes on waiting, for its result.
    ///
    /// # Errors
    /// `transcript_invalid` for a call that does not wait.
    pub fn approve(&self, call: &CallId) -> Result<&ToolCall> {
        self.waiting(call).map(|place| &self.open[place])
    }

    /// Answers a waiting call that somebody said no to.
    ///
    /// # Errors
    /// `transcript_invalid` for a call that does not wait.
    pub fn reject(&mut self, call: &CallId, reason: impl Into<String>) -> Result<()> {
        let place = self.waiting(call)?;
        let result = ToolResult::new(&self.open[place], ToolStatus::Denied, Value::String(reason.into()));
        self.answer(result)
    }

    /// Ends what is under way: calls that wait are answered `cancelled`; of an answer that was cut off, `shown` is kept but for its
    /// calls, which nobody will answer, and reasoning that nobody signed.
    pub fn abort(&mut self, shown: Option<Message>) {
        for call in self.open.clone() {
            let result = ToolResult::new(&call, ToolStatus::Cancelled, Value::String(CANCELLED.into()));
            self.answer(result).expect("it waits");
        }
        let Some(mut shown) = shown.filter(|shown| shown.role == Role::Assistant) else { return };
        shown.parts.retain(|part| match part {
            Part::ToolCall(_) | Part::ToolResult(_) => false,
            Part::Text(text) => !text.is_empty(),
            Part::Reasoning(reasoning) => reasoning.signature.is_some() || reasoning.encrypted.is_some(),
            _ => true,
        });
        if shown.parts.iter().all(|part| matches!(part, Part::Reasoning(_) | Part::Provider { .. })) {
            return;
        }
        shown.metadata.insert("partial".into(), true.into());
        // An id that is taken is not this one's to keep.
        shown.id = None;
        let shown = self.numbered(shown);
        self.messages.push(shown);
    }

    /// Replaces a message by another of the same id, role, calls and results.
    ///
    /// # Errors
    /// `transcript_invalid` where there is none, or something else than text and the like differs.
    pub fn replace(&mut self, message: impl Into<Arc<Message>>) -> Result<()> {
        let message = message.into();
        let same = |old: &&mut Arc<Message>| old.id.is_some() && old.id == message.id;
        let Some(old) = self.messages.iter_mut().find(same) else {
            return Err(invalid("no message of this id is there to be replaced".into()));
        };
        let ids = |message: &Message| -> Vec<CallId> {
            let calls = message.tool_calls().map(|call| call.call_id.clone());
            calls.chain(message.tool_results().map(|result| result.call_id.clone())).collect()
        };
        if old.role != message.role || ids(old) != ids(&message) {
            return Err(invalid("a message keeps its role, its calls and its results when it is replaced".into()));
        }
        *old = message;
        Ok(())
    }

    /// Puts another text into a message, in the place of its first. Calls, results and what is signed stay as they are, in their places.
    ///
    /// # Errors
    /// `transcript_invalid` for an id that is not there, and for a message of the tool, which has results and no text.
    pub fn edit(&mut self, id: &MessageId, text: impl Into<String>) -> Result<()> {
        let Some(message) = self.messages.iter_mut().find(|message| message.id.as_ref() == Some(id)) else {
            return Err(invalid(format!("there is no message `{id}`")));
        };
        if message.role == Role::Tool {
            return Err(invalid(format!("message `{id}` holds results of tools: there is no text to edit")));
        }
        let message = Arc::make_mut(message);
        let place = message.parts.iter().position(|part| part.as_text().is_some());
        // Behind what was thought, before what was called.
        let place = place.unwrap_or_else(|| {
            message.parts.iter().position(|part| matches!(part, Part::ToolCall(_))).unwrap_or(message.parts.len())
        });
        let before = message.parts[..place].iter().filter(|part| part.as_text().is_some()).count();
        message.parts.retain(|part| part.as_text().is_none());
        message.parts.insert(place - before, Part::Text(text.into()));
        Ok(())
    }

    /// Leaves out the oldest, until what is left counts at most `limit`. `count` says what a message counts, for example its tokens.
    ///
    /// System messages stay, and the last thing the user said, and calls that wait. Earlier turns go whole; of the last turn, the oldest answers go
    /// with the results of their calls. So what is left may count more. Gives how many messages went.
    pub fn truncate(&mut self, limit: u64, count: impl Fn(&Message) -> u64) -> usize {
        let counts: Vec<u64> = self.messages.iter().map(|message| count(message)).collect();
        let mut total = counts.iter().fold(0, |sum: u64, more| sum.saturating_add(*more));
        let mut gone = vec![false; self.messages.len()];
        let last_user = self.messages.iter().rposition(|message| message.role == Role::User);
        for unit in self.units(last_user) {
            if total <= limit {
                break;
            }
            for place in unit {
                total = total.saturating_sub(counts[place]);
                gone[place] = true;
            }
        }
        let mut place = 0;
        self.messages.retain(|_| {
            place += 1;
            !gone[place - 1]
        });
        gone.into_iter().filter(|gone| *gone).count()
    }

    /// What may be left out, oldest first: each goes whole.
    fn units(&self, last_user: Option<usize>) -> Vec<Vec<usize>> {
        let mut units: Vec<Vec<usize>> = Vec::new();
        let waits = if self.open.is_empty() { self.messages.len() } else { self.last_answer() };
        for (place, message) in self.messages.iter().enumerate().take(waits) {
            let earlier = last_user.is_some_and(|last| place < last);
            match (message.role, units.last_mut()) {
                (Role::System, _) => {}
                (Role::User, _) if Some(place) == last_user => {}
                // A turn begins with what the user says, and goes whole.
                (Role::User, _) => units.push(vec![place]),
                (_, Some(turn)) if earlier => turn.push(place),
                (Role::Tool, Some(unit)) => unit.push(place),
                _ => units.push(vec![place]),
            }
        }
        units
    }

    fn last_answer(&self) -> usize {
        self.messages.iter().rposition(|message| message.role == Role::Assistant).unwrap_or(self.messages.len())
    }

    /// Puts a summary in the place of the first `count` messages, as something the user says. System messages stay. A pair of calls and results that would
    /// be cut goes whole; calls that wait, and all behind them, stay. Gives how many messages went.
    pub fn compact(&mut self, count: usize, summary: impl Into<String>) -> usize {
        let most = if self.open.is_empty() { self.messages.len() } else { self.last_answer() };
        let mut end = count.min(most);
        while end < most && self.messages[end].role == Role::Tool {
            end += 1;
        }
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.messages.drain(..end).partition(|message| message.role == Role::System);
        let rest = std::mem::replace(&mut self.messages, kept);
        if !gone.is_empty() {
            let mut message = Message::user(summary);
            message.metadata.insert(COMPACTED.into(), gone.len().into());
            // The first one's id: it is free now, and stands where the summary stands.
            message.id = gone.iter().find_map(|message| message.id.clone());
            self.messages.push(Arc::new(message));
        }
        self.messages.extend(rest);
        gone.len()
    }
}

impl From<Transcript> for Vec<Arc<Message>> {
    fn from(transcript: Transcript) -> Self {
        transcript.messages
    }
}

impl TryFrom<Vec<Arc<Message>>> for Transcript {
    type Error = Error;

    fn try_from(messages: Vec<Arc<Message>>) -> Result<Self> {
        Self::new(messages)
    }
}
