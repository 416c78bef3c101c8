//! The unique-id listing and the scan listing of a maildrop (RFC 1939, UIDL and LIST). No I/O.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    num::NonZeroU32,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A message's number. Means something within one session only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageNumber(NonZeroU32);

impl MessageNumber {
    /// Message numbers begin at 1.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

impl fmt::Display for MessageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message's unique-id: 1 to 1024 octets that mean nothing to anybody but the server.
///
/// RFC 1939 has 70 printable ASCII characters at most; servers differ.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UniqueId(Bytes);

impl UniqueId {
    /// Longest unique-id, in octets.
    pub const MAX_OCTETS: usize = 1024;

    /// `None` if it is empty or too long.
    #[must_use]
    pub fn new(octets: Bytes) -> Option<Self> {
        (1..=Self::MAX_OCTETS)
            .contains(&octets.len())
            .then_some(Self(octets))
    }

    /// One that the server did not give, from the digest of what it stands for.
    pub(super) fn made(of: &str, digest: [u8; 32]) -> Self {
        let mut text = format!("popbridge-{of}-");
        for octet in digest {
            // Writing to a string cannot fail.
            let _ = write!(text, "{octet:02x}");
        }
        Self(text.into())
    }

    /// As listed; one that is too long to be kept is told apart by its digest.
    fn listed(octets: &[u8]) -> Option<Self> {
        if octets.len() > Self::MAX_OCTETS {
            return Some(Self::made("long", Sha256::digest(octets).into()));
        }
        Self::new(Bytes::copy_from_slice(octets))
    }

    /// The octets as the server sent them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueId({})", self.0.escape_ascii())
    }
}

/// What a maildrop holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The messages that could be read, in the server's order.
    pub entries: Vec<Entry>,
    /// Everything is there: both listings ended properly, agree with STAT and with one another,
    /// no line was bad and nothing came twice. Only then does absence mean anything.
    pub complete: bool,
    /// The first thing that made it incomplete.
    pub fault: Option<Fault>,
    /// Where the unique-ids come from.
    pub source: UniqueIds,
    /// Messages were retrieved to tell them apart, so that QUIT may remove them from some servers.
    pub retrieved: bool,
}

/// Where the unique-ids of a maildrop come from. One that changes would make all mail look new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UniqueIds {
    /// The server's UIDL.
    #[default]
    Uidl,
    /// Digests of the messages, because the server has no UIDL.
    Digests,
}

impl Listing {
    pub(super) fn flaw(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.complete = false;
    }
}

/// A listing with messages that have no unique-id of their own yet.
pub(super) struct Draft {
    pub(super) listing: Listing,
    pub(super) unnamed: Vec<(MessageNumber, u64)>,
    /// Messages that share a unique-id, group by group.
    pub(super) repeated: Vec<Vec<Entry>>,
}

/// One message of a maildrop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in this session.
    pub number: MessageNumber,
    /// Its identity over sessions.
    pub unique_id: UniqueId,
    /// Size as the server counts it, a hint: 0 where it does not say, and not always right.
    pub octets: u64,
}

/// Why a listing is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The reply to STAT has no message count.
    #[error("the reply to STAT could not be read")]
    BadStat,
    /// A line of the reply to UIDL or LIST makes no sense.
    #[error("a line of the listing could not be read")]
    BadLine,
    /// LIST was refused.
    #[error("the server refused LIST")]
    NoSizes,
    /// A message number came twice.
    #[error("a message number is listed twice")]
    RepeatedNumber,
    /// A unique-id came twice.
    #[error("a unique-id is listed twice")]
    RepeatedUniqueId,
    /// UIDL, LIST and STAT do not show the same messages.
    #[error("UIDL, LIST and STAT do not agree")]
    Disagreement,
    /// More messages share unique-ids than are told apart.
    #[error("too many messages share a unique-id; some are left out")]
    TooManyRepeated,
    /// There is more than this client takes in.
    #[error("the listing has more messages than popbridge takes in at once")]
    TooLong,
}

/// Puts together the replies to STAT, UIDL and LIST.
#[derive(Debug, Default)]
pub(super) struct Builder {
    count: Option<u64>,
    unique_ids: Vec<(MessageNumber, Option<UniqueId>)>,
    no_uidl: bool,
    sizes: HashMap<MessageNumber, u64>,
    fault: Option<Fault>,
}

impl Builder {
    /// More messages than this are left for another session.
    const MAX_MESSAGES: usize = 500_000;

    /// The text after `+OK` of STAT: count and octets.
    pub(super) fn stat(&mut self, text: &[u8]) {
        self.count = split_number(text).map(|(count, _)| count);
        if self.count.is_none() {
            self.flaw(Fault::BadStat);
        }
    }

    /// Whether STAT said that there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.count == Some(0)
    }

    pub(super) fn flaw(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// The server has no UIDL: every message is told apart by its octets.
    pub(super) fn no_uidl(&mut self) {
        self.no_uidl = true;
    }

    pub(super) fn uidl_line(&mut self, line: &[u8]) {
        match parse_uidl(line) {
            None => self.flaw(Fault::BadLine),
            Some(_) if self.unique_ids.len() >= Self::MAX_MESSAGES => self.flaw(Fault::TooLong),
            Some(entry) => self.unique_ids.push(entry),
        }
    }

    pub(super) fn list_line(&mut self, line: &[u8]) {
        match parse_list(line) {
            None => self.flaw(Fault::BadLine),
            Some(_) if self.sizes.len() >= Self::MAX_MESSAGES => self.flaw(Fault::TooLong),
            Some((number, octets)) => {
                if self.sizes.insert(number, octets).is_some() {
                    self.flaw(Fault::RepeatedNumber);
                }
            }
        }
    }

    pub(super) fn build(mut self) -> Draft {
        if self.no_uidl {
            let mut numbers: Vec<_> = self.sizes.keys().copied().collect();
            if numbers.is_empty() {
                // No scan listing either: numbers count from one.
                let count = self.count.unwrap_or(0).min(Self::MAX_MESSAGES as u64);
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                numbers.extend((1..=count).filter_map(MessageNumber::new));
            }
            numbers.sort_unstable();
            self.unique_ids
                .extend(numbers.into_iter().map(|n| (n, None)));
        }
        let listed = self.unique_ids.len();
        if self.count != Some(listed as u64) || self.sizes.len() != listed {
            self.flaw(Fault::Disagreement);
        }
        let mut numbers = HashSet::with_capacity(listed);
        let mut by_unique_id = HashMap::with_capacity(listed);
        let (mut entries, mut unnamed) = (Vec::with_capacity(listed), Vec::new());
        for (number, unique_id) in std::mem::take(&mut self.unique_ids) {
            if !numbers.insert(number) {
                // Two unique-ids for one number: the first one stands, and nothing is deleted.
                self.flaw(Fault::RepeatedNumber);
                continue;
            }
            let octets = self.sizes.get(&number).copied();
            if octets.is_none() {
                self.flaw(Fault::Disagreement);
            }
            let octets = octets.unwrap_or(0);
            let Some(unique_id) = unique_id else {
                if !self.no_uidl {
                    self.flaw(Fault::BadLine);
                }
                unnamed.push((number, octets));
                continue;
            };
            *by_unique_id.entry(unique_id.clone()).or_insert(0_usize) += 1;
            entries.push(Entry {
                number,
                unique_id,
                octets,
            });
        }
        let mut repeated = HashMap::new();
        if by_unique_id.len() < entries.len() {
            self.flaw(Fault::RepeatedUniqueId);
            let is_repeated = |entry: &mut Entry| by_unique_id.get(&entry.unique_id) > Some(&1);
            for entry in entries.extract_if(.., is_repeated) {
                let copies: &mut Vec<_> = repeated.entry(entry.unique_id.clone()).or_default();
                copies.push(entry);
            }
        }
        let mut repeated: Vec<Vec<Entry>> = repeated.into_values().collect();
        repeated.sort_unstable_by_key(|copies| copies.first().map(|entry| entry.number));
        let listing = Listing {
            entries,
            complete: self.fault.is_none(),
            fault: self.fault,
            source: if self.no_uidl {
                UniqueIds::Digests
            } else {
                UniqueIds::Uidl
            },
            retrieved: false,
        };
        Draft {
            listing,
            unnamed,
            repeated,
        }
    }
}

/// `number SP unique-id`; some servers put `+OK` before each, or several spaces between, and some
/// leave the unique-id out.
fn parse_uidl(line: &[u8]) -> Option<(MessageNumber, Option<UniqueId>)> {
    let (number, unique_id) = split_message_number(line)?;
    Some((number, UniqueId::listed(unique_id)))
}

/// `number SP octets`, and whatever else a server adds.
fn parse_list(line: &[u8]) -> Option<(MessageNumber, u64)> {
    let (number, rest) = split_message_number(line)?;
    // Sizes below zero have been seen. A size is a hint, so that no line is bad for it.
    let octets = match rest {
        [b'-', b'0'..=b'9', ..] => 0,
        _ => split_number(rest)?.0,
    };
    Some((number, octets))
}

fn split_message_number(line: &[u8]) -> Option<(MessageNumber, &[u8])> {
    let line = line.strip_prefix(b"+OK").unwrap_or(line);
    let (number, rest) = split_number(line)?;
    Some((MessageNumber::new(number.try_into().ok()?)?, rest))
}

/// A decimal number that ends at a blank or at the end, and what follows, both trimmed.
fn split_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii();
    let end = text
        .iter()
        .position(|c| c.is_ascii_whitespace())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((number, rest.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(stat: &str, uidl: &[&[u8]], list: &[&[u8]]) -> Listing {
        let mut builder = Builder::default();
        builder.stat(stat.as_bytes());
        uidl.iter().for_each(|line| builder.uidl_line(line));
        list.iter().for_each(|line| builder.list_line(line));
        builder.build().listing
    }

    fn summary(listing: &Listing) -> Vec<(u32, &[u8], u64)> {
        let entry = |entry: &'_ Entry| (entry.number.0.get(), entry.octets);
        let ids = listing
            .entries
            .iter()
            .map(|entry| entry.unique_id.as_bytes());
        listing
            .entries
            .iter()
            .map(entry)
            .zip(ids)
            .map(|((n, size), id)| (n, id, size))
            .collect()
    }

    #[test]
    fn agreeing_replies_make_a_complete_listing() {
        let found = listing("2 320", &[b"1 a", b"2 b"], &[b"1 120", b"2 200"]);
        assert_eq!(summary(&found), [(1, &b"a"[..], 120), (2, b"b", 200)]);
        assert!(found.complete);
        assert!(listing("0 0", &[], &[]).complete);
    }

    #[test]
    fn harmless_oddities_are_read() {
        for (line, unique_id) in [
            (&b"1 abc"[..], &b"abc"[..]),
            (b"+OK 1   abc  ", b"abc"),
            (b" 1\tabc", b"abc"),
            (b"1 two words", b"two words"),
            (b"1 \xff\x00\x80", b"\xff\x00\x80"),
        ] {
            let found = listing("1 5", &[line], &[b"1 5 extra"]);
            assert_eq!(
                summary(&found),
                [(1, unique_id, 5)],
                "{}",
                line.escape_ascii()
            );
            assert!(found.complete);
        }
        assert!(listing("1 -5", &[b"1 a"], &[b"1 -5"]).complete);
    }

    #[test]
    fn a_bad_line_leaves_the_good_ones() {
        for bad in [&b""[..], b"0 a", b"x a", b"1x a", b"-1 a", b"99999999999 a"] {
            let found = listing("2 9", &[bad, b"2 b"], &[b"1 4", b"2 5"]);
            assert_eq!(
                summary(&found),
                [(2, &b"b"[..], 5)],
                "{}",
                bad.escape_ascii()
            );
            assert_eq!(found.fault, Some(Fault::BadLine));
            assert!(!found.complete);
        }
    }

    #[test]
    fn doubt_makes_a_listing_incomplete() {
        let both: &[&[u8]] = &[b"1 1", b"2 2"];
        for (found, fault) in [
            (listing("3 3", both, both), Fault::Disagreement),
            (listing("1 3", both, both), Fault::Disagreement),
            (listing("2 3", both, &[b"1 1"]), Fault::Disagreement),
            (listing("2 3", &[b"1 1"], both), Fault::Disagreement),
            (listing("2 3", both, &[b"1 1", b"3 1"]), Fault::Disagreement),
            (listing("messages", both, both), Fault::BadStat),
            (
                listing("2 3", &[b"1 a", b"1 b"], both),
                Fault::RepeatedNumber,
            ),
            (
                listing("2 3", both, &[b"1 1", b"2 2", b"2 2"]),
                Fault::RepeatedNumber,
            ),
            (
                listing("2 3", &[b"1 a", b"2 a"], both),
                Fault::RepeatedUniqueId,
            ),
        ] {
            assert_eq!((found.complete, found.fault), (false, Some(fault)));
        }
    }
}
