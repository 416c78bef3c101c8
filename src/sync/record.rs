//! Fetched octets to the row that is stored, with the event that tells of it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ingest::Fetched;
use crate::{
    message::{self, Address, Message},
    store::{
        events::{Facts, NewEvent},
        ingest::NewMessage,
        messages::MessageState,
        unsettled::Failed,
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
}

/// Parses a message. Takes CPU time: not for the runtime's own threads.
pub(super) fn record(fetched: Fetched, context: Context) -> NewMessage {
    let Fetched {
        entry,
        octets,
        state,
        before,
        reservation: _,
    } = fetched;
    let backlog = before.as_ref().map_or(context.backlog, |b| b.backlog);
    let context = Context { backlog, ..context };
    let kept = before.and_then(|before| before.kept);
    let id = kept.map_or_else(Uuid::now_v7, |kept| kept.id);
    // Of one that was too long the consumer has heard already.
    let kind = match kept.map(|kept| kept.state) {
        Some(MessageState::Oversize) => "message.updated",
        _ => "message.received",
    };
    let message = message::parse(&octets);
    let size = match state {
        MessageState::Stored => length(&octets),
        _ => entry.octets.try_into().unwrap_or(i64::MAX),
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
        sha256: Sha256::digest(&octets).into(),
        backlog,
        state,
        parts: parts.collect(),
        event: event(kind, id, &message, size, context),
        summary: to_json(&message.summary),
        body: to_json(&message.body),
        octets,
    }
}

/// What stands for a message that cannot be had.
pub(super) fn quarantined(failed: Failed, context: Context) -> NewMessage {
    let Failed {
        listed,
        backlog,
        reason,
        ..
    } = failed;
    let id = Uuid::now_v7();
    let backlog = backlog.unwrap_or(context.backlog);
    let note = format!(
        "The message could not be fetched: {reason}. It stays on the server and is asked for again, \
        at least once a day; a sync with retry_quarantined asks at once. If it never comes, read or \
        delete it there."
    );
    let summary = message::Summary {
        parse_status: message::ParseStatus::Failed,
        parse_notes: vec![note],
        ..message::Summary::default()
    };
    let octets = Vec::new();
    NewMessage {
        id,
        unique_id: listed.unique_id,
        size: listed.octets,
        sha256: Sha256::digest(&octets).into(),
        backlog,
        state: MessageState::Quarantined,
        parts: json!([]),
        event: NewEvent {
            id: Uuid::now_v7(),
            mailbox_id: context.mailbox_id,
            kind: "message.quarantined",
            message_id: Some(id),
            data: json!({
                "message_id": id,
                "size": listed.octets,
                "reason": reason,
                "backlog": backlog,
            }),
            // A fault that somebody should look at, however old the mail.
            notify: true,
            facts: Facts::default(),
        },
        summary: to_json(&summary),
        body: to_json(&message::Body::default()),
        octets,
    }
}

fn event(kind: &'static str, id: Uuid, message: &Message, size: i64, context: Context) -> NewEvent {
    let summary = &message.summary;
    NewEvent {
        id: Uuid::now_v7(),
        mailbox_id: context.mailbox_id,
        kind,
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
