//! API keys, stored as hashes.

use sqlx::types::time::OffsetDateTime;
use uuid::Uuid;

use super::{Error, Store};

/// A stored key.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// UUIDv7.
    pub id: Uuid,
    /// What it may do.
    pub scopes: Vec<String>,
    /// The only mailboxes it may touch; empty: all.
    pub mailbox_ids: Vec<Uuid>,
}

impl Store {
    /// Stores a key by the SHA-256 of its text.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn create_api_key(
        &self,
        name: &str,
        key_hash: &[u8; 32],
        scopes: &[String],
        mailbox_ids: &[Uuid],
        expires_at: Option<OffsetDateTime>,
    ) -> Result<Uuid, Error> {
        let id = Uuid::now_v7();
        sqlx::query!(
            "INSERT INTO popbridge.api_keys (id, name, key_hash, scopes, mailbox_ids, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6)",
            id,
            name,
            key_hash,
            scopes,
            mailbox_ids,
            expires_at,
        )
        .execute(&self.pool)
        .await?;
        Ok(id)
    }

    /// The key with this hash, unless it expired. Its last use is noted once a minute at most, so
    /// that a busy client does not turn reads into writes.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn use_api_key(&self, key_hash: &[u8; 32]) -> Result<ApiKey, Error> {
        let row = sqlx::query!(
            r#"SELECT id, scopes, mailbox_ids,
                COALESCE(last_used_at < now() - interval '1 minute', true) AS "stale!"
            FROM popbridge.api_keys
            WHERE key_hash = $1 AND (expires_at IS NULL OR expires_at > now())"#,
            key_hash,
        )
        .fetch_one(&self.pool)
        .await?;
        if row.stale {
            sqlx::query!(
                "UPDATE popbridge.api_keys SET last_used_at = now() WHERE id = $1",
                row.id,
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(ApiKey {
            id: row.id,
            scopes: row.scopes,
            mailbox_ids: row.mailbox_ids,
        })
    }
}
