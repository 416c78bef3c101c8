//! How servers keep mail in files, and what becomes of line ends on the way out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::corpus::Message;

/// A Maildir of these messages; its files and directories, for whom they have to belong to.
pub(super) fn write_maildir(maildir: &Path, messages: &[Vec<u8>]) {
    for part in ["tmp", "new", "cur"] {
        fs::create_dir_all(maildir.join(part)).unwrap();
    }
    for (n, message) in messages.iter().enumerate() {
        let name = format!("{}.M{n}.example", 1_763_632_800 + n);
        fs::write(maildir.join("new").join(name), message).unwrap();
    }
}

/// How many messages a Maildir has.
pub(super) fn count_maildir(maildir: &Path) -> usize {
    ["new", "cur"]
        .map(|part| files_in(&maildir.join(part)).len())
        .iter()
        .sum()
}

pub(super) fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// An mbox of these messages, which [`for_mbox`] made fit.
pub(super) fn write_mbox(mbox: &Path, messages: &[Vec<u8>]) {
    let separator: &[u8] = b"From sender@example.org Thu Nov 20 10:00:00 2025\n";
    let messages = messages.iter();
    let parts: Vec<u8> = messages
        .flat_map(|message| [separator, message, b"\n"].concat())
        .collect();
    fs::write(mbox, parts).unwrap();
}

/// How many messages an mbox has.
pub(super) fn count_mbox(mbox: &Path) -> usize {
    let octets = fs::read(mbox).unwrap_or_default();
    let lines = octets.split(|octet| *octet == b'\n');
    lines.filter(|line| line.starts_with(b"From ")).count()
}

/// As delivery to an mbox changes a message: lines that would begin another message are quoted,
/// the last line ends, and so does the header.
pub(super) fn for_mbox(octets: &[u8]) -> Vec<u8> {
    let lines = octets.split_inclusive(|octet| *octet == b'\n');
    let quoted: Vec<u8> = lines
        .flat_map(|line| {
            let mark: &[u8] = if line.starts_with(b"From ") {
                b">"
            } else {
                b""
            };
            [mark, line].concat()
        })
        .collect();
    let mut whole = with_last_line_ended(&quoted);
    if !whole.starts_with(b"\n") && !whole.windows(2).any(|pair| pair == b"\n\n") {
        whole.push(b'\n');
    }
    whole
}

/// The same, its last line ended.
pub(super) fn with_last_line_ended(octets: &[u8]) -> Vec<u8> {
    let end: &[u8] = if octets.is_empty() || octets.ends_with(b"\n") {
        b""
    } else {
        b"\n"
    };
    [octets, end].concat()
}

/// As mail servers hand every message on: with a field that says so before all others.
pub(super) fn with_trace_field(message: &Message) -> Vec<u8> {
    let id = message
        .name
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let field = format!("Received: from mail.example.org by pop.example.org id {id}\n");
    [field.as_bytes(), &message.octets].concat()
}

/// Every LF becomes CRLF, also behind a CR; the last line ends.
pub(super) fn every_lf_as_crlf(file: &[u8]) -> Vec<u8> {
    let lines = file.split_inclusive(|octet| *octet == b'\n');
    lines
        .flat_map(|line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            [line, b"\r\n"].concat()
        })
        .collect()
}

/// Every LF without a CR before it becomes CRLF; the last line ends, and nothing has one.
pub(super) fn bare_lf_as_crlf(file: &[u8]) -> Vec<u8> {
    let lines = file.split(|octet| *octet == b'\n');
    let mut lines: Vec<&[u8]> = lines.collect();
    if lines.len() > 1 && lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
        .into_iter()
        .flat_map(|line| [line.strip_suffix(b"\r").unwrap_or(line), b"\r\n"].concat())
        .collect()
}
