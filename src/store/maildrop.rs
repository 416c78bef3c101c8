//! What is known of each unique-id of a maildrop, from its first listing to its absence.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    leases::{Lease, lock_lease},
    mailboxes::DeletePolicy,
    rematch::end_reset,
};

/// Where a message is on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RemoteState {
    /// In the maildrop.
    Present,
    /// To be deleted, or deleted but still listed.
    DeletePending,
    /// Deleted as asked: a later listing lacked it.
    Deleted,
    /// Vanished without our doing.
    Gone,
}

/// Where the unique-ids of a maildrop come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum UniqueIds {
    /// The server's UIDL.
    Uidl,
    /// Digests of the messages.
    Digests,
}

/// What is known of one listed unique-id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Not to be fetched again: stored, or left out on purpose. What is listed although it was
    /// deleted is fetched once more, because unique-ids of deleted messages may be used again.
    pub settled: bool,
    /// All of it is stored, or was.
    pub stored: bool,
    /// Though settled, it is to be asked for again: what stands for it is not all of it.
    pub due: bool,
    /// To be deleted from the server.
    pub delete: bool,
    /// Passes in which it could not be fetched.
    pub failures: i32,
    /// Sessions in which the server accepted DELE for it.
    pub dele_count: i32,
}

/// A listed message that is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Opaque octets from the unique-id listing.
    pub unique_id: Vec<u8>,
    /// From the scan listing.
    pub octets: i64,
}

impl Store {
    /// Keeps where the maildrop's unique-ids come from, for all passes to come.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn record_unique_ids(&self, held: &Lease, source: UniqueIds) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET unique_ids = $3
            WHERE mailbox_id = $1 AND lease_token = $2 RETURNING lease_token",
            held.mailbox_id,
            held.token,
            source as UniqueIds,
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(Error::LeaseLost)?;
        Ok(())
    }

    /// What is known of those unique-ids of `listed` that were met before. Marks for deletion what
    /// the mailbox's policy says is due.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn compare_listing(
        &self,
        held: &Lease,
        listed: &[Vec<u8>],
        policy: DeletePolicy,
        after_days: Option<i32>,
    ) -> Result<HashMap<Vec<u8>, Known>, Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        mark_due_deletions(&mut tx, held.mailbox_id, policy, after_days).await?;
        let rows = sqlx::query!(
            // A join looks each up by index; `= ANY` may compare all with all.
            r#"SELECT unique_id, failures, dele_count,
                (message_id IS NOT NULL OR stored_at IS NOT NULL OR skipped)
                    AND remote_state <> 'deleted' AS "settled!", stored_at IS NOT NULL AS "stored!",
                CASE WHEN next_try_at <= now() THEN EXISTS (SELECT FROM popbridge.messages m
                    WHERE m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id)
                    ELSE false END AS "due!", remote_state AS "remote_state: RemoteState"
            FROM unnest($2::bytea[]) AS listed (u)
            JOIN popbridge.maildrop_entries e ON mailbox_id = $1 AND unique_id = u"#,
            held.mailbox_id,
            listed,
        )
        .fetch_all(&mut *tx)
        .await?;
        if rows.iter().any(|row| row.remote_state == RemoteState::Gone) {
            // Some servers list only a part of the maildrop at a time.
            sqlx::query!(
                "UPDATE popbridge.maildrop_entries SET remote_state = 'present', absent_at = NULL
                FROM unnest($2::bytea[]) AS listed (u)
                WHERE mailbox_id = $1 AND unique_id = u AND remote_state = 'gone'",
                held.mailbox_id,
                listed,
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let delete = row.remote_state == RemoteState::DeletePending;
                (
                    row.unique_id,
                    Known {
                        settled: row.settled,
                        stored: row.stored,
                        due: row.due && !delete,
                        delete,
                        failures: row.failures,
                        dele_count: row.dele_count,
                    },
                )
            })
            .collect())
    }

    /// Remembers messages that are left out on purpose.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn skip_messages(&self, held: &Lease, skipped: &[Listed]) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let (unique_ids, octets) = columns(skipped);
        sqlx::query!(
            "INSERT INTO popbridge.maildrop_entries (mailbox_id, unique_id, octets, skipped)
            SELECT $1, u, o, true FROM unnest($2::bytea[], $3::bigint[]) AS t(u, o)
            ON CONFLICT (mailbox_id, unique_id) DO UPDATE SET skipped = true
                WHERE maildrop_entries.message_id IS NULL",
            held.mailbox_id,
            &unique_ids,
            &octets,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Counts a failed try for messages that did not come.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn record_failed_messages(
        &self,
        held: &Lease,
        failed: &[Listed],
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let (unique_ids, octets) = columns(failed);
        sqlx::query!(
            "INSERT INTO popbridge.maildrop_entries AS e (mailbox_id, unique_id, octets, failures)
            SELECT $1, u, o, 1 FROM unnest($2::bytea[], $3::bigint[]) AS t(u, o)
            ON CONFLICT (mailbox_id, unique_id) DO UPDATE SET failures = e.failures + 1",
            held.mailbox_id,
            &unique_ids,
            &octets,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that DELE was accepted for these unique-ids. They count as deleted only once a
    /// listing lacks them: a session that ends badly deletes nothing (RFC 1939, section 6).
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn record_dele_sent(
        &self,
        held: &Lease,
        unique_ids: &[Vec<u8>],
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        sqlx::query!(
            "UPDATE popbridge.maildrop_entries
            SET dele_sent_at = now(), dele_count = dele_count + 1
            FROM unnest($2::bytea[]) AS deleted (u)
            WHERE mailbox_id = $1 AND unique_id = u",
            held.mailbox_id,
            unique_ids,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Settles what a complete listing lacks: what was to be deleted is deleted, anything else
    /// vanished without our doing. Returns how many were deleted as asked.
    ///
    /// All that is listed must have been fetched before: what a listing lacks may be in it under
    /// another unique-id.
    /// `all_settled`: nothing of it failed, so that a reset of unique-ids is over.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn record_absent(
        &self,
        held: &Lease,
        listed: &[Vec<u8>],
        all_settled: bool,
    ) -> Result<i64, Error> {
        let mut tx = self.pool.begin().await?;
        let before = lock_lease(&mut tx, held).await?;
        let absent = sqlx::query!(
            r#"UPDATE popbridge.maildrop_entries SET absent_at = now(), dele_count = 0,
                remote_state = CASE remote_state WHEN 'delete_pending' THEN 'deleted' ELSE 'gone' END
            WHERE mailbox_id = $1 AND remote_state IN ('present', 'delete_pending')
                -- Not as an anti-join: that may become a loop over both.
                AND unique_id NOT IN (SELECT unnest($2::bytea[]))
            RETURNING remote_state = 'deleted' AS "deleted!""#,
            held.mailbox_id,
            listed,
        )
        .fetch_all(&mut *tx)
        .await?;
        let deleted = i64::try_from(absent.iter().filter(|row| row.deleted).count())
            .expect("a listing has fewer than 2^63 messages");
        if deleted > 0 {
            count_pending_deletes(&mut tx, held.mailbox_id, -deleted).await?;
        }
        if all_settled && before.resetting {
            end_reset(&mut tx, held.mailbox_id).await?;
        }
        tx.commit().await?;
        Ok(deleted)
    }

    /// What happened to a message and when. It outlives the message.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn ledger(&self, mailbox_id: Uuid, message_id: Uuid) -> Result<Ledger, Error> {
        Ok(sqlx::query_as!(
            Ledger,
            r#"SELECT listed_at, stored_at, notified_at, delivered_at, acked_at, delete_requested_at,
                dele_sent_at, dele_count, absent_at,
                remote_state AS "remote_state: RemoteState"
            FROM popbridge.maildrop_entries WHERE mailbox_id = $1 AND message_id = $2"#,
            mailbox_id,
            message_id,
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

/// What happened to a message and when.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Ledger {
    /// First seen in a listing.
    #[serde(with = "time::serde::rfc3339")]
    pub listed_at: OffsetDateTime,
    /// Stored.
    #[serde(with = "time::serde::rfc3339::option")]
    pub stored_at: Option<OffsetDateTime>,
    /// A webhook first took its `message.received`.
    #[serde(with = "time::serde::rfc3339::option")]
    pub notified_at: Option<OffsetDateTime>,
    /// The last of the webhooks that it went to took its `message.received`.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    /// The consumer was done with it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub acked_at: Option<OffsetDateTime>,
    /// Its deletion from the server was asked for, by a user or by the mailbox's policy.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delete_requested_at: Option<OffsetDateTime>,
    /// The server last accepted DELE.
    #[serde(with = "time::serde::rfc3339::option")]
    pub dele_sent_at: Option<OffsetDateTime>,
    /// Sessions in which the server accepted DELE, and that have not been seen to take effect. From
    /// the second one on the server forgets deletions.
    pub dele_count: i32,
    /// A later listing lacked it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub absent_at: Option<OffsetDateTime>,
    /// Where it is now.
    pub remote_state: RemoteState,
}

/// Changes the count of pending deletions that the mailbox shows.
pub(super) async fn count_pending_deletes(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    change: i64,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.mailbox_states SET pending_remote_deletes = pending_remote_deletes + $2
        WHERE mailbox_id = $1",
        mailbox_id,
        change,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn mark_due_deletions(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    policy: DeletePolicy,
    after_days: Option<i32>,
) -> Result<(), Error> {
    let marked = match policy {
        DeletePolicy::Never => return Ok(()),
        DeletePolicy::AfterStore | DeletePolicy::AfterDays => {
            let days = if policy == DeletePolicy::AfterDays {
                after_days
            } else {
                Some(0)
            };
            sqlx::query!(
                "UPDATE popbridge.maildrop_entries
                SET remote_state = 'delete_pending', delete_requested_at = now()
                WHERE mailbox_id = $1 AND remote_state = 'present'
                    AND stored_at <= now() - make_interval(days => $2::int)",
                mailbox_id,
                days,
            )
            .execute(&mut *tx)
            .await?
        }
        DeletePolicy::AfterAck => {
            sqlx::query!(
                "UPDATE popbridge.maildrop_entries
                SET remote_state = 'delete_pending', delete_requested_at = now()
                WHERE mailbox_id = $1 AND remote_state = 'present' AND stored_at IS NOT NULL
                    AND (acked_at IS NOT NULL OR delivered_at IS NOT NULL)",
                mailbox_id,
            )
            .execute(&mut *tx)
            .await?
        }
    };
    let marked = i64::try_from(marked.rows_affected()).expect("fewer than 2^63 rows");
    count_pending_deletes(tx, mailbox_id, marked).await
}

fn columns(listed: &[Listed]) -> (Vec<Vec<u8>>, Vec<i64>) {
    listed
        .iter()
        .map(|l| (l.unique_id.clone(), l.octets))
        .unzip()
}
