use popbridge::pop3::{Credentials, Deadlines, PasswordMechanism, Tls, Transcript};

use super::{SOON, open, open_within, refusal};
use crate::support::pop3_peer::{Answer, Peer, Running, connector, credentials, password};

async fn log_in(peer: &Running, credentials: &Credentials) -> Result<(), &'static str> {
    let opened = connector(Deadlines::default())
        .open(&peer.server, credentials, &Transcript::default())
        .await;
    opened.map(|_| ()).map_err(|error| error.code())
}

#[tokio::test]
async fn auto_logs_in_with_sasl_plain_in_one_line() {
    let peer = Peer::new(Tls::Implicit).start().await;
    open(&peer).await.unwrap();
    assert_eq!(
        peer.commands(),
        ["CAPA", "AUTH PLAIN AHVzZXIAaHVudGVyMg==", "CAPA"]
    );
}

#[tokio::test]
async fn without_tls_auto_logs_in_where_that_was_asked_for_by_name() {
    for (capabilities, login) in [
        (
            vec!["USER", "SASL PLAIN"],
            "AUTH PLAIN AHVzZXIAaHVudGVyMg==",
        ),
        (vec!["USER"], "USER user"),
    ] {
        let peer = Peer::new(Tls::None).capabilities(&capabilities);
        let peer = peer.start().await;
        open(&peer).await.unwrap();
        assert_eq!(peer.commands()[1], login);
    }
}

#[tokio::test]
async fn auto_never_takes_apop() {
    let greeting = Answer::Send(b"+OK <1896.697170952@dbc.mtview.ca.us>\r\n".into());
    let peer = Peer::new(Tls::None)
        .greeting(greeting)
        .capabilities(&["TOP", "UIDL"]);
    let peer = peer.start().await;
    open(&peer).await.unwrap();
    assert_eq!(
        peer.commands(),
        ["CAPA", "USER user", "PASS hunter2", "CAPA"]
    );
}

#[tokio::test]
async fn a_long_password_is_sent_after_the_challenge() {
    for challenge in ["+ \r\n", "+\r\n"] {
        let peer = Peer::new(Tls::Implicit)
            .sends("AUTH", challenge)
            .start()
            .await;
        let credentials = password("user", &"p".repeat(300), PasswordMechanism::Auto);
        log_in(&peer, &credentials).await.unwrap();
        assert_eq!(peer.count("AUTH PLAIN"), 1);
    }
}

#[tokio::test]
async fn user_and_pass_go_out_as_they_are() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let secret = " with  spaces, \u{fc}ml\u{e4}uts ";
    let credentials = password("user", secret, PasswordMechanism::UserPass);
    log_in(&peer, &credentials).await.unwrap();
    let commands = peer.commands();
    assert_eq!(commands[..2], ["CAPA", "USER user"]);
    assert_eq!(commands[2].trim_end(), format!("PASS {secret}").trim_end());
}

#[tokio::test]
async fn apop_sends_a_digest_and_no_password() {
    // The example of RFC 1939, section 7.
    let greeting = "+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>\r\n";
    let peer = Peer::new(Tls::None)
        .greeting(Answer::Send(greeting.into()))
        .start()
        .await;
    let credentials = password("mrose", "tanstaaf", PasswordMechanism::Apop);
    log_in(&peer, &credentials).await.unwrap();
    assert_eq!(
        peer.commands()[1],
        "APOP mrose c4c9334bac560ecc979e58001b3e22fb"
    );
}

#[tokio::test]
async fn a_mechanism_that_the_server_lacks_is_not_tried() {
    let peer = Peer::new(Tls::Implicit)
        .capabilities(&["SASL XOAUTH2"])
        .start()
        .await;
    for mechanism in [
        PasswordMechanism::Auto,
        PasswordMechanism::Plain,
        PasswordMechanism::Apop,
    ] {
        let credentials = password("user", "hunter2", mechanism);
        assert_eq!(log_in(&peer, &credentials).await, Err("auth_unsupported"));
    }
    assert!(peer.commands().iter().all(|line| line == "CAPA"));
}

#[tokio::test]
async fn refusals_have_codes_of_their_own_and_nothing_is_tried_after_them() {
    for (reply, expected) in [
        ("-ERR [AUTH] bad password\r\n", "auth_failed"),
        ("-ERR no\r\n", "auth_failed"),
        ("-ERR [IN-USE] busy\r\n", "in_use"),
        ("-ERR [LOGIN-DELAY] wait\r\n", "login_delay"),
        ("-ERR [SYS/TEMP] disk\r\n", "server_temporary"),
        ("-ERR [SYS/PERM] disk\r\n", "server_permanent"),
        ("+ERR Server error\r\n", "protocol_error"),
        ("\r\n", "protocol_error"),
    ] {
        let plain = Peer::new(Tls::Implicit).sends("AUTH", reply).start().await;
        assert_eq!(refusal(&plain).await.0, expected, "{reply}");
        assert_eq!(plain.commands().len(), 2);

        let capabilities = ["USER", "UIDL"];
        let peer = Peer::new(Tls::None).capabilities(&capabilities);
        let user_pass = peer.sends("PASS", reply).start().await;
        assert_eq!(refusal(&user_pass).await.0, expected, "{reply}");
        assert_eq!(user_pass.commands(), ["CAPA", "USER user", "PASS hunter2"]);
    }
}

#[tokio::test]
async fn a_refused_user_gets_no_password() {
    let peer = Peer::new(Tls::None)
        .capabilities(&["USER"])
        .sends("USER", "-ERR who?\r\n");
    let peer = peer.start().await;
    assert_eq!(refusal(&peer).await.0, "auth_failed");
    assert_eq!(peer.count("PASS hunter2"), 0);
}

#[tokio::test]
async fn a_server_may_hang_up_right_after_refusing() {
    let answer = Answer::Close(b"-ERR bad password\r\n".into());
    let peer = Peer::new(Tls::Implicit)
        .answer("AUTH", answer)
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "auth_failed");
}

#[tokio::test]
async fn a_login_without_an_answer_ends() {
    let closing = Peer::new(Tls::None)
        .answer("AUTH", Answer::Close(vec![]))
        .start()
        .await;
    assert_eq!(refusal(&closing).await.0, "connection_closed");

    let silent = Peer::new(Tls::None)
        .answer("AUTH", Answer::Hang(vec![]))
        .start()
        .await;
    let deadlines = Deadlines {
        reply: SOON,
        ..Deadlines::default()
    };
    let error = open_within(&silent, deadlines).await.unwrap_err();
    assert_eq!(error.code(), "timeout");
    assert!(error.to_string().contains("logging in"), "{error}");

    let endless = Answer::Endless(vec![b'+'; 4096]);
    let endless = Peer::new(Tls::None).answer("AUTH", endless).start().await;
    assert_eq!(refusal(&endless).await.0, "protocol_error");
}

#[tokio::test]
async fn a_reply_too_many_to_the_login_is_a_protocol_error() {
    let peer = Peer::new(Tls::None)
        .sends("AUTH", "+OK\r\n+OK\r\n")
        .start()
        .await;
    assert_eq!(refusal(&peer).await.0, "protocol_error");
    assert_eq!(peer.commands().len(), 2);
}

#[tokio::test]
async fn a_session_can_be_opened_and_used_on_any_thread() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let (connector, server) = (connector(Deadlines::default()), peer.server.clone());
    let task = tokio::spawn(async move {
        let mut session = connector
            .open(&server, &credentials(), &Transcript::default())
            .await?;
        super::retrieve_all(&mut session).await?;
        session.quit().await
    });
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn apop_does_not_use_a_timestamp_from_before_tls() {
    let greeting = Answer::Send(b"+OK <1896.697170952@dbc.mtview.ca.us>\r\n".into());
    let peer = Peer::new(Tls::Starttls).greeting(greeting).start().await;
    let credentials = password("user", "hunter2", PasswordMechanism::Apop);
    assert_eq!(log_in(&peer, &credentials).await, Err("auth_unsupported"));
}

#[tokio::test]
async fn credentials_that_would_inject_a_command_are_not_sent() {
    let peer = Peer::new(Tls::None).start().await;
    for bad in ["", "a\rb", "a\nDELE 1", "a\0b"] {
        for (username, secret) in [(bad, "hunter2"), ("user", bad)] {
            let credentials = password(username, secret, PasswordMechanism::Auto);
            let opened = log_in(&peer, &credentials).await;
            assert_eq!(opened, Err("credentials_invalid"));
        }
    }
    assert!(peer.commands().is_empty());
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let echo = "-ERR what is PASS hunter2?\r\n";
    let peer = Peer::new(Tls::None)
        .capabilities(&["USER"])
        .sends("PASS", echo)
        .start()
        .await;
    let error = open(&peer).await.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );

    let echo = "PASS hunter2?\r\n";
    let peer = Peer::new(Tls::None)
        .capabilities(&["USER"])
        .sends("PASS", echo)
        .start()
        .await;
    let error = open(&peer).await.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
}
