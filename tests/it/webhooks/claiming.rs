//! Dispatchers that share a database, and dispatchers that die.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use popbridge::store::{
    self,
    deliveries::{Attempt, DeliveryState, Verdict},
};
use time::OffsetDateTime;

use super::{Outbox, quick, receiver::Receiver};

#[tokio::test]
async fn two_dispatchers_deliver_each_event_once() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(200).await;
    let _running = (outbox.dispatch(quick(1)), outbox.dispatch(quick(1)));

    let deliveries = outbox.ended(&webhook).await;
    assert_eq!(deliveries.len(), 200);
    for delivery in &deliveries {
        assert_eq!(delivery.state, DeliveryState::Delivered);
        assert_eq!(delivery.attempts.len(), 1);
    }
    let received = receiver.received();
    let ids: HashSet<_> = received.iter().map(|r| r.header("webhook-id")).collect();
    assert_eq!((received.len(), ids.len()), (200, 200));
}

#[tokio::test]
async fn lease_of_a_dispatcher_that_died_is_taken_over() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let soon = Duration::from_millis(1);
    let claimed = outbox
        .store
        .claim_due_deliveries(1, 1, &HashMap::new(), soon)
        .await
        .unwrap();
    let _running = outbox.dispatch(quick(1));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Delivered);
    let late = Attempt {
        attempt: 1,
        started_at: OffsetDateTime::now_utc(),
        elapsed_ms: 1,
        status: Some(500),
        error: None,
        response_head: None,
    };
    let recorded = outbox
        .store
        .record_attempt(&claimed[0], &late, Verdict::Dead)
        .await;
    assert!(matches!(recorded, Err(store::Error::LeaseLost)));
}

#[tokio::test]
async fn claimed_delivery_is_not_claimed_again_while_its_lease_lasts() {
    let outbox = Outbox::new().await;
    outbox.endpoint("http://127.0.0.1:9/").await;
    outbox.store_messages(6).await;
    let minute = Duration::from_secs(60);
    let claim = async |in_flight| {
        let claimed = outbox
            .store
            .claim_due_deliveries(10, 4, &in_flight, minute)
            .await;
        claimed.unwrap()
    };

    let first = claim(HashMap::new()).await;
    assert_eq!(first.len(), 4, "the share of one endpoint");
    let webhook_id = first[0].webhook_id;
    assert_eq!(claim(HashMap::from([(webhook_id, 4)])).await.len(), 0);
    assert_eq!(claim(HashMap::from([(webhook_id, 3)])).await.len(), 1);
    let last = claim(HashMap::new()).await;
    assert_eq!(last.len(), 1);
    assert!(first.iter().all(|due| due.id != last[0].id));
}
