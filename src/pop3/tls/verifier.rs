//! Whether a certificate proves that a server is the one meant.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{KeyPin, provider};
use crate::pop3::Error;

/// Checks certificates against what one mailbox, or the whole machine, trusts.
#[derive(Debug)]
pub(super) struct Verifier {
    anchors: Anchors,
    pin: Option<KeyPin>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Anchors {
    /// The machine's.
    Platform(rustls_platform_verifier::Verifier),
    /// CAs, and servers' self-signed certificates themselves.
    Only {
        roots: Arc<WebPkiServerVerifier>,
        certificates: Vec<CertificateDer<'static>>,
    },
    /// None: the pinned key is what is trusted, whatever the certificate says around it.
    None,
}

/// A certificate that is not accepted, with what it takes to accept it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Rejected {
    pub(super) cause: CertificateError,
    /// What would have to be pinned.
    pub(super) key: Option<KeyPin>,
    /// The chain is of no interest: the key is another one.
    pub(super) not_pinned: bool,
}

impl Verifier {
    /// Trusts what the machine trusts.
    pub(super) fn platform() -> Result<Self, Error> {
        let provider = provider();
        let verifier = rustls_platform_verifier::Verifier::new(provider.clone())
            .map_err(|error| Error::CaInvalid(format!("{error}; install ca-certificates")))?;
        Ok(Self {
            anchors: Anchors::Platform(verifier),
            pin: None,
            provider,
        })
    }

    /// Trusts these PEM certificates, this key, or, where both are given, only both together.
    pub(super) fn only(pem: Option<&str>, pin: Option<KeyPin>) -> Result<Self, Error> {
        let provider = provider();
        let anchors = match pem {
            Some(pem) => only(pem, &provider)?,
            None => Anchors::None,
        };
        Ok(Self {
            anchors,
            pin,
            provider,
        })
    }
}

fn only(pem: &str, provider: &Arc<CryptoProvider>) -> Result<Anchors, Error> {
    let invalid = |reason: String| Error::CaInvalid(format!("tls_ca_pem {reason}"));
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(invalid("contains no \"BEGIN CERTIFICATE\" block".into()));
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store
            .add(certificate.clone())
            .map_err(|error| invalid(format!("contains a bad certificate: {error}")))?;
    }
    let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(Anchors::Only {
        roots,
        certificates,
    })
}

impl Anchors {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match self {
            Self::Platform(verifier) => verifier
                .verify_server_cert(end_entity, intermediates, name, ocsp, now)
                .map(|_| ()),
            Self::Only {
                roots,
                certificates,
            } => match roots.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
                // webpki looks at the dates before it says this, so only the name is left.
                Err(rustls::Error::InvalidCertificate(error))
                    if is_ca_as_end_entity(&error) && certificates.contains(end_entity) =>
                {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
                }
                verdict => verdict.map(|_| ()),
            },
            Self::None => Ok(()),
        }
    }
}

/// What `openssl req -x509` makes: a CA certificate that a server uses as its own.
pub(super) fn is_ca_as_end_entity(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(cause)
        if matches!(cause.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = KeyPin::of(end_entity);
        let rejected = |cause, not_pinned| {
            let rejected = Rejected {
                cause,
                key,
                not_pinned,
            };
            CertificateError::Other(OtherError(Arc::new(rejected))).into()
        };
        if self.pin.is_some() && key != self.pin {
            let cause = CertificateError::ApplicationVerificationFailure;
            return Err(rejected(cause, true));
        }
        match self
            .anchors
            .verify(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(rustls::Error::InvalidCertificate(cause)) => Err(rejected(cause, false)),
            Err(other) => Err(other),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
