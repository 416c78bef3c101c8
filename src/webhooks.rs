//! The dispatcher: takes deliveries from the outbox and brings them to their endpoints.
//!
//! Deliveries are claimed by lease, no more than can start at once, and no more for one endpoint
//! than its share, so that a slow one does not take all slots. Each claim becomes one attempt: sign,
//! send, record. What a dispatcher that dies has claimed is tried again when its lease ends, by
//! whoever comes first; so an endpoint may get an event more than once, under the same
//! `webhook-id`, and in any order.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{attempt::Sender, client::Client, in_flight::InFlight};
use crate::{
    egress::{Egress, http::ClientError},
    store::{self, Store, wakeups::Wakeups},
};

mod attempt;
mod client;
mod failure;
mod in_flight;
mod payload;
mod retry;
mod signature;

/// Deliveries claimed by one statement.
const CLAIM_BATCH: usize = 32;

/// Longest pause between two looks for due deliveries; wake-ups cut it short.
const POLL: Duration = Duration::from_secs(1);

/// How long Postgres may take for a claim before it counts as away.
const CLAIM_PATIENCE: Duration = Duration::from_secs(15);

/// Longest pause between two tries while Postgres is away.
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(16);

/// How long, beyond the deadline of an attempt, a stop waits for its record.
const RECORD_GRACE: Duration = Duration::from_secs(2);

/// What an operator may want otherwise; the default is what the documentation promises.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Attempts at once, over all endpoints.
    pub concurrency: usize,
    /// Attempts at once for one endpoint.
    pub concurrency_per_webhook: usize,
    /// Time for name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time for a whole attempt: name lookup, connection, request, and the answer with its body.
    pub attempt_deadline: Duration,
    /// How long a claimed delivery stays claimed; longer than an attempt takes with its record.
    pub lease: Duration,
    /// Pauses before the second attempt and each later one, before jitter of 20 % either way. After
    /// the last attempt a delivery is dead.
    pub retry_pauses: Vec<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 64,
            concurrency_per_webhook: 4,
            connect_timeout: Duration::from_secs(5),
            attempt_deadline: Duration::from_secs(15),
            lease: Duration::from_secs(60),
            retry_pauses: retry::PAUSES.to_vec(),
        }
    }
}

/// Brings due deliveries to their endpoints.
#[derive(Debug)]
pub struct Dispatcher {
    sender: Arc<Sender>,
}

/// When to look for due deliveries again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// At once: more may be due.
    Now,
    /// As soon as an attempt ends: what is due may wait for its slot.
    WhenFreed,
    /// When told, or after a while: all that was due is on its way.
    WhenDue,
}

impl Dispatcher {
    /// A dispatcher with the settings that the documentation promises.
    ///
    /// # Errors
    /// [`ClientError`] when the machine has no CA certificates.
    pub fn new(store: Store, wakeups: Wakeups, egress: Egress) -> Result<Self, ClientError> {
        Self::with_settings(store, wakeups, egress, Settings::default())
    }

    /// A dispatcher with settings of its own.
    ///
    /// # Errors
    /// [`ClientError`] when the machine has no CA certificates.
    pub fn with_settings(
        store: Store,
        wakeups: Wakeups,
        egress: Egress,
        settings: Settings,
    ) -> Result<Self, ClientError> {
        let client = Client::new(egress, &settings)?;
        let sender = Arc::new(Sender {
            store,
            wakeups,
            client,
            settings,
        });
        Ok(Self { sender })
    }

    /// Works until `stop`. Attempts that run then may end within their deadline; those that do not
    /// are abandoned, and tried again when their lease ends.
    pub async fn run(&self, stop: CancellationToken) {
        let mut in_flight = InFlight::default();
        let mut events = self.sender.wakeups.events();
        let mut failures = 0;
        // A claim is never cut short: what it claimed would lie idle until the lease ends.
        while !stop.is_cancelled() {
            events.mark_unchanged();
            match tokio::time::timeout(CLAIM_PATIENCE, self.claim_and_start(&mut in_flight)).await {
                Ok(Ok(look)) => {
                    if failures > 0 {
                        tracing::info!("deliveries go on");
                        failures = 0;
                    }
                    wait(look, &mut in_flight, &mut events, &stop).await;
                }
                Ok(Err(error)) => pause(&error, &mut failures, &stop).await,
                Err(elapsed) => pause(&elapsed, &mut failures, &stop).await,
            }
        }
        let patience = self.sender.settings.attempt_deadline + RECORD_GRACE;
        if tokio::time::timeout(patience, in_flight.all_ended())
            .await
            .is_err()
        {
            tracing::warn!(
                attempts = in_flight.len(),
                "abandoning webhook attempts; they are made again when their lease ends"
            );
        }
    }

    /// Claims no more than can start now, and starts it.
    async fn claim_and_start(&self, in_flight: &mut InFlight) -> Result<Look, store::Error> {
        let settings = &self.sender.settings;
        in_flight.reap();
        let free = settings.concurrency.saturating_sub(in_flight.len());
        if free == 0 {
            return Ok(Look::WhenFreed);
        }
        let limit = free.min(CLAIM_BATCH);
        let claimed = self
            .sender
            .store
            .claim_due_deliveries(
                to_i64(limit),
                to_i64(settings.concurrency_per_webhook),
                &in_flight.by_webhook(),
                settings.lease,
            )
            .await?;
        let full_batch = claimed.len() == limit;
        for due in claimed {
            let sender = Arc::clone(&self.sender);
            in_flight.start(due.webhook_id, async move { sender.deliver(&due).await });
        }
        let at_share = |n: i64| n >= to_i64(settings.concurrency_per_webhook);
        Ok(if full_batch {
            Look::Now
        } else if in_flight.by_webhook().into_values().any(at_share) {
            Look::WhenFreed
        } else {
            Look::WhenDue
        })
    }
}

async fn wait(
    look: Look,
    in_flight: &mut InFlight,
    events: &mut watch::Receiver<()>,
    stop: &CancellationToken,
) {
    if look == Look::Now {
        return;
    }
    let poll = tokio::time::sleep(POLL.mul_f64(rand::random_range(0.5..1.0)));
    tokio::pin!(poll);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = &mut poll => return,
            // The other end is a part of the dispatcher: it is not gone.
            _ = events.changed() => return,
            () = in_flight.one_ended() => if look == Look::WhenFreed { return },
        }
    }
}

/// Waits longer with each failure in a row; the first one is logged.
async fn pause(error: &(dyn Display + Sync), failures: &mut u32, stop: &CancellationToken) {
    if *failures == 0 {
        tracing::warn!(%error, "cannot look for due deliveries; trying again until Postgres is back");
    }
    let longest = LONGEST_OUTAGE_PAUSE.as_secs_f64();
    let seconds = 2_f64.powf(f64::from(*failures)).min(longest);
    *failures = failures.saturating_add(1);
    let pause = Duration::from_secs_f64(seconds * rand::random_range(0.5..1.0));
    // Either outcome means the same to the caller, who looks at the token.
    let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
