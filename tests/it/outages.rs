//! Postgres fails in mid-sync, while mail keeps coming: popbridge stays up, says so, and goes on by
//! itself; each message is stored once, has one event, and left the maildrop only after that.

use std::{
    collections::BTreeSet,
    fmt::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use popbridge::chaos::{ChaosServer, Mail, Options};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::{cluster::reachable_dir, eventually, eventually_within, program::Program};

mod connections;
mod disk;
mod server;

/// Mail that is there when the sync begins: it takes some seconds.
const BACKLOG: u32 = 1500;

/// Of this many stored, many more are on their way.
const IN_MID_SYNC: u64 = 100;

/// Lines at WARN and above that one outage may cost.
const MAX_COMPLAINTS: usize = 12;

/// Mail that arrives at most, however long an outage takes.
const MAX_ARRIVALS: u32 = 1000;

/// How long it takes at most until the leases of what was given up end.
const RECOVERY: Duration = Duration::from_secs(60);

/// A mailbox in mid-sync over a Postgres that is about to fail.
struct Scene {
    program: Program,
    pop3: Arc<ChaosServer>,
    mailbox: String,
    arriving: Arc<AtomicBool>,
    postman: JoinHandle<()>,
    dir: TempDir,
}

impl Scene {
    /// Over the Postgres at `database_url`, or a private one below `data_dir`. Each message that
    /// comes later has `octets`.
    async fn start(database: Database<'_>, octets: usize) -> Self {
        let dir = reachable_dir();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let program = match database {
            Database::At(url) => Program::over(url, &[], log.into()).await,
            Database::Below(data_dir) => Program::start_logging(data_dir, "warn", log.into()).await,
        };
        let mail = Mail {
            messages: BACKLOG,
            message_octets: 2000,
            ..Mail::default()
        };
        let options = Options {
            mail,
            ..Options::default()
        };
        let pop3 = Arc::new(ChaosServer::start(options).await.unwrap());
        let mailbox = json!({
            "host": "localhost",
            "port": pop3.address().port(),
            "tls": "none",
            "username": "demo",
            "password": "demo",
            "poll_interval_seconds": 1,
            "delete_policy": "after_store",
        });
        let mailbox = program.post("/v1/mailboxes", mailbox).await;
        let arriving = Arc::new(AtomicBool::new(true));
        let postman = tokio::spawn(deliver(Arc::clone(&pop3), Arc::clone(&arriving), octets));
        let scene = Self {
            program,
            pop3,
            mailbox: mailbox["id"].as_str().unwrap().to_owned(),
            arriving,
            postman,
            dir,
        };
        scene.stored(IN_MID_SYNC).await;
        scene
    }

    /// Waits until so many messages are stored.
    async fn stored(&self, count: u64) {
        let path = format!("/v1/mailboxes/{}", self.mailbox);
        eventually("messages are stored", async || {
            let mailbox = self.program.try_get(&path).await?;
            (mailbox["message_count"].as_u64()? >= count).then_some(())
        })
        .await;
    }

    async fn says_that_postgres_is_away(&self) {
        eventually("/readyz tells of the outage", async || {
            (self.program.readiness().await == Some(503)).then_some(())
        })
        .await;
        eventually("so do the metrics", async || {
            (self.program.metric("popbridge_database_up").await == Some(0.0)).then_some(())
        })
        .await;
        assert!(
            self.program
                .metric("popbridge_database_outages_total")
                .await
                >= Some(1.0)
        );
    }

    /// Waits until all mail is stored and gone from the server, and looks whether it is all there.
    async fn ends_well(mut self, database_url: &str) {
        eventually_within(RECOVERY, "/readyz tells of the end", async || {
            (self.program.readiness().await == Some(200)).then_some(())
        })
        .await;
        self.arriving.store(false, Ordering::Relaxed);
        self.postman.await.unwrap();
        let path = format!("/v1/mailboxes/{}", self.mailbox);
        eventually_within(RECOVERY * 2, "all mail is stored and deleted", async || {
            let mailbox = self.program.try_get(&path).await?;
            let left = self.pop3.maildrop().unique_ids().len();
            (left == 0 && mailbox["pending_remote_deletes"] == 0).then_some(())
        })
        .await;
        eventually("so do the metrics", async || {
            (self.program.metric("popbridge_database_up").await == Some(1.0)).then_some(())
        })
        .await;

        let removals = self.pop3.maildrop().removals();
        let removed: BTreeSet<String> = removals.iter().map(|r| r.unique_id.clone()).collect();
        assert_eq!(removals.len(), removed.len(), "each left the server once");
        let mut database = PgConnection::connect(database_url).await.unwrap();
        let stored: Vec<String> = sqlx::query_scalar(
            "SELECT convert_from(unique_id, 'UTF8') FROM popbridge.messages
            JOIN popbridge.raw_messages USING (mailbox_id)
            WHERE message_id = id AND octet_length(octets) = size",
        )
        .fetch_all(&mut database)
        .await
        .unwrap();
        assert_eq!(stored.len(), removed.len(), "each is stored once");
        assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), removed);
        let (events, of): (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(DISTINCT message_id) FROM popbridge.events
            WHERE type = 'message.received'",
        )
        .fetch_one(&mut database)
        .await
        .unwrap();
        let count = i64::try_from(removed.len()).unwrap();
        assert_eq!((events, of), (count, count), "each has one event");
        database.close().await.unwrap();

        assert!(self.program.is_running());
        self.program.terminate().await;
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        let complaints = log.lines().count();
        assert!(complaints <= MAX_COMPLAINTS, "{complaints} lines:\n{log}");
    }
}

enum Database<'a> {
    At(&'a str),
    Below(&'a Path),
}

/// Delivers a message every few milliseconds.
async fn deliver(pop3: Arc<ChaosServer>, arriving: Arc<AtomicBool>, octets: usize) {
    let text = noise(octets);
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    for n in 0..MAX_ARRIVALS {
        pace.tick().await;
        if !arriving.load(Ordering::Relaxed) {
            break;
        }
        let message = format!("Subject: late {n}\r\n\r\n{text}");
        pop3.maildrop().deliver(message);
    }
}

/// Text that takes its room in the database: it cannot be compressed.
fn noise(octets: usize) -> String {
    let mut text = String::new();
    while text.len() < octets {
        writeln!(
            text,
            "{:032x}{:032x}\r",
            rand::random::<u128>(),
            rand::random::<u128>()
        )
        .unwrap();
    }
    text
}
