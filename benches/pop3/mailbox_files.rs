//! What other fetchers wrote: messages and octets in it, with whatever they add.

use std::{fs, path::Path};

use anyhow::Context;
use memchr::memmem;

pub(crate) type Found = (u64, u64);

/// In an mbox file, where a line `From …` begins each message.
pub(crate) fn mbox(file: &Path) -> anyhow::Result<Found> {
    lines_that_begin_with(b"From ", file)
}

/// In a file of batched SMTP.
pub(crate) fn bsmtp(file: &Path) -> anyhow::Result<Found> {
    lines_that_begin_with(b"MAIL FROM:", file)
}

/// In a Maildir.
pub(crate) fn maildir(dir: &Path) -> anyhow::Result<Found> {
    let (mut messages, mut octets) = (0, 0);
    for part in ["new", "cur"] {
        for file in fs::read_dir(dir.join(part))? {
            messages += 1;
            octets += file?.metadata()?.len();
        }
    }
    Ok((messages, octets))
}

fn lines_that_begin_with(word: &[u8], file: &Path) -> anyhow::Result<Found> {
    let text = fs::read(file).with_context(|| format!("{} was not written", file.display()))?;
    let inner = memmem::find_iter(&text, &[b"\n", word].concat()).count();
    let first = usize::from(text.starts_with(word));
    Ok(((inner + first) as u64, text.len() as u64))
}
