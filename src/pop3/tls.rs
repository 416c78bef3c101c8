//! Which certificates are trusted, and what a failed handshake means.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{net::TcpStream, time::timeout_at};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{CertificateFault, Error, Phase, Wait, wire::Clock};

/// A TLS client configuration: TLS 1.2 and 1.3, sessions resumed as long as it is kept.
#[derive(Clone)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts what the machine trusts.
    pub(super) fn platform() -> Result<Self, Error> {
        let config = builder()?
            .with_platform_verifier()
            .map_err(|error| Error::CaInvalid(format!("{error}; install ca-certificates")))?
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Trusts these PEM certificates and nothing else.
    pub(super) fn only(pem: &str) -> Result<Self, Error> {
        let verifier = Pinned::new(pem)?;
        let config = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands as a client of `host`, which the certificate has to name.
    pub(super) async fn handshake(
        &self,
        host: &str,
        io: TcpStream,
        clock: Clock,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let clock = Clock {
            phase: Phase::Tls,
            ..clock
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::Tls(format!("\"{host}\" is not a host name or IP address")))?;
        let deadline = clock.deadline(Wait::Reply, clock.deadlines.tls);
        let connector = TlsConnector::from(self.0.clone());
        match timeout_at(deadline.at(), connector.connect(name, io)).await {
            Ok(done) => done.map_err(|error| handshake_error(host, &error)),
            Err(_) => Err(clock.timeout(deadline)),
        }
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))
}

fn handshake_error(host: &str, error: &io::Error) -> Error {
    let Some(cause) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return Error::io(Phase::Tls, error);
    };
    match cause {
        rustls::Error::InvalidCertificate(cause) => Error::Certificate {
            host: host.to_owned(),
            fault: certificate_fault(cause),
        },
        rustls::Error::InvalidMessage(_) => Error::Tls(
            "the server does not speak TLS on this port; check the port, or use starttls".into(),
        ),
        other => Error::Tls(other.to_string()),
    }
}

fn certificate_fault(error: &CertificateError) -> CertificateFault {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateFault::Expired
        }
        // A bad signature is what another CA of the same name looks like.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateFault::Untrusted
        }
        // What `openssl req -x509` makes: a CA certificate that a server uses as its own.
        error if is_ca_as_end_entity(error) => CertificateFault::Untrusted,
        CertificateError::NotValidForName => CertificateFault::NameMismatch { presented: vec![] },
        CertificateError::NotValidForNameContext { presented, .. } => {
            CertificateFault::NameMismatch {
                presented: presented.clone(),
            }
        }
        other => CertificateFault::Invalid(other.to_string()),
    }
}

fn is_ca_as_end_entity(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(cause)
        if matches!(cause.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)))
}

/// Trusts the certificates of one mailbox: CAs, and a server's self-signed certificate itself.
#[derive(Debug)]
struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Pinned {
    fn new(pem: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::CaInvalid(format!("tls_ca_pem {reason}"));
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(format!("is not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(invalid("contains no \"BEGIN CERTIFICATE\" block".into()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|error| invalid(format!("contains a bad certificate: {error}")))?;
        }
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            inner,
            certificates,
        })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            // webpki looks at the dates before it says this, so only the name is left to check.
            Err(rustls::Error::InvalidCertificate(error))
                if is_ca_as_end_entity(&error) && self.certificates.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
