//! Message identifiers (RFC 5322 §3.6.4) without their angle brackets.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

use super::clean;
use super::header::Head;
use super::limits::{MAX_ID_CHARS, MAX_REFERENCES};
use super::notes::Notes;

/// The first id of a field.
pub(super) fn first(head: &Head<'_>, name: &str, notes: &mut Notes) -> Option<String> {
    all(head, name, notes).into_iter().next()
}

/// The ids of a field, the newest [`MAX_REFERENCES`] of them.
pub(super) fn all(head: &Head<'_>, name: &str, notes: &mut Notes) -> Vec<String> {
    let Some(field) = head.first(name) else {
        return Vec::new();
    };
    let value = head.field_value(field);
    let ids = match MessageStream::new(&value).parse_id() {
        HeaderValue::Text(id) => vec![id],
        HeaderValue::TextList(ids) => ids,
        _ => Vec::new(),
    };
    let surplus = ids.len().saturating_sub(MAX_REFERENCES);
    if surplus > 0 {
        notes.add(format!(
            "The field {name} was cut to its last {MAX_REFERENCES} ids."
        ));
    }
    ids.iter()
        .skip(surplus)
        .map(|id| clean::limited(id.trim(), MAX_ID_CHARS, "id of a message", notes))
        .filter(|id| !id.is_empty())
        .collect()
}
