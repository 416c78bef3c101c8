//! Mail of an exact size, the same at every run.

/// Octets of a full line of the body, with its CRLF.
const LINE: usize = 78;

/// One line in this many begins with a dot, and is byte-stuffed on the wire.
const DOT_EVERY: u64 = 50;

/// A message as it lies in a Maildir, with LF line ends.
pub(crate) struct Message {
    pub(crate) lf: Vec<u8>,
    /// Octets that byte-stuffing adds on the wire.
    pub(crate) stuffing: u64,
}

/// The message with this number: `octets` octets with CRLF line ends.
///
/// No line begins with `From `, which mbox files would quote.
pub(crate) fn message(number: u64, octets: usize) -> Message {
    let mut lf = format!(
        "Received: from mx.example.net (mx.example.net [192.0.2.7])\n\
        \tby mail.example.org with ESMTPS id {number:08x};\n\
        \tMon, 03 Feb 2025 10:00:00 +0000\n\
        From: Web shop <shop@example.net>\n\
        To: Orders <orders@example.org>\n\
        Subject: Order {number}\n\
        Date: Mon, 03 Feb 2025 10:00:00 +0000\n\
        Message-ID: <order-{number}@shop.example.net>\n\
        MIME-Version: 1.0\n\
        Content-Type: text/plain; charset=utf-8\n\
        \n"
    )
    .into_bytes();
    let mut left = octets - lf.len() - lf.iter().filter(|octet| **octet == b'\n').count();
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut stuffing = 0;
    while left > 0 {
        // A last line of one octet could not hold its own CRLF.
        let line = if left <= LINE + 1 { left } else { LINE };
        let dotted = line > 2 && random.next().is_multiple_of(DOT_EVERY);
        if dotted {
            lf.push(b'.');
            stuffing += 1;
        }
        for _ in usize::from(dotted)..line - 2 {
            lf.push(random.letter());
        }
        lf.push(b'\n');
        left -= line;
    }
    Message { lf, stuffing }
}

/// Xorshift: needs to be quick and always the same, not good.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn letter(&mut self) -> u8 {
        b"abcdefghijklmnopqrstuvwxyz      "[(self.next() % 32) as usize]
    }
}
