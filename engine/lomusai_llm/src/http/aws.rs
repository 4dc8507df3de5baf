//! Signatures of requests to AWS (Signature Version 4), by AWS's own signer.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::config::environment;
use crate::kinds::Kind;
use crate::{ProviderConfig, Secret};

/// What signs requests.
pub(crate) struct Signer {
    identity: Identity,
    region: String,
}

impl Signer {
    /// The signer of these settings, and the secrets that it holds.
    ///
    /// # Errors
    /// `argument_invalid`, naming the setting and the environment variable.
    pub(crate) fn new(kind: &Kind, config: &ProviderConfig) -> Result<(Self, Vec<Secret>)> {
        let secret = |setting: &Option<Secret>, variable: &str| {
            setting.clone().or_else(|| environment(variable).map(Secret::from))
        };
        let needed = |setting: &Option<Secret>, name: &str, variable: &str| {
            secret(setting, variable).ok_or_else(|| {
                let message = format!(
                    "the provider `{}` needs AWS credentials: set the environment variable {variable}, or {name}; or a bearer token in {}",
                    kind.name,
                    kind.key_env.first().copied().unwrap_or_default()
                );
                Error::new(codes::ARGUMENT_INVALID, message).with("variable", variable).with("provider", kind.name)
            })
        };
        let id = needed(&config.access_key_id, "access_key_id", "AWS_ACCESS_KEY_ID")?;
        let key = needed(&config.secret_access_key, "secret_access_key", "AWS_SECRET_ACCESS_KEY")?;
        let token = secret(&config.session_token, "AWS_SESSION_TOKEN");
        let region = kind.region(config)?;
        let token_text = token.as_ref().map(|token| token.expose().to_owned());
        let credentials = Credentials::new(id.expose(), key.expose(), token_text, None, "lomusai");
        let secrets = [Some(id), Some(key), token].into_iter().flatten().collect();
        Ok((Self { identity: credentials.into(), region }, secrets))
    }

    /// The headers with the signature among them.
    pub(crate) fn signed(&self, url: &Url, mut headers: HeaderMap, body: &[u8], now: Duration) -> Result<HeaderMap> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::new(codes::ARGUMENT_INVALID, format!("the request cannot be signed: {error}"))
        };
        let params = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name("bedrock")
            .time(SystemTime::UNIX_EPOCH + now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(&error))?
            .into();
        let known = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let request = SignableRequest::new("POST", url.as_str(), known, SignableBody::Bytes(body))
            .map_err(|error| wrong(&error))?;
        let (instructions, _) = sign(request, &params).map_err(|error| wrong(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            let (name, mut value) = (
                name.parse::<HeaderName>().map_err(|error| wrong(&error))?,
                value.parse::<HeaderValue>().map_err(|error| wrong(&error))?,
            );
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}
