//! What a session is opened with.

use std::{fmt, net::IpAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::{Error, KeyPin};

/// Where a maildrop is served.
#[derive(Clone, Debug)]
pub struct Server {
    /// Host name or IP address, the one that the certificate is checked against.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the line is encrypted.
    pub tls: Tls,
    /// PEM certificates; where given, only these are trusted.
    pub ca_pem: Option<String>,
    /// The only key that the server may have. Without `ca_pem` it is trusted for its own sake, and
    /// the name, the dates and the issuer of the certificate do not matter.
    pub pin: Option<KeyPin>,
    /// Whether commands may be sent ahead of replies where PIPELINING is announced; some servers
    /// announce it and lose their place.
    pub pipelining: bool,
}

/// How the line is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// TLS from the first octet (RFC 8314), port 995.
    #[default]
    Implicit,
    /// STLS (RFC 2595), port 110; never falls back to plain text.
    Starttls,
    /// Not at all: credentials and mail can be read on the way.
    None,
}

/// Who logs in.
#[derive(Clone)]
pub struct Credentials {
    /// Name of the maildrop.
    pub username: String,
    /// What proves that it is theirs.
    pub proof: Proof,
}

/// What proves whose maildrop it is, and by which mechanism.
#[derive(Clone)]
pub enum Proof {
    /// A password.
    Password {
        /// As the user knows it.
        password: SecretString,
        /// How it is sent.
        mechanism: PasswordMechanism,
    },
    /// An access token of OAuth 2.0 (RFC 6750).
    BearerToken {
        /// As the token endpoint gave it.
        token: SecretString,
        /// How it is sent.
        mechanism: BearerMechanism,
    },
}

/// How a password is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PasswordMechanism {
    /// SASL PLAIN where the server announces it, else USER and PASS.
    #[default]
    Auto,
    /// USER and PASS (RFC 1939).
    UserPass,
    /// SASL PLAIN (RFC 4616, RFC 5034).
    Plain,
    /// APOP (RFC 1939). Weak: who can pose as the server learns the password (CVE-2007-1558).
    Apop,
}

/// How a bearer token is sent: always in a line of its own, which some servers insist on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BearerMechanism {
    /// OAUTHBEARER where the server announces it, else XOAUTH2, announced or not.
    #[default]
    Auto,
    /// XOAUTH2, which has no RFC: Google's and Microsoft's.
    Xoauth2,
    /// OAUTHBEARER (RFC 7628).
    Oauthbearer,
}

/// How long to wait. Every wait also ends with the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Name resolution, and each address's TCP connection: 10 s.
    pub connect: Duration,
    /// TLS handshake: 15 s.
    pub tls: Duration,
    /// Reply to CAPA, which some servers never give: 10 s.
    pub capabilities: Duration,
    /// Greeting, and each other reply or sent batch of commands: 60 s.
    pub reply: Duration,
    /// Progress within a multi-line reply: 60 s.
    pub idle: Duration,
    /// The whole session, from name resolution to QUIT: 15 min.
    pub session: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(15),
            capabilities: Duration::from_secs(10),
            reply: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            session: Duration::from_secs(15 * 60),
        }
    }
}

impl Server {
    /// The host as DNS and certificates have it (RFC 5891).
    pub(super) fn ascii_host(&self) -> Result<String, Error> {
        if self.host.parse::<IpAddr>().is_ok() {
            return Ok(self.host.clone());
        }
        idna::domain_to_ascii(&self.host).map_err(|_| Error::Dns {
            host: self.host.clone(),
            reason: "it is no host name".into(),
        })
    }
}

impl Credentials {
    /// A name and its password.
    #[must_use]
    pub fn with_password(
        username: &str,
        password: SecretString,
        mechanism: PasswordMechanism,
    ) -> Self {
        Self {
            username: username.to_owned(),
            proof: Proof::Password {
                password,
                mechanism,
            },
        }
    }

    /// Refuses what would end a command or a field of it early and so inject another, or what no
    /// server takes.
    pub(super) fn validate(&self) -> Result<(), Error> {
        match &self.proof {
            Proof::Password { password, .. } => {
                check(
                    "user name",
                    &self.username,
                    MAX_NAME_OR_PASSWORD,
                    COMMAND_ENDS,
                )?;
                let password = password.expose_secret();
                check("password", password, MAX_NAME_OR_PASSWORD, COMMAND_ENDS)
            }
            Proof::BearerToken { token, .. } => {
                check(
                    "user name",
                    &self.username,
                    MAX_NAME_OR_PASSWORD,
                    FIELD_ENDS,
                )?;
                check("access token", token.expose_secret(), MAX_TOKEN, FIELD_ENDS)
            }
        }
    }
}

const MAX_NAME_OR_PASSWORD: usize = 4096;

/// Access tokens of several thousand octets are common; none is longer than a token endpoint's
/// whole answer may be.
const MAX_TOKEN: usize = 64 * 1024;

const COMMAND_ENDS: &[char] = &['\r', '\n', '\0'];

/// Within a bearer token's message ^A ends a field too.
const FIELD_ENDS: &[char] = &['\r', '\n', '\0', '\x01'];

fn check(field: &'static str, value: &str, max: usize, forbidden: &[char]) -> Result<(), Error> {
    let reason = if value.is_empty() {
        "is empty"
    } else if value.len() > max {
        "is too long"
    } else if value.contains(forbidden) {
        "contains a line break, a NUL or another control character; remove it"
    } else {
        return Ok(());
    };
    Err(Error::CredentialsInvalid { field, reason })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The user name can be a secret too: people paste the password into it.
        f.debug_struct("Credentials")
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct(match self {
            Self::Password { .. } => "Password",
            Self::BearerToken { .. } => "BearerToken",
        });
        match self {
            Self::Password { mechanism, .. } => shown.field("mechanism", mechanism),
            Self::BearerToken { mechanism, .. } => shown.field("mechanism", mechanism),
        };
        shown.finish_non_exhaustive()
    }
}
