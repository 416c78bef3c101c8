//! Messages that are not to be had, or not all of them: their failures, when they are asked for
//! again, and what is made of one that comes after all.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Error, Store, events,
    ingest::{NewMessage, insert_entries, insert_messages},
    leases::{Lease, lock_lease},
    mailboxes::{count_stored, lock_state},
    maildrop::Listed,
    messages::MessageState,
};

/// A listed message that is to be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Passes in which it did not come, in a row.
    pub failures: i32,
    /// Those of them that are its own fault.
    pub own_failures: i32,
    /// It was there at the first sync.
    pub backlog: bool,
    /// What is stored in its stead.
    pub kept: Option<Kept>,
}

/// A message that is stored without all of its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its id, which stays.
    pub id: Uuid,
    /// Why it is not whole.
    pub state: MessageState,
}

/// A message that did not come in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub listed: Listed,
    /// Other mail came past it.
    pub own: bool,
    /// It is worth setting aside once it has failed for long, though nothing shows that it is its
    /// own fault.
    pub lasting: bool,
    /// It was there at the first sync, where that is known.
    pub backlog: Option<bool>,
    /// For people.
    pub reason: String,
}

impl Store {
    /// The messages of the maildrop that are to be asked for again, by unique-id.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn retries(&self, held: &Lease) -> Result<HashMap<Vec<u8>, Retry>, Error> {
        let rows = sqlx::query!(
            r#"SELECT e.unique_id, e.failures, e.own_failures,
                COALESCE(m.backlog, e.listed_at <= COALESCE(s.backlog_done_at, 'infinity'))
                    AS "backlog!",
                m.id AS "id?", m.state AS "state?: MessageState"
            FROM popbridge.maildrop_entries e
            JOIN popbridge.mailbox_states s ON s.mailbox_id = e.mailbox_id
            LEFT JOIN popbridge.messages m
                ON m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id
            WHERE e.mailbox_id = $1 AND (e.failures > 0 OR e.next_try_at IS NOT NULL)
                AND e.remote_state IN ('present', 'gone') AND NOT e.skipped
                AND CASE WHEN e.message_id IS NULL THEN e.stored_at IS NULL
                    ELSE m.id IS NOT NULL AND e.next_try_at <= now() END"#,
            held.mailbox_id,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let kept = row.id.zip(row.state).map(|(id, state)| Kept { id, state });
                let retry = Retry {
                    failures: row.failures,
                    own_failures: row.own_failures,
                    backlog: row.backlog,
                    kept,
                };
                (row.unique_id, retry)
            })
            .collect())
    }

    /// Counts the failures of a pass. Returns those messages that are to be set aside now: after
    /// three of their own, or, where that could not be told, after three in a day and more. One that
    /// is kept in part already is asked for again after an hour, and ever later, up to a day.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn record_failures(
        &self,
        held: &Lease,
        failed: Vec<Failed>,
    ) -> Result<Vec<Failed>, Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let (mut unique_ids, mut octets, mut own) = (vec![], vec![], vec![]);
        for failed in &failed {
            unique_ids.push(failed.listed.unique_id.as_slice());
            octets.push(failed.listed.octets);
            own.push(failed.own);
        }
        let rows = sqlx::query!(
            r#"INSERT INTO popbridge.maildrop_entries AS e
                (mailbox_id, unique_id, octets, failures, own_failures, failing_since)
            SELECT $1, u, o, 1, own::int, now()
            FROM unnest($2::bytea[], $3::bigint[], $4::boolean[]) AS t(u, o, own)
            ON CONFLICT (mailbox_id, unique_id) DO UPDATE SET
                failures = e.failures + 1,
                own_failures = e.own_failures + excluded.own_failures,
                failing_since = COALESCE(e.failing_since, now()),
                next_try_at = CASE WHEN e.message_id IS NOT NULL THEN now() + LEAST(
                    interval '1 hour' * 2 ^ LEAST(GREATEST(e.failures - 3, 0), 8),
                    interval '1 day') END
            RETURNING unique_id, message_id IS NULL AND stored_at IS NULL AS "open!",
                own_failures >= 3 AS "at_fault!",
                failures >= 3 AND failing_since <= now() - interval '1 day' AS "for_long!""#,
            held.mailbox_id,
            &unique_ids as &[&[u8]],
            &octets,
            &own,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let open = rows.into_iter().filter(|row| row.open);
        let standing: HashMap<_, _> = open
            .map(|row| (row.unique_id, (row.at_fault, row.for_long)))
            .collect();
        let hopeless = failed.into_iter().filter(|failed| {
            standing
                .get(&failed.listed.unique_id)
                .is_some_and(|(at_fault, for_long)| *at_fault || failed.lasting && *for_long)
        });
        Ok(hopeless.collect())
    }

    /// Stores what stands for a message that cannot be had, and asks for it again in an hour.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn set_aside(&self, held: &Lease, message: NewMessage) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let mut batch = vec![message];
        let fresh = insert_entries(&mut tx, held.mailbox_id, &batch).await?;
        batch.retain(|message| fresh.contains(&message.id));
        let octets = octets_of(&batch);
        let messages = i64::try_from(batch.len()).expect("it is one at most");
        let events = insert_messages(&mut tx, held.mailbox_id, batch).await?;
        sqlx::query!(
            "UPDATE popbridge.maildrop_entries SET next_try_at = now() + interval '1 hour'
            WHERE mailbox_id = $1 AND message_id = ANY($2)",
            held.mailbox_id,
            &fresh,
        )
        .execute(&mut *tx)
        .await?;
        events::append(&mut tx, events).await?;
        count_stored(&mut tx, held.mailbox_id, messages, octets).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts a message that came after all in the place of what was kept of it, under the same id.
    /// Returns its octets; `None` if it was deleted meanwhile.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn complete_message(
        &self,
        held: &Lease,
        message: NewMessage,
    ) -> Result<Option<i64>, Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        let replaced = sqlx::query!(
            "UPDATE popbridge.maildrop_entries SET octets = $3, next_try_at = NULL, failures = 0,
                own_failures = 0, failing_since = NULL,
                -- What consumers took was not all of it.
                delivered_at = NULL,
                stored_at = CASE WHEN $4 THEN COALESCE(stored_at, now()) END
            WHERE mailbox_id = $1 AND message_id = $2 RETURNING message_id",
            held.mailbox_id,
            message.id,
            message.size,
            message.state == MessageState::Stored,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let before = sqlx::query_scalar!(
            r#"SELECT octet_length(octets)::bigint AS "octets!" FROM popbridge.raw_messages
            WHERE mailbox_id = $1 AND message_id = $2"#,
            held.mailbox_id,
            message.id,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let (Some(_), Some(before)) = (replaced, before) else {
            return Ok(None);
        };
        sqlx::query!(
            "UPDATE popbridge.messages SET size = $3, sha256 = $4, received_at = now(), state = $5,
                summary = $6, body = $7, parts = $8
            WHERE mailbox_id = $1 AND id = $2",
            held.mailbox_id,
            message.id,
            message.size,
            &message.sha256,
            message.state as MessageState,
            message.summary,
            message.body,
            message.parts,
        )
        .execute(&mut *tx)
        .await?;
        let octets = octets_of(std::slice::from_ref(&message));
        sqlx::query!(
            "UPDATE popbridge.raw_messages SET octets = $3 WHERE mailbox_id = $1 AND message_id = $2",
            held.mailbox_id,
            message.id,
            message.octets,
        )
        .execute(&mut *tx)
        .await?;
        events::append(&mut tx, vec![message.event]).await?;
        count_stored(&mut tx, held.mailbox_id, 0, octets - before).await?;
        tx.commit().await?;
        Ok(Some(octets))
    }

    /// Lets the next pass ask for all messages that were set aside.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn retry_quarantined(&self, mailbox_id: Uuid) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, mailbox_id).await?;
        sqlx::query!(
            "UPDATE popbridge.maildrop_entries e SET next_try_at = now()
            FROM popbridge.messages m
            WHERE e.mailbox_id = $1 AND e.next_try_at IS NOT NULL AND m.state = 'quarantined'
                AND m.mailbox_id = e.mailbox_id AND m.unique_id = e.unique_id",
            mailbox_id,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Lets the next pass ask for the oversize messages that a mailbox takes, if it takes longer ones
/// than before.
pub(super) async fn retry_oversize(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    max_octets: i64,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.maildrop_entries e SET next_try_at = now()
        FROM popbridge.messages m JOIN popbridge.mailboxes b ON b.id = m.mailbox_id
        WHERE b.id = $1 AND b.max_message_bytes < $2 AND m.state = 'oversize' AND m.size <= $2
            AND e.mailbox_id = m.mailbox_id AND e.unique_id = m.unique_id",
        mailbox_id,
        max_octets,
    )
    .execute(tx)
    .await?;
    Ok(())
}

fn octets_of(batch: &[NewMessage]) -> i64 {
    let octets: usize = batch.iter().map(|message| message.octets.len()).sum();
    i64::try_from(octets).expect("memory is smaller than 2^63")
}
