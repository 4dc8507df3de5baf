//! Any server that speaks OpenAI's Chat Completions: hosted models, gateways, llama.cpp, vLLM and their like.
//! Always asks for a stream; a server that answers with one JSON body is understood as well.

mod config;
mod errors;
mod request;
// For the recorded traffic, which is replayed without a network. Not part of the API.
#[doc(hidden)]
pub mod response;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ModelChunk, ModelRequest};
use tokio::time::{Instant, timeout, timeout_at};

use crate::http::endpoint::{Endpoint, Reply};
use response::Decoder;

pub use config::{CompatibleConfig, Timeouts};

/// The name under which [`ModelSettings::provider`](lomusai_wire::ModelSettings::provider) holds fields for this provider, and a
/// message's metadata what it said about the answer.
pub const NAME: &str = "compatible";

/// Once the model has said why it stopped, only its usage is still to come: not worth a longer wait.
const AFTER_FINISH: Duration = Duration::from_secs(5);

/// How long a connection may take to end after the answer did. One that is read to its end is used again.
const AFTER_DONE: Duration = Duration::from_millis(50);

/// Most bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A provider over any OpenAI-compatible server.
///
/// Fields in `settings.provider.compatible` are added to the request as they are; they replace those of the same name, and
/// `null` takes one out: `{"max_tokens": null, "max_completion_tokens": 500}`.
///
/// Calls must be made within a tokio runtime with time and I/O enabled; the engine has one. Dropping the stream, or the
/// future that would give it, closes the connection, so that the server can stop.
///
/// # Errors
/// | code | when |
/// |---|---|
/// | `provider_rejected` | 400, 404, 422 and other 4xx: the request can never succeed as it is |
/// | `credentials_rejected` | 401, 403 |
/// | `provider_rate_limited` | 429, with `retry_after_ms` where the server said so |
/// | `provider_failed` | 408, 409, 5xx, or an error within the stream |
/// | `provider_unreachable` | no connection: name, route, TLS or [`Timeouts::connect_ms`] |
/// | `model_timeout` | nothing for [`Timeouts::idle_ms`] |
/// | `stream_truncated` | the answer broke off |
/// | `provider_response_invalid` | the answer is not what the API promises |
/// | `run_cancelled` | the call's token was cancelled |
///
/// The status is in the details as `status`, the server's own code as `provider_code`.
///
/// # Example: a server on this machine
/// ```
/// use lomusai_llm::compatible::{Compatible, CompatibleConfig};
///
/// let mut config = CompatibleConfig::new("http://localhost:8080/v1");
/// config.model = Some("qwen3".into());
/// let provider = Compatible::new(config)?;
/// # Ok::<(), lomusai_core::Error>(())
/// ```
pub struct Compatible {
    endpoint: Arc<Endpoint>,
    model: String,
    max_event_bytes: usize,
}

impl Compatible {
    /// Checks the settings and makes a client. Nothing is sent yet.
    ///
    /// # Errors
    /// `argument_invalid`, naming the setting.
    pub fn new(config: CompatibleConfig) -> Result<Self> {
        Ok(Self {
            endpoint: Arc::new(config.endpoint()?),
            model: config.model.unwrap_or_default(),
            max_event_bytes: config.max_event_bytes,
        })
    }

    async fn ask(&self, context: CallContext, request: Arc<ModelRequest>) -> Result<ModelStream> {
        let body = request::body(&request, &self.model)?;
        let reply = self.endpoint.post(body, &context.cancel).await?;
        if !(200..300).contains(&reply.status()) {
            return Err(errors::of_reply(reply).await);
        }
        let answer = Answer {
            reply,
            decoder: Decoder::new(self.max_event_bytes),
            ready: VecDeque::new(),
            failed: None,
            ended: false,
            until: None,
            endpoint: self.endpoint.clone(),
        };
        Ok(Box::pin(stream::unfold(answer, |mut answer| async move {
            let next = answer.next().await;
            next.map(|chunk| (chunk, answer))
        })))
    }
}

impl LlmProvider for Compatible {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move { self.ask(context, request).await.map_err(|error| self.endpoint.scrub(error)) })
    }
}

impl fmt::Debug for Compatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compatible")
            .field("host", &self.endpoint.url.host_str().unwrap_or_default())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// An answer that is being read.
struct Answer {
    reply: Reply,
    decoder: Decoder,
    ready: VecDeque<ModelChunk>,
    /// What went wrong, to be told after the chunks that are ready.
    failed: Option<Error>,
    /// Nothing more is to be read.
    ended: bool,
    /// When to stop waiting for what may follow the finish.
    until: Option<Instant>,
    endpoint: Arc<Endpoint>,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<ModelChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                if matches!(chunk, ModelChunk::Finish { .. }) {
                    self.let_end().await;
                }
                return Some(Ok(chunk));
            }
            if let Some(error) = self.failed.take() {
                self.ended = true;
                return Some(Err(self.endpoint.scrub(error)));
            }
            if self.ended || self.decoder.is_done() {
                return None;
            }
            self.failed = self.read().await.err();
        }
    }

    async fn read(&mut self) -> Result<()> {
        let piece = match self.decoder.has_finish() {
            false => self.reply.piece().await?,
            true => {
                let until = *self.until.get_or_insert_with(|| Instant::now() + AFTER_FINISH);
                // The answer is complete; a bad end only costs its usage.
                timeout_at(until, self.reply.piece()).await.unwrap_or(Ok(None)).unwrap_or(None)
            }
        };
        match piece {
            Some(piece) => self.decoder.push(piece.as_ref(), &mut self.ready),
            None => {
                self.ended = true;
                self.decoder.end(&mut self.ready)
            }
        }
    }

    /// Reads the end of the body, so that the connection goes back to the pool.
    async fn let_end(&mut self) {
        let rest = async { while !self.ended && matches!(self.reply.piece().await, Ok(Some(_))) {} };
        let _ = timeout(AFTER_DONE, rest).await;
        self.ended = true;
    }
}
