use popbridge::pop3::{Deadlines, Error, MessageNumber, Retrieved, Session, Tls};

use super::{SOON, open, open_within, retrieve_all};
use crate::support::pop3_peer::{Answer, Peer, Running};

const PIPELINING: &[&str] = &["PIPELINING", "UIDL"];
const ONE_BY_ONE: &[&str] = &["UIDL"];

/// What framing could get wrong.
fn awkward_messages() -> Vec<Vec<u8>> {
    let long_line = [&[b'x'; 300_000][..], b"\r\n"].concat();
    let dots = b"..\r\n.\r\n...x\r\n\r\n.\r\n".repeat(20_000);
    vec![
        b"".to_vec(),
        b"\r\n".to_vec(),
        b".\r\n".to_vec(),
        b".a\r\n..b\r\n\r\n.\r\n".to_vec(),
        b"8-bit \xff, NUL \0, bare LF \n.\n, bare CR \r.\r\n".to_vec(),
        long_line,
        dots,
    ]
}

#[tokio::test]
async fn messages_are_exact_to_the_octet() {
    for tls in [Tls::None, Tls::Implicit] {
        for capabilities in [PIPELINING, ONE_BY_ONE] {
            let peer = Peer::new(tls)
                .capabilities(capabilities)
                .messages(awkward_messages());
            let peer = peer.start().await;
            let mut session = open(&peer).await.unwrap();
            let found = retrieve_all(&mut session).await.unwrap();
            for (found, expected) in found.iter().zip(&awkward_messages()) {
                assert!(
                    found.as_ref().unwrap() == expected,
                    "{} octets",
                    expected.len()
                );
            }
            assert_eq!(found.len(), awkward_messages().len());
            session.quit().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_thousand_messages_come_in_order() {
    let messages: Vec<_> = (0..1000)
        .map(|n| format!("Subject: {n}\r\n\r\n.{n}\r\n"))
        .collect();
    let peer = Peer::new(Tls::Implicit)
        .messages(messages.clone())
        .start()
        .await;
    let found = retrieve_all(&mut open(&peer).await.unwrap()).await.unwrap();
    let expected: Vec<_> = messages
        .into_iter()
        .map(|text| Ok(text.into_bytes()))
        .collect();
    assert!(found == expected);
}

#[tokio::test]
async fn sizes_that_lie_change_nothing() {
    for sizes in [
        "1 0\r\n2 0\r\n",
        "1 18446744073709551615\r\n2 18446744073709551615\r\n",
    ] {
        let peer = Peer::new(Tls::None).sends("LIST", format!("+OK\r\n{sizes}.\r\n"));
        let peer = peer.start().await;
        let found = retrieve_all(&mut open(&peer).await.unwrap()).await.unwrap();
        assert_eq!(found[1].as_deref(), Ok(&b"Subject: 2\r\n\r\nbody\r\n"[..]));
    }
}

#[tokio::test]
async fn a_refused_message_does_not_stop_the_others() {
    for capabilities in [PIPELINING, ONE_BY_ONE] {
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .sends("RETR 1", "-ERR [SYS/TEMP] damaged\r\n")
            .start()
            .await;
        let mut session = open(&peer).await.unwrap();
        let found = retrieve_all(&mut session).await.unwrap();
        assert_eq!(found[0], Err("-ERR [SYS/TEMP] damaged".into()));
        assert!(found[1].is_ok());
        session.quit().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_left_of_a_message_can_be_skipped() {
    let peer = Peer::new(Tls::None)
        .messages(awkward_messages())
        .start()
        .await;
    let mut session = open(&peer).await.unwrap();
    let mut retrieval = session.retrieve(numbers(7));
    let mut count = 0;
    while let Some(next) = retrieval.next().await.unwrap() {
        assert!(matches!(next, Retrieved::Body { .. }));
        count += 1;
    }
    assert_eq!(count, 7);
    session.quit().await.unwrap();
}

#[tokio::test]
async fn only_the_terminator_ends_a_message() {
    for cut in [
        "",
        "+OK\r\n",
        "+OK\r\nbody",
        "+OK\r\nbody\r\n",
        "+OK\r\nbody\r\n.",
        "+OK\r\nbody\r\n.\r",
    ] {
        let answer = Answer::Close(cut.into());
        let peer = Peer::new(Tls::None).answer("RETR 2", answer).start().await;
        let mut session = open(&peer).await.unwrap();
        let error = retrieve_all(&mut session).await.unwrap_err();
        assert_eq!(error.code(), "connection_closed", "{cut:?}");
        assert_never_quits(session, &peer).await;
    }
}

#[tokio::test]
async fn a_session_cut_at_any_octet_passes_off_no_part_as_a_whole() {
    let messages = ["a\r\n.\r\nb\r\n", "", "\r\n.\r\n"];
    for capabilities in [PIPELINING, ONE_BY_ONE] {
        for cut_after in 0.. {
            let peer = Peer::new(Tls::None)
                .capabilities(capabilities)
                .messages(messages);
            let peer = peer.cut_after(cut_after).start().await;
            let mut whole = Vec::new();
            let Err(error) = run(&peer, &mut whole).await else {
                assert_eq!(whole, messages);
                break;
            };
            assert_eq!(error.code(), "connection_closed", "cut after {cut_after}");
            assert_eq!(whole, messages[..whole.len()], "cut after {cut_after}");
        }
    }
}

/// A session from login to QUIT; `whole` are the messages that came to their end.
async fn run(peer: &Running, whole: &mut Vec<String>) -> Result<(), Error> {
    let mut session = open(peer).await?;
    let listing = session.listing(None).await?;
    assert!(listing.complete);
    let mut retrieval = session.retrieve(numbers(3));
    while retrieval.next().await?.is_some() {
        let mut octets = Vec::new();
        while let Some(chunk) = retrieval.chunk().await? {
            octets.extend_from_slice(chunk);
        }
        whole.push(String::from_utf8(octets).unwrap());
    }
    session.quit().await
}

#[tokio::test]
async fn a_message_that_stalls_is_a_timeout() {
    let stall = Answer::Hang(b"+OK\r\nSubject: 2\r\n".into());
    let peer = Peer::new(Tls::None).answer("RETR 2", stall).start().await;
    let deadlines = Deadlines {
        idle: SOON,
        ..Deadlines::default()
    };
    let mut session = open_within(&peer, deadlines).await.unwrap();
    assert_eq!(
        retrieve_all(&mut session).await.unwrap_err().code(),
        "timeout"
    );
    assert_never_quits(session, &peer).await;
}

#[tokio::test]
async fn a_message_without_end_is_not_read_past_for_long() {
    let endless = Answer::Endless(b"+OK\r\nmore and more\r\n".repeat(4096));
    let peer = Peer::new(Tls::None).answer("RETR 2", endless).start().await;
    let mut session = open(&peer).await.unwrap();
    let mut retrieval = session.retrieve(numbers(2));
    let error = loop {
        match retrieval.next().await {
            Ok(next) => assert!(next.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "protocol_error");
}

#[tokio::test]
async fn a_terminator_in_the_middle_of_a_message_is_noticed() {
    // A server that does not byte-stuff: "." ends the message, and the rest makes no sense.
    for (capabilities, unstuffed) in [(PIPELINING, "RETR 1"), (ONE_BY_ONE, "RETR 2")] {
        let peer = Peer::new(Tls::None).capabilities(capabilities);
        let peer = peer
            .sends(unstuffed, "+OK\r\nfirst\r\n.\r\nsecond\r\n.\r\n")
            .start()
            .await;
        let mut session = open(&peer).await.unwrap();
        assert_eq!(
            retrieve_all(&mut session).await.unwrap_err().code(),
            "protocol_error"
        );
        assert_never_quits(session, &peer).await;
    }
}

#[tokio::test]
async fn a_server_with_bare_lf_is_understood() {
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Send(b"+OK\n".into()))
        .capabilities(ONE_BY_ONE)
        .sends("RETR", "+OK\na\n..b\n.\n")
        .start()
        .await;
    let found = retrieve_all(&mut open(&peer).await.unwrap()).await.unwrap();
    assert_eq!(found[0].as_deref(), Ok(&b"a\n.b\n"[..]));
}

#[tokio::test]
async fn commands_are_sent_ahead_only_where_that_is_announced() {
    for (capabilities, expected) in [
        (PIPELINING, &["RETR 1", "RETR 2"][..]),
        (ONE_BY_ONE, &["RETR 1"]),
    ] {
        let hang = Answer::Hang(b"+OK\r\n".into());
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .answer("RETR 1", hang);
        let peer = peer.start().await;
        let deadlines = Deadlines {
            idle: SOON,
            ..Deadlines::default()
        };
        let mut session = open_within(&peer, deadlines).await.unwrap();
        let mut retrieval = session.retrieve(numbers(2));
        retrieval.next().await.unwrap();
        assert_eq!(retrieval.chunk().await.unwrap_err().code(), "timeout");
        let commands = peer.commands();
        let sent: Vec<_> = commands
            .iter()
            .filter(|line| line.starts_with("RETR"))
            .collect();
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn a_retrieval_that_is_not_read_to_its_end_abandons_the_session() {
    let peer = Peer::new(Tls::None).start().await;
    let mut session = open(&peer).await.unwrap();
    session.retrieve(numbers(2)).next().await.unwrap();
    assert_eq!(
        session.listing(None).await.unwrap_err().code(),
        "session_abandoned"
    );
    assert_never_quits(session, &peer).await;
}

fn numbers(count: u32) -> Vec<(MessageNumber, u64)> {
    (1..=count)
        .map(|number| (MessageNumber::new(number).unwrap(), 20))
        .collect()
}

async fn assert_never_quits(session: Session, peer: &Running) {
    assert_eq!(
        session.quit().await.unwrap_err().code(),
        "session_abandoned"
    );
    assert_eq!(peer.count("QUIT"), 0);
}
