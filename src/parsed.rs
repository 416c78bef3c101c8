//! A parsed message as the store keeps it: the columns of its row, and the event that tells of it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    message::{Address, Message},
    store::{
        events::{Facts, NewEvent},
        messages::Parsed,
    },
};

/// The message that an event tells of.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its mailbox.
    pub mailbox_id: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Octets.
    pub size: i64,
    /// It was there at the first sync.
    pub backlog: bool,
    /// Webhooks hear of backlog too.
    pub notify_backlog: bool,
}

/// The columns of a message's row.
pub fn columns(message: &Message) -> Parsed {
    let parts = message
        .summary
        .attachments
        .iter()
        .map(|a| json!([a.part.start, a.part.len()]));
    Parsed {
        summary: to_json(&message.summary),
        body: serde_json::to_string(&message.body).expect(SERIALIZES),
        parts: parts.collect(),
    }
}

/// An event of this type, such as `message.received`, with what is most asked for of the message.
pub fn event(kind: &'static str, subject: Subject, message: &Message) -> NewEvent {
    let summary = &message.summary;
    NewEvent {
        id: Uuid::now_v7(),
        mailbox_id: subject.mailbox_id,
        kind,
        message_id: Some(subject.id),
        data: json!({
            "message_id": subject.id,
            "size": subject.size,
            "subject": summary.subject,
            "from": summary.from,
            "to": summary.to,
            "attachments": summary.attachments.len(),
            "backlog": subject.backlog,
        }),
        notify: !subject.backlog || subject.notify_backlog,
        facts: Facts {
            from: names_and_addresses(&summary.from),
            to: names_and_addresses(summary.to.iter().chain(&summary.cc)),
            subject: summary.subject.clone().unwrap_or_default(),
        },
    }
}

fn names_and_addresses<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> String {
    let parts = addresses
        .into_iter()
        .flat_map(|address| [&address.name, &address.address]);
    parts
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

const SERIALIZES: &str = "these types have string keys and no failing serializer";

fn to_json(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).expect(SERIALIZES)
}
