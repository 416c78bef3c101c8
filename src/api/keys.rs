//! API keys: their text, their hash and the words for what they may do.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

/// What every key begins with, so that secret scanners can tell one.
const PREFIX: &str = "pb_";

/// A new random key: `pb_` and 32 random octets in base64url (RFC 4648, section 5).
pub fn generate() -> SecretString {
    let random: [u8; 32] = rand::random();
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)).into()
}

/// What is stored of a key: SHA-256 of its text.
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// One thing that a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read mailboxes and their syncs.
    MailboxesRead,
    /// Make, change, sync and delete mailboxes.
    MailboxesWrite,
    /// Read messages.
    MessagesRead,
    /// Acknowledge messages.
    MessagesWrite,
    /// Delete messages.
    MessagesDelete,
    /// Read webhooks and their deliveries.
    WebhooksRead,
    /// Make, change and delete webhooks.
    WebhooksWrite,
    /// Read the event log.
    EventsRead,
    /// Make and delete API keys.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 9] = [
        Self::MailboxesRead,
        Self::MailboxesWrite,
        Self::MessagesRead,
        Self::MessagesWrite,
        Self::MessagesDelete,
        Self::WebhooksRead,
        Self::WebhooksWrite,
        Self::EventsRead,
        Self::Admin,
    ];

    /// The word for it, such as `messages:read`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MailboxesRead => "mailboxes:read",
            Self::MailboxesWrite => "mailboxes:write",
            Self::MessagesRead => "messages:read",
            Self::MessagesWrite => "messages:write",
            Self::MessagesDelete => "messages:delete",
            Self::WebhooksRead => "webhooks:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::EventsRead => "events:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope; scopes are {list}", list = Scope::ALL.map(Scope::as_str).join(", "))]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == word)
            .ok_or_else(|| UnknownScope(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn keys_are_prefixed_and_never_repeat() {
        let (one, two) = (generate(), generate());
        assert!(one.expose_secret().starts_with("pb_"));
        assert_eq!(one.expose_secret().len(), 3 + 43);
        assert_ne!(hash(one.expose_secret()), hash(two.expose_secret()));
    }

    #[test]
    fn scope_words_parse_back() {
        for scope in Scope::ALL {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        assert!("messages".parse::<Scope>().is_err());
    }
}
