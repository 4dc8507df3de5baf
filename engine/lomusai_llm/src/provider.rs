//! A model provider over HTTP: posts a request in the words of its wire, and reads the answer piece by piece.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::transcript::Accepts;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{LogLevel, ModelChunk, ModelRequest};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ProviderConfig;
use crate::http::complaint;
use crate::http::decoder::Decoder;
use crate::http::endpoint::{Endpoint, Reply};
use crate::kinds::Kind;
use crate::question::{Fitter, Question};

/// Once the model has said why it stopped, only its usage is still to come: not worth a longer wait.
const AFTER_FINISH: Duration = Duration::from_secs(5);

/// How long a connection may take to end after the answer did. One that is read to its end is used again.
const AFTER_DONE: Duration = Duration::from_millis(50);

/// A model provider over HTTP, of one of the [`KINDS`](crate::KINDS).
///
/// Fields in `settings.provider.<kind>` are added to the request as they are; they replace those of the same name, and
/// `null` takes one out: `{"max_tokens": null, "max_completion_tokens": 500}`. What the provider said about an answer is in the
/// message's metadata under the same name.
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
/// | `provider_unreachable` | no connection: name, route, TLS or [`Timeouts::connect_ms`](crate::Timeouts::connect_ms) |
/// | `model_timeout` | nothing for [`Timeouts::idle_ms`](crate::Timeouts::idle_ms) |
/// | `stream_truncated` | the answer broke off |
/// | `provider_response_invalid` | the answer is not what the API promises |
/// | `run_cancelled` | the call's token was cancelled |
///
/// The details have the kind as `provider`, the `model`, the `status`, the server's own code as `provider_code`, and its
/// `request_id` where it gave one.
///
/// # Example: a server on this machine
/// ```
/// # #[cfg(feature = "compatible")] {
/// use lomusai_llm::{Provider, ProviderConfig};
///
/// let mut config = ProviderConfig::new("http://localhost:8080/v1");
/// config.model = Some("qwen3".into());
/// let provider = Provider::new("compatible", config)?;
/// # }
/// # Ok::<(), lomusai_core::Error>(())
/// ```
pub struct Provider {
    kind: &'static Kind,
    endpoint: Arc<Endpoint>,
    model: String,
    stream: bool,
    max_event_bytes: usize,
    fitter: Fitter,
}

impl Provider {
    /// Checks the settings, reads what they leave to the environment, and makes a client. Nothing is sent yet.
    ///
    /// # Errors
    /// `provider_unknown`, naming the kinds there are; `argument_invalid`, naming the setting or the environment variable.
    pub fn new(kind: &str, config: ProviderConfig) -> Result<Self> {
        let kind = Kind::named(kind)?;
        Ok(Self {
            kind,
            endpoint: Arc::new(config.endpoint(kind)?),
            model: config.model.unwrap_or_default(),
            stream: config.stream,
            max_event_bytes: config.max_event_bytes,
            fitter: Fitter::default(),
        })
    }

    /// What kind of provider it is.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    async fn ask(&self, context: CallContext, request: Arc<ModelRequest>) -> Result<ModelStream> {
        let model = if request.model.is_empty() { &self.model } else { &request.model };
        let asked = Asked { kind: self.kind, model: model.clone(), endpoint: self.endpoint.clone() };
        self.answer(context, &request, model)
            .await
            .map(|(reply, request_id)| {
                // Boxed: an unfold moves its state in and out of every step.
                let answer = Box::new(Answer {
                    reply,
                    request_id,
                    decoder: Decoder::new(self.kind.wire.fold(self.kind.name), self.max_event_bytes),
                    ready: VecDeque::new(),
                    failed: None,
                    ended: false,
                    until: None,
                    asked: asked.clone(),
                });
                Box::pin(stream::unfold(answer, |mut answer| async move {
                    let next = answer.next().await;
                    next.map(|chunk| (chunk, answer))
                })) as ModelStream
            })
            .map_err(|error| asked.error(error, None))
    }

    async fn answer(
        &self,
        context: CallContext,
        request: &ModelRequest,
        model: &str,
    ) -> Result<(Reply, Option<String>)> {
        let wire = self.kind.wire;
        let question = Question::new(self.kind.name, model, self.stream, request, wire.schemas(model), &self.fitter);
        let post = wire.post(&question)?;
        for loss in question.losses() {
            context.log(LogLevel::Info, loss);
        }
        let reply = self.endpoint.post(post, &context.cancel).await?;
        if !(200..300).contains(&reply.status()) {
            return Err(complaint::of_reply(reply).await);
        }
        let request_id = crate::http::failure::request_id(reply.headers());
        Ok((reply, request_id))
    }
}

/// What was asked, for errors.
#[derive(Clone)]
struct Asked {
    kind: &'static Kind,
    model: String,
    endpoint: Arc<Endpoint>,
}

impl Asked {
    /// The error with what tells where it is from, and without any secret.
    fn error(&self, error: Error, request_id: Option<&str>) -> Error {
        let mut body = error.body().clone();
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                body.details.entry(name.to_owned()).or_insert_with(|| value.into());
            }
        };
        add("provider", self.kind.name);
        add("model", &self.model);
        add("request_id", request_id.unwrap_or_default());
        if let Some(way_out) = self.kind.way_out(&body) {
            body.message = format!("{}. {way_out}", body.message.trim_end_matches('.'));
        }
        self.endpoint.scrub(body.into())
    }
}

impl LlmProvider for Provider {
    fn accepts(&self) -> Accepts {
        Accepts::of(self.kind.name)
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move { self.ask(context, request).await })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("kind", &self.kind.name)
            .field("host", &self.endpoint.base_url.host_str().unwrap_or_default())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// An answer that is being read.
struct Answer {
    reply: Reply,
    request_id: Option<String>,
    decoder: Decoder,
    ready: VecDeque<ModelChunk>,
    /// What went wrong, to be told after the chunks that are ready.
    failed: Option<Error>,
    /// Nothing more is to be read.
    ended: bool,
    /// When to stop waiting for what may follow the finish.
    until: Option<Instant>,
    asked: Asked,
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
                return Some(Err(self.asked.error(error, self.request_id.as_deref())));
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
            Some(piece) => self.decoder.push(&piece, &mut self.ready),
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
