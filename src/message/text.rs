//! Text that PostgreSQL and people can take: valid UTF-8, without NUL, bounded.

use std::borrow::Cow;

/// Characters of a preview.
const PREVIEW_CHARS: usize = 200;

/// NUL has no place in PostgreSQL text; the replacement character shows where one was.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// At most so many octets, cut between characters; tells whether it was cut.
pub(super) fn bounded(text: &str, max_octets: usize) -> (String, bool) {
    let end = text.floor_char_boundary(max_octets);
    let kept = text.get(..end).unwrap_or(text);
    (without_nul(kept).into_owned(), end < text.len())
}

/// The start of a text on one line, white space folded.
pub(super) fn preview(text: &str) -> String {
    let mut folded = String::new();
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
        // A character has four octets at most, so there are enough of them.
        if folded.len() > PREVIEW_CHARS * 4 {
            break;
        }
    }
    without_nul(&folded).chars().take(PREVIEW_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(bounded("a€", 2), ("a".to_owned(), true));
        assert_eq!(bounded("a€", 4), ("a€".to_owned(), false));
    }

    #[test]
    fn preview_is_one_line_of_two_hundred_characters() {
        assert_eq!(preview("  Dear\r\n\tAnna,  \n"), "Dear Anna,");
        assert_eq!(preview(&"ä ".repeat(500)).chars().count(), PREVIEW_CHARS);
    }
}
