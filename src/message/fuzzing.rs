//! What holds for the message of any octets: run over random input and the seeds of `fuzz/` by
//! the tests, and without end by the fuzzer.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{attachment_octets, limits::MAX_PREVIEW_CHARS, parse};

/// The message is bounded, free of NUL, and its attachments decode again from where they lie.
/// Panics where that is not so.
pub fn message(raw: &[u8]) {
    let message = parse(raw);
    let json = serde_json::to_value((&message.summary, &message.body)).expect("a message is JSON");
    assert!(!has_nul(&json), "{json}");
    // Every octet is in a field, a body or nowhere; U+FFFD and JSON's escapes make it longer.
    let length = json.to_string().len();
    assert!(length <= 4096 + 64 * raw.len(), "{length} of {}", raw.len());
    assert!(message.summary.preview.chars().count() <= MAX_PREVIEW_CHARS);
    let mut notes = message.summary.parse_notes.iter();
    assert!(!notes.any(|note| note.contains("The parser failed")));
    for (attachment, n) in message.summary.attachments.iter().zip(0..) {
        assert_eq!(attachment.n, n);
        let part = raw
            .get(attachment.part.clone())
            .expect("it is in the raw message");
        let octets = attachment_octets(part);
        assert_eq!(octets.len() as u64, attachment.size);
        let digest = Sha256::digest(&octets);
        let hex: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, attachment.sha256);
    }
}

fn has_nul(json: &Value) -> bool {
    match json {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.values().any(has_nul),
        _ => false,
    }
}
