//! Mailboxes that could not be synced for too long.

use serde_json::json;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, Facts, NewEvent},
};

/// Mailboxes told of in one transaction.
const BATCH: i64 = 100;

impl Store {
    /// Tells of mailboxes that have had no successful pass for ten poll intervals, but an hour at
    /// least: once, until one succeeds. Returns how many; there may be more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn announce_stale_mailboxes(&self) -> Result<usize, Error> {
        let mut tx = self.pool.begin().await?;
        let stale = sqlx::query!(
            "UPDATE popbridge.mailbox_states s SET stale_at = NULL
            FROM (
                SELECT mailbox_id FROM popbridge.mailbox_states
                WHERE stale_at <= now()
                ORDER BY stale_at
                LIMIT $1
                FOR UPDATE SKIP LOCKED
            ) due
            WHERE s.mailbox_id = due.mailbox_id
            RETURNING s.mailbox_id, s.last_success_at, s.last_error_code, s.last_error_detail",
            BATCH,
        )
        .fetch_all(&mut *tx)
        .await?;
        let events = stale.into_iter().map(|mailbox| {
            let last_success_at = mailbox
                .last_success_at
                .and_then(|at| at.format(&Rfc3339).ok());
            NewEvent {
                id: Uuid::now_v7(),
                mailbox_id: mailbox.mailbox_id,
                kind: "mailbox.stale",
                message_id: None,
                data: json!({
                    "last_success_at": last_success_at,
                    "code": mailbox.last_error_code,
                    "detail": mailbox.last_error_detail,
                }),
                notify: true,
                facts: Facts::default(),
            }
        });
        let events: Vec<_> = events.collect();
        let told = events.len();
        events::append(&mut tx, events).await?;
        tx.commit().await?;
        Ok(told)
    }
}
