//! A client for one server: takes a connection that is open or makes one, and sends again what a closed one did not.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use hyper::body::Bytes;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use url::Url;

use super::connection::{Answer, Body, Connection};
use super::pool::Pool;
use super::route::Route;
use crate::Secret;

/// How to reach a server.
pub(crate) struct Reach<'a> {
    pub(crate) base_url: &'a Url,
    /// An address, or `none`. Absent: what the environment says.
    pub(crate) proxy: Option<&'a Secret>,
    /// Authorities to trust beside the system's.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) connect_timeout: Duration,
}

/// A client for one server.
pub(crate) struct Client {
    route: Route,
    connect_timeout: Duration,
    host: HeaderValue,
    pool: Arc<Pool>,
}

/// An address of the server, as requests carry it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    whole: Uri,
    path: Uri,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No connection in the time for it.
    TimedOut,
    /// No connection.
    Unreachable(Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke before the head of the answer.
    Broken(hyper::Error),
}

/// An answer whose head has come. Dropping it before its end closes the connection.
pub(crate) struct Response {
    answer: Answer,
    pool: Arc<Pool>,
}

impl Target {
    /// # Errors
    /// `argument_invalid` where no request can carry the address.
    pub(crate) fn new(url: &Url) -> Result<Self> {
        let whole: Uri = url.as_str().parse().map_err(|error| {
            let host = url.host_str().unwrap_or_default();
            Error::new(codes::ARGUMENT_INVALID, format!("an address of {host} cannot be sent: {error}"))
        })?;
        let root = || PathAndQuery::from_static("/");
        let path = Uri::from(whole.path_and_query().cloned().unwrap_or_else(root));
        Ok(Self { whole, path })
    }
}

impl Client {
    /// A client for the server of an address.
    ///
    /// # Errors
    /// `argument_invalid`, naming the setting.
    pub(crate) fn new(reach: Reach<'_>) -> Result<Self> {
        let Reach { base_url, proxy, authorities, connect_timeout } = reach;
        let server = Target::new(base_url)?.whole;
        let host = base_url.host_str().unwrap_or_default();
        let host = base_url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let host = HeaderValue::try_from(host)
            .map_err(|_| Error::new(codes::ARGUMENT_INVALID, "the host of base_url cannot be sent"))?;
        let route = Route::new(server, proxy, authorities)?;
        Ok(Self { route, connect_timeout, host, pool: Arc::default() })
    }

    /// Sends a request and waits for the head of the answer. Must be called within a tokio runtime. Dropping the future ends the request.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &HeaderMap,
        body: Bytes,
    ) -> std::result::Result<Response, Failed> {
        loop {
            let (connection, is_new) = match self.pool.take() {
                Some(connection) => (connection, false),
                // Boxed: a request seldom needs it, and there may be thousands.
                None => (Box::pin(self.connect()).await?, true),
            };
            let request = self.request(&connection, &method, target, headers.clone(), body.clone());
            match connection.send(request).await {
                Ok(answer) => return Ok(Response { answer, pool: self.pool.clone() }),
                // It was closed while it waited.
                Err(unanswered) if unanswered.is_unprocessed && !is_new => {}
                Err(unanswered) => return Err(Failed::Broken(unanswered.error)),
            }
        }
    }

    fn request(
        &self,
        connection: &Connection,
        method: &Method,
        target: &Target,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Request<Body> {
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = method.clone();
        let is_http1 = matches!(connection, Connection::Http1(_));
        let forwarder = self.route.forwarder();
        *request.uri_mut() = if is_http1 && forwarder.is_none() { &target.path } else { &target.whole }.clone();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("lomusai/", env!("CARGO_PKG_VERSION"))));
        if is_http1 {
            headers.entry(HOST).or_insert_with(|| self.host.clone());
        } else {
            *request.version_mut() = Version::HTTP_2;
        }
        if let Some(authorization) = forwarder.flatten() {
            headers.entry(PROXY_AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        *request.headers_mut() = headers;
        request
    }

    async fn connect(&self) -> std::result::Result<Connection, Failed> {
        let wire = timeout(self.connect_timeout, self.route.connect()).await.map_err(|_| Failed::TimedOut)?;
        let connection = Connection::new(wire.map_err(Failed::Unreachable)?).await.map_err(Failed::Broken)?;
        Ok(self.pool.share(connection))
    }
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.head.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.answer.head.headers
    }

    /// The next piece of the body, or nothing at its end.
    pub(crate) async fn piece(&mut self) -> hyper::Result<Option<Bytes>> {
        let piece = self.answer.piece().await;
        if let Some(idle) = self.answer.take_idle() {
            self.pool.park(idle);
        }
        piece
    }
}
