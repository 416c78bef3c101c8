//! TRANSACTION and UPDATE states (RFC 1939, sections 5 to 7).

use std::{collections::HashSet, sync::Arc};

use memchr::memmem;

use super::{Session, unknown};
use crate::chaos::{
    command::Command, faults::UniqueIds, mail::Message, maildrop::Lock, reply::Reply,
};

/// The maildrop of a session that is logged in.
pub(super) struct Opened {
    messages: Vec<Marked>,
    lock: Lock,
}

struct Marked {
    message: Arc<Message>,
    deleted: bool,
    retrieved: bool,
}

impl Session<'_> {
    /// Answers a command of somebody who is logged in.
    pub(super) async fn transact(&self, open: &mut Opened, command: &Command) -> Reply {
        let Some(numbers) = command.numbers() else {
            return Reply::err("numbers are wanted");
        };
        match (command.verb.as_str(), numbers.as_slice()) {
            ("STAT", []) => self.stat(open),
            ("LIST" | "UIDL", []) => {
                let lines = open
                    .listed()
                    .map(|(number, _)| self.entry(command, open, number));
                Reply::listing("messages follow", lines)
            }
            ("LIST" | "UIDL", [number]) => match open.find(*number) {
                Some(_) => {
                    let line = self.entry(command, open, *number);
                    Reply::ok(&String::from_utf8_lossy(&line))
                }
                None => no_such_message(),
            },
            ("RETR", [number]) => match open.find(*number) {
                Some(marked) => match marked.message.load().await {
                    Ok(octets) => {
                        marked.retrieved = true;
                        Reply::mail(&format!("{} octets", octets.len()), octets.to_vec())
                    }
                    Err(_) => unreadable(),
                },
                None => no_such_message(),
            },
            ("TOP", [number, lines]) => match open.find(*number) {
                Some(marked) => match marked.message.load().await {
                    Ok(octets) => Reply::mail("top of the message", top(&octets, *lines)),
                    Err(_) => unreadable(),
                },
                None => no_such_message(),
            },
            ("DELE", [number]) => match open.find(*number) {
                Some(marked) => {
                    marked.deleted = true;
                    Reply::ok("deleted")
                }
                None => no_such_message(),
            },
            ("NOOP", []) => Reply::ok("here"),
            ("RSET", []) => {
                open.messages.iter_mut().for_each(|m| m.deleted = false);
                Reply::ok("nothing is deleted")
            }
            _ => unknown(),
        }
    }

    fn stat(&self, open: &Opened) -> Reply {
        let (mut count, mut octets) = (self.faults.count_delta, 0);
        for (_, message) in open.listed() {
            count = count.saturating_add(1);
            octets = self.size(message).saturating_add(octets);
        }
        Reply::ok(&format!("{count} {octets}"))
    }

    /// A line of LIST or UIDL.
    fn entry(&self, command: &Command, open: &Opened, number: u64) -> Vec<u8> {
        let Some(message) = open.message(number) else {
            return Vec::new();
        };
        let mut line = format!("{number} ").into_bytes();
        if command.verb == "LIST" {
            line.extend(self.size(message).to_string().into_bytes());
            return line;
        }
        let own = message.unique_id.as_bytes();
        match self.faults.unique_ids {
            None => line.extend_from_slice(own),
            Some(UniqueIds::Renumbered) => {
                line.extend(format!("session-{}-{number}", self.number).into_bytes());
            }
            Some(UniqueIds::Repeated) => {
                // That of the last odd number.
                let twin = open.message((number - 1) / 2 * 2 + 1).unwrap_or(message);
                line.extend_from_slice(twin.unique_id.as_bytes());
            }
            Some(UniqueIds::Empty) => {}
            Some(UniqueIds::Long) => {
                line.extend_from_slice(own);
                line.resize(line.len() + 2000, b'x');
            }
            Some(UniqueIds::EightBit) => {
                line.extend_from_slice(b"\xff\x80 \xe9");
                line.extend_from_slice(own);
            }
        }
        line
    }

    fn size(&self, message: &Message) -> i64 {
        let octets = i64::try_from(message.octets).unwrap_or(i64::MAX);
        octets.saturating_add(self.faults.size_delta)
    }

    /// UPDATE state (RFC 1939, section 6).
    pub(super) fn update(&mut self) {
        let Some(mut open) = self.maildrop.take() else {
            return;
        };
        open.lock.lingers = None;
        if self.faults.forget_deletions {
            return;
        }
        let popped = self.faults.popped;
        let removed = open.messages.iter();
        let removed = removed.filter(|m| m.deleted || (popped && m.retrieved));
        let removed: HashSet<_> = removed.map(|m| m.message.unique_id.as_str()).collect();
        self.shared.maildrop.remove(&removed, self.number);
    }
}

impl Opened {
    pub(super) fn new(messages: impl Iterator<Item = Arc<Message>>, lock: Lock) -> Self {
        let messages = messages.map(|message| Marked {
            message,
            deleted: false,
            retrieved: false,
        });
        Self {
            messages: messages.collect(),
            lock,
        }
    }

    /// Messages, the deleted ones included.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    fn message(&self, number: u64) -> Option<&Message> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.messages.get(index).map(|marked| &*marked.message)
    }

    fn find(&mut self, number: u64) -> Option<&mut Marked> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.messages.get_mut(index).filter(|m| !m.deleted)
    }

    /// What is not deleted, with its number.
    fn listed(&self) -> impl Iterator<Item = (u64, &Message)> {
        let numbered = (1..).zip(&self.messages);
        let listed = numbered.filter(|(_, marked)| !marked.deleted);
        listed.map(|(number, marked)| (number, &*marked.message))
    }
}

/// The header of a message, the empty line and that many lines of the body.
fn top(octets: &[u8], lines: u64) -> Vec<u8> {
    let body = memmem::find(octets, b"\r\n\r\n").map_or(octets.len(), |at| at + 4);
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    let ends = memmem::find_iter(octets.get(body..).unwrap_or_default(), b"\r\n");
    let end = match wanted.checked_sub(1) {
        None => body,
        Some(last) => ends
            .map(|at| body + at + 2)
            .nth(last)
            .unwrap_or(octets.len()),
    };
    octets.get(..end).unwrap_or(octets).to_vec()
}

fn no_such_message() -> Reply {
    Reply::err("no such message")
}

fn unreadable() -> Reply {
    Reply::err("[SYS/TEMP] the message cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_is_the_header_and_so_many_lines() {
        let message = b"A: b\r\n\r\none\r\ntwo\r\n";
        for (lines, expected) in [
            (0, &b"A: b\r\n\r\n"[..]),
            (1, b"A: b\r\n\r\none\r\n"),
            (2, message),
            (u64::MAX, message),
        ] {
            assert_eq!(top(message, lines), expected);
        }
        assert_eq!(top(b"A: b\r\n", 0), b"A: b\r\n");
    }
}
