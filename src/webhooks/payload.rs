//! The body of a webhook: the event, and as much of its message as the endpoint asked for.

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{self, Store, deliveries::DueDelivery, webhooks::PayloadKind};

/// Octets of a body at most.
const MAX_OCTETS: usize = 256 * 1024;

#[derive(Serialize)]
struct Event<'a> {
    id: Uuid,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    mailbox_id: Option<Uuid>,
    data: Value,
}

/// The octets to sign and send: JSON of at most 256 KiB. A message that would make it longer is
/// shown without its text, or not at all, and `data.truncated` is true. A message that was deleted
/// meanwhile leaves the event's own data.
pub(super) async fn body(store: &Store, due: &DueDelivery) -> Result<Vec<u8>, store::Error> {
    let mut truncated = false;
    for kind in richest_first(due.payload) {
        let message = message(store, due, *kind).await?;
        let body = encode(due, with_message(due.data.clone(), message, truncated));
        if body.len() <= MAX_OCTETS {
            return Ok(body);
        }
        truncated = true;
    }
    // The event's own data is too long; the API has it.
    let data = json!({ "message_id": due.message_id });
    Ok(encode(due, with_message(data, None, truncated)))
}

fn richest_first(kind: PayloadKind) -> &'static [PayloadKind] {
    use PayloadKind::{Metadata, Text, Thin};
    match kind {
        Text => &[Text, Metadata, Thin],
        Metadata => &[Metadata, Thin],
        Thin => &[Thin],
    }
}

async fn message(
    store: &Store,
    due: &DueDelivery,
    kind: PayloadKind,
) -> Result<Option<Value>, store::Error> {
    let Some(id) = due.message_id else {
        return Ok(None);
    };
    let found = match kind {
        PayloadKind::Thin => return Ok(None),
        PayloadKind::Metadata => store.message(due.mailbox_id, id).await.map(to_json),
        PayloadKind::Text => store.whole_message(due.mailbox_id, id).await.map(to_json),
    };
    match found {
        Err(store::Error::NotFound) => Ok(None),
        found => found.map(Some),
    }
}

fn with_message(mut data: Value, message: Option<Value>, truncated: bool) -> Value {
    if let Value::Object(fields) = &mut data {
        if let Some(message) = message {
            fields.insert("message".to_owned(), message);
        }
        if truncated {
            fields.insert("truncated".to_owned(), true.into());
        }
    }
    data
}

fn encode(due: &DueDelivery, data: Value) -> Vec<u8> {
    let event = Event {
        id: due.event_id,
        kind: &due.event_type,
        timestamp: due.event_at,
        mailbox_id: Some(due.mailbox_id).filter(|id| !id.is_nil()),
        data,
    };
    serde_json::to_vec(&event).expect("these types have string keys and no failing serializer")
}

fn to_json(message: impl Serialize) -> Value {
    serde_json::to_value(message).expect("these types have string keys and no failing serializer")
}
