//! Framing of RFC 1939 replies: status lines, multi-line bodies, byte-unstuffing. No I/O.
//!
//! Whether a reply is multi-line follows from the command, never from its text. On a session
//! with CRLF line ends only `CRLF.CRLF` ends a body, so that a bare LF inside mail stays mail.

use memchr::{memchr, memmem};

/// Longest status or listing line accepted, in octets with its line end (RFC 2449 asks for 512).
pub(crate) const MAX_LINE: usize = 8 * 1024;

/// How a server ends its lines; learnt from its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eol {
    /// As RFC 1939 has it.
    Crlf,
    /// Seen on broken servers.
    Lf,
}

/// Where the first line of a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Octets of text.
    pub(crate) text: usize,
    /// Octets with the line end.
    pub(crate) consumed: usize,
    /// Its line end.
    pub(crate) eol: Eol,
}

/// No line end within [`MAX_LINE`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Finds the first line, or `None` while its end has not come.
pub(crate) fn line(input: &[u8]) -> Result<Option<Line>, LineTooLong> {
    let head = input.get(..MAX_LINE).unwrap_or(input);
    match memchr(b'\n', head) {
        Some(end) => {
            let crlf = head.get(..end).is_some_and(|text| text.ends_with(b"\r"));
            let (text, eol) = if crlf {
                (end - 1, Eol::Crlf)
            } else {
                (end, Eol::Lf)
            };
            Ok(Some(Line {
                text,
                consumed: end + 1,
                eol,
            }))
        }
        None if input.len() >= MAX_LINE => Err(LineTooLong),
        None => Ok(None),
    }
}

/// A status line with its indicator taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status<'a> {
    /// `+OK`
    Ok(&'a [u8]),
    /// `-ERR`
    Err(&'a [u8]),
}

/// Reads a status line; `None` for anything but an exact `+OK` or `-ERR`.
pub(crate) fn status(line: &[u8]) -> Option<Status<'_>> {
    let text = |rest: &'_ [u8]| {
        rest.first()
            .is_none_or(|next| !next.is_ascii_alphanumeric())
    };
    if let Some(rest) = line.strip_prefix(b"+OK") {
        text(rest).then(|| Status::Ok(rest.trim_ascii()))
    } else {
        let rest = line.strip_prefix(b"-ERR")?;
        text(rest).then(|| Status::Err(rest.trim_ascii()))
    }
}

/// Whether these octets can be the beginning of a status line.
pub(crate) fn may_be_status(input: &[u8]) -> bool {
    [&b"+OK"[..], b"-ERR"].iter().any(|word| {
        let common = word.len().min(input.len());
        word.get(..common) == input.get(..common)
    })
}

/// The octets of one multi-line body, unstuffed (RFC 1939, section 3).
///
/// Keeps no data, only where in a line it stands: memory does not depend on the input.
#[derive(Debug)]
pub(crate) struct Body {
    eol: Eol,
    at: At,
    finder: memmem::Finder<'static>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    InLine,
    /// The last octet was a CR.
    AfterCr,
}

/// What to do with the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Undecided: come back with more input behind these same octets.
    More,
    /// Drop `skip` octets (a stuffed dot); the `len` after them are data.
    Data {
        /// Octets to drop.
        skip: usize,
        /// Octets of data behind them.
        len: usize,
    },
    /// The terminator, that many octets.
    End(usize),
}

impl Body {
    /// A body that begins behind its status line.
    pub(crate) fn new(eol: Eol) -> Self {
        let stuffed: &[u8] = match eol {
            Eol::Crlf => b"\r\n.",
            Eol::Lf => b"\n.",
        };
        Self {
            eol,
            at: At::LineStart,
            finder: memmem::Finder::new(stuffed),
        }
    }

    /// Looks at the front of what has been received and not consumed yet.
    ///
    /// At most two octets are left waiting by [`Step::More`].
    pub(crate) fn step(&mut self, input: &[u8]) -> Step {
        let (skip, data) = match (self.at, input) {
            (_, []) | (At::LineStart, [b'.'] | [b'.', b'\r']) => return Step::More,
            (At::LineStart, [b'.', b'\r', b'\n', ..]) => return Step::End(3),
            (At::LineStart, [b'.', b'\n', ..]) if self.eol == Eol::Lf => return Step::End(2),
            (At::LineStart, [b'.', rest @ ..]) => (1, rest),
            _ => (0, input),
        };
        let len = self.until_dot(data);
        self.at = self.after(data.get(..len).unwrap_or(data));
        Step::Data { skip, len }
    }

    /// Octets up to the next line that begins with a dot.
    fn until_dot(&self, data: &[u8]) -> usize {
        if self.at == At::AfterCr && self.eol == Eol::Crlf && data.starts_with(b"\n.") {
            return 1;
        }
        let line_end = self.finder.needle().len() - 1;
        self.finder
            .find(data)
            .map_or(data.len(), |found| found + line_end)
    }

    fn after(&self, data: &[u8]) -> At {
        match (self.eol, data) {
            (Eol::Lf, [.., b'\n']) | (Eol::Crlf, [.., b'\r', b'\n']) => At::LineStart,
            (Eol::Crlf, [b'\n']) if self.at == At::AfterCr => At::LineStart,
            (Eol::Crlf, [.., b'\r']) => At::AfterCr,
            _ => At::InLine,
        }
    }
}

/// Puts the pieces of an unstuffed body together into lines, without their line ends.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Adds a piece and gives each line that it completes to `line`.
    ///
    /// # Errors
    /// [`LineTooLong`], so that what is kept stays bounded.
    pub(crate) fn push(
        &mut self,
        mut piece: &[u8],
        mut line: impl FnMut(&[u8]),
    ) -> Result<(), LineTooLong> {
        while let Some((head, rest)) =
            memchr(b'\n', piece).and_then(|end| piece.split_at_checked(end + 1))
        {
            if self.partial.len() + head.len() > MAX_LINE {
                return Err(LineTooLong);
            }
            if self.partial.is_empty() {
                line(without_eol(head));
            } else {
                self.partial.extend_from_slice(head);
                line(without_eol(&self.partial));
                self.partial.clear();
            }
            piece = rest;
        }
        if self.partial.len() + piece.len() > MAX_LINE {
            return Err(LineTooLong);
        }
        self.partial.extend_from_slice(piece);
        Ok(())
    }
}

fn without_eol(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
