use std::time::Duration;

use popbridge::{
    egress::Egress,
    pop3::{Connector, Deadlines, Server, Tls, Transcript},
};

use super::{SOON, open, open_within, refusal};
use crate::support::pop3_peer::{Answer, Peer, connector, credentials};

fn server(host: &str, port: u16) -> Server {
    Server {
        host: host.into(),
        port,
        tls: Tls::None,
        ca_pem: None,
        pin: None,
        pipelining: true,
    }
}

async fn code(server: &Server) -> (&'static str, String) {
    let error = connector(Deadlines::default())
        .open(server, &credentials(), &Transcript::default())
        .await
        .unwrap_err();
    (error.code(), error.to_string())
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_dns_failed() {
    assert_eq!(
        code(&server("no-such-host.invalid", 110)).await.0,
        "dns_failed"
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_connect_failed() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (code, detail) = code(&server("127.0.0.1", unused)).await;
    assert_eq!(code, "connect_failed");
    assert!(detail.contains(&unused.to_string()), "{detail}");
}

#[tokio::test]
async fn loopback_is_refused_unless_it_is_allowed() {
    let peer = Peer::new(Tls::None).start().await;
    let connector = Connector::new(Egress::default(), Deadlines::default()).unwrap();
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let server = Server {
            host: host.into(),
            ..peer.server.clone()
        };
        let error = connector
            .open(&server, &credentials(), &Transcript::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), "egress_refused", "{host}");
        assert!(
            error.to_string().contains("POPBRIDGE_EGRESS_ALLOW"),
            "{error}"
        );
    }
    assert!(peer.commands().is_empty());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_timeout() {
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Hang(vec![]))
        .start()
        .await;
    let deadlines = Deadlines {
        reply: SOON,
        ..Deadlines::default()
    };
    let error = open_within(&peer, deadlines).await.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("greeting"), "{error}");
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Hang(vec![]))
        .start()
        .await;
    let error = open_within(
        &peer,
        Deadlines {
            session: SOON,
            ..Deadlines::default()
        },
    )
    .await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("session"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_connection_closed() {
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Close(vec![]))
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "connection_closed");
}

#[tokio::test]
async fn greetings_of_other_protocols_are_named() {
    for greeting in [
        "220 mail ESMTP\r\n",
        "* OK IMAP4rev1\r\n",
        "SSH-2.0-x\r\n",
        "+OKAY\r\n",
    ] {
        let greeting = Answer::Hang(greeting.into());
        let peer = Peer::new(Tls::None).greeting(greeting).start().await;
        let (code, detail) = refusal(&peer).await;
        assert_eq!(code, "wrong_protocol");
        assert!(detail.contains("port"), "{detail}");
    }
}

#[tokio::test]
async fn a_greeting_may_refuse() {
    for (greeting, expected) in [
        ("-ERR go away\r\n", "greeting_refused"),
        ("-ERR [SYS/TEMP] later\r\n", "server_temporary"),
        ("-ERR [IN-USE] busy\r\n", "in_use"),
    ] {
        let peer = Peer::new(Tls::None)
            .greeting(Answer::Close(greeting.into()))
            .start()
            .await;
        assert_eq!(refusal(&peer).await.0, expected);
    }
}

#[tokio::test]
async fn a_greeting_without_end_is_a_protocol_error() {
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Endless(vec![b'x'; 4096]))
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "protocol_error");
}

#[tokio::test]
async fn a_server_without_capa_still_works() {
    let peer = Peer::new(Tls::None)
        .sends("CAPA", "-ERR what?\r\n")
        .start()
        .await;
    let session = open(&peer).await.unwrap();
    assert!(session.capabilities().lines.is_empty());
    assert_eq!(
        peer.commands(),
        ["CAPA", "USER user", "PASS hunter2", "CAPA"]
    );
}

#[tokio::test]
async fn a_server_that_chokes_on_capa_is_asked_once_more_without() {
    for answer in [
        Answer::Close(vec![]),
        Answer::Hang(vec![]),
        Answer::Send(b"what\r\n".into()),
    ] {
        let peer = Peer::new(Tls::None).answer("CAPA", answer).start().await;
        let deadlines = Deadlines {
            capabilities: SOON,
            ..Deadlines::default()
        };
        open_within(&peer, deadlines).await.unwrap();
        assert_eq!(peer.commands(), ["CAPA", "USER user", "PASS hunter2"]);
    }
}

#[tokio::test]
async fn capabilities_are_those_after_login() {
    let peer = Peer::new(Tls::None)
        .capabilities(&[
            "EXPIRE 30 USER",
            "UTF8 USER",
            "LOGIN-DELAY 10",
            "SASL",
            "USER",
        ])
        .start()
        .await;
    let session = open(&peer).await.unwrap();
    assert_eq!(
        session.capabilities().login_delay,
        Some(Duration::from_secs(10))
    );
    assert_eq!(peer.count("CAPA"), 2);
}
