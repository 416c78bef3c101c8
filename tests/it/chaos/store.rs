//! What is in the store and in the maildrop after sessions that went wrong, through the whole
//! program: each message once, and nothing deleted that is not stored.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use popbridge::chaos::{ChaosServer, Faults};
use serde_json::{Value, json};
use sqlx::{PgPool, Row as _};
use time::OffsetDateTime;

use super::{chaos, outcomes::faults};
use crate::support::{eventually, popbridge::Popbridge};

/// Mailboxes that are looked at at the same time.
const AT_ONCE: usize = 8;

/// Longer messages are not fetched, where a test says so.
const MAX_OCTETS: usize = 64 << 10;

/// Flags of the chaos server for the first session; how the pass over it ends; the messages that
/// are stored and left then, of three, if they are deleted once they are stored.
type Row = (&'static [&'static str], &'static str, usize, usize);

const ROWS: &[Row] = &[
    (&[], "ok", 3, 0),
    (&["--drop-on", "GREETING"], "connection_closed", 0, 3),
    (&["--drop-on", "UIDL"], "connection_closed", 0, 3),
    // The others come in a next session, and go.
    (&["--drop-on", "RETR 1"], "ok", 2, 1),
    (&["--drop-on", "RETR 3"], "ok", 2, 1),
    (&["--drop-on", "DELE 1"], "connection_closed", 3, 3),
    (&["--drop-on", "DELE 3"], "connection_closed", 3, 3),
    // Whether QUIT took effect is seen in the next listing only.
    (&["--drop-on", "QUIT"], "ok", 3, 3),
    (&["--drop-after", "QUIT"], "ok", 3, 0),
    (&["--forget-deletions"], "ok", 3, 3),
    (&["--reply", "QUIT=-ERR not deleted"], "ok", 3, 3),
    (&["--reply", "DELE=-ERR no"], "ok", 3, 3),
    (&["--reply", "DELE 2=-ERR no"], "ok", 3, 1),
    (&["--reply", "RETR 2=-ERR [SYS/TEMP] later"], "ok", 2, 1),
    (&["--reply", "RETR=-ERR Download exceed"], "ok", 0, 3),
    (&["--reply", "AUTH=-ERR [IN-USE] busy"], "in_use", 0, 3),
    (&["--reply", "AUTH=-ERR [AUTH] no"], "auth_failed", 0, 3),
    (
        &["--reply", "STAT=-ERR [SYS/TEMP] later"],
        "server_temporary",
        0,
        3,
    ),
    (
        &["--reply", "UIDL=-ERR disk full"],
        "server_temporary",
        0,
        3,
    ),
    (&["--reply", r"UIDL=+OK\r\n2 chaos-2\r\n."], "ok", 1, 3),
    (&["--without", "UIDL"], "ok", 3, 0),
    (&["--without", "LIST"], "ok", 3, 3),
    (&["--without", "TOP"], "ok", 3, 0),
    (&["--without", "CAPA"], "ok", 3, 0),
    (&["--hide", "PIPELINING"], "ok", 3, 0),
    (&["--announce", "EXPIRE 0"], "ok", 3, 0),
    (
        &["--garbage-on", "UIDL", "--seed", "1"],
        "protocol_error",
        0,
        3,
    ),
    (
        &["--garbage-on", "DELE", "--seed", "2"],
        "protocol_error",
        3,
        3,
    ),
    (&["--garbage-on", "QUIT", "--seed", "3"], "ok", 3, 3),
    (&["--pipelining", "reversed"], "protocol_error", 0, 3),
    (&["--endless-line", "UIDL"], "protocol_error", 0, 3),
    (&["--size-delta", "5000"], "ok", 3, 0),
    (&["--size-delta", "-5000"], "ok", 3, 0),
    (&["--count-delta", "1"], "ok", 3, 3),
    (&["--count-delta", "-3"], "ok", 3, 3),
    (&["--list-at-most", "2"], "ok", 2, 1),
    (&["--unstuffed"], "protocol_error", 0, 3),
    (&["--terminator", "repeated"], "protocol_error", 0, 3),
    (&["--popped"], "ok", 3, 0),
    (
        &["--popped", "--drop-on", "DELE"],
        "connection_closed",
        3,
        3,
    ),
    (&["--popped", "--reply", "RETR 2=-ERR no"], "ok", 2, 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_deleted_and_nothing_else() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let rows = stream::iter(ROWS);
    rows.for_each_concurrent(AT_ONCE, async |(flags, code, stored, left)| {
        let case = Case::new(&bridge, &store, flags, "after_store").await;
        let wrong = flags.join(" ");
        assert_eq!(case.sync().await, *code, "{wrong}");
        assert_eq!(case.stored().await.len(), *stored, "{wrong}");
        assert_eq!(case.left(), *left, "{wrong}");
        case.assert_nothing_lost().await;

        case.recover().await;
        case.assert_each_is_stored_once().await;
        case.assert_nothing_lost().await;
        assert_eq!(case.left(), 0, "{wrong}");
    })
    .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_the_policy_says_so() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let rows = stream::iter(ROWS);
    rows.for_each_concurrent(AT_ONCE, async |(flags, _, _, _)| {
        let case = Case::new(&bridge, &store, flags, "never").await;
        let wrong = flags.join(" ");
        case.sync().await;
        case.recover().await;
        case.assert_each_is_stored_once().await;
        case.assert_nothing_lost().await;
        if flags.contains(&"--popped") {
            // That is the server's doing, not ours.
            return;
        }
        assert_eq!(case.left(), 3, "{wrong}");

        let path = format!("/v1/mailboxes/{}", case.mailbox);
        let policy = json!({ "delete_policy": "after_store" });
        bridge.patch(&path, policy).await;
        assert_eq!(case.sync().await, "ok", "{wrong}");
        case.assert_each_is_stored_once().await;
        assert_eq!(case.left(), 0, "{wrong}");
    })
    .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn useless_unique_ids_double_nothing() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in [
        ["--unique-ids", "repeated"],
        ["--unique-ids", "empty"],
        ["--unique-ids", "long"],
        ["--unique-ids", "8bit"],
        ["--without", "UIDL"],
    ] {
        for delete_policy in ["never", "after_store"] {
            let case = Case::new(&bridge, &store, &flags, delete_policy).await;
            for _ in 0..3 {
                assert_eq!(case.sync().await, "ok", "{flags:?}");
                case.assert_each_is_stored_once().await;
                case.assert_nothing_lost().await;
            }
            if delete_policy == "never" {
                assert_eq!(case.left(), 3, "{flags:?}");
            }
        }
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_without_end_is_kept_by_its_head_and_left_on_the_server() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flag in ["--endless", "--endless-line"] {
        let settings = json!({ "delete_policy": "after_store", "max_message_bytes": MAX_OCTETS });
        let server = chaos(faults(&[flag, "RETR 2"])).await;
        let case = Case::at(&bridge, &store, server, settings).await;
        // The session is of no use behind it: the third comes with the next one.
        assert_eq!(case.sync().await, "ok");
        assert_eq!(case.states().await, ["oversize", "stored", "stored"]);
        assert_eq!(case.server.maildrop().unique_ids(), ["chaos-2"]);
        case.assert_nothing_lost().await;
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversize_message_whose_head_ends_each_session_blocks_no_other() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let settings = json!({ "delete_policy": "after_store", "max_message_bytes": MAX_OCTETS });
    let server = chaos(faults(&["--drop-on", "TOP"])).await;
    let large = server.maildrop().deliver(vec![b'x'; 2 * MAX_OCTETS]);
    let case = Case::at(&bridge, &store, server, settings).await;
    for _ in 0..3 {
        assert_eq!(case.sync().await, "ok");
        assert_eq!(case.states().await, ["stored"; 3]);
        assert_eq!(case.left(), 1, "the others are deleted all the same");
    }
    assert_eq!(case.sync().await, "ok");
    assert_eq!(
        case.states().await,
        ["oversize", "stored", "stored", "stored"]
    );
    assert_eq!(case.server.maildrop().unique_ids(), [large]);
    case.assert_nothing_lost().await;
    bridge.stop().await;
}

/// A mailbox whose first session goes wrong.
pub(super) struct Case<'a> {
    pub(super) bridge: &'a Popbridge,
    store: &'a Store,
    pub(super) server: ChaosServer,
    pub(super) mailbox: String,
    /// By unique-id.
    sent: BTreeMap<String, String>,
}

impl<'a> Case<'a> {
    async fn new(
        bridge: &'a Popbridge,
        store: &'a Store,
        flags: &[&str],
        delete_policy: &str,
    ) -> Self {
        let settings = json!({ "delete_policy": delete_policy });
        let server = chaos(faults(flags)).await;
        Self::at(bridge, store, server, settings).await
    }

    /// The mailbox of this server's maildrop; its first sync begins by itself.
    pub(super) async fn at(
        bridge: &'a Popbridge,
        store: &'a Store,
        server: ChaosServer,
        settings: Value,
    ) -> Self {
        let sent = server.maildrop().octets().await.unwrap();
        let sent = server.maildrop().unique_ids().into_iter().zip(sent);
        let sent = sent.map(|(id, octets)| (id, text(&octets))).collect();
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
        Self {
            bridge,
            store,
            server,
            mailbox: mailbox["id"].as_str().unwrap().to_owned(),
            sent,
        }
    }

    /// Syncs, or joins the sync that runs: `ok` or the error's code.
    pub(super) async fn sync(&self) -> String {
        let sync = self.bridge.sync(&self.mailbox).await;
        sync["error"]["code"].as_str().unwrap_or("ok").to_owned()
    }

    /// Syncs with all faults gone.
    pub(super) async fn recover(&self) {
        self.server.set_faults(Faults::default());
        eventually("a clean pass", async || {
            let code = self.sync().await;
            // The server may not have seen yet that the last session is over.
            let clean = code == "ok";
            assert!(clean || code == "in_use", "a clean server gives {code}");
            clean.then_some(())
        })
        .await;
    }

    /// The states of its messages, sorted.
    pub(super) async fn states(&self) -> Vec<String> {
        let messages = self.bridge.messages(&self.mailbox).await;
        let states = messages.iter().map(|m| m["state"].as_str().unwrap());
        let mut states: Vec<_> = states.map(str::to_owned).collect();
        states.sort_unstable();
        states
    }

    pub(super) fn left(&self) -> usize {
        self.server.maildrop().unique_ids().len()
    }

    pub(super) async fn stored(&self) -> Vec<Stored> {
        self.store.messages(&self.mailbox).await
    }

    /// The store holds each message exactly once and to the octet, and so does the log.
    pub(super) async fn assert_each_is_stored_once(&self) {
        let mut stored: Vec<_> = self.stored().await.into_iter().map(|m| m.text()).collect();
        let mut sent: Vec<_> = self.sent.values().cloned().collect();
        stored.sort_unstable();
        sent.sort_unstable();
        assert_eq!(stored, sent);
        assert_eq!(
            self.store.received_events(&self.mailbox).await,
            stored.len()
        );
        let mailbox = self.bridge.mailbox(&self.mailbox).await;
        assert_eq!(mailbox["message_count"], stored.len());
    }

    /// Whatever left the maildrop was committed before.
    pub(super) async fn assert_nothing_lost(&self) {
        let stored = self.stored().await;
        for removal in self.server.maildrop().removals() {
            let sent = &self.sent[&removal.unique_id];
            let row = stored.iter().find(|message| message.text() == *sent);
            let committed = row.map(|row| row.committed_at);
            assert!(
                committed.is_some_and(|at| at <= removal.at),
                "removed at {}, committed at {committed:?}",
                removal.at
            );
        }
    }
}

/// The tables, as an operator sees them.
pub(super) struct Store(PgPool);

/// A committed message.
pub(super) struct Stored {
    octets: Vec<u8>,
    committed_at: OffsetDateTime,
}

impl Stored {
    fn text(&self) -> String {
        text(&self.octets)
    }
}

/// Octets as an assertion shows them.
fn text(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}

impl Store {
    pub(super) async fn of(bridge: &Popbridge) -> Self {
        Self(PgPool::connect(&bridge.database.url).await.unwrap())
    }

    async fn messages(&self, mailbox: &str) -> Vec<Stored> {
        let rows = sqlx::query(
            "SELECT octets, pg_xact_commit_timestamp(xmin) AS committed_at
            FROM popbridge.raw_messages WHERE mailbox_id = $1::text::uuid",
        )
        .bind(mailbox);
        let rows = rows.fetch_all(&self.0).await.unwrap();
        rows.iter()
            .map(|row| Stored {
                octets: row.get("octets"),
                committed_at: row.get("committed_at"),
            })
            .collect()
    }

    /// How often the log tells of a new message, and of different ones.
    async fn received_events(&self, mailbox: &str) -> usize {
        let row = sqlx::query(
            "SELECT count(*), count(DISTINCT message_id) AS messages FROM popbridge.events
            WHERE type = 'message.received' AND mailbox_id = $1::text::uuid",
        )
        .bind(mailbox);
        let row = row.fetch_one(&self.0).await.unwrap();
        let (count, messages): (i64, i64) = (row.get("count"), row.get("messages"));
        assert_eq!(count, messages, "no message is told of twice");
        count.try_into().unwrap()
    }
}
