//! Syncs as the API shows them.

use std::time::Duration;

use popbridge::store::leases::{Counts, Failure, Outcome};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::app::{App, Reply};

fn outcome(failure: Option<Failure>) -> Outcome {
    Outcome {
        started_at: OffsetDateTime::now_utc(),
        counts: Counts {
            listed: 3,
            stored: 2,
            ..Counts::default()
        },
        failure,
        capabilities: None,
        caught_up: true,
        next_in: Some(Duration::from_secs(3600)),
        pipelining_off_for: None,
        transcript: serde_json::json!({"entries": [], "left_out": 0}),
    }
}

/// A sync as lists have it.
fn without_transcript(reply: &Reply) -> Value {
    let mut sync = reply.json();
    let transcript = sync.as_object_mut().unwrap().remove("transcript");
    let ended = !sync["finished_at"].is_null();
    assert_eq!(transcript.unwrap().is_object(), ended);
    sync
}

#[tokio::test]
async fn sync_is_queued_and_joined() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let path = format!("/v1/mailboxes/{mailbox}/sync");

    let first = app.post(&path, &json!({})).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let sync = first.json();
    assert_eq!(
        (&sync["state"], &sync["mailbox_id"]),
        (&json!("queued"), &json!(mailbox))
    );
    let second = app.post(&path, &json!({})).await.json();
    assert_eq!(second["id"], sync["id"]);
    assert_eq!(
        without_transcript(&app.get(first.header("location")).await),
        second
    );

    app.lease(mailbox).await;
    assert_eq!(
        app.get(first.header("location")).await.json()["state"],
        "running"
    );
    let mailbox = app.get(&format!("/v1/mailboxes/{mailbox}")).await.json();
    assert_eq!(mailbox["state"], "syncing");
}

#[tokio::test]
async fn wait_ends_with_the_sync() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let worker = async {
        loop {
            let claims = app
                .store
                .claim_due_mailboxes(1, Duration::from_secs(60), &crate::support::any_host())
                .await
                .unwrap();
            for claim in claims {
                app.store
                    .finish_pass(&claim.lease, &outcome(None))
                    .await
                    .unwrap();
            }
            tokio::task::yield_now().await;
        }
    };

    let path = format!("/v1/mailboxes/{mailbox}/sync?wait=60");
    let request = app.request(Method::POST, &path);
    let reply = tokio::select! {
        reply = Reply::of(request) => reply,
        () = worker => unreachable!("it works on and on"),
    };

    assert_eq!(reply.status, StatusCode::OK);
    let sync = reply.json();
    assert_eq!(
        (&sync["state"], &sync["stored"]),
        (&json!("succeeded"), &json!(2))
    );
    assert!(sync["finished_at"].is_string());
    assert_eq!(
        without_transcript(&app.get(reply.header("location")).await),
        sync
    );
}

#[tokio::test]
async fn failed_sync_tells_why() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let lease = app.lease(mailbox).await;
    let failure = Failure {
        code: "connect_refused",
        detail: "nothing listens there".into(),
        auth: false,
    };
    app.store
        .finish_pass(&lease, &outcome(Some(failure)))
        .await
        .unwrap();

    let listed = app
        .get(&format!("/v1/mailboxes/{mailbox}/syncs"))
        .await
        .json();
    let sync = &listed["items"][0];
    assert_eq!(
        (&sync["id"], &sync["state"]),
        (&json!(lease.sync_id), &json!("failed"))
    );
    assert_eq!(sync["error"]["code"], "connect_refused");

    let path = format!("/v1/mailboxes/{mailbox}/syncs/{}", lease.sync_id);
    let read = app.get(&path).await;
    assert_eq!(&without_transcript(&read), sync);
    let again = app
        .request(Method::GET, &path)
        .header("if-none-match", read.etag());
    assert_eq!(Reply::of(again).await.status, 304);

    let shown = app.get(&format!("/v1/mailboxes/{mailbox}")).await.json();
    assert_eq!(shown["state"], "backing_off");
    assert_eq!(shown["last_error"]["detail"], "nothing listens there");
}

#[tokio::test]
async fn paused_mailbox_is_not_synced() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    let path = format!("/v1/mailboxes/{mailbox}");
    assert_eq!(
        app.patch(&path, &json!({ "paused": true })).await.json()["state"],
        "paused"
    );

    let reply = app.post(&format!("{path}/sync"), &json!({})).await;
    reply.assert_problem(409, "mailbox_paused");
}

#[tokio::test]
async fn wait_has_bounds_and_unknown_mailboxes_have_no_syncs() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    for query in ["wait=61", "wait=-1", "wait=soon", "dry_run=true"] {
        let reply = app
            .post(&format!("/v1/mailboxes/{mailbox}/sync?{query}"), &json!({}))
            .await;
        reply.assert_problem(400, "invalid_query");
    }
    let nowhere = uuid::Uuid::now_v7();
    let path = format!("/v1/mailboxes/{nowhere}");
    app.post(&format!("{path}/sync"), &json!({}))
        .await
        .assert_problem(404, "not_found");
    app.get(&format!("{path}/syncs"))
        .await
        .assert_problem(404, "not_found");
    let empty = app
        .get(&format!("/v1/mailboxes/{mailbox}/syncs"))
        .await
        .json();
    assert_eq!(empty, json!({ "items": [], "next_cursor": null }));
}
