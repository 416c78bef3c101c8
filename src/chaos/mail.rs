//! The mail that is served: generated, read from files, or given.

use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use sha2::{Digest, Sha256};

/// More messages than this are not served.
const MAX_MESSAGES: u32 = 1_000_000;

/// A larger file is no message.
const MAX_MESSAGE_OCTETS: u64 = 256 << 20;

/// What is in the maildrop.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mail")]
pub struct Mail {
    /// Serve the .eml files of this directory, in the order of their names; they are never deleted
    #[arg(long, value_name = "DIR", conflicts_with = "messages")]
    pub maildir: Option<PathBuf>,
    /// Serve that many generated messages, the same at every start
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_MESSAGES))
    )]
    pub messages: u32,
    /// Octets of each generated message; at least those of its header
    #[arg(
        long,
        value_name = "OCTETS",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u64).range(..=MAX_MESSAGE_OCTETS)
    )]
    pub message_octets: u64,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            maildir: None,
            messages: 3,
            message_octets: 1024,
        }
    }
}

/// A message of the maildrop.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) unique_id: String,
    pub(super) octets: u64,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Generated { number: u64, octets: u64 },
    File(PathBuf),
    Given(Bytes),
}

impl Mail {
    /// Reads or makes it.
    pub(super) fn messages(&self) -> anyhow::Result<Vec<Message>> {
        match &self.maildir {
            Some(dir) => files(dir),
            None => Ok((1..=self.messages.into())
                .map(|number| Message::generated(number, self.message_octets))
                .collect()),
        }
    }
}

impl Message {
    pub(super) fn given(unique_id: String, octets: Vec<u8>) -> Self {
        Self {
            unique_id,
            octets: octets.len() as u64,
            source: Source::Given(octets.into()),
        }
    }

    pub(super) fn renamed(&self, unique_id: String) -> Self {
        Self {
            unique_id,
            octets: self.octets,
            source: self.source.clone(),
        }
    }

    fn generated(number: u64, octets: u64) -> Self {
        let least = head(number).len() as u64;
        Self {
            unique_id: format!("chaos-{number}"),
            octets: octets.max(least),
            source: Source::Generated { number, octets },
        }
    }

    /// Its octets: lines end with CRLF, the last one too.
    pub(super) async fn load(&self) -> std::io::Result<Bytes> {
        match &self.source {
            Source::Generated { number, octets } => Ok(generate(*number, *octets).into()),
            Source::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_message(&path));
                Ok(read.await.map_err(std::io::Error::other)??.into())
            }
            Source::Given(octets) => Ok(octets.clone()),
        }
    }
}

fn files(dir: &Path) -> anyhow::Result<Vec<Message>> {
    let cannot_read = || format!("cannot read {}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        if path.extension().is_some_and(|extension| extension == "eml") && path.is_file() {
            ensure!(
                paths.len() < MAX_MESSAGES as usize,
                "{} has more than {MAX_MESSAGES} messages",
                dir.display()
            );
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let octets =
                read_message(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Message {
                unique_id: unique_id(&path),
                octets: octets.len() as u64,
                source: Source::File(path),
            })
        })
        .collect()
}

fn read_message(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    let read = File::open(path)?
        .take(MAX_MESSAGE_OCTETS + 1)
        .read_to_end(&mut octets)?;
    if read as u64 > MAX_MESSAGE_OCTETS {
        return Err(std::io::Error::other("it is too large for a message"));
    }
    Ok(with_crlf(&octets))
}

/// As servers send what is kept with LF line ends.
fn with_crlf(octets: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        lines.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// The file's name where that can be a unique-id (RFC 1939, section 7), else its digest.
fn unique_id(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if (1..=70).contains(&name.len()) && name.bytes().all(|octet| octet.is_ascii_graphic()) {
        return name.into_owned();
    }
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().fold(String::new(), |mut hex, octet| {
        let _ = write!(hex, "{octet:02x}");
        hex
    })
}

fn head(number: u64) -> String {
    format!(
        "From: Chaos <chaos@example.com>\r\n\
        To: Demo <demo@example.org>\r\n\
        Subject: Message {number}\r\n\
        Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
        Message-ID: <{number}@chaos.example.com>\r\n\
        \r\n"
    )
}

/// A message that is the same at every start; a lone dot is among its first lines.
fn generate(number: u64, octets: u64) -> Vec<u8> {
    const DOTS: &[u8] = b".\r\n..\r\n.a line that begins with a dot\r\n";
    const LINE: &[u8] =
        b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n";
    let wanted = usize::try_from(octets).unwrap_or(usize::MAX);
    let mut message = head(number).into_bytes();
    if message.len() + DOTS.len() <= wanted {
        message.extend_from_slice(DOTS);
    }
    // What is left must be enough for a line end.
    while message.len() + LINE.len() + 2 <= wanted {
        message.extend_from_slice(LINE);
    }
    let left = wanted.saturating_sub(message.len());
    match left {
        0 => {}
        // One octet is no line: it goes into the one before.
        1 => message.insert(message.len() - 2, b'.'),
        _ => {
            message.extend(std::iter::repeat_n(b'x', left - 2));
            message.extend_from_slice(b"\r\n");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_messages_have_the_octets_asked_for() {
        let least = head(7).len();
        for octets in 0..2000 {
            let message = generate(7, octets);
            assert_eq!(message.len() as u64, octets.max(least as u64));
            assert_eq!(message.len() as u64, Message::generated(7, octets).octets);
            assert!(message.ends_with(b"\r\n"));
        }
    }

    #[test]
    fn files_are_served_with_crlf() {
        for (file, served) in [
            (&b"a\nb"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\n\n", b"a\r\n\r\n"),
            (b"a\rb\n", b"a\rb\r\n"),
            (b"", b""),
        ] {
            assert_eq!(with_crlf(file), served);
        }
    }
}
