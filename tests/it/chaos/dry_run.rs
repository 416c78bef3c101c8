//! `POST …/sync?dry_run=true`: what a sync would do, with nothing done.

use popbridge::chaos::Faults;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    chaos,
    outcomes::faults,
    store::{Case, Store},
};
use crate::support::{eventually, popbridge::Popbridge};

impl Case<'_> {
    async fn dry_run(&self, query: &str) -> (u16, Value) {
        let path = format!("/v1/mailboxes/{}/sync?dry_run=true{query}", self.mailbox);
        let response = self.bridge.request(Method::POST, &path).send().await;
        let response = response.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn show(&self) -> Value {
        self.bridge.mailbox(&self.mailbox).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_counts_what_a_sync_would_do_and_does_nothing() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let server = chaos(faults(&[])).await;
    let case = Case::at(
        &bridge,
        &store,
        server,
        json!({ "max_message_bytes": 1024 }),
    )
    .await;
    assert_eq!(case.sync().await, "ok");
    let maildrop = case.server.maildrop();
    maildrop.deliver("Subject: new\r\n\r\nhere\r\n");
    maildrop.deliver(vec![b'x'; 4096]);
    let stored = &bridge.messages(&case.mailbox).await[0];
    let path = format!("/v1/mailboxes/{}/messages/", case.mailbox);
    bridge
        .delete(&format!(
            "{path}{}?scope=remote",
            stored["id"].as_str().unwrap()
        ))
        .await;
    let before = case.show().await;

    for _ in 0..2 {
        let (status, mut counted) = case.dry_run("").await;
        assert_eq!(status, 200, "{counted}");
        let octets = counted["listed_octets"].take();
        assert!(octets.as_i64() > Some(4096), "{octets}");
        let expected = json!({
            "listed": 5, "listed_octets": null, "known": 3, "fetch": 1, "fetch_octets": 22,
            "oversize": 1, "skip": 0, "delete": 1,
        });
        assert_eq!(counted, expected);
        assert_eq!(case.show().await, before, "the mailbox stays as it was");
        assert_eq!(case.left(), 5);
    }

    let sync = bridge.sync(&case.mailbox).await;
    assert_eq!((&sync["stored"], &sync["failed"]), (&json!(2), &json!(0)));
    assert_eq!(case.left(), 4);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_that_fails_says_why_and_harms_nothing() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let case = Case::at(&bridge, &store, chaos(faults(&[])).await, json!({})).await;
    assert_eq!(case.sync().await, "ok");
    let before = case.show().await;
    case.server
        .set_faults(faults(&["--reply", "AUTH=-ERR [AUTH] no"]));

    let (status, problem) = case.dry_run("").await;
    assert_eq!((status, &problem["code"]), (502, &json!("dry_run_failed")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("auth_failed: "), "{detail}");
    assert_eq!(case.show().await, before);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_waits_for_a_sync_that_runs() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let case = Case::at(&bridge, &store, chaos(faults(&[])).await, json!({})).await;
    assert_eq!(case.sync().await, "ok");
    case.server.set_faults(faults(&["--drip", "50"]));
    let path = format!("/v1/mailboxes/{}/sync", case.mailbox);
    bridge.post(&path, Value::Null).await;
    eventually("the sync runs", async || {
        (case.show().await["state"] == "syncing").then_some(())
    })
    .await;

    let (status, problem) = case.dry_run("&wait=0").await;
    assert_eq!((status, &problem["code"]), (409, &json!("sync_running")));
    case.server.set_faults(Faults::default());
    let (status, counted) = case.dry_run("").await;
    assert_eq!((status, &counted["known"]), (200, &json!(3)));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_mailbox_has_no_dry_run() {
    let bridge = Popbridge::start().await;
    let store = Store::of(&bridge).await;
    let settings = json!({ "paused": true });
    let case = Case::at(&bridge, &store, chaos(faults(&[])).await, settings).await;
    let (status, problem) = case.dry_run("").await;
    assert_eq!((status, &problem["code"]), (409, &json!("mailbox_paused")));
    bridge.stop().await;
}
