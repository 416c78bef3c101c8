//! Health and metrics.

use popbridge::store::{MasterKey, Store};
use reqwest::Method;

use crate::support::app::{App, Reply};

#[tokio::test]
async fn health_needs_no_key() {
    let app = App::start().await;
    for path in ["/livez", "/readyz"] {
        let reply = Reply::of(app.anonymous(Method::GET, path)).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["status"]),
            (200, &"ok".into()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn without_a_database_it_lives_but_is_not_ready() {
    let key = MasterKey::from_base64(&MasterKey::generate()).unwrap();
    // Nothing listens on port 1.
    let store = Store::new("postgres://nobody@127.0.0.1:1/none", key).unwrap();
    let app = App::over(store, None, &[]).await;

    assert_eq!(app.get("/livez").await.status, 200);
    let reply = app.get("/readyz").await;
    let problem = reply.assert_problem(503, "database_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("database"));
    assert!(reply.headers.contains_key("retry-after"));
    // The admin key needs no database to be known; the list does.
    let reply = app.get("/v1/mailboxes").await;
    reply.assert_problem(503, "database_unavailable");
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let app = App::start().await;
    let id = uuid::Uuid::now_v7();
    app.get(&format!("/v1/mailboxes/{id}"))
        .await
        .assert_problem(404, "not_found");
    app.get("/no/such/route")
        .await
        .assert_problem(404, "not_found");

    let reply = Reply::of(app.anonymous(Method::GET, "/metrics")).await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = String::from_utf8(reply.octets).unwrap();
    for label in [
        "route=\"/v1/mailboxes/{mailbox_id}\"",
        "route=\"unmatched\"",
    ] {
        let counted = text.lines().any(|line| {
            line.starts_with("popbridge_http_requests_total{")
                && line.contains(label)
                && line.contains("status=\"4xx\"")
        });
        assert!(counted, "{label} in\n{text}");
    }
    assert!(!text.contains(&id.to_string()));
}
