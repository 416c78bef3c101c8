//! Server certificates, good and bad.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A server certificate with its key, and the PEM that proves it.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Certificate {
    /// A good one for loopback, the same for all of a process.
    pub(crate) fn ordinary() -> Self {
        static ORDINARY: OnceLock<Certificate> = OnceLock::new();
        ORDINARY
            .get_or_init(|| Self::issued(&["localhost", "127.0.0.1"]))
            .clone()
    }

    /// From a CA of its own, which `ca_pem` is.
    pub(crate) fn issued(names: &[&str]) -> Self {
        Self::with(params(names))
    }

    /// The same, but its time is over.
    pub(crate) fn expired() -> Self {
        let mut params = params(&["localhost"]);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        Self::with(params)
    }

    /// Signed by itself; as a CA, as `openssl req -x509` makes it, or not.
    pub(crate) fn self_signed(as_ca: bool, expired: bool) -> Self {
        let mut params = params(&["localhost"]);
        if as_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let leaf = params.self_signed(&key).unwrap();
        Self {
            ca_pem: leaf.pem(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
        }
    }

    fn with(params: CertificateParams) -> Self {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(
            DnType::CommonName,
            format!("{:?}", params.subject_alt_names),
        );
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        Self {
            ca_pem: ca.pem(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
        }
    }

    /// What a server presents.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        Arc::new(config)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>(),
    )
    .unwrap()
}
