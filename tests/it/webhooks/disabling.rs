//! Endpoints that want no more.

use popbridge::store::{
    deliveries::DeliveryState,
    webhooks::{PayloadKind, WebhookState},
};
use serde_json::{Value, json};

use super::{Outbox, parsed, quick, receiver::Receiver};

#[tokio::test]
async fn endpoint_that_answers_410_is_disabled_and_the_log_tells() {
    let outbox = Outbox::new().await;
    let gone = Receiver::answering(410).await;
    let watcher = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&gone.url).await;
    let watching = outbox
        .endpoint_with(&watcher.url, &["webhook.disabled"], PayloadKind::Text)
        .await;
    outbox.store_messages(20).await;
    let _running = outbox.dispatch(quick(10));

    outbox.ended(&watching).await;
    let event = parsed(&watcher.received()[0].body);
    assert_eq!(event["type"], "webhook.disabled");
    assert_eq!(event["mailbox_id"], Value::Null);
    assert_eq!(event["data"]["webhook_id"], json!(webhook.id));
    let settings = outbox.store.webhook(webhook.id).await.unwrap().settings;
    assert_eq!(settings.state, WebhookState::Disabled);
    let deliveries = outbox.ended(&webhook).await;
    assert!(deliveries.iter().all(|d| d.state == DeliveryState::Dead));
    assert_eq!(watcher.received().len(), 1, "told once");
}

#[tokio::test]
async fn attempts_that_answer_410_at_once_are_each_recorded() {
    let outbox = Outbox::new().await;
    let together = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let gone = Receiver::start(move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            super::receiver::respond(410)
        }
    })
    .await;
    let webhook = outbox.endpoint(&gone.url).await;
    outbox.store_messages(4).await;
    let _running = outbox.dispatch(quick(10));

    for delivery in outbox.attempted(&webhook).await {
        assert_eq!(delivery.state, DeliveryState::Dead);
        assert_eq!(delivery.attempts[0].status, Some(410));
    }
}
