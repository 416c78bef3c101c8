//! The mail of the demo: what real maildrops hold, the damaged included.

use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// Embeds the messages, each with its name.
macro_rules! messages {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("maildrop/", $name, ".eml")))),*]
    };
}

/// Name and octets of each message.
pub const MESSAGES: &[(&str, &[u8])] = messages![
    "plain",
    "alternative",
    "html-inline-image",
    "invoice-pdf",
    "scanner",
    "attachment-names",
    "iso-2022-jp",
    "gb18030",
    "koi8-r",
    "windows-1252",
    "quoted-printable",
    "base64-text",
    "forwarded",
    "bounce",
    "auto-reply",
    "mailing-list",
    "newsletter",
    "leading-dots",
    "no-final-newline",
    "unterminated",
    "bad-base64",
    "no-boundary",
    "no-headers",
    "empty-body",
    "long-subject",
    "calendar",
    "order-csv",
    "signed",
    "absurd-date",
    "repeated-message-id",
];

/// What comes in while the demo runs.
pub fn new_message(number: u64) -> String {
    let now = OffsetDateTime::now_utc();
    let date = now.format(&Rfc2822).expect("the year has four digits");
    format!(
        "From: Web shop <shop@example.net>\n\
        To: Orders <orders@example.org>\n\
        Subject: Order {number}\n\
        Date: {date}\n\
        Message-ID: <order-{number}@shop.example.net>\n\
        \n\
        One more order, number {number}.\n"
    )
}
