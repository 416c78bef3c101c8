//! One process serves the API, another does the work: Postgres is all they share.

use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::support::{crowd::Crowd, database::Database, eventually, program::Program};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_is_asked_for_the_worker_does() {
    let (database, server) = (Database::create().await, Crowd::start().await);
    let api = [("POPBRIDGE_ROLE", "api")];
    let api = Program::over(&database.url, &api, Stdio::inherit()).await;
    let worker = [("POPBRIDGE_ROLE", "worker")];
    let worker = Program::over(&database.url, &worker, Stdio::inherit()).await;
    let body = json!({
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "username": "idle-2",
        "password": "hunter2",
        "poll_interval_seconds": 86400,
    });
    let mailbox = api.post("/v1/mailboxes", body).await;
    let path = format!("/v1/mailboxes/{}", mailbox["id"].as_str().unwrap());
    eventually("the worker syncs", async || {
        (api.get(&path).await["message_count"] == 2).then_some(())
    })
    .await;

    let mut wakeups = PgListener::connect(&database.url).await.unwrap();
    wakeups.listen("popbridge_syncs").await.unwrap();
    let sync = api.post(&format!("{path}/sync?wait=30"), Value::Null).await;
    assert_eq!((&sync["listed"], &sync["error"]), (&json!(2), &Value::Null));
    let told = tokio::time::timeout(std::time::Duration::from_secs(30), wakeups.recv()).await;
    let told = told
        .expect("a sync that is asked for wakes the workers")
        .unwrap();
    assert_eq!(told.payload(), "");
    let plan = api
        .post(&format!("{path}/sync?dry_run=true"), Value::Null)
        .await;
    assert_eq!(
        (&plan["known"], &plan["fetch"]),
        (&json!(2), &json!(0)),
        "{plan}"
    );

    assert_eq!(worker.try_get(&path).await, None, "a worker serves no API");
    api.terminate().await;
    worker.terminate().await;
}
