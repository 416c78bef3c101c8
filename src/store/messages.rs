//! Stored messages: reading and deleting them.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, NewEvent},
    mailboxes::{count_stored, lock_state},
    maildrop::{RemoteState, count_pending_deletes},
    retention::{deleted, remove_copies},
};

/// Whether all of a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum MessageState {
    /// All of it.
    Stored,
    /// Set aside after repeated failures.
    Quarantined,
    /// Longer than the mailbox allows.
    Oversize,
}

/// A stored message without its text.
// `S` is the parsed message as lists show it: what the store hands on is JSON that it does not
// look into.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StoredMessage<S = Value> {
    /// UUIDv7.
    pub id: Uuid,
    /// The mailbox.
    pub mailbox_id: Uuid,
    /// From the unique-id listing; octets that are not UTF-8 are escaped as `\xNN`.
    #[serde(serialize_with = "unique_id_as_text")]
    #[schema(value_type = String)]
    pub unique_id: Vec<u8>,
    /// Octets.
    pub size: i64,
    /// SHA-256 of the raw octets.
    #[serde(skip)]
    pub sha256: Vec<u8>,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// It was there at the first sync.
    pub backlog: bool,
    /// Whether all of it is stored.
    pub state: MessageState,
    /// Where it is on the server.
    pub remote_state: RemoteState,
    /// When the consumer was done with it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub acked_at: Option<OffsetDateTime>,
    /// The parsed message.
    #[serde(flatten)]
    pub summary: S,
}

/// A message as it was parsed, for the columns of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What lists show.
    pub summary: Value,
    /// Headers and text, as JSON: the store does not look into it.
    pub body: String,
    /// `[offset, octets]` of each attachment's part.
    pub parts: Value,
}

/// A stored message with its headers and text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WholeMessage<S = Value, B = Value> {
    /// What lists show.
    #[serde(flatten)]
    pub message: StoredMessage<S>,
    /// Headers and text.
    #[serde(flatten)]
    pub body: B,
}

fn unique_id_as_text<S: Serializer>(unique_id: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match str::from_utf8(unique_id) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => serializer.collect_str(&unique_id.escape_ascii()),
    }
}

/// What a deletion covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeleteScope {
    /// Only the stored copy.
    Local,
    /// Only the server's copy.
    Remote,
    /// The stored copy at once, the server's with the next sync.
    #[default]
    Both,
}

/// Selects messages: the `WHERE` and all that follows is the caller's.
macro_rules! select_messages {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            StoredMessage,
            r#"SELECT m.id, m.mailbox_id, m.unique_id, size, sha256, received_at,
                backlog, state AS "state: MessageState", remote_state AS "remote_state: RemoteState",
                m.acked_at, summary
            FROM popbridge.messages m JOIN popbridge.maildrop_entries e
                ON e.mailbox_id = m.mailbox_id AND e.unique_id = m.unique_id "#
            + $tail
            $(, $argument)*
        )
    };
}

impl Store {
    /// Messages of a mailbox, newest first: those before `before`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn messages(
        &self,
        mailbox_id: Uuid,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<StoredMessage>, Error> {
        let messages = select_messages!(
            "WHERE m.mailbox_id = $1 AND m.id < $2 ORDER BY m.id DESC LIMIT $3",
            mailbox_id,
            before.unwrap_or(Uuid::max()),
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(messages)
    }

    /// One message, without its text.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn message(&self, mailbox_id: Uuid, id: Uuid) -> Result<StoredMessage, Error> {
        Ok(
            select_messages!("WHERE m.mailbox_id = $1 AND m.id = $2", mailbox_id, id)
                .fetch_one(&self.pool)
                .await?,
        )
    }

    /// One message with its headers and text.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn whole_message(&self, mailbox_id: Uuid, id: Uuid) -> Result<WholeMessage, Error> {
        let message = self.message(mailbox_id, id).await?;
        let body = sqlx::query_scalar!(
            r#"SELECT body::jsonb AS "body!" FROM popbridge.messages
            WHERE mailbox_id = $1 AND id = $2"#,
            mailbox_id,
            id,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(WholeMessage { message, body })
    }

    /// The octets as the server sent them.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn raw_message(&self, mailbox_id: Uuid, id: Uuid) -> Result<Vec<u8>, Error> {
        Ok(sqlx::query_scalar!(
            "SELECT octets FROM popbridge.raw_messages WHERE mailbox_id = $1 AND message_id = $2",
            mailbox_id,
            id,
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// The part of the raw octets that holds attachment `n`, MIME header included.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn attachment_part(
        &self,
        mailbox_id: Uuid,
        id: Uuid,
        n: i32,
    ) -> Result<Vec<u8>, Error> {
        sqlx::query_scalar!(
            "SELECT substring(r.octets FROM (m.parts -> $3::int ->> 0)::int + 1
                FOR (m.parts -> $3::int ->> 1)::int)
            FROM popbridge.messages m JOIN popbridge.raw_messages r
                ON r.mailbox_id = m.mailbox_id AND r.message_id = m.id
            WHERE m.mailbox_id = $1 AND m.id = $2",
            mailbox_id,
            id,
            n,
        )
        .fetch_one(&self.pool)
        .await?
        .ok_or(Error::NotFound)
    }

    /// Marks a message as dealt with by its consumer; the first time counts.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn ack_message(&self, mailbox_id: Uuid, id: Uuid) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, mailbox_id).await?;
        sqlx::query!(
            "UPDATE popbridge.messages SET acked_at = COALESCE(acked_at, now())
            WHERE mailbox_id = $1 AND id = $2 RETURNING id",
            mailbox_id,
            id,
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE popbridge.maildrop_entries SET acked_at = COALESCE(acked_at, now())
            WHERE mailbox_id = $1 AND message_id = $2",
            mailbox_id,
            id,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Replaces what was parsed from `sha256`'s octets. Returns whether that changed anything; then
    /// the event tells of it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where the octets are others by now.
    pub async fn replace_parsed(
        &self,
        message: &StoredMessage,
        parsed: Parsed,
        event: NewEvent,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, message.mailbox_id).await?;
        let Parsed {
            summary,
            body,
            parts,
        } = parsed;
        let changes = sqlx::query_scalar!(
            r#"SELECT summary IS DISTINCT FROM $4 OR body::jsonb IS DISTINCT FROM $5::text::jsonb
                OR parts IS DISTINCT FROM $6 AS "changes!"
            FROM popbridge.messages WHERE mailbox_id = $1 AND id = $2 AND sha256 = $3"#,
            message.mailbox_id,
            message.id,
            message.sha256,
            summary,
            body,
            parts,
        )
        .fetch_one(&mut *tx)
        .await?;
        if changes {
            sqlx::query!(
                "UPDATE popbridge.messages SET summary = $3, body = $4, parts = $5
                WHERE mailbox_id = $1 AND id = $2",
                message.mailbox_id,
                message.id,
                summary,
                body,
                parts,
            )
            .execute(&mut *tx)
            .await?;
            events::append(&mut tx, vec![event]).await?;
        }
        tx.commit().await?;
        Ok(changes)
    }

    /// Deletes a message here, on the server, or both. On the server it is deleted by a later
    /// sync, even if it was deleted here before; until a listing lacks it, it is `delete_pending`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_message(
        &self,
        mailbox_id: Uuid,
        id: Uuid,
        scope: DeleteScope,
    ) -> Result<RemoteState, Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, mailbox_id).await?;
        let stored_octets = sqlx::query_scalar!(
            r#"SELECT octet_length(r.octets)::bigint AS "octets!"
            FROM popbridge.messages m JOIN popbridge.raw_messages r
                ON r.mailbox_id = m.mailbox_id AND r.message_id = m.id
            WHERE m.mailbox_id = $1 AND m.id = $2 FOR UPDATE"#,
            mailbox_id,
            id,
        )
        .fetch_optional(&mut *tx)
        .await?;
        if stored_octets.is_none() && scope != DeleteScope::Remote {
            return Err(Error::NotFound);
        }
        if scope != DeleteScope::Local {
            request_remote_delete(&mut tx, mailbox_id, id).await?;
        }
        let remote_state = sqlx::query_scalar!(
            r#"SELECT remote_state AS "state: RemoteState" FROM popbridge.maildrop_entries
            WHERE mailbox_id = $1 AND message_id = $2"#,
            mailbox_id,
            id,
        )
        .fetch_one(&mut *tx)
        .await?;
        if let Some(octets) = stored_octets.filter(|_| scope != DeleteScope::Remote) {
            remove_copy(&mut tx, mailbox_id, id, octets).await?;
        }
        tx.commit().await?;
        Ok(remote_state)
    }
}

async fn request_remote_delete(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    id: Uuid,
) -> Result<(), Error> {
    let marked = sqlx::query!(
        "UPDATE popbridge.maildrop_entries
        SET remote_state = 'delete_pending', delete_requested_at = now()
        WHERE mailbox_id = $1 AND message_id = $2 AND remote_state = 'present'",
        mailbox_id,
        id,
    )
    .execute(&mut *tx)
    .await?;
    if marked.rows_affected() > 0 {
        count_pending_deletes(tx, mailbox_id, 1).await?;
    }
    Ok(())
}

async fn remove_copy(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    id: Uuid,
    octets: i64,
) -> Result<(), Error> {
    remove_copies(tx, mailbox_id, &[id]).await?;
    count_stored(tx, mailbox_id, -1, -octets).await?;
    events::append(tx, vec![deleted(mailbox_id, id, "api")]).await
}
