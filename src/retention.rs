//! Keeps what is stored within what each mailbox keeps.
//!
//! Whoever has a free moment takes the mailbox that waits longest, and removes a batch of what is too
//! much in it; what is left of it waits behind the other mailboxes.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, retention::Removed, wakeups::Wakeups};

/// Longest pause between two looks for mailboxes that have too much.
const POLL: Duration = Duration::from_secs(2);

/// How long one batch may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(45);

/// Works until `stop`.
pub async fn run(store: &Store, wakeups: &Wakeups, stop: &CancellationToken) {
    let sweep = async {
        loop {
            // Who starts passes tells of an outage of Postgres.
            while let Ok(Ok(Some(removed))) = timeout(PATIENCE, store.sweep_retention()).await {
                if removed.messages > 0 {
                    tell(removed);
                    wakeups.wake_events();
                }
            }
            tokio::time::sleep(POLL.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    };
    // It ends with `stop` alone.
    let _: Option<()> = stop.run_until_cancelled(sweep).await;
}

fn tell(removed: Removed) {
    let Removed {
        mailbox_id,
        messages,
        octets,
    } = removed;
    tracing::info!(%mailbox_id, messages, octets, "removed mail that is more than the mailbox keeps");
    metrics::counter!("popbridge_retention_messages_total").increment(messages.unsigned_abs());
}
