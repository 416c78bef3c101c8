//! XOAUTH2 and OAUTHBEARER: the dialogues, and what comes of each.

use base64::{Engine, engine::general_purpose::STANDARD};
use popbridge::pop3::{BearerMechanism, Credentials, Deadlines, Error, Proof, Tls, Transcript};

use super::SOON;
use crate::support::pop3_peer::{Answer, Peer, Running, connector};

const TOKEN: &str = "ya29.an-access-token";
/// `user=user^Aauth=Bearer ya29.an-access-token^A^A`
const XOAUTH2: &str = "dXNlcj11c2VyAWF1dGg9QmVhcmVyIHlhMjkuYW4tYWNjZXNzLXRva2VuAQE=";
/// `{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}`
const ERROR_CHALLENGE: &str = "+ eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwuZ29vZ2xlLmNvbS8ifQ==\r\n";

fn token(mechanism: BearerMechanism) -> Credentials {
    with_token("user", TOKEN, mechanism)
}

fn with_token(username: &str, token: &str, mechanism: BearerMechanism) -> Credentials {
    Credentials {
        username: username.into(),
        proof: Proof::BearerToken {
            token: token.into(),
            mechanism,
        },
    }
}

async fn open(peer: &Running, credentials: &Credentials) -> Result<(), Error> {
    let deadlines = Deadlines {
        reply: SOON,
        ..Deadlines::default()
    };
    connector(deadlines)
        .open(&peer.server, credentials, &Transcript::default())
        .await
        .map(|_| ())
}

fn peer() -> Peer {
    Peer::new(Tls::None).sends("AUTH", "+ \r\n")
}

/// A peer that answers the token of XOAUTH2 like this.
async fn after_the_token(answer: impl AsRef<[u8]>) -> Running {
    peer().sends(XOAUTH2, answer).start().await
}

async fn refusal(peer: &Running) -> (&'static str, String) {
    let credentials = token(BearerMechanism::Xoauth2);
    let error = open(peer, &credentials)
        .await
        .expect_err("the session opens");
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
    (error.code(), error.to_string())
}

#[tokio::test]
async fn the_token_goes_out_once_the_server_asks_for_it() {
    for asking in [
        "+ \r\n",
        "+\r\n",
        "+ anything\r\n",
        "+OK\r\n",
        "+OK go on\r\n",
    ] {
        let peer = Peer::new(Tls::Implicit).sends("AUTH", asking).start().await;
        let credentials = token(BearerMechanism::Xoauth2);
        open(&peer, &credentials).await.unwrap();
        assert_eq!(
            peer.commands(),
            ["CAPA", "AUTH XOAUTH2", XOAUTH2, "CAPA"],
            "{asking}"
        );
    }
}

#[tokio::test]
async fn auto_takes_oauthbearer_where_it_is_announced_and_else_xoauth2() {
    for (capabilities, mechanism) in [
        (vec!["SASL PLAIN XOAUTH2 OAUTHBEARER"], "AUTH OAUTHBEARER"),
        (vec!["SASL PLAIN XOAUTH2"], "AUTH XOAUTH2"),
        (vec!["SASL PLAIN"], "AUTH XOAUTH2"),
        (vec!["USER"], "AUTH XOAUTH2"),
    ] {
        let peer = peer().capabilities(&capabilities).start().await;
        open(&peer, &token(BearerMechanism::Auto)).await.unwrap();
        assert_eq!(peer.commands()[1], mechanism, "{capabilities:?}");
    }
}

#[tokio::test]
async fn oauthbearer_names_the_user_the_host_and_the_port() {
    let peer = peer().start().await;
    let credentials = with_token("a,b=c@example.org", TOKEN, BearerMechanism::Oauthbearer);
    open(&peer, &credentials).await.unwrap();
    let commands = peer.commands();
    assert_eq!(commands[1], "AUTH OAUTHBEARER");
    let port = peer.server.port;
    let message = format!(
        "n,a=a=2Cb=3Dc@example.org,\x01host=localhost\x01port={port}\x01auth=Bearer {TOKEN}\x01\x01"
    );
    assert_eq!(STANDARD.decode(&commands[2]).unwrap(), message.as_bytes());
}

#[tokio::test]
async fn a_long_token_goes_out_in_one_piece() {
    let long = "t".repeat(20_000);
    for mechanism in [BearerMechanism::Xoauth2, BearerMechanism::Oauthbearer] {
        let peer = peer().start().await;
        let credentials = with_token("user", &long, mechanism);
        open(&peer, &credentials).await.unwrap();
        let sent = STANDARD.decode(&peer.commands()[2]).unwrap();
        let sent = String::from_utf8(sent).unwrap();
        assert!(sent.ends_with(&format!("auth=Bearer {long}\x01\x01")));
    }
}

#[tokio::test]
async fn an_error_challenge_is_answered_and_its_reason_told() {
    for (mechanism, name, farewell) in [
        (BearerMechanism::Xoauth2, "AUTH XOAUTH2", ""),
        (BearerMechanism::Oauthbearer, "AUTH OAUTHBEARER", "AQ=="),
    ] {
        let refusal = "-ERR [AUTH] Username and Password not accepted.\r\n";
        let peer = Peer::new(Tls::None)
            .sends(name, "+ \r\n")
            .sends(farewell, refusal)
            .otherwise(ERROR_CHALLENGE);
        let peer = peer.start().await;
        let error = open(&peer, &token(mechanism)).await.unwrap_err();
        assert_eq!(error.code(), "auth_failed");
        let told = error.to_string();
        let reason = "status 401, scope https://mail.google.com/; -ERR [AUTH] Username";
        assert!(told.contains(reason), "{told}");
        let commands = peer.commands();
        assert_eq!(commands[3..], [farewell], "and nothing is tried after it");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_after_its_error_challenge_has_refused_the_token() {
    let farewell = Answer::Close(Vec::new());
    let peer = peer()
        .sends(XOAUTH2, ERROR_CHALLENGE)
        .answer("", farewell)
        .start()
        .await;
    let (code, told) = refusal(&peer).await;
    assert_eq!(code, "auth_failed");
    assert!(told.contains("status 401"), "{told}");
}

#[tokio::test]
async fn refusals_have_codes_of_their_own_and_nothing_is_tried_after_them() {
    for (reply, code) in [
        ("-ERR [AUTH] no\r\n", "auth_failed"),
        ("-ERR\r\n", "auth_failed"),
        (
            "-ERR Logon failure: unknown user name or bad password.\r\n",
            "auth_failed",
        ),
        ("-ERR [IN-USE] busy\r\n", "in_use"),
        ("-ERR [LOGIN-DELAY] wait\r\n", "login_delay"),
        ("-ERR [SYS/TEMP] disk\r\n", "server_temporary"),
        ("-ERR [SYS/PERM] disk\r\n", "server_permanent"),
        ("-ERR Server Unavailable. 21\r\n", "server_temporary"),
        ("+ERR Server error\r\n", "protocol_error"),
        ("\r\n", "protocol_error"),
    ] {
        let peer = after_the_token(reply).await;
        assert_eq!(refusal(&peer).await.0, code, "{reply}");
        assert_eq!(peer.commands(), ["CAPA", "AUTH XOAUTH2", XOAUTH2]);
    }
}

#[tokio::test]
async fn a_server_without_the_mechanism_gets_no_token() {
    for (reply, code) in [
        ("-ERR [AUTH] unsupported mechanism\r\n", "auth_unsupported"),
        ("-ERR what?\r\n", "auth_unsupported"),
        ("-ERR [SYS/TEMP] later\r\n", "server_temporary"),
        ("-ERR too many connections\r\n", "server_temporary"),
    ] {
        let peer = Peer::new(Tls::None).sends("AUTH", reply).start().await;
        assert_eq!(refusal(&peer).await.0, code, "{reply}");
        assert_eq!(peer.commands(), ["CAPA", "AUTH XOAUTH2"]);
    }
}

#[tokio::test]
async fn a_dialogue_that_goes_nowhere_ends() {
    let undecided = peer()
        .sends(XOAUTH2, ERROR_CHALLENGE)
        .sends("", ERROR_CHALLENGE);
    let undecided = undecided.start().await;
    assert_eq!(refusal(&undecided).await.0, "protocol_error");
    assert_eq!(undecided.commands().len(), 4);

    let contradicting = peer()
        .sends(XOAUTH2, ERROR_CHALLENGE)
        .sends("", "+OK welcome\r\n");
    assert_eq!(
        refusal(&contradicting.start().await).await.0,
        "protocol_error"
    );

    let silent = peer().answer(XOAUTH2, Answer::Hang(vec![])).start().await;
    assert_eq!(refusal(&silent).await.0, "timeout");

    let closing = peer().answer(XOAUTH2, Answer::Close(vec![])).start().await;
    assert_eq!(refusal(&closing).await.0, "connection_closed");

    let endless = peer().answer(XOAUTH2, Answer::Endless(vec![b'+'; 4096]));
    assert_eq!(refusal(&endless.start().await).await.0, "protocol_error");
}

#[tokio::test]
async fn a_token_that_the_server_repeats_is_not_passed_on() {
    for echo in [
        format!("-ERR bad token {TOKEN}\r\n"),
        format!("+ bad token {TOKEN}\r\n"),
        format!("{TOKEN}\r\n"),
        format!("-ERR bad line {XOAUTH2}\r\n"),
    ] {
        let peer = peer()
            .sends(XOAUTH2, &echo)
            .sends("", format!("-ERR {TOKEN}\r\n"))
            .start()
            .await;
        let (_, told) = refusal(&peer).await;
        assert!(!told.contains(XOAUTH2), "{told}");
        assert!(told.contains("***"), "{told}");
    }
}

#[tokio::test]
async fn what_would_forge_a_field_is_not_sent() {
    let peer = peer().start().await;
    for bad in ["", "a\rb", "a\nDELE 1", "a\0b", "a\x01auth=Bearer b"] {
        for (username, token) in [(bad, TOKEN), ("user", bad)] {
            for mechanism in [BearerMechanism::Xoauth2, BearerMechanism::Oauthbearer] {
                let credentials = with_token(username, token, mechanism);
                let error = open(&peer, &credentials).await.unwrap_err();
                assert_eq!(error.code(), "credentials_invalid");
            }
        }
    }
    assert!(peer.commands().is_empty());
}

#[test]
fn debug_output_shows_no_credential() {
    let shown = format!("{:?}", with_token("a user", TOKEN, BearerMechanism::Auto));
    assert_eq!(
        shown,
        "Credentials { proof: BearerToken { mechanism: Auto, .. }, .. }"
    );
    let shown = format!("{:?}", crate::support::pop3_peer::credentials());
    assert_eq!(
        shown,
        "Credentials { proof: Password { mechanism: Auto, .. }, .. }"
    );
}
