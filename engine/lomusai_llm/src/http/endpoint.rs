//! A place to post to: sends a body and reads the answer piece by piece, within the time between pieces and until cancelled.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use lomusai_core::cancel::{CancelToken, Cancelled};
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use reqwest::Url;
use reqwest::header::HeaderMap;
use tokio::time::{Instant, Sleep, sleep_until};

use super::failure;
use crate::Secret;

/// Where requests go and what goes with each.
pub(crate) struct Endpoint {
    pub(crate) client: reqwest::Client,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// What must not show in an error, should the server quote it.
    pub(crate) secrets: Vec<Secret>,
    /// Longest wait for the head of an answer, and for each piece of it.
    pub(crate) idle: Duration,
}

/// An answer whose head has come. Dropping it closes the connection.
pub(crate) struct Reply {
    response: reqwest::Response,
    patience: Patience,
}

impl Endpoint {
    /// Sends a body and waits for the head of the answer. Dropping the future ends the request.
    pub(crate) async fn post(&self, body: Vec<u8>, cancel: &CancelToken) -> Result<Reply> {
        // Checked here, since hyper would panic. Async hosts without tokio are real.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(codes::UNSUPPORTED, "a provider over HTTP must be called within a tokio runtime"));
        }
        let mut patience = Patience::new(self.host(), self.idle, cancel);
        let sending = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body).send();
        let response =
            patience.wait(sending).await?.map_err(|error| failure::of_transport(&patience.host, error))?;
        Ok(Reply { response, patience })
    }

    /// The error without any secret that the server may have quoted.
    pub(crate) fn scrub(&self, error: Error) -> Error {
        let mut body = error.body().clone();
        for secret in &self.secrets {
            body.message = secret.scrub(&body.message);
            for detail in body.details.values_mut() {
                if let serde_json::Value::String(text) = detail {
                    *text = secret.scrub(text);
                }
            }
        }
        body.into()
    }

    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl Reply {
    /// The status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Whom the answer is from, for errors.
    pub(crate) fn host(&self) -> &str {
        &self.patience.host
    }

    /// The next piece, or nothing at the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>> {
        self.patience.wait(self.response.chunk()).await?.map_err(|error| {
            let why = failure::causes(&error.without_url());
            let message = format!("the answer of {} broke off: {why}", self.patience.host);
            Error::new(codes::STREAM_TRUNCATED, message)
        })
    }

    /// The rest as text, cut off after `bytes_max`. What cannot be read is left out: a bad end must not hide what was said.
    pub(crate) async fn text(mut self, bytes_max: usize) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < bytes_max {
            match self.piece().await {
                Ok(Some(piece)) => bytes.extend_from_slice(piece.as_ref()),
                _ => break,
            }
        }
        bytes.truncate(bytes_max);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// How long a server is waited for: at most so long for each thing it sends, and until cancelled.
struct Patience {
    host: String,
    idle: Duration,
    cancel: CancelToken,
    cancelled: Cancelled,
    /// Rings when the server may have been silent for too long. It is set once for many pieces, and again when it rings too early.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(host: String, idle: Duration, cancel: &CancelToken) -> Self {
        Self { host, idle, cancel: cancel.clone(), cancelled: cancel.cancelled(), alarm: None }
    }

    async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        // What is there already needs neither the alarm nor a listener: most pieces of a fast stream are.
        if !self.cancel.is_cancelled()
            && let Poll::Ready(done) = poll!(&mut work)
        {
            return Ok(done);
        }
        let until = Instant::now() + self.idle;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            tokio::select! {
                biased;
                () = &mut self.cancelled => return Err(Error::new(codes::RUN_CANCELLED, "the model call was cancelled")),
                done = &mut work => return Ok(done),
                () = &mut *alarm => {
                    if Instant::now() < until {
                        alarm.as_mut().reset(until);
                        continue;
                    }
                    let message = format!("{} sent nothing for timeouts.idle_ms = {}", self.host, self.idle.as_millis());
                    return Err(Error::new(codes::MODEL_TIMEOUT, message).with("host", self.host.as_str()));
                }
            }
        }
    }
}
