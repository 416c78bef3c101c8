use popbridge::pop3::{Deadlines, ListingFault, Tls};

use super::{SOON, open, open_within};
use crate::support::pop3_peer::{Answer, Peer};

#[tokio::test]
async fn a_listing_has_numbers_unique_ids_and_octets() {
    for capabilities in [&["PIPELINING", "UIDL"][..], &["UIDL"]] {
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .start()
            .await;
        let listing = open(&peer).await.unwrap().listing().await.unwrap();
        let found: Vec<_> = listing
            .entries
            .iter()
            .map(|entry| {
                (
                    entry.number.to_string(),
                    entry.unique_id.as_bytes(),
                    entry.octets,
                )
            })
            .collect();
        assert_eq!(
            found,
            [("1".into(), &b"uid-1"[..], 20), ("2".into(), b"uid-2", 20)]
        );
        assert!(listing.complete);
    }
}

#[tokio::test]
async fn an_empty_maildrop_is_complete() {
    let empty: [Vec<u8>; 0] = [];
    for refusal in [None, Some("-ERR no messages\r\n")] {
        for capabilities in [&["PIPELINING", "UIDL"][..], &["UIDL"]] {
            let mut peer = Peer::new(Tls::None)
                .capabilities(capabilities)
                .messages(empty.clone());
            if let Some(refusal) = refusal {
                peer = peer.sends("UIDL", refusal).sends("LIST", refusal);
            }
            let peer = peer.start().await;
            let listing = open(&peer).await.unwrap().listing().await.unwrap();
            assert!(
                listing.complete && listing.entries.is_empty(),
                "{refusal:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_status_line_that_looks_like_a_listing_is_not_one() {
    let peer = Peer::new(Tls::None).sends("LIST", "+OK 2 40\r\n1 20\r\n2 20\r\n.\r\n");
    let peer = peer.start().await;
    assert!(open(&peer).await.unwrap().listing().await.unwrap().complete);
}

#[tokio::test]
async fn garbage_in_a_listing_leaves_the_good_lines_and_makes_it_incomplete() {
    let peer = Peer::new(Tls::None).sends("UIDL", b"+OK\r\n1 uid-1\r\n\xff\0\r\n2\r\n.\r\n");
    let peer = peer.start().await;
    let listing = open(&peer).await.unwrap().listing().await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert!(!listing.complete);
    assert_eq!(listing.fault, Some(ListingFault::BadLine));
}

#[tokio::test]
async fn a_listing_that_disagrees_with_stat_is_incomplete() {
    let peer = Peer::new(Tls::None)
        .sends("STAT", "+OK 3 60\r\n")
        .start()
        .await;
    let listing = open(&peer).await.unwrap().listing().await.unwrap();
    assert_eq!((listing.entries.len(), listing.complete), (2, false));
}

#[tokio::test]
async fn a_server_without_uidl_is_told_from_one_with_a_problem() {
    for (capabilities, expected) in [
        (&["USER"][..], "uidl_unsupported"),
        (&["USER", "UIDL"], "server_temporary"),
    ] {
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .sends("UIDL", "-ERR no\r\n");
        let peer = peer.start().await;
        let error = open(&peer).await.unwrap().listing().await.unwrap_err();
        assert_eq!(error.code(), expected);
    }
}

#[tokio::test]
async fn a_listing_that_is_cut_is_an_error() {
    for capabilities in [&["PIPELINING", "UIDL"][..], &["UIDL"]] {
        let cut = Answer::Close(b"+OK\r\n1 uid-1\r\n2 uid".into());
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .answer("UIDL", cut);
        let peer = peer.start().await;
        let mut session = open(&peer).await.unwrap();
        assert_eq!(
            session.listing().await.unwrap_err().code(),
            "connection_closed"
        );
        assert_eq!(
            session.quit().await.unwrap_err().code(),
            "session_abandoned"
        );
        assert_eq!(peer.count("QUIT"), 0);
    }
}

#[tokio::test]
async fn a_listing_that_stalls_is_a_timeout() {
    let stall = Answer::Hang(b"+OK\r\n1 uid-1\r\n".into());
    let peer = Peer::new(Tls::None)
        .capabilities(&["UIDL"])
        .answer("UIDL", stall)
        .start()
        .await;
    let deadlines = Deadlines {
        idle: SOON,
        ..Deadlines::default()
    };
    let mut session = open_within(&peer, deadlines).await.unwrap();
    let error = session.listing().await.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("stopped sending"), "{error}");
}

#[tokio::test]
async fn a_listing_line_without_end_is_a_protocol_error() {
    for (command, octets) in [("UIDL", vec![b'x'; 4096]), ("STAT", vec![b'+'; 4096])] {
        let peer = Peer::new(Tls::None).capabilities(&["UIDL"]);
        let mut start = b"+OK\r\n".to_vec();
        start.extend(&octets);
        let answer = if command == "UIDL" { start } else { octets };
        let peer = peer.answer(command, Answer::Endless(answer)).start().await;
        let error = open(&peer).await.unwrap().listing().await.unwrap_err();
        assert_eq!(error.code(), "protocol_error", "{command}");
    }
}

#[tokio::test]
async fn a_listing_that_never_ends_is_a_protocol_error() {
    let line = [b"1 ", [b'x'; 1000].as_slice(), b"\r\n"].concat();
    let mut answer = b"+OK\r\n".to_vec();
    answer.extend(line.repeat(1000));
    let peer = Peer::new(Tls::None).capabilities(&["UIDL"]);
    let peer = peer.answer("UIDL", Answer::Endless(answer)).start().await;
    let error = open(&peer).await.unwrap().listing().await.unwrap_err();
    assert_eq!(error.code(), "protocol_error");
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[tokio::test]
async fn more_than_was_asked_for_is_a_protocol_error() {
    let peer = Peer::new(Tls::None)
        .capabilities(&["UIDL"])
        .sends("UIDL", "+OK\r\n1 uid-1\r\n.\r\n2 uid-2\r\n.\r\n")
        .start()
        .await;
    let error = open(&peer).await.unwrap().listing().await.unwrap_err();
    assert_eq!(error.code(), "protocol_error");
}
