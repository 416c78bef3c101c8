//! Unique-ids for messages that the server gives none of their own: made from their octets.
//!
//! Some servers have no UIDL, leave a unique-id empty, or give several messages the same one (as
//! hashes of headers do). Such a message is told apart by a digest: of its header where that has a
//! field that differs from delivery to delivery, else of the whole. Fields that servers add or
//! change while mail lies in the maildrop are left out.

use sha2::{Digest, Sha256};

use super::{
    Error, MessageNumber, Phase, Session, UniqueId,
    listing::{Draft, Entry, Fault, Listing},
};

/// Messages with repeated unique-ids that are told apart in one listing: each has to be retrieved.
const MAX_REPEATED: usize = 200;

/// Octets of a header that are looked at.
const MAX_HEADER: usize = 256 * 1024;

/// Longest message that is digested whole; a longer one ends the session.
const MAX_OCTETS: u64 = 256 * 1024 * 1024;

/// Fields that servers write into stored mail.
const VOLATILE: [&str; 11] = [
    "status",
    "x-status",
    "x-uid",
    "x-uidl",
    "x-keywords",
    "x-imap",
    "x-imapbase",
    "x-mozilla-status",
    "x-mozilla-status2",
    "content-length",
    "lines",
];

/// Fields that no two deliveries have in common.
const DISTINCTIVE: [&str; 2] = ["received", "message-id"];

impl Session {
    /// Completes a listing: gives unique-ids to the messages that have none, and tells those apart
    /// that share one.
    pub(super) async fn identify(&mut self, draft: Draft) -> Result<Listing, Error> {
        let Draft {
            mut listing,
            unnamed,
            repeated,
        } = draft;
        for (number, octets) in unnamed {
            match self.unique_id_of(number, &mut listing).await? {
                Some(unique_id) => listing.entries.push(Entry {
                    number,
                    unique_id,
                    octets,
                }),
                None => listing.flaw(Fault::BadLine),
            }
        }
        let mut room = MAX_REPEATED;
        for copies in repeated {
            room = match room.checked_sub(copies.len()) {
                Some(room) => room,
                None => {
                    listing.flaw(Fault::TooManyRepeated);
                    break;
                }
            };
            self.tell_apart(copies, &mut listing).await?;
        }
        listing.entries.sort_unstable_by_key(|entry| entry.number);
        Ok(listing)
    }

    async fn unique_id_of(
        &mut self,
        number: MessageNumber,
        listing: &mut Listing,
    ) -> Result<Option<UniqueId>, Error> {
        if let Some(header) = self.head(number).await? {
            let mut digest = ContentDigest::default();
            digest.push(&header);
            if digest.is_distinctive() {
                return Ok(Some(UniqueId::made("header", digest.finish())));
            }
        }
        let whole = self.digest(number, listing).await?;
        Ok(whole.map(|digest| UniqueId::made("message", digest)))
    }

    /// The first of the copies keeps the unique-id, so that it stays the same message when it is
    /// alone; the others, unless they are the same to the octet, get one of their own.
    async fn tell_apart(&mut self, copies: Vec<Entry>, listing: &mut Listing) -> Result<(), Error> {
        let mut seen = Vec::with_capacity(copies.len());
        for mut copy in copies {
            let Some(digest) = self.digest(copy.number, listing).await? else {
                continue;
            };
            if seen.contains(&digest) {
                continue;
            }
            if !seen.is_empty() {
                let both = Sha256::new().chain_update(copy.unique_id.as_bytes());
                let both = both.chain_update(digest).finalize().into();
                copy.unique_id = UniqueId::made("copy", both);
            }
            seen.push(digest);
            listing.entries.push(copy);
        }
        Ok(())
    }

    /// Digest of a whole message; `None` where the server does not give it.
    async fn digest(
        &mut self,
        number: MessageNumber,
        listing: &mut Listing,
    ) -> Result<Option<[u8; 32]>, Error> {
        listing.retrieved = true;
        self.begin(Phase::Listing)?;
        self.wire
            .send(format!("RETR {number}\r\n").as_bytes(), 1)
            .await?;
        let mut digest = None;
        if self.wire.status().await?.is_ok() {
            let (clock, mut body) = (self.wire.clock(), self.wire.body());
            let (mut content, mut octets) = (ContentDigest::default(), 0);
            while let Some(chunk) = self.wire.chunk(&mut body).await? {
                octets += chunk.len() as u64;
                if octets > MAX_OCTETS {
                    return Err(clock.protocol("a message without unique-id does not end"));
                }
                content.push(chunk);
            }
            digest = Some(content.finish());
        }
        self.ready = true;
        Ok(digest)
    }
}

/// SHA-256 of a message without the header fields that servers change.
#[derive(Default)]
struct ContentDigest {
    /// The header so far; taken once it has ended.
    header: Vec<u8>,
    distinctive: bool,
    body: Option<Sha256>,
}

impl ContentDigest {
    fn push(&mut self, chunk: &[u8]) {
        if let Some(body) = &mut self.body {
            body.update(chunk);
            return;
        }
        let searched = self.header.len().saturating_sub(3);
        self.header.extend_from_slice(chunk);
        let tail = self.header.get(searched..).unwrap_or_default();
        let ends = ["\r\n\r\n", "\n\n"]
            .iter()
            .filter_map(|end| Some(memchr::memmem::find(tail, end.as_bytes())? + end.len()));
        if let Some(end) = ends.min() {
            self.end_header((searched + end).min(MAX_HEADER));
        } else if self.header.len() > MAX_HEADER {
            self.end_header(MAX_HEADER);
        }
    }

    fn end_header(&mut self, length: usize) {
        let header = std::mem::take(&mut self.header);
        let (header, rest) = header.split_at_checked(length).unwrap_or((&header, &[]));
        let mut digest = Sha256::new();
        let mut volatile = false;
        for line in header.split_inclusive(|octet| *octet == b'\n') {
            if !line.starts_with(b" ") && !line.starts_with(b"\t") {
                let name = line.split(|octet| *octet == b':').next();
                let name = name.unwrap_or_default().trim_ascii().to_ascii_lowercase();
                volatile = VOLATILE.iter().any(|field| field.as_bytes() == name);
                self.distinctive |= DISTINCTIVE.iter().any(|field| field.as_bytes() == name);
            }
            if !volatile {
                // Line ends differ between TOP and RETR on some servers.
                digest.update(line.trim_ascii_end());
                digest.update(b"\n");
            }
        }
        digest.update(rest);
        self.body = Some(digest);
    }

    /// Whether the header alone tells this message from all others.
    fn is_distinctive(&mut self) -> bool {
        if self.body.is_none() {
            self.end_header(self.header.len());
        }
        self.distinctive
    }

    fn finish(mut self) -> [u8; 32] {
        if self.body.is_none() {
            self.end_header(self.header.len());
        }
        self.body.unwrap_or_default().finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(message: &[u8], pieces: usize) -> [u8; 32] {
        let mut digest = ContentDigest::default();
        message.chunks(pieces).for_each(|piece| digest.push(piece));
        digest.finish()
    }

    #[test]
    fn what_servers_write_into_mail_does_not_change_its_digest() {
        let fresh = b"Message-ID: <1@x>\r\nSubject: a\r\n\r\nbody\r\n";
        let read =
            b"Message-ID: <1@x>\r\nStatus: RO\r\nX-UIDL: abc\r\n def\r\nSubject: a\r\n\r\nbody\r\n";
        assert_eq!(digest(fresh, 100), digest(read, 100));
    }

    #[test]
    fn header_and_body_both_count() {
        let one = digest(b"Subject: a\r\n\r\nbody\r\n", 100);
        for other in [
            &b"Subject: b\r\n\r\nbody\r\n"[..],
            b"Subject: a\r\n\r\nBody\r\n",
            b"Subject: a\r\n\r\nStatus: RO\r\nbody\r\n",
        ] {
            assert_ne!(one, digest(other, 100), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn how_a_message_arrives_does_not_change_its_digest() {
        for message in [
            &b"Subject: a\r\nStatus: O\r\n\r\nbody\r\n\r\n.\r\n"[..],
            b"Subject: a\n\nbody\n",
            b"no header at all",
            b"\r\n\r\n",
            b"",
        ] {
            let whole = digest(message, usize::MAX);
            for pieces in 1..message.len().max(2) {
                assert_eq!(digest(message, pieces), whole, "{}", message.escape_ascii());
            }
        }
    }

    #[test]
    fn a_header_is_distinctive_by_what_each_delivery_adds() {
        for (header, distinctive) in [
            (&b"Received: from x\r\n\r\n"[..], true),
            (b"message-id : <1@x>\r\n\r\n", true),
            (b"Subject: scan\r\nFrom: scanner\r\n\r\n", false),
            (b"", false),
        ] {
            let mut digest = ContentDigest::default();
            digest.push(header);
            assert_eq!(digest.is_distinctive(), distinctive);
        }
    }
}
