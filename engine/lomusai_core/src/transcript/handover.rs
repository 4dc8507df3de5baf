//! Handing a conversation to a provider: what this one cannot take is turned into what it can, and reported.

use std::fmt;
use std::sync::Arc;

use lomusai_wire::{Message, MessageId, Part, Role};

use super::{PAUSED, is_paused};
use crate::agent::WRITTEN_BY;

/// What a provider takes of a conversation. The default takes everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepts {
    /// Whose signatures and own parts it reads: the name before the slash of the model that wrote them.
    pub family: String,
    /// Further names of the same family: what a program registered the provider as.
    pub also: Vec<String>,
    /// Whether it takes reasoning that nobody signed, or somebody else.
    pub unsigned_reasoning: bool,
    /// Whether it takes images.
    pub images: bool,
    /// Whether it takes files that are no texts.
    pub files: bool,
    /// Whether system messages may stand behind the first of another role.
    pub late_system: bool,
    /// Whether the assistant may speak first.
    pub assistant_first: bool,
    /// Whether the user may speak right after a tool.
    pub user_after_tool: bool,
    /// Whether the last message may be the assistant's, to be gone on with.
    pub assistant_last: bool,
}

impl Default for Accepts {
    fn default() -> Self {
        Self {
            family: String::new(),
            also: Vec::new(),
            unsigned_reasoning: true,
            images: true,
            files: true,
            late_system: true,
            assistant_first: true,
            user_after_tool: true,
            assistant_last: true,
        }
    }
}

impl Accepts {
    /// Whether this name is one of its own.
    fn is_own(&self, family: &str) -> bool {
        self.family == family || self.also.iter().any(|name| name == family)
    }

    /// What the providers of this kind document. One that is not known here takes everything.
    pub fn of(kind: &str) -> Self {
        let all = Self { family: kind.to_owned(), ..Self::default() };
        match kind {
            // https://docs.claude.com/en/api/messages: system apart from the messages, thinking only with its signature, user first.
            "anthropic" => Self {
                unsigned_reasoning: false,
                late_system: false,
                assistant_first: false,
                assistant_last: false,
                ..all
            },
            // https://platform.openai.com/docs/api-reference/responses: reasoning items only as they were given.
            "openai" => Self { unsigned_reasoning: false, ..all },
            "openai-chat" | "azure" => Self { unsigned_reasoning: false, ..all },
            // https://ai.google.dev/api/generate-content: systemInstruction apart, contents begin with the user.
            "google" => Self {
                unsigned_reasoning: false,
                late_system: false,
                assistant_first: false,
                assistant_last: false,
                ..all
            },
            // https://docs.mistral.ai/api: after a tool comes the assistant; the last message is the user's or a tool's.
            "mistral" => Self {
                unsigned_reasoning: false,
                late_system: false,
                user_after_tool: false,
                assistant_last: false,
                ..all
            },
            // https://docs.cohere.com/v2/reference/chat
            "cohere" => Self { unsigned_reasoning: false, files: false, assistant_last: false, ..all },
            // https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
            "bedrock" => Self {
                unsigned_reasoning: false,
                late_system: false,
                assistant_first: false,
                assistant_last: false,
                ..all
            },
            // https://api-docs.deepseek.com: text only.
            "deepseek" => Self { images: false, files: false, ..all },
            "groq" | "xai" => Self { unsigned_reasoning: false, files: false, ..all },
            // Templates of many models take instructions at the beginning only. <https://github.com/ggml-org/llama.cpp/issues/27367>
            "ollama" | "llamacpp" => Self { files: false, late_system: false, ..all },
            "compatible" => Self { late_system: false, ..all },
            _ => all,
        }
    }
}

/// What was changed for a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// In which message.
    pub message: Option<MessageId>,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(id) => write!(f, "message `{id}`: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// The conversation as a provider can take it, and what was changed for it. Messages that need no change are shared, not copied.
///
/// `messages` must be valid and settled: every call has its result.
pub fn hand_over(messages: &[Arc<Message>], accepts: &Accepts) -> (Vec<Arc<Message>>, Vec<Change>) {
    let mut hand = Hand { accepts, changes: Vec::new(), out: Vec::with_capacity(messages.len()) };
    for message in messages {
        hand.take(message);
    }
    hand.last();
    (hand.out, hand.changes)
}

struct Hand<'a> {
    accepts: &'a Accepts,
    changes: Vec<Change>,
    out: Vec<Arc<Message>>,
}

/// The family of the model that wrote a message, where it says so.
fn family(message: &Message) -> Option<&str> {
    let model = message.metadata.get(WRITTEN_BY)?.as_str()?;
    Some(model.split_once('/').map_or(model, |(family, _)| family))
}

impl Hand<'_> {
    fn change(&mut self, message: &Message, what: impl Into<String>) {
        self.changes.push(Change { message: message.id.clone(), what: what.into() });
    }

    fn take(&mut self, message: &Arc<Message>) {
        let foreign = family(message).is_some_and(|family| !self.accepts.is_own(family));
        let mut changed = message.clone();
        if message.parts.iter().any(|part| self.is_strange(part, foreign)) {
            let mut parts = Vec::with_capacity(message.parts.len());
            for part in &message.parts {
                self.part(message, part, foreign, &mut parts);
            }
            let changed = Arc::make_mut(&mut changed);
            changed.parts = parts;
            if foreign {
                // What it says of its writer is not true of what is left.
                changed.metadata.remove(WRITTEN_BY);
            }
        }
        if foreign && is_paused(&changed) {
            self.change(message, "this provider cannot go on with another's answer: it stands as it is");
            Arc::make_mut(&mut changed).metadata.remove(PAUSED);
        }
        let begun = self.out.iter().any(|before| before.role != Role::System);
        if message.role == Role::System && begun && !self.accepts.late_system {
            self.change(message, "instructions in the midst of the conversation are the user's now");
            Arc::make_mut(&mut changed).role = Role::User;
        }
        let only_thought = |part: &Part| matches!(part, Part::Reasoning(_));
        if changed.role == Role::Assistant && changed.parts.iter().all(only_thought) {
            self.change(message, "an answer without anything but thoughts was left out");
            return;
        }
        if changed.parts.is_empty() {
            self.change(message, "a message without content was left out");
            return;
        }
        match changed.role {
            Role::Assistant if !begun && !self.accepts.assistant_first => {
                self.change(message, "the user must speak first: a line was put before it");
                self.out.push(Arc::new(Message::user("(The assistant speaks first.)")));
            }
            Role::User
                if !self.accepts.user_after_tool && self.last_said().is_some_and(|last| last.role == Role::Tool) =>
            {
                self.change(message, "the assistant must speak after a tool: a line was put before it");
                self.out.push(Arc::new(Message::assistant("(The assistant was interrupted.)")));
            }
            _ => {}
        }
        self.out.push(changed);
    }

    fn last(&mut self) {
        if self.accepts.assistant_last {
            return;
        }
        let goes_on = "(Go on.)";
        let ended = |last: &&Arc<Message>| last.role == Role::Assistant && !is_paused(last);
        if let Some(last) = self.last_said().filter(ended).cloned() {
            self.change(&last, "the conversation must not end with the assistant: a line was put behind it");
            self.out.push(Arc::new(Message::user(goes_on)));
        }
    }

    fn last_said(&self) -> Option<&Arc<Message>> {
        self.out.iter().rev().find(|message| message.role != Role::System)
    }

    fn is_strange(&self, part: &Part, foreign: bool) -> bool {
        match part {
            Part::Text(text) => text.is_empty(),
            Part::Image { .. } => !self.accepts.images,
            // A text can be told as one.
            Part::File { media_type, .. } => {
                !self.accepts.files && !media_type.as_deref().is_some_and(|media_type| media_type.starts_with("text/"))
            }
            Part::Reasoning(reasoning) => {
                let signed = reasoning.signature.is_some() || reasoning.encrypted.is_some();
                foreign || !signed && reasoning.provider.is_empty() && !self.accepts.unsigned_reasoning
            }
            Part::ToolCall(call) => foreign && (call.signature.is_some() || call.provider_id.is_some()),
            Part::ToolResult(result) => result.content.iter().any(|part| self.is_strange(part, foreign)),
            Part::Provider { provider, .. } => !self.accepts.is_own(provider) && !self.accepts.family.is_empty(),
            Part::Unknown(_) => foreign,
            Part::Data { .. } => false,
            _ => false,
        }
    }

    fn part(&mut self, message: &Message, part: &Part, foreign: bool, parts: &mut Vec<Part>) {
        if !self.is_strange(part, foreign) {
            parts.push(part.clone());
            return;
        }
        let media = |kind: &str, media_type: &Option<String>, name: Option<&str>| {
            let words = [Some(kind), name, media_type.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
            Part::text(format!("[{words}: left out, since this model takes none]"))
        };
        match part {
            Part::Text(_) => {}
            Part::Image { media_type, .. } => {
                self.change(message, "an image became a line that says so");
                parts.push(media("image", media_type, None));
            }
            Part::File { media_type, name, .. } => {
                self.change(message, "a file became a line that says so");
                parts.push(media("file", media_type, name.as_deref()));
            }
            Part::Reasoning(reasoning) => {
                let mut reasoning = reasoning.clone();
                (reasoning.signature, reasoning.encrypted) = (None, None);
                reasoning.provider.clear();
                if self.accepts.unsigned_reasoning && !reasoning.text.is_empty() {
                    self.change(message, "thoughts lost another provider's signature");
                    parts.push(Part::Reasoning(reasoning));
                } else {
                    self.change(message, "thoughts that this provider cannot read were left out");
                }
            }
            Part::ToolCall(call) => {
                let mut call = call.clone();
                if call.signature.take().is_some() {
                    self.change(message, format!("the call of `{}` lost another provider's signature", call.name));
                }
                call.provider_id = None;
                call.provider.clear();
                parts.push(Part::ToolCall(call));
            }
            Part::ToolResult(result) => {
                let mut result = result.clone();
                let mut content = Vec::with_capacity(result.content.len());
                for part in &result.content {
                    self.part(message, part, foreign, &mut content);
                }
                result.content = content;
                parts.push(Part::ToolResult(result));
            }
            Part::Unknown(fields) => {
                self.change(message, format!("a part of type `{}` became text", part.type_name()));
                parts.push(Part::text(serde_json::to_string(fields).unwrap_or_default()));
            }
            other => self.change(message, format!("a part of type `{}` was left out", other.type_name())),
        }
    }
}
