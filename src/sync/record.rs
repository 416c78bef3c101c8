//! Fetched octets to the row that is stored, with the event that tells of it.

use serde_json::json;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::ingest::Fetched;
use crate::{
    message::{self, Message},
    parsed::{self, Subject},
    store::{
        self,
        events::{Facts, NewEvent},
        ingest::{Arrival, NewMessage},
        maildrop::Listed,
        messages::{MessageState, Parsed},
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
    /// What arrived before is left out.
    pub(super) since: Option<OffsetDateTime>,
}

/// Parses a message. Takes CPU time: not for the runtime's own threads.
pub(super) fn record(fetched: Fetched, arrival: message::Arrival, context: Context) -> NewMessage {
    let Fetched {
        entry,
        octets,
        state,
        before,
        reservation: _,
    } = fetched;
    let backlog = before.as_ref().map_or(context.backlog, |b| b.backlog);
    let kept = before.and_then(|before| before.kept);
    let id = kept.map_or_else(Uuid::now_v7, |kept| kept.id);
    // Of one that was too long the consumer has heard already.
    let kind = match kept.map(|kept| kept.state) {
        Some(MessageState::Oversize) => "message.updated",
        _ => "message.received",
    };
    let message = message::parse(&octets);
    let listed_octets = entry.octets.try_into().unwrap_or(i64::MAX);
    let size = match state {
        MessageState::Stored => length(&octets),
        _ => listed_octets,
    };
    let subject = Subject {
        mailbox_id: context.mailbox_id,
        id,
        size,
        backlog,
        notify_backlog: context.notify_backlog,
    };
    let event = parsed::event(kind, subject, &message);
    let parsed = parsed::columns(&message);
    NewMessage {
        listed_octets,
        arrival: Arrival {
            at: arrival.at,
            distinctive: arrival.distinctive,
        },
        ..new_message(entry.unique_id, subject, state, octets, parsed, event)
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
    let note = format!(
        "The message cannot be had: {reason}. It stays on the server and is asked for again, at \
        least once a day; a sync with retry_quarantined asks at once. If it never comes, read or \
        delete it there."
    );
    let subject = Subject {
        mailbox_id: context.mailbox_id,
        id: Uuid::now_v7(),
        size: listed.octets,
        backlog: backlog.unwrap_or(context.backlog),
        notify_backlog: context.notify_backlog,
    };
    let message = Message {
        summary: message::Summary {
            parse_status: message::ParseStatus::Failed,
            parse_notes: vec![note],
            ..message::Summary::default()
        },
        body: message::Body::default(),
    };
    let event = NewEvent {
        id: Uuid::now_v7(),
        mailbox_id: subject.mailbox_id,
        kind: "message.quarantined",
        message_id: Some(subject.id),
        data: json!({
            "message_id": subject.id,
            "size": subject.size,
            "reason": reason,
            "backlog": subject.backlog,
        }),
        // A fault that somebody should look at, however old the mail.
        notify: true,
        facts: Facts::default(),
    };
    let parsed = parsed::columns(&message);
    let state = MessageState::Quarantined;
    new_message(listed.unique_id, subject, state, Vec::new(), parsed, event)
}

/// What is known of a message without its octets, in case that Postgres does not take it.
#[derive(Debug)]
pub(super) struct Refused {
    listed: Listed,
    backlog: bool,
}

impl From<&NewMessage> for Refused {
    fn from(message: &NewMessage) -> Self {
        Self {
            listed: Listed {
                unique_id: message.unique_id.clone(),
                octets: message.size,
            },
            backlog: message.backlog,
        }
    }
}

impl Refused {
    /// That it did not come as far as the store.
    pub(super) fn failed(self, error: &store::Error) -> Failed {
        Failed {
            listed: self.listed,
            own: true,
            lasting: true,
            backlog: Some(self.backlog),
            reason: format!("the database does not take it ({error})"),
        }
    }

    /// What stands for it.
    pub(super) fn set_aside(self, error: &store::Error, context: Context) -> NewMessage {
        quarantined(self.failed(error), context)
    }
}

fn new_message(
    unique_id: Vec<u8>,
    subject: Subject,
    state: MessageState,
    octets: Vec<u8>,
    parsed: Parsed,
    event: NewEvent,
) -> NewMessage {
    let Parsed {
        summary,
        body,
        parts,
    } = parsed;
    NewMessage {
        id: subject.id,
        unique_id,
        size: subject.size,
        listed_octets: subject.size,
        arrival: Arrival::default(),
        sha256: Sha256::digest(&octets).into(),
        backlog: subject.backlog,
        state,
        summary,
        body,
        parts,
        event,
        octets,
    }
}

fn length(octets: &[u8]) -> i64 {
    i64::try_from(octets.len()).expect("memory is smaller than 2^63")
}
