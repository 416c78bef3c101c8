//! Octets in a named character set to text, also where the name is missing or lies.

use mail_parser::decoders::charsets::{DecoderFnc, map::charset_decoder};

use super::notes::Notes;

/// Names longer than any registered character set are not looked up.
const MAX_CHARSET_NAME: usize = 40;

/// Decodes `octets` by `charset` (a MIME `charset` parameter), and never fails.
///
/// Octets that are valid UTF-8 and not ASCII are hardly ever anything else, so they win over
/// a missing, an unknown or a Western single-byte name. What is left becomes windows-1252, as
/// browsers do.
pub(super) fn decode(octets: &[u8], charset: Option<&str>, notes: &mut Notes) -> String {
    let name = charset.unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "" | "us-ascii" | "ascii" => decode_unnamed(octets, notes),
        "utf-8" | "utf8" => decode_utf8(octets, notes),
        _ => match decoder(&name) {
            Some(_) if is_western(&name) && is_utf8_beyond_ascii(octets) => {
                notes.add(format!("A text says {name} but is UTF-8."));
                String::from_utf8_lossy(octets).into_owned()
            }
            Some(decode) => {
                let text = decode(octets);
                if text.contains('\u{fffd}') {
                    notes.add(format!("A text has octets that are not {name}."));
                }
                text
            }
            None => {
                notes.add("A text is in an unknown character set.");
                decode_unnamed(octets, notes)
            }
        },
    }
}

/// The decoder for a character set name, where there is one.
pub(super) fn decoder(name: &str) -> Option<DecoderFnc> {
    (!name.is_empty() && name.len() <= MAX_CHARSET_NAME)
        .then(|| charset_decoder(name.as_bytes()))
        .flatten()
}

/// The guess for 8-bit octets of no known character set.
pub(super) fn windows_1252(octets: &[u8]) -> String {
    decoder("windows-1252").map_or_else(
        || String::from_utf8_lossy(octets).into_owned(),
        |decode| decode(octets),
    )
}

fn decode_unnamed(octets: &[u8], notes: &mut Notes) -> String {
    if octets.is_ascii() {
        return String::from_utf8_lossy(octets).into_owned();
    }
    match std::str::from_utf8(octets) {
        Ok(text) => {
            notes.add("8-bit text of no stated character set was taken as UTF-8.");
            text.to_owned()
        }
        Err(_) => {
            notes.add("8-bit text of no stated character set was taken as windows-1252.");
            windows_1252(octets)
        }
    }
}

fn decode_utf8(octets: &[u8], notes: &mut Notes) -> String {
    let text = String::from_utf8_lossy(octets);
    if std::str::from_utf8(octets).is_ok() {
        return text.into_owned();
    }
    if text.chars().any(|c| !c.is_ascii() && c != '\u{fffd}') {
        notes.add("A text has octets that are not utf-8.");
        return text.into_owned();
    }
    notes.add("A text says utf-8 but is not; it was taken as windows-1252.");
    windows_1252(octets)
}

fn is_western(name: &str) -> bool {
    matches!(
        name,
        "iso-8859-1" | "iso-8859-15" | "latin1" | "windows-1252" | "cp1252"
    )
}

fn is_utf8_beyond_ascii(octets: &[u8]) -> bool {
    !octets.is_ascii() && std::str::from_utf8(octets).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(octets: &[u8], charset: Option<&str>) -> (String, Vec<String>) {
        let mut notes = Notes::default();
        let text = decode(octets, charset, &mut notes);
        (text, notes.into_vec())
    }

    #[test]
    fn named_charsets_are_decoded_without_remark() {
        for (octets, charset, text) in [
            (&b"\x1b$B$3$s$K$A$O\x1b(B"[..], "ISO-2022-JP", "こんにちは"),
            (b"\xc4\xe3\xba\xc3", "GB18030", "你好"),
            (b"\xf0\xd2\xc9\xd7\xc5\xd4", "koi8-r", "Привет"),
            (b"\xcf\xf0\xe8\xe2\xe5\xf2", "windows-1251", "Привет"),
            (b"\x93caf\xe9\x94 \x80", "Windows-1252", "“café” €"),
            (b"caf\xc3\xa9", "UTF-8", "café"),
        ] {
            assert_eq!(decoded(octets, Some(charset)), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn a_lying_charset_is_noted() {
        for (octets, charset, text) in [
            (&b"caf\xc3\xa9"[..], Some("iso-8859-1"), "café"),
            (b"caf\xe9", Some("utf-8"), "café"),
            (b"\xc3\xa9 \xff", Some("utf-8"), "é \u{fffd}"),
            (b"caf\xe9", None, "café"),
            (b"caf\xc3\xa9", Some("us-ascii"), "café"),
            (b"caf\xe9", Some("x-unheard-of"), "café"),
        ] {
            let (got, notes) = decoded(octets, charset);
            assert_eq!(got, text);
            assert!(!notes.is_empty(), "{charset:?}");
        }
    }
}
