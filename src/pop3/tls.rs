//! TLS: what is trusted, sessions that resume over polls, and what a failed handshake means.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig,
    client::{ClientSessionMemoryCache, Resumption},
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
};
use tokio::{net::TcpStream, time::timeout_at};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::verifier::{Rejected, Verifier, is_ca_as_end_entity};
use super::{CertificateFault, Error, Phase, Server, Wait, wire::Clock};

mod facts;
mod pin;
mod verifier;

pub use facts::{CertificateFacts, TlsFacts};
pub use pin::{KeyPin, KeyPinInvalid};

/// Servers whose sessions can be resumed, of those that the machine's CAs vouch for.
const RESUMABLE: usize = 1024;

/// The same for those that a private CA or a pin vouches for: there is one cache for each.
const RESUMABLE_PRIVATELY: usize = 16;

/// Private CAs and pins whose configurations, and so whose sessions, are kept.
const MAX_PRIVATE: usize = 256;

/// The TLS configurations in use. Each has its own session cache, because a session may only be
/// resumed by whom its certificate would convince.
pub(super) struct TlsConfigs {
    platform: Arc<ClientConfig>,
    /// By what they trust, the latest used last.
    private: Mutex<VecDeque<(Trusted, Arc<ClientConfig>)>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Trusted {
    ca_pem: Option<String>,
    pin: Option<KeyPin>,
}

impl TlsConfigs {
    /// Begins with what the machine trusts.
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            platform: config(Verifier::platform()?, RESUMABLE)?,
            private: Mutex::default(),
        })
    }

    /// The configuration for what this server's user trusts.
    pub(super) fn of(&self, server: &Server) -> Result<Arc<ClientConfig>, Error> {
        let trusted = Trusted {
            ca_pem: server.ca_pem.clone(),
            pin: server.pin,
        };
        if (&trusted.ca_pem, &trusted.pin) == (&None, &None) {
            return Ok(Arc::clone(&self.platform));
        }
        // It only ever holds whole entries.
        let mut private = self.private.lock().unwrap_or_else(PoisonError::into_inner);
        let known = private.iter().position(|(key, _)| *key == trusted);
        let entry = match known.and_then(|index| private.remove(index)) {
            Some(entry) => entry,
            None => {
                let verifier = Verifier::only(trusted.ca_pem.as_deref(), trusted.pin)?;
                (trusted, config(verifier, RESUMABLE_PRIVATELY)?)
            }
        };
        let config = Arc::clone(&entry.1);
        private.push_back(entry);
        if private.len() > MAX_PRIVATE {
            private.pop_front();
        }
        Ok(config)
    }
}

/// TLS 1.2 and 1.3.
fn config(verifier: Verifier, resumable: usize) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let cache = ClientSessionMemoryCache::new(resumable);
    config.resumption = Resumption::store(Arc::new(cache));
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Shakes hands as a client of `host`, which the certificate has to name.
pub(super) async fn handshake(
    config: Arc<ClientConfig>,
    host: &str,
    io: TcpStream,
    clock: Clock,
) -> Result<(TlsStream<TcpStream>, TlsFacts), Error> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::Tls(format!("\"{host}\" is not a host name or IP address")))?;
    let deadline = clock.deadline(Wait::Reply, clock.deadlines.tls);
    let stream = timeout_at(deadline.at(), TlsConnector::from(config).connect(name, io))
        .await
        .map_err(|_| clock.timeout(deadline))?
        .map_err(|error| handshake_error(host, &error))?;
    let facts = TlsFacts::of(stream.get_ref().1);
    Ok((stream, facts))
}

fn handshake_error(host: &str, error: &io::Error) -> Error {
    let Some(cause) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return Error::io(Phase::Tls, error);
    };
    match cause {
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if let Some(rejected) = other.0.downcast_ref::<Rejected>() =>
        {
            Error::Certificate {
                host: host.to_owned(),
                fault: certificate_fault(rejected),
            }
        }
        rustls::Error::InvalidMessage(_) => Error::Tls(
            "the server does not speak TLS on this port; check the port, or use starttls".into(),
        ),
        other => Error::Tls(other.to_string()),
    }
}

fn certificate_fault(rejected: &Rejected) -> CertificateFault {
    let key = rejected.key;
    if rejected.not_pinned {
        return CertificateFault::KeyNotPinned { key };
    }
    match &rejected.cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateFault::Expired
        }
        // A bad signature is what another CA of the same name looks like.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateFault::Untrusted { key }
        }
        error if is_ca_as_end_entity(error) => CertificateFault::Untrusted { key },
        CertificateError::NotValidForName => CertificateFault::NameMismatch { presented: vec![] },
        CertificateError::NotValidForNameContext { presented, .. } => {
            CertificateFault::NameMismatch {
                presented: presented.clone(),
            }
        }
        other => CertificateFault::Invalid(other.to_string()),
    }
}
