//! `kill -9` at any point: nothing is lost, nothing is stored or told of twice.

use std::{collections::HashSet, time::Duration};

use popbridge::demo::{
    certificates::Certificates,
    dovecot::{Account, Dovecot},
    receiver::Receiver,
};
use rand::RngExt;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{eventually, eventually_within, program::Program};

const KILLS: usize = 40;
const MESSAGES_PER_LIFE: usize = 20;
/// A dispatcher that is killed leaves deliveries claimed for a minute.
const DELIVERY_LEASE: Duration = Duration::from_secs(60);

async fn subjects(program: &Program, mailbox: &str) -> Vec<String> {
    let mut subjects = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/mailboxes/{mailbox}/messages?limit=500{cursor}");
        let page = program.get(&path).await;
        let items = page["items"].as_array().unwrap();
        subjects.extend(
            items
                .iter()
                .map(|item| item["subject"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return subjects,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_it_loses_nothing_and_doubles_nothing() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )
    .unwrap();
    let (data_dir, dovecot_dir) = (dir.path().join("data"), dir.path().join("dovecot"));
    std::fs::create_dir(&dovecot_dir).unwrap();
    let certificates = Certificates::for_names(&["localhost"]).unwrap();
    let account = Account {
        username: "anna".into(),
        password: "secret".into(),
    };
    let dovecot = Dovecot::start(&dovecot_dir, &[account], &certificates)
        .await
        .unwrap();
    let mut receiver = Receiver::start().await.unwrap();

    let program = Program::private(&data_dir).await;
    let webhook = json!({ "url": receiver.url(), "events": ["message.received"] });
    let webhook = program.post("/v1/webhooks", webhook).await;
    receiver.set_secret(webhook["secret"].as_str().unwrap());
    let mailbox = json!({
        "host": "localhost",
        "port": dovecot.pop3s().port(),
        "username": "anna",
        "password": "secret",
        "tls_ca_pem": certificates.ca_pem,
        "poll_interval_seconds": 1,
        "delete_policy": "after_store",
        "notify_backlog": true,
    });
    let mailbox = program.post("/v1/mailboxes", mailbox).await;
    let mailbox = mailbox["id"].as_str().unwrap();

    let mut sent = HashSet::new();
    let mut program = Some(program);
    for life in 0..KILLS {
        for n in 0..MESSAGES_PER_LIFE {
            let subject = format!("life {life} message {n}");
            let body = "a line of text\n".repeat(rand::rng().random_range(1..2000));
            dovecot
                .deliver("anna", format!("Subject: {subject}\n\n{body}").as_bytes())
                .unwrap();
            sent.insert(subject);
        }
        let running = match program.take() {
            Some(running) => running,
            None => Program::private(&data_dir).await,
        };
        // The moment is what is varied; that it differs from run to run is the point.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..700))).await;
        running.kill();
    }

    let program = Program::private(&data_dir).await;
    eventually("the maildrop is empty and that is confirmed", async || {
        let state = program.get(&format!("/v1/mailboxes/{mailbox}")).await;
        let left =
            ["new", "cur"].map(|part| dovecot.maildir("anna").join(part).read_dir().unwrap());
        let left = left.into_iter().flatten().count();
        let stored = state["message_count"] == sent.len();
        (stored && left == 0 && state["pending_remote_deletes"] == 0).then_some(())
    })
    .await;

    let stored = subjects(&program, mailbox).await;
    assert_eq!(stored.len(), sent.len(), "each message is stored once");
    assert_eq!(
        stored.into_iter().collect::<HashSet<_>>(),
        sent,
        "and none is missing"
    );

    let url = std::fs::read_to_string(data_dir.join("database-url")).unwrap();
    let mut database = PgConnection::connect(url.trim()).await.unwrap();
    let events: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM popbridge.events WHERE type = 'message.received'")
            .fetch_all(&mut database)
            .await
            .unwrap();
    assert_eq!(events.len(), sent.len(), "each message has one event");

    let mut waiting: HashSet<String> = events.into_iter().collect();
    eventually_within(DELIVERY_LEASE * 2, "each event is delivered", async || {
        while let Ok(received) = tokio::time::timeout(Duration::ZERO, receiver.next()).await {
            assert_eq!(received.verified, Ok(()));
            waiting.remove(&received.webhook_id);
        }
        waiting.is_empty().then_some(())
    })
    .await;
    database.close().await.unwrap();
    program.terminate().await;
}
