//! What a part says of itself: media type, disposition, encoding, names (RFC 2045, RFC 2183).

use mail_parser::ContentType;

use super::header::Head;
use super::notes::Notes;
use super::transfer::Encoding;

/// Longer types are not types (RFC 6838 §4.2 allows 127 for each half).
const MAX_TYPE_OCTETS: usize = 255;
/// RFC 2046 §5.1.1 allows 70; longer ones are seen.
const MAX_BOUNDARY_OCTETS: usize = 256;

/// The content fields of a part.
pub(super) struct Media {
    main: String,
    sub: String,
    content_type: Option<ContentType<'static>>,
    disposition: Option<ContentType<'static>>,
    /// `Content-ID` as it was written.
    pub(super) content_id: Option<String>,
    pub(super) encoding: Encoding,
}

impl Media {
    /// Reads the content fields; `in_digest` changes the default type (RFC 2046 §5.1.5).
    pub(super) fn of(head: &Head<'_>, in_digest: bool, notes: &mut Notes) -> Self {
        let content_type = head.content_type("content-type");
        let disposition = head.content_type("content-disposition");
        let (main, sub) = match &content_type {
            None if in_digest => ("message".to_owned(), "rfc822".to_owned()),
            None => ("text".to_owned(), "plain".to_owned()),
            Some(stated) => type_and_subtype(stated).unwrap_or_else(|| {
                notes.add("A content type is malformed.");
                fallback_type(stated, disposition.is_some())
            }),
        };
        let encoding = Encoding::named(&head.text("content-transfer-encoding"));
        if encoding.is_none() {
            notes.add("A content transfer encoding is unknown; the part was left as it is.");
        }
        let encoding = match encoding {
            // RFC 2045 §6.4: a multipart is never encoded, whatever it says.
            Some(encoding) if main != "multipart" => encoding,
            _ => Encoding::Identity,
        };
        Self {
            main,
            sub,
            content_type,
            disposition,
            content_id: head.first("content-id").map(|_| head.text("content-id")),
            encoding,
        }
    }

    /// `type/subtype`, lower case, without parameters.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.main, self.sub)
    }

    pub(super) fn is(&self, main: &str, sub: &str) -> bool {
        self.main == main && self.sub == sub
    }

    pub(super) fn is_multipart(&self) -> bool {
        self.main == "multipart"
    }

    pub(super) fn become_plain_text(&mut self) {
        self.main = "text".to_owned();
        self.sub = "plain".to_owned();
    }

    /// A parameter of the media type.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.content_type.as_ref()?.attribute(name)
    }

    pub(super) fn boundary(&self) -> Option<&str> {
        self.parameter("boundary")
            .map(str::trim_ascii_end)
            .filter(|boundary| !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY_OCTETS)
    }

    /// `filename` of the disposition, else `name` of the media type.
    pub(super) fn filename(&self) -> Option<&str> {
        let stated = self.disposition.as_ref();
        stated
            .and_then(|disposition| best_parameter(disposition, "filename"))
            .or_else(|| best_parameter(self.content_type.as_ref()?, "name"))
    }

    /// The disposition says attachment, or something unknown (RFC 2183 §2.8).
    pub(super) fn is_attachment(&self) -> bool {
        self.disposition.as_ref().is_some_and(|d| !d.is_inline())
    }

    pub(super) fn is_inline(&self) -> bool {
        self.disposition
            .as_ref()
            .is_some_and(ContentType::is_inline)
    }
}

/// Senders give a name twice, once in ASCII for old readers: the richer one wins.
fn best_parameter<'a>(of: &'a ContentType<'_>, name: &str) -> Option<&'a str> {
    let values = || {
        let all = of.attributes().unwrap_or_default().iter();
        all.filter(|attribute| attribute.name == name)
            .map(|attribute| attribute.value.trim())
            .filter(|value| !value.is_empty())
    };
    values()
        .find(|value| !value.is_ascii())
        .or_else(|| values().next())
}

fn type_and_subtype(stated: &ContentType<'_>) -> Option<(String, String)> {
    let (main, sub) = (stated.ctype(), stated.subtype()?);
    let is_valid = is_token(main) && is_token(sub) && main.len() + sub.len() < MAX_TYPE_OCTETS;
    is_valid.then(|| (main.to_ascii_lowercase(), sub.to_ascii_lowercase()))
}

/// RFC 2045 §5.2 wants text/plain for what cannot be read, but not for what is plainly a file.
fn fallback_type(stated: &ContentType<'_>, has_disposition: bool) -> (String, String) {
    let is_text = stated.ctype().eq_ignore_ascii_case("text");
    if is_text || !has_disposition && !stated.has_attribute("name") {
        ("text".to_owned(), "plain".to_owned())
    } else {
        ("application".to_owned(), "octet-stream".to_owned())
    }
}

/// RFC 2045 §5.1.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
}
