//! Strings that PostgreSQL and JSON take, of bounded length.

use super::notes::Notes;

/// Replaces NUL, which PostgreSQL text cannot hold, by U+FFFD.
pub(super) fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

/// At most `max` characters of `text` without NUL; says in the notes when `what` was cut.
pub(super) fn limited(text: &str, max: usize, what: &str, notes: &mut Notes) -> String {
    let kept = match text.char_indices().nth(max) {
        Some((end, _)) => {
            notes.add(format!("The {what} was cut at {max} characters."));
            &text[..end]
        }
        None => text,
    };
    without_nul(kept.to_owned())
}

/// Cuts `text` to at most `max` octets at a character boundary; true when it was longer.
pub(super) fn cut(text: &mut String, max: usize) -> bool {
    let longer = text.len() > max;
    text.truncate(text.floor_char_boundary(max));
    longer
}
