//! What a pass logs in with.

use tokio::time::timeout;

use super::{LEASE, error::Error};
use crate::{
    connection,
    oauth::{AccessToken, AccessTokens},
    pop3::{self, Credentials, Proof},
    store::{Store, credentials::StoredCredential, leases::Lease, mailboxes::Settings},
};

/// What a pass logs in with, for all its sessions.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) credentials: Credentials,
    /// The token within, if it is one.
    token: Option<AccessToken>,
}

impl Login {
    /// Reads what is stored, and fetches an access token where one is needed: not to be dropped
    /// half-way.
    pub(super) async fn prepare(
        store: &Store,
        tokens: &AccessTokens,
        lease: &Lease,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let stored = timeout(LEASE, store.mailbox_credential(lease.mailbox_id))
            .await
            .map_err(|_| Error::NoCredential)??;
        let (proof, token) = match stored {
            StoredCredential::Password(password) => {
                let mechanism = connection::password_mechanism(settings.auth)?;
                let proof = Proof::Password {
                    password,
                    mechanism,
                };
                (proof, None)
            }
            StoredCredential::OAuth2(stored) => {
                let mechanism = connection::bearer_mechanism(settings.auth)?;
                let fetched = tokens.access_token(lease, &stored).await?;
                let token = fetched.token.clone();
                (Proof::BearerToken { token, mechanism }, Some(fetched))
            }
        };
        let username = settings.username.clone();
        Ok(Self {
            credentials: Credentials { username, proof },
            token,
        })
    }

    /// Whether another session may begin with it.
    pub(super) fn is_usable(&self) -> bool {
        self.token.as_ref().is_none_or(AccessToken::is_usable)
    }

    /// A session was opened with it.
    pub(super) fn worked(&mut self) {
        if let Some(token) = &mut self.token {
            token.kept = true;
        }
    }

    /// What a failed session means. A token that was refused is not used again; if it was good
    /// before, that is no fault of the user's until a new one is refused too.
    pub(super) async fn judge(&self, error: Error, tokens: &AccessTokens, lease: &Lease) -> Error {
        match (error, &self.token) {
            (Error::Pop3(pop3::Error::TokenRefused(why)), Some(token)) => {
                if let Err(error) = tokens.forget(lease, token).await {
                    return error.into();
                }
                if token.kept {
                    Error::TokenStale(why)
                } else {
                    Error::Pop3(pop3::Error::TokenRefused(why))
                }
            }
            (error, _) => error,
        }
    }
}
