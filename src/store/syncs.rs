//! Sync passes: asking for one, and the history.

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Error, Store, leases::Lease};

/// Passes kept for each mailbox.
const HISTORY: i64 = 100;

/// How far a sync pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SyncState {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended with an error.
    Failed,
}

/// One sync pass of a mailbox.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sync {
    /// UUIDv7.
    pub id: Uuid,
    /// The mailbox.
    pub mailbox_id: Uuid,
    /// How far it is.
    pub state: SyncState,
    /// When it began; null until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended; null until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Messages in the maildrop.
    pub listed: i64,
    /// Messages stored.
    pub stored: i64,
    /// Messages that were stored already and are listed under other unique-ids now.
    pub matched: i64,
    /// Messages left out on purpose.
    pub skipped: i64,
    /// Messages that could not be fetched.
    pub failed: i64,
    /// Messages found deleted from the server as asked.
    pub deleted: i64,
    /// Octets of the messages stored.
    pub octets: i64,
    /// Why it failed; null when it did not.
    pub error: Option<SyncError>,
}

/// Why a sync pass failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SyncError {
    /// Stable machine word.
    pub code: String,
    /// What happened and what to change.
    pub detail: String,
}

/// Selects finished passes: the `WHERE` and all that follows is the caller's.
macro_rules! select_syncs {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            "SELECT id, mailbox_id, started_at, finished_at, listed, stored, matched, skipped, failed,
                deleted, octets, error_code, error_detail
            FROM popbridge.syncs " + $tail
            $(, $argument)*
        )
        .map(|row| Sync {
            id: row.id,
            mailbox_id: row.mailbox_id,
            state: match row.error_code {
                None => SyncState::Succeeded,
                Some(_) => SyncState::Failed,
            },
            started_at: Some(row.started_at),
            finished_at: Some(row.finished_at),
            listed: row.listed,
            stored: row.stored,
            matched: row.matched,
            skipped: row.skipped,
            failed: row.failed,
            deleted: row.deleted,
            octets: row.octets,
            error: row
                .error_code
                .zip(row.error_detail)
                .map(|(code, detail)| SyncError { code, detail }),
        })
    };
}

impl Store {
    /// Asks for a pass now and returns its id; joins one that waits or runs. A paused mailbox has
    /// none: `None`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_sync(&self, mailbox_id: Uuid) -> Result<Option<Uuid>, Error> {
        let id = sqlx::query_scalar!(
            r#"UPDATE popbridge.mailbox_states s
            SET sync_id = CASE WHEN paused THEN sync_id ELSE COALESCE(sync_id, $2) END,
                sync_requested_at = CASE WHEN paused THEN NULL ELSE now() END,
                next_sync_at = CASE WHEN paused THEN NULL ELSE LEAST(next_sync_at, now()) END
            FROM popbridge.mailboxes m
            WHERE mailbox_id = $1 AND m.id = mailbox_id
            RETURNING CASE WHEN paused THEN NULL ELSE sync_id END AS id"#,
            mailbox_id,
            Uuid::now_v7(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(id)
    }

    /// One pass, waiting, running or ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for an idle pass that nobody asked for: those leave no row.
    pub async fn sync(&self, mailbox_id: Uuid, id: Uuid) -> Result<Sync, Error> {
        // The state first: a pass that ends between the two reads is then found in the history.
        let current = sqlx::query_scalar!(
            r#"SELECT COALESCE(lease_until > now(), false) AS "running!"
            FROM popbridge.mailbox_states WHERE mailbox_id = $1 AND sync_id = $2"#,
            mailbox_id,
            id,
        )
        .fetch_optional(&self.pool)
        .await?;
        if let Some(running) = current {
            let state = if running {
                SyncState::Running
            } else {
                SyncState::Queued
            };
            return Ok(Sync {
                id,
                mailbox_id,
                state,
                started_at: None,
                finished_at: None,
                listed: 0,
                stored: 0,
                matched: 0,
                skipped: 0,
                failed: 0,
                deleted: 0,
                octets: 0,
                error: None,
            });
        }
        let sync = select_syncs!("WHERE mailbox_id = $1 AND id = $2", mailbox_id, id)
            .fetch_one(&self.pool)
            .await?;
        Ok(sync)
    }

    /// What was said in a pass that ended, as [`Outcome::transcript`] had it; `None` for one that
    /// waits or runs.
    ///
    /// [`Outcome::transcript`]: super::leases::Outcome::transcript
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn transcript(
        &self,
        mailbox_id: Uuid,
        sync_id: Uuid,
    ) -> Result<Option<Value>, Error> {
        let found = sqlx::query_scalar!(
            "SELECT transcript FROM popbridge.sync_transcripts
            WHERE mailbox_id = $1 AND sync_id = $2",
            mailbox_id,
            sync_id,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// Ended passes, newest first: those before `before`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn syncs(
        &self,
        mailbox_id: Uuid,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Sync>, Error> {
        let syncs = select_syncs!(
            "WHERE mailbox_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            mailbox_id,
            before.unwrap_or(Uuid::max()),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(syncs)
    }
}

pub(super) async fn record_transcript(
    tx: &mut PgConnection,
    held: &Lease,
    transcript: &Value,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO popbridge.sync_transcripts (mailbox_id, sync_id, transcript)
        VALUES ($1, $2, $3)",
        held.mailbox_id,
        held.sync_id,
        transcript,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Drops what is older than the history kept.
pub(super) async fn trim(tx: &mut PgConnection, mailbox_id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM popbridge.syncs WHERE mailbox_id = $1 AND id < (
            SELECT id FROM popbridge.syncs WHERE mailbox_id = $1
            ORDER BY id DESC OFFSET $2 LIMIT 1)",
        mailbox_id,
        HISTORY - 1,
    )
    .execute(tx)
    .await?;
    Ok(())
}
