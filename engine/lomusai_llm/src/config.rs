//! What a provider is told: where the server is, what opens it, and how long to wait. Checked once, when the provider is made.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde::Deserialize;
use url::Url;

use crate::Secret;
use crate::http::client::{Client, Reach};
use crate::http::endpoint::Endpoint;
use crate::http::tls;
use crate::kinds::{Auth, Kind};

/// Settings of a [`Provider`](crate::Provider). Every field has a default; what the kind of provider has no default for is named by the error.
///
/// They are read from JSON but never written: they hold keys.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProviderConfig {
    /// The address up to, and without, the path that the API itself fixes: `https://api.openai.com/v1`. A slash at its end does no
    /// harm; a query is kept. Default: the variable [`Kind::base_url_env`], then [`Kind::base_url`].
    pub base_url: Option<String>,
    /// The key, sent in the way of the provider. Default: the first of [`Kind::key_env`] that is set.
    pub api_key: Option<Secret>,
    /// The environment variable that holds the key, read when the provider is made. Not looked at where `api_key` is set.
    pub api_key_env: Option<String>,
    /// Headers for every request. They replace those of the same name that the provider would send.
    pub headers: BTreeMap<String, Secret>,
    /// The model for requests that name none. Without either, the server chooses.
    pub model: Option<String>,
    /// Whether answers are asked for as a stream. Default `true`. `false` is for servers that cannot, and for accounts that may not.
    pub stream: bool,
    /// The address of a proxy for all requests, or `none`. Default: what `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` and the system say.
    pub proxy: Option<Secret>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The same, as text.
    pub ca_pem: Option<String>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Most bytes in one event of a stream, or in an answer that is none. Default 16 MiB.
    pub max_event_bytes: usize,
    /// Most bytes in one whole answer. Default 256 MiB.
    pub max_response_bytes: u64,
    /// Of a provider on AWS: the region. Default: `AWS_REGION`, then `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// Of a provider on AWS: the access key id. Default: `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<Secret>,
    /// Of a provider on AWS: the secret access key. Default: `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<Secret>,
    /// Of a provider on AWS: the session token of temporary credentials. Default: `AWS_SESSION_TOKEN`.
    pub session_token: Option<Secret>,
}

/// How long to wait for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a connection, TLS included. Default 10,000.
    pub connect_ms: u64,
    /// For the beginning of an answer, and then for each piece of it. Default 120,000: some models think before they send anything.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 10_000, idle_ms: 120_000 }
    }
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            base_url: None,
            api_key: None,
            api_key_env: None,
            headers: BTreeMap::new(),
            model: None,
            stream: true,
            proxy: None,
            ca_file: None,
            ca_pem: None,
            timeouts: Timeouts::default(),
            max_event_bytes: 16 * 1024 * 1024,
            max_response_bytes: 256 * 1024 * 1024,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
        }
    }
}

impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address may carry a token, and so may what is not named here.
        f.debug_struct("ProviderConfig")
            .field("base_url", &self.base_url.as_deref().map(plain))
            .field("model", &self.model)
            .field("api_key_env", &self.api_key_env)
            .field("headers", &self.headers)
            .field("stream", &self.stream)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// An address without what may be secret in it.
fn plain(address: &str) -> &str {
    let end = address.find(['?', '#']).unwrap_or(address.len());
    let address = &address[..end];
    address.rfind('@').map_or(address, |at| &address[at + 1..])
}

impl ProviderConfig {
    /// The server at this address, with the defaults for the rest.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self { base_url: Some(base_url.into()), ..Self::default() }
    }

    pub(crate) fn endpoint(&self, kind: &Kind) -> Result<Endpoint> {
        let base_url = self.url(kind)?;
        let key = self.key(kind)?;
        let headers = self.headers(kind, key.as_ref())?;
        #[cfg(feature = "bedrock")]
        let (signer, signing) = match (&kind.auth, headers.contains_key(AUTHORIZATION)) {
            (Auth::Aws, false) => {
                crate::http::aws::Signer::new(kind, self).map(|(signer, secrets)| (Some(signer), secrets))?
            }
            _ => (None, Vec::new()),
        };
        #[cfg(not(feature = "bedrock"))]
        let signing = Vec::new();
        let client = Client::new(Reach {
            base_url: &base_url,
            proxy: self.proxy.as_ref(),
            authorities: self.authorities()?,
            connect_timeout: above_zero("timeouts.connect_ms", self.timeouts.connect_ms)?,
        })?;
        // A server may quote a token without the `Bearer` before it.
        let tokens = self.headers.values().filter_map(|value| value.expose().rsplit(' ').next()).map(Secret::from);
        // A gateway may want its token there.
        let query = base_url.query_pairs().map(|(_, value)| Secret::from(value.into_owned())).collect::<Vec<_>>();
        let secrets = key.into_iter().chain(tokens).chain(signing).chain(query).collect();
        let idle = above_zero("timeouts.idle_ms", self.timeouts.idle_ms)?;
        Ok(Endpoint {
            client,
            base_url,
            headers,
            secrets,
            idle,
            bytes_max: self.max_response_bytes,
            #[cfg(feature = "bedrock")]
            is_aws: matches!(kind.auth, Auth::Aws),
            #[cfg(feature = "bedrock")]
            signer,
            last: Mutex::default(),
        })
    }

    /// Why a provider of this kind cannot be made of these settings, as far as that can be told without making one.
    pub(crate) fn missing(&self, kind: &Kind) -> Option<String> {
        let wrong = self.key(kind).err().or_else(|| self.url(kind).err())?;
        Some(wrong.body().message.clone())
    }

    /// What of these settings must never be written anywhere.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let aws = [&self.access_key_id, &self.secret_access_key, &self.session_token];
        [&self.api_key].into_iter().chain(aws).flatten().chain(self.headers.values())
    }

    fn url(&self, kind: &Kind) -> Result<Url> {
        let from_env = || environment(kind.base_url_env);
        let (text, origin) = match (&self.base_url, from_env(), kind.base_url) {
            (Some(text), ..) if !text.trim().is_empty() => (text.clone(), "base_url"),
            (_, Some(text), _) => (text, kind.base_url_env),
            (.., Some(text)) => (kind.filled(text, self)?, "base_url"),
            _ => {
                return Err(Error::new(
                    codes::ARGUMENT_INVALID,
                    format!(
                        "base_url of the provider `{}` is missing: set it, or the environment variable {}",
                        kind.name, kind.base_url_env
                    ),
                )
                .with("variable", kind.base_url_env));
            }
        };
        let invalid = |why: &str| {
            Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("{origin} {why}; give one such as {}", kind.base_url.unwrap_or("http://localhost:8080/v1")),
            ))
        };
        let url = match Url::parse(text.trim()) {
            Ok(url) => url,
            Err(error) => return invalid(&format!("{:?} is not an address: {error}", plain(&text))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not carry a user name or password: use api_key or headers");
        }
        if !matches!(url.scheme(), "http" | "https") {
            return invalid(&format!("{:?} must begin with http:// or https://", plain(&text)));
        }
        Ok(url)
    }

    fn key(&self, kind: &Kind) -> Result<Option<Secret>> {
        if let Some(key) = &self.api_key {
            return Ok(Some(Secret::new(key.expose().trim())));
        }
        if let Some(variable) = &self.api_key_env {
            let message = format!("the environment variable {variable} is to hold the API key, and is not set");
            return match environment(variable) {
                Some(key) => Ok(Some(Secret::new(key))),
                None => Err(Error::new(codes::CREDENTIALS_MISSING, message).with("variable", variable.as_str())),
            };
        }
        if let Some(key) = kind.key_env.iter().find_map(|variable| environment(variable)) {
            return Ok(Some(Secret::new(key)));
        }
        // A header of the host's own may be what opens the server.
        let opened =
            kind.auth.header().is_some_and(|name| self.headers.keys().any(|key| key.eq_ignore_ascii_case(name)));
        if !kind.needs_key || opened {
            return Ok(None);
        }
        let variable = kind.key_env.first().copied().unwrap_or_default();
        let message = format!(
            "the provider `{}` needs an API key: set the environment variable {variable}, or api_key",
            kind.name
        );
        Err(Error::new(codes::CREDENTIALS_MISSING, message).with("variable", variable).with("provider", kind.name))
    }

    fn headers(&self, kind: &Kind, key: Option<&Secret>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Both, since a server may ignore `stream` and answer at once.
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        for (name, text) in kind.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(text));
        }
        if let Some(key) = key {
            match kind.auth {
                Auth::Header(name) => headers.insert(HeaderName::from_static(name), value("api_key", key.expose())?),
                _ => headers.insert(AUTHORIZATION, value("api_key", &format!("Bearer {}", key.expose()))?),
            };
        }
        for (name, secret) in &self.headers {
            let header: HeaderName = name.parse().map_err(|_| {
                Error::new(codes::ARGUMENT_INVALID, format!("headers: {name:?} is not the name of a header"))
            })?;
            headers.insert(header, value(name, secret.expose())?);
        }
        Ok(headers)
    }

    fn authorities(&self) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
        let mut found = Vec::new();
        if let Some(path) = &self.ca_file {
            let pem = std::fs::read(path).map_err(|error| {
                Error::new(codes::ARGUMENT_INVALID, format!("ca_file {} cannot be read: {error}", path.display()))
            })?;
            found.extend(tls::certificates(&pem, &format!("ca_file {}", path.display()))?);
        }
        if let Some(pem) = &self.ca_pem {
            found.extend(tls::certificates(pem.as_bytes(), "ca_pem")?);
        }
        Ok(found)
    }
}

/// What a variable of the environment says, where it says anything.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn above_zero(name: &str, ms: u64) -> Result<Duration> {
    if ms == 0 {
        return Err(Error::new(codes::ARGUMENT_INVALID, format!("{name} must be over 0")));
    }
    Ok(Duration::from_millis(ms))
}

fn value(name: &str, text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::new(codes::ARGUMENT_INVALID, format!("{name} holds characters that a header cannot carry"))
    })?;
    // Kept out of the debug output of HTTP libraries, too.
    value.set_sensitive(true);
    Ok(value)
}
