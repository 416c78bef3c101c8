//! Header sections: where they end, their fields, and the fields' values (RFC 5322 §2.2).
//!
//! The values are read by mail-parser's field parsers.

use std::borrow::Cow;

use mail_parser::decoders::charsets::DecoderFnc;
use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType, HeaderValue};

use super::limits::{MAX_FIELD_OCTETS, MAX_HEADER_FIELDS, MAX_HEADER_OCTETS};
use super::notes::Notes;
use super::{charset, clean};

/// A header section and where the body behind it begins.
pub(super) struct Head<'x> {
    pub(super) fields: Vec<Field<'x>>,
    /// Offset of the body, the length of the octets where there is none.
    pub(super) body_start: usize,
    /// How 8-bit values that are not UTF-8 are read.
    legacy: DecoderFnc,
}

/// One field as it was written.
pub(super) struct Field<'x> {
    pub(super) name: &'x str,
    /// What follows the colon, line ends and folding included.
    raw: &'x [u8],
}

impl<'x> Head<'x> {
    /// Splits `octets` (a message or a body part) into header section and body.
    ///
    /// A section ends at an empty line, or at the first line that cannot be in one. The result
    /// depends on `octets` alone, so that a part that is cut out later splits the same way.
    pub(super) fn split(octets: &'x [u8], notes: &mut Notes) -> Self {
        let mut head = Self {
            fields: Vec::new(),
            body_start: octets.len(),
            legacy: charset::windows_1252,
        };
        let mut lines = Lines { octets, next: 0 };
        // The separator line of an mbox file is not a field.
        if octets.starts_with(b"From ") || octets.starts_with(b">From ") {
            notes.add("The message starts with an mbox \"From \" line.");
            lines.next();
        }
        let mut value_start = 0;
        let mut is_kept = false;
        while let Some((start, line)) = lines.next() {
            let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
            if line.iter().all(|b| b"\r\n".contains(b)) {
                head.body_start = lines.next;
                break;
            } else if is_folded && let Some(last) = head.fields.last_mut() {
                if is_kept {
                    last.raw = &octets[value_start..lines.next];
                }
            } else if let Some(name) = field_name(line) {
                value_start = start + colon(line) + 1;
                is_kept = head.fields.len() < MAX_HEADER_FIELDS && start < MAX_HEADER_OCTETS;
                if is_kept {
                    let raw = &octets[value_start..lines.next];
                    head.fields.push(Field { name, raw });
                } else {
                    notes.add("A header is too long; its last fields were left out.");
                }
            } else if lines.peek().is_some_and(|next| field_name(next).is_some()) {
                notes.add("A line in a header is not a field; it was passed over.");
                is_kept = false;
            } else {
                if !head.fields.is_empty() {
                    notes.add("The empty line between a header and its body is missing.");
                }
                head.body_start = start;
                break;
            }
        }
        head.legacy = head.stated_charset().unwrap_or(charset::windows_1252);
        head
    }

    /// The first field of that name, case-insensitively.
    pub(super) fn first(&self, name: &str) -> Option<&Field<'x>> {
        self.all(name).next()
    }

    /// Every field of that name in order, case-insensitively.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Field<'x>> {
        self.fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
    }

    /// The first field of that name as unfolded, decoded text; empty where there is none.
    pub(super) fn text(&self, name: &str) -> String {
        self.first(name)
            .map(|field| self.field_text(field))
            .unwrap_or_default()
    }

    /// A field as unfolded text with its encoded words (RFC 2047) decoded.
    pub(super) fn field_text(&self, field: &Field<'x>) -> String {
        let value = self.field_value(field);
        match MessageStream::new(&value).parse_unstructured() {
            HeaderValue::Text(text) => clean::without_nul(text.into_owned()),
            _ => String::new(),
        }
    }

    /// The first field of that name as a media type or disposition with parameters.
    pub(super) fn content_type(&self, name: &str) -> Option<ContentType<'static>> {
        let value = self.field_value(self.first(name)?);
        match MessageStream::new(&value).parse_content_type().into_owned() {
            HeaderValue::ContentType(content_type) => Some(content_type),
            _ => None,
        }
    }

    /// What mail-parser's field parsers want: bounded, UTF-8, and ended by a line feed.
    pub(super) fn field_value(&self, field: &Field<'x>) -> Cow<'x, [u8]> {
        let raw = field.raw;
        let kept = &raw[..raw.len().min(MAX_FIELD_OCTETS)];
        let mut value = match std::str::from_utf8(kept) {
            Ok(_) if kept.ends_with(b"\n") => return Cow::Borrowed(kept),
            Ok(text) => text.to_owned(),
            // Cut within a character.
            Err(e) if kept.len() < raw.len() && e.error_len().is_none() => {
                String::from_utf8_lossy(&kept[..e.valid_up_to()]).into_owned()
            }
            Err(_) => (self.legacy)(kept),
        };
        value.push('\n');
        Cow::Owned(value.into_bytes())
    }

    /// Notes what is odd about the fields' octets.
    pub(super) fn remark(&self, notes: &mut Notes) {
        for field in &self.fields {
            if field.raw.len() > MAX_FIELD_OCTETS {
                notes.add(format!(
                    "A header field was cut at {MAX_FIELD_OCTETS} octets."
                ));
            }
            if std::str::from_utf8(field.raw).is_err() {
                notes.add("A header field has 8-bit octets that are not UTF-8.");
            }
            if field.raw.contains(&0) {
                notes.add("A header field has a NUL.");
            }
        }
    }

    fn stated_charset(&self) -> Option<DecoderFnc> {
        let content_type = self.content_type("content-type")?;
        let name = content_type.attribute("charset")?;
        charset::decoder(name).filter(|_| !name.eq_ignore_ascii_case("utf-8"))
    }
}

/// Lines with their ends, and where each starts.
struct Lines<'x> {
    octets: &'x [u8],
    next: usize,
}

impl<'x> Lines<'x> {
    fn next(&mut self) -> Option<(usize, &'x [u8])> {
        let start = self.next;
        let line = self.peek()?;
        self.next = start + line.len();
        Some((start, line))
    }

    fn peek(&self) -> Option<&'x [u8]> {
        let rest = self
            .octets
            .get(self.next..)
            .filter(|rest| !rest.is_empty())?;
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        rest.get(..end)
    }
}

fn colon(line: &[u8]) -> usize {
    line.iter().position(|b| *b == b':').unwrap_or(line.len())
}

/// The name of a field: printable ASCII, then perhaps white space (RFC 5322 §4.5), then ":".
fn field_name(line: &[u8]) -> Option<&str> {
    let name = line.get(..colon(line))?.trim_ascii_end();
    let is_field =
        line.contains(&b':') && !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(name).ok().filter(|_| is_field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(octets: &str) -> (Vec<(String, String)>, &str, Vec<String>) {
        let mut notes = Notes::default();
        let head = Head::split(octets.as_bytes(), &mut notes);
        let fields = head
            .fields
            .iter()
            .map(|field| (field.name.to_owned(), head.field_text(field)))
            .collect();
        (fields, &octets[head.body_start..], notes.into_vec())
    }

    fn field(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_keep_their_order_and_name_and_are_unfolded() {
        let (fields, body, notes) =
            split("Subject: a\r\n\tb\r\n c\r\nX-Two : =?utf-8?Q?caf=C3=A9?=\r\n\r\nbody\r\n");
        assert_eq!(fields, [field("Subject", "a b c"), field("X-Two", "café")]);
        assert_eq!(body, "body\r\n");
        assert!(notes.is_empty());
    }

    #[test]
    fn octets_without_any_field_are_all_body() {
        let (fields, body, _) = split("Dear all,\n\nno header here\n");
        assert!(fields.is_empty());
        assert_eq!(body, "Dear all,\n\nno header here\n");
    }

    #[test]
    fn a_missing_empty_line_is_found() {
        let (fields, body, notes) = split("Subject: a\nHello there\n\nbye\n");
        assert_eq!(fields.len(), 1);
        assert_eq!(body, "Hello there\n\nbye\n");
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn a_stray_line_among_fields_is_passed_over() {
        let (fields, body, notes) = split("A: 1\nstray\nB: 2\n\nbody");
        assert_eq!(fields, [field("A", "1"), field("B", "2")]);
        assert_eq!(body, "body");
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn a_header_without_body_has_an_empty_one() {
        let (fields, body, _) = split("A: 1\nB: 2");
        assert_eq!(fields, [field("A", "1"), field("B", "2")]);
        assert_eq!(body, "");
    }

    #[test]
    fn raw_8_bit_values_are_read_in_the_stated_charset() {
        let mut notes = Notes::default();
        let octets = b"Subject: \xf0\xd2\xc9\nContent-Type: text/plain; charset=koi8-r\n\n";
        let head = Head::split(octets, &mut notes);
        assert_eq!(head.text("subject"), "При");
    }
}
