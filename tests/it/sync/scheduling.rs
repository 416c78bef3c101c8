//! Who is synced when: shares, turns, replicas, and mailboxes that nobody could sync for long.

use popbridge::{
    oauth::AccessTokens,
    pop3::{self, Deadlines},
    store::{
        Store,
        leases::{Claim, Counts, Failure, HostLimit, Lease, Outcome},
        mailboxes::Settings,
        wakeups::Wakeups,
    },
    sync::{Limits, Pool},
};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{LEASE, settings};
use crate::support::{
    any_host,
    crowd::Crowd,
    database::Database,
    eventually,
    pop3_peer::{connector, loopback},
};

/// Workers as a replica has them.
struct Replica {
    _pool: JoinHandle<()>,
    _stop: DropGuard,
}

impl Replica {
    fn start(store: &Store, sessions: usize, sessions_per_host: usize) -> Self {
        let pool = Pool::new(
            store.clone(),
            Wakeups::default(),
            connector(Deadlines::default()),
            AccessTokens::new(store.clone(), loopback()).unwrap(),
            Limits {
                sessions,
                sessions_per_host,
                memory: 64 << 20,
            },
        );
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        Self {
            _pool: tokio::spawn(async move { pool.run(&stopped).await }),
            _stop: stop.drop_guard(),
        }
    }
}

fn at(server: &Crowd, username: &str) -> Settings {
    let address = pop3::Server {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        tls: pop3::Tls::None,
        ca_pem: None,
        pin: None,
        pipelining: true,
    };
    Settings {
        username: username.to_owned(),
        ..settings(&address)
    }
}

async fn register(store: &Store, settings: &Settings) -> Uuid {
    let mailbox = store.create_mailbox(settings, &"hunter2".into()).await;
    mailbox.unwrap().id
}

async fn run(database: &Database, statement: &'static str) -> u64 {
    let mut postgres = PgConnection::connect(&database.url).await.unwrap();
    let done = sqlx::query(statement).execute(&mut postgres).await;
    done.unwrap().rows_affected()
}

async fn events(database: &Database, mailbox: Uuid) -> Vec<String> {
    let mut postgres = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query_scalar(
        "SELECT type FROM popbridge.events WHERE mailbox_id = $1
        AND type LIKE 'mailbox.%' ORDER BY id",
    )
    .bind(mailbox)
    .fetch_all(&mut postgres)
    .await
    .unwrap()
}

#[tokio::test]
async fn no_server_has_more_sessions_than_its_share_and_no_other_waits_for_it() {
    let database = Database::create().await;
    let store = database.store().await;
    let (busy, other) = (Crowd::start().await, Crowd::start().await);
    let mut mailboxes = Vec::new();
    for n in 0..60 {
        mailboxes.push(register(&store, &at(&busy, &format!("{n}-20"))).await);
    }
    let elsewhere = Settings {
        host: "localhost".to_owned(),
        ..at(&other, "elsewhere-1")
    };
    mailboxes.push(register(&store, &elsewhere).await);
    let _replica = Replica::start(&store, 16, 3);
    for mailbox in mailboxes {
        eventually("every mailbox is synced", async || {
            let mailbox = store.mailbox(mailbox).await.unwrap();
            mailbox.last_success_at
        })
        .await;
    }
    assert!(busy.seen().most <= 3, "{}", busy.seen().most);
    assert_eq!(other.seen().most, 1);
}

#[tokio::test]
async fn a_server_that_has_its_share_is_passed_over() {
    let database = Database::create().await;
    let store = database.store().await;
    let server = Crowd::start().await;
    for n in 0..5 {
        register(&store, &at(&server, &format!("{n}-0"))).await;
    }
    let host = "POP.example.org".to_owned();
    let last = register(
        &store,
        &Settings {
            host,
            ..at(&server, "x-0")
        },
    )
    .await;
    let claimed = async |running: &[(&str, usize)]| {
        let running = running.iter().map(|(host, n)| ((*host).to_owned(), *n));
        let limit = HostLimit {
            passes: 2,
            running: running.collect(),
        };
        store.claim_due_mailboxes(4, LEASE, &limit).await.unwrap()
    };
    let hosts = |claims: &[Claim]| {
        let mut hosts: Vec<_> = claims.iter().map(|claim| claim.host.clone()).collect();
        hosts.sort();
        hosts
    };
    let first = claimed(&[("127.0.0.1", 1)]).await;
    assert_eq!(hosts(&first), ["127.0.0.1"]);
    let second = claimed(&[("127.0.0.1", 2)]).await;
    assert_eq!(second[0].lease.mailbox_id, last);
    assert_eq!(hosts(&second), ["pop.example.org"]);
    assert_eq!(hosts(&claimed(&[]).await), ["127.0.0.1", "127.0.0.1"]);
}

#[tokio::test]
async fn a_long_backlog_takes_turns_with_the_others() {
    let database = Database::create().await;
    let store = database.store().await;
    let server = Crowd::start().await;
    // Of twenty sessions each: six passes.
    let slow = Settings {
        max_messages_per_session: 1,
        ..at(&server, "backlog-120")
    };
    let backlog = register(&store, &slow).await;
    let mut idle = Vec::new();
    for n in 0..10 {
        idle.push(register(&store, &at(&server, &format!("idle{n}-0"))).await);
    }
    let _replica = Replica::start(&store, 1, 1);
    eventually("the backlog is in", async || {
        (store.mailbox(backlog).await.unwrap().message_count == 120).then_some(())
    })
    .await;
    let syncs = store.syncs(backlog, None, 100).await.unwrap();
    assert!(syncs.len() >= 2, "it gave way: {syncs:?}");
    let end_of_first_turn = syncs.last().unwrap().finished_at.unwrap();
    let start_of_second = syncs[syncs.len() - 2].started_at.unwrap();
    for mailbox in idle {
        let synced = store.mailbox(mailbox).await.unwrap().last_sync_at.unwrap();
        assert!(end_of_first_turn <= synced && synced <= start_of_second);
    }
}

#[tokio::test]
async fn an_episode_of_failures_is_told_once_whatever_the_errors() {
    let database = Database::create().await;
    let store = database.store().await;
    let mailbox = register(&store, &at(&Crowd::start().await, "x-0")).await;
    for failure in [
        Some(("timeout", false)),
        Some(("connect_failed", false)),
        Some(("timeout", false)),
        Some(("auth_failed", true)),
        Some(("timeout", false)),
        Some(("auth_failed", true)),
        None,
        None,
        Some(("auth_failed", true)),
        Some(("timeout", false)),
        None,
    ] {
        let lease = claim(&store, &database).await;
        store.finish_pass(&lease, &outcome(failure)).await.unwrap();
    }
    assert_eq!(
        events(&database, mailbox).await,
        [
            "mailbox.error",
            "mailbox.auth_failed",
            "mailbox.recovered",
            "mailbox.auth_failed",
            "mailbox.recovered",
        ]
    );
}

#[tokio::test]
async fn a_mailbox_that_cannot_be_synced_for_long_is_stale_once_until_it_recovers() {
    let database = Database::create().await;
    let store = database.store().await;
    let mailbox = register(&store, &at(&Crowd::start().await, "x-0")).await;
    let nothing_is_stale = async || assert_eq!(store.announce_stale_mailboxes().await.unwrap(), 0);
    let finish = async |failure| {
        let lease = claim(&store, &database).await;
        store.finish_pass(&lease, &outcome(failure)).await.unwrap();
    };
    finish(None).await;
    nothing_is_stale().await;
    finish(Some(("timeout", false))).await;
    nothing_is_stale().await;
    // A day between polls: ten days.
    an_age_passes(&database, "9 days 23 hours").await;
    nothing_is_stale().await;
    an_age_passes(&database, "1 hour").await;
    let (one, other) = tokio::join!(
        store.announce_stale_mailboxes(),
        store.announce_stale_mailboxes()
    );
    assert_eq!(
        one.unwrap() + other.unwrap(),
        1,
        "of two replicas one tells"
    );
    finish(Some(("timeout", false))).await;
    an_age_passes(&database, "100 days").await;
    nothing_is_stale().await;
    finish(None).await;
    finish(Some(("timeout", false))).await;
    an_age_passes(&database, "100 days").await;
    assert_eq!(store.announce_stale_mailboxes().await.unwrap(), 1);
    assert_eq!(
        events(&database, mailbox).await,
        [
            "mailbox.error",
            "mailbox.stale",
            "mailbox.recovered",
            "mailbox.error",
            "mailbox.stale",
        ]
    );
}

#[tokio::test]
async fn a_mailbox_that_was_never_synced_becomes_stale_but_not_a_paused_one() {
    let database = Database::create().await;
    let store = database.store().await;
    let server = Crowd::start().await;
    let paused = Settings {
        paused: true,
        ..at(&server, "paused-0")
    };
    let (paused, never) = (
        register(&store, &paused).await,
        register(&store, &at(&server, "never-0")).await,
    );
    an_age_passes(&database, "11 days").await;
    // By the workers, who have nothing to sync.
    run(
        &database,
        "UPDATE popbridge.mailbox_states SET next_sync_at = NULL",
    )
    .await;
    let _replica = Replica::start(&store, 1, 1);
    eventually("it is told of", async || {
        (events(&database, never).await == ["mailbox.stale"]).then_some(())
    })
    .await;
    assert_eq!(events(&database, paused).await, Vec::<String>::new());
}

/// The only mailbox, whenever it is due.
async fn claim(store: &Store, database: &Database) -> Lease {
    run(
        database,
        "UPDATE popbridge.mailbox_states SET next_sync_at = now()",
    )
    .await;
    let claims = store.claim_due_mailboxes(1, LEASE, &any_host()).await;
    claims.unwrap().remove(0).lease
}

fn outcome(failure: Option<(&'static str, bool)>) -> Outcome {
    Outcome {
        started_at: OffsetDateTime::now_utc(),
        counts: Counts::default(),
        failure: failure.map(|(code, auth)| Failure {
            code,
            detail: "as it is".to_owned(),
            auth,
        }),
        capabilities: None,
        caught_up: true,
        next_in: None,
        pipelining_off_for: None,
        transcript: serde_json::json!({"entries": [], "left_out": 0}),
    }
}

async fn an_age_passes(database: &Database, age: &str) {
    let mut postgres = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("UPDATE popbridge.mailbox_states SET stale_at = stale_at - $1::text::interval")
        .bind(age)
        .execute(&mut postgres)
        .await
        .unwrap();
}
