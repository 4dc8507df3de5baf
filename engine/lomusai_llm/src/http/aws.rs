//! Signatures of requests to AWS (Signature Version 4), by AWS's own signer.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use url::Url;

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

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// The key of AWS's published test suite for signatures.
    const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30, 12:36:00 UTC: its time.
    const NOW: Duration = Duration::from_secs(1_440_938_160);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sha(text: &[u8]) -> String {
        hex(&Sha256::digest(text))
    }

    fn hmac(key: &[u8], text: &str) -> Vec<u8> {
        let pad = |byte: u8| -> Vec<u8> { (0..64).map(|place| key.get(place).copied().unwrap_or(0) ^ byte).collect() };
        let inner = Sha256::digest([pad(0x36).as_slice(), text.as_bytes()].concat());
        Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).to_vec()
    }

    /// The signature of a canonical request, computed here once more from AWS's description.
    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
    fn signature(canonical: &str, service: &str) -> String {
        let scope = format!("20150830/us-east-1/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n20150830T123600Z\n{scope}\n{}", sha(canonical.as_bytes()));
        let key = ["20150830", "us-east-1", service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{KEY}").into_bytes(), |key, part| hmac(&key, part));
        hex(&hmac(&key, &text))
    }

    #[test]
    fn a_request_is_signed_as_aws_describes_it() {
        // The published case `get-vanilla`.
        let vanilla = "GET\n/\n\nhost:example.amazonaws.com\nx-amz-date:20150830T123600Z\n\nhost;x-amz-date\n";
        let vanilla = format!("{vanilla}{}", sha(b""));
        assert_eq!(signature(&vanilla, "service"), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");

        let mut config = ProviderConfig::new("https://example.amazonaws.com");
        config.region = Some("us-east-1".into());
        (config.access_key_id, config.secret_access_key, config.session_token) =
            (Some("AKIDEXAMPLE".into()), Some(KEY.into()), Some("session+token/==".into()));
        let kind = Kind::named("bedrock").unwrap();
        let (signer, _) = Signer::new(kind, &config).unwrap();
        // As the endpoint writes it: the colon of a model's version is escaped in the path, and in what is signed once more.
        let url = Url::parse("https://example.amazonaws.com/model/amazon.nova-lite-v1%3A0/converse").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = br#"{"messages":[]}"#;
        let signed = signer.signed(&url, headers, body, NOW).unwrap();
        let header = |name: &str| signed[name].to_str().unwrap();
        assert_eq!(header("x-amz-date"), "20150830T123600Z");
        assert_eq!(header("x-amz-security-token"), "session+token/==");

        let (begin, given) = header("authorization").split_once(", Signature=").unwrap();
        let (credential, names) = begin.split_once(", SignedHeaders=").unwrap();
        assert_eq!(credential, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request");
        let known: String = names
            .split(';')
            .map(|name| match name {
                "host" => "host:example.amazonaws.com\n".to_owned(),
                name => format!("{name}:{}\n", header(name)),
            })
            .collect();
        for name in ["host", "content-type", "x-amz-date", "x-amz-security-token"] {
            assert!(names.split(';').any(|signed| signed == name), "{name} is not signed: {names}");
        }
        let path = "/model/amazon.nova-lite-v1%253A0/converse";
        let canonical = format!("POST\n{path}\n\n{known}\n{names}\n{}", sha(body));
        assert_eq!(given, signature(&canonical, "bedrock"));
        assert!(signed["authorization"].is_sensitive());
    }
}
