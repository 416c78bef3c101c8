//! The chaos server itself: correct without faults, and with each fault as wrong as it says.

use popbridge::{
    chaos::{CommandPattern, Faults, Pipelining, ScriptedReply, Terminator, Tls, UniqueIds},
    pop3::{self, Deadlines, Retrieved, Transcript},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{LOGIN, address, chaos, credentials, serve, talk};
use crate::support::{eventually, pop3_peer::connector};

/// What comes after the greeting and the replies to the login.
fn after_login(answers: &str) -> &str {
    let lines = answers.match_indices("\r\n").nth(2);
    lines.map_or("", |(at, _)| &answers[at + 2..])
}

fn on(commands: &[&str]) -> Vec<CommandPattern> {
    commands.iter().map(|&command| command.into()).collect()
}

#[tokio::test]
async fn whole_messages_come_over_every_kind_of_line() {
    for tls in [Tls::None, Tls::Starttls, Tls::Implicit] {
        let server = serve(tls, Faults::default()).await;
        let connector = connector(Deadlines::default());
        let mut session = connector
            .open(
                &address(&server, tls),
                &credentials(),
                &Transcript::default(),
            )
            .await
            .unwrap();
        let listing = session.listing(None).await.unwrap();
        assert!(listing.complete, "{:?}", listing.fault);
        let entries = listing
            .entries
            .iter()
            .map(|entry| (entry.number, entry.octets));
        let mut retrieval = session.retrieve(entries.collect::<Vec<_>>());
        let mut found = Vec::new();
        while let Some(next) = retrieval.next().await.unwrap() {
            assert!(matches!(next, Retrieved::Body { .. }));
            let mut octets = Vec::new();
            while let Some(chunk) = retrieval.chunk().await.unwrap() {
                octets.extend_from_slice(chunk);
            }
            found.push(octets);
        }
        assert_eq!(found, server.maildrop().octets().await.unwrap());
        session.quit().await.unwrap();
    }
}

#[tokio::test]
async fn commands_do_what_rfc_1939_says() {
    let server = chaos(Faults::default()).await;
    server.maildrop().deliver("A: b\r\n\r\n.\r\nlast");
    let talked = talk(
        &server,
        &format!(
            "STAT\r\n{LOGIN}STAT\r\nLIST 4\r\nUIDL 4\r\nUIDL 5\r\nRETR 4\r\nTOP 4 1\r\nDELE 1\r\n\
            RETR 1\r\nLIST\r\nRSET\r\nSTAT\r\nNOOP\r\nXYZZY\r\nQUIT\r\n"
        ),
    )
    .await;
    let (greeting, answers) = talked.split_once("\r\n").unwrap();
    assert!(greeting.starts_with("+OK chaos <"), "{greeting}");
    assert_eq!(
        answers,
        "-ERR log in first\r\n\
        +OK now the password\r\n\
        +OK 4 messages\r\n\
        +OK 4 1217\r\n\
        +OK 4 17\r\n\
        +OK 4 given-4\r\n\
        -ERR no such message\r\n\
        +OK 17 octets\r\nA: b\r\n\r\n..\r\nlast\r\n.\r\n\
        +OK top of the message\r\nA: b\r\n\r\n..\r\n.\r\n\
        +OK deleted\r\n\
        -ERR no such message\r\n\
        +OK messages follow\r\n2 400\r\n3 400\r\n4 17\r\n.\r\n\
        +OK nothing is deleted\r\n\
        +OK 4 1217\r\n\
        +OK here\r\n\
        -ERR no such command\r\n\
        +OK bye\r\n"
    );
}

#[tokio::test]
async fn deletions_take_effect_at_quit_and_are_recorded() {
    let server = chaos(Faults::default()).await;
    talk(&server, &format!("{LOGIN}DELE 1\r\nDELE 2\r\n")).await;
    assert_eq!(server.maildrop().unique_ids().len(), 3);
    assert_eq!(server.maildrop().removals(), []);

    talk(&server, &format!("{LOGIN}DELE 2\r\nQUIT\r\n")).await;
    assert_eq!(server.maildrop().unique_ids(), ["chaos-1", "chaos-3"]);
    let removals = server.maildrop().removals();
    assert_eq!(removals.len(), 1);
    assert_eq!(
        (removals[0].unique_id.as_str(), removals[0].connection),
        ("chaos-2", 2)
    );
}

#[tokio::test]
async fn maildrop_is_for_one_session_at_a_time() {
    let server = chaos(Faults::default()).await;
    let mut first = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
    first.write_all(LOGIN.as_bytes()).await.unwrap();
    let mut replies = String::new();
    for _ in 0..3 {
        first.read_line(&mut replies).await.unwrap();
    }
    assert!(replies.ends_with("+OK 3 messages\r\n"), "{replies}");

    let answers = talk(&server, LOGIN).await;
    assert!(answers.contains("-ERR [IN-USE] "), "{answers}");
    drop(first);
    eventually("the lock is given back", async || {
        let answers = talk(&server, LOGIN).await;
        answers.contains("+OK 3 messages").then_some(())
    })
    .await;
}

#[tokio::test]
async fn lock_may_outlive_a_session_that_does_not_quit() {
    let server = chaos(Faults {
        lock_lingers: Some(3600),
        ..Faults::default()
    })
    .await;
    talk(&server, &format!("{LOGIN}QUIT\r\n")).await;
    assert!(talk(&server, LOGIN).await.contains("+OK 3 messages"));
    assert!(talk(&server, LOGIN).await.contains("-ERR [IN-USE] "));
}

#[tokio::test]
async fn every_mechanism_takes_the_right_password_only() {
    let server = chaos(Faults::default()).await;
    for (login, welcome) in [
        (LOGIN, true),
        ("USER demo\r\nPASS Demo\r\n", false),
        ("USER other\r\nPASS demo\r\n", false),
        ("PASS demo\r\n", false),
        // base64 of NUL demo NUL demo.
        ("AUTH PLAIN AGRlbW8AZGVtbw==\r\n", true),
        ("AUTH PLAIN\r\nAGRlbW8AZGVtbw==\r\n", true),
        ("AUTH PLAIN AGRlbW8AZGVtbwA=\r\n", false),
        ("AUTH PLAIN x\r\n", false),
        ("AUTH CRAM-MD5\r\n", false),
        ("APOP demo c4c9334bac560ecc979e58001b3e22fb\r\n", false),
    ] {
        let answers = talk(&server, &format!("{login}QUIT\r\n")).await;
        assert_eq!(answers.contains("+OK 3 messages"), welcome, "{login:?}");
    }
    let commands = server.commands().join("\n");
    assert!(commands.contains("PASS ***\n"), "{commands}");
    for secret in [
        "PASS demo",
        "AGRlbW8AZGVtbw",
        "c4c9334bac560ecc979e58001b3e22fb",
    ] {
        assert!(!commands.contains(secret), "{commands}");
    }
}

#[tokio::test]
async fn apop_works() {
    let server = chaos(Faults::default()).await;
    let credentials =
        pop3::Credentials::with_password("demo", "demo".into(), pop3::PasswordMechanism::Apop);
    let address = address(&server, Tls::None);
    let connector = connector(Deadlines::default());
    let session = connector
        .open(&address, &credentials, &Transcript::default())
        .await
        .unwrap();
    session.quit().await.unwrap();
    assert!(server.commands().contains(&"APOP demo ***".to_owned()));
}

#[tokio::test]
async fn guessing_ends_after_three_tries() {
    let server = chaos(Faults::default()).await;
    let answers = talk(&server, &"USER demo\r\nPASS no\r\n".repeat(10)).await;
    assert_eq!(answers.matches("-ERR [AUTH]").count(), 3);
}

#[tokio::test]
async fn line_can_be_cut_at_every_octet_of_either_direction() {
    let script = format!("{LOGIN}RETR 1\r\nDELE 1\r\nQUIT\r\n");
    let whole = {
        let server = chaos(Faults::default()).await;
        talk(&server, &script).await
    };
    for octets in (0..=whole.len()).step_by(7) {
        let server = chaos(Faults {
            drop_at: Some(octets as u64),
            ..Faults::default()
        })
        .await;
        // The greeting's timestamp has the connection's number, which is the same here.
        assert_eq!(talk(&server, &script).await, whole[..octets]);
    }
    for octets in 0..=script.len() {
        let server = chaos(Faults {
            drop_in: Some(octets as u64),
            ..Faults::default()
        })
        .await;
        let answers = talk(&server, &script).await;
        assert!(whole.starts_with(&answers), "{octets}: {answers}");
        let commands = script[..octets].matches("\r\n").count();
        assert_eq!(server.commands().len(), commands, "cut after {octets}");
        let left = if octets == script.len() { 2 } else { 3 };
        assert_eq!(server.maildrop().unique_ids().len(), left);
    }
}

#[tokio::test]
async fn faults_end_with_the_sessions_they_are_for() {
    let server = chaos(Faults {
        fault_sessions: Some(2),
        drop_on: on(&["GREETING"]),
        ..Faults::default()
    })
    .await;
    for connection in 1..=4 {
        let answers = talk(&server, "QUIT\r\n").await;
        assert_eq!(answers.is_empty(), connection <= 2, "{connection}");
    }
    server.set_faults(Faults {
        drop_on: on(&["QUIT"]),
        ..Faults::default()
    });
    assert!(!talk(&server, "QUIT\r\n").await.contains("bye"));
    assert_eq!(server.connections(), 5);
}

#[tokio::test]
async fn commands_can_be_met_with_silence_or_the_end() {
    for (faults, answered, left) in [
        (
            Faults {
                drop_on: on(&["QUIT"]),
                ..Faults::default()
            },
            "+OK deleted\r\n",
            3,
        ),
        (
            Faults {
                drop_after: on(&["QUIT"]),
                ..Faults::default()
            },
            "+OK deleted\r\n",
            2,
        ),
        (
            Faults {
                stall_on: on(&["DELE 1"]),
                ..Faults::default()
            },
            "",
            3,
        ),
        (
            Faults {
                stall_at: Some(20),
                ..Faults::default()
            },
            "",
            3,
        ),
        (
            Faults {
                forget_deletions: true,
                ..Faults::default()
            },
            "+OK deleted\r\n+OK bye\r\n",
            3,
        ),
        (
            Faults {
                reply: vec![ScriptedReply::new("QUIT", "-ERR not deleted")],
                ..Faults::default()
            },
            "+OK deleted\r\n-ERR not deleted\r\n",
            3,
        ),
        (
            Faults {
                reply: vec![ScriptedReply::new("QUIT", "+OK")],
                ..Faults::default()
            },
            "+OK deleted\r\n+OK\r\n",
            2,
        ),
    ] {
        let server = chaos(faults.clone()).await;
        let answers = talk(&server, &format!("{LOGIN}DELE 1\r\nQUIT\r\n")).await;
        if faults.stall_at.is_some() {
            assert_eq!(answers.len(), 20);
        } else {
            assert_eq!(after_login(&answers), answered, "{faults:?}");
        }
        assert_eq!(server.maildrop().unique_ids().len(), left, "{faults:?}");
    }
}

#[tokio::test]
async fn retrieval_can_be_taken_as_popped() {
    let server = chaos(Faults {
        popped: true,
        ..Faults::default()
    })
    .await;
    talk(&server, &format!("{LOGIN}RETR 1\r\n")).await;
    assert_eq!(server.maildrop().unique_ids().len(), 3);
    talk(&server, &format!("{LOGIN}RETR 1\r\nTOP 2 0\r\nQUIT\r\n")).await;
    assert_eq!(server.maildrop().unique_ids(), ["chaos-2", "chaos-3"]);
}

#[tokio::test]
async fn listings_can_lie() {
    for (faults, command, answer) in [
        (
            Faults {
                size_delta: -500,
                count_delta: 2,
                ..Faults::default()
            },
            "STAT",
            "+OK 5 -300\r\n",
        ),
        (
            Faults {
                size_delta: 1,
                ..Faults::default()
            },
            "LIST 1",
            "+OK 1 401\r\n",
        ),
        (
            Faults {
                list_at_most: Some(1),
                ..Faults::default()
            },
            "UIDL",
            "+OK messages follow\r\n1 chaos-1\r\n.\r\n",
        ),
        (
            Faults {
                unique_ids: Some(UniqueIds::Repeated),
                ..Faults::default()
            },
            "UIDL",
            "+OK messages follow\r\n1 chaos-1\r\n2 chaos-1\r\n3 chaos-3\r\n.\r\n",
        ),
        (
            Faults {
                unique_ids: Some(UniqueIds::Empty),
                ..Faults::default()
            },
            "UIDL 2",
            "+OK 2 \r\n",
        ),
        (
            Faults {
                unique_ids: Some(UniqueIds::Renumbered),
                ..Faults::default()
            },
            "UIDL 2",
            "+OK 2 session-1-2\r\n",
        ),
        (
            Faults {
                unique_ids: Some(UniqueIds::EightBit),
                list_at_most: Some(1),
                ..Faults::default()
            },
            "UIDL",
            "+OK messages follow\r\n1 \u{fffd}\u{fffd} \u{fffd}chaos-1\r\n.\r\n",
        ),
    ] {
        let server = chaos(faults.clone()).await;
        let answers = talk(&server, &format!("{LOGIN}{command}\r\n")).await;
        assert_eq!(after_login(&answers), answer, "{faults:?}");
    }
    let server = chaos(Faults {
        unique_ids: Some(UniqueIds::Long),
        ..Faults::default()
    })
    .await;
    let answers = talk(&server, &format!("{LOGIN}UIDL\r\n")).await;
    assert!(after_login(&answers).len() > 6000);
}

#[tokio::test]
async fn messages_can_end_wrongly() {
    let fault = |terminator| Faults {
        terminator: Some(terminator),
        ..Faults::default()
    };
    for (faults, answer) in [
        (
            fault(Terminator::Missing),
            "+OK 9 octets\r\na\r\n..\r\nb\r\n",
        ),
        (
            fault(Terminator::Repeated),
            "+OK 9 octets\r\na\r\n..\r\nb\r\n.\r\n.\r\n",
        ),
        (
            fault(Terminator::Glued),
            "+OK 9 octets\r\na\r\n..\r\nb.\r\n",
        ),
        (
            Faults {
                unstuffed: true,
                ..Faults::default()
            },
            "+OK 9 octets\r\na\r\n.\r\nb\r\n.\r\n",
        ),
    ] {
        let server = chaos(faults.clone()).await;
        server.maildrop().deliver("a\r\n.\r\nb\r\n");
        let answers = talk(&server, &format!("{LOGIN}RETR 4\r\n")).await;
        assert_eq!(after_login(&answers), answer, "{faults:?}");
    }
    let server = chaos(Faults {
        bare_lf: true,
        ..Faults::default()
    })
    .await;
    let answers = talk(&server, &format!("{LOGIN}RETR 1\r\n")).await;
    assert!(!answers.contains('\r') && answers.ends_with("\n.\n"));
}

#[tokio::test]
async fn what_is_hidden_works_and_what_is_missing_does_not() {
    let server = chaos(Faults {
        hide: vec!["pipelining".into()],
        without: on(&["TOP"]),
        announce: vec!["LOGIN-DELAY 300".into()],
        ..Faults::default()
    })
    .await;
    let answers = talk(&server, &format!("{LOGIN}CAPA\r\nTOP 1 0\r\nQUIT\r\n")).await;
    assert_eq!(
        after_login(&answers),
        "+OK capabilities\r\nUIDL\r\nUSER\r\nSASL PLAIN\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n\
        IMPLEMENTATION popbridge-chaos-server\r\nLOGIN-DELAY 300\r\n.\r\n\
        -ERR no such command\r\n\
        +OK bye\r\n"
    );
}

#[tokio::test]
async fn commands_that_come_ahead_can_be_lost_or_turned_round() {
    for (pipelining, answers) in [
        (Pipelining::Lossy, "+OK 1 400\r\n"),
        (
            Pipelining::Reversed,
            "+OK 3 400\r\n+OK 2 400\r\n+OK 1 400\r\n",
        ),
    ] {
        let server = chaos(Faults {
            pipelining: Some(pipelining),
            ..Faults::default()
        })
        .await;
        let mut line = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
        let mut reply = String::new();
        for command in ["", "USER demo\r\n", "PASS demo\r\n"] {
            line.write_all(command.as_bytes()).await.unwrap();
            line.read_line(&mut reply).await.unwrap();
        }
        let mut found = String::new();
        line.write_all(b"LIST 1\r\nLIST 2\r\nLIST 3\r\n")
            .await
            .unwrap();
        for _ in answers.lines() {
            line.read_line(&mut found).await.unwrap();
        }
        assert_eq!(found, answers);
    }
}

#[tokio::test]
async fn garbage_is_the_same_for_the_same_seed() {
    let noise = async |seed| {
        let server = chaos(Faults {
            garbage_on: on(&["CAPA"]),
            seed,
            ..Faults::default()
        })
        .await;
        talk(&server, "CAPA\r\n").await
    };
    assert_eq!(noise(1).await, noise(1).await);
    assert_ne!(noise(1).await, noise(2).await);
}

#[tokio::test]
async fn line_that_drips_brings_everything() {
    let server = chaos(Faults {
        drip: Some(1),
        ..Faults::default()
    })
    .await;
    let answers = talk(&server, &format!("{LOGIN}STAT\r\nQUIT\r\n")).await;
    assert_eq!(after_login(&answers), "+OK 3 1200\r\n+OK bye\r\n");
}

#[tokio::test]
async fn commands_without_end_are_cut_off() {
    let server = chaos(Faults::default()).await;
    let answers = talk(&server, &"x".repeat(100_000)).await;
    assert_eq!(answers.lines().count(), 1, "the greeting alone: {answers}");
}
