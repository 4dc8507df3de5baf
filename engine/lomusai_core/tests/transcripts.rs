//! Any interleaving of a transcript's operations gives a conversation that each provider takes.
//!
//! The rules of the providers are written here once more, from their documents, over our own messages: what their encoders do to
//! the form of a message (merging neighbours, naming ids) needs no rule.

use std::collections::HashSet;
use std::sync::Arc;

use lomusai_core::transcript::{self, Accepts, Transcript, hand_over};
use lomusai_wire::{CallId, Message, MessageId, Part, Reasoning, Role, Source, ToolCall, ToolResult, ToolStatus};
use proptest::prelude::*;
use serde_json::{Value, json};

const PROVIDERS: [&str; 10] = [
    "anthropic",
    "openai",
    "openai-chat",
    "google",
    "mistral",
    "cohere",
    "bedrock",
    "deepseek",
    "ollama",
    "compatible",
];

/// What one may do to a conversation. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Do {
    System,
    User {
        image: bool,
        file: bool,
    },
    /// An answer: by which provider, with what.
    Answer {
        family: usize,
        thinks: bool,
        signed: bool,
        says: bool,
        calls: usize,
        signs_calls: bool,
        own_part: bool,
        pauses: bool,
    },
    Answers(usize),
    AnswerAll,
    Approve(usize),
    Reject(usize),
    Abort {
        thinks: bool,
        signed: bool,
        says: bool,
        calls: usize,
    },
    Edit(usize),
    Truncate(u64),
    Compact(usize),
    /// The wrong thing: it must be refused, and change nothing.
    Wrong(usize),
    HandOver(usize),
}

fn what_to_do() -> impl Strategy<Value = Do> {
    let flag = any::<bool>;
    prop_oneof![
        1 => Just(Do::System),
        4 => (flag(), flag()).prop_map(|(image, file)| Do::User { image, file }),
        8 => (0..PROVIDERS.len(), flag(), flag(), flag(), 0..4_usize, flag(), flag(), flag()).prop_map(
            |(family, thinks, signed, says, calls, signs_calls, own_part, pauses)| Do::Answer { family, thinks, signed, says, calls, signs_calls, own_part, pauses }
        ),
        4 => (0..4_usize).prop_map(Do::Answers),
        4 => Just(Do::AnswerAll),
        1 => (0..4_usize).prop_map(Do::Approve),
        2 => (0..4_usize).prop_map(Do::Reject),
        2 => (flag(), flag(), flag(), 0..2_usize).prop_map(|(thinks, signed, says, calls)| Do::Abort { thinks, signed, says, calls }),
        2 => (0..20_usize).prop_map(Do::Edit),
        2 => (0..30_u64).prop_map(Do::Truncate),
        2 => (0..12_usize).prop_map(Do::Compact),
        2 => (0..5_usize).prop_map(Do::Wrong),
        1 => (0..PROVIDERS.len()).prop_map(Do::HandOver),
    ]
}

/// A conversation under work, and a counter for ids.
struct World {
    transcript: Transcript,
    next: u64,
}

impl World {
    fn id(&mut self) -> MessageId {
        self.next = transcript::next_number(&self.transcript).max(self.next + 1);
        transcript::message_id(self.next)
    }

    fn answer(&mut self, family: usize, flags: [bool; 5], calls: usize) -> Message {
        let [thinks, signed, says, signs_calls, own_part] = flags;
        let id = self.id();
        let mut parts = Vec::new();
        if thinks {
            let mut reasoning = Reasoning::default();
            reasoning.text = "hm".into();
            reasoning.signature = signed.then(|| format!("signature of {}", PROVIDERS[family]));
            parts.push(Part::Reasoning(reasoning));
        }
        if says {
            parts.push(Part::text("words"));
        }
        for index in 0..calls {
            let mut call = ToolCall::new(format!("c{id}.{index}"), "tool", if index == 1 { "not json" } else { "{}" });
            call.provider_id = Some("same_for_all".into());
            call.signature = signs_calls.then(|| format!("signature of {}", PROVIDERS[family]));
            parts.push(Part::ToolCall(call));
        }
        if own_part {
            let fields = json!({"type": "server_thing", "of": PROVIDERS[family]});
            parts.push(Part::Unknown(fields.as_object().unwrap().clone()));
        }
        let mut message = Message::new(Role::Assistant, parts);
        message.id = Some(id);
        if transcript::is_bound(&message) {
            message.metadata.insert("model".into(), format!("{}/some-model", PROVIDERS[family]).into());
        }
        message
    }

    fn result(&self, place: usize) -> Option<ToolResult> {
        let open = self.transcript.open_calls();
        let call = open.get(place % open.len().max(1))?;
        Some(ToolResult::new(call, ToolStatus::Ok, json!({"n": place})))
    }

    fn apply(&mut self, what: &Do) {
        let settled = self.transcript.is_settled();
        match what {
            Do::System | Do::User { .. } => {
                let mut message = Message::user("question");
                if let Do::User { image, file } = what {
                    if *image {
                        message.parts.push(Part::Image {
                            source: Source::Data("AA==".into()),
                            media_type: Some("image/png".into()),
                        });
                    }
                    if *file {
                        message.parts.push(Part::File {
                            source: Source::Data("AA==".into()),
                            media_type: None,
                            name: Some("a.pdf".into()),
                        });
                    }
                } else {
                    message.role = Role::System;
                }
                message.id = Some(self.id());
                assert_eq!(self.transcript.push(message).is_ok(), settled, "only where nothing waits");
            }
            Do::Answer { family, thinks, signed, says, calls, signs_calls, own_part, pauses } => {
                let mut message = self.answer(*family, [*thinks, *signed, *says, *signs_calls, *own_part], *calls);
                if *pauses && *calls == 0 {
                    message.metadata.insert(transcript::PAUSED.into(), true.into());
                    message.metadata.insert("model".into(), format!("{}/some-model", PROVIDERS[*family]).into());
                }
                assert_eq!(self.transcript.push(message).is_ok(), settled);
            }
            Do::Answers(place) => {
                if let Some(result) = self.result(*place) {
                    self.transcript.answer(result).unwrap();
                }
            }
            Do::AnswerAll => {
                let results: Vec<Part> = self
                    .transcript
                    .open_calls()
                    .iter()
                    .map(|call| Part::ToolResult(ToolResult::new(call, ToolStatus::Error, Value::Null)))
                    .collect();
                if !results.is_empty() {
                    let mut message = Message::new(Role::Tool, results);
                    message.id = Some(self.id());
                    self.transcript.push(message).unwrap();
                }
            }
            Do::Approve(place) => {
                if let Some(result) = self.result(*place) {
                    assert!(self.transcript.approve(&result.call_id).is_ok());
                }
            }
            Do::Reject(place) => {
                if let Some(result) = self.result(*place) {
                    self.transcript.reject(&result.call_id, "no").unwrap();
                }
            }
            Do::Abort { thinks, signed, says, calls } => {
                let shown = settled.then(|| self.answer(0, [*thinks, *signed, *says, false, false], *calls));
                self.transcript.abort(shown);
                assert!(self.transcript.is_settled());
            }
            Do::Edit(place) => {
                let chosen = self.transcript.get(place % self.transcript.len().max(1)).cloned();
                if let Some(message) = chosen {
                    let before: Vec<Part> =
                        message.parts.iter().filter(|part| part.as_text().is_none()).cloned().collect();
                    let id = message.id.clone().unwrap();
                    assert_eq!(self.transcript.edit(&id, "edited").is_ok(), message.role != Role::Tool);
                    let after = self.transcript.iter().find(|message| message.id.as_ref() == Some(&id)).unwrap();
                    let after: Vec<Part> =
                        after.parts.iter().filter(|part| part.as_text().is_none()).cloned().collect();
                    assert_eq!(before, after, "signatures and calls stay, in their order");
                }
            }
            Do::Truncate(limit) => {
                let open = self.transcript.open_calls().to_vec();
                let before = self.transcript.len();
                let systems = |t: &Transcript| t.iter().filter(|message| message.role == Role::System).count();
                let kept = systems(&self.transcript);
                let gone = self.transcript.truncate(*limit, |_| 1);
                assert_eq!((self.transcript.len() + gone, systems(&self.transcript)), (before, kept));
                assert_eq!(self.transcript.open_calls(), open);
            }
            Do::Compact(count) => {
                let open = self.transcript.open_calls().to_vec();
                self.transcript.compact(*count, "what was said before");
                assert_eq!(self.transcript.open_calls(), open);
            }
            Do::Wrong(which) => {
                let before = self.transcript.clone();
                let result = |id: &str| ToolResult::new(&ToolCall::new(id, "tool", "{}"), ToolStatus::Ok, Value::Null);
                let refused = match which {
                    0 => self.transcript.answer(result("nobody asked")),
                    1 => self.transcript.push(Message::new(Role::Tool, vec![Part::ToolResult(result("nobody asked"))])),
                    2 => self
                        .transcript
                        .push(Message::new(Role::User, vec![Part::ToolCall(ToolCall::new("x", "tool", "{}"))])),
                    3 => {
                        let twice = ToolCall::new("twice", "tool", "{}");
                        self.transcript.push(Message::new(
                            Role::Assistant,
                            vec![Part::ToolCall(twice.clone()), Part::ToolCall(twice)],
                        ))
                    }
                    _ => self.transcript.reject(&CallId::new("nobody asked"), "no"),
                };
                assert!(refused.is_err());
                assert_eq!(self.transcript, before);
            }
            Do::HandOver(family) => {
                if settled {
                    let (messages, _) = hand_over(&self.transcript, &Accepts::of(PROVIDERS[*family]));
                    // The lines put in have no ids yet; as history they get some.
                    let next = transcript::next_number(&messages).max(self.next + 1);
                    let messages: Vec<Message> = messages.into_iter().map(Arc::unwrap_or_clone).collect();
                    let messages = transcript::number(messages, next);
                    self.next = transcript::next_number(&messages);
                    self.transcript = Transcript::new(messages).expect("what is handed over is valid");
                }
            }
        }
    }
}

/// The rules of a provider's API. Empty: it takes the conversation.
fn refusals(provider: &str, messages: &[Arc<Message>]) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |text: String| found.push(text);
    let speaks: Vec<&Arc<Message>> = messages.iter().filter(|message| message.role != Role::System).collect();

    // Everybody's: each call is answered, once, in the messages right after it; nothing else is.
    let mut waiting: HashSet<&CallId> = HashSet::new();
    for message in messages {
        if message.role != Role::Tool && !waiting.is_empty() {
            say(format!("{:?} comes before the results of {waiting:?}", message.role));
            waiting.clear();
        }
        waiting.extend(message.tool_calls().map(|call| &call.call_id));
        for result in message.tool_results() {
            if !waiting.remove(&result.call_id) {
                say(format!("a result of {} that nobody waits for", result.call_id));
            }
        }
        if message.parts.is_empty() {
            say(format!("an empty message of the {:?}", message.role));
        }
        if message.parts.iter().any(|part| part.as_text().is_some_and(str::is_empty)) {
            say("an empty text".into());
        }
        if message.role == Role::Assistant && message.parts.iter().all(|part| matches!(part, Part::Reasoning(_))) {
            say("thoughts without what they led to".into());
        }
    }
    if !waiting.is_empty() {
        say(format!("it ends before the results of {waiting:?}"));
    }

    // Signatures: each provider takes its own only, and right where it gave them.
    for part in messages.iter().flat_map(|message| &message.parts) {
        let signature = match part {
            Part::Reasoning(reasoning) => {
                let must_be_signed = !matches!(provider, "deepseek" | "ollama" | "compatible");
                if must_be_signed && reasoning.signature.is_none() && reasoning.encrypted.is_none() {
                    say("thoughts that nobody signed".into());
                }
                reasoning.signature.as_deref()
            }
            Part::ToolCall(call) => call.signature.as_deref(),
            Part::Unknown(fields) if fields["of"] != provider => {
                say(format!("a part of {}", fields["of"]));
                None
            }
            Part::Image { .. } if provider == "deepseek" => {
                say("an image".into());
                None
            }
            Part::File { .. } if matches!(provider, "cohere" | "deepseek" | "ollama") => {
                say("a file".into());
                None
            }
            _ => None,
        };
        if signature.is_some_and(|signature| signature != format!("signature of {provider}")) {
            say(format!("{signature:?}"));
        }
    }

    let apart = matches!(provider, "anthropic" | "google" | "bedrock");
    if apart {
        if messages
            .iter()
            .skip_while(|message| message.role == Role::System)
            .any(|message| message.role == Role::System)
        {
            say("instructions in the midst".into());
        }
        if speaks.first().is_some_and(|first| first.role != Role::User) {
            say(format!("the {:?} speaks first", speaks[0].role));
        }
    }
    if (apart || matches!(provider, "mistral" | "cohere"))
        && let Some(last) = speaks.last().filter(|last| last.role == Role::Assistant)
    {
        // Only its own answer that has not ended is gone on with.
        let own = last.metadata.get("model").and_then(Value::as_str).is_some_and(|model| model.starts_with(provider));
        if !(transcript::is_paused(last) && own) {
            say("the assistant speaks last".into());
        }
    }
    if provider == "mistral" && speaks.windows(2).any(|pair| pair[0].role == Role::Tool && pair[1].role == Role::User) {
        say("the user speaks right after a tool".into());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_each_provider_takes_it(steps in prop::collection::vec(what_to_do(), 1..40)) {
        let mut world = World { transcript: Transcript::default(), next: 0 };
        for step in &steps {
            world.apply(step);
            let mut closed = world.transcript.clone();
            closed.abort(None);
            prop_assert_eq!(transcript::check(&closed), Ok(()), "after {:?}", step);
            for provider in PROVIDERS {
                let (messages, changes) = hand_over(&closed, &Accepts::of(provider));
                let refused = refusals(provider, &messages);
                prop_assert!(refused.is_empty(), "{} after {:?}: {:?}\n{:#?}", provider, step, refused, messages);
                // Who needs nothing changed gets the very same messages.
                if changes.is_empty() && messages.len() == closed.len() {
                    prop_assert!(messages.iter().zip(closed.iter()).all(|(now, then)| Arc::ptr_eq(now, then) || now.parts.len() <= then.parts.len()));
                }
                // What was handed over once needs no second hand.
                let (again, more) = hand_over(&messages, &Accepts::of(provider));
                prop_assert_eq!(&again, &messages, "{}: {:?}", provider, more);
            }
        }
    }
}

#[test]
fn a_conversation_goes_on_with_another_provider_and_says_what_it_lost() {
    let mut world = World { transcript: Transcript::default(), next: 0 };
    world.apply(&Do::User { image: true, file: false });
    world.apply(&Do::Answer {
        family: 0,
        thinks: true,
        signed: true,
        says: true,
        calls: 1,
        signs_calls: false,
        own_part: true,
        pauses: false,
    });
    world.apply(&Do::AnswerAll);
    let (same, none) = hand_over(&world.transcript, &Accepts::of("anthropic"));
    assert!(
        none.is_empty() && same.iter().zip(world.transcript.iter()).all(|(a, b)| Arc::ptr_eq(a, b)),
        "its own: untouched"
    );
    let mut named = Accepts::of("anthropic-of-ours");
    named.also.push("anthropic".into());
    assert_eq!(hand_over(&world.transcript, &named).1, [], "the same provider under another name");
    let (other, changes) = hand_over(&world.transcript, &Accepts::of("deepseek"));
    let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "message `m1`: an image became a line that says so",
            "message `m2`: thoughts lost another provider's signature",
            "message `m2`: a part of type `server_thing` became text",
        ]
    );
    assert!(other[0].text().contains("[image image/png: left out"), "{}", other[0].text());
}

#[test]
fn truncation_keeps_instructions_the_last_question_and_whole_pairs() {
    let mut world = World { transcript: Transcript::default(), next: 0 };
    let tool = Do::Answer {
        family: 1,
        thinks: false,
        signed: false,
        says: true,
        calls: 2,
        signs_calls: false,
        own_part: false,
        pauses: false,
    };
    world.apply(&Do::System);
    for _ in 0..2 {
        world.apply(&Do::User { image: false, file: false });
        world.apply(&tool);
        world.apply(&Do::AnswerAll);
        world.apply(&tool);
        world.apply(&Do::AnswerAll);
    }
    assert_eq!(world.transcript.truncate(6, |_| 1), 5, "the first turn, whole");
    let roles = |t: &Transcript| t.iter().map(|message| message.role).collect::<Vec<_>>();
    use Role::{Assistant, System, Tool, User};
    assert_eq!(roles(&world.transcript), [System, User, Assistant, Tool, Assistant, Tool]);
    assert_eq!(world.transcript.truncate(5, |_| 1), 2, "then the oldest pair");
    assert_eq!(world.transcript.truncate(0, |_| 1), 2);
    assert_eq!(roles(&world.transcript), [System, User]);
}

#[test]
fn a_summary_stands_for_what_it_sums_up() {
    let mut world = World { transcript: Transcript::default(), next: 0 };
    world.apply(&Do::System);
    world.apply(&Do::User { image: false, file: false });
    world.apply(&Do::Answer {
        family: 1,
        thinks: false,
        signed: false,
        says: true,
        calls: 2,
        signs_calls: false,
        own_part: false,
        pauses: false,
    });
    world.apply(&Do::AnswerAll);
    world.apply(&Do::User { image: false, file: false });
    assert_eq!(world.transcript.compact(3, "They looked."), 3, "the results go with their calls");
    assert_eq!(world.transcript.len(), 3);
    assert_eq!(
        (world.transcript[1].text(), &world.transcript[1].metadata["compacted"]),
        ("They looked.".into(), &json!(3))
    );
}
