//! SIGTERM while popbridge fetches, stores, deletes and delivers: it ends in time, nothing is lost
//! or doubled, and the next one need not wait for the end of a lease.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use popbridge::{
    chaos::{ChaosServer, Mail, Options},
    demo::receiver::Receiver,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{database::Database, eventually, program::Program};

/// Takes each life some seconds.
const MESSAGES: u32 = 1500;

/// Of them stored when the first SIGTERM comes, and the second.
const STOPS: [u64; 2] = [100, 700];

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_mid_sync_it_hands_over_at_once() {
    let database = Database::create().await;
    let mail = Mail {
        messages: MESSAGES,
        ..Mail::default()
    };
    let options = Options {
        mail,
        ..Options::default()
    };
    let pop3 = ChaosServer::start(options).await.unwrap();
    let mut program = Program::over(&database.url, &[], Stdio::inherit()).await;
    let mut receiver = Receiver::start().await.unwrap();
    let webhook = json!({ "url": receiver.url(), "events": ["message.received"] });
    let webhook = program.post("/v1/webhooks", webhook).await;
    receiver.set_secret(webhook["secret"].as_str().unwrap());
    let mailbox = json!({
        "host": "localhost",
        "port": pop3.address().port(),
        "tls": "none",
        "username": "demo",
        "password": "demo",
        "poll_interval_seconds": 1,
        "delete_policy": "after_store",
        "notify_backlog": true,
    });
    let mailbox = program.post("/v1/mailboxes", mailbox).await;
    let path = format!("/v1/mailboxes/{}", mailbox["id"].as_str().unwrap());
    let mut sql = PgConnection::connect(&database.url).await.unwrap();

    for enough in STOPS {
        eventually("messages are stored", async || {
            let stored = program.get(&path).await["message_count"].as_u64()?;
            (stored >= enough).then_some(())
        })
        .await;
        program.terminate().await;
        let handed_over: bool = sqlx::query_scalar(
            "SELECT lease_until IS NULL AND next_sync_at <= now() + interval '2 s'
            FROM popbridge.mailbox_states",
        )
        .fetch_one(&mut sql)
        .await
        .unwrap();
        assert!(handed_over, "the mailbox is due at once");
        let claimed: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM popbridge.deliveries
            WHERE state = 'pending' AND next_attempt_at > now()",
        )
        .fetch_one(&mut sql)
        .await
        .unwrap();
        assert_eq!(claimed, 0, "so are deliveries");
        program = Program::over(&database.url, &[], Stdio::inherit()).await;
    }

    eventually("all mail is stored and deleted", async || {
        let mailbox = program.get(&path).await;
        let left = pop3.maildrop().unique_ids().len();
        (left == 0 && mailbox["pending_remote_deletes"] == 0).then_some(())
    })
    .await;
    let messages: i64 = sqlx::query_scalar("SELECT count(*) FROM popbridge.messages")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(messages, i64::from(MESSAGES), "each is stored once");
    let events: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM popbridge.events WHERE type = 'message.received'")
            .fetch_all(&mut sql)
            .await
            .unwrap();
    assert_eq!(events.len(), MESSAGES as usize, "each has one event");
    let mut told = Vec::new();
    eventually("each event is delivered", async || {
        while let Ok(received) = tokio::time::timeout(Duration::ZERO, receiver.next()).await {
            assert_eq!(received.verified, Ok(()));
            told.push(received.webhook_id);
        }
        (told.len() >= events.len()).then_some(())
    })
    .await;
    assert_eq!(
        told.len(),
        events.len(),
        "and once, since stops are in good order"
    );
    assert_eq!(
        told.into_iter().collect::<BTreeSet<_>>(),
        events.into_iter().collect()
    );
    sql.close().await.unwrap();
    program.terminate().await;
}
