//! Mailboxes: made, read, changed, deleted; and what is refused.

use popbridge::store::credentials::StoredCredential;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, Reply, mailbox_body},
    pop3_peer::Certificate,
};

#[tokio::test]
async fn mailbox_is_made_with_defaults_and_without_its_password() {
    let app = App::start().await;
    let created = app.post("/v1/mailboxes", &mailbox_body()).await;

    assert_eq!(created.status, StatusCode::CREATED);
    let mailbox = created.json();
    let expected = json!({
        "name": "anna@pop.example.com", "external_id": null, "host": "pop.example.com",
        "port": 995, "tls": "implicit", "tls_ca_pem": null, "username": "anna", "auth": "auto",
        "poll_interval_seconds": 60, "delete_policy": "never", "delete_after_days": null,
        "initial_sync": "all", "notify_backlog": false, "max_message_bytes": 52_428_800,
        "max_messages_per_session": 500, "max_bytes_per_session": 209_715_200, "paused": false,
        "state": "new", "last_sync_at": null, "last_success_at": null, "last_error": null,
        "message_count": 0, "stored_bytes": 0, "pending_remote_deletes": 0, "capabilities": [],
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&mailbox[field], value, "{field}");
    }
    for time in ["created_at", "updated_at", "next_sync_at"] {
        assert!(mailbox[time].as_str().unwrap().ends_with('Z'), "{time}");
    }
    assert!(!mailbox.to_string().contains("hunter2"));
    assert!(mailbox.get("password").is_none());
    let read = app.get(created.header("location")).await;
    assert_eq!((read.json(), read.etag()), (mailbox, created.etag()));
}

#[tokio::test]
async fn port_follows_from_tls() {
    let app = App::start().await;
    for (tls, port) in [("implicit", 995), ("starttls", 110), ("none", 110)] {
        let mut body = mailbox_body();
        body["tls"] = json!(tls);
        assert_eq!(
            app.post("/v1/mailboxes", &body).await.json()["port"],
            port,
            "{tls}"
        );
        body["port"] = json!(1995);
        assert_eq!(
            app.post("/v1/mailboxes", &body).await.json()["port"],
            1995,
            "{tls}"
        );
    }
}

#[tokio::test]
async fn every_mistake_is_told_at_once() {
    let app = App::start().await;
    let body = json!({
        "hots": "pop.example.com", "a/b~c": 1, "host": "pop.example.com:995", "port": 0,
        "tls": "ssl", "username": "an\r\nna", "password": 7, "poll_interval_seconds": "60",
        "delete_policy": "after_days", "external_id": "", "max_message_bytes": 1, "name": null,
    });

    let problem = app.post("/v1/mailboxes", &body).await.assert_mistakes(&[
        "/hots",
        "/a~1b~0c",
        "/host",
        "/port",
        "/tls",
        "/username",
        "/password",
        "/poll_interval_seconds",
        "/delete_after_days",
        "/external_id",
        "/max_message_bytes",
        "/name",
    ]);

    assert!(
        problem
            .to_string()
            .contains("one of `implicit`, `starttls`, `none`")
    );
    assert_eq!(app.get("/v1/mailboxes").await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_is_required_is_named() {
    let app = App::start().await;
    let reply = app.post("/v1/mailboxes", &json!({})).await;
    let problem = reply.assert_mistakes(&["/host", "/username", "/password"]);
    assert_eq!(problem["errors"][0]["detail"], "is required");
}

#[tokio::test]
async fn each_wrong_value_is_refused() {
    let app = App::start().await;
    let long = "x".repeat(1001);
    for (pointer, field, value) in [
        ("/host", "host", json!("")),
        ("/host", "host", json!("pop3://example.com")),
        ("/host", "host", json!("a b")),
        ("/port", "port", json!(65536)),
        ("/port", "port", json!(9_999_999_999_i64)),
        ("/port", "port", json!(99.5)),
        ("/username", "username", json!("a\u{0}b")),
        ("/password", "password", json!("a\nb")),
        ("/password", "password", json!("")),
        ("/password", "password", json!(long)),
        ("/name", "name", json!("a\u{0}b")),
        ("/external_id", "external_id", json!("a\u{0}b")),
        ("/auth", "auth", json!("xoauth2")),
        ("/retention", "retention", json!("a week")),
        ("/tls_pin_sha256", "tls_pin_sha256", json!("00")),
        ("/initial_sync", "initial_sync", json!({ "last_n": 0 })),
        (
            "/initial_sync/since",
            "initial_sync",
            json!({ "since": "2026" }),
        ),
        ("/delete_after_days", "delete_after_days", json!(7)),
        ("/state", "state", json!("ok")),
        ("/tls_ca_pem", "tls_ca_pem", json!("no certificate")),
        (
            "/tls_ca_pem",
            "tls_ca_pem",
            json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        ("/poll_interval_seconds", "poll_interval_seconds", json!(0)),
        ("/max_bytes_per_session", "max_bytes_per_session", json!(-1)),
        ("/paused", "paused", json!("yes")),
    ] {
        let mut body = mailbox_body();
        body[field] = value;
        app.post("/v1/mailboxes", &body)
            .await
            .assert_mistakes(&[pointer]);
    }
}

#[tokio::test]
async fn private_certificate_authority_is_taken() {
    let app = App::start().await;
    let mut body = mailbox_body();
    body["tls_ca_pem"] = json!(Certificate::issued(&["localhost"]).ca_pem);
    let created = app.post("/v1/mailboxes", &body).await;
    assert_eq!(created.status, 201, "{}", created.json());
    assert_eq!(created.json()["tls_ca_pem"], body["tls_ca_pem"]);
}

#[tokio::test]
async fn external_id_is_unique() {
    let app = App::start().await;
    let mut body = mailbox_body();
    body["external_id"] = json!("customer-1");
    assert_eq!(app.post("/v1/mailboxes", &body).await.status, 201);
    let reply = app.post("/v1/mailboxes", &body).await;
    let problem = reply.assert_problem(409, "external_id_taken");
    assert_eq!(problem["errors"][0]["pointer"], "/external_id");

    let other = app.mailbox().await;
    let patch = json!({ "external_id": "customer-1" });
    let reply = app.patch(&format!("/v1/mailboxes/{other}"), &patch).await;
    reply.assert_problem(409, "external_id_taken");
}

#[tokio::test]
async fn patch_changes_what_it_names() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    let before = app.get(&path).await.json();

    let patch = json!({
        "name": "Anna", "external_id": "customer-1", "delete_policy": "after_days",
        "delete_after_days": 30, "initial_sync": { "last_n": 5 },
    });
    let changed = app.patch(&path, &patch).await;
    assert_eq!(changed.status, 200, "{}", changed.json());
    let after = changed.json();
    for (field, value) in before.as_object().unwrap() {
        match patch.get(field) {
            Some(new) => assert_eq!(&after[field], new, "{field}"),
            None if ["updated_at", "next_sync_at"].contains(&field.as_str()) => {}
            None => assert_eq!(&after[field], value, "{field}"),
        }
    }

    let cleared = app
        .patch(&path, &json!({ "external_id": null }))
        .await
        .json();
    assert_eq!(cleared["external_id"], Value::Null);
    let never = app
        .patch(&path, &json!({ "delete_policy": "never" }))
        .await
        .json();
    assert_eq!(never["delete_after_days"], Value::Null);
}

#[tokio::test]
async fn patch_may_change_the_password_alone() {
    let app = App::start().await;
    let id = app.mailbox().await;
    let reply = app
        .patch(
            &format!("/v1/mailboxes/{id}"),
            &json!({ "password": "new" }),
        )
        .await;
    assert_eq!(reply.status, 200);
    match app.store.mailbox_credential(id).await.unwrap() {
        StoredCredential::Password(password) => assert_eq!(password.expose_secret(), "new"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pin_is_kept_in_one_form_whatever_way_it_is_written() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let hexadecimal = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for pin in [base64, hexadecimal] {
        let changed = app.patch(&path, &json!({ "tls_pin_sha256": pin })).await;
        assert_eq!(changed.json()["tls_pin_sha256"], base64);
    }
    let cleared = app.patch(&path, &json!({ "tls_pin_sha256": null })).await;
    assert_eq!(cleared.json()["tls_pin_sha256"], Value::Null);
}

#[tokio::test]
async fn wrong_patch_changes_nothing() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    let before = app.get(&path).await.json();
    let patch = json!({ "name": "New", "port": 0, "host": null, "created_at": "now" });
    app.patch(&path, &patch)
        .await
        .assert_mistakes(&["/port", "/host", "/created_at"]);
    assert_eq!(app.get(&path).await.json(), before);
}

#[tokio::test]
async fn tag_tells_whether_it_changed() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    let old = app.get(&path).await.etag().to_owned();
    let ask = |tag: &str| Reply::of(app.request(Method::GET, &path).header("if-none-match", tag));
    let same = ask(&format!("\"other\", {old}")).await;
    assert_eq!(
        (same.status.as_u16(), same.etag(), same.octets.len()),
        (304, old.as_str(), 0)
    );

    let change = |name: &str| {
        let request = app.request(Method::PATCH, &path).header("if-match", &old);
        Reply::of(request.json(&json!({ "name": name })))
    };
    assert_eq!(change("first").await.status, 200);
    change("second")
        .await
        .assert_problem(412, "precondition_failed");
    let now = ask(&old).await;
    assert_eq!(
        (now.status.as_u16(), &now.json()["name"]),
        (200, &json!("first"))
    );
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    let (name, interval) = (
        json!({ "name": "new" }),
        json!({ "poll_interval_seconds": 90 }),
    );
    let (one, two) = tokio::join!(app.patch(&path, &name), app.patch(&path, &interval));
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200));
    let mailbox = app.get(&path).await.json();
    assert_eq!(mailbox["name"], "new");
    assert_eq!(mailbox["poll_interval_seconds"], 90);
}

#[tokio::test]
async fn deleted_mailbox_is_gone() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    assert_eq!(app.delete(&path).await.status, 204);
    app.get(&path).await.assert_problem(404, "not_found");
    app.delete(&path).await.assert_problem(404, "not_found");
    app.patch(&path, &json!({}))
        .await
        .assert_problem(404, "not_found");
    app.get(&format!("/v1/mailboxes/{}/messages", Uuid::now_v7()))
        .await
        .assert_problem(404, "not_found");
}
