//! Deliveries: the outbox of webhooks, and its log.
//!
//! A delivery is claimed by a lease in a short transaction; HTTP happens outside of any.

use std::{collections::HashMap, time::Duration};

use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Error, Store, leases::interval, webhooks::PayloadKind};

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryState {
    /// An attempt is due, or will be.
    Pending,
    /// The endpoint took it.
    Delivered,
    /// Given up.
    Dead,
}

/// An event on its way to one endpoint.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// UUIDv7.
    pub id: Uuid,
    /// The endpoint.
    pub webhook_id: Uuid,
    /// The event, and the `webhook-id` header of each attempt.
    pub event_id: Uuid,
    /// Type of the event.
    pub event_type: String,
    /// How far it is.
    pub state: DeliveryState,
    /// When the next attempt is due; null when there is none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended; null until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Each attempt so far, in order.
    pub attempts: Vec<Attempt>,
}

/// One HTTP request to an endpoint.
#[derive(Clone, Debug, Serialize, serde::Deserialize, ToSchema)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Milliseconds until it ended.
    pub elapsed_ms: i32,
    /// HTTP status; null where no response came.
    pub status: Option<i32>,
    /// Why it failed; null when it did not.
    pub error: Option<String>,
    /// Start of the response body.
    pub response_head: Option<String>,
}

/// A delivery that this worker may attempt until the lease ends.
#[derive(Debug)]
pub struct DueDelivery {
    /// With `mailbox_id`, the key.
    pub id: Uuid,
    /// The mailbox; nil for none.
    pub mailbox_id: Uuid,
    /// The fencing token.
    pub lease_token: i64,
    /// Attempts made before.
    pub attempts: i32,
    /// The endpoint.
    pub webhook_id: Uuid,
    /// Where it is called.
    pub url: String,
    /// How much of the message to send.
    pub payload: PayloadKind,
    /// The endpoint's secret, `whsec_…`, sealed.
    pub sealed_secret: Vec<u8>,
    /// The event.
    pub event_id: Uuid,
    /// Its type.
    pub event_type: String,
    /// When it happened.
    pub event_at: OffsetDateTime,
    /// The message it tells of.
    pub message_id: Option<Uuid>,
    /// What it tells.
    pub data: Value,
}

/// What follows from an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Delivered,
    /// Try again after this time.
    Retry(Duration),
    /// Given up.
    Dead,
    /// Given up, and the endpoint wants no more (410).
    Disable,
}

impl Store {
    /// Claims up to `limit` deliveries that are due and that nobody else has, the oldest first,
    /// but no more for one endpoint than `limit_per_webhook` less those that `in_flight` counts.
    /// An endpoint with a long queue thus hides no other.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn claim_due_deliveries(
        &self,
        limit: i64,
        limit_per_webhook: i64,
        in_flight: &HashMap<Uuid, i64>,
        lease: Duration,
    ) -> Result<Vec<DueDelivery>, Error> {
        let (busy, counts): (Vec<Uuid>, Vec<i64>) = in_flight.iter().unzip();
        Ok(sqlx::query_as!(
            DueDelivery,
            r#"WITH waiting AS (
                SELECT w.id, $2 - COALESCE(busy.n, 0) AS room
                FROM popbridge.webhooks w
                LEFT JOIN unnest($4::uuid[], $5::bigint[]) AS busy (id, n) ON busy.id = w.id
                CROSS JOIN LATERAL (
                    SELECT min(next_attempt_at) AS since FROM popbridge.deliveries
                    WHERE webhook_id = w.id AND state = 'pending'
                ) oldest
                WHERE w.state = 'enabled' AND since <= now() AND COALESCE(busy.n, 0) < $2
                ORDER BY since
                LIMIT $1
            ), due AS (
                SELECT d.mailbox_id, d.id
                FROM waiting
                CROSS JOIN LATERAL (
                    SELECT mailbox_id, id, next_attempt_at FROM popbridge.deliveries
                    WHERE webhook_id = waiting.id AND state = 'pending' AND next_attempt_at <= now()
                    ORDER BY next_attempt_at
                    LIMIT room
                    FOR UPDATE SKIP LOCKED
                ) d
                ORDER BY d.next_attempt_at
                LIMIT $1
            ), claimed AS (
                UPDATE popbridge.deliveries d
                SET lease_token = lease_token + 1, next_attempt_at = now() + $3
                FROM due WHERE d.mailbox_id = due.mailbox_id AND d.id = due.id
                RETURNING d.*
            )
            SELECT d.id, d.mailbox_id, d.lease_token, d.attempts, w.id AS webhook_id, w.url,
                w.payload AS "payload: PayloadKind", w.sealed_secret, e.id AS event_id,
                e.type AS event_type, e.created_at AS event_at, e.message_id, e.data
            FROM claimed d
            JOIN popbridge.webhooks w ON w.id = d.webhook_id
            JOIN popbridge.events e ON e.mailbox_id = d.mailbox_id AND e.id = d.event_id"#,
            limit,
            limit_per_webhook,
            interval(lease),
            &busy,
            &counts,
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Frees every claimed delivery that was never attempted; what was attempted before waits for the
    /// end of its lease. Only for a process that knows it is alone with this database.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn release_all_deliveries(&self) -> Result<(), Error> {
        // Before its first attempt, nothing but a claim makes a delivery due later.
        sqlx::query!(
            "UPDATE popbridge.deliveries SET next_attempt_at = now()
            WHERE state = 'pending' AND attempts = 0 AND next_attempt_at > now()",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The secret of the endpoint of a delivery, `whsec_…`.
    ///
    /// # Errors
    /// [`Error::Unsealable`].
    pub fn delivery_secret(&self, due: &DueDelivery) -> Result<SecretString, Error> {
        self.open_webhook_secret(due.webhook_id, &due.sealed_secret)
    }

    /// Records an attempt and what follows from it. A delivery that died while the attempt ran,
    /// because its endpoint was disabled, is not tried again.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another worker has claimed the delivery meanwhile.
    pub async fn record_attempt(
        &self,
        due: &DueDelivery,
        attempt: &Attempt,
        verdict: Verdict,
    ) -> Result<(), Error> {
        let (state, retry_in) = match verdict {
            Verdict::Delivered => (DeliveryState::Delivered, None),
            Verdict::Retry(after) => (DeliveryState::Pending, Some(interval(after))),
            Verdict::Dead | Verdict::Disable => (DeliveryState::Dead, None),
        };
        let mut tx = self.pool.begin().await?;
        if verdict == Verdict::Disable {
            super::webhooks::lock(&mut tx, due.webhook_id).await?;
        }
        let told_of = due
            .message_id
            .filter(|_| verdict == Verdict::Delivered && due.event_type == "message.received");
        if let Some(message_id) = told_of {
            // First: so the last of its deliveries sees that the others are done.
            record_notified(&mut tx, due.mailbox_id, message_id).await?;
        }
        sqlx::query!(
            "UPDATE popbridge.deliveries SET
                state = CASE WHEN state = 'dead' AND $4 = 'pending' THEN state ELSE $4 END,
                attempts = $5,
                next_attempt_at = now() + COALESCE($6, interval '0'),
                finished_at = CASE WHEN state = 'dead' OR $6::interval IS NULL THEN now() END
            WHERE mailbox_id = $1 AND id = $2 AND lease_token = $3 RETURNING id",
            due.mailbox_id,
            due.id,
            due.lease_token,
            state as DeliveryState,
            attempt.attempt,
            retry_in,
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(Error::LeaseLost)?;
        sqlx::query!(
            "INSERT INTO popbridge.delivery_attempts (mailbox_id, delivery_id, attempt, started_at,
                elapsed_ms, status, error, response_head)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            due.mailbox_id,
            due.id,
            attempt.attempt,
            attempt.started_at,
            attempt.elapsed_ms,
            attempt.status,
            attempt.error,
            attempt.response_head,
        )
        .execute(&mut *tx)
        .await?;
        if let Some(message_id) = told_of {
            record_delivered(&mut tx, due, message_id).await?;
        }
        if verdict == Verdict::Disable {
            super::webhooks::disable(&mut tx, due.webhook_id, "the endpoint answered 410").await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Deliveries to an endpoint, newest first: those before `before`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn deliveries(
        &self,
        webhook_id: Uuid,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Delivery>, Error> {
        let rows = sqlx::query!(
            r#"SELECT d.id, d.event_id, e.type AS event_type, d.state AS "state: DeliveryState",
                d.next_attempt_at, d.created_at, d.finished_at,
                (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                        'attempt', attempt,
                        'started_at', to_char(started_at AT TIME ZONE 'UTC',
                            'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                        'elapsed_ms', elapsed_ms, 'status', status, 'error', error,
                        'response_head', response_head) ORDER BY attempt), '[]')
                    FROM popbridge.delivery_attempts a
                    WHERE a.mailbox_id = d.mailbox_id AND a.delivery_id = d.id
                ) AS "attempts!: Json<Vec<Attempt>>"
            FROM popbridge.deliveries d
            JOIN popbridge.events e ON e.mailbox_id = d.mailbox_id AND e.id = d.event_id
            WHERE d.webhook_id = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3"#,
            webhook_id,
            before.unwrap_or(Uuid::max()),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Delivery {
                id: row.id,
                webhook_id,
                event_id: row.event_id,
                event_type: row.event_type,
                state: row.state,
                next_attempt_at: (row.state == DeliveryState::Pending)
                    .then_some(row.next_attempt_at),
                created_at: row.created_at,
                finished_at: row.finished_at,
                attempts: row.attempts.0,
            })
            .collect())
    }
}

async fn record_notified(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    message_id: Uuid,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.maildrop_entries SET notified_at = COALESCE(notified_at, now())
        WHERE mailbox_id = $1 AND message_id = $2",
        mailbox_id,
        message_id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Records that every endpoint took the message, if so.
async fn record_delivered(
    tx: &mut PgConnection,
    due: &DueDelivery,
    message_id: Uuid,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.maildrop_entries SET delivered_at = now()
        WHERE mailbox_id = $1 AND message_id = $2 AND delivered_at IS NULL AND NOT EXISTS (
            SELECT FROM popbridge.deliveries
            WHERE mailbox_id = $1 AND event_id = $3 AND state <> 'delivered')",
        due.mailbox_id,
        message_id,
        due.event_id,
    )
    .execute(tx)
    .await?;
    Ok(())
}
