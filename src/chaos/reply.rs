//! Replies, and how they are put on the line.

use std::fmt::Write as _;

use super::{
    command::Command,
    faults::{Faults, Terminator},
};

/// Octets of an endless reply that are sent at once.
const ENDLESS_CHUNK: usize = 16 * 1024;

/// What is answered.
#[derive(Debug)]
pub(super) struct Reply {
    /// The status line, or a continuation, without its end.
    status: String,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    /// Lines, each with its CRLF.
    octets: Vec<u8>,
    /// It is mail, not a listing.
    mail: bool,
}

impl Reply {
    pub(super) fn ok(text: &str) -> Self {
        Self::line(format!("+OK {text}"))
    }

    pub(super) fn err(text: &str) -> Self {
        Self::line(format!("-ERR {text}"))
    }

    pub(super) fn line(status: String) -> Self {
        Self { status, body: None }
    }

    /// A listing of lines.
    pub(super) fn listing<T: AsRef<[u8]>>(text: &str, lines: impl IntoIterator<Item = T>) -> Self {
        let mut octets = Vec::new();
        for line in lines {
            octets.extend_from_slice(line.as_ref());
            octets.extend_from_slice(b"\r\n");
        }
        Self {
            status: format!("+OK {text}"),
            body: Some(Body {
                octets,
                mail: false,
            }),
        }
    }

    /// A message, or the top of one.
    pub(super) fn mail(text: &str, octets: Vec<u8>) -> Self {
        Self {
            status: format!("+OK {text}"),
            body: Some(Body { octets, mail: true }),
        }
    }

    /// The octets of it, with what is wrong with it.
    pub(super) fn encode(&self, faults: &Faults) -> Vec<u8> {
        let eol = if faults.bare_lf { "\n" } else { "\r\n" };
        let mut wire = self.start(eol);
        let Some(body) = &self.body else {
            return wire;
        };
        let text = wire.len();
        if body.mail && faults.unstuffed {
            wire.extend_from_slice(&body.octets);
        } else {
            stuff(&body.octets, &mut wire);
        }
        match faults.terminator.filter(|_| body.mail) {
            None => wire.extend_from_slice(b".\r\n"),
            Some(Terminator::Missing) => {}
            Some(Terminator::Repeated) => wire.extend_from_slice(b".\r\n.\r\n"),
            Some(Terminator::Glued) => {
                if wire.len() > text {
                    wire.truncate(wire.len() - 2);
                }
                wire.extend_from_slice(b".\r\n");
            }
        }
        if faults.bare_lf {
            let body = wire.split_off(text);
            wire.extend(without_cr(&body));
        }
        wire
    }

    /// What comes before a line that never ends: the status line of a listing or a message.
    pub(super) fn before_endless_line(&self) -> Vec<u8> {
        match self.body {
            Some(_) => self.start("\r\n"),
            None => self.status.clone().into_bytes(),
        }
    }

    /// What comes before lines that never end: all but the terminator.
    pub(super) fn before_endless_lines(&self) -> Vec<u8> {
        let mut wire = self.start("\r\n");
        if let Some(body) = &self.body {
            stuff(&body.octets, &mut wire);
        }
        wire
    }

    fn start(&self, eol: &str) -> Vec<u8> {
        format!("{}{eol}", self.status).into_bytes()
    }
}

/// More and more lines that could be of the reply to this command.
#[derive(Debug)]
pub(super) struct EndlessLines {
    verb: String,
    next: u64,
}

impl EndlessLines {
    pub(super) fn after(command: &Command, messages: usize) -> Self {
        Self {
            verb: command.verb.clone(),
            next: messages as u64 + 1,
        }
    }

    pub(super) fn more(&mut self) -> Vec<u8> {
        let mut lines = String::with_capacity(ENDLESS_CHUNK + 100);
        while lines.len() < ENDLESS_CHUNK {
            let number = self.next;
            self.next += 1;
            // Writing to a string cannot fail.
            let _ = match self.verb.as_str() {
                "LIST" => write!(lines, "{number} 1024\r\n"),
                "UIDL" => write!(lines, "{number} endless-{number}\r\n"),
                "CAPA" => write!(lines, "X-ENDLESS-{number}\r\n"),
                _ => write!(lines, "This line is one of more than can be counted.\r\n"),
            };
        }
        lines.into_bytes()
    }
}

/// Part of a line that never ends.
pub(super) fn endless_line() -> Vec<u8> {
    vec![b'x'; ENDLESS_CHUNK]
}

/// Byte-stuffs (RFC 1939, section 3).
fn stuff(lines: &[u8], wire: &mut Vec<u8>) {
    let mut rest = lines;
    while !rest.is_empty() {
        if rest.starts_with(b".") {
            wire.push(b'.');
        }
        let end = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, after) = rest.split_at(end);
        wire.extend_from_slice(line);
        rest = after;
    }
}

fn without_cr(octets: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                lines.extend_from_slice(text);
                lines.push(b'\n');
            }
            None => lines.extend_from_slice(line),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(faults: Faults) -> String {
        let reply = Reply::mail("mail", b"a\r\n.\r\n.b\r\n".to_vec());
        String::from_utf8(reply.encode(&faults)).unwrap()
    }

    #[test]
    fn correct_mail_is_stuffed_and_ended() {
        assert_eq!(
            encoded(Faults::default()),
            "+OK mail\r\na\r\n..\r\n..b\r\n.\r\n"
        );
        let empty = Reply::mail("mail", Vec::new()).encode(&Faults::default());
        assert_eq!(empty, b"+OK mail\r\n.\r\n");
    }

    #[test]
    fn each_fault_is_what_it_says() {
        let terminator = |terminator| Faults {
            terminator: Some(terminator),
            ..Faults::default()
        };
        for (faults, wire) in [
            (
                Faults {
                    unstuffed: true,
                    ..Faults::default()
                },
                "+OK mail\r\na\r\n.\r\n.b\r\n.\r\n",
            ),
            (
                Faults {
                    bare_lf: true,
                    ..Faults::default()
                },
                "+OK mail\na\n..\n..b\n.\n",
            ),
            (
                terminator(Terminator::Missing),
                "+OK mail\r\na\r\n..\r\n..b\r\n",
            ),
            (
                terminator(Terminator::Repeated),
                "+OK mail\r\na\r\n..\r\n..b\r\n.\r\n.\r\n",
            ),
            (
                terminator(Terminator::Glued),
                "+OK mail\r\na\r\n..\r\n..b.\r\n",
            ),
        ] {
            assert_eq!(encoded(faults), wire);
        }
    }
}
