//! Mailboxes that log in by OAuth 2.0: when tokens are fetched, kept, replaced and given up.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use popbridge::{
    egress::Egress,
    oauth::{self, AccessTokens},
    pop3::{self, Deadlines},
    store::{
        self, Store,
        credentials::{Credential, StoredCredential, StoredGrant},
        mailboxes::{Auth, MailboxState, Settings},
        wakeups::Wakeups,
    },
    sync::{Limits, Pool},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Engine, LEASE, Pass, settings};
use crate::support::{
    database::Database,
    eventually,
    pop3_peer::{Answer, Peer, Running, connector, loopback},
    token_endpoint::TokenEndpoint,
};

/// A server that asks for tokens and takes any.
async fn willing() -> Running {
    peer().start().await
}

/// A server that asks for tokens and refuses each.
async fn refusing() -> Running {
    peer().otherwise("-ERR [AUTH] no\r\n").start().await
}

fn peer() -> Peer {
    Peer::new(pop3::Tls::None)
        .capabilities(&["USER", "UIDL", "SASL XOAUTH2"])
        .sends("AUTH", "+ \r\n")
}

impl Engine {
    async fn first_pass_with(&self, endpoint: &TokenEndpoint, peer: &Running) -> Pass {
        let settings = settings(&peer.server);
        let credential = endpoint.credential();
        let mailbox = self.store.create_mailbox(&settings, &credential).await;
        self.passed(mailbox.unwrap().id, 1).await
    }

    /// Changes the mailbox, and waits for the end of the pass that follows.
    async fn changed(
        &self,
        before: &Pass,
        credential: Option<&Credential>,
        change: impl FnOnce(&mut Settings),
    ) -> Pass {
        let mailbox = self.store.mailbox(before.mailbox.id).await.unwrap();
        let mut settings = mailbox.settings;
        change(&mut settings);
        // Paused until the pass is asked for: one that nobody asked for may leave no trace.
        settings.paused = true;
        self.store
            .update_mailbox(mailbox.id, mailbox.updated_at, &settings, credential)
            .await
            .unwrap();
        let mut database = PgConnection::connect(&self._database.url).await.unwrap();
        sqlx::query("UPDATE popbridge.mailboxes SET paused = false")
            .execute(&mut database)
            .await
            .unwrap();
        self.next_pass(before).await
    }
}

async fn stored(store: &Store, mailbox: Uuid) -> StoredGrant {
    match store.mailbox_credential(mailbox).await.unwrap() {
        StoredCredential::OAuth2(stored) => stored,
        StoredCredential::Password(_) => panic!("a grant is stored"),
    }
}

async fn stored_refresh_token(store: &Store, mailbox: Uuid) -> String {
    let grant = stored(store, mailbox).await.grant;
    grant.refresh_token.expose_secret().to_owned()
}

/// The tokens that came to a peer.
fn tokens_at(peer: &Running) -> Vec<String> {
    let sent = |line: &String| {
        let message = String::from_utf8(STANDARD.decode(line).ok()?).ok()?;
        let (_, rest) = message.split_once("auth=Bearer ")?;
        Some(rest.trim_end_matches('\x01').to_owned())
    };
    peer.commands().iter().filter_map(sent).collect()
}

/// The types of the events so far.
async fn events(engine: &Engine) -> Vec<String> {
    let mut database = PgConnection::connect(&engine._database.url).await.unwrap();
    sqlx::query_scalar("SELECT type FROM popbridge.events WHERE type LIKE 'mailbox.%' ORDER BY id")
        .fetch_all(&mut database)
        .await
        .unwrap()
}

#[tokio::test]
async fn access_token_is_used_until_it_expires_and_then_a_new_one() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    let first = engine.first_pass_with(&endpoint, &peer).await;
    assert_eq!((first.error(), first.stored), (None, 2));
    let second = engine.next_pass(&first).await;
    assert_eq!(endpoint.asked(), 1);

    let mut database = PgConnection::connect(&engine._database.url).await.unwrap();
    // A minute before its end a token is used no more.
    sqlx::query("UPDATE popbridge.mailboxes SET access_token_expires_at = now() + interval '59 s'")
        .execute(&mut database)
        .await
        .unwrap();
    let third = engine.next_pass(&second).await;
    assert_eq!(third.error(), None);
    assert_eq!(
        tokens_at(&peer),
        ["access-1.", "access-1.", "access-2."],
        "one login for each pass"
    );
    assert_eq!((endpoint.asked(), endpoint.reused()), (2, 0));
}

#[tokio::test]
async fn tokens_are_kept_sealed_and_for_as_long_as_they_live() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    for (expires_in, seconds) in [
        (json!(3600), Some(3600)),
        (json!("1800"), Some(1800)),
        (json!(null), Some(300)),
        (json!(0), None),
    ] {
        endpoint.set_expires_in(expires_in);
        let pass = engine.first_pass_with(&endpoint, &peer).await;
        let stored = stored(&engine.store, pass.mailbox.id).await;
        let given = endpoint.refresh_token();
        assert_eq!(stored.grant.refresh_token.expose_secret(), given);
        match (stored.access_token, seconds) {
            (Some(kept), Some(seconds)) => {
                assert_eq!(
                    kept.token.expose_secret(),
                    *endpoint.access_tokens().last().unwrap()
                );
                let life = Duration::from_secs(seconds);
                assert!((life / 2..=life).contains(&kept.expires_in), "{kept:?}");
            }
            (kept, seconds) => assert_eq!((kept.is_none(), seconds), (true, None)),
        }
    }
    let mut database = PgConnection::connect(&engine._database.url).await.unwrap();
    let dump: Vec<String> =
        sqlx::query_scalar("SELECT row_to_json(m)::text
            || encode(sealed_secret, 'escape') || encode(coalesce(sealed_access_token, ''), 'escape')
            FROM popbridge.mailboxes m")
            .fetch_all(&mut database)
            .await
            .unwrap();
    for row in dump {
        for secret in ["refresh-", "access-", "client-s3cret"] {
            assert!(!row.contains(secret), "{row}");
        }
    }
}

#[tokio::test]
async fn new_tokens_are_stored_before_they_are_used() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let server = Peer::new(pop3::Tls::None).answer("AUTH", Answer::Close(Vec::new()));
    let peer = server.start().await;
    let pass = engine.first_pass_with(&endpoint, &peer).await;
    assert_eq!(pass.error(), Some("connection_closed"));
    let rotated = stored_refresh_token(&engine.store, pass.mailbox.id).await;
    assert_eq!(rotated, "refresh-1");
    assert!(tokens_at(&peer).is_empty(), "the server never asked for it");
}

#[tokio::test]
async fn refused_token_that_was_kept_is_replaced_before_that_counts() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let (willing, refusing) = (willing().await, refusing().await);
    let first = engine.first_pass_with(&endpoint, &willing).await;

    let refusing_port = refusing.server.port.into();
    let second = engine
        .changed(&first, None, |s| s.port = refusing_port)
        .await;
    assert_eq!(second.error(), Some("access_token_stale"));
    assert_eq!(second.mailbox.state, MailboxState::BackingOff);
    assert_eq!(tokens_at(&refusing), ["access-1."]);
    assert_eq!(endpoint.asked(), 1);

    let third = engine.next_pass(&second).await;
    assert_eq!(third.error(), Some("auth_failed"));
    assert_eq!(third.mailbox.state, MailboxState::AuthFailed);
    assert_eq!(tokens_at(&refusing), ["access-1.", "access-2."]);

    let willing_port = willing.server.port.into();
    let fourth = engine
        .changed(&third, None, |s| s.port = willing_port)
        .await;
    assert_eq!(fourth.error(), None);
    assert_eq!((endpoint.asked(), endpoint.reused()), (3, 0));
    assert_eq!(
        events(&engine).await,
        ["mailbox.error", "mailbox.auth_failed", "mailbox.recovered"]
    );
}

#[tokio::test]
async fn five_refused_tokens_end_the_tries_until_somebody_acts() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = refusing().await;
    let mut pass = engine.first_pass_with(&endpoint, &peer).await;
    for _ in 1..5 {
        assert!(pass.mailbox.next_sync_at.is_some());
        pass = engine.next_pass(&pass).await;
    }
    assert_eq!(pass.error(), Some("auth_failed"));
    assert_eq!(pass.mailbox.next_sync_at, None);
    assert_eq!(tokens_at(&peer).len(), 5, "one login for each pass");
    assert_eq!(events(&engine).await, ["mailbox.auth_failed"]);
}

#[tokio::test]
async fn grant_that_is_refused_counts_and_a_new_one_mends_it() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    endpoint.answer_instead(Some((
        400,
        r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
    )));
    let mut pass = engine.first_pass_with(&endpoint, &peer).await;
    for _ in 1..5 {
        assert!(pass.mailbox.next_sync_at.is_some());
        pass = engine.next_pass(&pass).await;
    }
    assert_eq!(pass.error(), Some("oauth_refused"));
    let detail = &pass.mailbox.last_error.as_ref().unwrap().detail;
    assert!(
        detail.contains("Token has been expired or revoked."),
        "{detail}"
    );
    assert!(detail.contains("consent again"), "{detail}");
    assert_eq!(pass.mailbox.state, MailboxState::AuthFailed);
    assert_eq!(pass.mailbox.next_sync_at, None);
    assert!(peer.commands().is_empty(), "nobody logs in without a token");

    endpoint.answer_instead(None);
    let consented = endpoint.credential();
    let mended = engine.changed(&pass, Some(&consented), |_| {}).await;
    assert_eq!((mended.error(), mended.stored), (None, 2));
    assert_eq!(
        events(&engine).await,
        ["mailbox.auth_failed", "mailbox.recovered"]
    );
}

#[tokio::test]
async fn token_endpoint_that_is_down_is_no_authentication_failure() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    let endless = "x".repeat(70 << 10);
    let mut pass: Option<Pass> = None;
    for (status, body) in [
        (503, ""),
        (429, "slow down"),
        (400, r#"{"error":"temporarily_unavailable"}"#),
        (200, "<html>Sign in</html>"),
        (200, endless.as_str()),
        (302, ""),
    ] {
        endpoint.answer_instead(Some((status, body)));
        let next = match &pass {
            None => engine.first_pass_with(&endpoint, &peer).await,
            Some(before) => engine.next_pass(before).await,
        };
        assert_eq!(next.error(), Some("oauth_unreachable"), "{status} {body}");
        assert_eq!(next.mailbox.state, MailboxState::BackingOff);
        assert!(next.mailbox.next_sync_at.is_some());
        pass = Some(next);
    }
    endpoint.answer_instead(None);
    let pass = engine.next_pass(&pass.unwrap()).await;
    assert_eq!((pass.error(), pass.stored), (None, 2));
}

#[tokio::test]
async fn token_endpoint_that_never_answers_is_given_up() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    endpoint.hold();
    let peer = willing().await;
    let pass = engine.first_pass_with(&endpoint, &peer).await;
    assert_eq!(pass.error(), Some("oauth_unreachable"));
    assert!(peer.commands().is_empty());
}

#[tokio::test]
async fn token_endpoint_on_a_forbidden_address_is_not_reached() {
    let (database, endpoint) = (Database::create().await, TokenEndpoint::start("user").await);
    let store = database.store().await;
    let peer = willing().await;
    let mailbox = store
        .create_mailbox(&settings(&peer.server), &endpoint.credential())
        .await
        .unwrap();
    let (stop, pool) = replica(&store, Egress::default());
    let error = eventually("the pass fails", async || {
        store.mailbox(mailbox.id).await.unwrap().last_error
    })
    .await;
    assert_eq!(error.code, "egress_refused");
    assert!(
        error.detail.contains("POPBRIDGE_EGRESS_ALLOW"),
        "{}",
        error.detail
    );
    assert_eq!(endpoint.asked(), 0);
    stop.cancel();
    pool.await.unwrap();
}

/// A pool of workers as another replica has it.
fn replica(store: &Store, egress: Egress) -> (CancellationToken, JoinHandle<()>) {
    let pool = Pool::new(
        store.clone(),
        Wakeups::default(),
        connector(Deadlines::default()),
        AccessTokens::new(store.clone(), egress).unwrap(),
        Limits {
            sessions: 4,
            sessions_per_host: 4,
            memory: 64 << 20,
        },
    );
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let running = tokio::spawn(async move { pool.run(&stopped).await });
    (stop, running)
}

#[tokio::test]
async fn stop_in_the_middle_of_a_refresh_loses_no_refresh_token() {
    let (database, endpoint) = (Database::create().await, TokenEndpoint::start("user").await);
    let store = database.store().await;
    let peer = willing().await;
    endpoint.hold();
    let (stop, pool) = replica(&store, loopback());
    let mailbox = store
        .create_mailbox(&settings(&peer.server), &endpoint.credential())
        .await
        .unwrap();
    endpoint.was_asked(1).await;
    stop.cancel();
    let claims = store
        .claim_due_mailboxes(1, LEASE, &crate::support::any_host())
        .await
        .unwrap();
    assert!(claims.is_empty(), "nobody else may refresh meanwhile");
    endpoint.open();
    pool.await.unwrap();

    assert_eq!(stored_refresh_token(&store, mailbox.id).await, "refresh-1");
    let (stop, pool) = replica(&store, loopback());
    eventually("the next replica syncs", async || {
        let mailbox = store.mailbox(mailbox.id).await.unwrap();
        (mailbox.state == MailboxState::Ok).then_some(())
    })
    .await;
    assert_eq!((endpoint.asked(), endpoint.reused()), (1, 0));
    stop.cancel();
    pool.await.unwrap();
}

#[tokio::test]
async fn two_replicas_use_no_refresh_token_twice() {
    let (database, endpoint) = (Database::create().await, TokenEndpoint::start("user").await);
    endpoint.set_expires_in(json!(1));
    let store = database.store().await;
    let peer = willing().await;
    let replicas = [replica(&store, loopback()), replica(&store, loopback())];
    let mailbox = store
        .create_mailbox(&settings(&peer.server), &endpoint.credential())
        .await
        .unwrap();
    eventually("twenty passes were made", async || {
        store.request_sync(mailbox.id).await.unwrap();
        (endpoint.asked() >= 20).then_some(())
    })
    .await;
    for (stop, pool) in replicas {
        stop.cancel();
        pool.await.unwrap();
    }
    assert_eq!(endpoint.reused(), 0);
    assert_eq!(
        store
            .mailbox(mailbox.id)
            .await
            .unwrap()
            .last_error
            .map(|e| e.code),
        None
    );
    let rotated = stored_refresh_token(&store, mailbox.id).await;
    assert_eq!(rotated, endpoint.refresh_token());
}

#[tokio::test]
async fn late_worker_without_the_lease_refreshes_nothing() {
    let (database, endpoint) = (Database::create().await, TokenEndpoint::start("user").await);
    let store = database.store().await;
    let peer = willing().await;
    let mailbox = store
        .create_mailbox(&settings(&peer.server), &endpoint.credential())
        .await
        .unwrap();
    let late = store
        .claim_due_mailboxes(1, Duration::ZERO, &crate::support::any_host())
        .await
        .unwrap()[0]
        .lease;
    store
        .claim_due_mailboxes(1, LEASE, &crate::support::any_host())
        .await
        .unwrap();

    let tokens = AccessTokens::new(store.clone(), loopback()).unwrap();
    let grant = stored(&store, mailbox.id).await;
    let refused = tokens.access_token(&late, &grant).await.unwrap_err();
    let lost = matches!(refused, oauth::Error::Store(store::Error::LeaseLost));
    assert!(lost, "{refused:?}");
    assert_eq!(endpoint.asked(), 0);
}

#[tokio::test]
async fn grant_that_was_given_during_a_refresh_stays() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let consented = TokenEndpoint::start("user").await;
    let peer = willing().await;
    endpoint.hold();
    let created = engine
        .store
        .create_mailbox(&settings(&peer.server), &endpoint.credential())
        .await
        .unwrap();
    endpoint.was_asked(1).await;
    engine
        .store
        .update_mailbox(
            created.id,
            created.updated_at,
            &created.settings,
            Some(&consented.credential()),
        )
        .await
        .unwrap();
    endpoint.open();

    let pass = engine.passed(created.id, 1).await;
    assert_eq!((pass.error(), pass.stored), (None, 2));
    assert_eq!((endpoint.asked(), consented.asked()), (1, 1));
    let rotated = stored_refresh_token(&engine.store, created.id).await;
    assert_eq!(rotated, consented.refresh_token());
    assert!(events(&engine).await.is_empty(), "it was no failure");
}

#[tokio::test]
async fn pass_of_many_sessions_does_not_outlive_its_token() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    endpoint.set_expires_in(json!(30));
    let messages = (0..25).map(|n| format!("Subject: {n}\r\n\r\ntext\r\n"));
    let peer = peer().messages(messages).start().await;
    let mut settings = settings(&peer.server);
    settings.max_messages_per_session = 10;
    let created = engine
        .store
        .create_mailbox(&settings, &endpoint.credential())
        .await
        .unwrap();
    eventually("all is fetched", async || {
        let messages = engine.store.messages(created.id, None, 500).await.unwrap();
        (messages.len() == 25).then_some(())
    })
    .await;
    assert_eq!(tokens_at(&peer), ["access-1.", "access-2.", "access-3."]);
    assert_eq!(endpoint.reused(), 0);
}

#[tokio::test]
async fn other_changes_keep_the_access_token_and_a_new_grant_drops_it() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    let first = engine.first_pass_with(&endpoint, &peer).await;
    let second = engine
        .changed(&first, None, |s| s.auth = Auth::Oauthbearer)
        .await;
    assert_eq!((second.error(), endpoint.asked()), (None, 1));
    let again = endpoint.credential();
    let third = engine.changed(&second, Some(&again), |_| {}).await;
    assert_eq!((third.error(), endpoint.asked()), (None, 2));
}

#[tokio::test]
async fn nothing_of_a_grant_shows_when_it_is_formatted() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    let pass = engine.first_pass_with(&endpoint, &peer).await;
    let stored = stored(&engine.store, pass.mailbox.id).await;
    let shown = format!("{stored:?} {:?}", endpoint.credential());
    for secret in ["refresh-", "access-", "client-s3cret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn announced_delay_between_logins_is_kept() {
    let engine = Engine::start().await;
    let capabilities = ["USER", "UIDL", "LOGIN-DELAY 1800"];
    let peer = Peer::new(pop3::Tls::None).capabilities(&capabilities);
    let peer = peer.start().await;
    let pass = engine
        .first_pass(&peer, |s| s.poll_interval_seconds = 1)
        .await;
    assert_eq!(pass.error(), None);
    let next = pass.mailbox.next_sync_at.unwrap();
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(1200);
    assert!(next > soon, "{next}");
}

#[tokio::test]
async fn error_that_a_token_endpoint_words_itself_is_bounded() {
    let (engine, endpoint) = (Engine::start().await, TokenEndpoint::start("user").await);
    let peer = willing().await;
    let body: Value = json!({
        "error": "invalid_grant",
        "error_description": format!("no refresh-0 {}", "\u{1b}x".repeat(20_000)),
    });
    endpoint.answer_instead(Some((400, &body.to_string())));
    let pass = engine.first_pass_with(&endpoint, &peer).await;
    let detail = pass.mailbox.last_error.unwrap().detail;
    assert!(
        detail.len() < 1000 && !detail.contains("refresh-0"),
        "{detail}"
    );
    assert!(!detail.contains('\u{1b}'), "{detail}");
}
