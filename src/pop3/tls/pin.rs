//! Pins of public keys.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{pki_types::CertificateDer, server::ParsedCertificate};
use sha2::{Digest, Sha256};

/// SHA-256 of a certificate's public key (SPKI; RFC 7469, section 2.4): it stays the same when
/// the certificate is renewed with the same key.
///
/// Read from base64 (with or without curl's `sha256//`) or from hexadecimal (with or without
/// colons); written as base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyPin([u8; 32]);

/// Not the SHA-256 of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be the SHA-256 of the server's public key (SPKI), in base64 (44 characters) or hexadecimal (64 digits)"
)]
pub struct KeyPinInvalid;

impl KeyPin {
    /// The pin that this certificate satisfies; `None` if it cannot be read.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        Some(Self(
            Sha256::digest(parsed.subject_public_key_info()).into(),
        ))
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for KeyPin {
    type Err = KeyPinInvalid;

    fn from_str(text: &str) -> Result<Self, KeyPinInvalid> {
        let text = text.trim();
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let octets = if digits.len() == 64 {
            from_hex(&digits)
        } else {
            STANDARD
                .decode(text.strip_prefix("sha256//").unwrap_or(text))
                .ok()
        };
        let pin = octets.and_then(|octets| octets.try_into().ok());
        pin.map(Self).ok_or(KeyPinInvalid)
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u32>> = digits.chars().map(|c| c.to_digit(16)).collect();
    let pairs = nibbles?;
    let octets = pairs.chunks_exact(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    octets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_in_which_people_write_a_pin_mean_the_same() {
        let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let colons = "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
        for text in [base64, &format!("sha256//{base64}"), hex, colons] {
            let pin: KeyPin = text.parse().unwrap();
            assert_eq!(pin.to_string(), base64);
        }
    }

    #[test]
    fn what_is_no_sha256_is_refused() {
        for text in [
            "",
            "abc",
            "sha256//",
            "47DEQpj8HBSa",
            &"g".repeat(64),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<KeyPin>(), Err(KeyPinInvalid), "{text}");
        }
    }
}
