//! Credentials at rest: AES-256-GCM under the master key.
//!
//! A sealed value is `version (1) | key id (4) | nonce (12) | ciphertext and tag`. The key id says
//! which master key to use during a rotation. The row's id is authenticated with it, so that a
//! sealed value cannot be moved to another row.

use aes_gcm::{
    Aes256Gcm, Key, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Error;

const VERSION: u8 = 1;
const KEY_ID_OCTETS: usize = 4;
const NONCE_OCTETS: usize = 12;

/// The key that seals every stored credential.
#[derive(Clone)]
pub struct MasterKey {
    cipher: Aes256Gcm,
    id: [u8; KEY_ID_OCTETS],
}

/// A master key that is not 32 octets of base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the master key must be 32 bytes in base64; make one with: openssl rand -base64 32")]
pub struct MasterKeyError;

impl MasterKey {
    /// Reads a key from base64 (RFC 4648, section 4), white space around it ignored.
    ///
    /// # Errors
    /// [`MasterKeyError`] unless it decodes to 32 octets.
    pub fn from_base64(text: &SecretString) -> Result<Self, MasterKeyError> {
        let octets = STANDARD
            .decode(text.expose_secret().trim())
            .map_err(|_| MasterKeyError)?;
        let key = Key::<Aes256Gcm>::try_from(octets.as_slice()).map_err(|_| MasterKeyError)?;
        let digest: [u8; 32] = Sha256::digest(key).into();
        let [a, b, c, d, ..] = digest;
        Ok(Self {
            cipher: Aes256Gcm::new(&key),
            id: [a, b, c, d],
        })
    }

    /// A new random key in base64.
    pub fn generate() -> SecretString {
        STANDARD.encode(rand::random::<[u8; 32]>()).into()
    }

    pub(super) fn seal(&self, row: Uuid, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_OCTETS] = rand::random();
        let sealed = self
            .cipher
            .encrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: plain,
                    aad: row.as_bytes(),
                },
            )
            .expect("AES-GCM seals anything under 64 GiB");
        [&[VERSION][..], &self.id, &nonce, &sealed].concat()
    }

    pub(super) fn open(&self, row: Uuid, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (version, rest) = sealed.split_first().ok_or(Error::Unsealable)?;
        let (key_id, rest) = rest.split_first_chunk().ok_or(Error::Unsealable)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_OCTETS>()
            .ok_or(Error::Unsealable)?;
        if *version != VERSION || *key_id != self.id {
            return Err(Error::Unsealable);
        }
        let payload = Payload {
            msg: ciphertext,
            aad: row.as_bytes(),
        };
        self.cipher
            .decrypt(&Nonce::from(*nonce), payload)
            .map_err(|_| Error::Unsealable)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::from_base64(&MasterKey::generate()).unwrap()
    }

    #[test]
    fn sealed_value_opens_only_with_its_key_and_row() {
        let (key, row) = (key(), Uuid::now_v7());
        let sealed = key.seal(row, b"hunter2");

        assert_eq!(key.open(row, &sealed).unwrap(), b"hunter2");
        assert!(key.open(Uuid::now_v7(), &sealed).is_err());
        assert!(self::key().open(row, &sealed).is_err());
    }

    #[test]
    fn damaged_value_does_not_open() {
        let (key, row) = (key(), Uuid::now_v7());
        let sealed = key.seal(row, b"hunter2");

        for cut in 0..sealed.len() {
            assert!(key.open(row, &sealed[..cut]).is_err());
        }
        for i in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[i] ^= 1;
            assert!(key.open(row, &damaged).is_err());
        }
    }

    #[test]
    fn key_must_be_32_octets_of_base64() {
        for text in ["", "short", "not base64!", "AAAA"] {
            assert_eq!(
                MasterKey::from_base64(&text.into()).unwrap_err(),
                MasterKeyError
            );
        }
    }
}
