use popbridge::pop3::{MessageNumber, Tls};

use super::{open, retrieve_all};
use crate::support::pop3_peer::{Answer, Peer};

fn number(number: u32) -> MessageNumber {
    MessageNumber::new(number).unwrap()
}

#[tokio::test]
async fn each_deletion_has_its_own_reply() {
    for capabilities in [&["PIPELINING"][..], &[]] {
        let peer = Peer::new(Tls::None).capabilities(capabilities);
        let peer = peer
            .sends("DELE 2", "-ERR no such message\r\n")
            .start()
            .await;
        let mut session = open(&peer).await.unwrap();
        let replies = session
            .delete(&[number(1), number(2), number(3)])
            .await
            .unwrap();
        let texts: Vec<_> = replies
            .into_iter()
            .map(|reply| reply.map_err(|r| r.text))
            .collect();
        assert_eq!(texts, [Ok(()), Err("no such message".into()), Ok(())]);
        session.quit().await.unwrap();
        assert_eq!(peer.commands().last().map(String::as_str), Some("QUIT"));
    }
}

#[tokio::test]
async fn a_thousand_deletions_fit() {
    let peer = Peer::new(Tls::None).start().await;
    let mut session = open(&peer).await.unwrap();
    let numbers: Vec<_> = (1..=1000).map(number).collect();
    let replies = session.delete(&numbers).await.unwrap();
    assert!(replies.len() == 1000 && replies.iter().all(Result::is_ok));
}

#[tokio::test]
async fn dropping_a_session_does_not_quit() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let mut session = open(&peer).await.unwrap();
    retrieve_all(&mut session).await.unwrap();
    drop(session);
    // A second session comes after the first one's end on this peer's log.
    let session = open(&peer).await.unwrap();
    assert_eq!(peer.count("QUIT"), 0);
    session.quit().await.unwrap();
    assert_eq!(peer.count("QUIT"), 1);
}

#[tokio::test]
async fn a_refused_or_unanswered_quit_is_an_error() {
    for (answer, expected) in [
        (
            Answer::Close(b"-ERR some deletions failed\r\n".into()),
            "server_temporary",
        ),
        (
            Answer::Close(b"-ERR [SYS/PERM] read-only\r\n".into()),
            "server_permanent",
        ),
        (Answer::Close(vec![]), "connection_closed"),
    ] {
        let peer = Peer::new(Tls::None).answer("QUIT", answer).start().await;
        let error = open(&peer).await.unwrap().quit().await.unwrap_err();
        assert_eq!(error.code(), expected);
    }
}

#[tokio::test]
async fn a_refused_deletion_batch_that_is_cut_is_an_error() {
    let peer = Peer::new(Tls::None)
        .answer("DELE 2", Answer::Close(vec![]))
        .start()
        .await;
    let mut session = open(&peer).await.unwrap();
    let error = session.delete(&[number(1), number(2)]).await.unwrap_err();
    assert_eq!(error.code(), "connection_closed");
    assert_eq!(
        session.quit().await.unwrap_err().code(),
        "session_abandoned"
    );
}
