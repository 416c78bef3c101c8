//! One session per maildrop, over all replicas: a lease with a fencing token.
//!
//! Whoever claims a mailbox gets the next token. Each later write of that pass names the token,
//! and does nothing once somebody else has claimed the mailbox.

use std::{collections::HashMap, time::Duration};

use serde_json::json;
use sqlx::{PgConnection, postgres::types::PgInterval};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, Facts, NewEvent},
    maildrop::UniqueIds,
    syncs,
};

/// A mailbox that this worker may sync until the lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The mailbox.
    pub mailbox_id: Uuid,
    /// The fencing token.
    pub token: i64,
    /// The id of the pass.
    pub sync_id: Uuid,
}

/// How many passes may run at once on the mailboxes of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimit {
    /// The most.
    pub passes: usize,
    /// Those that run, by [`Claim::host`].
    pub running: HashMap<String, usize>,
}

/// A claimed mailbox, with what its earlier passes left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The right to sync it.
    pub lease: Lease,
    /// Its server, in lower case.
    pub host: String,
    /// Failed passes in a row.
    pub failures: u32,
    /// Refused logins in a row.
    pub auth_failures: u32,
    /// What is listed from now on is no backlog.
    pub backlog_done: bool,
    /// Where the maildrop's unique-ids came from so far.
    pub unique_ids: Option<UniqueIds>,
    /// Commands may be sent ahead of replies.
    pub pipelining: bool,
}

/// How a pass ended, for the mailbox's state.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When it began.
    pub started_at: OffsetDateTime,
    /// What it did.
    pub counts: Counts,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// The server's capabilities, where it got as far as that.
    pub capabilities: Option<Vec<String>>,
    /// The listing was complete and all of it dealt with, so that what comes later is no backlog.
    pub caught_up: bool,
    /// When the next pass is due; `None`: only when asked.
    pub next_in: Option<Duration>,
    /// For how long commands are not to be sent ahead of replies, if that went wrong.
    pub pipelining_off_for: Option<Duration>,
    /// What was said, as JSON.
    pub transcript: serde_json::Value,
}

/// Why a pass failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Stable machine word.
    pub code: &'static str,
    /// What happened and what to change.
    pub detail: String,
    /// The server refused the credentials.
    pub auth: bool,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages in the maildrop.
    pub listed: i64,
    /// Messages stored.
    pub stored: i64,
    /// Messages left out on purpose.
    pub skipped: i64,
    /// Messages that could not be fetched.
    pub failed: i64,
    /// Messages found deleted from the server as asked.
    pub deleted: i64,
    /// Octets of the messages stored.
    pub octets: i64,
}

impl Store {
    /// Claims up to `limit` mailboxes whose sync is due and that nobody else has: those that wait
    /// longest first, but none of a server that has its share of passes.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn claim_due_mailboxes(
        &self,
        limit: i64,
        lease: Duration,
        hosts: &HostLimit,
    ) -> Result<Vec<Claim>, Error> {
        let fresh_ids: Vec<Uuid> = (0..limit).map(|_| Uuid::now_v7()).collect();
        let per_host = i64::try_from(hosts.passes).unwrap_or(i64::MAX);
        let (mut busy, mut room, mut full) = (vec![], vec![], vec![]);
        for (host, running) in &hosts.running {
            match per_host.saturating_sub_unsigned(*running as u64) {
                left if left > 0 => {
                    busy.push(host.clone());
                    room.push(left);
                }
                _ => full.push(host.clone()),
            }
        }
        let rows = sqlx::query!(
            r#"WITH due AS (
                SELECT mailbox_id, host, next_sync_at FROM popbridge.mailbox_states
                WHERE next_sync_at <= now() AND (lease_until IS NULL OR lease_until <= now())
                    AND host <> ALL($4)
                ORDER BY next_sync_at
                LIMIT $1
                FOR UPDATE SKIP LOCKED
            ), ranked AS (
                SELECT mailbox_id, host, row_number() OVER (
                    PARTITION BY host ORDER BY next_sync_at) AS nth_of_host
                FROM due
            ), numbered AS (
                SELECT mailbox_id, row_number() OVER () AS n
                FROM ranked LEFT JOIN unnest($5::text[], $6::bigint[]) AS busy (host, room)
                    USING (host)
                WHERE nth_of_host <= COALESCE(room, $7)
            )
            UPDATE popbridge.mailbox_states s
            SET lease_token = lease_token + 1, lease_until = now() + $2,
                sync_id = COALESCE(s.sync_id, ($3::uuid[])[n])
            FROM numbered WHERE s.mailbox_id = numbered.mailbox_id
            RETURNING s.mailbox_id, s.host, s.lease_token, s.sync_id AS "sync_id!",
                s.consecutive_failures,
                s.consecutive_auth_failures, s.backlog_done_at IS NOT NULL AS "backlog_done!",
                s.unique_ids AS "unique_ids: UniqueIds",
                COALESCE(s.pipelining_off_until <= now(), true) AS "pipelining!""#,
            limit,
            interval(lease),
            &fresh_ids,
            &full,
            &busy,
            &room,
            per_host,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Claim {
                lease: Lease {
                    mailbox_id: row.mailbox_id,
                    token: row.lease_token,
                    sync_id: row.sync_id,
                },
                host: row.host,
                failures: row.consecutive_failures.unsigned_abs(),
                auth_failures: row.consecutive_auth_failures.unsigned_abs(),
                backlog_done: row.backlog_done,
                unique_ids: row.unique_ids,
                pipelining: row.pipelining,
            })
            .collect())
    }

    /// Keeps a lease for `lease` from now.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn renew_lease(&self, held: &Lease, lease: Duration) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET lease_until = now() + $3
            WHERE mailbox_id = $1 AND lease_token = $2 RETURNING lease_token",
            held.mailbox_id,
            held.token,
            interval(lease),
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(Error::LeaseLost)?;
        Ok(())
    }

    /// Gives a mailbox back without a pass having been made; it is due at once.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn release_lease(&self, held: &Lease) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET lease_until = NULL
            WHERE mailbox_id = $1 AND lease_token = $2 RETURNING lease_token",
            held.mailbox_id,
            held.token,
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(Error::LeaseLost)?;
        Ok(())
    }

    /// Ends every lease. Only for a process that knows it is alone with this database: then each of
    /// them is a dead worker's, and nobody need wait for their end.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn release_all_leases(&self) -> Result<(), Error> {
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET lease_until = NULL WHERE lease_until IS NOT NULL",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends a pass: the mailbox's state, the next due time, and a row of history unless the pass
    /// found nothing to do and nobody asked for it.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn finish_pass(&self, held: &Lease, outcome: &Outcome) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        let before = lock_lease(&mut tx, held).await?;
        let Outcome {
            counts, failure, ..
        } = outcome;
        let (code, detail) = failure
            .as_ref()
            .map(|f| (f.code, f.detail.as_str()))
            .unzip();
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET
                lease_until = NULL, sync_id = NULL, sync_requested_at = NULL,
                -- Settings that changed meanwhile are tried at once.
                next_sync_at = (SELECT CASE WHEN paused THEN NULL
                    WHEN updated_at > $9 THEN now() ELSE now() + $3 END
                    FROM popbridge.mailboxes WHERE id = $1),
                last_sync_at = now(),
                last_success_at = CASE WHEN $4::text IS NULL THEN now() ELSE last_success_at END,
                last_error_code = $4, last_error_detail = $5,
                last_error_at = CASE WHEN $4 IS NOT NULL THEN now() END,
                consecutive_failures = CASE WHEN $4 IS NULL THEN 0 ELSE consecutive_failures + 1 END,
                consecutive_auth_failures = CASE WHEN $6 THEN consecutive_auth_failures + 1
                    WHEN $4 IS NULL THEN 0 ELSE consecutive_auth_failures END,
                capabilities = COALESCE($7, capabilities),
                backlog_done_at = CASE WHEN $8 THEN COALESCE(backlog_done_at, now())
                    ELSE backlog_done_at END,
                pipelining_off_until = COALESCE(now() + $10, pipelining_off_until),
                stale_at = CASE WHEN $4 IS NULL THEN NULL
                    WHEN last_error_code IS NOT NULL OR stale_at IS NOT NULL THEN stale_at
                    ELSE (SELECT CASE WHEN NOT paused THEN now() + popbridge.stale_after(poll_interval_seconds)
                        END FROM popbridge.mailboxes WHERE id = $1) END
            WHERE mailbox_id = $1 AND lease_token = $2",
            held.mailbox_id,
            held.token,
            outcome.next_in.map(interval),
            code,
            detail,
            failure.as_ref().is_some_and(|f| f.auth),
            outcome.capabilities.as_deref(),
            outcome.caught_up,
            outcome.started_at,
            outcome.pipelining_off_for.map(interval),
        )
        .execute(&mut *tx)
        .await?;
        let idle = Counts {
            listed: 0,
            ..*counts
        } == Counts::default();
        if before.requested || !idle || failure.is_some() {
            sqlx::query!(
                "INSERT INTO popbridge.syncs (mailbox_id, id, started_at, finished_at, listed,
                    stored, skipped, failed, deleted, octets, error_code, error_detail)
                VALUES ($1, $2, $3, now(), $4, $5, $6, $7, $8, $9, $10, $11)",
                held.mailbox_id,
                held.sync_id,
                outcome.started_at,
                counts.listed,
                counts.stored,
                counts.skipped,
                counts.failed,
                counts.deleted,
                counts.octets,
                code,
                detail,
            )
            .execute(&mut *tx)
            .await?;
            syncs::record_transcript(&mut tx, held, &outcome.transcript).await?;
            syncs::trim(&mut tx, held.mailbox_id).await?;
        }
        let event = state_change(held.mailbox_id, &before, failure.as_ref());
        events::append(&mut tx, event.into_iter().collect()).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The event of a mailbox that began to fail, whose credentials began to be refused, or that
/// recovered: once, not with each pass, also where errors take turns.
fn state_change(mailbox_id: Uuid, before: &Locked, failure: Option<&Failure>) -> Option<NewEvent> {
    let (kind, data) = match failure {
        Some(Failure { code, detail, auth }) => {
            let kind = if *auth && before.auth_failures == 0 {
                "mailbox.auth_failed"
            } else if !auth && before.error_code.is_none() {
                "mailbox.error"
            } else {
                return None;
            };
            (kind, json!({ "code": code, "detail": detail }))
        }
        None => {
            let code = before.error_code.as_ref()?;
            ("mailbox.recovered", json!({ "code": code }))
        }
    };
    Some(NewEvent {
        id: Uuid::now_v7(),
        mailbox_id,
        kind,
        message_id: None,
        data,
        notify: true,
        facts: Facts::default(),
    })
}

/// What the state said when it was locked.
pub(super) struct Locked {
    /// Somebody asked for this pass.
    requested: bool,
    /// How the last pass failed.
    error_code: Option<String>,
    /// Refused logins since the last success.
    auth_failures: i32,
}

/// Locks the mailbox's state for this transaction if the lease is still ours.
pub(super) async fn lock_lease(tx: &mut PgConnection, held: &Lease) -> Result<Locked, Error> {
    sqlx::query_as!(
        Locked,
        r#"SELECT sync_requested_at IS NOT NULL AS "requested!", last_error_code AS error_code,
            consecutive_auth_failures AS auth_failures
        FROM popbridge.mailbox_states WHERE mailbox_id = $1 AND lease_token = $2 FOR UPDATE"#,
        held.mailbox_id,
        held.token,
    )
    .fetch_optional(tx)
    .await?
    .ok_or(Error::LeaseLost)
}

pub(super) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval {
        months: 0,
        days: 0,
        microseconds,
    }
}
