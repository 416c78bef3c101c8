//! Messages: listed, read to the octet, acknowledged, deleted.

use popbridge::store::{ingest::NewMessage, leases::Lease};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::app::{App, Reply, message};

/// Every octet there is, lines that begin with a dot, no line end at the end.
fn odd_octets() -> Vec<u8> {
    let mut octets = b"Subject: odd\r\n\r\n.dot\r\n..dots\r\n".to_vec();
    octets.extend(0..=255_u8);
    octets
}

struct Mailbox {
    app: App,
    id: Uuid,
    lease: Lease,
}

impl Mailbox {
    async fn new() -> Self {
        let app = App::start().await;
        let id = app.mailbox().await;
        let lease = app.lease(id).await;
        Self { app, id, lease }
    }

    async fn store(&self, message: NewMessage) -> Uuid {
        self.app.store_message(&self.lease, message).await
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/mailboxes/{}/messages{rest}", self.id)
    }

    async fn get(&self, rest: &str) -> Reply {
        self.app.get(&self.path(rest)).await
    }
}

#[tokio::test]
async fn list_shows_summaries_newest_first() {
    let mailbox = Mailbox::new().await;
    let first = mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let second = mailbox.store(message(mailbox.id, "uid-2", b"four")).await;

    let page = mailbox.get("?limit=1").await.json();
    assert_eq!(page["items"][0]["id"], json!(second));
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = mailbox
        .get(&format!("?limit=1&cursor={cursor}"))
        .await
        .json();
    assert_eq!(page["next_cursor"], Value::Null);
    let item = &page["items"][0];
    let expected = json!({
        "id": first, "mailbox_id": mailbox.id, "unique_id": "uid-1", "size": 3,
        "backlog": false, "state": "stored", "remote_state": "present", "acked_at": null,
        "subject": "uid-1", "attachments": [],
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&item[field], value, "{field}");
    }
    for absent in ["headers", "text", "sha256", "summary"] {
        assert!(item.get(absent).is_none(), "{absent}");
    }
}

#[tokio::test]
async fn message_is_read_whole_by_id_and_as_latest() {
    let mailbox = Mailbox::new().await;
    mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let id = mailbox.store(message(mailbox.id, "uid-2", b"two")).await;

    let read = mailbox.get(&format!("/{id}")).await;
    assert_eq!(read.json()["text"]["plain"], "hello");
    assert_eq!(read.json()["headers"], json!([]));
    let latest = mailbox.get("/latest").await;
    assert_eq!((latest.json(), latest.etag()), (read.json(), read.etag()));
    assert_eq!(mailbox.get("/latest/raw").await.octets, b"two");

    let again = mailbox.app.request(Method::GET, &mailbox.path("/latest"));
    assert_eq!(
        Reply::of(again.header("if-none-match", read.etag()))
            .await
            .status,
        304
    );
}

#[tokio::test]
async fn unique_id_that_is_not_text_is_escaped() {
    let mailbox = Mailbox::new().await;
    let mut odd = message(mailbox.id, "x", b"one");
    odd.unique_id = b"a\xff".to_vec();
    mailbox.store(odd).await;
    assert_eq!(mailbox.get("/latest").await.json()["unique_id"], "a\\xff");
}

#[tokio::test]
async fn raw_message_is_the_same_to_the_octet() {
    let mailbox = Mailbox::new().await;
    let octets = odd_octets();
    let id = mailbox.store(message(mailbox.id, "uid-1", &octets)).await;

    let raw = mailbox.get(&format!("/{id}/raw")).await;
    assert_eq!(raw.octets, octets);
    assert_eq!(raw.header("content-type"), "message/rfc822");
    assert_eq!(raw.header("content-length"), octets.len().to_string());
    assert_eq!(raw.header("x-content-type-options"), "nosniff");
    let disposition = format!("attachment; filename=\"{id}.eml\"");
    assert_eq!(raw.header("content-disposition"), disposition);
    let digest: [u8; 32] = Sha256::digest(&octets).into();
    let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(raw.etag(), format!("\"{digest}\""));

    let request = mailbox
        .app
        .request(Method::GET, &mailbox.path(&format!("/{id}/raw")));
    let again = Reply::of(request.header("if-none-match", raw.etag())).await;
    assert_eq!((again.status.as_u16(), again.octets.len()), (304, 0));
    let head = mailbox
        .app
        .request(Method::HEAD, &mailbox.path(&format!("/{id}/raw")));
    let head = Reply::of(head).await;
    assert_eq!(head.header("content-length"), octets.len().to_string());
}

#[tokio::test]
async fn raw_of_an_oversize_message_is_a_problem() {
    let mailbox = Mailbox::new().await;
    let mut long = message(mailbox.id, "uid-1", b"");
    (long.size, long.state) = (
        99_999_999,
        popbridge::store::messages::MessageState::Oversize,
    );
    mailbox.store(long).await;
    assert_eq!(mailbox.get("/latest").await.json()["state"], "oversize");
    mailbox
        .get("/latest/raw")
        .await
        .assert_problem(404, "raw_not_stored");
}

#[tokio::test]
async fn attachment_is_decoded_and_harmless() {
    let mailbox = Mailbox::new().await;
    let head = b"Subject: attached\r\n\r\n";
    let part = b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+AP8=\r\n";
    let decoded = b"<b>\x00\xff";
    let digest: [u8; 32] = Sha256::digest(decoded).into();
    let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
    let mut attached = message(mailbox.id, "uid-1", &[head.as_slice(), part].concat());
    attached.parts = json!([[head.len(), part.len()]]);
    attached.summary["attachments"] = json!([{
        "n": 0, "filename": "../Übersicht\".html", "content_type": "text/html",
        "size": decoded.len(), "sha256": digest, "content_id": null, "inline": false,
    }]);
    mailbox.store(attached).await;

    let reply = mailbox.get("/latest/attachments/0").await;
    assert_eq!(reply.octets, decoded);
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert!(reply.header("content-security-policy").contains("sandbox"));
    let expected =
        "attachment; filename=\"_bersicht_.html\"; filename*=UTF-8''%C3%9Cbersicht_.html";
    assert_eq!(reply.header("content-disposition"), expected);
    assert_eq!(reply.etag(), format!("\"{digest}\""));
    for none in ["1", "-1", "x", "70000"] {
        let reply = mailbox.get(&format!("/latest/attachments/{none}")).await;
        reply.assert_problem(404, "not_found");
    }
}

#[tokio::test]
async fn ack_is_idempotent_and_in_no_need_of_latest() {
    let mailbox = Mailbox::new().await;
    let id = mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let path = mailbox.path(&format!("/{id}/ack"));
    assert_eq!(mailbox.app.post(&path, &json!({})).await.status, 204);
    let acked_at = mailbox.get(&format!("/{id}")).await.json()["acked_at"].clone();
    assert!(acked_at.is_string());
    assert_eq!(mailbox.app.post(&path, &json!({})).await.status, 204);
    assert_eq!(
        mailbox.get(&format!("/{id}")).await.json()["acked_at"],
        acked_at
    );

    let latest = mailbox
        .app
        .post(&mailbox.path("/latest/ack"), &json!({}))
        .await;
    latest.assert_problem(404, "not_found");
}

#[tokio::test]
async fn ledger_tells_of_the_ack_of_a_message_that_is_deleted_since() {
    let mailbox = Mailbox::new().await;
    let id = mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let ledger = mailbox.get(&format!("/{id}/ledger")).await.json();
    for nothing_yet in ["notified_at", "delivered_at", "acked_at", "dele_sent_at"] {
        assert_eq!(ledger[nothing_yet], Value::Null, "{nothing_yet}");
    }
    let path = mailbox.path(&format!("/{id}"));
    mailbox.app.post(&format!("{path}/ack"), &json!({})).await;
    let acked_at = mailbox.get(&format!("/{id}")).await.json()["acked_at"].clone();
    mailbox.app.delete(&format!("{path}?scope=local")).await;
    let ledger = mailbox.get(&format!("/{id}/ledger")).await.json();
    assert_eq!(ledger["acked_at"], acked_at);
}

#[tokio::test]
async fn message_is_parsed_again_under_its_id() {
    let mailbox = Mailbox::new().await;
    let webhook = json!({ "url": "https://example.com/", "events": ["message.updated"] });
    let webhook = mailbox.app.post("/v1/webhooks", &webhook).await.json();
    let deliveries = format!(
        "/v1/webhooks/{}/deliveries",
        webhook["id"].as_str().unwrap()
    );
    let octets = b"Subject: Hello\r\nFrom: a@example.com\r\n\r\nGood morning\r\n";
    let id = mailbox.store(message(mailbox.id, "uid-1", octets)).await;
    let path = mailbox.path(&format!("/{id}/reparse"));

    for told in [1, 1] {
        let reply = mailbox.app.post(&path, &json!({})).await;
        assert_eq!(reply.status, 200, "{}", reply.json());
        let parsed = reply.json();
        assert_eq!(
            (&parsed["id"], &parsed["subject"]),
            (&json!(id), &json!("Hello"))
        );
        assert_eq!(parsed["text"]["plain"], "Good morning\n");
        let read = mailbox.get(&format!("/{id}")).await;
        assert_eq!((read.json(), read.etag()), (parsed, reply.etag()));
        let events = mailbox.app.get(&deliveries).await.json();
        assert_eq!(
            events["items"].as_array().unwrap().len(),
            told,
            "once: it changed once"
        );
    }

    let scopes = [popbridge::api::keys::Scope::MessagesRead];
    let reader = mailbox.app.key(&scopes, &[], None).await;
    let reply = mailbox.app.with_key(&reader, Method::POST, &path).await;
    reply.assert_problem(403, "insufficient_scope");
}

#[tokio::test]
async fn message_without_octets_cannot_be_parsed_or_read_raw() {
    let mailbox = Mailbox::new().await;
    let mut absent = message(mailbox.id, "uid-1", b"");
    absent.state = popbridge::store::messages::MessageState::Quarantined;
    let id = mailbox.store(absent).await;
    let reparse = mailbox.path(&format!("/{id}/reparse"));
    let reply = mailbox.app.post(&reparse, &json!({})).await;
    reply.assert_problem(409, "nothing_to_parse");
    let raw = mailbox.get(&format!("/{id}/raw")).await;
    raw.assert_problem(404, "raw_not_stored");
}

#[tokio::test]
async fn deletion_covers_its_scope() {
    let mailbox = Mailbox::new().await;
    for (query, remote_state, kept) in [
        ("?scope=local", "present", false),
        ("?scope=remote", "delete_pending", true),
        ("?scope=both", "delete_pending", false),
        ("", "delete_pending", false),
    ] {
        let id = mailbox
            .store(message(
                mailbox.id,
                &format!("uid{query}"),
                query.as_bytes(),
            ))
            .await;
        let reply = mailbox
            .app
            .delete(&mailbox.path(&format!("/{id}{query}")))
            .await;
        assert_eq!(reply.status, 200, "{query}");
        assert_eq!(
            reply.json(),
            json!({ "id": id, "remote_state": remote_state }),
            "{query}"
        );
        let status = mailbox.get(&format!("/{id}")).await.status;
        assert_eq!(status.as_u16(), if kept { 200 } else { 404 }, "{query}");

        let ledger = mailbox.get(&format!("/{id}/ledger")).await.json();
        assert_eq!(ledger["remote_state"], remote_state, "{query}");
        assert!(ledger["stored_at"].is_string());
        assert_eq!(
            ledger["delete_requested_at"].is_string(),
            remote_state == "delete_pending"
        );
    }
    let shown = mailbox
        .app
        .get(&format!("/v1/mailboxes/{}", mailbox.id))
        .await
        .json();
    assert_eq!(
        (&shown["message_count"], &shown["stored_bytes"]),
        (&json!(1), &json!("?scope=remote".len()))
    );
    assert_eq!(shown["pending_remote_deletes"], 3);
}

#[tokio::test]
async fn deletion_of_nothing_and_with_an_odd_scope_is_refused() {
    let mailbox = Mailbox::new().await;
    let id = mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let reply = mailbox
        .app
        .delete(&mailbox.path(&format!("/{id}?scope=all")))
        .await;
    let problem = reply.assert_problem(400, "invalid_query");
    assert_eq!(problem["errors"][0]["pointer"], "/scope");
    let nothing = mailbox
        .app
        .delete(&mailbox.path(&format!("/{}", Uuid::now_v7())))
        .await;
    nothing.assert_problem(404, "not_found");
    assert_eq!(mailbox.get(&format!("/{id}")).await.status, 200);
}

#[tokio::test]
async fn message_of_another_mailbox_is_not_found() {
    let mailbox = Mailbox::new().await;
    let id = mailbox.store(message(mailbox.id, "uid-1", b"one")).await;
    let other = mailbox.app.mailbox().await;
    for rest in ["", "/raw", "/ledger", "/attachments/0"] {
        let path = format!("/v1/mailboxes/{other}/messages/{id}{rest}");
        mailbox
            .app
            .get(&path)
            .await
            .assert_problem(404, "not_found");
    }
    let latest = mailbox
        .app
        .get(&format!("/v1/mailboxes/{other}/messages/latest"))
        .await;
    latest.assert_problem(404, "not_found");
}
