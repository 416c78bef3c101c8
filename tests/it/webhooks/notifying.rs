//! What the ledger of a message says of its webhooks, and what follows for `after_ack`.

use popbridge::store::mailboxes::DeletePolicy;

use super::{Outbox, quick, receiver::Receiver};

/// Whether the next sync deletes the message from the server.
async fn is_to_be_deleted(outbox: &Outbox) -> bool {
    let listed = [b"uid-0".to_vec()];
    let policy = DeletePolicy::AfterAck;
    let known = outbox
        .store
        .compare_listing(&outbox.lease, &listed, policy, None)
        .await
        .unwrap();
    known[&listed[0]].delete
}

#[tokio::test]
async fn message_that_every_endpoint_took_counts_as_acknowledged() {
    let outbox = Outbox::new().await;
    let (one, other) = (
        Receiver::answering(204).await,
        Receiver::answering(200).await,
    );
    let one = outbox.endpoint(&one.url).await;
    let other = outbox.endpoint(&other.url).await;
    let id = outbox.store_messages(1).await;
    assert!(!is_to_be_deleted(&outbox).await, "nobody has it yet");
    let _running = outbox.dispatch(quick(1));
    outbox.ended(&one).await;
    outbox.ended(&other).await;

    let ledger = outbox
        .store
        .ledger(outbox.lease.mailbox_id, id)
        .await
        .unwrap();
    assert!(ledger.notified_at <= ledger.delivered_at);
    assert!(ledger.notified_at.is_some() && ledger.acked_at.is_none());
    assert!(is_to_be_deleted(&outbox).await);
}

#[tokio::test]
async fn message_that_one_endpoint_refused_is_kept_until_somebody_acknowledges_it() {
    let outbox = Outbox::new().await;
    let (one, other) = (
        Receiver::answering(204).await,
        Receiver::answering(400).await,
    );
    let one = outbox.endpoint(&one.url).await;
    let other = outbox.endpoint(&other.url).await;
    let id = outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));
    outbox.ended(&one).await;
    outbox.ended(&other).await;

    let mailbox = outbox.lease.mailbox_id;
    let ledger = outbox.store.ledger(mailbox, id).await.unwrap();
    assert!(ledger.notified_at.is_some() && ledger.delivered_at.is_none());
    assert!(!is_to_be_deleted(&outbox).await);

    outbox.store.ack_message(mailbox, id).await.unwrap();
    assert!(is_to_be_deleted(&outbox).await);
}
