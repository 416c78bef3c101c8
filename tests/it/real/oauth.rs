//! A Dovecot that takes access tokens only, and asks the token endpoint about each.

use std::path::Path;

use popbridge::pop3::Tls;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{
    eventually,
    pop3_peer::Peer,
    program::Program,
    token_endpoint::TokenEndpoint,
    world::{USERNAME, World},
};

/// Dovecot's own limit is 8192 octets of base64 with all that is around the token.
const LONG: usize = 5000;

/// Dovecot with OAuth 2.0, and without passwords.
async fn world(endpoint: &TokenEndpoint) -> World {
    let introspection = endpoint.introspection_url();
    World::with_dovecot_files(|dir: &Path| {
        vec![
            (
                "local.conf",
                format!(
                    "auth_mechanisms = xoauth2 oauthbearer\n\
                    passdb {{\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  \
                      args = {}/oauth2.conf\n}}\n",
                    dir.display()
                ),
            ),
            (
                "oauth2.conf",
                format!(
                    "introspection_mode = post\n\
                    introspection_url = {introspection}\n\
                    username_attribute = username\n\
                    active_attribute = active\n\
                    active_value = true\n"
                ),
            ),
        ]
    })
    .await
}

fn settings(endpoint: &TokenEndpoint, auth: &str) -> Value {
    json!({ "password": null, "oauth2": endpoint.oauth2(), "auth": auth })
}

/// Makes the access token that is kept look as if its time was over.
async fn expire(world: &World) {
    let mut database = PgConnection::connect(&world.database.url).await.unwrap();
    sqlx::query("UPDATE popbridge.mailboxes SET access_token_expires_at = now() - interval '1 s'")
        .execute(&mut database)
        .await
        .unwrap();
}

async fn mail_comes_with_long_tokens(auth: &str) {
    let endpoint = TokenEndpoint::start(USERNAME).await;
    endpoint.set_token_octets(LONG);
    let world = world(&endpoint).await;
    for n in 0..3 {
        let message = format!("Subject: {n}\n\ntext\n");
        world.dovecot.deliver(USERNAME, message.as_bytes()).unwrap();
    }
    let mailbox = world.create_mailbox(settings(&endpoint, auth)).await;
    let first = world.sync(&mailbox).await;
    assert_eq!(first["state"], "succeeded", "{first}");
    assert_eq!(world.messages(&mailbox).await.len(), 3);
    assert_eq!(world.mailbox(&mailbox).await["auth"], auth);

    let message = b"Subject: later\n\ntext\n";
    world.dovecot.deliver(USERNAME, message).unwrap();
    endpoint.revoke_access_tokens();
    expire(&world).await;
    let second = world.sync(&mailbox).await;
    assert_eq!(
        (&second["state"], &second["stored"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!((endpoint.asked(), endpoint.reused()), (2, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_comes_with_long_tokens_by_xoauth2() {
    mail_comes_with_long_tokens("xoauth2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_comes_with_long_tokens_by_oauthbearer() {
    mail_comes_with_long_tokens("oauthbearer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_comes_with_long_tokens_by_what_the_server_offers() {
    mail_comes_with_long_tokens("auto").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_was_revoked_early_is_replaced_at_the_next_pass() {
    let endpoint = TokenEndpoint::start(USERNAME).await;
    let world = world(&endpoint).await;
    let mailbox = world.create_mailbox(settings(&endpoint, "xoauth2")).await;
    assert_eq!(world.sync(&mailbox).await["state"], "succeeded");

    endpoint.revoke_access_tokens();
    let refused = world.sync(&mailbox).await;
    assert_eq!(refused["error"]["code"], "access_token_stale", "{refused}");
    let mended = world.sync(&mailbox).await;
    assert_eq!(mended["state"], "succeeded", "{mended}");
    assert_eq!((endpoint.asked(), endpoint.reused()), (2, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_consent_is_tried_at_once() {
    let endpoint = TokenEndpoint::start(USERNAME).await;
    let world = world(&endpoint).await;
    let mut withdrawn = endpoint.oauth2();
    withdrawn["refresh_token"] = json!("withdrawn");
    let mailbox = world
        .create_mailbox(json!({ "password": null, "oauth2": withdrawn }))
        .await;
    let error = eventually("the grant is refused", async || {
        let mailbox = world.mailbox(&mailbox).await;
        (mailbox["state"] == "auth_failed").then(|| mailbox["last_error"].clone())
    })
    .await;
    assert_eq!(error["code"], "oauth_refused", "{error}");

    let path = format!("/v1/mailboxes/{mailbox}");
    let patch = json!({ "oauth2": endpoint.oauth2() });
    let patched = world
        .request(Method::PATCH, &path)
        .json(&patch)
        .send()
        .await;
    assert_eq!(patched.unwrap().status(), StatusCode::OK);
    eventually("the sync succeeds", async || {
        (world.mailbox(&mailbox).await["state"] == "ok").then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_another_user_is_an_authentication_failure_and_shows_nowhere() {
    let endpoint = TokenEndpoint::start("bert").await;
    let world = world(&endpoint).await;
    let mailbox = world.create_mailbox(settings(&endpoint, "auto")).await;
    let sync = world.sync(&mailbox).await;
    assert_eq!(sync["error"]["code"], "auth_failed", "{sync}");
    let mailbox = world.mailbox(&mailbox).await;
    assert_eq!(mailbox["state"], "auth_failed");
    let detail = mailbox["last_error"]["detail"].as_str().unwrap();
    assert!(detail.contains("access token"), "{detail}");
    for shown in [sync.to_string(), mailbox.to_string()] {
        for secret in ["access-", "refresh-", "client-s3cret"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    world.stop().await;
}

/// The program with everything logged that it can log.
async fn program(dir: &Path) -> Program {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"));
    Program::start_logging(&dir.join("data"), "trace", log.unwrap().into()).await
}

/// Syncs and returns how that ended.
async fn synced(program: &Program, mailbox: &str) -> Value {
    let path = format!("/v1/mailboxes/{mailbox}/sync");
    let asked = program.post(&path, json!({})).await;
    let path = format!("{path}s/{}", asked["id"].as_str().unwrap());
    eventually("the sync ends", async || {
        let sync = program.get(&path).await;
        (!sync["finished_at"].is_null()).then(|| sync["error"]["code"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_leaves_its_tokens_to_the_next_and_none_in_its_log() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let everyone_through = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), everyone_through).unwrap();
    let endpoint = TokenEndpoint::start("user").await;
    let asks = |peer: Peer| peer.sends("AUTH", "+ \r\n");
    let willing = asks(Peer::new(Tls::None)).start().await;
    let refusing = asks(Peer::new(Tls::None)).otherwise("-ERR [AUTH] no\r\n");
    let refusing = refusing.start().await;

    let first = program(dir.path()).await;
    let mut mailboxes = Vec::new();
    for peer in [&willing, &refusing] {
        let mailbox = json!({
            "host": "localhost", "port": peer.server.port, "tls": "none", "username": "user",
            "oauth2": endpoint.oauth2(), "auth": "xoauth2", "poll_interval_seconds": 86400,
        });
        let mailbox = first.post("/v1/mailboxes", mailbox).await;
        let mailbox = mailbox["id"].as_str().unwrap().to_owned();
        synced(&first, &mailbox).await;
        mailboxes.push(mailbox);
    }
    let asked = endpoint.asked();
    first.kill();

    // Its dead worker's lease ends at the start, since the process is alone with its database.
    let second = program(dir.path()).await;
    assert_eq!(synced(&second, &mailboxes[0]).await, Value::Null);
    assert_eq!(endpoint.asked(), asked, "the access token was kept");
    assert_eq!(synced(&second, &mailboxes[1]).await, "auth_failed");
    assert_eq!(endpoint.asked(), asked + 1, "the refused one was not");
    assert_eq!(endpoint.reused(), 0);
    second.terminate().await;

    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("synced") && log.contains("TRACE"), "it logs");
    // The last is how the line with the token begins.
    for secret in [
        "refresh-",
        "access-1",
        "client-s3cret",
        "dXNlcj11c2VyAWF1dGg9QmVhcmVy",
    ] {
        let leak = log.lines().find(|line| line.contains(secret));
        assert_eq!(leak, None, "{secret}");
    }
}
