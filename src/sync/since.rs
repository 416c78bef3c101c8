//! `initial_sync: {since}`: what of the backlog is too old to be fetched, by its header alone.
//!
//! Listings have no dates. Where the server has TOP, headers tell them; otherwise messages are
//! fetched, and left out once they are read.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::{error::Error, plan::Entry, session::Sessions};
use crate::{
    message,
    pop3::Session,
    store::{leases::Counts, maildrop::Known},
};

/// Headers that are asked for at once; what they tell is committed before the next ones.
const BATCH: usize = 200;

/// Headers that one session asks for, so that it gets to the messages before it has to end.
const MAX_HEADS: usize = 5000;

/// What is left of a listing.
pub(super) struct Wanted {
    pub(super) entries: Vec<Entry>,
    /// Not all of it was looked at.
    pub(super) more: bool,
}

impl Wanted {
    pub(super) fn all(entries: &[Entry]) -> Self {
        Self {
            entries: entries.to_vec(),
            more: false,
        }
    }
}

impl Sessions<'_> {
    /// Leaves out what arrived before `since`. What has no date counts as new.
    pub(super) async fn leave_out_old(
        &self,
        session: &mut Session,
        entries: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        since: OffsetDateTime,
        counts: &mut Counts,
    ) -> Result<Wanted, Error> {
        let (mut wanted, unknown): (Vec<_>, Vec<_>) = entries
            .iter()
            .cloned()
            .partition(|entry| known.contains_key(&entry.unique_id));
        let enough = wanted.len()
            + self
                .mailbox
                .settings
                .max_messages_per_session
                .unsigned_abs() as usize;
        let mut looked_at = 0;
        for batch in unknown.chunks(BATCH) {
            if wanted.len() >= enough || looked_at >= MAX_HEADS {
                break;
            }
            looked_at += batch.len();
            let numbers: Vec<_> = batch.iter().map(|entry| entry.number).collect();
            let mut old = Vec::with_capacity(batch.len());
            let judge = |head: Option<Vec<u8>>| {
                old.push(head.is_some_and(|head| is_before(since, message::arrival(&head))));
            };
            session.heads(&numbers, judge).await?;
            let mut left_out = Vec::new();
            for (entry, old) in batch.iter().zip(old) {
                if old {
                    left_out.push(entry.clone());
                } else {
                    wanted.push(entry.clone());
                }
            }
            self.leave_out(&left_out, counts).await?;
        }
        wanted.sort_unstable_by_key(|entry| entry.number);
        Ok(Wanted {
            entries: wanted,
            more: looked_at < unknown.len(),
        })
    }
}

/// Whether a message arrived before that, as far as it says so.
pub(super) fn is_before(since: OffsetDateTime, arrival: message::Arrival) -> bool {
    arrival.at.is_some_and(|at| at < since)
}
