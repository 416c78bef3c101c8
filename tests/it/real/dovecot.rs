//! The whole path with Dovecot: from the maildrop to the API, the log and the webhook.

use std::collections::HashSet;

use popbridge::demo::{certificates::Certificates, receiver::Receiver};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use time::{Duration, OffsetDateTime};

use crate::support::{
    eventually,
    world::{PASSWORD, World},
};

const MESSAGES: usize = 1000;
const LARGE: usize = 30 << 20;

/// A maildrop with what has broken fetchers: leading dots, no final newline, 8-bit and NUL octets,
/// a message of 30 MB.
fn awkward_messages() -> Vec<Vec<u8>> {
    let head =
        |n: usize| format!("From: sender@example.org\nSubject: message {n}\n\n").into_bytes();
    let mut messages: Vec<Vec<u8>> = (0..MESSAGES - 1)
        .map(|n| {
            let mut message = head(n);
            match n % 5 {
                0 => message.extend(b".\n..\n.leading dot\n...\nend\n"),
                1 => message.extend(b"no newline at the end"),
                2 => message.extend(b"8-bit \xff\xfe\x80 and NUL \0 and CR \r within\n"),
                3 => message.extend(b"\n\n\n.\n\n"),
                _ => message.extend("plain text line\n".repeat(n).as_bytes()),
            }
            message
        })
        .collect();
    let mut large = head(MESSAGES);
    while large.len() < LARGE {
        large.extend(b"a line of a very long message, and some octets \xe2\x82\xac\n.\n");
    }
    messages.push(large);
    messages
}

/// What POP3 sends for a file with LF line ends: CRLF everywhere, at the end too.
fn on_the_wire(file: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(file.len() + file.len() / 32);
    for (i, octet) in file.iter().enumerate() {
        if *octet == b'\n' && (i == 0 || file[i - 1] != b'\r') {
            octets.push(b'\r');
        }
        octets.push(*octet);
    }
    if !octets.ends_with(b"\r\n") {
        octets.extend(b"\r\n");
    }
    octets
}

async fn every_message_is_byte_identical(world: &World, settings: Value) {
    let sent = awkward_messages();
    for message in &sent {
        world.dovecot.deliver("anna", message).unwrap();
    }
    let mailbox = world.create_mailbox(settings).await;
    let sync = world.sync(&mailbox).await;
    assert_eq!(sync["state"], "succeeded", "{sync}");

    let messages = world.messages(&mailbox).await;
    assert_eq!(messages.len(), MESSAGES);
    let mut expected: HashSet<Vec<u8>> = sent.iter().map(|file| on_the_wire(file)).collect();
    assert_eq!(
        expected.len(),
        MESSAGES,
        "the messages differ from one another"
    );
    for message in &messages {
        let raw = world.raw(&mailbox, message).await;
        assert_eq!(message["size"], raw.len());
        assert!(
            expected.remove(&raw),
            "message {} is not what was sent",
            message["id"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_over_implicit_tls_are_byte_identical() {
    let world = World::start().await;
    every_message_is_byte_identical(&world, json!({})).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_over_stls_are_byte_identical() {
    let world = World::start().await;
    let port = world.dovecot.pop3().port();
    every_message_is_byte_identical(&world, json!({ "tls": "starttls", "port": port })).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_sync_fetches_nothing_and_makes_no_event() {
    let world = World::start().await;
    for n in 0..20 {
        world
            .dovecot
            .deliver("anna", format!("Subject: {n}\n\ntext\n").as_bytes())
            .unwrap();
    }
    let mailbox = world.create_mailbox(json!({})).await;
    let first = world.sync(&mailbox).await;
    let second = world.sync(&mailbox).await;

    assert_eq!(
        (&first["stored"], &second["stored"]),
        (&json!(20), &json!(0))
    );
    assert_eq!(world.messages(&mailbox).await.len(), 20);
    let mut database = PgConnection::connect(&world.database.url).await.unwrap();
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM popbridge.events")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(events, 20);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_mail_is_told_of_by_a_verified_webhook_and_backlog_is_not() {
    let world = World::start().await;
    let mut receiver = Receiver::start().await.unwrap();
    world
        .dovecot
        .deliver("anna", b"Subject: backlog\n\nold\n")
        .unwrap();
    let webhook = world
        .post("/v1/webhooks", json!({ "url": receiver.url() }))
        .await;
    receiver.set_secret(webhook["secret"].as_str().unwrap());
    let mailbox = world.create_mailbox(json!({})).await;
    world.sync(&mailbox).await;

    world
        .dovecot
        .deliver("anna", b"Subject: new\nFrom: bert@example.org\n\nnew\n")
        .unwrap();
    world.sync(&mailbox).await;
    let received = receiver.next().await;

    assert_eq!(received.verified, Ok(()));
    let event = &received.event;
    assert_eq!(event["type"], "message.received");
    assert_eq!(event["id"], received.webhook_id);
    assert_eq!(event["mailbox_id"], mailbox);
    assert_eq!(event["data"]["subject"], "new");
    assert_eq!(event["data"]["backlog"], false);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_is_deleted_from_the_server_only_as_the_policy_says() {
    let world = World::start().await;
    for n in 0..5 {
        world
            .dovecot
            .deliver("anna", format!("Subject: {n}\n\ntext\n").as_bytes())
            .unwrap();
    }
    let keeping = world
        .create_mailbox(json!({ "delete_policy": "never" }))
        .await;
    world.sync(&keeping).await;
    assert_eq!(world.maildrop().len(), 5);

    let deleting = world
        .create_mailbox(json!({ "delete_policy": "after_store" }))
        .await;
    world.sync(&deleting).await;
    assert_eq!(world.maildrop().len(), 0);
    assert_eq!(
        world.mailbox(&deleting).await["pending_remote_deletes"],
        5,
        "not yet confirmed"
    );

    let confirming = world.sync(&deleting).await;
    assert_eq!(confirming["deleted"], 5);
    assert_eq!(world.mailbox(&deleting).await["pending_remote_deletes"], 0);
    assert_eq!(
        world.messages(&deleting).await.len(),
        5,
        "the stored copies stay"
    );
    for message in world.messages(&deleting).await {
        assert_eq!(message["remote_state"], "deleted");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_deleted_by_the_api_leaves_the_server_and_is_not_fetched_again() {
    let world = World::start().await;
    for n in 0..2 {
        world
            .dovecot
            .deliver("anna", format!("Subject: {n}\n\ntext\n").as_bytes())
            .unwrap();
    }
    let mailbox = world.create_mailbox(json!({})).await;
    world.sync(&mailbox).await;
    let messages = world.messages(&mailbox).await;
    let [first, second] = messages.as_slice() else {
        panic!("two messages")
    };

    let path = |message: &Value, scope: &str| {
        let id = message["id"].as_str().unwrap();
        format!("/v1/mailboxes/{mailbox}/messages/{id}?scope={scope}")
    };
    let answer = world.delete(&path(first, "both")).await;
    assert_eq!(answer["remote_state"], "delete_pending");
    world.delete(&path(second, "local")).await;
    assert!(world.messages(&mailbox).await.is_empty());

    world.sync(&mailbox).await;
    assert_eq!(
        world.maildrop().len(),
        1,
        "what was deleted locally only is still there"
    );
    world.sync(&mailbox).await;
    assert!(
        world.messages(&mailbox).await.is_empty(),
        "and neither is fetched again"
    );
    world.stop().await;
}

/// Syncs a mailbox that cannot work, and holds what it says and that nothing was stored.
async fn fails_with(world: &World, settings: Value, code: &str, detail: &str) {
    world
        .dovecot
        .deliver("anna", b"Subject: unreachable\n\ntext\n")
        .unwrap();
    let mailbox = world.create_mailbox(settings).await;
    let error = eventually("the mailbox has an error", async || {
        let error = world.mailbox(&mailbox).await["last_error"].clone();
        (!error.is_null()).then_some(error)
    })
    .await;
    assert_eq!(error["code"], code, "{error}");
    assert!(
        error["detail"].as_str().unwrap().contains(detail),
        "{error}"
    );
    let after = world.mailbox(&mailbox).await;
    assert_eq!(after["message_count"], 0);
    assert!(world.messages(&mailbox).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_is_told_and_stores_nothing() {
    let world = World::start().await;
    let settings = json!({ "password": "wrong" });
    fails_with(&world, settings, "auth_failed", "user name or password").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_password_is_tried_at_once() {
    let world = World::start().await;
    world
        .dovecot
        .deliver("anna", b"Subject: waiting\n\ntext\n")
        .unwrap();
    let mailbox = world.create_mailbox(json!({ "password": "wrong" })).await;
    eventually("the login is refused", async || {
        (world.mailbox(&mailbox).await["state"] == "auth_failed").then_some(())
    })
    .await;
    let path = format!("/v1/mailboxes/{mailbox}");
    let patch = json!({ "password": PASSWORD });
    let response = world
        .request(reqwest::Method::PATCH, &path)
        .json(&patch)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    eventually("the sync succeeds", async || {
        (world.mailbox(&mailbox).await["state"] == "ok").then_some(())
    })
    .await;
    assert_eq!(world.mailbox(&mailbox).await["message_count"], 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_host_is_told_and_stores_nothing() {
    let world = World::start().await;
    fails_with(
        &world,
        json!({ "host": "pop.invalid" }),
        "dns_failed",
        "pop.invalid",
    )
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_certificate_is_told_and_stores_nothing() {
    let now = OffsetDateTime::now_utc();
    let names = ["localhost"];
    let expired =
        Certificates::valid_between(&names, now - Duration::days(9), now - Duration::days(2));
    let world = World::with_certificates(expired.unwrap()).await;
    fails_with(&world, json!({}), "tls_certificate_expired", "expired").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_certificate_is_told_and_stores_nothing() {
    let world = World::start().await;
    let other = Certificates::for_names(&["localhost"]).unwrap();
    let settings = json!({ "tls_ca_pem": other.ca_pem });
    fails_with(&world, settings, "tls_certificate_untrusted", "tls_ca_pem").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_for_another_name_is_told_and_stores_nothing() {
    let world = World::with_certificates(Certificates::for_names(&["mx.example"]).unwrap()).await;
    fails_with(
        &world,
        json!({}),
        "tls_certificate_name_mismatch",
        "mx.example",
    )
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_port_taken_for_a_tls_one_is_told_and_stores_nothing() {
    let world = World::start().await;
    let settings = json!({ "port": world.dovecot.pop3().port() });
    fails_with(&world, settings, "tls_failed", "").await;
    world.stop().await;
}
