//! The way to a server: by name or address, through a proxy where one is set, with TLS where the address asks for it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::codes;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;

use super::tls;
use crate::Secret;

/// How often a connection on which nothing is said asks whether the other end is still there. Networks forget silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What bytes go through.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection without its protocol.
pub(crate) struct Wire {
    pub(crate) socket: Box<dyn Socket>,
    /// Whether both ends agreed on HTTP/2.
    pub(crate) is_http2: bool,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The way to one server.
pub(crate) struct Route {
    server: Uri,
    tls: Option<TlsConnector>,
    proxy: Option<Proxy>,
    tcp: HttpConnector,
}

struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

impl Route {
    /// The way to `server`. `proxy` is an address, or `none`; absent: what the environment and the system say.
    ///
    /// # Errors
    /// `argument_invalid`, naming the setting.
    pub(crate) fn new(server: Uri, proxy: Option<&Secret>, authorities: Vec<CertificateDer<'static>>) -> Result<Self> {
        let proxies = match proxy.map(Secret::expose) {
            None => Some(Matcher::from_system()),
            Some("none") => None,
            Some(address) => Some(explicit(address)?),
        };
        let intercept = proxies.and_then(|proxies| proxies.intercept(&server));
        let (server_tls, proxy_tls) = (is_tls(&server), intercept.as_ref().is_some_and(|proxy| is_tls(proxy.uri())));
        // The system's authorities take longer to read than an engine to start, and a container that has none can still reach a model
        // server over plain HTTP.
        let tls = if server_tls || proxy_tls { Some(tls::config(authorities)?) } else { None };
        let offering = |protocols: &[&[u8]]| {
            let mut config: ClientConfig = tls.clone()?;
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Some(TlsConnector::from(Arc::new(config)))
        };
        let proxy = match intercept {
            None => None,
            Some(proxy) if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) => {
                let scheme = proxy.uri().scheme_str().unwrap_or_default();
                let message = format!(
                    "the environment names a {scheme} proxy, and only http and https ones are supported: set proxy to one, or to `none`"
                );
                return Err(Error::new(codes::ARGUMENT_INVALID, message).with("scheme", scheme));
            }
            Some(proxy) => Some(Proxy {
                uri: proxy.uri().clone(),
                authorization: proxy.basic_auth().cloned(),
                tls: if proxy_tls { offering(&[]) } else { None },
            }),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(3));
        let tls = if server_tls { offering(&[b"h2", b"http/1.1"]) } else { None };
        Ok(Self { server, tls, proxy, tcp })
    }

    /// Whether requests go to a proxy that makes them again, so that they need the whole address, and with which authorization.
    pub(crate) fn forwarder(&self) -> Option<Option<&HeaderValue>> {
        self.proxy.as_ref().filter(|_| self.tls.is_none()).map(|proxy| proxy.authorization.as_ref())
    }

    /// Goes all the way.
    pub(crate) async fn connect(&self) -> std::result::Result<Wire, Cause> {
        let mut step = Step { tcp: self.tcp.clone(), tls: self.proxy.as_ref().and_then(|proxy| proxy.tls.clone()) };
        let socket = match (&self.proxy, &self.tls) {
            (None, _) => step.call(self.server.clone()).await?,
            (Some(proxy), None) => step.call(proxy.uri.clone()).await?,
            (Some(proxy), Some(_)) => {
                let mut tunnel = Tunnel::new(proxy.uri.clone(), step);
                if let Some(authorization) = &proxy.authorization {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                tunnel.call(self.server.clone()).await?
            }
        };
        match &self.tls {
            None => Ok(Wire { socket: socket.into_inner(), is_http2: false }),
            Some(tls) => secured(tls, &self.server, socket.into_inner()).await,
        }
    }
}

/// A proxy that the settings name.
fn explicit(address: &str) -> Result<Matcher> {
    // The address may carry a password, so errors do not repeat it.
    let refused =
        || Error::new(codes::ARGUMENT_INVALID, "proxy must be `none` or an address such as http://proxy.example:3128");
    let url = Url::parse(address).map_err(|_| refused())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused().with("scheme", url.scheme()));
    }
    Ok(Matcher::builder().all(String::from(url)).build())
}

fn is_tls(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

async fn secured(tls: &TlsConnector, server: &Uri, socket: Box<dyn Socket>) -> std::result::Result<Wire, Cause> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = tls.connect(ServerName::try_from(host.to_owned())?, socket).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Wire { socket: Box::new(stream), is_http2 })
}

/// The first step of the way: to the server, or to the proxy.
#[derive(Clone)]
struct Step {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
}

impl Service<Uri> for Step {
    type Response = TokioIo<Box<dyn Socket>>;
    type Error = Cause;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, tls) = (self.tcp.call(to.clone()), self.tls.clone());
        Box::pin(async move {
            let socket: Box<dyn Socket> = Box::new(connecting.await?.into_inner());
            let socket = match tls {
                None => socket,
                Some(tls) => secured(&tls, &to, socket).await?.socket,
            };
            Ok(TokioIo::new(socket))
        })
    }
}
