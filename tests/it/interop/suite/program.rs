//! The same through the whole program: HTTP in front, Postgres behind.

use popbridge::pop3::Tls;
use serde_json::{Value, json};

use crate::{
    interop::{
        corpus::MESSAGES,
        cutter::Cutter,
        host::Host,
        server::{PASSWORD, Pop3Server, USERNAME},
    },
    support::{eventually, popbridge::Popbridge},
};

pub(in crate::interop) async fn every_message_is_stored_once_and_deleted_when_asked<
    S: Pop3Server,
>(
    line: Tls,
) {
    let host = Host::<S>::start().await;
    let popbridge = Popbridge::start().await;
    let port = host.server.port(line);
    let mailbox = create_mailbox(&host, &popbridge, line, port).await;

    let second = {
        finished_sync(&popbridge, &mailbox, 1).await;
        popbridge.sync(&mailbox).await
    };
    assert_eq!(second["state"], "succeeded", "{second}");
    assert_eq!(
        (&second["listed"], &second["stored"]),
        (&json!(MESSAGES), &json!(0))
    );
    assert_stored(&host, &popbridge, &mailbox).await;
    assert_eq!(host.server.maildrop(), MESSAGES);

    let path = format!("/v1/mailboxes/{mailbox}");
    popbridge
        .patch(&path, json!({ "delete_policy": "after_store" }))
        .await;
    eventually("the maildrop is empty, and that is known", async || {
        let sync = popbridge.sync(&mailbox).await;
        assert_eq!((&sync["error"], &sync["stored"]), (&Value::Null, &json!(0)));
        (sync["listed"] == 0).then_some(())
    })
    .await;
    assert_eq!(host.server.maildrop(), 0);
    let messages = popbridge.messages(&mailbox).await;
    assert_eq!(messages.len(), MESSAGES);
    for message in messages {
        assert_eq!(message["remote_state"], "deleted", "{message}");
    }
    popbridge.stop().await;
}

pub(in crate::interop) async fn interrupted_first_sync_goes_on_where_it_was<S: Pop3Server>(
    line: Tls,
) {
    let host = Host::<S>::start().await;
    let popbridge = Popbridge::start().await;
    let octets: usize = host
        .messages
        .iter()
        .map(|message| message.octets.len())
        .sum();
    let octets = octets as u64;
    let cutter = Cutter::start(host.server.port(line), octets / 2).await;
    let mailbox = create_mailbox(&host, &popbridge, line, cutter.port).await;

    // The pass goes on in a next session, but for the message that was cut; unless the server thinks
    // until it notices that the first session is still there.
    let first = finished_sync(&popbridge, &mailbox, 1).await;
    assert!(first["stored"].as_u64() >= Some(1), "{first}");
    eventually("all of it is stored", async || {
        let stored = popbridge.messages(&mailbox).await.len();
        if stored < MESSAGES {
            popbridge.sync(&mailbox).await;
        }
        (stored == MESSAGES).then_some(())
    })
    .await;
    assert!(
        cutter.passed() < octets,
        "{} octets for the rest of {octets}",
        cutter.passed()
    );
    assert_stored(&host, &popbridge, &mailbox).await;
    popbridge.stop().await;
}

/// The sync that was the n-th to end.
async fn finished_sync(popbridge: &Popbridge, mailbox: &str, n: usize) -> Value {
    let path = format!("/v1/mailboxes/{mailbox}/syncs");
    eventually("a sync ends", async || {
        let syncs = popbridge.get(&path).await;
        let syncs = syncs["items"].as_array().unwrap();
        let mut finished = syncs
            .iter()
            .rev()
            .filter(|sync| !sync["finished_at"].is_null());
        finished.nth(n - 1).cloned()
    })
    .await
}

async fn assert_stored<S: Pop3Server>(host: &Host<S>, popbridge: &Popbridge, mailbox: &str) {
    let mut retrieved = Vec::new();
    for message in popbridge.messages(mailbox).await {
        retrieved.push(popbridge.raw(mailbox, &message).await);
    }
    host.assert_all(retrieved);
}

/// A mailbox on this server, or on another port that leads there.
async fn create_mailbox<S: Pop3Server>(
    host: &Host<S>,
    popbridge: &Popbridge,
    line: Tls,
    port: u16,
) -> String {
    let tls = match line {
        Tls::Implicit => "implicit",
        Tls::Starttls => "starttls",
        Tls::None => "none",
    };
    let mut body = json!({
        "host": "localhost",
        "port": port,
        "tls": tls,
        "username": USERNAME,
        "password": PASSWORD,
        "poll_interval_seconds": 86400,
    });
    if line != Tls::None {
        body["tls_ca_pem"] = json!(host.certificates.ca_pem);
    }
    let mailbox = popbridge.post("/v1/mailboxes", body).await;
    mailbox["id"].as_str().unwrap().to_owned()
}
