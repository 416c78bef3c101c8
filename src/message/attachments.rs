//! The parts that are no bodies: what they are, and their octets again from the raw message.

use sha2::{Digest, Sha256};

use super::header::Head;
use super::limits::{MAX_ATTACHMENTS, MAX_FILENAME_CHARS, MAX_ID_CHARS};
use super::media::Media;
use super::mime::Part;
use super::notes::Notes;
use super::{Attachment, bodies, clean};

/// The octets of an attachment, decoded, from its [`Attachment::part`] of the raw message.
///
/// They have the `size` and the `sha256` that [`parse`](super::parse) gave.
pub fn attachment_octets(part: &[u8]) -> Vec<u8> {
    // What there is to remark was said when the message was parsed.
    let notes = &mut Notes::default();
    let head = Head::split(part, notes);
    let media = Media::of(&head, false, notes);
    let body = part.get(head.body_start..).unwrap_or_default();
    media.encoding.decode(body, notes).into_owned()
}

pub(super) fn attachments(octets: &[u8], parts: &[Part], notes: &mut Notes) -> Vec<Attachment> {
    let mut files = parts.iter().filter(|part| bodies::role(part).is_none());
    let attachments = (0..)
        .zip(files.by_ref().take(MAX_ATTACHMENTS))
        .map(|(n, part)| attachment(n, octets, part, notes))
        .collect();
    if files.next().is_some() {
        notes.add(format!(
            "The message has more than {MAX_ATTACHMENTS} attachments."
        ));
    }
    attachments
}

fn attachment(n: u32, octets: &[u8], part: &Part, notes: &mut Notes) -> Attachment {
    let media = &part.media;
    let body = octets.get(part.body.clone()).unwrap_or_default();
    let decoded = media.encoding.decode(body, notes);
    let content_id = media.content_id.as_deref().map(|id| {
        let id = id.trim().trim_start_matches('<').trim_end_matches('>');
        clean::limited(id, MAX_ID_CHARS, "content id", notes)
    });
    let content_id = content_id.filter(|id| !id.is_empty());
    let filename = media
        .filename()
        .map(|name| clean::limited(name, MAX_FILENAME_CHARS, "name of an attachment", notes));
    let is_referred_to = part.place.is_related && content_id.is_some() && !media.is_attachment();
    Attachment {
        n,
        filename,
        content_type: media.name(),
        size: decoded.len() as u64,
        sha256: hex(&Sha256::digest(&decoded)),
        content_id,
        inline: media.is_inline() || is_referred_to,
        part: part.range.clone(),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
