//! Why there is no access token, with a stable code and a sentence that says what to change.

use std::{fmt, time::Duration};

use crate::{egress::http, store};

/// Why there is no access token. None of them carries a token or a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `invalid_grant`: the refresh token is revoked, expired or was used before.
    #[error(
        "the token endpoint refused the refresh token ({0}); let the user consent again and give \
         the new refresh token in oauth2"
    )]
    ConsentNeeded(Refusal),
    /// `invalid_client`, `unauthorized_client`.
    #[error(
        "the token endpoint refused the client ({0}); check client_id and client_secret of oauth2"
    )]
    ClientRefused(Refusal),
    /// `invalid_scope`.
    #[error("the token endpoint refused the scope ({0}); check scope of oauth2")]
    ScopeRefused(Refusal),
    /// Any other error that will not pass by itself.
    #[error("the token endpoint refused to give an access token ({0}); check oauth2")]
    Refused(Refusal),
    /// The token endpoint has a problem that should pass.
    #[error("the token endpoint cannot serve for now ({0}); it will be tried again")]
    Unavailable(Refusal),
    /// It answered, but not as a token endpoint does.
    #[error("what is at token_url of oauth2 does not answer as a token endpoint does: {0}")]
    NotAnEndpoint(String),
    /// There was no whole answer.
    #[error("{}; check token_url of oauth2", .0.describe("token endpoint"))]
    Http(http::Failure),
    /// The whole exchange took too long.
    #[error("the token endpoint did not answer within {0:?}; it will be tried again")]
    Timeout(Duration),
    /// Without TLS, and not on this machine.
    #[error("token_url of oauth2 must be https (http only to a loopback address)")]
    Insecure,
    /// The credential was changed, or the mailbox deleted, while the token was on its way.
    #[error("the credential was changed meanwhile")]
    Changed,
    /// Postgres did not answer, so nothing was asked for.
    #[error("the database did not answer in time")]
    NotBegun,
    /// Postgres did not take the new tokens in time.
    #[error(
        "new tokens could not be stored in time; if the token endpoint takes the old refresh \
         token no more, the user has to consent again"
    )]
    NotKept,
    /// The store failed, or the lease was lost.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Stable machine word, as in a mailbox's `last_error.code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ConsentNeeded(_)
            | Self::ClientRefused(_)
            | Self::ScopeRefused(_)
            | Self::Refused(_) => "oauth_refused",
            Self::Http(http::Failure::Refused(_)) => "egress_refused",
            Self::Unavailable(_)
            | Self::NotAnEndpoint(_)
            | Self::Http(_)
            | Self::Timeout(_)
            | Self::Insecure => "oauth_unreachable",
            Self::Changed | Self::NotBegun | Self::NotKept | Self::Store(_) => "store_failed",
        }
    }

    /// Whether the grant or the client was refused, which no waiting mends.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code() == "oauth_refused"
    }
}

/// For the metric.
pub(super) fn result_word<T>(answer: &Result<T, Error>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

/// An error response (RFC 6749, section 5.2): printable and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error code, or the HTTP status where there is none.
    pub error: String,
    /// For people; may be empty.
    pub description: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        if !self.description.is_empty() {
            write!(f, ": {}", self.description)?;
        }
        Ok(())
    }
}
