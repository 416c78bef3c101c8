//! mail-parser's view of a message to ours.

use std::borrow::Cow;

use mail_parser::{
    Address as ParsedAddress, HeaderValue, Message as Parsed, MessageParser, MimeHeaders, PartType,
    decoders::{charsets::map::charset_decoder, html::html_to_text},
    parsers::MessageStream,
};
use time::OffsetDateTime;

use super::{
    Address, Body, Header, Message, ParseStatus, Summary, Text,
    attachments::attachments,
    flags::flags,
    text::{bounded, preview, without_nul},
};

/// Octets of each body kept beside the raw message.
const MAX_TEXT_OCTETS: usize = 1 << 20;

/// Octets of all header fields kept, decoded.
const MAX_HEADER_OCTETS: usize = 256 << 10;

/// Octets of one decoded field.
const MAX_FIELD_OCTETS: usize = 64 << 10;

/// Addresses kept of one field.
const MAX_ADDRESSES: usize = 1000;

/// Message ids kept of one field.
const MAX_REFERENCES: usize = 1000;

/// Lines that may be a boundary: what comes after so many is not looked into, since each may cost
/// a hundred octets of memory.
const MAX_BOUNDARY_LINES: usize = 50_000;

/// Years that a `Date` may say; others are absurd.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2100;

/// Reads a message.
pub(super) fn read(octets: &[u8]) -> Message {
    let within = within_boundaries(octets);
    let Some(parsed) = MessageParser::default()
        .parse(within)
        .filter(|p| !p.headers().is_empty())
    else {
        return unreadable(octets);
    };
    let mut notes = Vec::new();
    if within.len() < octets.len() {
        notes.push(format!(
            "Parts behind {MAX_BOUNDARY_LINES} boundary lines were not read."
        ));
    }
    let date = date(&parsed, &mut notes);
    let headers = headers(&parsed, within, &mut notes);
    let text = text(&parsed, &mut notes);
    let (attachments, more_notes) = attachments(&parsed, within);
    notes.extend(more_notes);
    note_damage(&parsed, within, &mut notes);
    let summary = Summary {
        date,
        subject: parsed.subject().map(field),
        from: addresses(parsed.from()),
        to: addresses(parsed.to()),
        cc: addresses(parsed.cc()),
        bcc: addresses(parsed.bcc()),
        reply_to: addresses(parsed.reply_to()),
        sender: addresses(parsed.sender()),
        message_id: parsed.message_id().map(field),
        in_reply_to: ids(parsed.in_reply_to()).into_iter().next(),
        references: ids(parsed.references()),
        preview: preview(&preview_source(&text)),
        attachments,
        flags: flags(&parsed),
        parse_status: if notes.is_empty() {
            ParseStatus::Ok
        } else {
            ParseStatus::Repaired
        },
        parse_notes: notes,
    };
    Message {
        summary,
        body: Body { headers, text },
    }
}

/// What has no header at all, or broke the parser: its octets as text.
pub(super) fn unreadable(octets: &[u8]) -> Message {
    let start = octets.get(..MAX_TEXT_OCTETS).unwrap_or(octets);
    let plain = without_nul(&String::from_utf8_lossy(start)).into_owned();
    let summary = Summary {
        preview: preview(&plain),
        parse_status: ParseStatus::Failed,
        parse_notes: vec!["This is no Internet message: it has no header.".to_owned()],
        ..Summary::default()
    };
    let truncated = start.len() < octets.len();
    let text = Text {
        plain: Some(plain).filter(|p| !p.is_empty()),
        html: None,
        truncated,
    };
    Message {
        summary,
        body: Body {
            headers: Vec::new(),
            text,
        },
    }
}

/// The octets up to where there are too many lines that may be a boundary.
fn within_boundaries(octets: &[u8]) -> &[u8] {
    let mut starts = memchr::memmem::find_iter(octets, b"\n--");
    starts
        .nth(MAX_BOUNDARY_LINES)
        .and_then(|end| octets.get(..end))
        .unwrap_or(octets)
}

fn date(parsed: &Parsed<'_>, notes: &mut Vec<String>) -> Option<OffsetDateTime> {
    let Some(date) = parsed.date() else {
        notes.push("There is no date that can be read.".to_owned());
        return None;
    };
    let read = Some(date)
        .filter(|date| date.is_valid())
        .and_then(|date| OffsetDateTime::from_unix_timestamp(date.to_timestamp()).ok())
        .filter(|date| YEARS.contains(&date.year()));
    if read.is_none() {
        notes.push("The date makes no sense.".to_owned());
    }
    read
}

fn headers(parsed: &Parsed<'_>, octets: &[u8], notes: &mut Vec<String>) -> Vec<Header> {
    let mut room = MAX_HEADER_OCTETS;
    let mut headers = Vec::new();
    for header in parsed.headers() {
        let raw = octets.get(header.offset_start() as usize..header.offset_end() as usize);
        let decoded = MessageStream::new(raw.unwrap_or_default()).parse_unstructured();
        let value = match &decoded {
            HeaderValue::Text(text) => text.as_ref(),
            _ => "",
        };
        let header = Header {
            name: field(header.name()),
            value: field(value),
        };
        let Some(left) = room.checked_sub(header.name.len() + header.value.len()) else {
            notes.push(format!(
                "Only the first {} header fields are kept.",
                headers.len()
            ));
            break;
        };
        room = left;
        headers.push(header);
    }
    headers
}

fn text(parsed: &Parsed<'_>, notes: &mut Vec<String>) -> Text {
    let plain = join(parsed.text_bodies().filter_map(|part| match &part.body {
        PartType::Text(text) => Some(text.as_ref()),
        _ => None,
    }));
    let html = join(parsed.html_bodies().filter_map(|part| match &part.body {
        PartType::Html(html) => Some(html.as_ref()),
        _ => None,
    }));
    let mut truncated = false;
    let mut keep = |text: Cow<'_, str>| {
        if text.contains('\0') {
            notes.push("NUL characters in the text were replaced.".to_owned());
        }
        let (kept, cut) = bounded(&text, MAX_TEXT_OCTETS);
        truncated |= cut;
        kept
    };
    let (plain, html) = (plain.map(&mut keep), html.map(&mut keep));
    Text {
        plain,
        html,
        truncated,
    }
}

/// Several inline parts of a kind are one text.
fn join<'a>(mut parts: impl Iterator<Item = &'a str>) -> Option<Cow<'a, str>> {
    let first = Cow::Borrowed(parts.next()?);
    Some(parts.fold(first, |mut text, part| {
        text.to_mut().push('\n');
        text.to_mut().push_str(part);
        text
    }))
}

fn preview_source(text: &Text) -> Cow<'_, str> {
    match (&text.plain, &text.html) {
        (Some(plain), _) => plain.into(),
        // Its start is enough, and a long document costs time.
        (None, Some(html)) => html_to_text(
            html.get(..html.floor_char_boundary(64 << 10))
                .unwrap_or(html),
        )
        .into(),
        (None, None) => "".into(),
    }
}

fn note_damage(parsed: &Parsed<'_>, octets: &[u8], notes: &mut Vec<String>) {
    if parsed.from().is_none() {
        notes.push("There is no author (From).".to_owned());
    }
    if parsed.parts.iter().any(|part| part.is_encoding_problem) {
        notes.push("A part is damaged: its encoding or its end is not as announced.".to_owned());
    }
    let unknown_charset = parsed.parts.iter().find_map(|part| {
        let charset = part.content_type()?.attribute("charset")?;
        charset_decoder(charset.as_bytes())
            .is_none()
            .then_some(charset)
    });
    if let Some(charset) = unknown_charset {
        let known = ["us-ascii", "ascii", "utf-8", "utf8"];
        if !known.iter().any(|name| charset.eq_ignore_ascii_case(name)) {
            notes.push(format!(
                "Character set \"{}\" is not known.",
                field(charset)
            ));
        }
    }
    let boundary = parsed.content_type().and_then(|c| c.attribute("boundary"));
    if let Some(boundary) = boundary {
        let end = format!("--{boundary}--");
        if memchr::memmem::find(octets, end.as_bytes()).is_none() {
            notes.push("The end of the last part is missing.".to_owned());
        }
    } else if parsed
        .content_type()
        .is_some_and(|c| c.ctype().eq_ignore_ascii_case("multipart"))
    {
        notes.push("The message says that it has parts, but not what separates them.".to_owned());
    }
}

fn addresses(list: Option<&ParsedAddress<'_>>) -> Vec<Address> {
    let Some(list) = list else { return Vec::new() };
    list.iter()
        .map(|addr| Address {
            name: addr.name().map(field),
            address: addr.address().map(field),
        })
        .filter(|address| address.name.is_some() || address.address.is_some())
        .take(MAX_ADDRESSES)
        .collect()
}

fn ids(value: &HeaderValue<'_>) -> Vec<String> {
    match value {
        HeaderValue::Text(id) => vec![field(id)],
        HeaderValue::TextList(ids) => ids
            .iter()
            .take(MAX_REFERENCES)
            .map(|id| field(id))
            .collect(),
        _ => Vec::new(),
    }
}

fn field(text: &str) -> String {
    bounded(text.trim(), MAX_FIELD_OCTETS).0
}
