//! What passes make of servers that do not do as RFC 1939 says.

use popbridge::pop3::Tls;
use serde_json::Value;

use super::Engine;
use crate::support::pop3_peer::{Answer, Peer};

const UNKNOWN: &str = "-ERR unknown command\r\n";

fn scans() -> [&'static str; 3] {
    [
        "Subject: scan\r\n\r\none\r\n",
        "Subject: scan\r\n\r\ntwo\r\n",
        "Message-ID: <3@x>\r\n\r\nthree\r\n",
    ]
}

#[tokio::test]
async fn a_maildrop_without_uidl_is_stored_once() {
    let engine = Engine::start().await;
    let peer = Peer::new(Tls::Implicit)
        .capabilities(&["USER"])
        .messages(scans())
        .sends("UIDL", UNKNOWN)
        .start()
        .await;
    let first = engine.first_pass(&peer, |_| {}).await;
    assert_eq!((first.error(), first.stored), (None, 3));
    let second = engine.next_pass(&first).await;
    assert_eq!((second.error(), second.stored), (None, 3));
    assert_eq!(second.sync.stored, 0);
    assert_eq!(peer.count("UIDL"), 1, "it is not asked again");
}

#[tokio::test]
async fn a_maildrop_without_uidl_that_is_not_all_stored_is_left_without_quit() {
    let engine = Engine::start().await;
    let peer = Peer::new(Tls::Implicit)
        .capabilities(&["USER", "LOGIN-DELAY 60"])
        .messages(scans())
        .sends("UIDL", UNKNOWN)
        .start()
        .await;
    let first = engine
        .first_pass(&peer, |settings| settings.max_messages_per_session = 1)
        .await;
    assert_eq!((first.error(), first.stored), (None, 1));
    assert_eq!(
        peer.count("QUIT"),
        0,
        "all were retrieved, to be told apart"
    );
}

#[tokio::test]
async fn a_login_delay_of_nothing_is_none() {
    let engine = Engine::start().await;
    let peer = Peer::new(Tls::Implicit)
        .capabilities(&["USER", "UIDL", "LOGIN-DELAY 0"])
        .messages(scans())
        .start()
        .await;
    let pass = engine
        .first_pass(&peer, |settings| settings.max_messages_per_session = 1)
        .await;
    assert_eq!((pass.error(), pass.stored), (None, 3));
}

#[tokio::test]
async fn messages_with_the_same_unique_id_are_all_stored() {
    let engine = Engine::start().await;
    let peer = Peer::new(Tls::Implicit)
        .messages(scans())
        .sends("UIDL", "+OK\r\n1 same\r\n2 same\r\n3 same\r\n.\r\n")
        .start()
        .await;
    let first = engine.first_pass(&peer, |_| {}).await;
    assert_eq!((first.error(), first.stored), (None, 3));
    let second = engine.next_pass(&first).await;
    assert_eq!((second.error(), second.stored), (None, 3));
}

#[tokio::test]
async fn a_server_that_loses_its_place_is_read_one_command_at_a_time_from_then_on() {
    for broken in [
        Answer::Send(b"+OK\r\n1 uid-1\r\n2 uid-2\r\n.\r\nwhat?\r\n".into()),
        Answer::Hang(Vec::new()),
        Answer::Close(Vec::new()),
    ] {
        let engine = Engine::start().await;
        let peer = Peer::new(Tls::Implicit)
            .answer_when_ahead("UIDL", broken)
            .start()
            .await;
        let first = engine.first_pass(&peer, |_| {}).await;
        assert!(first.error().is_some());
        let second = engine.next_pass(&first).await;
        assert_eq!((second.error(), second.stored), (None, 2));
        let third = engine.next_pass(&second).await;
        assert_eq!(third.error(), None, "it is remembered");
    }
}

#[tokio::test]
async fn the_transcript_of_a_pass_tells_what_was_said_and_no_secret() {
    let engine = Engine::start().await;
    let peer = Peer::new(Tls::Implicit)
        .capabilities(&["USER", "UIDL"])
        .sends("PASS hunter2", "+OK you said PASS hunter2\r\n")
        .start()
        .await;
    let pass = engine.first_pass(&peer, |_| {}).await;
    let transcript = engine
        .store
        .transcript(pass.mailbox.id, pass.sync.id)
        .await
        .unwrap()
        .unwrap();
    let entries = transcript["entries"].as_array().unwrap();
    let said = |from: &str| -> Vec<&str> {
        let entries = entries.iter().filter(|entry| entry["from"] == from);
        entries.filter_map(|entry| entry["line"].as_str()).collect()
    };
    assert_eq!(
        said("client"),
        [
            "CAPA", "USER ***", "PASS ***", "CAPA", "STAT", "UIDL", "LIST", "RETR 1", "RETR 2",
            "QUIT"
        ]
    );
    assert!(said("server").contains(&"+OK you said PASS ***"));
    assert!(said("note")[1].starts_with("TLSv1.3"), "{entries:?}");
    let octets: Vec<&Value> = entries
        .iter()
        .map(|entry| &entry["octets"])
        .filter(|octets| !octets.is_null())
        .collect();
    assert_eq!(octets.len(), 6, "CAPA twice, UIDL, LIST and two messages");
    assert_eq!(octets[4], 20);
    let text = transcript.to_string();
    assert!(
        !text.contains("hunter2") && !text.contains("body"),
        "{text}"
    );
}
