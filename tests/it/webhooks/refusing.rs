//! Where webhooks do not go.

use std::{io::ErrorKind, net::TcpListener, sync::Arc};

use popbridge::{egress::Egress, store::deliveries::DeliveryState};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::{Outbox, error, quick, receiver::Receiver};

#[tokio::test]
async fn forbidden_addresses_are_refused_and_nothing_connects() {
    let outbox = Outbox::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut webhooks = vec![];
    for host in [
        "127.0.0.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "169.254.169.254",
        "localhost",
    ] {
        let url = format!("http://{host}:{port}/hook");
        webhooks.push(outbox.endpoint(&url).await);
    }
    outbox.store_messages(1).await;
    let _running = outbox.dispatch_within(Egress::default(), quick(1));

    for webhook in &webhooks {
        let delivery = outbox.ended(webhook).await.remove(0);
        assert_eq!(delivery.state, DeliveryState::Dead);
        assert_eq!(delivery.attempts[0].status, None);
        let error = error(&delivery);
        assert!(error.starts_with("refused: "), "{error}");
        assert!(error.contains("POPBRIDGE_EGRESS_ALLOW"), "{error}");
    }
    let accepted = listener.accept();
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn name_whose_addresses_are_all_allowed_is_reached() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let url = format!("http://localhost:{}/hook", receiver.port);
    let webhook = outbox.endpoint(&url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    let delivery = outbox.ended(&webhook).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Delivered, "{delivery:?}");
}

#[tokio::test]
async fn what_went_wrong_before_an_answer_is_told() {
    let outbox = Outbox::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    let plain = Receiver::answering(200).await;
    let cases = [
        (
            format!("http://127.0.0.1:{closed_port}/"),
            "cannot connect to the endpoint: Connection refused",
        ),
        (
            "http://name.invalid/?token=hidden".to_owned(),
            "the endpoint's host name does not resolve: ",
        ),
        (
            format!("https://127.0.0.1:{}/", plain.port),
            "no TLS connection to the endpoint: ",
        ),
        (
            format!("https://127.0.0.1:{}/", self_signed().await),
            "no TLS connection to the endpoint: invalid peer certificate: ",
        ),
        (
            "ftp://127.0.0.1/".to_owned(),
            "the endpoint's URL is not an http or https URL",
        ),
        (
            "nowhere".to_owned(),
            "the endpoint's URL is not an http or https URL",
        ),
    ];
    let mut webhooks = vec![];
    for (url, expected) in &cases {
        webhooks.push((outbox.endpoint(url).await, expected));
    }
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));

    for (webhook, expected) in webhooks {
        let delivery = outbox.ended(&webhook).await.remove(0);
        let error = error(&delivery);
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
}

/// The port of a TLS server whose certificate nobody vouches for. It takes one connection.
async fn self_signed() -> u16 {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        assert!(acceptor.accept(connection).await.is_err());
    });
    port
}
