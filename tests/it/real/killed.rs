//! `kill -9` at any point: nothing is lost, nothing is stored or told of twice.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use popbridge::demo::{
    certificates::Certificates,
    dovecot::{Account, Dovecot},
    receiver::Receiver,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{eventually_within, program::Program};

/// More with `script/soak`.
const KILLS: usize = 40;

/// What waits for a life, by turns: a pass of one batch, or of some.
const WAITING: [usize; 4] = [1, 10, 250, 10];
/// A dispatcher that is killed leaves deliveries claimed for a minute, those aside that were never
/// attempted.
const DELIVERY_LEASE: Duration = Duration::from_secs(60);

/// What each message adds to the time that the end may take, on a busy machine.
const PER_MESSAGE: Duration = Duration::from_millis(20);

/// What the database tells of the moment of a kill; the first three only of a pass.
const PHASES: &str = "SELECT
        lease_until > now() AND entries < $1 AS fetching,
        lease_until > now() AND stored > 0 AS storing,
        lease_until > now() AND sent > 0 AS deleting,
        EXISTS (SELECT FROM popbridge.deliveries
            WHERE state = 'pending' AND attempts = 0 AND next_attempt_at > now()) AS delivering
    FROM popbridge.mailbox_states, LATERAL (
        SELECT count(*) AS entries,
            count(*) FILTER (WHERE stored_at IS NOT NULL AND dele_sent_at IS NULL) AS stored,
            count(*) FILTER (WHERE dele_sent_at IS NOT NULL AND absent_at IS NULL) AS sent
        FROM popbridge.maildrop_entries
    ) entries";

/// Kills that came in each phase; one can come in several.
#[derive(Debug, Default)]
struct Phases {
    fetching: usize,
    storing: usize,
    deleting: usize,
    delivering: usize,
    idle: usize,
}

impl Phases {
    /// Reads what a program left that was just killed; its Postgres still runs.
    async fn count(&mut self, data_dir: &Path, delivered: usize) {
        let url = std::fs::read_to_string(data_dir.join("database-url")).unwrap();
        let mut database = PgConnection::connect(url.trim()).await.unwrap();
        let phases: (Option<bool>, Option<bool>, Option<bool>, bool) = sqlx::query_as(PHASES)
            .bind(i64::try_from(delivered).unwrap())
            .fetch_one(&mut database)
            .await
            .unwrap();
        let (fetching, storing, deleting, delivering) = phases;
        let of_pass = [fetching, storing, deleting].map(|phase| phase == Some(true));
        let counts = [&mut self.fetching, &mut self.storing, &mut self.deleting];
        for (count, was) in counts.into_iter().zip(of_pass) {
            *count += usize::from(was);
        }
        self.delivering += usize::from(delivering);
        self.idle += usize::from(of_pass == [false; 3] && !delivering);
    }
}

#[expect(clippy::print_stdout, reason = "what a soak is run for")]
fn report(line: &str) {
    println!("{line}");
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(format!("POPBRIDGE_SOAK_{name}")).ok()?;
    Some(value.parse().unwrap())
}

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
    // At once: a full inbox refuses more.
    let delivered = Arc::new(Mutex::new(HashSet::new()));
    let of_inbox = Arc::clone(&delivered);
    let inbox = tokio::spawn(async move {
        loop {
            let received = receiver.next().await;
            assert_eq!(received.verified, Ok(()));
            of_inbox.lock().unwrap().insert(received.webhook_id);
        }
    });
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

    let kills = setting("KILLS").map_or(KILLS, |kills| kills.try_into().unwrap());
    let seed = setting("SEED").unwrap_or_else(rand::random);
    report(&format!("POPBRIDGE_SOAK_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut phases = Phases::default();
    let mut sent = HashSet::new();
    let mut program = Some(program);
    for life in 0..kills {
        let mut deliver = |random: &mut StdRng| {
            let subject = format!("message {}", sent.len());
            let body = "a line of text\n".repeat(random.random_range(1..500));
            dovecot
                .deliver("anna", format!("Subject: {subject}\n\n{body}").as_bytes())
                .unwrap();
            sent.insert(subject);
        };
        for _ in 0..WAITING[life % WAITING.len()] {
            deliver(&mut random);
        }
        let running = match program.take() {
            Some(running) => running,
            None => Program::private(&data_dir).await,
        };
        // The moment is what is varied; that it differs from run to run is the point.
        let moment = tokio::time::sleep(Duration::from_millis(random.random_range(0..700)));
        tokio::select! {
            () = moment => {}
            () = async {
                loop {
                    deliver(&mut random);
                    running.post(&format!("/v1/mailboxes/{mailbox}/sync"), json!({})).await;
                }
            } => {}
        }
        running.kill();
        phases.count(&data_dir, sent.len()).await;
        if life % 100 == 99 {
            report(&format!("{} kills: {phases:?}", life + 1));
        }
    }
    report(&format!("{kills} kills: {phases:?}"));

    let program = Program::private(&data_dir).await;
    let limit = DELIVERY_LEASE + PER_MESSAGE * u32::try_from(sent.len()).unwrap();
    eventually_within(
        limit,
        "the maildrop is empty and that is confirmed",
        async || {
            let state = program.get(&format!("/v1/mailboxes/{mailbox}")).await;
            let left =
                ["new", "cur"].map(|part| dovecot.maildir("anna").join(part).read_dir().unwrap());
            let left = left.into_iter().flatten().count();
            let stored = state["message_count"] == sent.len();
            (stored && left == 0 && state["pending_remote_deletes"] == 0).then_some(())
        },
    )
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

    let events: HashSet<String> = events.into_iter().collect();
    eventually_within(
        limit + DELIVERY_LEASE,
        "each event is delivered",
        async || {
            let delivered = delivered.lock().unwrap();
            delivered.is_superset(&events).then_some(())
        },
    )
    .await;
    // A signature that was wrong ended it.
    assert!(!inbox.is_finished());
    database.close().await.unwrap();
    program.terminate().await;
}
