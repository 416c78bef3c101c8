//! Webhook endpoints.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, Facts, NewEvent},
};

/// How much of a message a webhook's body holds, in `data.message`.
///
/// A body has at most 256 KiB: a message that would make it longer is shown without its text, or
/// not at all, and `data.truncated` is true. A message that was deleted meanwhile is left out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum PayloadKind {
    /// Ids and what a subject line shows.
    #[default]
    Thin,
    /// The message as lists show it.
    Metadata,
    /// The whole message, its text included.
    Text,
}

/// Whether a webhook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum WebhookState {
    /// It is.
    Enabled,
    /// It is not; events meanwhile are not kept for it.
    Disabled,
}

/// Which messages a webhook hears of: parts of names, addresses and the subject, whatever their
/// case. All that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// In the name or address of an author.
    #[serde(default)]
    pub from: Option<String>,
    /// In the name or address of a recipient (`To` or `Cc`).
    #[serde(default)]
    pub to: Option<String>,
    /// In the subject.
    #[serde(default)]
    pub subject: Option<String>,
}

/// What users set. Complete and validated before it gets here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookSettings {
    /// Where it is called.
    pub url: String,
    /// Event types it hears of.
    pub events: Vec<String>,
    /// The only mailboxes it hears of; empty: all.
    pub mailbox_ids: Vec<Uuid>,
    /// Which messages it hears of.
    pub filter: Filter,
    /// How much of a message its body holds.
    pub payload: PayloadKind,
    /// For people.
    pub description: Option<String>,
    /// Whether it is called.
    pub state: WebhookState,
}

/// A webhook endpoint, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Webhook {
    /// UUIDv7.
    pub id: Uuid,
    /// What users set.
    #[serde(flatten)]
    pub settings: WebhookSettings,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its settings last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Runs a statement that ends in the columns of a webhook, such as `… RETURNING`.
macro_rules! query_webhooks {
    ($head:literal, $tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $head
            + r#" id, url, events, mailbox_ids, filter_from, filter_to, filter_subject,
                payload AS "payload: PayloadKind", description, state AS "state: WebhookState",
                created_at, updated_at "#
            + $tail
            $(, $argument)*
        )
        .map(|row| Webhook {
            id: row.id,
            settings: WebhookSettings {
                url: row.url,
                events: row.events,
                mailbox_ids: row.mailbox_ids,
                filter: Filter {
                    from: row.filter_from,
                    to: row.filter_to,
                    subject: row.filter_subject,
                },
                payload: row.payload,
                description: row.description,
                state: row.state,
            },
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    };
}

impl Store {
    /// Makes an endpoint with its secret, `whsec_…`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn create_webhook(
        &self,
        settings: &WebhookSettings,
        secret: &SecretString,
    ) -> Result<Webhook, Error> {
        let id = Uuid::now_v7();
        let webhook = query_webhooks!(
            "INSERT INTO popbridge.webhooks (id, url, events, mailbox_ids, filter_from, filter_to,
                filter_subject, payload, description, state, sealed_secret)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING",
            "",
            id,
            settings.url,
            &settings.events,
            &settings.mailbox_ids,
            settings.filter.from,
            settings.filter.to,
            settings.filter.subject,
            settings.payload as PayloadKind,
            settings.description,
            settings.state as WebhookState,
            self.master_key.seal(id, secret.expose_secret().as_bytes()),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(webhook)
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn webhook(&self, id: Uuid) -> Result<Webhook, Error> {
        let webhook = query_webhooks!("SELECT", "FROM popbridge.webhooks WHERE id = $1", id)
            .fetch_one(&self.pool)
            .await?;
        Ok(webhook)
    }

    /// Endpoints, newest first: those before `before`, and only those that hear of no mailbox but
    /// `only` where it is not empty.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn webhooks(
        &self,
        before: Option<Uuid>,
        only: &[Uuid],
        limit: i64,
    ) -> Result<Vec<Webhook>, Error> {
        let webhooks = query_webhooks!(
            "SELECT",
            "FROM popbridge.webhooks WHERE id < $1
                AND ($2::uuid[] = '{}' OR (mailbox_ids <> '{}' AND mailbox_ids <@ $2))
            ORDER BY id DESC LIMIT $3",
            before.unwrap_or(Uuid::max()),
            only,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(webhooks)
    }

    /// Replaces the settings unless they changed since `read_at` (the `updated_at` that the
    /// caller's copy has). What waits for an endpoint that is disabled becomes a dead letter.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the endpoint is gone or has changed.
    pub async fn update_webhook(
        &self,
        id: Uuid,
        read_at: OffsetDateTime,
        settings: &WebhookSettings,
    ) -> Result<Webhook, Error> {
        let mut tx = self.pool.begin().await?;
        let webhook = query_webhooks!(
            "UPDATE popbridge.webhooks SET url = $3, events = $4, mailbox_ids = $5,
                filter_from = $6, filter_to = $7, filter_subject = $8, payload = $9,
                description = $10, state = $11, updated_at = clock_timestamp()
            WHERE id = $1 AND updated_at = $2 RETURNING",
            "",
            id,
            read_at,
            settings.url,
            &settings.events,
            &settings.mailbox_ids,
            settings.filter.from,
            settings.filter.to,
            settings.filter.subject,
            settings.payload as PayloadKind,
            settings.description,
            settings.state as WebhookState,
        )
        .fetch_one(&mut *tx)
        .await?;
        if settings.state == WebhookState::Disabled {
            bury_pending(&mut tx, id).await?;
        }
        tx.commit().await?;
        Ok(webhook)
    }

    /// Deletes an endpoint with its deliveries.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_webhook(&self, id: Uuid) -> Result<(), Error> {
        sqlx::query!(
            "DELETE FROM popbridge.webhooks WHERE id = $1 RETURNING id",
            id
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(())
    }

    pub(super) fn open_webhook_secret(
        &self,
        id: Uuid,
        sealed: &[u8],
    ) -> Result<SecretString, Error> {
        let plain = self.master_key.open(id, sealed)?;
        String::from_utf8(plain)
            .map(SecretString::from)
            .map_err(|_| Error::Unsealable)
    }
}

/// Locks an endpoint before its deliveries, as whoever disables it does, so that two who do so at
/// once wait for each other in one order.
pub(super) async fn lock(tx: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "SELECT id FROM popbridge.webhooks WHERE id = $1 FOR NO KEY UPDATE",
        id
    )
    .fetch_optional(tx)
    .await?;
    Ok(())
}

/// Stops calling an endpoint and tells the log why.
pub(super) async fn disable(tx: &mut PgConnection, id: Uuid, reason: &str) -> Result<(), Error> {
    let changed = sqlx::query!(
        "UPDATE popbridge.webhooks SET state = 'disabled', updated_at = clock_timestamp()
        WHERE id = $1 AND state = 'enabled'",
        id,
    )
    .execute(&mut *tx)
    .await?;
    bury_pending(&mut *tx, id).await?;
    if changed.rows_affected() == 0 {
        return Ok(());
    }
    let event = NewEvent {
        id: Uuid::now_v7(),
        mailbox_id: Uuid::nil(),
        kind: "webhook.disabled",
        message_id: None,
        data: serde_json::json!({ "webhook_id": id, "reason": reason }),
        notify: true,
        facts: Facts::default(),
    };
    events::append(tx, vec![event]).await
}

/// Leases stay: whoever has a delivery now may still record how its attempt ended.
async fn bury_pending(tx: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE popbridge.deliveries
        SET state = 'dead', finished_at = now()
        WHERE webhook_id = $1 AND state = 'pending'",
        id,
    )
    .execute(tx)
    .await?;
    Ok(())
}
