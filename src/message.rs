//! Octets to the message of the API: pure, bounded, and it never fails.
//!
//! Whatever a server sent becomes a [`Message`]; what had to be repaired is said in
//! [`Message::parse_notes`]. mail-parser reads the fields, the encodings and the character sets;
//! the walk through the parts is in `mime`, which says why.

mod addresses;
mod attachments;
mod bodies;
mod charset;
mod clean;
mod date;
mod flags;
mod header;
mod ids;
pub mod limits;
mod media;
mod mime;
mod notes;
#[cfg(test)]
mod tests;
mod transfer;

use std::ops::Range;
use std::panic::catch_unwind;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use self::addresses::addresses;
pub use self::attachments::attachment_octets;
use self::header::Head;
use self::limits::{MAX_FIELD_NAME_CHARS, MAX_SUBJECT_CHARS};
use self::media::Media;
use self::notes::Notes;

/// Parses the raw octets of a message (RFC 5322, MIME). Pure, bounded by [`limits`], never fails.
///
/// Time is linear in `octets` (times [`limits::MAX_NESTING`] at worst), memory a small multiple.
/// It is work for the CPU: on a runtime, call it on a blocking thread.
pub fn parse(octets: &[u8]) -> Message {
    // No input is known that panics; if one is found, its mail must still be stored.
    catch_unwind(|| parse_parts(octets)).unwrap_or_else(|_| Message {
        parse_status: ParseStatus::Failed,
        parse_notes: vec!["the parser failed on this message; please report it".to_owned()],
        ..Message::default()
    })
}

fn parse_parts(octets: &[u8]) -> Message {
    let notes = &mut Notes::default();
    let head = Head::split(octets, notes);
    head.remark(notes);
    let media = Media::of(&head, false, notes);
    let mut message = parse_header(&head, notes);
    message.flags = flags::flags(&head, &media, &message.from);
    let parts = mime::parts(octets, &head, media, notes);
    message.text = bodies::text(octets, &parts, notes);
    message.preview = bodies::preview(&message.text);
    message.attachments = attachments::attachments(octets, &parts, notes);
    if head.fields.is_empty() {
        notes.add("there is no header: this is not a message");
    }
    message.parse_notes = std::mem::take(notes).into_vec();
    message.parse_status = match message.parse_notes.as_slice() {
        _ if head.fields.is_empty() => ParseStatus::Failed,
        [] => ParseStatus::Ok,
        _ => ParseStatus::Repaired,
    };
    message
}

fn parse_header(head: &Head<'_>, notes: &mut Notes) -> Message {
    for name in ["date", "from", "subject", "message-id", "content-type"] {
        if head.all(name).nth(1).is_some() {
            notes.add(format!("there is more than one {name}"));
        }
    }
    let subject = head.first("subject").map(|field| head.field_text(field));
    let from = addresses(head, "from", notes);
    if from.iter().all(|from| from.address.is_none()) {
        notes.add("there is no sender");
    }
    Message {
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
        headers: head
            .fields
            .iter()
            .map(|field| Header {
                name: clean::limited(field.name, MAX_FIELD_NAME_CHARS, "name of a field", notes),
                value: head.field_text(field),
            })
            .collect(),
        ..Message::default()
    }
}

/// A parsed message (RFC 5322, MIME). Text is valid UTF-8 without NUL, as PostgreSQL asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
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
    /// Every header field in order, decoded.
    pub headers: Vec<Header>,
    /// The bodies.
    pub text: Text,
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

/// One address of an address list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Address {
    /// Display name, decoded.
    pub name: Option<String>,
    /// `local@domain`, as it was written.
    pub address: Option<String>,
}

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Header {
    /// Field name as written.
    pub name: String,
    /// Decoded, unfolded value.
    pub value: String,
}

/// The bodies of a message, with line ends as LF.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Text {
    /// The plain text body, where there is one.
    pub plain: Option<String>,
    /// The HTML body as sent, **not** sanitised.
    pub html: Option<String>,
    /// A body was longer than what is kept here; `raw` has all of it.
    pub truncated: bool,
}

/// A part of the message that is not one of its bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flags {
    /// Sent by a machine in answer to mail (RFC 3834).
    pub auto_reply: bool,
    /// A delivery status notification (RFC 3464) or an older bounce.
    pub bounce: bool,
    /// Came by a mailing list (RFC 2369, RFC 2919).
    pub list: bool,
}

/// How well parsing went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
