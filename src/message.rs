//! Octets to the message of the API: pure, bounded, and it never fails.
//!
//! Whatever a server sent becomes a [`Message`]; what had to be repaired is said in
//! [`Summary::parse_notes`].

use std::{ops::Range, panic::catch_unwind};

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

mod attachments;
mod flags;
mod reading;
mod text;

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

/// Octets to a message. It never fails: what is no message at all comes out with
/// [`ParseStatus::Failed`] and the octets as its text.
pub fn parse(octets: &[u8]) -> Message {
    // mail-parser is fuzzed, but it is not ours, and what it reads comes from strangers.
    catch_unwind(|| reading::read(octets)).unwrap_or_else(|_| {
        let mut message = reading::unreadable(octets);
        message
            .summary
            .parse_notes
            .push("The parser failed on this message.".to_owned());
        message
    })
}

/// The octets of an attachment, its transfer encoding undone, from the octets of its whole part
/// ([`Attachment::part`]).
pub fn attachment_octets(part: &[u8]) -> Vec<u8> {
    catch_unwind(|| attachments::decode_part(part)).unwrap_or_else(|_| part.to_vec())
}
