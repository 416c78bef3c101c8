//! Every fault of the chaos server ends our client's session in a way that is known beforehand.

use std::{fmt::Write as _, time::Duration};

use clap::{CommandFactory, Parser};
use futures_util::future::join_all;
use popbridge::{
    chaos::{ChaosServer, Faults, Tls},
    pop3::{Deadlines, Error, MessageNumber, Retrieved, Session, Transcript},
};
use tokio::time::timeout;

use super::{DEADLINE, address, chaos, credentials, serve};
use crate::support::pop3_peer::connector;

/// How long a reply may take. Shorter than any real deadline, for what never comes.
const SOON: Duration = Duration::from_millis(300);

/// Flags of the chaos server, and what becomes of a session that lists, retrieves and deletes all
/// of three messages: the error's code, or `ok`, and what was found and left.
type Row = (&'static [&'static str], &'static str);

const LINE: &[Row] = &[
    (&[], "ok, 3 whole, 0 left"),
    (&["--drop-at", "0"], "connection_closed, 3 left"),
    (&["--drop-at", "100"], "connection_closed, 3 left"),
    (&["--drop-in", "0"], "connection_closed, 3 left"),
    (&["--drop-in", "5"], "connection_closed, 3 left"),
    (&["--drop-on", "GREETING"], "connection_closed, 3 left"),
    // A server that hangs up on CAPA is asked again without it.
    (&["--drop-on", "CAPA"], "ok, 3 whole, 0 left"),
    (
        &["--drop-on", "CAPA", "--fault-sessions", "1"],
        "ok, 3 whole, 0 left",
    ),
    (&["--drop-on", "AUTH"], "connection_closed, 3 left"),
    (&["--drop-on", "STAT"], "connection_closed, 3 left"),
    (
        &["--drop-on", "RETR 2"],
        "connection_closed, 1 whole, 3 left",
    ),
    (
        &["--drop-on", "DELE 3"],
        "connection_closed, 3 whole, 3 left",
    ),
    (&["--drop-on", "QUIT"], "connection_closed, 3 whole, 3 left"),
    (
        &["--drop-after", "QUIT"],
        "connection_closed, 3 whole, 0 left",
    ),
    (&["--stall-at", "0"], "timeout, 3 left"),
    (&["--stall-at", "500"], "timeout, 3 left"),
    (&["--stall-on", "GREETING"], "timeout, 3 left"),
    (&["--stall-on", "CAPA"], "ok, 3 whole, 0 left"),
    (&["--stall-on", "AUTH"], "timeout, 3 left"),
    (&["--stall-on", "UIDL"], "timeout, 3 left"),
    (&["--stall-on", "RETR 3"], "timeout, 2 whole, 3 left"),
    (&["--stall-on", "DELE"], "timeout, 3 whole, 3 left"),
    (&["--stall-on", "QUIT"], "timeout, 3 whole, 3 left"),
    (&["--drip", "1"], "ok, 3 whole, 0 left"),
    (&["--drip", "40"], "timeout, 3 left"),
    (
        &["--lock-lingers", "60", "--drop-on", "QUIT"],
        "connection_closed, 3 whole, 3 left",
    ),
];

/// Of a client that asks for STLS.
const ENCRYPTION: &[Row] = &[
    (&[], "ok, 3 whole, 0 left"),
    (
        &["--reply", r"STLS=+OK\r\n+OK injected"],
        "starttls_injection, 3 left",
    ),
    (
        &["--reply", "STLS=-ERR no TLS here"],
        "starttls_unsupported, 3 left",
    ),
    (&["--without", "STLS"], "starttls_unsupported, 3 left"),
    (&["--without", "CAPA"], "ok, 3 whole, 0 left"),
    (&["--hide", "STLS"], "starttls_unsupported, 3 left"),
    (&["--drop-on", "STLS"], "connection_closed, 3 left"),
    (&["--drop-after", "STLS"], "connection_closed, 3 left"),
    (&["--stall-on", "STLS"], "timeout, 3 left"),
    // The end of a line that broke comes without the end of TLS.
    (
        &["--drop-on", "RETR 2"],
        "connection_closed, 1 whole, 3 left",
    ),
    (
        &["--drop-after", "QUIT"],
        "connection_closed, 3 whole, 0 left",
    ),
    (&["--drip", "1"], "ok, 3 whole, 0 left"),
];

const REPLIES: &[Row] = &[
    (
        &["--reply", "GREETING=220 mail ESMTP"],
        "wrong_protocol, 3 left",
    ),
    (
        &["--reply", "GREETING=-ERR go away"],
        "greeting_refused, 3 left",
    ),
    (
        &["--reply", "AUTH=-ERR wrong password"],
        "auth_failed, 3 left",
    ),
    (&["--reply", "AUTH=-ERR [AUTH] no"], "auth_failed, 3 left"),
    (&["--reply", "AUTH=-ERR [IN-USE] busy"], "in_use, 3 left"),
    (
        &["--reply", "AUTH=-ERR [LOGIN-DELAY] slow down"],
        "login_delay, 3 left",
    ),
    (
        &["--reply", "AUTH=-ERR [SYS/TEMP] later"],
        "server_temporary, 3 left",
    ),
    (
        &["--reply", "AUTH=-ERR [SYS/PERM] never"],
        "server_permanent, 3 left",
    ),
    (
        &["--reply", "AUTH=-ERR Server Unavailable. 21"],
        "server_temporary, 3 left",
    ),
    (&["--reply", "AUTH=+ERR neither"], "protocol_error, 3 left"),
    (
        &["--reply", "STAT=-ERR [SYS/TEMP] later"],
        "server_temporary, 3 left",
    ),
    (
        &["--reply", "STAT=+OK many"],
        "ok, incomplete, 3 whole, 0 left",
    ),
    (
        &["--reply", "UIDL=-ERR disk full"],
        "server_temporary, 3 left",
    ),
    (
        &["--reply", r"UIDL=+OK\r\n1 a\r\n1 b\r\nx\r\n."],
        "ok, incomplete, 1 whole, 2 left",
    ),
    (
        &["--reply", "RETR 2=-ERR [SYS/TEMP] later"],
        "ok, 2 whole, 1 refused, 0 left",
    ),
    (
        &["--reply", "RETR=-ERR Download exceed"],
        "ok, 3 refused, 0 left",
    ),
    (
        &["--reply", "DELE 1=-ERR no"],
        "ok, 3 whole, 1 kept, 1 left",
    ),
    (
        &["--reply", "QUIT=-ERR not deleted"],
        "server_temporary, 3 whole, 3 left",
    ),
    (&["--garbage-on", "GREETING"], "wrong_protocol, 3 left"),
    (&["--garbage-on", "CAPA"], "ok, 3 whole, 0 left"),
    (
        &["--garbage-on", "AUTH", "--seed", "1"],
        "protocol_error, 3 left",
    ),
    (
        &["--garbage-on", "UIDL", "--seed", "2"],
        "protocol_error, 3 left",
    ),
    (
        &["--garbage-on", "RETR 1", "--seed", "3"],
        "protocol_error, 3 left",
    ),
    (
        &["--garbage-on", "QUIT", "--seed", "4"],
        "protocol_error, 3 whole, 3 left",
    ),
    (&["--without", "CAPA"], "ok, 3 whole, 0 left"),
    (&["--without", "TOP"], "ok, 3 whole, 0 left"),
    (&["--without", "AUTH"], "ok, 3 whole, 0 left"),
    (&["--without", "UIDL"], "ok, 3 whole, 0 left"),
    (&["--without", "LIST"], "ok, incomplete, 3 whole, 0 left"),
    (&["--without", "RETR"], "ok, 3 refused, 0 left"),
    (&["--without", "DELE"], "ok, 3 whole, 3 kept, 3 left"),
    (&["--hide", "PIPELINING"], "ok, 3 whole, 0 left"),
    (&["--hide", "UIDL"], "ok, 3 whole, 0 left"),
    (&["--announce", "EXPIRE 0"], "ok, 3 whole, 0 left"),
    (&["--announce", "SASL"], "ok, 3 whole, 0 left"),
    (&["--pipelining", "lossy"], "timeout, 3 left"),
    (&["--pipelining", "reversed"], "protocol_error, 3 left"),
];

const LISTINGS: &[Row] = &[
    (&["--size-delta", "100000"], "ok, 3 whole, 0 left"),
    (&["--size-delta", "-5000"], "ok, 3 whole, 0 left"),
    (&["--count-delta", "1"], "ok, incomplete, 3 whole, 0 left"),
    (&["--count-delta", "-1"], "ok, incomplete, 3 whole, 0 left"),
    (&["--list-at-most", "2"], "ok, 2 whole, 1 left"),
    (&["--unique-ids", "renumbered"], "ok, 3 whole, 0 left"),
    (
        &["--unique-ids", "repeated"],
        "ok, incomplete, 3 whole, 0 left",
    ),
    (
        &["--unique-ids", "empty"],
        "ok, incomplete, 3 whole, 0 left",
    ),
    (&["--unique-ids", "long"], "ok, 3 whole, 0 left"),
    (&["--unique-ids", "8bit"], "ok, 3 whole, 0 left"),
];

const MESSAGES: &[Row] = &[
    (&["--bare-lf"], "ok, 3 with LF, 0 left"),
    // A lone dot ends the message early; what follows it shows that.
    (&["--unstuffed"], "protocol_error, 3 left"),
    (&["--terminator", "missing"], "timeout, 3 left"),
    (&["--terminator", "repeated"], "protocol_error, 3 left"),
    (&["--terminator", "glued"], "timeout, 3 left"),
    (&["--forget-deletions"], "ok, 3 whole, 3 left"),
    (&["--popped"], "ok, 3 whole, 0 left"),
];

const ENDLESS: &[Row] = &[
    (&["--endless", "GREETING"], "protocol_error, 3 left"),
    (&["--endless", "CAPA"], "ok, 3 whole, 0 left"),
    // How long a message may be is for the caller to say: this one reads on until the session ends.
    (&["--endless", "RETR 2"], "timeout, 1 whole, 3 left"),
    (&["--endless-line", "GREETING"], "protocol_error, 3 left"),
    (&["--endless-line", "CAPA"], "ok, 3 whole, 0 left"),
    (&["--endless-line", "STAT"], "protocol_error, 3 left"),
    (&["--endless-line", "UIDL"], "protocol_error, 3 left"),
    (&["--endless-line", "RETR 1"], "timeout, 3 left"),
    (
        &["--endless-line", "QUIT"],
        "protocol_error, 3 whole, 0 left",
    ),
];

#[tokio::test]
async fn faults_of_the_line_are_told_apart() {
    all_end_as_expected(Tls::None, LINE).await;
}

#[tokio::test]
async fn encryption_is_had_or_there_is_no_session() {
    all_end_as_expected(Tls::Starttls, ENCRYPTION).await;
}

#[tokio::test]
async fn wrong_replies_are_told_apart() {
    all_end_as_expected(Tls::None, REPLIES).await;
}

#[tokio::test]
async fn lying_listings_are_used_with_care() {
    all_end_as_expected(Tls::None, LISTINGS).await;
}

#[tokio::test]
async fn damaged_messages_do_not_pass_for_whole_ones() {
    all_end_as_expected(Tls::None, MESSAGES).await;
}

#[tokio::test]
async fn replies_without_end_are_given_up() {
    // One after the other: each takes all the time it can get. Those of UIDL and LIST are in
    // tests/memory.rs.
    for row in ENDLESS {
        all_end_as_expected(Tls::None, std::slice::from_ref(row)).await;
    }
}

#[test]
fn every_fault_has_its_row() {
    let rows = [LINE, REPLIES, LISTINGS, MESSAGES, ENDLESS].concat();
    for flag in Flags::command().get_arguments() {
        let flag = format!("--{}", flag.get_long().unwrap());
        let has_row = rows.iter().any(|(flags, _)| flags.contains(&flag.as_str()));
        assert!(has_row, "{flag} has no row");
    }
}

#[tokio::test]
async fn maildrop_that_stays_locked_is_in_use() {
    let server = chaos(faults(&["--drop-on", "QUIT", "--lock-lingers", "60"])).await;
    assert_eq!(
        end_of_session(&server, Tls::None, DEADLINE / 6).await,
        "connection_closed, 3 whole, 3 left"
    );
    assert_eq!(
        end_of_session(&server, Tls::None, DEADLINE / 6).await,
        "in_use, 3 left"
    );
}

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Flags {
    #[command(flatten)]
    faults: Faults,
}

pub(super) fn faults(flags: &[&str]) -> Faults {
    Flags::parse_from([&["chaos-server"], flags].concat()).faults
}

async fn all_end_as_expected(tls: Tls, rows: &[Row]) {
    let outcomes = rows.iter().map(async |(flags, expected)| {
        let mut end = String::new();
        // On a busy machine a wait may end too soon: then it gets more time.
        for patience in [SOON, 10 * SOON] {
            let server = serve(tls, faults(flags)).await;
            end = end_of_session(&server, tls, patience).await;
            if end == *expected {
                return None;
            }
        }
        Some(format!("{}: {end}, not {expected}", flags.join(" ")))
    });
    let wrong: Vec<_> = join_all(outcomes).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How a session ends in which no reply takes longer than this.
async fn end_of_session(server: &ChaosServer, tls: Tls, patience: Duration) -> String {
    let deadlines = Deadlines {
        capabilities: patience,
        reply: patience,
        idle: patience,
        session: 5 * patience,
        ..Deadlines::default()
    };
    let mut found = Found::default();
    let session = timeout(DEADLINE, found.session(server, tls, deadlines));
    let end = session.await.expect("a session ends by its own deadlines");
    let mut text = end.map_or_else(|error| error.code(), |()| "ok").to_owned();
    if found.incomplete {
        text += ", incomplete";
    }
    for (count, what) in [
        (found.whole, "whole"),
        (found.with_lf, "with LF"),
        (found.damaged, "damaged"),
        (found.refused, "refused"),
        (found.kept, "kept"),
    ] {
        if count > 0 {
            write!(text, ", {count} {what}").unwrap();
        }
    }
    let left = server.maildrop().unique_ids().len();
    text + &format!(", {left} left")
}

/// What a session found.
#[derive(Default)]
struct Found {
    incomplete: bool,
    whole: usize,
    /// Whole but for their line ends.
    with_lf: usize,
    damaged: usize,
    refused: usize,
    /// Whose deletion was refused.
    kept: usize,
}

impl Found {
    /// Everything a client does, from login to QUIT.
    async fn session(
        &mut self,
        server: &ChaosServer,
        tls: Tls,
        deadlines: Deadlines,
    ) -> Result<(), Error> {
        let sent = server.maildrop().octets().await.unwrap();
        let mut session = connector(deadlines)
            .open(
                &address(server, tls),
                &credentials(),
                &Transcript::default(),
            )
            .await?;
        let listing = session.listing(None).await?;
        self.incomplete = !listing.complete;
        let wanted = listing.entries.iter().map(|e| (e.number, e.octets));
        let wanted: Vec<_> = wanted.collect();
        self.retrieve(&mut session, &wanted, &sent).await?;
        let numbers: Vec<_> = wanted.iter().map(|(number, _)| *number).collect();
        let replies = session.delete(&numbers).await?;
        self.kept = replies.iter().filter(|reply| reply.is_err()).count();
        session.quit().await
    }

    async fn retrieve(
        &mut self,
        session: &mut Session,
        wanted: &[(MessageNumber, u64)],
        sent: &[bytes::Bytes],
    ) -> Result<(), Error> {
        let mut retrieval = session.retrieve(wanted.iter().copied());
        while let Some(next) = retrieval.next().await? {
            let Retrieved::Body { number } = next else {
                self.refused += 1;
                continue;
            };
            let index: usize = number.to_string().parse().unwrap();
            let sent = &sent[index - 1];
            let mut octets = Vec::new();
            while let Some(chunk) = retrieval.chunk().await? {
                // All of an endless message would not fit.
                if octets.len() <= sent.len() {
                    octets.extend_from_slice(chunk);
                }
            }
            let with_lf = String::from_utf8_lossy(sent).replace("\r\n", "\n");
            if octets == *sent {
                self.whole += 1;
            } else if octets == with_lf.as_bytes() {
                self.with_lf += 1;
            } else {
                self.damaged += 1;
            }
        }
        Ok(())
    }
}
