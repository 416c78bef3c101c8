//! Mailboxes: what users set, and how their syncs fare.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    credentials::{Credential, CredentialKind},
    leases::interval,
    retention::Retention,
    unsettled::retry_oversize,
};

/// How long mail that is more than its mailbox keeps stays at least: so that webhooks that want its
/// text find it at their first attempt.
const RETENTION_GRACE: Duration = Duration::from_secs(10);

/// How a maildrop's connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Tls {
    /// TLS from the first octet (RFC 8314), port 995.
    Implicit,
    /// STLS (RFC 2595), port 110; never falls back to plain text.
    Starttls,
    /// No encryption at all.
    None,
}

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Auth {
    /// The best that the server offers: with `oauth2` OAUTHBEARER or XOAUTH2, with a password SASL
    /// PLAIN or USER and PASS.
    Auto,
    /// USER and PASS (RFC 1939).
    UserPass,
    /// SASL PLAIN (RFC 4616).
    Plain,
    /// APOP (RFC 1939). Its MD5 digest is broken (CVE-2007-1558): whoever can pose as the server
    /// learns the password. Only for servers with nothing better.
    Apop,
    /// XOAUTH2, Google's and Microsoft's; with `oauth2`.
    Xoauth2,
    /// OAUTHBEARER (RFC 7628); with `oauth2`.
    Oauthbearer,
}

/// When a message is deleted from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeletePolicy {
    /// Only when the API is asked to.
    Never,
    /// Once it is stored.
    AfterStore,
    /// `delete_after_days` after it was stored.
    AfterDays,
    /// Once the consumer acknowledged it, or every webhook that it went to took it.
    AfterAck,
}

/// What the first sync does with the mail that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitialSync {
    /// Fetch all of it.
    All,
    /// Leave all of it out.
    None,
    /// Fetch the last so many of the listing.
    LastN(u32),
    /// Fetch what arrived then or later, by its `Received` or `Date` field, and what has no date.
    Since(#[serde(with = "time::serde::rfc3339")] OffsetDateTime),
}

/// What a mailbox is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum MailboxState {
    /// Not synced yet.
    New,
    /// The last sync succeeded.
    Ok,
    /// A sync runs.
    Syncing,
    /// The last sync failed; the next comes later.
    BackingOff,
    /// The server refuses the credentials.
    AuthFailed,
    /// Not synced until resumed.
    Paused,
}

/// What users set. Complete and validated before it gets here.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Settings {
    /// For people.
    pub name: String,
    /// The id that the user's own system has for it; unique.
    pub external_id: Option<String>,
    /// Host name or address of the POP3 server.
    pub host: String,
    /// TCP port.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: i32,
    /// How the connection is protected.
    pub tls: Tls,
    /// Certificates in PEM that alone are trusted for this server; null: the system's.
    pub tls_ca_pem: Option<String>,
    /// SHA-256 of the only public key (SPKI) that the server may have, in base64; null: any.
    pub tls_pin_sha256: Option<String>,
    /// Who logs in.
    pub username: String,
    /// How to log in.
    pub auth: Auth,
    /// Seconds between two syncs.
    pub poll_interval_seconds: i32,
    /// When messages are deleted from the server.
    pub delete_policy: DeletePolicy,
    /// For `after_days`.
    pub delete_after_days: Option<i32>,
    /// What the first sync does with the mail that is already there.
    pub initial_sync: InitialSync,
    /// Whether webhooks hear of the mail that was there at the first sync.
    pub notify_backlog: bool,
    /// Octets; longer messages are not fetched.
    pub max_message_bytes: i64,
    /// New messages that one session fetches at most.
    pub max_messages_per_session: i32,
    /// Octets of new messages that one session fetches at most.
    pub max_bytes_per_session: i64,
    /// How much of the stored mail is kept; null: all of it.
    pub retention: Option<Retention>,
    /// Not synced while true.
    pub paused: bool,
}

/// A mailbox: its settings and how its syncs fare. The secret never comes back.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Mailbox {
    /// UUIDv7.
    pub id: Uuid,
    /// What users set.
    #[serde(flatten)]
    pub settings: Settings,
    /// What logs in.
    #[serde(skip)]
    pub credential: CredentialKind,
    /// What it is doing.
    pub state: MailboxState,
    /// End of the last sync.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_sync_at: Option<OffsetDateTime>,
    /// End of the last sync that succeeded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_success_at: Option<OffsetDateTime>,
    /// When the next sync is due; null while paused or after too many refused logins.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_sync_at: Option<OffsetDateTime>,
    /// Why the last sync failed; null when it did not.
    pub last_error: Option<LastError>,
    /// Messages stored.
    pub message_count: i64,
    /// Octets of the messages stored.
    pub stored_bytes: i64,
    /// Messages that the server has yet to delete.
    pub pending_remote_deletes: i64,
    /// What the server announced after login (CAPA, RFC 2449).
    pub capabilities: Vec<String>,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its settings last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Why the last sync failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LastError {
    /// Stable machine word.
    pub code: String,
    /// What happened and what to change.
    pub detail: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Selects mailboxes: the `FROM` and all that follows is the caller's.
macro_rules! select_mailboxes {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            r#"SELECT m.id, name, external_id, m.host, port, tls AS "tls: Tls", tls_ca_pem,
                tls_pin_sha256, username, auth AS "auth: Auth", poll_interval_seconds,
                delete_policy AS "delete_policy: DeletePolicy", delete_after_days,
                initial_sync AS "initial_sync: Json<InitialSync>", notify_backlog,
                max_message_bytes, max_messages_per_session, max_bytes_per_session,
                retention AS "retention: Json<Retention>", paused,
                credential AS "credential: CredentialKind",
                CASE
                    WHEN paused THEN 'paused'
                    WHEN lease_until > now() THEN 'syncing'
                    WHEN consecutive_auth_failures > 0 THEN 'auth_failed'
                    WHEN last_error_code IS NOT NULL THEN 'backing_off'
                    WHEN last_success_at IS NULL THEN 'new'
                    ELSE 'ok'
                END AS "state!: MailboxState",
                last_sync_at, last_success_at, next_sync_at, last_error_code, last_error_detail,
                last_error_at, message_count, stored_bytes, pending_remote_deletes, capabilities,
                created_at, updated_at
            FROM popbridge.mailboxes m JOIN popbridge.mailbox_states s ON s.mailbox_id = m.id "#
            + $tail
            $(, $argument)*
        )
        .map(|row| Mailbox {
            id: row.id,
            settings: Settings {
                name: row.name,
                external_id: row.external_id,
                host: row.host,
                port: row.port,
                tls: row.tls,
                tls_ca_pem: row.tls_ca_pem,
                tls_pin_sha256: row.tls_pin_sha256,
                username: row.username,
                auth: row.auth,
                poll_interval_seconds: row.poll_interval_seconds,
                delete_policy: row.delete_policy,
                delete_after_days: row.delete_after_days,
                initial_sync: row.initial_sync.0,
                notify_backlog: row.notify_backlog,
                max_message_bytes: row.max_message_bytes,
                max_messages_per_session: row.max_messages_per_session,
                max_bytes_per_session: row.max_bytes_per_session,
                retention: row.retention.map(|Json(retention)| retention),
                paused: row.paused,
            },
            credential: row.credential,
            state: row.state,
            last_sync_at: row.last_sync_at,
            last_success_at: row.last_success_at,
            next_sync_at: row.next_sync_at,
            last_error: match (row.last_error_code, row.last_error_detail, row.last_error_at) {
                (Some(code), Some(detail), Some(at)) => Some(LastError { code, detail, at }),
                _ => None,
            },
            message_count: row.message_count,
            stored_bytes: row.stored_bytes,
            pending_remote_deletes: row.pending_remote_deletes,
            capabilities: row.capabilities,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    };
}

impl Store {
    /// Registers a mailbox; its first sync is due at once.
    ///
    /// # Errors
    /// [`Error::Conflict`] when `external_id` is taken.
    pub async fn create_mailbox(
        &self,
        settings: &Settings,
        credential: &Credential,
    ) -> Result<Mailbox, Error> {
        let id = Uuid::now_v7();
        let sealed = self.seal_credential(id, credential);
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "INSERT INTO popbridge.mailboxes (id, name, external_id, host, port, tls, tls_ca_pem,
                username, auth, sealed_secret, poll_interval_seconds, delete_policy,
                delete_after_days, initial_sync, notify_backlog, max_message_bytes,
                max_messages_per_session, max_bytes_per_session, paused, tls_pin_sha256, credential,
                retention)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                $18, $19, $20, $21, $22)",
            id,
            settings.name,
            settings.external_id,
            settings.host,
            settings.port,
            settings.tls as Tls,
            settings.tls_ca_pem,
            settings.username,
            settings.auth as Auth,
            sealed,
            settings.poll_interval_seconds,
            settings.delete_policy as DeletePolicy,
            settings.delete_after_days,
            Json(settings.initial_sync) as _,
            settings.notify_backlog,
            settings.max_message_bytes,
            settings.max_messages_per_session,
            settings.max_bytes_per_session,
            settings.paused,
            settings.tls_pin_sha256,
            credential.kind() as CredentialKind,
            settings.retention.map(Json) as _,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO popbridge.mailbox_states (mailbox_id, host, next_sync_at, stale_at)
            SELECT $1, lower($3), now, now + popbridge.stale_after($4)
            FROM (SELECT CASE WHEN $2 THEN NULL ELSE now() END) AS t (now)",
            id,
            settings.paused,
            settings.host,
            settings.poll_interval_seconds,
        )
        .execute(&mut *tx)
        .await?;
        let mailbox = select_mailboxes!("WHERE m.id = $1", id)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(mailbox)
    }

    /// One mailbox.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn mailbox(&self, id: Uuid) -> Result<Mailbox, Error> {
        Ok(select_mailboxes!("WHERE m.id = $1", id)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Mailboxes, newest first: those before `before`, and of `only` where it is not empty.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn mailboxes(
        &self,
        before: Option<Uuid>,
        only: &[Uuid],
        limit: i64,
    ) -> Result<Vec<Mailbox>, Error> {
        let before = before.unwrap_or(Uuid::max());
        let mailboxes = select_mailboxes!(
            "WHERE m.id < $1 AND ($2::uuid[] = '{}' OR m.id = ANY($2)) ORDER BY m.id DESC LIMIT $3",
            before,
            only,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(mailboxes)
    }

    /// Replaces the settings, and the credential where one is given, unless they changed since
    /// `read_at` (the `updated_at` that the caller's copy has). A sync is due at once and earlier
    /// failures are forgotten: the change may have mended them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the mailbox is gone or has changed; [`Error::Conflict`] when
    /// `external_id` is taken.
    pub async fn update_mailbox(
        &self,
        id: Uuid,
        read_at: OffsetDateTime,
        settings: &Settings,
        credential: Option<&Credential>,
    ) -> Result<Mailbox, Error> {
        let sealed = credential.map(|credential| self.seal_credential(id, credential));
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, id).await?;
        retry_oversize(&mut tx, id, settings.max_message_bytes).await?;
        sqlx::query!(
            "UPDATE popbridge.mailboxes SET name = $3, external_id = $4, host = $5, port = $6,
                tls = $7, tls_ca_pem = $8, username = $9, auth = $10,
                sealed_secret = COALESCE($11, sealed_secret), poll_interval_seconds = $12,
                delete_policy = $13, delete_after_days = $14, initial_sync = $15,
                notify_backlog = $16, max_message_bytes = $17, max_messages_per_session = $18,
                max_bytes_per_session = $19, paused = $20, updated_at = clock_timestamp(),
                credential = COALESCE($21, credential),
                secret_version = secret_version + CASE WHEN $11 IS NULL THEN 0 ELSE 1 END,
                sealed_access_token = CASE WHEN $11 IS NULL THEN sealed_access_token END,
                access_token_expires_at = CASE WHEN $11 IS NULL THEN access_token_expires_at END,
                tls_pin_sha256 = $22, retention = $23
            WHERE id = $1 AND updated_at = $2 RETURNING id",
            id,
            read_at,
            settings.name,
            settings.external_id,
            settings.host,
            settings.port,
            settings.tls as Tls,
            settings.tls_ca_pem,
            settings.username,
            settings.auth as Auth,
            sealed,
            settings.poll_interval_seconds,
            settings.delete_policy as DeletePolicy,
            settings.delete_after_days,
            Json(settings.initial_sync) as _,
            settings.notify_backlog,
            settings.max_message_bytes,
            settings.max_messages_per_session,
            settings.max_bytes_per_session,
            settings.paused,
            credential.map(Credential::kind) as Option<CredentialKind>,
            settings.tls_pin_sha256,
            settings.retention.map(Json) as _,
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE popbridge.mailbox_states SET
                host = lower($3),
                next_sync_at = CASE WHEN $2 THEN NULL ELSE now() END,
                consecutive_failures = 0, consecutive_auth_failures = 0,
                pipelining_off_until = NULL,
                retention_due_at = CASE WHEN $5 THEN now() END,
                stale_at = CASE
                    WHEN $2 OR (last_error_code IS NULL AND last_success_at IS NOT NULL) THEN NULL
                    ELSE now() + popbridge.stale_after($4) END
            WHERE mailbox_id = $1",
            id,
            settings.paused,
            settings.host,
            settings.poll_interval_seconds,
            settings.retention.is_some(),
        )
        .execute(&mut *tx)
        .await?;
        let mailbox = select_mailboxes!("WHERE m.id = $1", id)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(mailbox)
    }

    /// Deletes a mailbox with all its messages. Nothing is deleted from the server; its events
    /// stay in the log.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_mailbox(&self, id: Uuid) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_state(&mut tx, id).await?;
        sqlx::query!("DELETE FROM popbridge.mailboxes WHERE id = $1", id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Changes what the mailbox says that it stores. What came may be more than it keeps.
pub(super) async fn count_stored(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    messages: i64,
    octets: i64,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.mailbox_states
        SET message_count = message_count + $2, stored_bytes = stored_bytes + $3,
            retention_due_at = CASE WHEN $4 AND EXISTS (SELECT FROM popbridge.mailboxes
                    WHERE id = $1 AND retention IS NOT NULL)
                THEN LEAST(retention_due_at, now() + $5) ELSE retention_due_at END
        WHERE mailbox_id = $1",
        mailbox_id,
        messages,
        octets,
        messages > 0 || octets > 0,
        interval(RETENTION_GRACE),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks a mailbox's state, as every transaction that changes a mailbox or its rows does first: in
/// another order they would deadlock with an ingest.
pub(super) async fn lock_state(tx: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "SELECT mailbox_id FROM popbridge.mailbox_states WHERE mailbox_id = $1 FOR UPDATE",
        id,
    )
    .fetch_one(tx)
    .await?;
    Ok(())
}
