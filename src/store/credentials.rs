//! What logs in to maildrops, sealed: a password, or a grant of OAuth 2.0 with its access token.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use uuid::Uuid;

use super::{Error, Store, leases::interval};

/// What proves to a POP3 server whose maildrop it is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A password.
    Password(SecretString),
    /// The right to fetch access tokens.
    OAuth2(Grant),
}

/// The right to fetch access tokens: what a user consented to (RFC 6749, section 6).
#[derive(Clone, Debug)]
pub struct Grant {
    /// The token endpoint.
    pub token_url: String,
    /// Whom the user consented to.
    pub client_id: String,
    /// Public clients have none.
    pub client_secret: Option<SecretString>,
    /// Given for each access token, and replaced where the answer has another.
    pub refresh_token: SecretString,
    /// Asked for with each access token; absent: what the user consented to.
    pub scope: Option<String>,
}

/// Which of the two a mailbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum CredentialKind {
    /// A password.
    Password,
    /// A grant of OAuth 2.0.
    OAuth2,
}

/// A mailbox's credential as it is stored.
#[derive(Clone, Debug)]
pub enum StoredCredential {
    /// A password.
    Password(SecretString),
    /// A grant of OAuth 2.0.
    OAuth2(StoredGrant),
}

/// A grant as it is stored.
#[derive(Clone, Debug)]
pub struct StoredGrant {
    /// The grant.
    pub grant: Grant,
    /// Goes up with each change of it.
    pub version: i64,
    /// The access token that it gave last, unless that has expired.
    pub access_token: Option<KeptToken>,
}

/// An access token that is kept.
#[derive(Clone, Debug)]
pub struct KeptToken {
    /// The token.
    pub token: SecretString,
    /// How long it lives yet.
    pub expires_in: Duration,
}

impl From<SecretString> for Credential {
    fn from(password: SecretString) -> Self {
        Self::Password(password)
    }
}

impl From<&str> for Credential {
    fn from(password: &str) -> Self {
        Self::Password(password.into())
    }
}

impl Credential {
    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::Password(_) => CredentialKind::Password,
            Self::OAuth2(_) => CredentialKind::OAuth2,
        }
    }

    /// What is sealed: read again by [`open`].
    fn plain(&self) -> Vec<u8> {
        match self {
            Self::Password(password) => password.expose_secret().as_bytes().to_vec(),
            Self::OAuth2(grant) => grant.plain(),
        }
    }
}

impl Grant {
    fn plain(&self) -> Vec<u8> {
        let client_secret = self.client_secret.as_ref().map(ExposeSecret::expose_secret);
        serde_json::json!({
            "token_url": self.token_url,
            "client_id": self.client_id,
            "client_secret": client_secret,
            "refresh_token": self.refresh_token.expose_secret(),
            "scope": self.scope,
        })
        .to_string()
        .into_bytes()
    }
}

/// A [`Grant`] as it is sealed.
#[derive(Deserialize)]
struct SealedGrant {
    token_url: String,
    client_id: String,
    client_secret: Option<String>,
    refresh_token: String,
    scope: Option<String>,
}

fn open(kind: CredentialKind, plain: Vec<u8>) -> Result<Credential, Error> {
    match kind {
        CredentialKind::Password => text(plain).map(Credential::Password),
        CredentialKind::OAuth2 => {
            let sealed: SealedGrant =
                serde_json::from_slice(&plain).map_err(|_| Error::Unsealable)?;
            Ok(Credential::OAuth2(Grant {
                token_url: sealed.token_url,
                client_id: sealed.client_id,
                client_secret: sealed.client_secret.map(SecretString::from),
                refresh_token: sealed.refresh_token.into(),
                scope: sealed.scope,
            }))
        }
    }
}

fn text(plain: Vec<u8>) -> Result<SecretString, Error> {
    String::from_utf8(plain)
        .map(SecretString::from)
        .map_err(|_| Error::Unsealable)
}

impl Store {
    /// A mailbox's credential.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unsealable`] when the master key is another one.
    pub async fn mailbox_credential(&self, id: Uuid) -> Result<StoredCredential, Error> {
        let row = sqlx::query!(
            r#"SELECT credential AS "kind: CredentialKind", sealed_secret, secret_version,
                sealed_access_token,
                EXTRACT(EPOCH FROM access_token_expires_at - now())::float8 AS seconds_left
            FROM popbridge.mailboxes WHERE id = $1"#,
            id,
        )
        .fetch_one(&self.pool)
        .await?;
        let plain = self.master_key.open(id, &row.sealed_secret)?;
        let grant = match open(row.kind, plain)? {
            Credential::Password(password) => return Ok(StoredCredential::Password(password)),
            Credential::OAuth2(grant) => grant,
        };
        let expires_in = row
            .seconds_left
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let access_token = match (row.sealed_access_token, expires_in) {
            (Some(sealed), Some(expires_in)) => Some(KeptToken {
                token: text(self.master_key.open(id, &sealed)?)?,
                expires_in,
            }),
            _ => None,
        };
        Ok(StoredCredential::OAuth2(StoredGrant {
            grant,
            version: row.secret_version,
            access_token,
        }))
    }

    /// Keeps a new access token, with the refresh token that came with it, in one statement; returns
    /// the grant's new version. It needs no lock of the mailbox's state: it takes no other lock.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the mailbox is gone, or its credential is another than was `read`.
    pub async fn keep_tokens(
        &self,
        id: Uuid,
        read: &StoredGrant,
        access_token: &KeptToken,
        refresh_token: Option<&SecretString>,
    ) -> Result<i64, Error> {
        let mut grant = read.grant.clone();
        if let Some(rotated) = refresh_token {
            grant.refresh_token = rotated.clone();
        }
        let token = access_token.token.expose_secret().as_bytes();
        let version = sqlx::query_scalar!(
            "UPDATE popbridge.mailboxes SET sealed_secret = $3,
                secret_version = secret_version + 1, sealed_access_token = $4,
                access_token_expires_at = now() + $5
            WHERE id = $1 AND secret_version = $2 RETURNING secret_version",
            id,
            read.version,
            self.master_key.seal(id, &grant.plain()),
            self.master_key.seal(id, token),
            interval(access_token.expires_in),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(version)
    }

    /// Keeps the access token of this version no longer; a newer one stays.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn forget_access_token(&self, id: Uuid, version: i64) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE popbridge.mailboxes SET sealed_access_token = NULL,
                access_token_expires_at = NULL
            WHERE id = $1 AND secret_version = $2",
            id,
            version,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(super) fn seal_credential(&self, id: Uuid, credential: &Credential) -> Vec<u8> {
        self.master_key.seal(id, &credential.plain())
    }
}
