//! How much of its mail a mailbox keeps.

use futures_util::future::join_all;
use popbridge::chaos::{ChaosServer, Mail, Options};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row as _};

use crate::support::{
    app::{App, mailbox_body, message},
    database::Database,
    eventually,
    popbridge::Popbridge,
};

#[tokio::test]
async fn retention_is_set_shown_changed_and_cleared() {
    let app = App::start().await;
    let mut body = mailbox_body();
    body["retention"] = json!({ "max_age_days": 30, "max_messages": 1000 });
    let created = app.post("/v1/mailboxes", &body).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.json());
    let shown = json!({ "max_age_days": 30, "max_messages": 1000, "max_bytes": null });
    assert_eq!(created.json()["retention"], shown);

    let path = format!("/v1/mailboxes/{}", created.json()["id"].as_str().unwrap());
    let merged = json!({ "retention": { "max_bytes": 1_000_000, "max_messages": null } });
    let changed = app.patch(&path, &merged).await;
    let shown = json!({ "max_age_days": 30, "max_messages": null, "max_bytes": 1_000_000 });
    assert_eq!(changed.json()["retention"], shown);

    let none = json!({ "retention": { "max_bytes": null, "max_age_days": null } });
    let changed = app.patch(&path, &none).await;
    assert_eq!(
        changed.json()["retention"],
        Value::Null,
        "nothing is limited"
    );
    app.patch(&path, &json!({ "retention": { "max_messages": 1 } }))
        .await;
    let cleared = app.patch(&path, &json!({ "retention": null })).await;
    assert_eq!(cleared.json()["retention"], Value::Null);
}

#[tokio::test]
async fn retention_that_makes_no_sense_is_refused() {
    let app = App::start().await;
    for (retention, pointers) in [
        (json!(5), vec!["/retention"]),
        (
            json!({ "max_age_days": 0 }),
            vec!["/retention/max_age_days"],
        ),
        (
            json!({ "max_age_days": 1.5, "max_messages": -1, "max_bytes": 1 }),
            vec![
                "/retention/max_age_days",
                "/retention/max_bytes",
                "/retention/max_messages",
            ],
        ),
        (json!({ "days": 30 }), vec!["/retention/days"]),
    ] {
        let mut body = mailbox_body();
        body["retention"] = retention;
        let refused = app.post("/v1/mailboxes", &body).await;
        refused.assert_mistakes(&pointers);
    }
}

/// What is to be kept of a maildrop of 30 messages, and how many that is.
const ROWS: &[(&str, i64)] = &[
    (r#"{ "max_messages": 7 }"#, 7),
    (r#"{ "max_messages": 30 }"#, 30),
    (r#"{ "max_bytes": 5000 }"#, 5),
    (r#"{ "max_bytes": 1024, "max_messages": 5 }"#, 1),
    (r#"{ "max_age_days": 10, "max_messages": 20 }"#, 10),
];

#[tokio::test(flavor = "multi_thread")]
async fn oldest_go_first_are_told_of_and_never_come_back() {
    let bridge = Popbridge::start().await;
    join_all(ROWS.iter().map(async |(retention, kept)| {
        let server = server(30, 1000).await;
        let mailbox = mailbox(&bridge, &server, &json!({})).await;
        let mut all = bridge.messages(&mailbox).await;
        assert_eq!(all.len(), 30);
        // Two thirds of them are twenty days old.
        let old = format!(
            "UPDATE popbridge.messages SET received_at = now() - interval '20 days'
            WHERE mailbox_id = '{mailbox}' AND id < '{}'",
            id(&all[9])
        );
        sql(&bridge.database, &old).await;

        let change = json!({ "retention": serde_json::from_str::<Value>(retention).unwrap() });
        bridge
            .patch(&format!("/v1/mailboxes/{mailbox}"), change)
            .await;
        eventually("the rest is removed", async || {
            (bridge.mailbox(&mailbox).await["message_count"] == *kept).then_some(())
        })
        .await;
        let left = bridge.messages(&mailbox).await;
        let removed = all.split_off(left.len());
        let ids = |messages: &[Value]| messages.iter().map(id).collect::<Vec<_>>();
        assert_eq!(ids(&left), ids(&all), "{retention}: the newest stay");
        let octets: i64 = left.iter().map(|m| m["size"].as_i64().unwrap()).sum();
        assert_eq!(bridge.mailbox(&mailbox).await["stored_bytes"], octets);

        let sync = bridge.sync(&mailbox).await;
        assert_eq!((&sync["listed"], &sync["stored"]), (&json!(30), &json!(0)));
        let mut told = deletions(&bridge.database, &mailbox).await;
        let mut expected = ids(&removed);
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{retention}: each is told of once");
        assert_eq!(server.maildrop().unique_ids().len(), 30);
    }))
    .await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_comes_pushes_the_oldest_out() {
    let bridge = Popbridge::start().await;
    let server = server(5, 1000).await;
    let settings = json!({ "retention": { "max_messages": 5 } });
    let mailbox = mailbox(&bridge, &server, &settings).await;
    let oldest = id(bridge.messages(&mailbox).await.last().unwrap());
    server.maildrop().deliver(b"Subject: new\r\n\r\n".to_vec());
    bridge.sync(&mailbox).await;
    let path = format!("/v1/mailboxes/{mailbox}/messages/{oldest}");
    eventually("the oldest is gone", async || {
        let response = bridge.request(Method::GET, &path).send().await.unwrap();
        (response.status() == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    let left = bridge.messages(&mailbox).await;
    assert_eq!(left.len(), 5);
    assert_eq!(left[0]["subject"], "new");
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_copy_goes_or_stays_as_the_delete_policy_says() {
    let bridge = Popbridge::start().await;
    for (policy, left) in [("never", 3), ("after_store", 0), ("after_ack", 2)] {
        let server = server(3, 1000).await;
        let settings = json!({ "delete_policy": "never" });
        let mailbox = mailbox(&bridge, &server, &settings).await;
        let messages = bridge.messages(&mailbox).await;
        let newest = format!("/v1/mailboxes/{mailbox}/messages/{}", id(&messages[0]));
        bridge.post(&format!("{newest}/ack"), Value::Null).await;
        let old = format!(
            "UPDATE popbridge.messages SET received_at = now() - interval '2 days'
            WHERE mailbox_id = '{mailbox}'"
        );
        sql(&bridge.database, &old).await;
        let change = json!({ "retention": { "max_age_days": 1 } });
        let path = format!("/v1/mailboxes/{mailbox}");
        bridge.patch(&path, change).await;
        eventually("all are removed here", async || {
            (bridge.mailbox(&mailbox).await["message_count"] == 0).then_some(())
        })
        .await;

        bridge
            .patch(&path, json!({ "delete_policy": policy }))
            .await;
        bridge.sync(&mailbox).await;
        let sync = bridge.sync(&mailbox).await;
        assert_eq!(sync["error"], Value::Null);
        assert_eq!(server.maildrop().unique_ids().len(), left, "{policy}");
        assert_eq!(bridge.mailbox(&mailbox).await["message_count"], 0);
        let ledger = bridge.get(&format!("{newest}/ledger")).await;
        assert_eq!(ledger["remote_state"] == "deleted", left < 3, "{policy}");
    }
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_go_in_batches_each_once_whoever_takes_them() {
    const MESSAGES: usize = 1201;
    let app = App::start().await;
    let mut mailboxes = Vec::new();
    for count in [MESSAGES, 3] {
        let mailbox = app.mailbox().await;
        mailboxes.push(mailbox);
        let lease = app.lease(mailbox).await;
        let batch = (0..count).map(|n| message(mailbox, &format!("m{n}"), b"x: y\r\n\r\nz"));
        let listing = Default::default();
        let batch = batch.collect();
        app.store
            .store_messages(&lease, batch, &listing)
            .await
            .unwrap();
        let path = format!("/v1/mailboxes/{mailbox}");
        app.patch(&path, &json!({ "retention": { "max_messages": 1 } }))
            .await;
    }
    let (many, few) = (mailboxes[0], mailboxes[1]);
    let first = app.store.sweep_retention().await.unwrap().unwrap();
    let second = app.store.sweep_retention().await.unwrap().unwrap();
    assert_eq!((first.mailbox_id, first.messages), (many, 500));
    assert_eq!(
        (second.mailbox_id, second.messages),
        (few, 2),
        "turns are taken"
    );

    let sweepers = (0..4).map(async |_| {
        let mut removed = 0;
        while let Some(batch) = app.store.sweep_retention().await.unwrap() {
            assert!(batch.messages <= 500);
            removed += batch.messages;
        }
        removed
    });
    let removed: i64 = join_all(sweepers).await.into_iter().sum();
    assert_eq!(500 + usize::try_from(removed).unwrap(), MESSAGES - 1);
    let mailbox = app.get(&format!("/v1/mailboxes/{many}")).await.json();
    assert_eq!(
        (&mailbox["message_count"], &mailbox["stored_bytes"]),
        (&json!(1), &json!(9))
    );
}

async fn server(messages: u32, message_octets: u64) -> ChaosServer {
    let mail = Mail {
        messages,
        message_octets,
        ..Mail::default()
    };
    let options = Options {
        mail,
        ..Options::default()
    };
    ChaosServer::start(options).await.unwrap()
}

/// A mailbox that has caught up with the server.
async fn mailbox(bridge: &Popbridge, server: &ChaosServer, settings: &Value) -> String {
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
    let mailbox = id(&bridge.post("/v1/mailboxes", body).await);
    let stored = server.maildrop().unique_ids().len();
    bridge.sync(&mailbox).await;
    assert_eq!(bridge.mailbox(&mailbox).await["message_count"], stored);
    mailbox
}

fn id(item: &Value) -> String {
    item["id"].as_str().unwrap().to_owned()
}

async fn sql(database: &Database, statement: &str) {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .unwrap();
}

/// The messages that the log tells were removed by retention.
async fn deletions(database: &Database, mailbox: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let rows = sqlx::query(
        "SELECT data ->> 'message_id' AS id FROM popbridge.events
        WHERE type = 'message.deleted' AND data ->> 'reason' = 'retention'
            AND mailbox_id = $1::text::uuid AND message_id::text = data ->> 'message_id'",
    )
    .bind(mailbox);
    let rows = rows.fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get("id")).collect()
}
