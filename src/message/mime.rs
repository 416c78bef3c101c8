//! The MIME structure (RFC 2046): which parts a message has and where each lies.
//!
//! The walk is ours because mail-parser's whole-message parser is not bounded: nested messages
//! (28 octets a level) overflow the stack when its result is dropped, and repeated multiparts
//! whose boundary never comes cost squared time. It also takes a boundary anywhere in a line and
//! by its beginning alone. Here every level is one pass over its own octets, and a message
//! within the message is one part, not walked.

use std::ops::Range;

use super::header::Head;
use super::limits::{MAX_NESTING, MAX_PARTS};
use super::media::Media;
use super::notes::Notes;

/// A part that is not a multipart, or one that was not opened.
pub(super) struct Part {
    /// Header and body, as offsets in the message.
    pub(super) range: Range<usize>,
    pub(super) body: Range<usize>,
    pub(super) media: Media,
    pub(super) place: Place,
}

/// Where a part stands in its multipart.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// Number within the parent, from 0.
    pub(super) position: usize,
    /// Something that the root of a multipart/related refers to (RFC 2387).
    pub(super) is_related: bool,
}

/// The parts of a message in order.
pub(super) fn parts(octets: &[u8], head: &Head<'_>, media: Media, notes: &mut Notes) -> Vec<Part> {
    let mut walk = Walk {
        octets,
        parts: Vec::new(),
        seen: 0,
        notes,
    };
    let root = Part {
        range: 0..octets.len(),
        body: head.body_start..octets.len(),
        media,
        place: Place::default(),
    };
    walk.visit(root, 0);
    walk.parts
}

struct Walk<'a> {
    octets: &'a [u8],
    parts: Vec<Part>,
    seen: usize,
    notes: &'a mut Notes,
}

impl Walk<'_> {
    /// Depth is at most [`MAX_NESTING`], so the recursion is bounded.
    fn visit(&mut self, mut part: Part, depth: usize) {
        self.seen += 1;
        if !part.media.is_multipart() {
            self.parts.push(part);
            return;
        }
        if depth >= MAX_NESTING {
            self.notes.add(format!(
                "Multiparts are nested more than {MAX_NESTING} deep; the rest is one attachment."
            ));
            self.parts.push(part);
            return;
        }
        let children = self.children(&part);
        if children.is_empty() {
            self.notes
                .add("A multipart has no parts; it was taken as plain text.");
            part.media.become_plain_text();
            self.parts.push(part);
            return;
        }
        for (position, range) in children.into_iter().enumerate() {
            if self.seen >= MAX_PARTS {
                self.notes
                    .add(format!("The message has more than {MAX_PARTS} parts."));
                return;
            }
            let octets = self.octets.get(range.clone()).unwrap_or_default();
            let head = Head::split(octets, self.notes);
            let child = Part {
                body: range.start + head.body_start..range.end,
                media: Media::of(&head, part.media.is("multipart", "digest"), self.notes),
                place: Place {
                    position,
                    is_related: part.media.is("multipart", "related") && position > 0
                        || part.place.is_related,
                },
                range,
            };
            self.visit(child, depth + 1);
        }
    }

    /// Where the parts of a multipart lie, without the line end before each delimiter.
    fn children(&mut self, part: &Part) -> Vec<Range<usize>> {
        let Some(boundary) = part.media.boundary() else {
            self.notes.add("A multipart states no boundary.");
            return Vec::new();
        };
        let body = self.octets.get(part.body.clone()).unwrap_or_default();
        let mut children = Vec::new();
        let mut start = None;
        let mut at = part.body.start;
        for line in body.split_inclusive(|b| *b == b'\n') {
            let (line_start, line_end) = (at, at + line.len());
            at = line_end;
            let Some(delimiter) = delimiter(line, boundary.as_bytes()) else {
                continue;
            };
            if let Some(start) = start {
                children.push(start..without_line_end(self.octets, start, line_start));
            }
            start = Some(line_end);
            if delimiter == Delimiter::Close || children.len() >= MAX_PARTS {
                return children;
            }
        }
        if let Some(start) = start {
            self.notes
                .add("A multipart is not closed; its last part may be cut short.");
            children.push(start..part.body.end);
        }
        children
    }
}

#[derive(PartialEq)]
enum Delimiter {
    Open,
    Close,
}

/// RFC 2046 §5.1.1: "--", the boundary, "--" if it is the last, white space, line end.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<Delimiter> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let (kind, rest) = match rest.strip_prefix(b"--") {
        Some(rest) => (Delimiter::Close, rest),
        None => (Delimiter::Open, rest),
    };
    rest.trim_ascii().is_empty().then_some(kind)
}

/// The line end before a delimiter belongs to the delimiter.
fn without_line_end(octets: &[u8], start: usize, end: usize) -> usize {
    let part = octets.get(start..end).unwrap_or_default();
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    start + part.strip_suffix(b"\r").unwrap_or(part).len()
}
