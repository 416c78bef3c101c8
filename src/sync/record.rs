//! Fetched octets to the row that is stored, with the event that tells of it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::ingest::Fetched;
use crate::{
    message::{self, Address, Message},
    store::{
        events::{Facts, NewEvent},
        ingest::{Arrival, NewMessage},
        messages::MessageState,
    },
};

/// What a pass knows of the messages that it records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) mailbox_id: Uuid,
    /// They were there at the first sync.
    pub(super) backlog: bool,
    /// Webhooks hear of backlog too.
    pub(super) notify_backlog: bool,
    /// What arrived before is left out.
    pub(super) since: Option<OffsetDateTime>,
}

/// Parses a message. Takes CPU time: not for the runtime's own threads.
pub(super) fn record(fetched: Fetched, arrival: message::Arrival, context: Context) -> NewMessage {
    let Fetched {
        entry,
        octets,
        state,
        ..
    } = fetched;
    let id = Uuid::now_v7();
    let message = message::parse(&octets);
    let listed_octets = entry.octets.try_into().unwrap_or(i64::MAX);
    let size = match state {
        MessageState::Stored => length(&octets),
        _ => listed_octets,
    };
    let parts = message
        .summary
        .attachments
        .iter()
        .map(|a| json!([a.part.start, a.part.len()]));
    NewMessage {
        id,
        unique_id: entry.unique_id,
        size,
        listed_octets,
        arrival: Arrival {
            at: arrival.at,
            distinctive: arrival.distinctive,
        },
        sha256: Sha256::digest(&octets).into(),
        backlog: context.backlog,
        state,
        parts: parts.collect(),
        event: received(id, &message, size, context),
        summary: to_json(&message.summary),
        body: to_json(&message.body),
        octets,
    }
}

fn received(id: Uuid, message: &Message, size: i64, context: Context) -> NewEvent {
    let summary = &message.summary;
    NewEvent {
        id: Uuid::now_v7(),
        mailbox_id: context.mailbox_id,
        kind: "message.received",
        message_id: Some(id),
        data: json!({
            "message_id": id,
            "size": size,
            "subject": summary.subject,
            "from": summary.from,
            "to": summary.to,
            "attachments": summary.attachments.len(),
            "backlog": context.backlog,
        }),
        notify: !context.backlog || context.notify_backlog,
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

fn to_json(part: &impl serde::Serialize) -> Value {
    serde_json::to_value(part).expect("these types have string keys and no failing serializer")
}

fn length(octets: &[u8]) -> i64 {
    i64::try_from(octets.len()).expect("memory is smaller than 2^63")
}
