//! Content-Transfer-Encoding (RFC 2045 §6), lenient where senders are not strict.

use std::borrow::Cow;

use mail_parser::decoders::{base64::base64_decode, quoted_printable::quoted_printable_decode};

use super::notes::Notes;

/// A content transfer encoding; an unknown one is taken as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
}

impl Encoding {
    /// By the value of the field; `None` for a name that RFC 2045 does not know.
    pub(super) fn named(value: &str) -> Option<Self> {
        let name = value.trim().split([';', ' ']).next().unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "" | "7bit" | "8bit" | "binary" => Some(Self::Identity),
            "base64" => Some(Self::Base64),
            "quoted-printable" => Some(Self::QuotedPrintable),
            _ => None,
        }
    }

    /// The octets that `body` stands for.
    pub(super) fn decode<'x>(self, body: &'x [u8], notes: &mut Notes) -> Cow<'x, [u8]> {
        match self {
            Self::Identity => Cow::Borrowed(body),
            Self::Base64 => Cow::Owned(decode_base64(body, notes)),
            Self::QuotedPrintable => Cow::Owned(decode_quoted_printable(body, notes)),
        }
    }
}

/// RFC 2045 §6.8: characters outside the alphabet are ignored.
fn decode_base64(body: &[u8], notes: &mut Notes) -> Vec<u8> {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/= \t\r\n".contains(b);
    let body = if body.iter().all(is_base64) {
        Cow::Borrowed(body)
    } else {
        notes.add("A base64 part has characters that are not base64; they were left out.");
        Cow::Owned(body.iter().copied().filter(is_base64).collect())
    };
    let digits = body.iter().filter(|b| !b"= \t\r\n".contains(b)).count();
    if digits % 4 == 1 {
        notes.add("A base64 part is cut short.");
    }
    base64_decode(&body).unwrap_or_default()
}

/// RFC 2045 §6.7: an "=" that begins no escape stands for itself.
fn decode_quoted_printable(body: &[u8], notes: &mut Notes) -> Vec<u8> {
    let mut repaired: Option<Vec<u8>> = None;
    let mut copied = 0;
    for (at, _) in body.iter().enumerate().filter(|(_, b)| **b == b'=') {
        if !is_escape(&body[at + 1..]) {
            let repaired = repaired.get_or_insert_default();
            repaired.extend_from_slice(&body[copied..at]);
            repaired.extend_from_slice(b"=3D");
            copied = at + 1;
        }
    }
    let Some(mut repaired) = repaired else {
        return quoted_printable_decode(body).unwrap_or_else(|| body.to_vec());
    };
    notes.add("A quoted-printable part has wrong escapes; they were left as they are.");
    repaired.extend_from_slice(&body[copied..]);
    quoted_printable_decode(&repaired).unwrap_or_else(|| body.to_vec())
}

/// Whether what follows an "=" makes it two hex digits or a soft line break.
fn is_escape(rest: &[u8]) -> bool {
    if let [a, b, ..] = rest
        && a.is_ascii_hexdigit()
        && b.is_ascii_hexdigit()
    {
        return true;
    }
    // Trailing white space after "=" is bounded, or lines of "= = =" would cost squared time.
    let padding = rest.iter().take(80).take_while(|b| b" \t\r".contains(b));
    let after = rest.get(padding.count());
    matches!(after, None | Some(b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoding: Encoding, body: &[u8]) -> (Vec<u8>, usize) {
        let mut notes = Notes::default();
        let octets = encoding.decode(body, &mut notes).into_owned();
        (octets, notes.into_vec().len())
    }

    #[test]
    fn right_encodings_decode_without_remark() {
        use Encoding::*;
        for (encoding, body, octets) in [
            (Base64, &b"aGVs\r\nbG8=\r\n"[..], &b"hello"[..]),
            (Base64, b"aGVsbG8", b"hello"),
            (QuotedPrintable, b"caf=C3=a9 =\r\nend", b"caf\xc3\xa9 end"),
            (QuotedPrintable, b"a =  \r\nb=", b"a b"),
            (Identity, b"a=3D\0", b"a=3D\0"),
        ] {
            assert_eq!(decoded(encoding, body), (octets.to_vec(), 0), "{body:?}");
        }
    }

    #[test]
    fn wrong_encodings_are_repaired_and_noted() {
        use Encoding::*;
        for (encoding, body, octets) in [
            (Base64, &b"aGV*s-bG8="[..], &b"hello"[..]),
            (Base64, b"\xffaGVsbG8=", b"hello"),
            (
                QuotedPrintable,
                b"1 = 1, =ZZ, =3D, ==41",
                b"1 = 1, =ZZ, =, =A",
            ),
        ] {
            assert_eq!(decoded(encoding, body), (octets.to_vec(), 1), "{body:?}");
        }
    }

    #[test]
    fn encoding_names_are_case_insensitive() {
        assert_eq!(Encoding::named(" BASE64; x"), Some(Encoding::Base64));
        assert_eq!(Encoding::named("8Bit"), Some(Encoding::Identity));
        assert_eq!(Encoding::named("x-uuencode"), None);
    }
}
