//! A worker that stands still for longer than its lease, and then goes on as if nothing were.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{crowd::Crowd, database::Database, eventually, program::Program};

/// Enough for ten sessions of a first sync.
const MESSAGES: i64 = 5000;

/// The maildrop's user: the server reads from it how many messages there are.
const USER: &str = "late-5000";

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_wakes_up_late_writes_nothing() {
    let (database, server) = (Database::create().await, Crowd::start().await);
    let early = Program::over(&database.url, &[], Stdio::inherit()).await;
    let mut postgres = PgConnection::connect(&database.url).await.unwrap();
    let mailbox = json!({
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "username": USER,
        "password": "hunter2",
        "poll_interval_seconds": 86400,
    });
    early.post("/v1/mailboxes", mailbox).await;
    eventually("some is stored", async || {
        (stored(&mut postgres).await > 0).then_some(())
    })
    .await;
    signal(&early, Signal::SIGSTOP);
    let stopped_at = stored(&mut postgres).await;
    assert!(stopped_at < MESSAGES, "it stands still in the middle");

    let worker = [("POPBRIDGE_ROLE", "worker")];
    let late = Program::over(&database.url, &worker, Stdio::inherit()).await;
    // Rather than wait for its end. Should the lease be locked by a transaction that stands still
    // too, Postgres ends that first.
    sqlx::query("UPDATE popbridge.mailbox_states SET lease_until = now()")
        .execute(&mut postgres)
        .await
        .unwrap();
    eventually("the other worker ends what was begun", async || {
        caught_up(&mut postgres).await.then_some(())
    })
    .await;
    assert_eq!(
        server.seen().sessions_of(USER),
        1,
        "the first still has its own"
    );
    let before = state(&mut postgres).await;

    signal(&early, Signal::SIGCONT);
    eventually("the first gives up", async || {
        (server.seen().sessions_of(USER) == 0).then_some(())
    })
    .await;
    // In good order: what it might still write it writes before it ends.
    early.terminate().await;
    assert_eq!(state(&mut postgres).await, before);
    let (messages, received, told): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM popbridge.messages), count(*), count(DISTINCT message_id)
        FROM popbridge.events WHERE type = 'message.received'",
    )
    .fetch_one(&mut postgres)
    .await
    .unwrap();
    assert_eq!((messages, received, told), (MESSAGES, MESSAGES, MESSAGES));
    late.terminate().await;
}

fn signal(program: &Program, signal: Signal) {
    kill(Pid::from_raw(program.id().try_into().unwrap()), signal).unwrap();
}

async fn stored(postgres: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM popbridge.messages")
        .fetch_one(postgres)
        .await
        .unwrap()
}

async fn caught_up(postgres: &mut PgConnection) -> bool {
    sqlx::query_scalar(
        "SELECT backlog_done_at IS NOT NULL AND lease_until IS NULL FROM popbridge.mailbox_states",
    )
    .fetch_one(postgres)
    .await
    .unwrap()
}

/// The mailbox's state and history, as text.
async fn state(postgres: &mut PgConnection) -> String {
    sqlx::query_scalar(
        "SELECT s::text || (SELECT array_agg(y ORDER BY id)::text FROM popbridge.syncs y)
        FROM popbridge.mailbox_states s",
    )
    .fetch_one(postgres)
    .await
    .unwrap()
}
