//! What an endpoint gets.

use popbridge::store::{deliveries::DeliveryState, messages::DeleteScope, webhooks::PayloadKind};
use serde_json::json;
use standardwebhooks::Webhook as Verifier;

use super::{Outbox, SECRET, parsed, quick, receiver::Receiver};

#[tokio::test]
async fn webhook_is_signed_json_with_the_event_and_is_logged() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(204).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    let message_id = outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    let deliveries = outbox.ended(&webhook).await;
    let [delivery] = deliveries.as_slice() else {
        panic!("one delivery, not {deliveries:?}")
    };
    assert_eq!(delivery.state, DeliveryState::Delivered);
    assert_eq!(delivery.next_attempt_at, None);
    let [attempt] = delivery.attempts.as_slice() else {
        panic!("one attempt, not {delivery:?}")
    };
    assert_eq!((attempt.attempt, attempt.status), (1, Some(204)));
    assert_eq!(attempt.error, None);

    let received = receiver.received().remove(0);
    let verifier = Verifier::new(SECRET).unwrap();
    verifier.verify(&received.body, &received.headers).unwrap();
    assert_eq!(received.header("webhook-id"), delivery.event_id.to_string());
    assert_eq!(received.header("content-type"), "application/json");
    assert!(received.header("user-agent").starts_with("popbridge/"));
    let event = parsed(&received.body);
    assert_eq!(event["id"], json!(delivery.event_id));
    assert_eq!(event["type"], "message.received");
    assert_eq!(event["mailbox_id"], json!(outbox.lease.mailbox_id));
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        event["data"],
        json!({ "message_id": message_id, "subject": "Hello" })
    );
}

#[tokio::test]
async fn metadata_payload_has_the_message_without_text() {
    let data = data_of(PayloadKind::Metadata, "Good morning").await;

    assert_eq!(data["message"]["subject"], "Hello");
    assert_eq!(data["message"]["id"], data["message_id"]);
    assert_eq!(data["message"].get("text"), None);
    assert_eq!(data.get("truncated"), None);
}

#[tokio::test]
async fn text_payload_has_the_whole_message() {
    let data = data_of(PayloadKind::Text, "Good morning").await;

    assert_eq!(data["message"]["text"]["plain"], "Good morning");
    assert_eq!(data.get("truncated"), None);
}

#[tokio::test]
async fn text_that_is_too_long_is_left_out_and_that_is_said() {
    let data = data_of(PayloadKind::Text, &"x".repeat(256 * 1024)).await;

    assert_eq!(data["message"]["subject"], "Hello");
    assert_eq!(data["message"].get("text"), None);
    assert_eq!(data["truncated"], true);
}

/// `data` of the webhook of a message with this text.
async fn data_of(payload: PayloadKind, text: &str) -> serde_json::Value {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox
        .endpoint_with(&receiver.url, &["message.received"], payload)
        .await;
    outbox.store_batch(vec![outbox.message(text)]).await;
    let _running = outbox.dispatch(quick(1));

    outbox.ended(&webhook).await;
    parsed(&receiver.received()[0].body)["data"].take()
}

#[tokio::test]
async fn message_deleted_meanwhile_leaves_the_event_alone() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let events = &["message.received"];
    let webhook = outbox
        .endpoint_with(&receiver.url, events, PayloadKind::Text)
        .await;
    let id = outbox.store_messages(1).await;
    let mailbox_id = outbox.lease.mailbox_id;
    let deleted = outbox
        .store
        .delete_message(mailbox_id, id, DeleteScope::Local)
        .await;
    deleted.unwrap();
    let _running = outbox.dispatch(quick(1));

    let deliveries = outbox.ended(&webhook).await;
    assert_eq!(deliveries[0].state, DeliveryState::Delivered);
    let event = parsed(&receiver.received()[0].body);
    assert_eq!(
        event["data"],
        json!({ "message_id": id, "subject": "Hello" })
    );
}

#[tokio::test]
async fn connections_are_used_again() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(50).await;
    let _running = outbox.dispatch(quick(1));

    outbox.ended(&webhook).await;
    let mut peers: Vec<_> = receiver.received().iter().map(|r| r.peer).collect();
    assert_eq!(peers.len(), 50);
    peers.sort();
    peers.dedup();
    assert!(peers.len() < 50, "{} connections", peers.len());
}
