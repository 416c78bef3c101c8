//! A private CA and a server certificate from it, made on the spot, for servers of our own.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

/// A server's certificate with its key, and the CA that a client has to trust.
#[derive(Debug)]
pub struct Certificates {
    /// PEM of the CA.
    pub ca_pem: String,
    /// PEM of the server certificate.
    pub chain_pem: String,
    /// PEM of the server's private key.
    pub key_pem: String,
}

impl Certificates {
    /// A certificate for `names` (host names or addresses), valid from yesterday for a year.
    ///
    /// # Errors
    /// When a name is none, or a key cannot be made.
    pub fn for_names(names: &[&str]) -> Result<Self, rcgen::Error> {
        let now = OffsetDateTime::now_utc();
        Self::valid_between(names, now - Duration::days(1), now + Duration::days(365))
    }

    /// A certificate for `names` that is valid between these times.
    ///
    /// # Errors
    /// When a name is none, or a key cannot be made.
    pub fn valid_between(
        names: &[&str],
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Self, rcgen::Error> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name
            .push(DnType::CommonName, "popbridge private CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate()?;
        let ca_pem = ca.self_signed(&ca_key)?.pem();

        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name
            .push(DnType::CommonName, "popbridge server");
        (leaf.not_before, leaf.not_after) = (from, until);
        let key = KeyPair::generate()?;
        let chain_pem = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?.pem();
        Ok(Self {
            ca_pem,
            chain_pem,
            key_pem: key.serialize_pem(),
        })
    }
}
