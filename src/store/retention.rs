//! Removing stored mail that is more than a mailbox keeps, the oldest first.
//!
//! What is removed is the stored copy alone. Its entry in the ledger stays: it is not fetched again,
//! and what the delete policy says of the server's copy still happens.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, Facts, NewEvent},
    leases::interval,
    mailboxes::count_stored,
};

/// Messages looked at, and removed at most, in one transaction,
const BATCH_MESSAGES: i64 = 500;

/// and octets removed, but for one message.
const BATCH_OCTETS: i64 = 64 << 20;

/// Between two looks at a mailbox in which nothing but time makes mail too old.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// How much of its mail a mailbox keeps. The oldest is removed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Retention {
    /// Days since a message was stored; null: any.
    pub max_age_days: Option<i32>,
    /// Messages; null: any number.
    pub max_messages: Option<i64>,
    /// Octets of stored messages; null: any number.
    pub max_bytes: Option<i64>,
}

/// What a look at one mailbox removed.
#[derive(Clone, Copy, Debug)]
pub struct Removed {
    /// The mailbox.
    pub mailbox_id: Uuid,
    /// Messages.
    pub messages: i64,
    /// Their octets.
    pub octets: i64,
}

impl Retention {
    fn is_too_old(&self, candidate: &Candidate, now: OffsetDateTime) -> bool {
        self.ends(candidate).is_some_and(|end| end <= now)
    }

    /// When a message is too old.
    fn ends(&self, candidate: &Candidate) -> Option<OffsetDateTime> {
        let days = self.max_age_days?;
        let age = time::Duration::days(days.into());
        candidate.received_at.checked_add(age)
    }
}

/// One of the oldest messages.
struct Candidate {
    id: Uuid,
    received_at: OffsetDateTime,
    octets: i64,
}

impl Store {
    /// Looks at the mailbox that waits longest for it, and removes a batch of what is too much
    /// there. `None`: no mailbox waits. Each removed message is told of by a `message.deleted`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn sweep_retention(&self) -> Result<Option<Removed>, Error> {
        let mut tx = self.pool.begin().await?;
        let due = sqlx::query!(
            r#"SELECT s.mailbox_id, message_count, stored_bytes,
                m.retention AS "retention: Json<Retention>", now() AS "now!"
            FROM popbridge.mailbox_states s JOIN popbridge.mailboxes m ON m.id = s.mailbox_id
            WHERE retention_due_at <= now() ORDER BY retention_due_at LIMIT 1
            FOR UPDATE OF s SKIP LOCKED"#,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(due) = due else {
            return Ok(None);
        };
        let retention = due.retention.map(|Json(retention)| retention);
        let retention = retention.unwrap_or_default();
        let oldest = oldest(&mut tx, due.mailbox_id).await?;
        let looked_at_all = oldest.len() < usize::try_from(BATCH_MESSAGES).unwrap_or(usize::MAX);

        let over = |limit: Option<i64>, stored: i64| limit.map_or(0, |limit| stored - limit);
        let messages_over = over(retention.max_messages, due.message_count);
        let octets_over = over(retention.max_bytes, due.stored_bytes);
        let mut removed = Removed {
            mailbox_id: due.mailbox_id,
            messages: 0,
            octets: 0,
        };
        let (mut ids, mut more, mut next_end) = (Vec::new(), false, None::<OffsetDateTime>);
        for candidate in oldest {
            let too_much = removed.messages < messages_over
                || removed.octets < octets_over
                || retention.is_too_old(&candidate, due.now);
            if !too_much {
                let end = retention.ends(&candidate);
                next_end = next_end.into_iter().chain(end).min();
            } else if removed.octets > 0 && removed.octets + candidate.octets > BATCH_OCTETS {
                more = true;
                break;
            } else {
                removed.messages += 1;
                removed.octets += candidate.octets;
                ids.push(candidate.id);
            }
        }
        more |= !ids.is_empty() && !looked_at_all;
        remove_copies(&mut tx, due.mailbox_id, &ids).await?;
        count_stored(&mut tx, due.mailbox_id, -removed.messages, -removed.octets).await?;
        let events = ids
            .iter()
            .map(|id| deleted(due.mailbox_id, *id, "retention"));
        events::append(&mut tx, events.collect()).await?;
        sqlx::query!(
            "UPDATE popbridge.mailbox_states
            SET retention_due_at = CASE WHEN $2 THEN now() ELSE GREATEST($3, now() + $4) END
            WHERE mailbox_id = $1",
            due.mailbox_id,
            more,
            next_end,
            next_end.map(|_| interval(LEAST_PAUSE)),
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(removed))
    }
}

/// The messages that were stored first.
async fn oldest(tx: &mut PgConnection, mailbox_id: Uuid) -> Result<Vec<Candidate>, Error> {
    Ok(sqlx::query_as!(
        Candidate,
        r#"SELECT m.id, received_at, octet_length(r.octets)::bigint AS "octets!"
        FROM popbridge.messages m JOIN popbridge.raw_messages r
            ON r.mailbox_id = m.mailbox_id AND r.message_id = m.id
        WHERE m.mailbox_id = $1 ORDER BY m.id LIMIT $2"#,
        mailbox_id,
        BATCH_MESSAGES,
    )
    .fetch_all(tx)
    .await?)
}

/// Removes the stored copies of messages.
pub(super) async fn remove_copies(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    ids: &[Uuid],
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM popbridge.messages WHERE mailbox_id = $1 AND id = ANY($2)",
        mailbox_id,
        ids,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The event that tells of a removed copy.
pub(super) fn deleted(mailbox_id: Uuid, id: Uuid, reason: &'static str) -> NewEvent {
    NewEvent {
        id: Uuid::now_v7(),
        mailbox_id,
        kind: "message.deleted",
        message_id: Some(id),
        data: json!({ "message_id": id, "reason": reason }),
        notify: true,
        facts: Facts::default(),
    }
}
