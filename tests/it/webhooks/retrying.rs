//! What follows from an attempt that failed.

use std::time::Duration;

use popbridge::{
    store::{MasterKey, Store, deliveries::DeliveryState},
    webhooks::Settings,
};

use super::{
    Outbox, error, loopback, quick,
    receiver::{Receiver, respond, respond_with},
    run,
};

#[tokio::test]
async fn third_attempt_succeeds_with_the_same_id_and_body() {
    let outbox = Outbox::new().await;
    let answer = async |n| respond(if n < 3 { 500 } else { 200 });
    let receiver = Receiver::start(answer).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(10));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Delivered);
    let statuses: Vec<_> = delivery.attempts.iter().map(|a| a.status).collect();
    assert_eq!(statuses, [Some(500), Some(500), Some(200)]);
    let failed = &delivery.attempts[0];
    assert_eq!(failed.error.as_deref(), Some("the endpoint answered 500"));
    assert_eq!(failed.response_head.as_deref(), Some("noted"));
    let received = receiver.received();
    assert_eq!(received.len(), 3);
    for again in &received {
        assert_eq!(again.header("webhook-id"), delivery.event_id.to_string());
        assert_eq!(again.body, received[0].body);
    }
}

#[tokio::test]
async fn delivery_is_dead_after_its_last_attempt() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(500).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(3));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Dead);
    assert_eq!(delivery.attempts.len(), 3);
    assert_eq!(delivery.next_attempt_at, None);
    assert!(delivery.finished_at.is_some());
    assert_eq!(receiver.received().len(), 3);
}

#[tokio::test]
async fn retry_after_is_kept() {
    let outbox = Outbox::new().await;
    let hour = &[("retry-after", "3600")];
    let receiver = Receiver::start(async |_| respond_with(503, hour, "busy".into())).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(Settings::default());

    let delivery = outbox.attempted(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Pending);
    let pause = delivery.next_attempt_at.unwrap() - delivery.attempts[0].started_at;
    assert!(pause >= Duration::from_secs(3600), "{pause}");
    assert!(pause < Duration::from_secs(7200), "{pause}");
}

#[tokio::test]
async fn redirect_is_a_failure_and_not_followed() {
    let outbox = Outbox::new().await;
    let target = Receiver::answering(200).await;
    let location = target.url.clone();
    let receiver = Receiver::start(move |_| {
        let location = location.clone();
        async move { respond_with(307, &[("location", &location)], "".into()) }
    })
    .await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Dead);
    assert_eq!(
        error(&delivery),
        "the endpoint answered 307; redirects are not followed"
    );
    assert!(target.received().is_empty());
}

#[tokio::test]
async fn secret_under_another_master_key_is_a_failed_attempt_that_says_so() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let other_key = MasterKey::from_base64(&MasterKey::generate()).unwrap();
    let store = Store::new(&outbox.database.url, other_key).unwrap();
    let _running = run(store, outbox.wakeups.clone(), loopback(), quick(1));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Dead);
    assert!(error(&delivery).contains("does not open with this master key"));
    assert!(receiver.received().is_empty());
}
