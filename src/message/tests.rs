//! What `parse` promises over whole messages.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::limits::*;
use super::*;

fn parse_text(message: &str) -> Message {
    parse(message.replace('\n', "\r\n").as_bytes())
}

fn octets_of(raw: &[u8], attachment: &Attachment) -> Vec<u8> {
    attachment_octets(&raw[attachment.part.clone()])
}

fn assert_round_trip(raw: &[u8], message: &Message) {
    for attachment in &message.summary.attachments {
        let octets = octets_of(raw, attachment);
        assert_eq!(octets.len() as u64, attachment.size);
        let digest = Sha256::digest(&octets);
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, attachment.sha256);
    }
}

const HEADER: &str = "From: Ada <ada@example.org>\nDate: Tue, 3 Mar 2026 09:05:00 +0000\n";

#[test]
fn a_plain_message_has_nothing_to_remark() {
    let message = parse_text(
        "From: \"Lovelace, Ada\" <ada@example.org>\nTo: Friends: bob@example.com, Eve <eve@example.com>;\n\
         Cc: c@example.com\nDate: Tue, 3 Mar 2026 09:05:00 +0100\nSubject: =?utf-8?B?xb5sdXTDvQ==?=\n\
         Message-ID: <1@example.org>\nIn-Reply-To: <0@example.org>\n\
         References: <a@example.org>\n <b@example.org>\n\nHello  there,\n\n  world\n",
    );
    assert_eq!(message.summary.parse_notes, [""; 0]);
    assert_eq!(message.summary.parse_status, ParseStatus::Ok);
    assert_eq!(
        message.summary.from[0].name.as_deref(),
        Some("Lovelace, Ada")
    );
    let to: Vec<_> = message
        .summary
        .to
        .iter()
        .map(|a| a.address.as_deref())
        .collect();
    assert_eq!(to, [Some("bob@example.com"), Some("eve@example.com")]);
    assert_eq!(message.summary.subject.as_deref(), Some("žlutý"));
    assert_eq!(message.summary.message_id.as_deref(), Some("1@example.org"));
    assert_eq!(
        message.summary.in_reply_to.as_deref(),
        Some("0@example.org")
    );
    assert_eq!(
        message.summary.references,
        ["a@example.org", "b@example.org"]
    );
    assert_eq!(
        message.body.text.plain.as_deref(),
        Some("Hello  there,\n\n  world\n")
    );
    assert_eq!(message.body.text.html, None);
    assert_eq!(message.summary.preview, "Hello there, world");
    assert_eq!(message.body.headers.len(), 8);
    assert!(message.summary.attachments.is_empty());
}

#[test]
fn nothing_is_a_failed_message() {
    for octets in [&b""[..], b"\r\n", b"just a line", b"\0\xff\xfe"] {
        assert_eq!(
            parse(octets).summary.parse_status,
            ParseStatus::Failed,
            "{octets:?}"
        );
    }
}

#[test]
fn alternatives_are_bodies_and_related_images_are_inline_attachments() {
    let raw = format!(
        "{HEADER}Content-Type: multipart/related; boundary=r\n\n--r\n\
         Content-Type: multipart/alternative; boundary=r-1\n\n--r-1\n\nplain\n--r-1\n\
         Content-Type: text/html\n\n<p>rich</p>\n--r-1--\n--r\nContent-Type: image/png\n\
         Content-ID: <logo@example.org>\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--r--\n"
    );
    let message = parse(raw.as_bytes());
    assert_eq!(message.summary.parse_notes, [""; 0]);
    assert_eq!(message.body.text.plain.as_deref(), Some("plain"));
    assert_eq!(message.body.text.html.as_deref(), Some("<p>rich</p>"));
    let [image] = message.summary.attachments.as_slice() else {
        panic!("{:?}", message.summary.attachments)
    };
    assert!(image.inline);
    assert_eq!(image.content_type, "image/png");
    assert_eq!(image.content_id.as_deref(), Some("logo@example.org"));
    assert_eq!(octets_of(raw.as_bytes(), image), b"\x89PNG\r\n\x1a\n");
}

#[test]
fn names_are_decoded_by_rfc_2231_and_rfc_2047() {
    for (disposition, name) in [
        ("attachment; filename=plain.txt", "plain.txt"),
        (
            "attachment; filename*=utf-8''na%C3%AFve%20file.txt",
            "naïve file.txt",
        ),
        (
            "attachment; filename*0*=utf-8''%E2%82%AC; filename*1=rates.txt",
            "€rates.txt",
        ),
        ("attachment; filename=\"=?utf-8?B?5pel5pys?=\"", "日本"),
        (
            "attachment; filename=\"x.txt\"; filename*=utf-8''%C3%A9.txt",
            "é.txt",
        ),
        (
            "attachment; filename=\"../../etc/passwd\"",
            "../../etc/passwd",
        ),
    ] {
        let raw = format!("{HEADER}Content-Disposition: {disposition}\n\nx");
        let message = parse(raw.as_bytes());
        assert_eq!(
            message.summary.attachments[0].filename.as_deref(),
            Some(name)
        );
    }
}

#[test]
fn a_message_that_is_one_file_has_it_as_attachment() {
    let raw = format!(
        "{HEADER}Content-Type: Application/PDF; name=scan.pdf\nContent-Transfer-Encoding: BASE64\n\n\
         JVBERi0=\n"
    );
    let message = parse(raw.as_bytes());
    assert_eq!(message.body.text, Text::default());
    let file = &message.summary.attachments[0];
    assert_eq!(
        (file.content_type.as_str(), file.part.clone()),
        ("application/pdf", 0..raw.len())
    );
    assert_eq!(octets_of(raw.as_bytes(), file), b"%PDF-");
}

#[test]
fn a_nested_message_is_one_attachment_as_it_stands() {
    let nested = "Subject: inner\n\n--outer-not\nbody\n";
    let raw = format!(
        "{HEADER}Content-Type: multipart/mixed; boundary=\"outer\"\n\n--outer\n\nsee below\n--outer\n\
         Content-Type: message/rfc822\n\n{nested}\n--outer--\n"
    );
    let message = parse(raw.as_bytes());
    assert_eq!(message.summary.attachments.len(), 1);
    assert_eq!(
        octets_of(raw.as_bytes(), &message.summary.attachments[0]),
        nested.as_bytes()
    );
}

#[test]
fn text_with_a_name_is_a_body_only_as_the_first_part() {
    let raw = format!(
        "{HEADER}Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain; name=a.txt\n\n\
         one\n--b\nContent-Type: text/plain; name=log.txt\n\ntwo\n--b\n\nfooter\n--b--"
    );
    let message = parse(raw.as_bytes());
    assert_eq!(message.body.text.plain.as_deref(), Some("one\nfooter"));
    assert_eq!(
        message.summary.attachments[0].filename.as_deref(),
        Some("log.txt")
    );
}

#[test]
fn broken_multiparts_lose_nothing() {
    for (content_type, body, plain, files) in [
        (
            "multipart/mixed; boundary=b",
            "--b\n\none\n--b\nContent-Type: a/b\n\ntwo",
            "one",
            1,
        ),
        (
            "multipart/mixed; boundary=b",
            "no delimiter",
            "no delimiter",
            0,
        ),
        (
            "multipart/mixed",
            "--b\n\none\n--b--",
            "--b\n\none\n--b--",
            0,
        ),
        (
            "multipart/mixed; boundary=b",
            "--bc\n--b\n\none\n--b --\n--b--",
            "one\n--b --",
            0,
        ),
    ] {
        let message = parse(format!("{HEADER}Content-Type: {content_type}\n\n{body}").as_bytes());
        assert_eq!(message.body.text.plain.as_deref(), Some(plain));
        assert_eq!(message.summary.attachments.len(), files);
        let is_repaired = !body.contains("--bc");
        assert_eq!(
            message.summary.parse_status == ParseStatus::Repaired,
            is_repaired
        );
    }
}

#[test]
fn html_alone_gives_the_preview() {
    let raw = format!(
        "{HEADER}Content-Type: text/html\n\n<head><title>no</title></head><p>Caf&eacute;</p>\n<b>ok</b>"
    );
    let message = parse(raw.as_bytes());
    assert_eq!(message.body.text.plain, None);
    assert_eq!(message.summary.preview, "Café ok");
}

#[test]
fn the_preview_keeps_the_words_of_html_blocks_apart() {
    let raw = format!(
        "{HEADER}Content-Type: text/html\n\n<h1>The new hall</h1><div>It is d<b>on</b>e.</div>\
         <table><tr><td>1</td><td>2</td></tr></table>"
    );
    assert_eq!(
        parse(raw.as_bytes()).summary.preview,
        "The new hall It is done. 1 2"
    );
}

#[test]
fn flags_follow_the_fields() {
    let flags = |fields: &str| parse_text(&format!("{fields}\n\nx")).summary.flags;
    let none = Flags::default();
    assert_eq!(flags("Auto-Submitted: no"), none);
    assert_eq!(flags("Precedence: bulk"), none);
    assert_eq!(flags("Return-Path: <>\nFrom: ada@example.org"), none);
    for auto in [
        "Auto-Submitted: auto-replied; x=y",
        "X-Autoreply: yes",
        "Precedence: auto_reply",
    ] {
        assert!(flags(auto).auto_reply, "{auto}");
    }
    for bounce in [
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b",
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.org",
    ] {
        assert!(flags(bounce).bounce, "{bounce}");
    }
    for list in [
        "List-Id: <a.example.org>",
        "List-Unsubscribe: <https://x.test/>",
        "Precedence: list",
    ] {
        assert!(flags(list).list, "{list}");
    }
}

#[test]
fn long_bodies_are_cut_at_a_character() {
    let raw = format!(
        "{HEADER}Content-Type: text/plain; charset=utf-8\n\n{}",
        "ab€\n".repeat(MAX_TEXT_OCTETS)
    );
    let message = parse(raw.as_bytes());
    assert!(message.body.text.truncated);
    let plain = message.body.text.plain.expect("there is a body");
    assert!(plain.len() <= MAX_TEXT_OCTETS && plain.len() > MAX_TEXT_OCTETS - 4);
    assert_eq!(
        message.summary.parse_notes.len(),
        1,
        "{:?}",
        message.summary.parse_notes
    );
}

#[test]
fn long_lists_are_cut() {
    let addresses = "a@example.org, ".repeat(MAX_ADDRESSES + 1);
    let subject = "x".repeat(MAX_SUBJECT_CHARS + 1);
    let ids: String = (0..=MAX_REFERENCES).map(|n| format!("<{n}@x>")).collect();
    let message = parse_text(&format!(
        "To: {addresses}\nSubject: {subject}\nReferences: {ids}\n{}\n",
        "X: y\n".repeat(MAX_HEADER_FIELDS)
    ));
    assert_eq!(message.summary.to.len(), MAX_ADDRESSES);
    assert_eq!(
        message.summary.subject.map(|s| s.len()),
        Some(MAX_SUBJECT_CHARS)
    );
    assert_eq!(message.summary.references.len(), MAX_REFERENCES);
    assert_eq!(message.summary.references[0], "1@x");
    assert_eq!(message.body.headers.len(), MAX_HEADER_FIELDS);
}

#[test]
fn many_parts_and_deep_nesting_end() {
    let flat = format!(
        "{HEADER}Content-Type: multipart/mixed; boundary=b\n\n{}",
        "--b\nContent-Type: a/b\n\nx\n".repeat(2 * MAX_PARTS)
    );
    assert_eq!(
        parse(flat.as_bytes()).summary.attachments.len(),
        MAX_ATTACHMENTS
    );

    let mut deep = HEADER.to_owned();
    for level in 0..10_000 {
        deep += &format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n");
    }
    let message = parse(deep.as_bytes());
    assert_eq!(message.summary.attachments.len(), 1);
    assert_round_trip(deep.as_bytes(), &message);
}

/// Each of these costs mail-parser's message parser its stack or minutes.
#[test]
fn hostile_structures_cost_linear_time() {
    let nested = "Content-Type:message/rfc822\n\n".repeat(200_000);
    assert_eq!(parse(nested.as_bytes()).summary.attachments.len(), 1);
    let boundaries = format!(
        "Content-Type: multipart/mixed; boundary=o\n\n{}",
        "--o\nContent-Type: multipart/mixed; boundary=zz\n\nx\n".repeat(100_000)
    );
    assert!(!parse(boundaries.as_bytes()).summary.parse_notes.is_empty());
    for field in [
        "=?",
        "=?utf-8?B?",
        "=?utf-8?Q?a=",
        "(",
        "\"",
        "<",
        "a:",
        ";a*0*=",
        "\\",
    ] {
        for name in ["To", "Subject", "Date", "References", "Content-Type"] {
            let raw = format!(
                "{name}: {}\n\n",
                field.repeat(MAX_FIELD_OCTETS / field.len())
            );
            let notes = parse(raw.as_bytes()).summary.parse_notes;
            assert!(
                !notes.iter().any(|note| note.contains("The parser failed")),
                "{name}: {field}"
            );
        }
    }
}

/// What mail is made of, whole and broken.
const FRAGMENTS: &[&[u8]] = &[
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/digest; boundary=\"b c\"\n",
    b"Content-Type: text/html; charset=iso-2022-jp\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Type: application/pdf; name*0*=utf-8''%C3; name*1=\"x\"\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\n",
    b"Content-Disposition: attachment; filename=\"=?utf-8?B?5pel?=\"\r\n",
    b"From: =?koi8-r?Q?=F0?= <a@b>, (c\r\n",
    b"Date: Tue, 3 Mar 2026 09:05:00 -9999\r\n",
    b"Subject: \0\xff =?gb18030?B?xOM=?=\r\n folded\r\n",
    b"\r\n--b\r\n",
    b"\n--b--\n",
    b"--b c\r\n",
    b"\r\n\r\n",
    b"<p>=C3=A9 = &amp; &#0; \0</p>\r\n",
    b"aGVsbG8=\r\n*",
];

/// Octets that look like mail, so that the generator gets past the first line.
fn mail_like() -> impl Strategy<Value = Vec<u8>> {
    let chunk = prop_oneof![
        4 => prop::sample::select(FRAGMENTS).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(chunk, 0..30).prop_map(|chunks| chunks.concat())
}

proptest! {
    #[test]
    fn any_octets_give_a_sound_message(raw in mail_like()) {
        fuzzing::message(&raw);
    }

    #[test]
    fn a_base64_attachment_comes_back_to_the_octet(octets: Vec<u8>) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let raw = format!(
            "{HEADER}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
             Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n\
             {}\r\n--b--\r\n",
            STANDARD.encode(&octets)
        );
        let message = parse(raw.as_bytes());
        prop_assert_eq!(octets_of(raw.as_bytes(), &message.summary.attachments[0]), octets);
    }
}

#[test]
fn seeds_of_the_fuzzer_hold() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/message");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        fuzzing::message(&std::fs::read(seed.unwrap().path()).unwrap());
    }
}
