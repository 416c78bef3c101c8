//! Several workers on one Postgres: they share the work, never meet in a maildrop, and take over
//! from one that is killed.

use std::process::{Child, Command, Stdio};

use popbridge::store::{
    MasterKey, Store,
    mailboxes::{Auth, DeletePolicy, InitialSync, Settings, Tls},
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};

use crate::support::{crowd::Crowd, database::Database, eventually};

const MAILBOXES: usize = 500;

/// In each maildrop.
const MESSAGES: i64 = 2;

/// A replica: `popbridge serve --role worker`.
struct Worker {
    process: Child,
    url: String,
}

impl Worker {
    async fn start(
        database: &Database,
        master_key: &SecretString,
        client: &reqwest::Client,
    ) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_popbridge"))
            .args(["serve", "--role", "worker"])
            .env("DATABASE_URL", &database.url)
            .env("POPBRIDGE_MASTER_KEY", master_key.expose_secret())
            .env("POPBRIDGE_LISTEN", address.to_string())
            .env("POPBRIDGE_EGRESS_ALLOW", "127.0.0.0/8")
            .env("POPBRIDGE_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://{address}");
        eventually("the worker is ready", async || {
            let answer = client.get(format!("{url}/readyz")).send().await;
            answer.is_ok_and(|a| a.status().is_success()).then_some(())
        })
        .await;
        Self { process, url }
    }

    /// Passes it has made.
    async fn passes(&self, client: &reqwest::Client) -> usize {
        let metrics = client.get(format!("{}/metrics", self.url)).send().await;
        let metrics = metrics.unwrap().text().await.unwrap();
        let counts = metrics
            .lines()
            .filter(|line| line.starts_with("popbridge_syncs_total"));
        let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_work_and_one_takes_over() {
    replicas_share_the_work(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_share_the_work_and_two_take_over() {
    replicas_share_the_work(3).await;
}

async fn replicas_share_the_work(replicas: usize) {
    let (database, server) = (Database::create().await, Crowd::start().await);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let master_key = MasterKey::generate();
    let store = Store::new(&database.url, MasterKey::from_base64(&master_key).unwrap()).unwrap();
    store.migrate().await.unwrap();
    for n in 0..MAILBOXES {
        let settings = settings(&server, &format!("{n}-{MESSAGES}"));
        let mailbox = store.create_mailbox(&settings, &"hunter2".into()).await;
        mailbox.unwrap();
    }
    let mut postgres = PgConnection::connect(&database.url).await.unwrap();
    // Nothing is due until all are there.
    due(&mut postgres, "'infinity'").await;
    let mut workers = Vec::new();
    for _ in 0..replicas {
        workers.push(Worker::start(&database, &master_key, &client).await);
    }
    due(&mut postgres, "now()").await;
    eventually("all mailboxes are synced", async || {
        (not_synced_since(&mut postgres, "'-infinity'").await == 0).then_some(())
    })
    .await;
    let mut passes = Vec::new();
    for worker in &workers {
        passes.push(worker.passes(&client).await);
    }
    let fair = MAILBOXES / replicas;
    assert!(passes.iter().all(|passes| *passes > fair / 4), "{passes:?}");

    let logins_before: usize = server.seen().logins.values().sum();
    sqlx::query("CREATE TABLE again AS SELECT now() AS at")
        .execute(&mut postgres)
        .await
        .unwrap();
    due(&mut postgres, "now()").await;
    eventually("all are at work", async || {
        let logins: usize = server.seen().logins.values().sum();
        (logins > logins_before + 50).then_some(())
    })
    .await;
    drop(workers.pop()); // SIGKILL
    eventually("the others take over", async || {
        end_leases_of_the_dead(&mut postgres).await;
        (not_synced_since(&mut postgres, "(SELECT at FROM again)").await == 0).then_some(())
    })
    .await;
    let seen = server.seen();
    assert_eq!(seen.most_of_one, 1, "two sessions on one maildrop at once");
    let (messages, events): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM popbridge.messages),
            (SELECT count(*) FROM popbridge.events WHERE type = 'message.received')",
    )
    .fetch_one(&mut postgres)
    .await
    .unwrap();
    let all = MESSAGES * i64::try_from(MAILBOXES).unwrap();
    assert_eq!((messages, events), (all, all));
}

async fn due(postgres: &mut PgConnection, when: &'static str) {
    let statement = format!("UPDATE popbridge.mailbox_states SET next_sync_at = {when}");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(postgres)
        .await
        .unwrap();
}

/// A living worker renews its leases before a quarter of their 45 s is over. Rather than wait for
/// the rest.
async fn end_leases_of_the_dead(postgres: &mut PgConnection) {
    sqlx::query(
        "UPDATE popbridge.mailbox_states SET lease_until = now()
        WHERE lease_until < now() + interval '25 seconds'",
    )
    .execute(postgres)
    .await
    .unwrap();
}

async fn not_synced_since(postgres: &mut PgConnection, when: &'static str) -> i64 {
    let statement = format!(
        "SELECT count(*) FROM popbridge.mailbox_states
        WHERE last_success_at IS NULL OR last_success_at < {when}"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .fetch_one(postgres)
        .await
        .unwrap()
}

fn settings(server: &Crowd, username: &str) -> Settings {
    Settings {
        name: username.to_owned(),
        external_id: None,
        host: "127.0.0.1".to_owned(),
        port: server.port.into(),
        tls: Tls::None,
        tls_ca_pem: None,
        tls_pin_sha256: None,
        username: username.to_owned(),
        auth: Auth::Auto,
        poll_interval_seconds: 86_400,
        delete_policy: DeletePolicy::Never,
        delete_after_days: None,
        initial_sync: InitialSync::All,
        notify_backlog: false,
        max_message_bytes: 1 << 20,
        max_messages_per_session: 500,
        max_bytes_per_session: 1 << 30,
        retention: None,
        paused: false,
    }
}
