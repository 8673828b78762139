//! TLS settings of `https` checks, made ready before a check runs: reading certificates takes time.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::model::Trust;

/// Settings by whom they trust.
pub(in crate::health) type TlsSettings = HashMap<Trust, Arc<ClientConfig>>;

/// Settings for all of `trusts`; those in `known` are taken as they are.
///
/// # Errors
/// In words, what certificates cannot be used and what to do.
pub(in crate::health) fn prepare(trusts: HashSet<Trust>, known: &TlsSettings) -> Result<TlsSettings, String> {
    let ready = |trust: Trust| match known.get(&trust) {
        Some(settings) => Ok((trust, settings.clone())),
        None => settings(&trust).map(|settings| (trust, Arc::new(settings))),
    };
    trusts.into_iter().map(ready).collect()
}

fn settings(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone { provider })),
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::File { path, certificates } => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                let added = roots.add(CertificateDer::from(certificate.as_slice()).into_owned());
                added.map_err(|error| format!("certificates of {}: {error}", path.display()))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let mut settings = builder.with_no_client_auth();
    // Each probe is to see the certificate.
    settings.resumption = Resumption::disabled();
    Ok(settings)
}

/// The host's root certificates.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or("none found".to_owned(), ToString::to_string);
        return Err(format!(
            "root certificates of this host: {cause}; install ca-certificates or give ca_file"
        ));
    }
    Ok(roots)
}

/// Believes any certificate, and still has the server prove that it holds its key.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
