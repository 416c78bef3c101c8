//! Octets to the message of the API: pure, bounded, and it never fails.
//!
//! Whatever a server sent becomes a [`Message`]; what had to be repaired is said in
//! [`Summary::parse_notes`]. mail-parser reads the fields, the encodings and the character sets;
//! the walk through the parts is in `mime`, which says why.

use std::{ops::Range, panic::catch_unwind};

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

mod addresses;
mod attachments;
mod bodies;
mod charset;
mod clean;
mod date;
mod flags;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod header;
mod ids;
pub mod limits;
mod media;
mod mime;
mod notes;
#[cfg(test)]
mod tests;
mod transfer;

pub use self::attachments::attachment_octets;
use self::{
    addresses::addresses,
    header::Head,
    limits::{MAX_FIELD_NAME_CHARS, MAX_SUBJECT_CHARS},
    media::Media,
    notes::Notes,
};

/// A parsed message (RFC 5322, MIME). Text is valid UTF-8 without NUL, as PostgreSQL asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What lists show.
    pub summary: Summary,
    /// What only a single message shows.
    pub body: Body,
}

/// What lists of messages show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Summary {
    /// `Date` header; absent when missing or absurd.
    #[serde(with = "time::serde::rfc3339::option")]
    pub date: Option<OffsetDateTime>,
    /// Decoded `Subject`.
    pub subject: Option<String>,
    /// `From`, groups flattened.
    pub from: Vec<Address>,
    /// `To`, groups flattened.
    pub to: Vec<Address>,
    /// `Cc`, groups flattened.
    pub cc: Vec<Address>,
    /// `Bcc`, groups flattened.
    pub bcc: Vec<Address>,
    /// `Reply-To`, groups flattened.
    pub reply_to: Vec<Address>,
    /// `Sender`.
    pub sender: Vec<Address>,
    /// `Message-ID` without angle brackets. Never a key: senders repeat it.
    pub message_id: Option<String>,
    /// First id of `In-Reply-To`, without angle brackets.
    pub in_reply_to: Option<String>,
    /// `References`, oldest first, without angle brackets.
    pub references: Vec<String>,
    /// First 200 characters of the text, white space folded.
    pub preview: String,
    /// Parts that are not a body.
    pub attachments: Vec<Attachment>,
    /// What kind of mail this is.
    pub flags: Flags,
    /// How well parsing went.
    pub parse_status: ParseStatus,
    /// What was missing, wrong or cut, a short sentence each.
    pub parse_notes: Vec<String>,
}

/// What only a single message shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Body {
    /// Every header field in order, decoded.
    pub headers: Vec<Header>,
    /// The bodies.
    pub text: Text,
}

/// One address of an address list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Address {
    /// Display name, decoded.
    pub name: Option<String>,
    /// `local@domain`, as it was written.
    pub address: Option<String>,
}

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Header {
    /// Field name as written.
    pub name: String,
    /// Decoded, unfolded value.
    pub value: String,
}

/// The bodies of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Text {
    /// The plain text body, where there is one.
    pub plain: Option<String>,
    /// The HTML body as sent, **not** sanitised.
    pub html: Option<String>,
    /// A body was longer than what is kept here; `raw` has all of it.
    pub truncated: bool,
}

/// A part of the message that is not one of its bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Attachment {
    /// Number within the message, from 0.
    pub n: u32,
    /// File name as the sender gave it, decoded.
    pub filename: Option<String>,
    /// Media type, lower case, without parameters.
    pub content_type: String,
    /// Decoded octets.
    pub size: u64,
    /// SHA-256 of the decoded octets, lower-case hex.
    pub sha256: String,
    /// `Content-ID` without angle brackets.
    pub content_id: Option<String>,
    /// Meant to be shown within the message.
    pub inline: bool,
    /// Where the whole part (its header and body) lies in the raw message, in octets.
    #[serde(skip)]
    pub part: Range<usize>,
}

/// What kind of mail a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Flags {
    /// Sent by a machine in answer to mail (RFC 3834).
    pub auto_reply: bool,
    /// A delivery status notification (RFC 3464) or an older bounce.
    pub bounce: bool,
    /// Came by a mailing list (RFC 2369, RFC 2919).
    pub list: bool,
}

/// How well parsing went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParseStatus {
    /// Nothing to remark.
    #[default]
    Ok,
    /// Something was missing, wrong or cut; see the notes.
    Repaired,
    /// Not a message at all; the raw octets are there.
    Failed,
}

/// Octets to a message, bounded by [`limits`]. It never fails: what is no message at all comes
/// out with [`ParseStatus::Failed`] and the octets as its text.
///
/// Time is linear in `octets` (times [`limits::MAX_NESTING`] at worst), memory a small multiple.
/// It is work for the CPU: on a runtime, call it on a blocking thread.
pub fn parse(octets: &[u8]) -> Message {
    // No input is known that panics; if one is found, its mail must still be stored.
    catch_unwind(|| parse_parts(octets)).unwrap_or_else(|_| Message {
        summary: Summary {
            parse_status: ParseStatus::Failed,
            parse_notes: vec!["The parser failed on this message.".to_owned()],
            ..Summary::default()
        },
        body: Body::default(),
    })
}

/// What a message's header says of its delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// By the topmost `Received` field, else by `Date`.
    pub at: Option<OffsetDateTime>,
    /// It has a field that no two deliveries have in common.
    pub distinctive: bool,
}

/// When a message arrived, from its octets or its header alone. Like [`parse`] it never fails.
pub fn arrival(octets: &[u8]) -> Arrival {
    let read = || {
        let head = Head::split(octets, &mut Notes::default());
        Arrival {
            at: date::arrived_at(&head),
            distinctive: ["received", "message-id"]
                .iter()
                .any(|name| head.first(name).is_some()),
        }
    };
    catch_unwind(read).unwrap_or_default()
}

fn parse_parts(octets: &[u8]) -> Message {
    let notes = &mut Notes::default();
    let head = Head::split(octets, notes);
    head.remark(notes);
    let media = Media::of(&head, false, notes);
    let headers = headers(&head, notes);
    let mut summary = summary(&head, notes);
    summary.flags = flags::flags(&head, &media, &summary.from);
    let parts = mime::parts(octets, &head, media, notes);
    let text = bodies::text(octets, &parts, notes);
    summary.preview = bodies::preview(&text);
    summary.attachments = attachments::attachments(octets, &parts, notes);
    if head.fields.is_empty() {
        notes.add("There is no header: this is not a message.");
    }
    summary.parse_notes = std::mem::take(notes).into_vec();
    summary.parse_status = match summary.parse_notes.as_slice() {
        _ if head.fields.is_empty() => ParseStatus::Failed,
        [] => ParseStatus::Ok,
        _ => ParseStatus::Repaired,
    };
    Message {
        summary,
        body: Body { headers, text },
    }
}

fn headers(head: &Head<'_>, notes: &mut Notes) -> Vec<Header> {
    let fields = head.fields.iter();
    fields
        .map(|field| Header {
            name: clean::limited(field.name, MAX_FIELD_NAME_CHARS, "name of a field", notes),
            value: head.field_text(field),
        })
        .collect()
}

/// What the header alone tells.
fn summary(head: &Head<'_>, notes: &mut Notes) -> Summary {
    for name in ["date", "from", "subject", "message-id", "content-type"] {
        if head.all(name).nth(1).is_some() {
            notes.add(format!("There is more than one {name} field."));
        }
    }
    let subject = head.first("subject").map(|field| head.field_text(field));
    let from = addresses(head, "from", notes);
    if from.iter().all(|from| from.address.is_none()) {
        notes.add("There is no sender.");
    }
    Summary {
        date: date::date(head, notes),
        subject: subject
            .map(|subject| clean::limited(&subject, MAX_SUBJECT_CHARS, "subject", notes)),
        from,
        to: addresses(head, "to", notes),
        cc: addresses(head, "cc", notes),
        bcc: addresses(head, "bcc", notes),
        reply_to: addresses(head, "reply-to", notes),
        sender: addresses(head, "sender", notes),
        message_id: ids::first(head, "message-id", notes),
        in_reply_to: ids::first(head, "in-reply-to", notes),
        references: ids::all(head, "references", notes),
        ..Summary::default()
    }
}
