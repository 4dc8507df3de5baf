//! TLS: rustls with ring and the system's authorities. Nothing process-wide is touched, since the process is the host's.

use std::sync::Arc;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
#[cfg(feature = "_http")]
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

/// How to speak TLS, with these authorities trusted beside the system's.
///
/// # Errors
/// `argument_invalid` where there is no authority at all.
pub(crate) fn config(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(authorities, provider.clone()).map_err(|error| {
        let message = format!("no certificate authority to trust: {error}. Install the system's, or set ca_file");
        Error::new(codes::ARGUMENT_INVALID, message)
    })?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(codes::INTERNAL, format!("ring lacks the default TLS versions: {error}")))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The certificates of a PEM text; `origin` names it in errors.
#[cfg(feature = "_http")]
pub(crate) fn certificates(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::new(codes::ARGUMENT_INVALID, format!("{origin} is not valid PEM: {error}")))?;
    if found.is_empty() {
        return Err(Error::new(codes::ARGUMENT_INVALID, format!("{origin} holds no CERTIFICATE section")));
    }
    Ok(found)
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
