//! The log that webhooks, and later every other reader, share; and its fan-out to webhooks.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Error;

/// An event about to be written. Its fields after `data` decide which webhooks hear of it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// UUIDv7; the `webhook-id` of every delivery.
    pub id: Uuid,
    /// The mailbox; nil for none.
    pub mailbox_id: Uuid,
    /// Such as `message.received`.
    pub kind: &'static str,
    /// The message it tells of.
    pub message_id: Option<Uuid>,
    /// What it tells.
    pub data: Value,
    /// Whether webhooks hear of it at all: not of backlog, unless the mailbox says so.
    pub notify: bool,
    /// For webhook filters.
    pub facts: Facts,
}

/// What a webhook's filter looks at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Names and addresses of the authors.
    pub from: String,
    /// Names and addresses of the recipients.
    pub to: String,
    /// The subject.
    pub subject: String,
}

/// Writes events and the deliveries that they cause.
pub(super) async fn append(tx: &mut PgConnection, events: Vec<NewEvent>) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    fan_out(tx, &events).await?;
    let (mut mailbox_ids, mut ids, mut kinds) = (vec![], vec![], vec![]);
    let (mut message_ids, mut data) = (vec![], vec![]);
    for event in events {
        mailbox_ids.push(event.mailbox_id);
        ids.push(event.id);
        kinds.push(event.kind);
        message_ids.push(event.message_id);
        data.push(event.data);
    }
    sqlx::query!(
        "INSERT INTO popbridge.events (mailbox_id, id, type, message_id, data)
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::jsonb[])",
        &mailbox_ids,
        &ids,
        &kinds as &[&str],
        &message_ids as &[Option<Uuid>],
        &data,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn fan_out(tx: &mut PgConnection, events: &[NewEvent]) -> Result<(), Error> {
    // Shared locks: a webhook that is deleted meanwhile waits for this transaction.
    let webhooks = sqlx::query_as!(
        Subscription,
        "SELECT id, events, mailbox_ids, filter_from, filter_to, filter_subject
        FROM popbridge.webhooks WHERE state = 'enabled' FOR KEY SHARE",
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut mailbox_ids, mut ids, mut webhook_ids, mut event_ids) =
        (vec![], vec![], vec![], vec![]);
    for event in events.iter().filter(|event| event.notify) {
        for webhook in webhooks.iter().filter(|webhook| webhook.wants(event)) {
            mailbox_ids.push(event.mailbox_id);
            ids.push(Uuid::now_v7());
            webhook_ids.push(webhook.id);
            event_ids.push(event.id);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO popbridge.deliveries (mailbox_id, id, webhook_id, event_id)
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[])",
        &mailbox_ids,
        &ids,
        &webhook_ids,
        &event_ids,
    )
    .execute(tx)
    .await?;
    Ok(())
}

struct Subscription {
    id: Uuid,
    events: Vec<String>,
    mailbox_ids: Vec<Uuid>,
    filter_from: Option<String>,
    filter_to: Option<String>,
    filter_subject: Option<String>,
}

impl Subscription {
    fn wants(&self, event: &NewEvent) -> bool {
        let Facts { from, to, subject } = &event.facts;
        self.events.iter().any(|kind| kind == event.kind)
            && (self.mailbox_ids.is_empty() || self.mailbox_ids.contains(&event.mailbox_id))
            && contains(from, self.filter_from.as_deref())
            && contains(to, self.filter_to.as_deref())
            && contains(subject, self.filter_subject.as_deref())
    }
}

/// Case-insensitive; no filter lets everything pass.
fn contains(text: &str, filter: Option<&str>) -> bool {
    filter.is_none_or(|filter| text.to_lowercase().contains(&filter.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn filter_ignores_case_and_absence_lets_all_pass() {
        assert!(contains("Anna <anna@example.org>", Some("ANNA@")));
        assert!(contains("", None));
        assert!(!contains("Anna", Some("bert")));
    }
}
