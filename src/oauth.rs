//! Access tokens for mailboxes that log in by OAuth 2.0.
//!
//! A token is kept, sealed, until it expires, over restarts and for all replicas. A new one costs a
//! refresh token, which many token endpoints replace with each use: to use an old one twice looks
//! like theft to them and may end the grant. So only the holder of the mailbox's lease refreshes, and
//! what comes of it is stored before it is used.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, timeout};

use self::{endpoint::TokenEndpoint, error::result_word};
pub use self::{
    endpoint::is_secure,
    error::{Error, Refusal},
};
use crate::{
    egress::{Egress, http::ClientError},
    store::{
        self, Store,
        credentials::{KeptToken, StoredGrant},
        leases::Lease,
    },
};

mod endpoint;
mod error;

/// How long before its end a token is used no more: a login takes time, and clocks differ.
const EARLY: Duration = Duration::from_secs(60);

/// The lease for a refresh: longer than the token endpoint and Postgres may take together, so that
/// nobody else begins one meanwhile.
const REFRESH_LEASE: Duration = Duration::from_secs(45);

/// How long Postgres may take for that lease.
const BEGIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long new tokens are tried to be stored while Postgres is away.
const KEEP_PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two tries to store.
const KEEP_PAUSE: Duration = Duration::from_millis(500);

/// Gives access tokens: kept ones, or new ones from the token endpoint.
#[derive(Debug)]
pub struct AccessTokens {
    store: Store,
    endpoint: TokenEndpoint,
}

/// An access token, to log in with.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub token: SecretString,
    /// It was used before: that a server refuses it may only mean that its time is over.
    pub kept: bool,
    usable_until: Instant,
    version: i64,
}

impl AccessToken {
    /// Whether a login that begins now may use it.
    pub fn is_usable(&self) -> bool {
        Instant::now() < self.usable_until
    }
}

impl AccessTokens {
    /// Tokens from endpoints that `egress` lets through.
    ///
    /// # Errors
    /// [`ClientError`] when the machine has no CA certificates.
    pub fn new(store: Store, egress: Egress) -> Result<Self, ClientError> {
        let endpoint = TokenEndpoint::new(egress)?;
        Ok(Self { store, endpoint })
    }

    /// An access token of the mailbox that is leased. Takes at most half a minute. To drop this
    /// half-way may lose a refresh token.
    ///
    /// # Errors
    /// [`Error::Changed`] when the credential was changed meanwhile; else why there is no token.
    pub async fn access_token(
        &self,
        lease: &Lease,
        stored: &StoredGrant,
    ) -> Result<AccessToken, Error> {
        if let Some(kept) = &stored.access_token
            && kept.expires_in > EARLY
        {
            return Ok(AccessToken {
                token: kept.token.clone(),
                kept: true,
                usable_until: Instant::now() + (kept.expires_in - EARLY),
                version: stored.version,
            });
        }
        timeout(BEGIN_PATIENCE, self.store.renew_lease(lease, REFRESH_LEASE))
            .await
            .map_err(|_| Error::NotBegun)??;
        let asked = Instant::now();
        let answer = self.endpoint.refresh(&stored.grant).await;
        metrics::counter!("popbridge_oauth_refreshes_total", "result" => result_word(&answer))
            .increment(1);
        let answer = answer?;
        let kept = KeptToken {
            token: answer.access_token,
            expires_in: answer.expires_in,
        };
        let version = self
            .keep(lease, stored, &kept, answer.refresh_token.as_ref())
            .await?;
        Ok(AccessToken {
            token: kept.token,
            kept: false,
            usable_until: asked + kept.expires_in.saturating_sub(EARLY),
            version,
        })
    }

    /// A server refused this token: the next one is a new one.
    ///
    /// # Errors
    /// [`store::Error::Database`].
    pub async fn forget(&self, lease: &Lease, token: &AccessToken) -> Result<(), store::Error> {
        let (mailbox_id, version) = (lease.mailbox_id, token.version);
        self.store.forget_access_token(mailbox_id, version).await
    }

    /// Stores new tokens, for as long as Postgres may be away. That the lease may be lost by then
    /// does not matter: if nobody else changed the grant, this is what it is now.
    async fn keep(
        &self,
        lease: &Lease,
        stored: &StoredGrant,
        token: &KeptToken,
        refresh_token: Option<&SecretString>,
    ) -> Result<i64, Error> {
        let id = lease.mailbox_id;
        let deadline = Instant::now() + KEEP_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let keep = self.store.keep_tokens(id, stored, token, refresh_token);
            match timeout(left, keep).await {
                Ok(Ok(version)) => return Ok(version),
                Ok(Err(store::Error::NotFound)) => return Err(Error::Changed),
                Ok(Err(error)) if Instant::now() >= deadline || !error.is_unavailable() => {
                    return Err(error.into());
                }
                Ok(Err(_)) => tokio::time::sleep(KEEP_PAUSE).await,
                Err(_) => return Err(Error::NotKept),
            }
        }
    }
}
