//! The bodies among the parts (after RFC 8621 §4.1.4), and the preview.

use mail_parser::decoders::html::html_to_text;

use super::limits::{MAX_PREVIEW_CHARS, MAX_TEXT_OCTETS};
use super::mime::Part;
use super::notes::Notes;
use super::{Text, charset, clean};

/// Encoded octets of one text part that are decoded; no encoding makes fewer than
/// [`MAX_TEXT_OCTETS`] of text from them, odd ones aside.
const MAX_ENCODED_OCTETS: usize = 4 * MAX_TEXT_OCTETS;
/// Octets of HTML or text that the preview is made from.
const MAX_PREVIEW_SOURCE: usize = 256 * 1024;

/// Elements that begin on a line or in a cell of their own.
const BREAKING_TAGS: [&str; 25] = [
    "address",
    "article",
    "blockquote",
    "body",
    "br",
    "dd",
    "div",
    "dt",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "p",
    "pre",
    "section",
    "table",
    "td",
    "th",
    "tr",
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Plain,
    Html,
}

/// Whether a part is a body: text without a name of its own that nothing declares a file.
pub(super) fn role(part: &Part) -> Option<Body> {
    let is_named_file = part.place.position > 0 && part.media.filename().is_some();
    if part.media.is_attachment() || part.place.is_related || is_named_file {
        None
    } else if part.media.is("text", "plain") {
        Some(Body::Plain)
    } else if part.media.is("text", "html") {
        Some(Body::Html)
    } else {
        None
    }
}

/// The bodies, each the concatenation of its parts, with line ends as LF.
pub(super) fn text(octets: &[u8], parts: &[Part], notes: &mut Notes) -> Text {
    let mut text = Text::default();
    for part in parts {
        let Some(role) = role(part) else { continue };
        let (segment, is_cut) = decode(octets, part, notes);
        text.truncated |= is_cut;
        let body = match role {
            Body::Plain => text.plain.get_or_insert_default(),
            Body::Html => text.html.get_or_insert_default(),
        };
        append(body, &segment);
        text.truncated |= clean::cut(body, MAX_TEXT_OCTETS);
    }
    if text.truncated {
        notes.add(format!("A body was cut at {MAX_TEXT_OCTETS} octets."));
    }
    text
}

/// The first characters of the text, white space folded.
pub(super) fn preview(text: &Text) -> String {
    let plain = text.plain.as_deref().map(|plain| folded(head_of(plain)));
    match (plain, text.html.as_deref()) {
        (Some(plain), _) if !plain.is_empty() => plain,
        (_, Some(html)) => folded(&html_to_text(&with_breaks(head_of(html)))),
        (plain, None) => plain.unwrap_or_default(),
    }
}

fn decode(octets: &[u8], part: &Part, notes: &mut Notes) -> (String, bool) {
    let encoded = octets.get(part.body.clone()).unwrap_or_default();
    let is_cut = encoded.len() > MAX_ENCODED_OCTETS;
    let kept = if is_cut {
        let head = &encoded[..MAX_ENCODED_OCTETS];
        // At a line end no character and no escape is cut in two.
        let end = head.iter().rposition(|b| *b == b'\n').map(|at| at + 1);
        &head[..end.unwrap_or(head.len())]
    } else {
        encoded
    };
    let decoded = part.media.encoding.decode(kept, notes);
    let text = charset::decode(&decoded, part.media.parameter("charset"), notes);
    if text.contains('\0') {
        notes.add("A text has a NUL; it became U+FFFD.");
    }
    let text = clean::without_nul(text).replace("\r\n", "\n");
    (text, is_cut)
}

fn append(body: &mut String, segment: &str) {
    if !body.is_empty() && !body.ends_with('\n') {
        body.push('\n');
    }
    body.push_str(segment);
}

fn head_of(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_PREVIEW_SOURCE)]
}

/// HTML with a space before each tag that shows as a break: mail-parser's text joins the words
/// of neighbouring blocks.
fn with_breaks(html: &str) -> String {
    let mut spaced = String::with_capacity(html.len());
    for (n, piece) in html.split('<').enumerate() {
        if n > 0 {
            spaced.push_str(if is_break(piece) { " <" } else { "<" });
        }
        spaced.push_str(piece);
    }
    spaced
}

/// Whether what follows a "<" opens or closes a block, a row or a cell.
fn is_break(tag: &str) -> bool {
    let tag = tag.strip_prefix('/').unwrap_or(tag);
    let end = tag.find(|c: char| !c.is_ascii_alphanumeric());
    let name = &tag[..end.unwrap_or(tag.len())];
    BREAKING_TAGS
        .iter()
        .any(|breaking| name.eq_ignore_ascii_case(breaking))
}

fn folded(text: &str) -> String {
    let mut folded = String::new();
    let mut left = MAX_PREVIEW_CHARS;
    for c in text.trim_start().chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if c == ' ' && folded.ends_with(' ') || c == '\u{feff}' {
            continue;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        folded.push(c);
    }
    folded.truncate(folded.trim_end().len());
    clean::without_nul(folded)
}
