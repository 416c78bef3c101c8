//! The dispatcher against a real Postgres and real HTTP servers.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use popbridge::{
    egress::Egress,
    store::{
        Store,
        deliveries::{Delivery, DeliveryState},
        events::{Facts, NewEvent},
        ingest::{Arrival, NewMessage},
        leases::Lease,
        mailboxes::{Auth, DeletePolicy, InitialSync, Settings as MailboxSettings, Tls},
        rematch::CurrentListing,
        wakeups::Wakeups,
        webhooks::{Filter, PayloadKind, Webhook, WebhookSettings, WebhookState},
    },
    webhooks::{Dispatcher, Settings},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{database::Database, eventually};

mod bounding;
mod claiming;
mod disabling;
mod measuring;
mod notifying;
mod outage;
mod receiver;
mod refusing;
mod retrying;
mod sending;
mod stopping;
mod verifying;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A store with a mailbox, whose messages become deliveries.
struct Outbox {
    store: Store,
    wakeups: Wakeups,
    lease: Lease,
    stored: AtomicU32,
    database: Database,
}

impl Outbox {
    async fn new() -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        store
            .create_mailbox(&mailbox(), &"secret".into())
            .await
            .unwrap();
        let claims = store
            .claim_due_mailboxes(1, minutes(60), &crate::support::any_host())
            .await
            .unwrap();
        Self {
            store,
            wakeups: Wakeups::default(),
            lease: claims[0].lease,
            stored: AtomicU32::new(0),
            database,
        }
    }

    /// An endpoint that hears of new messages.
    async fn endpoint(&self, url: &str) -> Webhook {
        self.endpoint_with(url, &["message.received"], PayloadKind::Thin)
            .await
    }

    async fn endpoint_with(&self, url: &str, events: &[&str], payload: PayloadKind) -> Webhook {
        let settings = WebhookSettings {
            url: url.to_owned(),
            events: events.iter().map(ToString::to_string).collect(),
            mailbox_ids: vec![],
            filter: Filter::default(),
            payload,
            description: None,
            state: WebhookState::Enabled,
        };
        let created = self.store.create_webhook(&settings, &SECRET.into()).await;
        created.unwrap()
    }

    /// Stores messages as a sync does; returns the id of the last.
    async fn store_messages(&self, count: u32) -> Uuid {
        let batch: Vec<_> = (0..count).map(|_| self.message("Hello")).collect();
        let last = batch.last().unwrap().id;
        self.store_batch(batch).await;
        last
    }

    async fn store_batch(&self, batch: Vec<NewMessage>) {
        let listing = CurrentListing::default();
        let stored = self.store.store_messages(&self.lease, batch, &listing);
        stored.await.unwrap();
        self.wakeups.wake_events();
    }

    fn message(&self, text: &str) -> NewMessage {
        let id = Uuid::now_v7();
        let n = self.stored.fetch_add(1, Ordering::Relaxed);
        NewMessage {
            id,
            unique_id: format!("uid-{n}").into_bytes(),
            octets: b"Subject: Hello\r\n\r\n".to_vec(),
            size: 18,
            listed_octets: 18,
            sha256: Sha256::digest(id).into(),
            arrival: Arrival::default(),
            backlog: false,
            state: popbridge::store::messages::MessageState::Stored,
            summary: json!({ "subject": "Hello", "preview": "Hello" }),
            body: json!({ "headers": [], "text": { "plain": text } }).to_string(),
            parts: json!([]),
            event: NewEvent {
                id: Uuid::now_v7(),
                mailbox_id: self.lease.mailbox_id,
                kind: "message.received",
                message_id: Some(id),
                data: json!({ "message_id": id, "subject": "Hello" }),
                notify: true,
                facts: Facts::default(),
            },
        }
    }

    /// Starts a dispatcher that may reach receivers on loopback.
    fn dispatch(&self, settings: Settings) -> Running {
        self.dispatch_within(loopback(), settings)
    }

    fn dispatch_within(&self, egress: Egress, settings: Settings) -> Running {
        run(self.store.clone(), self.wakeups.clone(), egress, settings)
    }

    /// Waits until every delivery to an endpoint has ended.
    async fn ended(&self, webhook: &Webhook) -> Vec<Delivery> {
        self.deliveries_that(webhook, |d| d.state != DeliveryState::Pending)
            .await
    }

    /// Waits until every delivery to an endpoint had an attempt.
    async fn attempted(&self, webhook: &Webhook) -> Vec<Delivery> {
        self.deliveries_that(webhook, |d| !d.attempts.is_empty())
            .await
    }

    async fn deliveries_that(
        &self,
        webhook: &Webhook,
        done: impl Fn(&Delivery) -> bool,
    ) -> Vec<Delivery> {
        eventually("deliveries", async || {
            let deliveries = self.store.deliveries(webhook.id, None, 500).await.unwrap();
            (!deliveries.is_empty() && deliveries.iter().all(&done)).then_some(deliveries)
        })
        .await
    }
}

/// A dispatcher that runs until it is dropped.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stopped(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run(store: Store, wakeups: Wakeups, egress: Egress, settings: Settings) -> Running {
    let dispatcher = Dispatcher::with_settings(store, wakeups, egress, settings).unwrap();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { dispatcher.run(token).await });
    Running { stop, task }
}

/// What the documentation promises, but retries come at once, and only so many.
fn quick(attempts: usize) -> Settings {
    Settings {
        retry_pauses: vec![Duration::from_millis(1); attempts - 1],
        ..Settings::default()
    }
}

fn loopback() -> Egress {
    Egress::new(vec![
        "127.0.0.0/8".parse().unwrap(),
        "::1/128".parse().unwrap(),
    ])
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// The error of the last attempt.
fn error(delivery: &Delivery) -> &str {
    delivery.attempts.last().unwrap().error.as_deref().unwrap()
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn mailbox() -> MailboxSettings {
    MailboxSettings {
        name: "inbox".into(),
        external_id: None,
        host: "pop.example.org".into(),
        port: 995,
        tls: Tls::Implicit,
        tls_ca_pem: None,
        tls_pin_sha256: None,
        username: "anna".into(),
        auth: Auth::Auto,
        poll_interval_seconds: 60,
        delete_policy: DeletePolicy::Never,
        delete_after_days: None,
        initial_sync: InitialSync::All,
        notify_backlog: false,
        max_message_bytes: 1 << 20,
        max_messages_per_session: 500,
        max_bytes_per_session: 1 << 30,
        retention: None,
        paused: false,
    }
}
