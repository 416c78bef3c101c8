//! A mailbox's settings as what the POP3 client takes.

use crate::{
    pop3::{self, BearerMechanism, PasswordMechanism},
    store::{
        mailboxes::{Auth, Settings, Tls},
        maildrop::UniqueIds,
    },
};

/// Where the maildrop is served. `pipelining`: commands may be sent ahead of replies.
///
/// # Errors
/// [`pop3::Error::CaInvalid`] for a pin or a port that the API would not have taken.
pub fn server(settings: &Settings, pipelining: bool) -> Result<pop3::Server, pop3::Error> {
    let unusable = |field| pop3::Error::CaInvalid(format!("the stored {field} cannot be read"));
    let pin = settings.tls_pin_sha256.as_deref().map(str::parse);
    Ok(pop3::Server {
        host: settings.host.clone(),
        port: u16::try_from(settings.port).map_err(|_| unusable("port"))?,
        tls: match settings.tls {
            Tls::Implicit => pop3::Tls::Implicit,
            Tls::Starttls => pop3::Tls::Starttls,
            Tls::None => pop3::Tls::None,
        },
        ca_pem: settings.tls_ca_pem.clone(),
        pin: pin.transpose().map_err(|_| unusable("tls_pin_sha256"))?,
        pipelining,
    })
}

/// Where a maildrop's unique-ids came from so far.
pub fn unique_ids(source: UniqueIds) -> pop3::UniqueIds {
    match source {
        UniqueIds::Uidl => pop3::UniqueIds::Uidl,
        UniqueIds::Digests => pop3::UniqueIds::Digests,
    }
}

/// How a password is proven.
///
/// # Errors
/// [`pop3::Error::AuthUnsupported`] for a mechanism that takes none.
pub fn password_mechanism(auth: Auth) -> Result<PasswordMechanism, pop3::Error> {
    match auth {
        Auth::Auto => Ok(PasswordMechanism::Auto),
        Auth::UserPass => Ok(PasswordMechanism::UserPass),
        Auth::Plain => Ok(PasswordMechanism::Plain),
        Auth::Apop => Ok(PasswordMechanism::Apop),
        Auth::Xoauth2 | Auth::Oauthbearer => Err(mismatch("needs oauth2, and there is a password")),
    }
}

/// How an access token is sent.
///
/// # Errors
/// [`pop3::Error::AuthUnsupported`] for a mechanism that takes none.
pub fn bearer_mechanism(auth: Auth) -> Result<BearerMechanism, pop3::Error> {
    match auth {
        Auth::Auto => Ok(BearerMechanism::Auto),
        Auth::Xoauth2 => Ok(BearerMechanism::Xoauth2),
        Auth::Oauthbearer => Ok(BearerMechanism::Oauthbearer),
        Auth::UserPass | Auth::Plain | Auth::Apop => {
            Err(mismatch("needs a password, and there is oauth2"))
        }
    }
}

/// Only where settings and credential were read on both sides of a change: the schema keeps them
/// together.
fn mismatch(detail: &str) -> pop3::Error {
    pop3::Error::AuthUnsupported(format!("auth {detail}"))
}
