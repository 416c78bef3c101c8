//! Messages that cannot be had: set aside, and neither in the way of others nor lost.

use popbridge::chaos::Faults;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    chaos,
    outcomes::faults,
    store::{Case, Store},
};
use crate::support::popbridge::Popbridge;

/// What a server does that cannot give its second message.
const BAD_MESSAGE: &[&[&str]] = &[
    &["--reply", "RETR 2=-ERR cannot read it"],
    &["--drop-on", "RETR 2"],
    &["--garbage-on", "RETR 2", "--seed", "1"],
    &["--drop-on", "RETR 2", "--hide", "PIPELINING"],
];

/// What a server does that has lost its mail for now.
const OUTAGE: &[&[&str]] = &[
    &["--reply", "RETR=-ERR cannot open the mailbox"],
    &["--drop-on", "RETR"],
    &["--garbage-on", "RETR", "--seed", "1"],
];

async fn case<'a>(
    bridge: &'a Popbridge,
    store: &'a Store,
    flags: &[&str],
    settings: Value,
) -> Case<'a> {
    Case::at(bridge, store, chaos(faults(flags)).await, settings).await
}

impl Case<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/v1/mailboxes/{}{rest}", self.mailbox)
    }

    /// The message that is not stored whole.
    async fn odd_one(&self) -> Value {
        let messages = self.bridge.messages(&self.mailbox).await;
        let mut odd = messages.into_iter().filter(|m| m["state"] != "stored");
        let found = odd.next().expect("one message is not stored whole");
        assert!(odd.next().is_none(), "one alone");
        found
    }

    /// What the log tells of a message.
    async fn events(&self, message: &Value) -> Vec<String> {
        let pool = PgPool::connect(&self.bridge.database.url).await.unwrap();
        sqlx::query_scalar(
            "SELECT type FROM popbridge.events WHERE message_id = $1::text::uuid ORDER BY xid, id",
        )
        .bind(message["id"].as_str())
        .fetch_all(&pool)
        .await
        .unwrap()
    }

    async fn execute(&self, statement: &'static str) {
        let pool = PgPool::connect(&self.bridge.database.url).await.unwrap();
        sqlx::query(statement)
            .bind(&self.mailbox)
            .execute(&pool)
            .await
            .unwrap();
    }

    /// Makes `failing_since` of its messages a day and more ago.
    async fn let_a_day_pass(&self) {
        self.execute(
            "UPDATE popbridge.maildrop_entries SET failing_since = failing_since - interval '25 h'
            WHERE mailbox_id = $1::text::uuid",
        )
        .await;
    }

    async fn sync_with(&self, query: &str) -> Value {
        let path = self.path(&format!("/sync?wait=60&{query}"));
        self.bridge.post(&path, Value::Null).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_fails_three_passes_in_a_row_is_set_aside() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in BAD_MESSAGE {
        let case = case(&bridge, &store, flags, json!({})).await;
        for _ in 0..2 {
            assert_eq!(case.sync().await, "ok", "{flags:?}");
            assert_eq!(case.states().await, ["stored"; 2], "{flags:?}");
        }
        assert_eq!(case.sync().await, "ok", "{flags:?}");
        assert_eq!(
            case.states().await,
            ["quarantined", "stored", "stored"],
            "{flags:?}"
        );

        let message = case.odd_one().await;
        assert_eq!(message["parse_status"], "failed");
        assert_eq!(message["remote_state"], "present");
        assert!(message["size"].as_i64().unwrap() > 0);
        let note = message["parse_notes"][0].as_str().unwrap();
        assert!(note.starts_with("The message cannot be had: "), "{note}");
        assert_eq!(case.events(&message).await, ["message.quarantined"]);

        // From now on there is nothing in the way.
        let sync = case.sync_with("").await;
        assert_eq!(
            (&sync["state"], &sync["failed"]),
            (&json!("succeeded"), &json!(0))
        );
        assert_eq!(case.events(&message).await, ["message.quarantined"]);
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_message_that_comes_after_all_is_told_of_once_under_its_id() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let case = case(&bridge, &store, BAD_MESSAGE[0], json!({})).await;
    for _ in 0..3 {
        case.sync().await;
    }
    let before = case.odd_one().await;
    // One more try in vain, as it is asked for.
    let sync = case.sync_with("retry_quarantined=true").await;
    assert_eq!(sync["failed"], 1);
    assert_eq!(case.odd_one().await["id"], before["id"]);

    case.server.set_faults(Faults::default());
    assert_eq!(
        case.sync_with("").await["stored"],
        0,
        "not before an hour is over"
    );
    case.execute(
        "UPDATE popbridge.maildrop_entries SET next_try_at = next_try_at - interval '2 h'
        WHERE mailbox_id = $1::text::uuid",
    )
    .await;
    assert_eq!(case.sync_with("").await["stored"], 1);

    case.assert_each_is_stored_once().await;
    let path = case.path(&format!("/messages/{}", before["id"].as_str().unwrap()));
    let message = bridge.get(&path).await;
    assert_eq!(
        (&message["state"], &message["parse_status"]),
        (&json!("stored"), &json!("ok"))
    );
    assert_eq!(
        case.events(&message).await,
        ["message.quarantined", "message.received"]
    );
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_sets_no_message_aside() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in OUTAGE {
        let case = case(&bridge, &store, flags, json!({})).await;
        for _ in 0..4 {
            case.sync().await;
        }
        case.recover().await;
        case.assert_each_is_stored_once().await;

        // Now that there is mail to compare with, one alone is as safe, however long it takes.
        let lone = case
            .server
            .maildrop()
            .deliver("Subject: lone\r\n\r\nhere\r\n");
        case.server.set_faults(faults(flags));
        for _ in 0..4 {
            case.sync().await;
            case.let_a_day_pass().await;
        }
        assert_eq!(case.states().await, ["stored"; 3], "{flags:?}");
        case.recover().await;
        assert_eq!(case.states().await, ["stored"; 4], "{flags:?} {lone}");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_with_no_other_beside_it_is_set_aside_after_a_day() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in OUTAGE {
        let server = chaos(faults(flags)).await;
        let case = Case::at(&bridge, &store, server, json!({ "initial_sync": "none" })).await;
        assert_eq!(case.sync().await, "ok");
        case.server
            .maildrop()
            .deliver("Subject: lone\r\n\r\nhere\r\n");
        for _ in 0..4 {
            case.sync().await;
            assert!(case.states().await.is_empty(), "{flags:?}");
        }
        case.let_a_day_pass().await;
        case.sync().await;
        assert_eq!(case.states().await, ["quarantined"], "{flags:?}");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_done_in_a_pass_that_meets_a_bad_message() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in BAD_MESSAGE {
        let case = case(
            &bridge,
            &store,
            flags,
            json!({ "delete_policy": "after_store" }),
        )
        .await;
        assert_eq!(case.sync().await, "ok", "{flags:?}");
        assert_eq!(
            case.server.maildrop().unique_ids(),
            ["chaos-2"],
            "{flags:?}"
        );
        case.assert_nothing_lost().await;
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_message_is_deleted_only_by_a_user() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let case = case(&bridge, &store, BAD_MESSAGE[1], json!({})).await;
    for _ in 0..3 {
        case.sync().await;
    }
    let policy = json!({ "delete_policy": "after_store" });
    bridge.patch(&case.path(""), policy).await;
    case.sync().await;
    assert_eq!(case.server.maildrop().unique_ids(), ["chaos-2"]);

    let message = case.odd_one().await;
    let path = case.path(&format!("/messages/{}", message["id"].as_str().unwrap()));
    bridge.delete(&path).await;
    case.sync().await;
    assert!(case.server.maildrop().unique_ids().is_empty());
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_comes_beside_a_bad_message_is_no_backlog() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    for flags in BAD_MESSAGE {
        let case = case(&bridge, &store, flags, json!({})).await;
        case.sync().await;
        case.server
            .maildrop()
            .deliver("Subject: new\r\n\r\nhere\r\n");
        case.sync().await;
        let new = &bridge.messages(&case.mailbox).await[0];
        assert_eq!(
            (&new["subject"], &new["backlog"]),
            (&json!("new"), &json!(false)),
            "{flags:?}"
        );
        case.recover().await;
        let late = &bridge.messages(&case.mailbox).await[0];
        assert_eq!(late["backlog"], true, "it was there at the first sync");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversize_message_is_fetched_once_its_mailbox_takes_it() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let case = case(&bridge, &store, &[], json!({ "max_message_bytes": 1024 })).await;
    let text = format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(5000));
    case.server.maildrop().deliver(text.clone());
    assert_eq!(case.sync().await, "ok");
    let message = case.odd_one().await;
    assert_eq!(
        (&message["state"], &message["subject"]),
        (&json!("oversize"), &json!("large"))
    );

    for (limit, state) in [(2048, "oversize"), (1 << 20, "stored")] {
        bridge
            .patch(&case.path(""), json!({ "max_message_bytes": limit }))
            .await;
        assert_eq!(case.sync().await, "ok");
        let path = case.path(&format!("/messages/{}", message["id"].as_str().unwrap()));
        assert_eq!(bridge.get(&path).await["state"], state);
    }
    assert_eq!(bridge.raw(&case.mailbox, &message).await, text.as_bytes());
    assert_eq!(
        case.events(&message).await,
        ["message.received", "message.updated"]
    );
    bridge.stop().await;
}
