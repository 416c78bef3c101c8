//! What kind of mail a message is, by its fields.

use super::header::Head;
use super::media::Media;
use super::{Address, Flags};

/// Fields that only automatic answers carry, seen before RFC 3834 was followed.
const AUTO_REPLY_FIELDS: [&str; 5] = [
    "x-autoreply",
    "x-autorespond",
    "x-autoresponder",
    "x-auto-reply-from",
    "x-mail-autoreply",
];
/// RFC 2919 and RFC 2369.
const LIST_FIELDS: [&str; 3] = ["list-id", "list-post", "list-unsubscribe"];

pub(super) fn flags(head: &Head<'_>, media: &Media, from: &[Address]) -> Flags {
    let precedence = word(&head.text("precedence"));
    let is_auto_reply = is_automatic(head)
        || precedence == "auto_reply"
        || AUTO_REPLY_FIELDS.iter().any(|name| is_set(head, name));
    let is_bounce = is_delivery_report(media)
        || head.first("x-failed-recipients").is_some()
        || has_null_return_path(head) && is_from_mail_system(from);
    Flags {
        // A bounce is automatic too; it has its own flag.
        auto_reply: is_auto_reply && !is_bounce,
        bounce: is_bounce,
        list: precedence == "list" || LIST_FIELDS.iter().any(|name| head.first(name).is_some()),
    }
}

/// RFC 3834 §5: every keyword but "no".
fn is_automatic(head: &Head<'_>) -> bool {
    !matches!(word(&head.text("auto-submitted")).as_str(), "" | "no")
}

fn is_set(head: &Head<'_>, name: &str) -> bool {
    head.first(name).is_some() && !matches!(word(&head.text(name)).as_str(), "no" | "false")
}

/// RFC 3464 §2, RFC 6522.
fn is_delivery_report(media: &Media) -> bool {
    media.is("multipart", "report")
        && media
            .parameter("report-type")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("delivery-status"))
}

fn has_null_return_path(head: &Head<'_>) -> bool {
    head.first("return-path").is_some() && matches!(head.text("return-path").as_str(), "" | "<>")
}

fn is_from_mail_system(from: &[Address]) -> bool {
    from.iter()
        .filter_map(|address| address.address.as_deref())
        .filter_map(|address| address.split('@').next())
        .any(|local| {
            local.eq_ignore_ascii_case("mailer-daemon") || local.eq_ignore_ascii_case("postmaster")
        })
}

/// The first word of a value, lower case.
fn word(value: &str) -> String {
    let word = value.split(|c: char| c == ';' || c == '(' || c.is_whitespace());
    word.map(str::to_ascii_lowercase)
        .find(|word| !word.is_empty())
        .unwrap_or_default()
}
