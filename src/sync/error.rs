//! Why a pass went no further.

use crate::{oauth, pop3, store};

/// Why a pass went no further. What was committed stays; the rest is fetched again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The POP3 session failed.
    #[error(transparent)]
    Pop3(#[from] pop3::Error),
    /// There is no access token.
    #[error(transparent)]
    OAuth(#[from] oauth::Error),
    /// The server refused an access token that had been good.
    #[error(
        "the server refused an access token that it had taken before, or that was kept since the \
        last pass ({0}); the next pass uses a new one"
    )]
    TokenStale(String),
    /// The store failed, or the lease was lost.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Postgres did not give the credential in time.
    #[error("the credential could not be read from the database in time")]
    NoCredential,
    /// Other sessions hold the memory that this one needs.
    #[error(
        "messages wait for memory that other mailboxes use; raise POPBRIDGE_MEMORY_BUDGET or lower \
        POPBRIDGE_SYNC_CONCURRENCY if this lasts"
    )]
    MemoryBudget,
    /// The stage behind in the pipeline is gone; it has the reason.
    #[error("storing stopped")]
    Stopped,
}

impl Error {
    /// Stable machine word for the mailbox's `last_error`.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Pop3(error) => error.code(),
            Self::OAuth(oauth::Error::Store(store::Error::Unsealable)) => "credentials_unreadable",
            Self::OAuth(error) => error.code(),
            Self::TokenStale(_) => "access_token_stale",
            Self::Store(store::Error::Unsealable) => "credentials_unreadable",
            Self::Store(_) | Self::NoCredential => "store_failed",
            Self::MemoryBudget => "memory_budget",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the user's credentials were refused, by the server or by the token endpoint.
    pub(super) fn is_auth_failure(&self) -> bool {
        match self {
            Self::Pop3(error) => matches!(
                error,
                pop3::Error::AuthFailed(_) | pop3::Error::TokenRefused(_)
            ),
            Self::OAuth(error) => error.is_refusal(),
            _ => false,
        }
    }

    /// Whether Postgres is the reason: it says nothing of the mailbox.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Store(error) | Self::OAuth(oauth::Error::Store(error)) => error.is_unavailable(),
            Self::NoCredential => true,
            _ => false,
        }
    }

    /// Whether another session has the maildrop.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self, Self::Pop3(pop3::Error::InUse(_)))
    }

    /// Whether there is nothing to say of the mailbox: others changed or claimed it meanwhile.
    pub(super) fn is_overtaken(&self) -> bool {
        matches!(
            self,
            Self::Store(store::Error::LeaseLost)
                | Self::OAuth(oauth::Error::Changed | oauth::Error::Store(store::Error::LeaseLost))
        )
    }
}
