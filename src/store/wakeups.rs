//! Wake-ups beside the slow polls: in this process at once, in others by `NOTIFY`.
//!
//! A wake-up carries nothing and may be lost; the tables are the truth. `NOTIFY` serialises the
//! commits of the transactions that use it, so it has statements of its own, a few a second.

use std::{sync::Arc, time::Duration};

use sqlx::{Executor, postgres::PgListener};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Error, Store, connections};

const SYNCS_CHANNEL: &str = "popbridge_syncs";
const EVENTS_CHANNEL: &str = "popbridge_events";

/// Pause after a `NOTIFY`: what comes meanwhile is one more.
const COALESCE: Duration = Duration::from_millis(250);

/// Pause before the next try when Postgres is away.
const RECONNECT: Duration = Duration::from_secs(2);

/// A connection that was silent for so long is asked whether it still is one,
const SILENCE: Duration = Duration::from_secs(30);

/// and has that long to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Wakes those who wait for due syncs or for events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wakeups {
    syncs: Topic,
    events: Topic,
}

#[derive(Clone, Debug, Default)]
struct Topic {
    local: watch::Sender<()>,
    remote: Arc<Notify>,
}

impl Topic {
    fn wake(&self) {
        self.local.send_replace(());
        self.remote.notify_one();
    }
}

impl Wakeups {
    /// A sync became due.
    pub fn wake_syncs(&self) {
        self.syncs.wake();
    }

    /// Events, and with them deliveries, were committed.
    pub fn wake_events(&self) {
        self.events.wake();
    }

    /// Changes whenever a sync becomes due.
    pub fn syncs(&self) -> watch::Receiver<()> {
        self.syncs.local.subscribe()
    }

    /// Changes whenever events were committed.
    pub fn events(&self) -> watch::Receiver<()> {
        self.events.local.subscribe()
    }

    /// Passes wake-ups to and from the other replicas until `stop`.
    pub async fn relay(&self, store: &Store, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let relayed = stop
                .run_until_cancelled(self.relay_while_connected(store))
                .await;
            if let Some(Err(error)) = relayed {
                // A hint lost, no more: whoever polls tells of the outage.
                tracing::debug!(%error, "no wake-ups from other replicas for now");
                stop.run_until_cancelled(tokio::time::sleep(RECONNECT))
                    .await;
            }
        }
    }

    async fn relay_while_connected(&self, store: &Store) -> Result<(), Error> {
        // Not one of the pool's connections: what a dropped listener says to a dead one never ends.
        let pool = connections::listening_pool((*store.pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        timeout(ANSWER, listener.listen_all([SYNCS_CHANNEL, EVENTS_CHANNEL]))
            .await
            .map_err(|_| Error::Silent)??;
        // Whatever was notified while nobody listened.
        self.syncs.local.send_replace(());
        self.events.local.send_replace(());
        tokio::try_join!(
            self.receive(listener),
            send(store, &self.syncs.remote, SYNCS_CHANNEL),
            send(store, &self.events.remote, EVENTS_CHANNEL),
        )?;
        Ok(())
    }

    async fn receive(&self, mut listener: PgListener) -> Result<(), Error> {
        loop {
            let Ok(notification) = timeout(SILENCE, listener.recv()).await else {
                timeout(ANSWER, listener.execute("SELECT 1"))
                    .await
                    .map_err(|_| Error::Silent)??;
                continue;
            };
            let topic = match notification?.channel() {
                SYNCS_CHANNEL => &self.syncs,
                _ => &self.events,
            };
            topic.local.send_replace(());
        }
    }
}

async fn send(store: &Store, pending: &Notify, channel: &str) -> Result<(), Error> {
    loop {
        pending.notified().await;
        sqlx::query!("SELECT pg_notify($1, '')", channel)
            .fetch_one(&store.pool)
            .await?;
        tokio::time::sleep(COALESCE).await;
    }
}
