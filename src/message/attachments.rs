//! The parts of a message that are not its bodies.

use std::{borrow::Cow, fmt::Write};

use mail_parser::{
    Encoding, Message, MessageParser, MessagePart, MimeHeaders, PartType,
    decoders::{base64::base64_decode, quoted_printable::quoted_printable_decode},
};
use sha2::{Digest, Sha256};

use super::{Attachment, text::bounded};

/// Attachments kept; a message with more says so in its notes.
const MAX_ATTACHMENTS: usize = 1000;

/// Octets of a file name, a media type or a content id.
const MAX_NAME_OCTETS: usize = 1024;

/// The attachments, and what there is to note about them.
pub(super) fn attachments(message: &Message<'_>, octets: &[u8]) -> (Vec<Attachment>, Vec<String>) {
    let mut notes = Vec::new();
    if message.attachments.len() > MAX_ATTACHMENTS {
        notes.push(format!(
            "Only the first {MAX_ATTACHMENTS} of {} attachments are listed.",
            message.attachments.len()
        ));
    }
    let attachments = (0..)
        .zip(message.attachments().take(MAX_ATTACHMENTS))
        .map(|(n, part)| attachment(n, part, octets))
        .collect();
    (attachments, notes)
}

/// Undoes the transfer encoding of a part that is given with its MIME header.
pub(super) fn decode_part(part: &[u8]) -> Vec<u8> {
    match MessageParser::new().parse(part) {
        Some(message) => decoded(message.root_part(), part).into_owned(),
        None => part.to_vec(),
    }
}

fn attachment(n: u32, part: &MessagePart<'_>, octets: &[u8]) -> Attachment {
    let start = part.offset_header as usize;
    let range = start..(part.offset_end as usize).clamp(start, octets.len().max(start));
    // As it will be served: from the part alone.
    let content = decode_part(octets.get(range.clone()).unwrap_or_default());
    Attachment {
        n,
        filename: part.attachment_name().map(name),
        content_type: content_type(part),
        size: content.len() as u64,
        sha256: hex(&Sha256::digest(&content)),
        content_id: part.content_id().map(name),
        inline: part.content_disposition().map_or_else(
            || part.content_id().is_some(),
            |disposition| disposition.is_inline(),
        ),
        part: range,
    }
}

fn decoded<'a>(part: &MessagePart<'_>, octets: &'a [u8]) -> Cow<'a, [u8]> {
    let body = part.offset_body as usize..part.offset_end as usize;
    let body = octets.get(body).unwrap_or_default();
    let decoded = match part.encoding {
        Encoding::None => None,
        Encoding::Base64 => base64_decode(body),
        Encoding::QuotedPrintable => quoted_printable_decode(body),
    };
    // What does not decode is given as it is.
    decoded.map_or(Cow::Borrowed(body), Cow::Owned)
}

fn content_type(part: &MessagePart<'_>) -> String {
    let declared = part.content_type().and_then(|content_type| {
        let subtype = content_type.subtype()?;
        Some(format!("{}/{subtype}", content_type.ctype()).to_ascii_lowercase())
    });
    let by_kind = || match part.body {
        PartType::Message(_) => "message/rfc822",
        PartType::Text(_) => "text/plain",
        PartType::Html(_) => "text/html",
        _ => "application/octet-stream",
    };
    declared.map_or_else(|| by_kind().to_owned(), |declared| name(&declared))
}

fn name(text: &str) -> String {
    bounded(text, MAX_NAME_OCTETS).0
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(
        String::with_capacity(octets.len() * 2),
        |mut text, octet| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{octet:02x}");
            text
        },
    )
}
