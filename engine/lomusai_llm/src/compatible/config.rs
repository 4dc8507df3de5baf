//! What the provider is told: where the server is, what opens it, and how long to wait. Checked once, when the provider is made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::Secret;
use crate::http::client::{self, Reach};
use crate::http::endpoint::Endpoint;

/// Settings of a [`Compatible`](super::Compatible) provider. Only `base_url` is needed.
///
/// They are read from JSON but never written: they hold keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CompatibleConfig {
    /// The address up to, and without, `/chat/completions`: `https://api.openai.com/v1`. A slash at its end does no harm; a query is kept.
    pub base_url: String,
    /// Sent as `Authorization: Bearer …`. A server that wants none gets none.
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// The environment variable that holds the key, read when the provider is made. Not looked at where `api_key` is set.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Headers for every request. They replace those of the same name that the provider would send.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// The model for requests that name none. Without either, the server chooses.
    #[serde(default)]
    pub model: Option<String>,
    /// The address of a proxy for all requests, or `none`. Default: what `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` and the system say.
    #[serde(default)]
    pub proxy: Option<Secret>,
    /// A PEM file of certificate authorities to trust beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The same, as text.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// How long to wait.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Most bytes in one event of a stream, or in an answer that is none. Default 16 MiB.
    #[serde(default = "max_event_bytes")]
    pub max_event_bytes: usize,
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

impl CompatibleConfig {
    /// The server at this address, with the defaults for the rest.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            api_key_env: None,
            headers: BTreeMap::new(),
            model: None,
            proxy: None,
            ca_file: None,
            ca_pem: None,
            timeouts: Timeouts::default(),
            max_event_bytes: max_event_bytes(),
        }
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let base_url = self.url()?;
        let key = self.key()?;
        let headers = self.headers(key.as_ref())?;
        let client = client::client(Reach {
            base_url: &base_url,
            proxy: self.proxy.as_ref(),
            authorities: self.authorities()?,
            connect_timeout: above_zero("timeouts.connect_ms", self.timeouts.connect_ms)?,
        })?;
        let mut url = base_url;
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(["chat", "completions"]);
        // A server may quote a token without the `Bearer` before it.
        let tokens = self.headers.values().filter_map(|value| value.expose().rsplit(' ').next()).map(Secret::from);
        let secrets = key.into_iter().chain(tokens).collect();
        let idle = above_zero("timeouts.idle_ms", self.timeouts.idle_ms)?;
        Ok(Endpoint { client, url, headers, secrets, idle })
    }

    fn url(&self) -> Result<Url> {
        let invalid = |why: &str| {
            Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("base_url {why}; give one such as http://localhost:8080/v1"),
            ))
        };
        let url = match Url::parse(self.base_url.trim()) {
            Ok(url) => url,
            Err(error) => return invalid(&format!("{:?} is not an address: {error}", self.base_url)),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not carry a user name or password: use api_key or headers");
        }
        if !matches!(url.scheme(), "http" | "https") {
            return invalid(&format!("{:?} must begin with http:// or https://", self.base_url));
        }
        Ok(url)
    }

    fn key(&self) -> Result<Option<Secret>> {
        if let Some(key) = &self.api_key {
            return Ok(Some(Secret::new(key.expose().trim())));
        }
        let Some(variable) = &self.api_key_env else { return Ok(None) };
        match std::env::var(variable) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(Secret::new(key.trim()))),
            _ => Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!("the environment variable {variable} is to hold the API key, and is not set"),
            )
            .with("variable", variable.as_str())),
        }
    }

    fn headers(&self, key: Option<&Secret>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Both, since a server may ignore `stream` and answer at once.
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, value("api_key", &format!("Bearer {}", key.expose()))?);
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
            found.extend(client::certificates(&pem, &format!("ca_file {}", path.display()))?);
        }
        if let Some(pem) = &self.ca_pem {
            found.extend(client::certificates(pem.as_bytes(), "ca_pem")?);
        }
        Ok(found)
    }
}

fn max_event_bytes() -> usize {
    16 * 1024 * 1024
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
