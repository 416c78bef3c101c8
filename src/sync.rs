//! The sync engine: when and what to fetch from maildrops.
//!
//! A pool of workers claims mailboxes whose sync is due, by lease, and makes a pass over each. A
//! pass runs one POP3 session after another until the maildrop is caught up with. In a session:
//! list, compare with the store, fetch what is new while it is parsed and stored, delete what is
//! due, quit. A session that cannot vouch for all it retrieved ends without QUIT, because some
//! servers take RETR and QUIT as popped.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{budget::Budget, hosts::Hosts, pass::Pass};
use crate::{
    oauth::AccessTokens,
    pop3::Connector,
    store::{self, Store, leases::HostLimit, wakeups::Wakeups},
};

mod budget;
mod error;
mod hosts;
mod ingest;
mod login;
mod pass;
mod plan;
mod record;
mod retry;
mod session;

/// How long a claimed mailbox stays claimed without a sign of life: the time after which another
/// replica takes over from one that was killed.
const LEASE: Duration = Duration::from_secs(45);

/// Mailboxes claimed at once.
const CLAIM_BATCH: usize = 16;

/// Longest pause between two looks for due mailboxes; wake-ups cut it short.
const POLL: Duration = Duration::from_secs(1);

/// Pause after Postgres failed.
const POLL_AFTER_FAILURE: Duration = Duration::from_secs(3);

/// Pause between two looks for mailboxes that could not be synced for too long.
const STALE_POLL: Duration = Duration::from_secs(10);

/// What a pool may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// POP3 sessions at once,
    pub sessions: usize,
    /// and with one server.
    pub sessions_per_host: usize,
    /// Bytes of message data in flight over all sessions.
    pub memory: u64,
}

/// A pool of sync workers.
#[derive(Debug)]
pub struct Pool {
    store: Store,
    wakeups: Wakeups,
    connector: Connector,
    tokens: Arc<AccessTokens>,
    budget: Budget,
    slots: Arc<Semaphore>,
    hosts: Hosts,
    sessions_per_host: usize,
}

impl Pool {
    /// A pool that keeps within `limits`.
    pub fn new(
        store: Store,
        wakeups: Wakeups,
        connector: Connector,
        tokens: AccessTokens,
        limits: Limits,
    ) -> Self {
        Self {
            store,
            wakeups,
            connector,
            tokens: Arc::new(tokens),
            budget: Budget::new(limits.memory),
            slots: Arc::new(Semaphore::new(limits.sessions)),
            hosts: Hosts::default(),
            sessions_per_host: limits.sessions_per_host,
        }
    }

    /// Works until `stop`; then abandons the passes that run, which loses nothing.
    pub async fn run(&self, stop: &CancellationToken) {
        let passes = TaskTracker::new();
        stop.run_until_cancelled(async {
            tokio::join!(
                self.start_passes(&passes, stop),
                self.tell_of_stale_mailboxes()
            )
        })
        .await;
        passes.close();
        passes.wait().await;
    }

    async fn start_passes(&self, passes: &TaskTracker, stop: &CancellationToken) -> Infallible {
        let mut due = self.wakeups.syncs();
        let mut away = false;
        loop {
            due.mark_unchanged();
            let slot = Arc::clone(&self.slots)
                .acquire_owned()
                .await
                .expect("never closed");
            let failure = match timeout(LEASE, self.start_due(slot, passes, stop)).await {
                Ok(Ok(started)) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("syncs go on");
                    }
                    if started == 0 {
                        let pause = POLL.mul_f64(rand::random_range(0.5..1.0));
                        self.wait_for_change(&mut due, pause).await;
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if !std::mem::replace(&mut away, true) {
                tracing::warn!(failure, "no syncs until Postgres is back");
            }
            tokio::time::sleep(POLL_AFTER_FAILURE).await;
        }
    }

    async fn tell_of_stale_mailboxes(&self) -> Infallible {
        loop {
            tokio::time::sleep(STALE_POLL.mul_f64(rand::random_range(0.5..1.0))).await;
            // Who starts passes tells of an outage of Postgres.
            while let Ok(Ok(1..)) = timeout(LEASE, self.store.announce_stale_mailboxes()).await {
                self.wakeups.wake_events();
            }
        }
    }

    /// Waits until more may be due, or may be started: not for longer than `at_most`.
    async fn wait_for_change(&self, due: &mut watch::Receiver<()>, at_most: Duration) {
        // Any outcome means the same: look again.
        let _ = timeout(at_most, async {
            tokio::select! {
                _ = due.changed() => {}
                () = self.hosts.left(), if self.hosts.is_full(self.sessions_per_host) => {}
            }
        })
        .await;
    }

    /// Starts as many due passes as there are slots, `first` among them. Returns how many.
    async fn start_due(
        &self,
        first: OwnedSemaphorePermit,
        passes: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<usize, store::Error> {
        let free = (self.slots.available_permits() + 1).min(CLAIM_BATCH);
        let limit = i64::try_from(free).expect("a batch is small");
        let hosts = HostLimit {
            passes: self.sessions_per_host,
            running: self.hosts.running(),
        };
        let claims = self.store.claim_due_mailboxes(limit, LEASE, &hosts).await?;
        let started = claims.len();
        let mut slot = Some(first);
        for claim in claims {
            // Only this loop takes slots, so those counted as free are still free.
            let slot = match slot.take() {
                Some(slot) => slot,
                None => Arc::clone(&self.slots)
                    .acquire_owned()
                    .await
                    .expect("never closed"),
            };
            let visit = self.hosts.enter(claim.host.clone());
            let pass = Pass {
                store: self.store.clone(),
                wakeups: self.wakeups.clone(),
                connector: self.connector.clone(),
                tokens: Arc::clone(&self.tokens),
                budget: self.budget.clone(),
                claim,
            };
            let stop = stop.clone();
            passes.spawn(async move {
                pass.run(&stop).await;
                drop((slot, visit));
            });
        }
        Ok(started)
    }
}
