//! What a handshake agreed on, for people.

use std::fmt;

use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, pki_types::CertificateDer};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Name,
};

use super::KeyPin;
use crate::pop3::reply::printable;

/// Certificates of a chain that are looked at.
const MAX_CERTIFICATES: usize = 10;

/// Names of a certificate that are kept.
const MAX_NAMES: usize = 100;

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// An earlier session went on, without a full handshake.
    pub resumed: bool,
    /// What the server presented, its own certificate first.
    pub certificates: Vec<CertificateFacts>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is (a distinguished name).
    pub subject: String,
    /// Who vouches for it (a distinguished name).
    pub issuer: String,
    /// Host names and addresses that it is valid for.
    pub names: Vec<String>,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
    /// What a `tls_pin_sha256` of its key would be.
    pub key_pin: Option<KeyPin>,
}

impl TlsFacts {
    pub(super) fn of(connection: &ClientConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
            other => format!("{other:?}"),
        };
        let suite = connection.negotiated_cipher_suite();
        let chain = connection.peer_certificates().unwrap_or_default();
        Self {
            version,
            cipher_suite: suite.map_or_else(String::new, |s| format!("{:?}", s.suite())),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificates: chain
                .iter()
                .take(MAX_CERTIFICATES)
                .filter_map(CertificateFacts::of)
                .collect(),
        }
    }
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.version, self.cipher_suite)?;
        if self.resumed {
            f.write_str(", resumed")?;
        }
        Ok(())
    }
}

impl CertificateFacts {
    /// `None` for what cannot be read: it may have been accepted all the same, by its key.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => &extension.value.general_names[..],
            _ => &[],
        };
        let validity = parsed.validity();
        Some(Self {
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            names: names
                .iter()
                .take(MAX_NAMES)
                .filter_map(general_name)
                .collect(),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            key_pin: KeyPin::of(certificate),
        })
    }
}

fn name(name: &X509Name<'_>) -> String {
    printable(name.to_string().as_bytes())
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable(name.as_bytes())),
        GeneralName::IPAddress(octets) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*octets) {
                Some(std::net::Ipv4Addr::from(v4).to_string())
            } else {
                let v6 = <[u8; 16]>::try_from(*octets).ok()?;
                Some(std::net::Ipv6Addr::from(v6).to_string())
            }
        }
        _ => None,
    }
}
