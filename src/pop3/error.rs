//! Everything that can end a session, with a stable code and a sentence that says what to change.

use std::{fmt, io, time::Duration};

use crate::egress;

use super::{KeyPin, Refusal, ResponseCode};

/// Why a session could not be opened or went no further.
///
/// No variant carries a credential. After any of them the session is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host name has no address.
    #[error("the host name {host} could not be resolved ({reason}); check its spelling")]
    Dns {
        /// Host as configured.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No address took the connection.
    #[error(
        "could not connect to {host} port {port} ({reason}); check the host, the port and any firewall"
    )]
    Connect {
        /// Host as configured.
        host: String,
        /// Port as configured.
        port: u16,
        /// What the system said.
        reason: String,
    },
    /// No address answered in time.
    #[error("{host} port {port} did not answer within {} s; check the host, the port and any firewall", .after.as_secs_f32())]
    ConnectTimeout {
        /// Host as configured.
        host: String,
        /// Port as configured.
        port: u16,
        /// How long it was tried.
        after: Duration,
    },
    /// The operator's policy forbids an address of the host.
    #[error("popbridge may not connect to {host}: {refused}")]
    EgressRefused {
        /// Host as configured.
        host: String,
        /// Which address, and why.
        #[source]
        refused: egress::Refused,
    },
    /// The server's certificate does not prove that it is this host.
    #[error("the certificate of {host} {fault}")]
    Certificate {
        /// Host as configured.
        host: String,
        /// What is wrong with it.
        fault: CertificateFault,
    },
    /// The TLS handshake or its record layer failed otherwise.
    #[error("TLS with the server failed: {0}")]
    Tls(String),
    /// The mailbox's own CA certificates are of no use, or the machine has none.
    #[error("the trusted CA certificates cannot be used: {0}")]
    CaInvalid(String),
    /// STLS was asked for, and the server has none.
    #[error("the server does not offer STLS{}; use implicit TLS (port 995) if it has that", in_brackets(.0.as_ref()))]
    StarttlsUnsupported(Option<Refusal>),
    /// Somebody sent octets in plain text behind the reply to STLS.
    #[error(
        "there was plain text behind the server's reply to STLS: somebody may be tampering with the line; use implicit TLS (port 995)"
    )]
    StarttlsInjection,
    /// A wait ended.
    #[error("{phase}: {wait} within {} s", .after.as_secs_f32())]
    Timeout {
        /// What was going on.
        phase: Phase,
        /// What did not happen.
        wait: Wait,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection ended before the reply did.
    #[error("{phase}: the server closed the connection{}", in_brackets(.reason.as_ref()))]
    Closed {
        /// What was going on.
        phase: Phase,
        /// What the system said, if more than end of stream.
        reason: Option<String>,
    },
    /// The credentials are wrong.
    #[error(
        "the server refused the user name or password ({0}); check both, and whether the provider wants an app password or POP3 switched on"
    )]
    AuthFailed(Refusal),
    /// The access token is not good for this maildrop, or no longer.
    #[error(
        "the server refused the access token ({0}); check that the user name is the account that consented, that the scope covers POP3, and that POP3 is switched on; else let the user consent again"
    )]
    TokenRefused(String),
    /// The server and we have no way to log in in common.
    #[error("cannot log in: {0}")]
    AuthUnsupported(String),
    /// Another session holds the maildrop; the credentials were right.
    #[error("the maildrop is in use by another session ({0}); it will be tried again")]
    InUse(Refusal),
    /// Logged in too soon.
    #[error("the server asks for more time between logins ({0}); poll less often")]
    LoginDelay(Refusal),
    /// The server has a problem that should pass.
    #[error("the server cannot serve the maildrop for now ({0}); it will be tried again")]
    ServerTemporary(Refusal),
    /// The server has a problem that its operator must solve.
    #[error("the server cannot serve the maildrop ({0}); ask the mail provider")]
    ServerPermanent(Refusal),
    /// The greeting was `-ERR` without a code that says more.
    #[error("the server refused the connection in its greeting ({0})")]
    GreetingRefused(Refusal),
    /// What answers is not a POP3 server.
    #[error(
        "this is not a POP3 server: it greeted with \"{0}\"; check the port (POP3 is 995, or 110 with STLS)"
    )]
    WrongProtocol(String),
    /// The server broke the protocol.
    #[error("{phase}: {detail}")]
    Protocol {
        /// What was going on.
        phase: Phase,
        /// What it did.
        detail: String,
    },
    /// User name or password cannot be sent.
    #[error("the {field} {reason}")]
    CredentialsInvalid {
        /// Which of the two.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An earlier operation on this session failed or was dropped half-way.
    #[error("the session was abandoned in an earlier operation; open a new one")]
    Abandoned,
}

impl Error {
    /// Stable machine word, as in a mailbox's `last_error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns_failed",
            Self::Connect { .. } => "connect_failed",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::EgressRefused { .. } => "egress_refused",
            Self::Certificate { fault, .. } => match fault {
                CertificateFault::Expired => "tls_certificate_expired",
                CertificateFault::Untrusted { .. } => "tls_certificate_untrusted",
                CertificateFault::KeyNotPinned { .. } => "tls_pin_mismatch",
                CertificateFault::NameMismatch { .. } => "tls_certificate_name_mismatch",
                CertificateFault::Invalid(_) => "tls_certificate_invalid",
            },
            Self::Tls(_) => "tls_failed",
            Self::CaInvalid(_) => "tls_ca_invalid",
            Self::StarttlsUnsupported(_) => "starttls_unsupported",
            Self::StarttlsInjection => "starttls_injection",
            Self::Timeout { .. } => "timeout",
            Self::Closed { .. } => "connection_closed",
            Self::AuthFailed(_) | Self::TokenRefused(_) => "auth_failed",
            Self::AuthUnsupported(_) => "auth_unsupported",
            Self::InUse(_) => "in_use",
            Self::LoginDelay(_) => "login_delay",
            Self::ServerTemporary(_) => "server_temporary",
            Self::ServerPermanent(_) => "server_permanent",
            Self::GreetingRefused(_) => "greeting_refused",
            Self::WrongProtocol(_) => "wrong_protocol",
            Self::Protocol { .. } => "protocol_error",
            Self::CredentialsInvalid { .. } => "credentials_invalid",
            Self::Abandoned => "session_abandoned",
        }
    }

    /// What a `-ERR` means, by its code and else by `otherwise`.
    pub(super) fn refused(refusal: Refusal, otherwise: fn(Refusal) -> Self) -> Self {
        match refusal.code {
            Some(ResponseCode::InUse) => Self::InUse(refusal),
            Some(ResponseCode::LoginDelay) => Self::LoginDelay(refusal),
            Some(ResponseCode::SysTemp) => Self::ServerTemporary(refusal),
            Some(ResponseCode::SysPerm) => Self::ServerPermanent(refusal),
            Some(ResponseCode::Auth) => Self::AuthFailed(refusal),
            None => otherwise(refusal),
        }
    }

    /// The server wants an encrypted line for this.
    pub(super) fn needs_tls(refusal: &Refusal) -> Self {
        Self::AuthUnsupported(format!("{refusal}; set tls to implicit or starttls"))
    }

    /// What a failed read or write means.
    pub(super) fn io(phase: Phase, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Tls(error.to_string()),
            io::ErrorKind::UnexpectedEof => Self::Closed {
                phase,
                reason: None,
            },
            _ => Self::Closed {
                phase,
                reason: Some(error.to_string()),
            },
        }
    }
}

fn in_brackets(detail: Option<&impl fmt::Display>) -> String {
    detail
        .map(|detail| format!(" ({detail})"))
        .unwrap_or_default()
}

fn or_pin(key: Option<&KeyPin>) -> String {
    key.map(|key| format!(", or its key as tls_pin_sha256 ({key})"))
        .unwrap_or_default()
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Its time is over.
    #[error("has expired; the server's operator must renew it")]
    Expired,
    /// It leads to no CA that is trusted here.
    #[error(
        "is not issued by a trusted authority; if it is the right one, give it or its CA as tls_ca_pem{}",
        or_pin(.key.as_ref())
    )]
    Untrusted {
        /// Its key, as it would be pinned.
        key: Option<KeyPin>,
    },
    /// Its key is not the pinned one.
    #[error(
        "has another key than the one that is pinned{}; if the server's operator changed it, change tls_pin_sha256",
        in_brackets(.key.as_ref())
    )]
    KeyNotPinned {
        /// Its key, as it would be pinned.
        key: Option<KeyPin>,
    },
    /// It is another host's.
    #[error("is valid for {}, not for this name; use a name that it is valid for as the host", .presented.join(", "))]
    NameMismatch {
        /// The names it is valid for.
        presented: Vec<String>,
    },
    /// Anything else: not yet valid, a bad signature, the wrong purpose.
    #[error("is not valid: {0}")]
    Invalid(String),
}

/// What a session was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// DNS.
    Resolve,
    /// TCP.
    Connect,
    /// TLS handshake.
    Tls,
    /// The server's first line.
    Greeting,
    /// CAPA before the login.
    Capabilities,
    /// STLS.
    Starttls,
    /// AUTH, USER and PASS, or APOP.
    Login,
    /// CAPA after the login.
    SessionCapabilities,
    /// STAT, UIDL and LIST.
    Listing,
    /// RETR.
    Retrieve,
    /// DELE.
    Delete,
    /// QUIT.
    Quit,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving the host name",
            Self::Connect => "connecting",
            Self::Tls => "in the TLS handshake",
            Self::Greeting => {
                "waiting for the greeting (port 995 is for implicit TLS, 110 for STLS)"
            }
            Self::Capabilities | Self::SessionCapabilities => "asking for the capabilities (CAPA)",
            Self::Starttls => "starting TLS (STLS)",
            Self::Login => "logging in",
            Self::Listing => "listing the maildrop",
            Self::Retrieve => "retrieving a message",
            Self::Delete => "deleting messages",
            Self::Quit => "ending the session (QUIT)",
        })
    }
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A whole reply line, or a command to be taken.
    Reply,
    /// Any progress within a reply of many lines.
    Progress,
    /// The end of the session.
    Session,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reply => "the server did not answer",
            Self::Progress => "the server stopped sending",
            Self::Session => "the session was not done",
        })
    }
}
