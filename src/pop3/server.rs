//! What a session is opened with.

use std::{fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::Error;

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
    /// Its password.
    pub password: SecretString,
    /// How it is proven.
    pub auth: Auth,
}

/// Which mechanism proves the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
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

impl Credentials {
    /// Refuses what would end a command early and so inject another, or what no server takes.
    pub(super) fn validate(&self) -> Result<(), Error> {
        check("user name", &self.username)?;
        check("password", self.password.expose_secret())
    }
}

fn check(field: &'static str, value: &str) -> Result<(), Error> {
    const MAX_OCTETS: usize = 4096;
    let reason = if value.is_empty() {
        "is empty"
    } else if value.len() > MAX_OCTETS {
        "is longer than 4096 octets"
    } else if value.contains(['\r', '\n', '\0']) {
        "contains a line break or a NUL character; remove it"
    } else {
        return Ok(());
    };
    Err(Error::CredentialsInvalid { field, reason })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The user name can be a secret too: people paste the password into it.
        f.debug_struct("Credentials")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}
