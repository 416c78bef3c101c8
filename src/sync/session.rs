//! One POP3 session: list, compare, fetch, delete, quit.

use std::collections::{HashMap, HashSet};

use super::{
    budget::Budget,
    error::Error,
    ingest::{Batch, Fetched, Ingest},
    plan::{self, Entry, Plan, Situation, plan},
    record::Context,
    since::Wanted,
    trials::{Failure, Trials},
};
use crate::{
    connection,
    pop3::{self, Connector, Credentials, Listing, Retrieved},
    store::{
        Store,
        leases::{Counts, Lease},
        mailboxes::{InitialSync, Mailbox, Settings},
        maildrop::{Known, Listed, UniqueIds},
        messages::MessageState,
        rematch::CurrentListing,
        unsettled::Retry,
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
    /// Messages may be asked for: not once too many sessions ended at some.
    pub(super) retrieve: bool,
    /// Those that failed before may be asked for again.
    pub(super) retry: bool,
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
    /// What the server announced after login.
    pub(super) capabilities: Option<Vec<String>>,
    /// The messages that failed before.
    pub(super) retries: HashMap<Vec<u8>, Retry>,
    pub(super) trials: Trials,
    /// Postgres refused a message of a batch.
    pub(super) one_by_one: bool,
    /// The session ended while messages were fetched.
    pub(super) broke: Option<Break>,
}

/// Where a session ended while messages were fetched.
#[derive(Debug)]
pub(super) struct Break {
    /// With this message; `None` if that is no sign against it.
    pub(super) at: Option<Entry>,
}

impl Break {
    pub(super) fn at(entry: Option<&Entry>, error: &pop3::Error, some_came: bool) -> Self {
        // The time of a session may be up because of all that came before.
        let time_is_up = matches!(
            error,
            pop3::Error::Timeout {
                wait: pop3::Wait::Session,
                ..
            }
        );
        let at = entry.filter(|_| !(time_is_up && some_came));
        Self { at: at.cloned() }
    }
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
        findings.capabilities = Some(session.capabilities().lines.clone());
        let done = self.transact(&mut session, counts, findings).await;
        if let Err(Error::Pop3(error)) = &done {
            Self::judge_break(&session, error, findings);
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
            more,
            more_deletions,
        })
    }

    /// Whose fault it is that the session ended: that of commands sent ahead of replies, or of the
    /// message that it ended with.
    fn judge_break(session: &pop3::Session, error: &pop3::Error, findings: &mut Findings) {
        if session.pipelining_failed(error) {
            findings.pipelining_failed = true;
        } else if let Some(Break { at: Some(entry) }) = &findings.broke {
            let before = findings.retries.get(&entry.unique_id);
            findings.trials.failed(entry, Failure::broke(error), before);
        }
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
        let entries: Vec<Entry> = listing.entries.into_iter().map(Entry::from).collect();
        let unique_ids: Vec<Vec<u8>> = entries.iter().map(|e| e.unique_id.clone()).collect();
        counts.listed = i64::try_from(entries.len()).expect("memory is smaller than 2^63");

        let mut known = self.compare(&unique_ids).await?;
        if known.values().any(|known| known.due || !known.settled) {
            findings.retries = self.store.retries(self.lease).await?;
        }
        let before = *counts;
        let wanted = match settings.initial_sync {
            InitialSync::Since(since) if self.backlog && self.try_top && self.retrieve => {
                self.leave_out_old(session, &entries, &known, since, counts)
                    .await?
            }
            _ => Wanted::all(&entries),
        };
        let mut plan = plan(Situation {
            listing: &wanted.entries,
            known: &known,
            retry: self.retry,
            tried: findings.trials.tried(),
            settings,
            first: self.backlog && known.is_empty(),
        });
        plan.more |= wanted.more;
        if !self.retrieve {
            plan.more |= !plan.fetch.is_empty();
            (plan.fetch, plan.oversize) = (Vec::new(), Vec::new());
        }
        self.leave_out(&plan.skip, counts).await?;
        let skipped_unread = counts.skipped;
        let current = CurrentListing {
            settled: count(known.values().filter(|known| known.settled)),
            unique_ids: unique_ids.iter().cloned().collect(),
        };
        self.carry_out(session, &plan, &known, &current, counts, findings)
            .await?;

        // What was stored just now may be due for deletion too.
        let handled = [&plan.fetch, &plan.oversize, &plan.skip];
        let handled = handled.into_iter().flatten();
        let handled: Vec<Vec<u8>> = handled.map(|entry| entry.unique_id.clone()).collect();
        if !handled.is_empty() {
            known.extend(self.compare(&handled).await?);
        }
        if self.retrieve && findings.trials.need_control() {
            self.fetch_control(session, &entries, &known, findings)
                .await?;
        }
        let matched = counts.matched > before.matched;
        let mut more_deletions = false;
        if plan.more {
            // What is listed and unread yet may be what seems to be absent.
        } else if listing.complete {
            let mut found = entries.iter().map(|entry| known.get(&entry.unique_id));
            let all_settled = found.all(|known| known.is_some_and(|known| known.settled));
            let absent = self
                .store
                .record_absent(self.lease, &unique_ids, all_settled);
            counts.deleted += absent.await?;
        } else if matched {
            // An incomplete listing proves nothing about what it lacks.
            self.store.end_reset(self.lease).await?;
        }
        // Nor does it say which copy is which. And nothing is deleted in the middle of a reset.
        if listing.complete && !(matched && plan.more) {
            more_deletions = self.delete_due(session, &entries, &known, findings).await?;
        }
        // What was retrieved only to tell messages apart may be not committed yet.
        let all_stored = !plan.more && findings.trials.tried().is_empty();
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
        let before = findings.unique_ids.map(connection::unique_ids);
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
        findings: &mut Findings,
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
            one_by_one: findings.one_by_one,
        };
        ingest.run(session, &plan.fetch, counts, findings).await?;
        // Last, since some servers do not survive a TOP.
        let oversize = &plan.oversize;
        self.store_oversize(session, oversize, known, &ingest, counts, findings)
            .await
    }

    /// Asks for a message that is stored, to see whether the line and the server work.
    async fn fetch_control(
        &self,
        session: &mut pop3::Session,
        entries: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let Some(entry) = plan::control(entries, known) else {
            return Ok(());
        };
        let mut retrieval = session.retrieve([(entry.number, entry.octets)]);
        let came = async {
            let reply = retrieval.next().await?;
            // Past its octets.
            retrieval.next().await?;
            Ok::<_, pop3::Error>(matches!(reply, Some(Retrieved::Body { .. })))
        };
        let came = came.await.inspect_err(|_| {
            findings.trials.control(false);
            findings.broke = Some(Break { at: None });
        })?;
        findings.trials.control(came);
        Ok(())
    }

    /// Keeps the head of messages that are too long.
    async fn store_oversize(
        &self,
        session: &mut pop3::Session,
        oversize: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        ingest: &Ingest<'_>,
        counts: &mut Counts,
        findings: &mut Findings,
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
                findings.trials.leave(entry);
                findings.broke = Some(Break { at: None });
            }
            let octets = head?.unwrap_or_default();
            let fetched = Fetched {
                entry: entry.clone(),
                octets,
                state: MessageState::Oversize,
                before: findings.retries.get(&entry.unique_id).cloned(),
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
        let mut due = plan::deletions(entries, known);
        due.retain(|entry| !findings.deletion_tried.contains(&entry.unique_id));
        let in_vain = due.iter().filter(|entry| {
            let known = known.get(&entry.unique_id);
            known.is_some_and(|known| known.dele_count == MANY_DELETIONS)
        });
        let forgotten = in_vain.count();
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
