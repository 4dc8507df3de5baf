//! A place to post to: sends a body and reads the answer piece by piece, within the time between pieces and until cancelled.

use std::borrow::Cow;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use http::{HeaderMap, HeaderValue, Method};
use hyper::body::Bytes;
use lomusai_core::cancel::{CancelToken, Cancelled};
use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use tokio::time::{Instant, Sleep, sleep_until};
use url::Url;

use super::causes::causes;
use super::client::{Client, Response, Target};
use super::failure;
use crate::Secret;
use crate::wire::Post;

/// Where requests go and what goes with each.
pub(crate) struct Endpoint {
    pub(crate) client: Client,
    pub(crate) base_url: Url,
    pub(crate) headers: HeaderMap,
    /// What must not show in an error, should the server quote it.
    pub(crate) secrets: Vec<Secret>,
    /// Longest wait for the head of an answer, and for each piece of it.
    pub(crate) idle: Duration,
    /// Most bytes of one answer.
    pub(crate) bytes_max: u64,
    #[cfg(feature = "bedrock")]
    pub(crate) is_aws: bool,
    /// What signs each request, where one does.
    #[cfg(feature = "bedrock")]
    pub(crate) signer: Option<super::aws::Signer>,
    /// Where the last request went.
    pub(crate) last: Mutex<Option<Arc<Place>>>,
}

/// An address that was put together for a request.
pub(crate) struct Place {
    path: Vec<String>,
    query: &'static [(&'static str, &'static str)],
    url: Url,
    target: Target,
}

/// An answer whose head has come. Dropping it closes the connection.
pub(crate) struct Reply {
    response: Response,
    patience: Patience,
    bytes: u64,
    bytes_max: u64,
}

impl Endpoint {
    /// Posts, and waits for the head of the answer. Dropping the future ends the request.
    pub(crate) async fn post(&self, post: Post, cancel: &CancelToken) -> Result<Reply> {
        // Checked here, since hyper would panic. Async hosts without tokio are real.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(codes::UNSUPPORTED, "a provider over HTTP must be called within a tokio runtime"));
        }
        let mut patience = Patience::new(self.host(), self.idle, cancel);
        let place = self.place(&post)?;
        let headers = with_more(self.headers_for(&place.url, &post.body)?, post.headers);
        let sending = self.client.send(Method::POST, &place.target, &headers, Bytes::from(post.body));
        let response = patience.wait(sending).await?.map_err(|failed| failure::of_transport(&patience.host, failed))?;
        Ok(Reply { response, patience, bytes: 0, bytes_max: self.bytes_max })
    }

    /// Where a request goes: mostly where the one before it went.
    fn place(&self, post: &Post) -> Result<Arc<Place>> {
        let mut last = self.last.lock();
        if let Some(place) = last.as_ref().filter(|place| place.path == post.path && place.query == post.query) {
            return Ok(place.clone());
        }
        let url = self.url(post);
        let target = Target::new(&url)?;
        Ok(last.insert(Arc::new(Place { path: post.path.clone(), query: post.query, url, target })).clone())
    }

    fn url(&self, post: &Post) -> Url {
        let mut url = self.base_url.clone();
        // Some write the version at the end of the base URL, some leave it out.
        let last = url
            .path_segments()
            .and_then(|mut segments| segments.rfind(|segment| !segment.is_empty()))
            .map(str::to_owned);
        let path = match post.path.split_first() {
            Some((first, rest)) if last.as_ref() == Some(first) => rest,
            _ => &post.path,
        };
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(path);
        // AWS's own clients do, and what is signed is what is sent.
        #[cfg(feature = "bedrock")]
        if self.is_aws {
            url.set_path(&url.path().replace(':', "%3A"));
        }
        if !post.query.is_empty() {
            url.query_pairs_mut().extend_pairs(post.query);
        }
        url
    }

    #[cfg(not(feature = "bedrock"))]
    fn headers_for(&self, _: &Url, _: &[u8]) -> Result<Cow<'_, HeaderMap>> {
        Ok(Cow::Borrowed(&self.headers))
    }

    #[cfg(feature = "bedrock")]
    fn headers_for(&self, url: &Url, body: &[u8]) -> Result<Cow<'_, HeaderMap>> {
        let Some(signer) = &self.signer else { return Ok(Cow::Borrowed(&self.headers)) };
        #[allow(clippy::disallowed_methods, reason = "AWS refuses a signature of any time but the real one")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        signer.signed(url, self.headers.clone(), body, now).map(Cow::Owned)
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
        let host = self.base_url.host_str().unwrap_or_default();
        self.base_url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
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
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = self.patience.wait(self.response.piece()).await?.map_err(|error| {
            let why = causes(&error);
            let message = format!("the answer of {} broke off: {why}", self.patience.host);
            Error::new(codes::STREAM_TRUNCATED, message)
        })?;
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.bytes > self.bytes_max {
            let (host, bytes_max) = (&self.patience.host, self.bytes_max);
            let message = format!("the answer of {host} is larger than max_response_bytes = {bytes_max}");
            return Err(Error::new(codes::PROVIDER_RESPONSE_INVALID, message));
        }
        Ok(piece)
    }

    /// The rest.
    ///
    /// # Errors
    /// As of [`piece`](Self::piece); `provider_response_invalid` where there are more than `bytes_max`.
    pub(crate) async fn bytes(mut self, bytes_max: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > bytes_max {
                let message = format!("the answer of {} is larger than max_response_bytes = {bytes_max}", self.host());
                return Err(Error::new(codes::PROVIDER_RESPONSE_INVALID, message));
            }
        }
        Ok(bytes)
    }

    /// The rest as text, cut off after `bytes_max`. What cannot be read is left out: a bad end must not hide what was said.
    pub(crate) async fn text(mut self, bytes_max: usize) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < bytes_max {
            match self.piece().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
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

/// The headers with more under the same names, as lists.
fn with_more<'a>(mut headers: Cow<'a, HeaderMap>, more: &[(&'static str, &'static str)]) -> Cow<'a, HeaderMap> {
    for (name, text) in more {
        let said = headers.get(*name).and_then(|said| said.to_str().ok()).unwrap_or_default();
        let all = if said.is_empty() { Ok(HeaderValue::from_static(text)) } else { format!("{said},{text}").parse() };
        headers.to_mut().insert(*name, all.expect("two values make one"));
    }
    headers
}
