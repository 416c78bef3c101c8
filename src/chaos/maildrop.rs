//! The maildrop: its messages, its exclusive lock, and what was deleted when.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use time::OffsetDateTime;

use super::{
    lock,
    mail::{Mail, Message},
};

/// A maildrop. Deletions are kept in memory only.
#[derive(Debug)]
pub struct Maildrop {
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    messages: Vec<Arc<Message>>,
    /// Messages that ever were in it.
    delivered: u64,
    locked: bool,
    /// A lock that outlived its session.
    locked_until: Option<Instant>,
    removals: Vec<Removal>,
}

/// A deletion that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What it was.
    pub unique_id: String,
    /// When.
    pub at: OffsetDateTime,
    /// The number of the connection that asked for it.
    pub connection: u64,
}

/// The exclusive lock of a session; given back when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    maildrop: Arc<Maildrop>,
    /// How long it stays locked if the session ends without QUIT.
    pub(super) lingers: Option<Duration>,
}

impl Maildrop {
    /// A maildrop with this in it.
    pub(super) async fn open(mail: &Mail) -> anyhow::Result<Self> {
        let mail = mail.clone();
        let messages = tokio::task::spawn_blocking(move || mail.messages())
            .await
            .context("reading the mail was given up")??;
        Ok(Self {
            contents: Mutex::new(Contents {
                delivered: messages.len() as u64,
                messages: messages.into_iter().map(Arc::new).collect(),
                ..Contents::default()
            }),
        })
    }

    /// Puts a message into the maildrop: exactly these octets, with a CRLF behind the last line if
    /// there is none. Returns its unique-id.
    pub fn deliver(&self, octets: impl Into<Vec<u8>>) -> String {
        let mut octets = octets.into();
        if !octets.is_empty() && !octets.ends_with(b"\r\n") {
            octets.extend_from_slice(b"\r\n");
        }
        let mut contents = lock(&self.contents);
        contents.delivered += 1;
        let unique_id = format!("given-{}", contents.delivered);
        let message = Message::given(unique_id.clone(), octets);
        contents.messages.push(Arc::new(message));
        unique_id
    }

    /// Gives messages other unique-ids from the next session on, as a migration does: those that
    /// `other` has for theirs.
    pub fn renumber(&self, other: impl Fn(&str) -> Option<String>) {
        for message in &mut lock(&self.contents).messages {
            if let Some(unique_id) = other(&message.unique_id) {
                *message = Arc::new(message.renamed(unique_id));
            }
        }
    }

    /// The unique-ids of what is in it.
    pub fn unique_ids(&self) -> Vec<String> {
        let contents = lock(&self.contents);
        let ids = contents.messages.iter().map(|m| m.unique_id.clone());
        ids.collect()
    }

    /// The octets of what is in it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn octets(&self) -> std::io::Result<Vec<Bytes>> {
        let messages = self.messages();
        let mut octets = Vec::with_capacity(messages.len());
        for message in messages {
            octets.push(message.load().await?);
        }
        Ok(octets)
    }

    /// What was deleted, in that order.
    pub fn removals(&self) -> Vec<Removal> {
        lock(&self.contents).removals.clone()
    }

    pub(super) fn messages(&self) -> Vec<Arc<Message>> {
        lock(&self.contents).messages.clone()
    }

    /// Locks it for one session; `None` while another has it.
    pub(super) fn lock(self: &Arc<Self>, lingers: Option<Duration>) -> Option<Lock> {
        let mut contents = lock(&self.contents);
        let lingering = contents
            .locked_until
            .is_some_and(|until| Instant::now() < until);
        if contents.locked || lingering {
            return None;
        }
        contents.locked = true;
        Some(Lock {
            maildrop: Arc::clone(self),
            lingers,
        })
    }

    pub(super) fn remove(&self, unique_ids: &HashSet<&str>, connection: u64) {
        let mut contents = lock(&self.contents);
        let Contents {
            messages, removals, ..
        } = &mut *contents;
        let at = OffsetDateTime::now_utc();
        messages.retain(|message| {
            let kept = !unique_ids.contains(message.unique_id.as_str());
            if !kept {
                removals.push(Removal {
                    unique_id: message.unique_id.clone(),
                    at,
                    connection,
                });
            }
            kept
        });
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut contents = lock(&self.maildrop.contents);
        contents.locked = false;
        contents.locked_until = self.lingers.map(|lingers| Instant::now() + lingers);
    }
}
