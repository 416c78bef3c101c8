//! Endpoints that are slow, silent or talk without end.

use std::time::Duration;

use popbridge::{store::deliveries::DeliveryState, webhooks::Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    Outbox, error, minutes, quick,
    receiver::{Receiver, endless, respond_with, stalled},
};
use crate::support::eventually;

#[tokio::test]
async fn success_with_an_endless_body_is_delivered_and_little_of_it_kept() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::start(async |_| respond_with(200, &[], endless())).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Delivered);
    let head = delivery.attempts[0].response_head.as_deref();
    assert_eq!(head, Some("x".repeat(1024).as_str()));
}

#[tokio::test]
async fn answer_that_does_not_end_in_time_is_a_failure() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::start(async |_| respond_with(200, &[], stalled())).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(impatient());

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Dead);
    assert_eq!(delivery.attempts[0].status, Some(200));
    assert_eq!(delivery.attempts[0].response_head.as_deref(), Some("begun"));
    assert_eq!(error(&delivery), "no complete answer within 500ms");
}

#[tokio::test]
async fn endpoint_that_never_answers_is_a_failure() {
    let outbox = Outbox::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let webhook = outbox.endpoint(&url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(impatient());

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.attempts[0].status, None);
    assert_eq!(error(&delivery), "no complete answer within 500ms");
}

#[tokio::test]
async fn endpoint_that_never_shakes_hands_is_a_failure() {
    let outbox = Outbox::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let webhook = outbox.endpoint(&url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(Settings {
        connect_timeout: Duration::from_millis(300),
        ..quick(1)
    });

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(
        error(&delivery),
        "no connection to the endpoint within 300ms"
    );
}

#[tokio::test]
async fn answer_that_breaks_off_is_a_failure() {
    let outbox = Outbox::new().await;
    let answers: [&[u8]; 4] = [
        b"",
        b"hello\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegun",
    ];
    let mut webhooks = vec![];
    for answer in answers {
        webhooks.push(outbox.endpoint(&closing_after(answer).await).await);
    }
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    for webhook in &webhooks {
        let delivery = outbox.ended(webhook).await.remove(0);
        assert_eq!(delivery.state, DeliveryState::Dead);
        let error = error(&delivery);
        assert!(
            error.starts_with("the exchange with the endpoint broke off: "),
            "{error}"
        );
    }
}

/// A server that reads a request, answers it with these octets, and closes.
async fn closing_after(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = vec![];
        while !request.ends_with(b"}") {
            let read = connection.read_buf(&mut request).await.unwrap();
            assert_ne!(read, 0, "the request ends before its body does");
        }
        connection.write_all(answer).await.unwrap();
    });
    url
}

fn impatient() -> Settings {
    Settings {
        attempt_deadline: Duration::from_millis(500),
        ..quick(1)
    }
}

#[tokio::test]
async fn silent_endpoint_delays_no_other() {
    let outbox = Outbox::new().await;
    let silent = Receiver::start(async |_| std::future::pending().await).await;
    let prompt = Receiver::answering(200).await;
    outbox.endpoint(&silent.url).await;
    outbox.store_messages(40).await;
    let _running = outbox.dispatch(Settings {
        concurrency: 8,
        concurrency_per_webhook: 4,
        attempt_deadline: minutes(30),
        lease: minutes(60),
        ..quick(1)
    });
    eventually("attempts at the silent endpoint", async || {
        (silent.received().len() == 4).then_some(())
    })
    .await;

    let webhook = outbox.endpoint(&prompt.url).await;
    outbox.store_messages(40).await;

    let deliveries = outbox.ended(&webhook).await;
    assert!(
        deliveries
            .iter()
            .all(|d| d.state == DeliveryState::Delivered)
    );
    assert_eq!(silent.received().len(), 4, "its share, and no more");
}
