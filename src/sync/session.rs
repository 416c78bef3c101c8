//! One POP3 session: list, compare, fetch, delete, quit.

use std::collections::HashMap;

use super::{
    budget::Budget,
    error::Error,
    ingest::{Batch, Fetched, Ingest},
    plan::{Entry, Plan, plan},
    record::Context,
};
use crate::{
    pop3::{self, Connector, Credentials, Server},
    store::{
        Store,
        leases::{Counts, Lease},
        mailboxes::{Auth, Mailbox, Settings, Tls},
        maildrop::Known,
        messages::MessageState,
        wakeups::Wakeups,
    },
};

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
}

/// How a session ended.
#[derive(Debug)]
pub(super) struct SessionEnd {
    /// What the server announced after login.
    pub(super) capabilities: Vec<String>,
    /// Messages are left for a next session.
    pub(super) more: bool,
}

impl Sessions<'_> {
    /// Runs one session. Whatever it returns, what `counts` says is committed.
    pub(super) async fn run(&self, counts: &mut Counts) -> Result<SessionEnd, Error> {
        let settings = &self.mailbox.settings;
        let credentials = Credentials {
            username: settings.username.clone(),
            password: self.store.mailbox_password(self.mailbox.id).await?,
            auth: auth(settings.auth),
        };
        let mut session = self.connector.open(&server(settings), &credentials).await?;
        let capabilities = session.capabilities().lines.clone();

        let listing = session.listing().await?;
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
        let plan = plan(&entries, &known, settings, self.backlog && known.is_empty());
        self.carry_out(&mut session, &plan, counts).await?;

        // An incomplete listing proves nothing about what it lacks, nor which copy is which.
        if listing.complete {
            counts.deleted += self.store.record_absent(self.lease, &unique_ids).await?;
            // What was stored just now may be due for deletion too.
            let idle = plan.fetch.is_empty() && plan.oversize.is_empty();
            let known = if idle {
                known
            } else {
                self.compare(&unique_ids).await?
            };
            self.delete_due(&mut session, &entries, &known).await?;
        }
        // All that was retrieved is committed, so QUIT may take it as popped. Should its reply get
        // lost, the next listing shows whether the deletions took effect.
        if let Err(error) = session.quit().await {
            tracing::info!(%error, "the session ended without a reply to QUIT");
        }
        Ok(SessionEnd {
            capabilities,
            more: plan.more,
        })
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

    async fn carry_out(
        &self,
        session: &mut pop3::Session,
        plan: &Plan,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let settings = &self.mailbox.settings;
        if !plan.skip.is_empty() {
            let skipped: Vec<_> = plan.skip.iter().map(Entry::listed).collect();
            self.store.skip_messages(self.lease, &skipped).await?;
            counts.skipped += count(&skipped);
        }
        let context = Context {
            mailbox_id: self.mailbox.id,
            backlog: self.backlog,
            notify_backlog: settings.notify_backlog,
        };
        self.store_oversize(session, &plan.oversize, context, counts)
            .await?;
        let ingest = Ingest {
            store: self.store,
            wakeups: self.wakeups,
            budget: self.budget,
            lease: self.lease,
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
        ingested
    }

    /// Keeps the head of messages that are too long.
    async fn store_oversize(
        &self,
        session: &mut pop3::Session,
        oversize: &[Entry],
        context: Context,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        for entry in oversize {
            let octets = session.head(entry.number).await?.unwrap_or_default();
            let fetched = Fetched {
                entry: entry.clone(),
                octets,
                state: MessageState::Oversize,
                reservation: None,
            };
            let batch = Batch::parse(vec![fetched], context);
            let (stored, _) = self
                .store
                .store_messages(self.lease, batch.messages)
                .await?;
            counts.stored += stored;
            self.wakeups.wake_events();
        }
        Ok(())
    }

    /// Sends DELE for what is to be deleted.
    async fn delete_due(
        &self,
        session: &mut pop3::Session,
        entries: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
    ) -> Result<(), Error> {
        let due: Vec<&Entry> = entries
            .iter()
            .filter(|entry| {
                known
                    .get(&entry.unique_id)
                    .is_some_and(|known| known.delete)
            })
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let numbers: Vec<_> = due.iter().map(|entry| entry.number).collect();
        let replies = session.delete(&numbers).await?;
        let accepted: Vec<Vec<u8>> = due
            .iter()
            .zip(replies)
            .filter(|(_, reply)| reply.is_ok())
            .map(|(entry, _)| entry.unique_id.clone())
            .collect();
        self.store.record_dele_sent(self.lease, &accepted).await?;
        Ok(())
    }
}

fn server(settings: &Settings) -> Server {
    Server {
        host: settings.host.clone(),
        port: u16::try_from(settings.port).expect("the schema checks its range"),
        tls: match settings.tls {
            Tls::Implicit => pop3::Tls::Implicit,
            Tls::Starttls => pop3::Tls::Starttls,
            Tls::None => pop3::Tls::None,
        },
        ca_pem: settings.tls_ca_pem.clone(),
    }
}

fn auth(auth: Auth) -> pop3::Auth {
    match auth {
        Auth::Auto => pop3::Auth::Auto,
        Auth::UserPass => pop3::Auth::UserPass,
        Auth::Plain => pop3::Auth::Plain,
        Auth::Apop => pop3::Auth::Apop,
    }
}

fn count<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).expect("memory is smaller than 2^63")
}
