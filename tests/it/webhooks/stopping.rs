//! Stopping a dispatcher.

use std::sync::Arc;

use popbridge::{store::deliveries::DeliveryState, webhooks::Settings};
use tokio::sync::Notify;

use super::{
    Outbox, quick,
    receiver::{Receiver, respond},
};
use crate::support::eventually;

#[tokio::test]
async fn attempt_that_runs_at_a_stop_ends_and_is_recorded() {
    let outbox = Outbox::new().await;
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let receiver = Receiver::start(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            respond(200)
        }
    })
    .await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let running = outbox.dispatch(quick(1));
    eventually("an attempt", async || {
        (!receiver.received().is_empty()).then_some(())
    })
    .await;

    running.stop.cancel();
    outbox.store_messages(1).await;
    go_on.notify_one();
    running.stopped().await;

    let deliveries = outbox.store.deliveries(webhook.id, None, 10).await.unwrap();
    let states: Vec<_> = deliveries.iter().map(|d| d.state).collect();
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Delivered]);
    assert_eq!(receiver.received().len(), 1, "nothing new after the stop");
}

#[tokio::test]
async fn attempt_that_outlasts_a_stop_is_abandoned_to_its_lease() {
    let outbox = Outbox::new().await;
    let silent = Receiver::start(async |_| std::future::pending().await).await;
    let webhook = outbox.endpoint(&silent.url).await;
    outbox.store_messages(1).await;
    let running = outbox.dispatch(Settings {
        attempt_deadline: std::time::Duration::from_millis(100),
        ..quick(2)
    });

    running.stopped().await;

    let delivery = outbox.store.deliveries(webhook.id, None, 1).await.unwrap();
    assert_eq!(delivery[0].state, DeliveryState::Pending);
}
