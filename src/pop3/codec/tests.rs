use super::*;
use crate::pop3::fuzzing::{Decoded, decode};

/// At once, octet by octet, and cut in two and three at every place.
fn decode_every_way(eol: Eol, wire: &[u8]) -> Decoded {
    let whole = decode(eol, &[wire]);
    let octets: Vec<_> = wire.chunks(1).collect();
    assert_eq!(decode(eol, &octets), whole, "octet by octet");
    for first in 0..=wire.len() {
        let (head, rest) = wire.split_at(first);
        assert_eq!(decode(eol, &[head, rest]), whole, "cut at {first}");
        for second in 0..=rest.len() {
            let (middle, tail) = rest.split_at(second);
            assert_eq!(
                decode(eol, &[head, middle, tail]),
                whole,
                "cut at {first}+{second}"
            );
        }
    }
    whole
}

#[test]
fn bodies_are_exact_however_they_are_cut() {
    for (wire, data) in [
        (&b".\r\n"[..], &b""[..]),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b"..a\r\n..b\r\n.\r\n", b".a\r\n.b\r\n"),
        (b"a.b\r\n.\r\n", b"a.b\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"\r\r\n.\r\n", b"\r\r\n"),
        (b"a\r\n\r\n..\r\n\r\n.\r\n", b"a\r\n\r\n.\r\n\r\n"),
        (b"nul \0 8-bit \xff\r\n.\r\n", b"nul \0 8-bit \xff\r\n"),
        // A bare LF is mail on a session that ends its lines with CRLF.
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n"),
        (b"a\r.\r\n.\r\n", b"a\r.\r\n"),
        (b".\rx\r\n.\r\n", b"\rx\r\n"),
        (b".\r\r\n.\r\n", b"\r\r\n"),
    ] {
        let expected = (data.to_vec(), Some(vec![]));
        assert_eq!(
            decode_every_way(Eol::Crlf, wire),
            expected,
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn a_server_that_ends_lines_with_lf_is_understood() {
    for (wire, data) in [
        (&b".\n"[..], &b""[..]),
        (b"a\n.\n", b"a\n"),
        (b"..a\n..\n.\n", b".a\n.\n"),
        (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        (b".\rx\n.\n", b"\rx\n"),
    ] {
        let expected = (data.to_vec(), Some(vec![]));
        assert_eq!(
            decode_every_way(Eol::Lf, wire),
            expected,
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn nothing_but_the_terminator_ends_a_body() {
    for wire in [
        &b""[..],
        b"a",
        b"a\r\n",
        b"a\r\n.",
        b"a\r\n.\r",
        b"a.\r\n",
        b"a\n.\n",
        b"a\r\n..\r\n",
    ] {
        assert_eq!(
            decode_every_way(Eol::Crlf, wire).1,
            None,
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn what_follows_the_terminator_is_left_alone() {
    let (data, rest) = decode_every_way(Eol::Crlf, b"a\r\n.\r\n+OK\r\n.\r\n");
    assert_eq!(
        (data, rest),
        (b"a\r\n".to_vec(), Some(b"+OK\r\n.\r\n".to_vec()))
    );
}

#[test]
fn lines_end_with_lf_and_lose_one_cr() {
    let line_of = |text, consumed, eol| {
        Ok(Some(Line {
            text,
            consumed,
            eol,
        }))
    };
    assert_eq!(line(b"+OK\r\nx"), line_of(3, 5, Eol::Crlf));
    assert_eq!(line(b"+OK\nx"), line_of(3, 4, Eol::Lf));
    assert_eq!(line(b"\n"), line_of(0, 1, Eol::Lf));
    assert_eq!(line(b"\r\n"), line_of(0, 2, Eol::Crlf));
    assert_eq!(line(b"+OK\r"), Ok(None));
    assert_eq!(line(b""), Ok(None));
}

#[test]
fn lines_have_a_bound() {
    let mut input = vec![b'x'; MAX_LINE - 1];
    assert_eq!(line(&input), Ok(None));
    input.push(b'\n');
    assert!(line(&input).is_ok_and(|line| line.is_some()));
    input.insert(0, b'x');
    assert_eq!(line(&input), Err(LineTooLong));
}

#[test]
fn only_exact_status_indicators_count() {
    for (line, status_of) in [
        (&b"+OK"[..], Some(Status::Ok(b""))),
        (b"+OK 2 320", Some(Status::Ok(b"2 320"))),
        (b"+OK\t2 ", Some(Status::Ok(b"2"))),
        (b"+OK, hello", Some(Status::Ok(b", hello"))),
        (b"-ERR", Some(Status::Err(b""))),
        (b"-ERR [IN-USE] x", Some(Status::Err(b"[IN-USE] x"))),
        (b"+OKAY", None),
        (b"+ERR Server error", None),
        (b"+ok", None),
        (b" +OK", None),
        (b"+", None),
        (b"-ERROR", None),
        (b"220 mail ESMTP", None),
        (b"* OK IMAP4", None),
        (b"", None),
    ] {
        assert_eq!(status(line), status_of, "{}", line.escape_ascii());
    }
}

#[test]
fn the_beginning_of_a_status_is_recognised() {
    for (input, expected) in [
        (&b""[..], true),
        (b"+", true),
        (b"-ER", true),
        (b"+OK 1", true),
        (b"-ERR", true),
        (b"x", false),
        (b".\r\n", false),
        (b"+ERR", false),
    ] {
        assert_eq!(may_be_status(input), expected, "{}", input.escape_ascii());
    }
}

#[test]
fn a_listing_line_without_end_is_refused() {
    let mut lines = Lines::default();
    let mut count = 0;
    assert_eq!(lines.push(&[b'x'; MAX_LINE], |_| count += 1), Ok(()));
    assert_eq!(lines.push(b"x", |_| count += 1), Err(LineTooLong));
    assert_eq!(
        Lines::default().push(&[b'\n'; 3 * MAX_LINE], |_| count += 1),
        Ok(())
    );
    assert_eq!(count, 3 * MAX_LINE);
}
