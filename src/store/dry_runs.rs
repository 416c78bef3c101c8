//! Passes that only count: asked for by the API, made by a worker that holds the lease, as every
//! session with a maildrop is.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    leases::{Failure, Lease, interval, lock_lease},
    mailboxes::{DeletePolicy, lock_state},
    maildrop::Known,
};

/// What a sync would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Messages in the maildrop.
    pub listed: i64,
    /// Their octets, as listed.
    pub listed_octets: i64,
    /// Messages that it would leave as they are: dealt with before.
    pub known: i64,
    /// Messages that it would fetch.
    pub fetch: i64,
    /// Their octets, as listed.
    pub fetch_octets: i64,
    /// Messages of which it would keep the head alone, for their length.
    pub oversize: i64,
    /// Messages that it would leave out for good, as `initial_sync` says.
    pub skip: i64,
    /// Messages that it would delete from the server, of those fetched too.
    pub delete: i64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A worker will make the dry run of this id.
    Waits(Uuid),
    /// A sync runs: ask again.
    Busy,
    /// The mailbox is paused.
    Paused,
}

/// How a dry run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this.
    Counted(DryRun),
    /// It failed: code and detail.
    Failed(String, String),
}

impl Store {
    /// Asks for a dry run, or joins the one that waits.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_dry_run(&self, mailbox_id: Uuid) -> Result<Requested, Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, mailbox_id).await?;
        let before = sqlx::query!(
            r#"SELECT m.paused, COALESCE(s.lease_until > now(), false) AS "busy!", d.id AS "waits?"
            FROM popbridge.mailbox_states s
            JOIN popbridge.mailboxes m ON m.id = s.mailbox_id
            LEFT JOIN popbridge.dry_runs d
                ON d.mailbox_id = s.mailbox_id AND d.finished_at IS NULL
            WHERE s.mailbox_id = $1"#,
            mailbox_id,
        )
        .fetch_one(&mut *tx)
        .await?;
        if before.paused {
            return Ok(Requested::Paused);
        }
        if let Some(id) = before.waits {
            return Ok(Requested::Waits(id));
        }
        if before.busy {
            return Ok(Requested::Busy);
        }
        let id = Uuid::now_v7();
        sqlx::query!(
            "INSERT INTO popbridge.dry_runs (mailbox_id, id, next_sync_at)
            SELECT mailbox_id, $2, next_sync_at FROM popbridge.mailbox_states WHERE mailbox_id = $1
            ON CONFLICT (mailbox_id) DO UPDATE SET id = excluded.id,
                requested_at = excluded.requested_at, next_sync_at = excluded.next_sync_at,
                finished_at = NULL, plan = NULL, error_code = NULL, error_detail = NULL",
            mailbox_id,
            id,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET next_sync_at = LEAST(next_sync_at, now())
            WHERE mailbox_id = $1",
            mailbox_id,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Requested::Waits(id))
    }

    /// How a dry run ended; `None` until then.
    ///
    /// # Errors
    /// [`Error::NotFound`] once another has been asked for.
    pub async fn dry_run(&self, mailbox_id: Uuid, id: Uuid) -> Result<Option<Ended>, Error> {
        let row = sqlx::query!(
            r#"SELECT plan AS "plan: Json<DryRun>", error_code, error_detail
            FROM popbridge.dry_runs WHERE mailbox_id = $1 AND id = $2"#,
            mailbox_id,
            id,
        )
        .fetch_one(&self.pool)
        .await?;
        let counted = row.plan.map(|plan| Ended::Counted(plan.0));
        let failed = row.error_code.zip(row.error_detail);
        Ok(counted.or_else(|| failed.map(|(code, detail)| Ended::Failed(code, detail))))
    }

    /// What [`Store::compare_listing`] would say of those of `listed` that were met before, after
    /// it had marked what is due for deletion. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn preview_listing(
        &self,
        mailbox_id: Uuid,
        listed: &[Vec<u8>],
        policy: DeletePolicy,
        after_days: Option<i32>,
    ) -> Result<HashMap<Vec<u8>, Known>, Error> {
        let rows = sqlx::query!(
            r#"SELECT e.unique_id, failures, dele_count,
                (e.message_id IS NOT NULL OR e.stored_at IS NOT NULL OR skipped)
                    AND remote_state <> 'deleted' AS "settled!",
                e.stored_at IS NOT NULL AS "stored!",
                COALESCE(next_try_at <= now() AND m.id IS NOT NULL
                    AND remote_state <> 'delete_pending', false) AS "due!",
                COALESCE(remote_state = 'delete_pending' OR CASE $3
                    WHEN 'after_store' THEN e.stored_at IS NOT NULL
                    WHEN 'after_days' THEN e.stored_at <= now() - make_interval(days => $4::int)
                    WHEN 'after_ack' THEN e.stored_at IS NOT NULL AND m.id IS NOT NULL
                        AND (e.acked_at IS NOT NULL OR e.delivered_at IS NOT NULL)
                END, false) AS "delete!"
            FROM unnest($2::bytea[]) AS listed (u)
            JOIN popbridge.maildrop_entries e ON e.mailbox_id = $1 AND e.unique_id = u
            LEFT JOIN popbridge.messages m
                ON m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id"#,
            mailbox_id,
            listed,
            policy as DeletePolicy,
            after_days,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let known = Known {
                    settled: row.settled,
                    stored: row.stored,
                    due: row.due,
                    delete: row.delete,
                    failures: row.failures,
                    dele_count: row.dele_count,
                };
                (row.unique_id, known)
            })
            .collect())
    }

    /// Ends a dry run. The next pass is due when it was before, but not within `pause`.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn finish_dry_run(
        &self,
        held: &Lease,
        id: Uuid,
        result: Result<DryRun, Failure>,
        pause: Duration,
    ) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let (plan, failure) = match result {
            Ok(plan) => (Some(Json(plan)), None),
            Err(failure) => (None, Some(failure)),
        };
        let (code, detail) = failure.map(|f| (f.code, f.detail)).unzip();
        sqlx::query!(
            "UPDATE popbridge.dry_runs
            SET finished_at = now(), plan = $3, error_code = $4, error_detail = $5
            WHERE mailbox_id = $1 AND id = $2",
            held.mailbox_id,
            id,
            plan as _,
            code,
            detail,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE popbridge.mailbox_states s SET lease_until = NULL,
                sync_id = CASE WHEN sync_requested_at IS NOT NULL THEN sync_id END,
                next_sync_at = CASE
                    WHEN m.paused THEN NULL
                    WHEN sync_requested_at IS NOT NULL OR m.updated_at > d.requested_at
                        THEN now() + $4
                    WHEN d.next_sync_at IS NOT NULL THEN GREATEST(d.next_sync_at, now() + $4) END
            FROM popbridge.mailboxes m, popbridge.dry_runs d
            WHERE s.mailbox_id = $1 AND s.lease_token = $2 AND m.id = $1
                AND d.mailbox_id = $1 AND d.id = $3",
            held.mailbox_id,
            held.token,
            id,
            interval(pause),
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
