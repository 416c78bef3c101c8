use popbridge::pop3::{Deadlines, Entry, ListingFault, Tls, UniqueIds};

use super::{SOON, open, open_within};
use crate::support::pop3_peer::{Answer, Peer, Running};

#[tokio::test]
async fn a_listing_has_numbers_unique_ids_and_octets() {
    for capabilities in [&["PIPELINING", "UIDL"][..], &["UIDL"]] {
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .start()
            .await;
        let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
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
            let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
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
    assert!(
        open(&peer)
            .await
            .unwrap()
            .listing(None)
            .await
            .unwrap()
            .complete
    );
}

#[tokio::test]
async fn garbage_in_a_listing_leaves_the_good_lines_and_makes_it_incomplete() {
    let peer = Peer::new(Tls::None).sends("UIDL", b"+OK\r\n1 uid-1\r\n\xff\0\r\n2\r\n.\r\n");
    let peer = peer.start().await;
    let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
    assert_eq!(
        listing.entries.len(),
        2,
        "one has no unique-id, but is there"
    );
    assert!(!listing.complete);
    assert_eq!(listing.fault, Some(ListingFault::BadLine));
}

#[tokio::test]
async fn a_listing_that_disagrees_with_stat_is_incomplete() {
    let peer = Peer::new(Tls::None)
        .sends("STAT", "+OK 3 60\r\n")
        .start()
        .await;
    let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
    assert_eq!((listing.entries.len(), listing.complete), (2, false));
}

#[tokio::test]
async fn a_refused_uidl_is_a_passing_problem_where_uidl_is_known_to_be_there() {
    for (capabilities, reply, before) in [
        (&["USER", "UIDL"][..], "-ERR no\r\n", None),
        (&["USER"], "-ERR no\r\n", Some(UniqueIds::Uidl)),
        (&["USER"], "-ERR [SYS/TEMP] no\r\n", None),
    ] {
        let peer = Peer::new(Tls::None)
            .capabilities(capabilities)
            .sends("UIDL", reply);
        let peer = peer.start().await;
        let mut session = open(&peer).await.unwrap();
        let error = session.listing(before).await.unwrap_err();
        assert_eq!(error.code(), "server_temporary");
    }
}

/// Unique-ids by message number, as text.
async fn unique_ids(peer: &Running, before: Option<UniqueIds>) -> Vec<(String, String)> {
    let listing = open(peer).await.unwrap().listing(before).await.unwrap();
    let name = |entry: &Entry| {
        let unique_id = String::from_utf8_lossy(entry.unique_id.as_bytes());
        (entry.number.to_string(), unique_id.into_owned())
    };
    listing.entries.iter().map(name).collect()
}

const WITHOUT_UIDL: &str = "-ERR unknown command\r\n";

#[tokio::test]
async fn without_uidl_messages_are_told_apart_by_their_headers_or_octets() {
    let delivered = "Received: by x; id 1\r\nSubject: a\r\n\r\nbody\r\n";
    let scans = [
        "Subject: scan\r\n\r\none\r\n",
        "Subject: scan\r\n\r\ntwo\r\n",
    ];
    for top in [None, Some("-ERR unknown command\r\n")] {
        let mut peer = Peer::new(Tls::None)
            .capabilities(&["USER"])
            .messages([delivered, scans[0], scans[1]])
            .sends("UIDL", WITHOUT_UIDL);
        if let Some(refusal) = top {
            peer = peer.sends("TOP", refusal);
        }
        let peer = peer.start().await;
        let first = unique_ids(&peer, None).await;
        let [one, two, three] = &first[..] else {
            panic!("{first:?}");
        };
        let kind = if top.is_none() { "header" } else { "message" };
        assert!(one.1.starts_with(&format!("popbridge-{kind}-")), "{one:?}");
        assert!(two.1.starts_with("popbridge-message-"), "{two:?}");
        assert_ne!(two.1, three.1);
        assert_eq!(unique_ids(&peer, Some(UniqueIds::Digests)).await, first);
    }
}

#[tokio::test]
async fn a_maildrop_that_began_without_uidl_goes_on_without() {
    let peer = Peer::new(Tls::None).start().await;
    let listing = open(&peer)
        .await
        .unwrap()
        .listing(Some(UniqueIds::Digests))
        .await
        .unwrap();
    assert_eq!(listing.source, UniqueIds::Digests);
    assert!(listing.complete);
    assert_eq!(peer.count("UIDL"), 0);
}

#[tokio::test]
async fn messages_that_share_a_unique_id_are_told_apart_by_their_octets() {
    let peer = Peer::new(Tls::None)
        .messages(["one\r\n", "two\r\n", "one\r\n", "three\r\n"])
        .sends(
            "UIDL",
            "+OK\r\n1 same\r\n2 same\r\n3 same\r\n4 other\r\n.\r\n",
        )
        .start()
        .await;
    let found = unique_ids(&peer, None).await;
    let numbers: Vec<_> = found.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers, ["1", "2", "4"], "the third is the first again");
    assert_eq!(
        (found[0].1.as_str(), found[2].1.as_str()),
        ("same", "other")
    );
    assert!(found[1].1.starts_with("popbridge-copy-"));
    assert_eq!(unique_ids(&peer, None).await, found);

    let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
    assert_eq!(listing.fault, Some(ListingFault::RepeatedUniqueId));
    assert!(
        !listing.complete,
        "nothing may be deleted by such unique-ids"
    );
    assert!(listing.retrieved);
}

#[tokio::test]
async fn empty_and_over_long_unique_ids_lose_no_message() {
    let long = "x".repeat(2000);
    let peer = Peer::new(Tls::None)
        .sends("UIDL", format!("+OK\r\n1 \r\n2 {long}\r\n.\r\n"))
        .start()
        .await;
    let found = unique_ids(&peer, None).await;
    assert!(found[0].1.starts_with("popbridge-message-"), "{found:?}");
    assert!(found[1].1.starts_with("popbridge-long-"), "{found:?}");
    assert_eq!(unique_ids(&peer, None).await, found);
}

#[tokio::test]
async fn a_server_that_repeats_its_unique_ids_too_often_is_not_read_for_ever() {
    let messages: Vec<_> = (0..300).map(|n| format!("{n}\r\n")).collect();
    let mut uidl = String::from("+OK\r\n");
    (1..=300).for_each(|n| uidl.push_str(&format!("{n} {}\r\n", n / 100)));
    let peer = Peer::new(Tls::None)
        .messages(messages)
        .sends("UIDL", uidl + ".\r\n")
        .start()
        .await;
    let listing = open(&peer).await.unwrap().listing(None).await.unwrap();
    assert!(!listing.complete);
    assert!(peer.count("RETR") <= 200);
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
            session.listing(None).await.unwrap_err().code(),
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
    let error = session.listing(None).await.unwrap_err();
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
        let error = open(&peer).await.unwrap().listing(None).await.unwrap_err();
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
    let error = open(&peer).await.unwrap().listing(None).await.unwrap_err();
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
    let error = open(&peer).await.unwrap().listing(None).await.unwrap_err();
    assert_eq!(error.code(), "protocol_error");
}
