//! Maildrops whose unique-ids change under their messages: nothing is doubled, and nothing lost.

use std::{collections::BTreeMap, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use popbridge::chaos::{ChaosServer, Faults, Mail, Options, UniqueIds};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool, Row as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    eventually,
    popbridge::Popbridge,
    world::{PASSWORD, USERNAME, World},
};

/// The log of a mailbox, and its tables.
struct Log(PgPool);

impl Log {
    async fn of(bridge: &Popbridge) -> Self {
        Self(PgPool::connect(&bridge.database.url).await.unwrap())
    }

    /// What events of this kind tell.
    async fn events(&self, kind: &str) -> Vec<Value> {
        let rows = sqlx::query("SELECT data FROM popbridge.events WHERE type = $1 ORDER BY id")
            .bind(kind)
            .fetch_all(&self.0)
            .await
            .unwrap();
        rows.iter().map(|row| row.get("data")).collect()
    }

    async fn deliveries(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM popbridge.deliveries")
            .fetch_one(&self.0)
            .await
            .unwrap()
    }
}

/// A mailbox on a chaos server.
struct Case {
    bridge: Popbridge,
    log: Log,
    server: ChaosServer,
    mailbox: String,
}

impl Case {
    /// The first sync is over.
    async fn start(messages: u32, settings: Value) -> Self {
        Self::with_faults(messages, Faults::default(), settings).await
    }

    async fn with_faults(messages: u32, faults: Faults, settings: Value) -> Self {
        let mail = Mail {
            messages,
            message_octets: 400,
            ..Mail::default()
        };
        let options = Options {
            mail,
            faults,
            ..Options::default()
        };
        Self::over(ChaosServer::start(options).await.unwrap(), settings).await
    }

    async fn over(server: ChaosServer, settings: Value) -> Self {
        let bridge = Popbridge::start().await;
        let mut body = json!({
            "host": "127.0.0.1",
            "port": server.address().port(),
            "tls": "none",
            "username": "demo",
            "password": "demo",
            "poll_interval_seconds": 86400,
        });
        for (name, value) in settings.as_object().unwrap() {
            body[name] = value.clone();
        }
        let mailbox = bridge.post("/v1/mailboxes", body).await;
        let case = Self {
            log: Log::of(&bridge).await,
            bridge,
            server,
            mailbox: mailbox["id"].as_str().unwrap().to_owned(),
        };
        case.caught_up().await;
        case
    }

    /// Syncs, or joins the sync that runs.
    async fn sync(&self) -> Value {
        self.bridge.sync(&self.mailbox).await
    }

    /// Syncs until a pass is clean; the server may take a moment to see that a session is over.
    async fn caught_up(&self) -> Value {
        eventually("a clean pass", async || {
            let sync = self.sync().await;
            sync["error"].is_null().then_some(sync)
        })
        .await
    }

    /// Ids of the messages by unique-id.
    async fn messages(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let messages = self.bridge.messages(&self.mailbox).await;
        let messages = messages.iter();
        messages
            .map(|message| (text(&message["unique_id"]), text(&message["id"])))
            .collect()
    }

    /// Gives every message another unique-id; the messages' ids by the new ones.
    async fn renumber(&self) -> BTreeMap<String, String> {
        let before = self.messages().await;
        self.server
            .maildrop()
            .renumber(|id| Some(format!("new-{id}")));
        let renumbered = before.into_iter();
        renumbered
            .map(|(id, of)| (format!("new-{id}"), of))
            .collect()
    }

    fn faults(&self, faults: Faults) {
        self.server.set_faults(faults);
    }

    async fn remote_states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for message in self.bridge.messages(&self.mailbox).await {
            let state = message["remote_state"].as_str().unwrap().to_owned();
            *states.entry(state).or_default() += 1;
        }
        states
    }

    async fn received(&self) -> usize {
        self.log.events("message.received").await.len()
    }

    /// How many messages each reset found again.
    async fn resets(&self) -> Vec<i64> {
        let events = self.log.events("mailbox.uidl_reset").await;
        events
            .iter()
            .map(|data| data["matched"].as_i64().unwrap())
            .collect()
    }

    async fn execute(&self, statement: &'static str) {
        self.log.0.execute(statement).await.unwrap();
    }
}

fn mail(n: usize, received: &str) -> Vec<u8> {
    format!("Received: from a by b; {received}\r\nSubject: {n}\r\n\r\ntext {n}\r\n").into_bytes()
}

/// The first line of Dovecot's unique-id listing.
async fn first_unique_id(world: &World) -> String {
    let mut line = TcpStream::connect(world.dovecot.pop3()).await.unwrap();
    let commands = format!("USER {USERNAME}\r\nPASS {PASSWORD}\r\nUIDL 1\r\nQUIT\r\n");
    line.write_all(commands.as_bytes()).await.unwrap();
    let mut answers = String::new();
    line.read_to_string(&mut answers).await.unwrap();
    let answer = answers.lines().find(|line| line.starts_with("+OK 1 "));
    answer.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dovecot_that_changes_its_unique_ids_floods_nobody() {
    let by_uid = |_: &Path| vec![("local.conf", "pop3_uidl_format = %08Xu%08Xv\n".to_owned())];
    let world = World::with_dovecot_files(by_uid).await;
    let deliver = |numbers: std::ops::Range<usize>| {
        for n in numbers {
            let message = format!("Subject: {n}\n\ntext {n}\n");
            world.dovecot.deliver(USERNAME, message.as_bytes()).unwrap();
        }
    };
    deliver(0..120);
    let webhook = json!({ "url": "https://127.0.0.1:1/", "events": ["message.received"] });
    world.post("/v1/webhooks", webhook).await;
    let mailbox = world
        .create_mailbox(json!({ "max_messages_per_session": 50 }))
        .await;
    world.sync(&mailbox).await;
    let ids = async || {
        let messages = world.messages(&mailbox).await;
        let ids = messages
            .iter()
            .map(|m| m["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let before = ids().await;
    assert_eq!(before.len(), 120);

    let maildir = world.dovecot.maildir(USERNAME);
    let dir = maildir.ancestors().nth(2).unwrap();
    let former = first_unique_id(&world).await;
    std::fs::write(dir.join("local.conf"), "pop3_uidl_format = %f\n").unwrap();
    let master = std::fs::read_to_string(dir.join("run/master.pid")).unwrap();
    kill(
        Pid::from_raw(master.trim().parse().unwrap()),
        Signal::SIGHUP,
    )
    .unwrap();
    eventually("Dovecot changes its unique-ids", async || {
        (first_unique_id(&world).await != former).then_some(())
    })
    .await;

    let sync = world.sync(&mailbox).await;
    assert_eq!(
        (&sync["error"], &sync["matched"]),
        (&Value::Null, &json!(120))
    );
    assert_eq!(sync["stored"], 0);
    assert_eq!(ids().await, before);
    let log = Log::of(&world).await;
    assert_eq!(log.events("message.received").await.len(), 120);
    assert_eq!(
        log.events("mailbox.uidl_reset").await,
        [json!({ "matched": 120 })]
    );
    assert_eq!(log.deliveries().await, 0);

    deliver(120..121);
    let sync = world.sync(&mailbox).await;
    assert_eq!((&sync["stored"], &sync["matched"]), (&json!(1), &json!(0)));
    assert_eq!(log.deliveries().await, 1, "new mail is told of");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_mail_among_renumbered_mail_is_new() {
    let case = Case::start(30, json!({ "max_messages_per_session": 4 })).await;
    case.server
        .maildrop()
        .deliver(mail(1, "Mon, 23 Nov 2026 01:00:00 +0000"));
    let expected = case.renumber().await;
    case.server
        .maildrop()
        .deliver(mail(2, "Mon, 23 Nov 2026 02:00:00 +0000"));
    case.caught_up().await;
    let mut messages = case.messages().await;
    messages.retain(|unique_id, _| unique_id.contains("chaos"));
    assert_eq!(messages, expected);
    assert_eq!((case.received().await, case.resets().await), (32, vec![30]));

    case.caught_up().await;
    assert_eq!((case.received().await, case.resets().await), (32, vec![30]));
}

#[tokio::test(flavor = "multi_thread")]
async fn renumbered_mail_is_deleted_as_the_policy_says() {
    let refused = Faults {
        reply: vec!["DELE=-ERR no".parse().unwrap()],
        ..Faults::default()
    };
    let settings = json!({ "delete_policy": "after_store", "max_messages_per_session": 4 });
    let case = Case::with_faults(10, refused, settings).await;
    assert_eq!(
        case.remote_states().await,
        [("delete_pending".to_owned(), 10)].into()
    );
    case.renumber().await;
    case.faults(Faults::default());
    case.caught_up().await;
    case.caught_up().await;
    assert!(case.server.maildrop().unique_ids().is_empty());
    assert_eq!(
        case.remote_states().await,
        [("deleted".to_owned(), 10)].into()
    );
    assert_eq!((case.received().await, case.resets().await), (10, vec![10]));
    let mailbox = case.bridge.mailbox(&case.mailbox).await;
    assert_eq!(mailbox["pending_remote_deletes"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_that_was_forgotten_before_a_reset_is_asked_for_again() {
    let forgetful = Faults {
        forget_deletions: true,
        ..Faults::default()
    };
    let settings = json!({ "delete_policy": "after_store" });
    let case = Case::with_faults(10, forgetful, settings).await;
    case.renumber().await;
    case.faults(Faults::default());
    case.caught_up().await;
    assert!(case.server.maildrop().unique_ids().is_empty());
    assert_eq!((case.received().await, case.resets().await), (10, vec![10]));
    case.caught_up().await;
    assert_eq!(
        case.remote_states().await,
        [("deleted".to_owned(), 10)].into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn renumbered_mail_keeps_its_age() {
    let settings = json!({ "delete_policy": "after_days", "delete_after_days": 3 });
    let case = Case::start(10, settings).await;
    case.execute(
        "UPDATE popbridge.maildrop_entries SET stored_at = now() - interval '4 days'
        WHERE unique_id IN ('chaos-1', 'chaos-2')",
    )
    .await;
    case.renumber().await;
    case.caught_up().await;
    assert_eq!(case.server.maildrop().unique_ids().len(), 8);
    assert_eq!((case.received().await, case.resets().await), (10, vec![10]));
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_maildrop_may_be_renumbered() {
    let case = Case::start(30, json!({})).await;
    let before = case.messages().await;
    let renumbered = |id: &str| id.ends_with('3').then(|| format!("new-{id}"));
    case.server.maildrop().renumber(renumbered);
    case.caught_up().await;
    let expected = before.into_iter();
    let expected = expected
        .map(|(id, of)| (renumbered(&id).unwrap_or(id), of))
        .collect();
    assert_eq!(case.messages().await, expected);
    assert_eq!(case.received().await, 30);
    assert!(
        case.resets().await.is_empty(),
        "three of thirty are no reset"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_messages_stay_as_many_as_they_are() {
    let case = Case::start(0, json!({})).await;
    let same = mail(1, "Mon, 23 Nov 2026 01:00:00 +0000");
    case.server.maildrop().deliver(same.clone());
    case.server.maildrop().deliver(same.clone());
    case.caught_up().await;
    assert_eq!(case.received().await, 2);

    let expected = case.renumber().await;
    case.caught_up().await;
    assert_eq!(
        case.messages().await.into_keys().collect::<Vec<_>>(),
        expected.into_keys().collect::<Vec<_>>()
    );
    assert_eq!((case.received().await, case.resets().await), (2, vec![2]));

    case.server.maildrop().deliver(same);
    case.caught_up().await;
    assert_eq!(case.received().await, 3, "the others are still listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_moves_is_no_reset() {
    let window = Faults {
        list_at_most: Some(4),
        popped: true,
        ..Faults::default()
    };
    let case = Case::with_faults(12, window, json!({})).await;
    for _ in 0..4 {
        case.caught_up().await;
    }
    assert_eq!((case.received().await, case.resets().await), (12, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_may_take_several_polls() {
    let case = Case::start(10, json!({})).await;
    case.faults(Faults {
        list_at_most: Some(0),
        ..Faults::default()
    });
    case.caught_up().await;
    assert_eq!(case.remote_states().await, [("gone".to_owned(), 10)].into());
    let expected = case.renumber().await;
    case.faults(Faults {
        list_at_most: Some(5),
        ..Faults::default()
    });
    case.caught_up().await;
    case.faults(Faults::default());
    case.caught_up().await;
    assert_eq!(case.messages().await, expected);
    assert_eq!(
        case.remote_states().await,
        [("present".to_owned(), 10)].into()
    );
    assert_eq!(case.received().await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_ids_that_are_missing_for_a_while_double_nothing() {
    let useless = Faults {
        unique_ids: Some(UniqueIds::Empty),
        ..Faults::default()
    };
    let case = Case::with_faults(5, useless.clone(), json!({})).await;
    let before: Vec<_> = case.messages().await.into_values().collect();
    for faults in [Faults::default(), useless, Faults::default()] {
        case.faults(faults);
        case.caught_up().await;
        let mut ids: Vec<_> = case.messages().await.into_values().collect();
        ids.sort_unstable();
        let mut before = before.clone();
        before.sort_unstable();
        assert_eq!(ids, before);
    }
    assert_eq!(case.received().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_ids_that_never_stay_double_nothing() {
    unique_ids_never_stay("never").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_ids_that_never_stay_are_deleted_when_stored() {
    unique_ids_never_stay("after_store").await;
}

async fn unique_ids_never_stay(policy: &str) {
    let unstable = Faults {
        unique_ids: Some(UniqueIds::Renumbered),
        forget_deletions: true,
        ..Faults::default()
    };
    let settings = json!({ "delete_policy": policy });
    let case = Case::with_faults(5, unstable, settings).await;
    for _ in 0..4 {
        case.caught_up().await;
    }
    assert_eq!(case.received().await, 5, "{policy}");
    case.faults(Faults {
        unique_ids: Some(UniqueIds::Renumbered),
        ..Faults::default()
    });
    case.caught_up().await;
    let left = case.server.maildrop().unique_ids().len();
    assert_eq!(left, if policy == "never" { 5 } else { 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_is_cut_goes_on() {
    let settings = json!({ "max_messages_per_session": 5, "delete_policy": "after_days",
        "delete_after_days": 30 });
    let case = Case::start(40, settings).await;
    let expected = case.renumber().await;
    for octets in (500..12_000).step_by(1_000) {
        case.faults(Faults {
            drop_at: Some(octets),
            ..Faults::default()
        });
        case.sync().await;
    }
    case.faults(Faults::default());
    case.caught_up().await;
    assert_eq!(case.messages().await, expected);
    assert_eq!((case.received().await, case.resets().await), (40, vec![40]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_here_does_not_come_back() {
    let case = Case::start(10, json!({})).await;
    let messages = case.messages().await;
    for id in messages.values().take(6) {
        let path = format!("/v1/mailboxes/{}/messages/{id}?scope=local", case.mailbox);
        case.bridge.delete(&path).await;
    }
    case.renumber().await;
    case.caught_up().await;
    assert_eq!(case.messages().await.len(), 4);
    assert_eq!((case.received().await, case.resets().await), (10, vec![10]));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_left_out_stays_out() {
    let case = Case::start(20, json!({ "initial_sync": { "last_n": 5 } })).await;
    case.renumber().await;
    case.server
        .maildrop()
        .deliver(mail(1, "Mon, 23 Nov 2026 01:00:00 +0000"));
    let sync = case.caught_up().await;
    assert_eq!((&sync["stored"], &sync["matched"]), (&json!(1), &json!(5)));
    assert_eq!((case.received().await, case.resets().await), (6, vec![20]));
    let again = case.caught_up().await;
    assert_eq!(again["skipped"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_message_that_is_delivered_again_is_no_reset() {
    let case = Case::start(10, json!({})).await;
    let renumbered = |id: &str| (id == "chaos-3").then(|| "again".to_owned());
    case.server.maildrop().renumber(renumbered);
    case.caught_up().await;
    assert_eq!((case.received().await, case.resets().await), (10, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn octets_that_are_delivered_after_a_deletion_are_new_mail() {
    let alert = b"Subject: disk full\r\n\r\nagain\r\n";
    let case = Case::start(0, json!({ "delete_policy": "after_store" })).await;
    for count in 1..=3 {
        case.server.maildrop().deliver(*alert);
        case.caught_up().await;
        assert_eq!(case.received().await, count);
        assert!(case.server.maildrop().unique_ids().is_empty());
    }
}
