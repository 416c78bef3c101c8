//! What messages become.

use popbridge::{
    demo::maildrop::MESSAGES,
    message::{self, Message, ParseStatus},
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn parse(name: &str) -> Message {
    let (_, octets) = MESSAGES.iter().find(|(other, _)| *other == name).unwrap();
    message::parse(octets)
}

/// Name, status, subject, attachments.
const EXPECTED: &[(&str, ParseStatus, Option<&str>, usize)] = &[
    ("plain", ParseStatus::Ok, Some("Delivery on Thursday"), 0),
    ("alternative", ParseStatus::Ok, Some("Your receipt 4711"), 0),
    (
        "html-inline-image",
        ParseStatus::Ok,
        Some("Pictures of the new hall"),
        1,
    ),
    ("invoice-pdf", ParseStatus::Ok, Some("Invoice 2026-118"), 1),
    (
        "scanner",
        ParseStatus::Ok,
        Some("Scan from the 2nd floor"),
        1,
    ),
    ("attachment-names", ParseStatus::Ok, Some("Three files"), 3),
    ("iso-2022-jp", ParseStatus::Ok, Some("ご注文の確認"), 0),
    ("gb18030", ParseStatus::Ok, Some("报价单"), 0),
    ("koi8-r", ParseStatus::Ok, Some("Счёт на оплату"), 0),
    ("windows-1252", ParseStatus::Ok, Some("Réponse – coût"), 0),
    (
        "quoted-printable",
        ParseStatus::Ok,
        Some("Menü für Freitag"),
        0,
    ),
    ("base64-text", ParseStatus::Ok, Some("Build 981 passed"), 0),
    ("forwarded", ParseStatus::Ok, Some("Fwd: Broken pump"), 1),
    (
        "bounce",
        ParseStatus::Ok,
        Some("Undelivered Mail Returned to Sender"),
        2,
    ),
    (
        "auto-reply",
        ParseStatus::Ok,
        Some("Out of office: Delivery on Thursday"),
        0,
    ),
    (
        "mailing-list",
        ParseStatus::Ok,
        Some("[dev] Meeting notes"),
        0,
    ),
    (
        "newsletter",
        ParseStatus::Ok,
        Some("Ten things this week"),
        0,
    ),
    ("leading-dots", ParseStatus::Ok, Some("Lines with dots"), 0),
    (
        "no-final-newline",
        ParseStatus::Ok,
        Some("No newline at the end"),
        0,
    ),
    ("unterminated", ParseStatus::Repaired, Some("Cut off"), 1),
    (
        "bad-base64",
        ParseStatus::Repaired,
        Some("Damaged attachment"),
        1,
    ),
    (
        "no-boundary",
        ParseStatus::Repaired,
        Some("Parts without a boundary"),
        0,
    ),
    ("no-headers", ParseStatus::Failed, None, 0),
    ("empty-body", ParseStatus::Ok, Some("Call me back"), 0),
    ("calendar", ParseStatus::Ok, Some("Invitation: review"), 1),
    (
        "order-csv",
        ParseStatus::Ok,
        Some("Order confirmation 88120"),
        1,
    ),
    ("signed", ParseStatus::Ok, Some("Signed statement"), 1),
    (
        "absurd-date",
        ParseStatus::Repaired,
        Some("From another century"),
        0,
    ),
    (
        "repeated-message-id",
        ParseStatus::Ok,
        Some("Delivery on Thursday, corrected"),
        0,
    ),
];

#[test]
fn real_looking_mail_is_read_as_people_would() {
    for (name, status, subject, attachments) in EXPECTED {
        let summary = parse(name).summary;
        assert_eq!(
            summary.parse_status, *status,
            "{name}: {:?}",
            summary.parse_notes
        );
        assert_eq!(summary.subject.as_deref(), *subject, "{name}");
        assert_eq!(summary.attachments.len(), *attachments, "{name}");
        let noted = !summary.parse_notes.is_empty();
        assert_eq!(
            noted,
            *status != ParseStatus::Ok,
            "{name}: what is wrong is said"
        );
    }
}

#[test]
fn text_comes_out_of_every_character_set() {
    for (name, text) in [
        ("iso-2022-jp", "来週お届けします。"),
        ("gb18030", "报价单请见附件"),
        ("koi8-r", "Добрый день"),
        ("windows-1252", "40 € – merci"),
        ("quoted-printable", "Crème brûlée"),
        ("base64-text", "✔"),
        ("alternative", "24.90 €"),
    ] {
        let plain = parse(name).body.text.plain.unwrap();
        assert!(plain.contains(text), "{name}: {plain}");
    }
}

#[test]
fn kinds_of_mail_are_told_apart() {
    let flags = |name| {
        let flags = parse(name).summary.flags;
        (flags.auto_reply, flags.bounce, flags.list)
    };
    assert_eq!(flags("plain"), (false, false, false));
    assert_eq!(flags("auto-reply"), (true, false, false));
    assert_eq!(flags("bounce"), (false, true, false));
    assert_eq!(flags("mailing-list"), (false, false, true));
    assert_eq!(flags("newsletter"), (false, false, true));
}

#[test]
fn attachment_names_are_decoded() {
    let attachments = parse("attachment-names").summary.attachments;
    let names: Vec<_> = attachments
        .iter()
        .filter_map(|a| a.filename.as_deref())
        .collect();
    let long = "a very long name that goes on over two lines.txt";
    assert_eq!(names, ["Preisliste Übersicht.csv", "Maße.dat", long]);
}

#[test]
fn text_attachment_keeps_the_octets_of_its_own_character_set() {
    let (_, octets) = MESSAGES
        .iter()
        .find(|(name, _)| *name == "order-csv")
        .unwrap();
    let attachment = &message::parse(octets).summary.attachments[0];
    let content = message::attachment_octets(&octets[attachment.part.clone()]);
    assert_eq!(
        content, b"pos;part;qty\n1;Zahnr\xe4der;40\n",
        "not converted to UTF-8"
    );
}

#[test]
fn address_groups_are_flattened() {
    let summary = parse("order-csv").summary;
    let cc: Vec<_> = summary
        .cc
        .iter()
        .filter_map(|a| a.address.as_deref())
        .collect();
    assert_eq!(cc, ["a@wh.example", "b@wh.example", "x@example.org"]);
    assert_eq!(summary.reply_to[0].name.as_deref(), Some("Sales"));
}

#[test]
fn thread_is_kept() {
    let summary = parse("auto-reply").summary;
    assert_eq!(
        summary.in_reply_to.as_deref(),
        Some("001.demo@mail.example.com")
    );
    assert_eq!(summary.references, ["001.demo@mail.example.com"]);
}

#[test]
fn long_text_is_cut_and_says_so() {
    let message = format!("Subject: long\n\n{}", "ä".repeat(1 << 20));
    let text = message::parse(message.as_bytes()).body.text;
    assert!(text.truncated);
    assert_eq!(text.plain.unwrap().len(), 1 << 20);
}

#[test]
fn mime_bombs_are_bounded() {
    let header = "Subject: bomb\nContent-Type: multipart/mixed; boundary=b\n\n";
    let wide = format!("{header}{}", "--b\n\nx\n".repeat(200_000));
    let many = message::parse(wide.as_bytes()).summary;
    assert!(many.attachments.len() <= 1000);
    assert_eq!(many.parse_status, ParseStatus::Repaired);

    let mut deep = String::from("Subject: deep\n");
    for n in 0..5000 {
        deep.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n"
        ));
    }
    assert!(message::parse(deep.as_bytes()).summary.attachments.len() <= 1000);
}

fn assert_sound(octets: &[u8]) {
    let message = message::parse(octets);
    let summary = serde_json::to_string(&message.summary).unwrap();
    let body = serde_json::to_string(&message.body).unwrap();
    assert!(
        !summary.contains("\\u0000") && !body.contains("\\u0000"),
        "PostgreSQL takes no NUL"
    );
    for attachment in &message.summary.attachments {
        let content = message::attachment_octets(&octets[attachment.part.clone()]);
        assert_eq!(attachment.size, content.len() as u64);
        let digest: String = Sha256::digest(&content)
            .iter()
            .map(|o| format!("{o:02x}"))
            .collect();
        assert_eq!(
            attachment.sha256, digest,
            "an attachment is served as it was listed"
        );
    }
}

/// Pieces that mail is made of, so that random messages get past the first line.
fn mail_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"Content-Type: multipart/mixed; boundary=\"b\"\n".to_vec()),
        Just(b"Content-Type: message/rfc822\n".to_vec()),
        Just(b"Content-Type: text/html; charset=iso-2022-jp\n".to_vec()),
        Just(b"Content-Transfer-Encoding: base64\n".to_vec()),
        Just(b"Content-Transfer-Encoding: quoted-printable\n".to_vec()),
        Just(b"Content-Disposition: attachment; filename*0*=utf-8''%ff".to_vec()),
        Just(b"Subject: =?utf-8?B?AAA=?= =?x?Q?=00?=\n".to_vec()),
        Just(b"From: a: b <c@d>, \"e\" <f>;\n".to_vec()),
        Just(b"Date: Mon, 99 Foo 99999 99:99:99 +9999\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"--b\n".to_vec()),
        Just(b"--b--\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_octets_become_a_message(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
        assert_sound(&octets);
    }

    #[test]
    fn anything_like_mail_becomes_a_message(octets in mail_like()) {
        assert_sound(&octets);
    }

    #[test]
    fn real_mail_with_damage_becomes_a_message(
        which in 0..MESSAGES.len(),
        at in any::<prop::sample::Index>(),
        damage in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut octets = MESSAGES[which].1.to_vec();
        let at = at.index(octets.len());
        octets.splice(at..at, damage);
        assert_sound(&octets);
    }
}
