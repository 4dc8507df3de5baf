//! Builds a client: rustls with ring, the system's roots, one connection pool. Nothing process-wide is touched, since the process is the host's.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use reqwest::{Proxy, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
#[cfg(feature = "_http")]
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

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
pub(crate) fn client(reach: Reach<'_>) -> Result<reqwest::Client> {
    let Reach { base_url, proxy, authorities, connect_timeout } = reach;
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(base_url, authorities)?)
        // A redirected POST loses its body or carries the key to another host; neither helps.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_timeout)
        .user_agent(concat!("lomusai/", env!("CARGO_PKG_VERSION")));
    builder = match proxy.map(Secret::expose) {
        None => builder,
        Some("none") => builder.no_proxy(),
        Some(address) => builder.proxy(explicit_proxy(address)?),
    };
    builder.build().map_err(|error| {
        Error::new(codes::ARGUMENT_INVALID, format!("the HTTP client cannot be built: {}", error.without_url()))
    })
}

#[cfg(feature = "_http")]
/// The certificates of a PEM text; `origin` names it in errors.
pub(crate) fn certificates(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::new(codes::ARGUMENT_INVALID, format!("{origin} is not valid PEM: {error}")))?;
    if found.is_empty() {
        return Err(Error::new(codes::ARGUMENT_INVALID, format!("{origin} holds no CERTIFICATE section")));
    }
    Ok(found)
}

fn explicit_proxy(address: &str) -> Result<Proxy> {
    // The address may carry a password, so errors do not repeat it.
    let refused =
        || Error::new(codes::ARGUMENT_INVALID, "proxy must be `none` or an address such as http://proxy.example:3128");
    let url = Url::parse(address).map_err(|_| refused())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused().with("scheme", url.scheme()));
    }
    Proxy::all(url).map_err(|_| refused())
}

fn tls(base_url: &Url, authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(codes::INTERNAL, format!("ring lacks the default TLS versions: {error}")))?;
    let verifier: Arc<dyn ServerCertVerifier> = match base_url.scheme() {
        // Only a proxy could ask for it here: the system's authorities take longer to read than an engine to start, and a container
        // that has none can still reach a model server over plain HTTP.
        "http" => Arc::new(WhenAsked { authorities, provider, verifier: OnceLock::new() }),
        _ => verifier(authorities, provider).map_err(|error| {
            let message = format!("no certificate authority to trust: {error}. Install the system's, or set ca_file");
            Error::new(codes::ARGUMENT_INVALID, message)
        })?,
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A verifier that is made when a certificate has to be verified.
#[derive(Debug)]
struct WhenAsked {
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    verifier: OnceLock<std::result::Result<Arc<dyn ServerCertVerifier>, rustls::Error>>,
}

impl WhenAsked {
    fn verifier(&self) -> std::result::Result<&dyn ServerCertVerifier, rustls::Error> {
        let made = self.verifier.get_or_init(|| verifier(self.authorities.clone(), self.provider.clone()));
        made.as_deref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for WhenAsked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(not(target_os = "android"))]
fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> std::result::Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    Ok(Arc::new(Verifier::new_with_extra_roots(authorities, provider)?))
}

#[cfg(target_os = "android")]
fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> std::result::Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    if !authorities.is_empty() {
        return Err(rustls::Error::General("Android takes authorities from its settings only".into()));
    }
    Ok(Arc::new(Verifier::new(provider)?))
}
