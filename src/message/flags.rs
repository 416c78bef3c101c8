//! What kind of mail a message is, by its headers.

use mail_parser::{HeaderName, Message, MimeHeaders};

use super::Flags;

/// Fields of mailing lists (RFC 2369, RFC 2919).
const LIST_FIELDS: &[HeaderName<'_>] = &[
    HeaderName::ListId,
    HeaderName::ListPost,
    HeaderName::ListUnsubscribe,
    HeaderName::ListSubscribe,
    HeaderName::ListHelp,
];

/// Fields that older auto-responders set instead of `Auto-Submitted`.
const AUTO_REPLY_FIELDS: &[&str] = &["X-Autoreply", "X-Autorespond"];

pub(super) fn flags(message: &Message<'_>) -> Flags {
    let bounce = is_bounce(message);
    Flags {
        auto_reply: !bounce && is_auto_reply(message),
        bounce,
        list: is_list(message),
    }
}

fn is_auto_reply(message: &Message<'_>) -> bool {
    let submitted = word(message, "Auto-Submitted");
    let replied = submitted
        .as_deref()
        .is_some_and(|value| value.starts_with("auto-replied"));
    replied
        || word(message, "Precedence").as_deref() == Some("auto_reply")
        || AUTO_REPLY_FIELDS
            .iter()
            .any(|field| word(message, field).is_some())
}

/// RFC 3464 says `multipart/report`; before, and still, an empty return path from the mail system.
fn is_bounce(message: &Message<'_>) -> bool {
    let report = message.content_type().is_some_and(|content_type| {
        content_type.ctype().eq_ignore_ascii_case("multipart")
            && content_type
                .subtype()
                .is_some_and(|s| s.eq_ignore_ascii_case("report"))
            && content_type
                .attribute("report-type")
                .is_some_and(|kind| kind.eq_ignore_ascii_case("delivery-status"))
    });
    report || (word(message, "Return-Path").as_deref() == Some("<>") && from_mail_system(message))
}

fn from_mail_system(message: &Message<'_>) -> bool {
    let author = message
        .from()
        .and_then(|from| from.first())
        .and_then(|addr| addr.address());
    author.is_some_and(|address| {
        let local = address
            .split('@')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        local == "mailer-daemon" || local == "postmaster"
    })
}

fn is_list(message: &Message<'_>) -> bool {
    let named = LIST_FIELDS
        .iter()
        .any(|field| message.header(field.clone()).is_some());
    named || word(message, "Precedence").as_deref() == Some("list")
}

/// A field's raw value in lower case, without the white space around it.
fn word(message: &Message<'_>, field: &str) -> Option<String> {
    let (_, value) = message
        .headers_raw()
        .find(|(name, _)| name.trim().eq_ignore_ascii_case(field))?;
    Some(value.trim().to_ascii_lowercase())
}
