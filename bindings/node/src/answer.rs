//! The handle a call is answered by, as JavaScript holds it. When it is collected unanswered, the engine is told.

use std::sync::{Arc, Weak};

use lomusai_host::{Answer, Fault, HostEngine, Pushed, Raised};
use lomusai_wire::Code;
use napi_derive::napi;

use crate::error::{Token, throwing};
use crate::port::{Message, Payload, Shared, Ticket, settle};

/// See [`Answer`].
#[napi(js_name = "Answer")]
pub struct NativeAnswer {
    pub(crate) answer: Answer,
    pub(crate) port: Arc<Shared>,
    pub(crate) home: Weak<HostEngine>,
}

#[napi]
impl NativeAnswer {
    /// Answers with JSON.
    #[napi]
    pub fn resolve(&self, json: String) -> napi::Result<()> {
        throwing(self.answer.resolve(&json))
    }

    /// Answers with `{output, content}`.
    #[napi]
    pub fn reply(&self, json: String) -> napi::Result<()> {
        throwing(self.answer.reply(&json))
    }

    /// Waits for a `resume` command.
    #[napi]
    pub fn suspend(&self, payload: String) -> napi::Result<()> {
        throwing(self.answer.suspend(&payload))
    }

    /// Answers with an error: what went wrong (`arguments`, `result` or just that it was thrown), the code of an error of ours, the words
    /// for the model, the host's words for people, and the number under which JavaScript keeps its own error.
    #[napi]
    pub fn reject(
        &self,
        fault: Option<String>,
        code: Option<String>,
        message: String,
        words: Option<String>,
        host: f64,
        retry_after_ms: Option<f64>,
    ) -> napi::Result<()> {
        // Made first: if the answer comes too late, the token's end lets JavaScript forget its error.
        let token = Token::new(&self.port, host);
        let fault = match fault.as_deref() {
            Some("arguments") => Fault::Arguments,
            Some("result") => Fault::Result,
            _ => Fault::Raised,
        };
        let code = code.as_deref().and_then(Code::from_name);
        let retry_after_ms = retry_after_ms.map(|ms| ms as u64);
        let mut error = self.answer.error_of(Raised { message, fault, code, retry_after_ms });
        if let Some(words) = words.and_then(|words| serde_json::from_str(&words).ok()) {
            error = error.with_host_words(words);
        }
        throwing(self.answer.reject(error.with_host(token)))
    }

    /// Gives a piece of a model's answer. `false`: there is no room now.
    #[napi]
    pub fn push(&self, chunk: String) -> napi::Result<bool> {
        throwing(self.answer.try_push(&chunk).map(|pushed| pushed == Pushed::Taken))
    }

    /// As `push`; the ticket is settled once there was room.
    #[napi]
    pub fn push_later(&self, chunk: String, ticket: f64) {
        let Some(engine) = self.home.upgrade() else {
            drop(Ticket::new(&self.port, ticket));
            return;
        };
        let answer = self.answer.clone();
        settle(&self.port, &engine, ticket, async move {
            answer.push_async(&chunk).await?;
            Ok((Payload::None, None))
        });
    }

    /// Ends a provider's stream.
    #[napi]
    pub fn finish(&self) -> napi::Result<()> {
        throwing(self.answer.finish())
    }

    /// Tells how far the call is.
    #[napi]
    pub fn progress(&self, data: String) -> napi::Result<()> {
        throwing(self.answer.progress(&data))
    }

    /// Tells the run's readers something.
    #[napi]
    pub fn custom(&self, name: String, data: String, durable: bool) -> napi::Result<()> {
        throwing(self.answer.custom(&name, &data, durable))
    }

    /// Whether the answer is not wanted any more.
    #[napi(getter)]
    pub fn cancelled(&self) -> bool {
        self.answer.is_cancelled()
    }

    /// Whether an answer was given.
    #[napi(getter)]
    pub fn answered(&self) -> bool {
        self.answer.is_answered()
    }

    /// Has a `Cancel` message with this number sent once the answer is not wanted any more.
    #[napi]
    pub fn on_cancel(&self, id: f64) {
        let port = self.port.clone();
        self.answer.on_cancel(move || port.post(Message::Cancel(id)));
    }
}
