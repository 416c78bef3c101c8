//! What holds for any octets that a server may send: run over random input and the seeds of
//! `fuzz/` by the tests here, and without end by the fuzzer.
//!
//! Each function panics where an invariant does not hold. Its input begins with a few octets that
//! say how the rest is cut into reads.
#![expect(
    clippy::indexing_slicing,
    reason = "an invariant that slices wrongly fails, as it should"
)]

use super::{
    Capabilities, Entry, Listing, Refusal, UniqueId,
    codec::{self, Body, Eol, Line, LineTooLong, Lines, MAX_LINE, Status, Step},
    listing::{Builder, Draft},
};

/// The body of a multi-line reply: the same octets come out however it is cut into reads, they are
/// those of a decoder that goes line by line, and nothing behind the terminator is touched.
pub fn body(input: &[u8]) {
    let Some((eol, cuts, wire)) = prelude(input) else {
        return;
    };
    let whole = decode(eol, &[wire]);
    assert_eq!(whole, by_lines(eol, wire), "line by line");
    assert_eq!(decode(eol, &pieces(wire, cuts)), whole, "cut at {cuts:?}");
    let octets: Vec<_> = wire.chunks(1).collect();
    assert_eq!(decode(eol, &octets), whole, "octet by octet");
    if let (_, Some(rest)) = whole {
        assert!(wire.ends_with(&rest), "what follows is left as it is");
    }
}

/// Byte-stuffing (RFC 1939, section 3): a text comes out as it went in.
pub fn stuffing(input: &[u8]) {
    let Some((eol, cuts, text)) = prelude(input) else {
        return;
    };
    let mut text = text.to_vec();
    if !text.is_empty() {
        text.extend_from_slice(end(eol));
    }
    let wire = stuff(eol, &text);
    let decoded = decode(eol, &pieces(&wire, cuts));
    assert_eq!(decoded, (text, Some(Vec::new())));
}

/// The lines of a listing: the same however its text is cut, and none is longer than may be.
pub fn lines(input: &[u8]) {
    let Some((_, cuts, text)) = prelude(input) else {
        return;
    };
    let collect = |pieces: &[&[u8]]| {
        let (mut found, mut lines) = (Vec::new(), Lines::default());
        let mut too_long = false;
        for piece in pieces {
            too_long |= lines.push(piece, |line| found.push(line.to_vec())).is_err();
            if too_long {
                break;
            }
        }
        assert!(found.iter().all(|line| line.len() < MAX_LINE));
        (found, too_long)
    };
    let whole = collect(&[text]);
    assert_eq!(collect(&pieces(text, cuts)), whole, "cut at {cuts:?}");
    let longest = text.split(|octet| *octet == b'\n').map(<[u8]>::len).max();
    if longest.is_none_or(|octets| octets < MAX_LINE) {
        let ended = text.iter().filter(|octet| **octet == b'\n').count();
        assert_eq!((whole.0.len(), whole.1), (ended, false));
    }
}

/// Replies to STAT, UIDL and LIST, a line each with its kind in front (`S`, `U` or `L`, and `N`
/// where there is no UIDL): a listing is sane, and what was read of it is read again when it is
/// written down.
pub fn listing(input: &[u8]) {
    let mut builder = Builder::default();
    for line in input.split(|octet| *octet == b'\n') {
        match line {
            [b'S', text @ ..] => builder.stat(text),
            [b'U', line @ ..] => builder.uidl_line(line),
            [b'L', line @ ..] => builder.list_line(line),
            [b'N'] => builder.no_uidl(),
            _ => {}
        }
    }
    let found = builder.build();
    assert_sane(&found);
    let entries = found.listing.entries;
    let again = reread(&entries);
    assert_eq!(again.entries, entries);
    assert!(again.complete, "{:?}", again.fault);
}

/// Status lines, refusals and capabilities: bounded, printable, and decided as early as can be.
pub fn replies(input: &[u8]) {
    let line = codec::line(input);
    assert_line(input, line);
    for end in 0..input.len().min(64) {
        let part = codec::line(&input[..end]);
        let shorter = matches!(line, Ok(Some(Line { consumed, .. })) if consumed <= end);
        assert_eq!(part, if shorter { line } else { Ok(None) }, "of {end}");
    }
    for line in input.split(|octet| *octet == b'\n') {
        assert_status(line);
        assert_printable(&Refusal::parse(line).text);
    }
    let mut capabilities = Capabilities::default();
    for line in input.split(|octet| *octet == b'\n') {
        capabilities.add(line);
    }
    assert!(capabilities.lines.len() <= 100);
    capabilities
        .lines
        .iter()
        .for_each(|line| assert_printable(line));
}

/// What comes out of a body: its octets, and what is left behind the terminator.
pub(super) type Decoded = (Vec<u8>, Option<Vec<u8>>);

/// Feeds the pieces one after the other, as reads would.
pub(super) fn decode(eol: Eol, pieces: &[&[u8]]) -> Decoded {
    let (mut body, mut data, mut buffer) = (Body::new(eol), Vec::new(), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match body.step(&buffer[at..]) {
                Step::More => break,
                Step::Data { skip, len } => {
                    assert!(len > 0, "every step makes progress");
                    data.extend_from_slice(&buffer[at + skip..at + skip + len]);
                    at += skip + len;
                }
                Step::End(len) => {
                    let mut rest = buffer.split_off(at + len);
                    rest.extend(pieces[index + 1..].concat());
                    return (data, Some(rest));
                }
            }
        }
        buffer.drain(..at);
        assert!(buffer.len() <= 2, "no more than an undecided dot is kept");
    }
    (data, None)
}

/// Byte-stuffs as a server does; the text ends with a line end.
pub(super) fn stuff(eol: Eol, text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (index, octet) in text.iter().enumerate() {
        if *octet == b'.' && (index == 0 || text[..index].ends_with(end(eol))) {
            wire.push(b'.');
        }
        wire.push(*octet);
    }
    wire.push(b'.');
    wire.extend_from_slice(end(eol));
    wire
}

/// The plainest decoder there is, which wants all of the input at once.
fn by_lines(eol: Eol, wire: &[u8]) -> Decoded {
    let (mut data, mut rest) = (Vec::new(), wire);
    loop {
        if let Some(behind) = rest.strip_prefix(b".\r\n") {
            return (data, Some(behind.to_vec()));
        }
        if eol == Eol::Lf
            && let Some(behind) = rest.strip_prefix(b".\n")
        {
            return (data, Some(behind.to_vec()));
        }
        if matches!(rest, [] | [b'.'] | [b'.', b'\r']) {
            return (data, None);
        }
        let text = rest.strip_prefix(b".").unwrap_or(rest);
        let ended = text.windows(end(eol).len()).position(|w| w == end(eol));
        let length = ended.map_or(text.len(), |at| at + end(eol).len());
        let (line, behind) = text.split_at(length);
        data.extend_from_slice(line);
        if ended.is_none() {
            return (data, None);
        }
        rest = behind;
    }
}

/// Line ends, cuts, and what is cut.
fn prelude(input: &[u8]) -> Option<(Eol, [u8; 3], &[u8])> {
    let (&[flags, a, b, c], rest) = input.split_first_chunk()?;
    let eol = if flags & 1 == 0 { Eol::Crlf } else { Eol::Lf };
    Some((eol, [a, b, c], rest))
}

/// Cuts into up to four pieces, each place being so many octets behind the one before.
fn pieces(mut wire: &[u8], cuts: [u8; 3]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = wire.split_at(wire.len().min(cut.into()));
        pieces.push(piece);
        wire = rest;
    }
    pieces.push(wire);
    pieces
}

fn end(eol: Eol) -> &'static [u8] {
    match eol {
        Eol::Crlf => b"\r\n",
        Eol::Lf => b"\n",
    }
}

fn assert_line(input: &[u8], line: Result<Option<Line>, LineTooLong>) {
    let end = input
        .iter()
        .take(MAX_LINE)
        .position(|octet| *octet == b'\n');
    match (line, end) {
        (Ok(Some(line)), Some(end)) => {
            assert_eq!(line.consumed, end + 1);
            let (text, eol) = input[..=end].split_at(line.text);
            assert!(!text.contains(&b'\n'));
            assert_eq!(eol, self::end(line.eol));
        }
        (Ok(None), None) => assert!(input.len() < MAX_LINE),
        (Err(LineTooLong), None) => assert!(input.len() >= MAX_LINE),
        wrong => panic!("{wrong:?}"),
    }
}

fn assert_status(line: &[u8]) {
    let Some(status) = codec::status(line) else {
        return;
    };
    let (word, text) = match status {
        Status::Ok(text) => (&b"+OK"[..], text),
        Status::Err(text) => (&b"-ERR"[..], text),
    };
    assert!(line.starts_with(word));
    assert!(text.is_empty() || line.trim_ascii_end().ends_with(text));
    assert!((0..=line.len()).all(|end| codec::may_be_status(&line[..end])));
}

fn assert_printable(text: &str) {
    assert!(text.chars().count() <= 256);
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn assert_sane(found: &Draft) {
    let Draft {
        listing,
        unnamed,
        repeated,
    } = found;
    assert_eq!(listing.complete, listing.fault.is_none());
    let mut unique_ids: Vec<_> = listing.entries.iter().map(|e| &e.unique_id).collect();
    let alone = unique_ids.len();
    for copies in repeated {
        assert!(copies.len() > 1);
        let shared = &copies[0].unique_id;
        assert!(copies.iter().all(|copy| copy.unique_id == *shared));
        unique_ids.push(shared);
    }
    for unique_id in &unique_ids {
        assert!((1..=UniqueId::MAX_OCTETS).contains(&unique_id.as_bytes().len()));
    }
    unique_ids.sort_unstable();
    unique_ids.dedup();
    assert_eq!(unique_ids.len(), alone + repeated.len());
    assert!(repeated.is_empty() || !listing.complete);

    let named = listing.entries.iter().chain(repeated.iter().flatten());
    let named = named.map(|entry| entry.number);
    let mut numbers: Vec<_> = named.chain(unnamed.iter().map(|(n, _)| *n)).collect();
    let messages = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), messages, "a number is one message's");
}

fn reread(entries: &[Entry]) -> Listing {
    let mut builder = Builder::default();
    builder.stat(format!("{} 0", entries.len()).as_bytes());
    for Entry {
        number,
        unique_id,
        octets,
    } in entries
    {
        let uidl = [format!("{number} ").as_bytes(), unique_id.as_bytes()].concat();
        builder.uidl_line(&uidl);
        builder.list_line(format!("{number} {octets}").as_bytes());
    }
    builder.build().listing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TELLING: &[&[u8]] = &[
        b"\r\n.\r\n",
        b"+OK",
        b"-ERR [",
        b"\nU1 a",
        b"\nL1 9",
        b"\nS1 9",
        b"SASL ",
    ];

    /// Octets among which those that framing and listings are about are frequent.
    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => any::<u8>().prop_map(|octet| vec![octet]),
            4 => prop::sample::select(&b".\r\n aSULN01"[..]).prop_map(|octet| vec![octet]),
            1 => prop::sample::select(TELLING).prop_map(<[u8]>::to_vec),
            1 => (0..2 * MAX_LINE).prop_map(|octets| vec![b'x'; octets]),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn bodies_are_framed(input in awkward()) {
            body(&input);
        }

        #[test]
        fn unstuffing_undoes_stuffing(input in awkward()) {
            stuffing(&input);
        }

        #[test]
        fn lines_are_bounded(input in awkward()) {
            lines(&input);
        }

        #[test]
        fn listings_are_sane(input in awkward()) {
            listing(&input);
        }

        #[test]
        fn replies_are_read(input in awkward()) {
            replies(&input);
        }
    }

    #[test]
    fn seeds_of_the_fuzzer_hold() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 5] = [
            ("body", body),
            ("stuffing", stuffing),
            ("lines", lines),
            ("listing", listing),
            ("replies", replies),
        ];
        for (name, holds) in targets {
            let seeds = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
            let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().collect();
            assert!(!seeds.is_empty(), "{name} has seeds");
            for seed in seeds {
                holds(&std::fs::read(seed.unwrap().path()).unwrap());
            }
        }
    }
}
