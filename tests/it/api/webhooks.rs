//! Webhooks: made, read, changed, deleted; and what is refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use uuid::Uuid;

use crate::support::app::{App, message};

#[tokio::test]
async fn secret_is_shown_once() {
    let app = App::start().await;
    let created = app
        .post(
            "/v1/webhooks",
            &json!({ "url": "https://example.com/hook" }),
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.header("cache-control"), "no-store");
    let mut webhook = created.json();
    let secret = webhook.as_object_mut().unwrap().remove("secret").unwrap();
    let key = secret.as_str().unwrap().strip_prefix("whsec_").unwrap();
    assert_eq!(STANDARD.decode(key).unwrap().len(), 32);

    assert_eq!(webhook["events"], json!(["message.received"]));
    assert_eq!(webhook["mailbox_ids"], json!([]));
    assert_eq!(
        webhook["filter"],
        json!({ "from": null, "to": null, "subject": null })
    );
    assert_eq!(
        (&webhook["payload"], &webhook["state"]),
        (&json!("thin"), &json!("enabled"))
    );
    assert_eq!(app.get(created.header("location")).await.json(), webhook);
    let listed = app.get("/v1/webhooks").await;
    assert_eq!(listed.json()["items"], json!([webhook]));
    let patched = app
        .patch(created.header("location"), &json!({ "payload": "text" }))
        .await;
    assert!(patched.json().get("secret").is_none());

    let other = app
        .post(
            "/v1/webhooks",
            &json!({ "url": "https://example.com/hook" }),
        )
        .await;
    assert_ne!(other.json()["secret"], secret);
}

#[tokio::test]
async fn every_mistake_is_told_at_once() {
    let app = App::start().await;
    let nowhere = Uuid::now_v7();
    let body = json!({
        "url": "ftp://example.com", "events": ["message.received", "message.recieved"],
        "mailbox_ids": [nowhere], "filter": { "from": "", "fron": "x" }, "payload": "postmark",
        "description": "a\u{0}b", "secret": "whsec_mine", "evnets": [],
    });
    app.post("/v1/webhooks", &body).await.assert_mistakes(&[
        "/url",
        "/events/1",
        "/mailbox_ids/0",
        "/filter/from",
        "/filter/fron",
        "/payload",
        "/description",
        "/secret",
        "/evnets",
    ]);
    app.post("/v1/webhooks", &json!({}))
        .await
        .assert_mistakes(&["/url"]);
    let none = json!({ "url": "https://example.com/", "events": [] });
    app.post("/v1/webhooks", &none)
        .await
        .assert_mistakes(&["/events"]);
    let odd = json!({ "url": "https://example.com/", "mailbox_ids": ["x"], "filter": { "to": 1 } });
    app.post("/v1/webhooks", &odd)
        .await
        .assert_mistakes(&["/mailbox_ids/0", "/filter/to"]);
}

#[tokio::test]
async fn patch_merges_the_filter() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let body = json!({
        "url": "http://127.0.0.1:9000/", "mailbox_ids": [mailbox, mailbox],
        "events": ["message.deleted", "message.deleted", "mailbox.error"],
        "filter": { "from": "anna@", "subject": "invoice" }, "description": "Invoices",
    });
    let created = app.post("/v1/webhooks", &body).await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.json()["mailbox_ids"], json!([mailbox]));
    assert_eq!(
        created.json()["events"],
        json!(["message.deleted", "mailbox.error"])
    );
    let path = created.header("location");

    let patch = json!({ "filter": { "from": null, "to": "bert@" }, "description": null });
    let patched = app.patch(path, &patch).await.json();
    let expected = json!({ "from": null, "to": "bert@", "subject": "invoice" });
    assert_eq!(
        (&patched["filter"], &patched["description"]),
        (&expected, &json!(null))
    );
    assert_eq!(patched["url"], "http://127.0.0.1:9000/");
    let cleared = app
        .patch(path, &json!({ "filter": null, "state": "disabled" }))
        .await
        .json();
    assert_eq!(
        cleared["filter"],
        json!({ "from": null, "to": null, "subject": null })
    );
    assert_eq!(cleared["state"], "disabled");

    // The mailbox goes; the webhook can be changed all the same.
    assert_eq!(
        app.delete(&format!("/v1/mailboxes/{mailbox}")).await.status,
        204
    );
    assert_eq!(
        app.patch(path, &json!({ "state": "enabled" })).await.status,
        200
    );
}

#[tokio::test]
async fn deliveries_are_listed_with_their_event() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let created = app
        .post("/v1/webhooks", &json!({ "url": "https://example.com/" }))
        .await;
    let path = format!("{}/deliveries", created.header("location"));
    assert_eq!(
        app.get(&path).await.json(),
        json!({ "items": [], "next_cursor": null })
    );

    let lease = app.lease(mailbox).await;
    let new = message(mailbox, "uid-1", b"one");
    let event = new.event.id;
    app.store_message(&lease, new).await;
    let delivery = app.get(&path).await.json()["items"][0].clone();
    assert_eq!(delivery["event_id"], json!(event));
    assert_eq!(delivery["event_type"], "message.received");
    assert_eq!(
        (&delivery["state"], &delivery["attempts"]),
        (&json!("pending"), &json!([]))
    );
    assert!(delivery["next_attempt_at"].is_string());
}

#[tokio::test]
async fn deleted_webhook_is_gone() {
    let app = App::start().await;
    let created = app
        .post("/v1/webhooks", &json!({ "url": "https://example.com/" }))
        .await;
    let path = created.header("location");
    assert_eq!(app.delete(path).await.status, 204);
    app.get(path).await.assert_problem(404, "not_found");
    app.delete(path).await.assert_problem(404, "not_found");
    app.get(&format!("{path}/deliveries"))
        .await
        .assert_problem(404, "not_found");
}
