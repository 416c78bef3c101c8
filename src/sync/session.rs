//! One POP3 session: list, compare, fetch, delete, quit.

use std::collections::{HashMap, HashSet};

use super::{
    budget::Budget,
    error::Error,
    ingest::{Batch, Fetched, Ingest},
    plan::{Entry, Plan, plan},
    record::Context,
    since::Wanted,
};
use crate::{
    connection,
    pop3::{self, Connector, Credentials, Listing},
    store::{
        Store,
        leases::{Counts, Lease},
        mailboxes::{InitialSync, Mailbox, Settings},
        maildrop::{Known, Listed, UniqueIds},
        messages::MessageState,
        rematch::CurrentListing,
        wakeups::Wakeups,
    },
};

/// Passes that end at the head of an oversize message before it is kept without one.
const MAX_HEAD_FAILURES: i32 = 3;

/// Messages that one session deletes: no more than that is undone by a QUIT that gets lost.
const MAX_DELETIONS: usize = 200;

/// After so many sessions in which it accepted DELE in vain, a server is said to forget deletions.
const MANY_DELETIONS: i32 = 3;

/// What the sessions of a pass share.
#[derive(Debug)]
pub(super) struct Sessions<'a> {
    pub(super) store: &'a Store,
    pub(super) wakeups: &'a Wakeups,
    pub(super) connector: &'a Connector,
    pub(super) budget: &'a Budget,
    pub(super) lease: &'a Lease,
    pub(super) mailbox: &'a Mailbox,
    pub(super) backlog: bool,
    pub(super) transcript: &'a pop3::Transcript,
    /// Commands may be sent ahead of replies.
    pub(super) pipelining: bool,
    /// Nothing went wrong in the last pass: some servers do not survive TOP.
    pub(super) try_top: bool,
}

/// What a session found out of use to the next, however it ended.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Where the maildrop's unique-ids come from.
    pub(super) unique_ids: Option<UniqueIds>,
    /// Sending commands ahead of replies may be what went wrong.
    pub(super) pipelining_failed: bool,
    /// Unique-ids that DELE was sent for: once in a pass, whatever the next listing says.
    deletion_tried: HashSet<Vec<u8>>,
}

/// How the TRANSACTION state ended.
struct Done {
    more: bool,
    more_deletions: bool,
    may_quit: bool,
}

/// How a session ended.
#[derive(Debug)]
pub(super) struct SessionEnd {
    /// What the server announced after login.
    pub(super) capabilities: Vec<String>,
    /// Messages are left for a next session.
    pub(super) more: bool,
    /// Deletions are.
    pub(super) more_deletions: bool,
}

impl Sessions<'_> {
    /// Runs one session. Whatever it returns, what `counts` says is committed.
    pub(super) async fn run(
        &self,
        credentials: &Credentials,
        counts: &mut Counts,
        findings: &mut Findings,
    ) -> Result<SessionEnd, Error> {
        let settings = &self.mailbox.settings;
        let server = connection::server(settings, self.pipelining)?;
        let mut session = self
            .connector
            .open(&server, credentials, self.transcript)
            .await?;
        let capabilities = session.capabilities().lines.clone();
        let done = self.transact(&mut session, counts, findings).await;
        if let Err(Error::Pop3(error)) = &done {
            findings.pipelining_failed = session.pipelining_failed(error);
        }
        let Done {
            more,
            more_deletions,
            may_quit,
        } = done?;
        // All that was retrieved is committed, so QUIT may take it as popped. Should its reply get
        // lost, the next listing shows whether the deletions took effect.
        if may_quit && let Err(error) = session.quit().await {
            tracing::info!(%error, "the session ended without a reply to QUIT");
        }
        Ok(SessionEnd {
            capabilities,
            more,
            more_deletions,
        })
    }

    /// All between login and QUIT.
    async fn transact(
        &self,
        session: &mut pop3::Session,
        counts: &mut Counts,
        findings: &mut Findings,
    ) -> Result<Done, Error> {
        let settings = &self.mailbox.settings;
        let listing = self.list(session, findings).await?;
        let entries: Vec<Entry> = listing
            .entries
            .into_iter()
            .map(|e| Entry {
                number: e.number,
                unique_id: e.unique_id.as_bytes().to_vec(),
                octets: e.octets,
            })
            .collect();
        let unique_ids: Vec<Vec<u8>> = entries.iter().map(|e| e.unique_id.clone()).collect();
        counts.listed = i64::try_from(entries.len()).expect("memory is smaller than 2^63");

        let known = self.compare(&unique_ids).await?;
        let before = *counts;
        let wanted = match settings.initial_sync {
            InitialSync::Since(since) if self.backlog && self.try_top => {
                self.leave_out_old(session, &entries, &known, since, counts)
                    .await?
            }
            _ => Wanted::all(&entries),
        };
        let mut plan = plan(
            &wanted.entries,
            &known,
            settings,
            self.backlog && known.is_empty(),
        );
        plan.more |= wanted.more;
        self.leave_out(&plan.skip, counts).await?;
        let skipped_unread = counts.skipped;
        let current = CurrentListing {
            settled: count(known.values().filter(|known| known.settled)),
            unique_ids: unique_ids.iter().cloned().collect(),
        };
        self.carry_out(session, &plan, &known, &current, counts)
            .await?;

        let matched = counts.matched > before.matched;
        let mut more_deletions = false;
        if plan.more {
            // What is listed and unread yet may be what seems to be absent.
        } else if listing.complete {
            counts.deleted += self.store.record_absent(self.lease, &unique_ids).await?;
        } else if matched {
            // An incomplete listing proves nothing about what it lacks.
            self.store.end_reset(self.lease).await?;
        }
        // Nor does it say which copy is which. And nothing is deleted in the middle of a reset.
        if listing.complete && !(matched && plan.more) {
            // What was stored just now may be due for deletion too.
            let idle = plan.fetch.is_empty() && plan.oversize.is_empty();
            let known = if idle {
                known
            } else {
                self.compare(&unique_ids).await?
            };
            more_deletions = self.delete_due(session, &entries, &known, findings).await?;
        }
        // What was retrieved only to tell messages apart may be not committed yet.
        let all_stored = !plan.more && counts.failed == before.failed;
        // What was retrieved and then left out never will be.
        let left_out = counts.skipped > skipped_unread;
        Ok(Done {
            more: plan.more,
            more_deletions,
            may_quit: !left_out && (all_stored || !listing.retrieved),
        })
    }

    async fn list(
        &self,
        session: &mut pop3::Session,
        findings: &mut Findings,
    ) -> Result<Listing, Error> {
        let before = findings.unique_ids.map(|source| match source {
            UniqueIds::Uidl => pop3::UniqueIds::Uidl,
            UniqueIds::Digests => pop3::UniqueIds::Digests,
        });
        let listing = session.listing(before).await?;
        if let Some(fault) = listing.fault {
            tracing::warn!(%fault, "the listing is incomplete, so that nothing is deleted");
        }
        if findings.unique_ids.is_none() && !listing.entries.is_empty() {
            let source = match listing.source {
                pop3::UniqueIds::Uidl => UniqueIds::Uidl,
                pop3::UniqueIds::Digests => UniqueIds::Digests,
            };
            self.store.record_unique_ids(self.lease, source).await?;
            findings.unique_ids = Some(source);
        }
        Ok(listing)
    }

    async fn compare(&self, unique_ids: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Known>, Error> {
        let Settings {
            delete_policy,
            delete_after_days,
            ..
        } = self.mailbox.settings;
        Ok(self
            .store
            .compare_listing(self.lease, unique_ids, delete_policy, delete_after_days)
            .await?)
    }

    /// Remembers messages that are not to be fetched.
    pub(super) async fn leave_out(
        &self,
        entries: &[Entry],
        counts: &mut Counts,
    ) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let skipped: Vec<Listed> = entries.iter().map(Entry::listed).collect();
        self.store.skip_messages(self.lease, &skipped).await?;
        counts.skipped += count(&skipped);
        Ok(())
    }

    async fn carry_out(
        &self,
        session: &mut pop3::Session,
        plan: &Plan,
        known: &HashMap<Vec<u8>, Known>,
        listing: &CurrentListing,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let settings = &self.mailbox.settings;
        let since = match settings.initial_sync {
            InitialSync::Since(since) if self.backlog => Some(since),
            _ => None,
        };
        let context = Context {
            mailbox_id: self.mailbox.id,
            backlog: self.backlog,
            notify_backlog: settings.notify_backlog,
            since,
        };
        let ingest = Ingest {
            store: self.store,
            wakeups: self.wakeups,
            budget: self.budget,
            lease: self.lease,
            listing,
            context,
            max_message_octets: settings.max_message_bytes.unsigned_abs(),
        };
        let mut failed = Vec::new();
        let ingested = ingest.run(session, &plan.fetch, counts, &mut failed).await;
        if !failed.is_empty() {
            // Also when the session ended with it: else every pass would end there.
            self.store
                .record_failed_messages(self.lease, &failed)
                .await?;
            counts.failed += count(&failed);
        }
        ingested?;
        // Last, since some servers do not survive a TOP.
        self.store_oversize(session, &plan.oversize, known, &ingest, counts)
            .await
    }

    /// Keeps the head of messages that are too long.
    async fn store_oversize(
        &self,
        session: &mut pop3::Session,
        oversize: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        ingest: &Ingest<'_>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        for entry in oversize {
            let failures = known
                .get(&entry.unique_id)
                .map_or(0, |known| known.failures);
            let head = if failures < MAX_HEAD_FAILURES {
                session.head(entry.number).await
            } else {
                Ok(None)
            };
            if head.is_err() {
                // Else every pass would end here.
                let failed = [entry.listed()];
                self.store
                    .record_failed_messages(self.lease, &failed)
                    .await?;
                counts.failed += 1;
            }
            let octets = head?.unwrap_or_default();
            let fetched = Fetched {
                entry: entry.clone(),
                octets,
                state: MessageState::Oversize,
                reservation: None,
            };
            let batch = Batch::parse(vec![fetched], ingest.context);
            ingest.commit(batch, counts).await?;
        }
        Ok(())
    }

    /// Sends DELE for what is to be deleted, as far as one session may. Returns whether more is.
    async fn delete_due(
        &self,
        session: &mut pop3::Session,
        entries: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        findings: &mut Findings,
    ) -> Result<bool, Error> {
        let (mut due, mut forgotten) = (Vec::new(), 0);
        for entry in entries {
            let Some(known) = known.get(&entry.unique_id).filter(|known| known.delete) else {
                continue;
            };
            if findings.deletion_tried.contains(&entry.unique_id) {
                continue;
            }
            forgotten += u64::from(known.dele_count == MANY_DELETIONS);
            due.push(entry);
        }
        if forgotten > 0 {
            tracing::warn!(
                forgotten,
                "the server lists messages whose deletion it accepted {MANY_DELETIONS} times"
            );
        }
        let more = due.len() > MAX_DELETIONS;
        due.truncate(MAX_DELETIONS);
        if due.is_empty() {
            return Ok(false);
        }
        let tried = due.iter().map(|entry| entry.unique_id.clone());
        findings.deletion_tried.extend(tried);
        let numbers: Vec<_> = due.iter().map(|entry| entry.number).collect();
        let replies = session.delete(&numbers).await?;
        let accepted: Vec<Vec<u8>> = due
            .iter()
            .zip(replies)
            .filter(|(_, reply)| reply.is_ok())
            .map(|(entry, _)| entry.unique_id.clone())
            .collect();
        self.store.record_dele_sent(self.lease, &accepted).await?;
        Ok(more)
    }
}

fn count<T>(items: impl IntoIterator<Item = T>) -> i64 {
    i64::try_from(items.into_iter().count()).expect("memory is smaller than 2^63")
}
