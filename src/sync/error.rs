//! Why a pass went no further.

use crate::{pop3, store};

/// Why a pass went no further. What was committed stays; the rest is fetched again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The POP3 session failed.
    #[error(transparent)]
    Pop3(#[from] pop3::Error),
    /// The store failed, or the lease was lost.
    #[error(transparent)]
    Store(#[from] store::Error),
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
            Self::Store(store::Error::Unsealable) => "credentials_unreadable",
            Self::Store(_) => "store_failed",
            Self::MemoryBudget => "memory_budget",
            Self::Stopped => "stopped",
        }
    }
}
