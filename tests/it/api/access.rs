//! Who may do what.

use popbridge::api::{self, keys::Scope};
use reqwest::Method;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::support::app::{App, Reply, mailbox_body};

/// Each operation of the document that needs a key, with the scope it names.
fn secured_operations() -> Vec<(Method, String, Scope)> {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(scope) = operation.pointer("/security/0/api_key/0") else {
                continue;
            };
            let method = method.to_uppercase().parse().unwrap();
            let path = path
                .replace("{n}", "0")
                .split('/')
                .map(|step| {
                    if step.starts_with('{') {
                        Uuid::nil().to_string()
                    } else {
                        step.into()
                    }
                })
                .collect::<Vec<_>>()
                .join("/");
            operations.push((method, path, scope.as_str().unwrap().parse().unwrap()));
        }
    }
    operations
}

#[test]
fn every_operation_under_v1_names_its_scope() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations: usize = paths
        .iter()
        .filter(|(path, _)| path.starts_with("/v1/"))
        .map(|(_, item)| item.as_object().unwrap().len())
        .sum();
    assert_eq!(secured_operations().len(), operations);
    assert!(operations >= 20);
}

#[tokio::test]
async fn each_operation_needs_the_scope_that_its_document_names() {
    let app = App::start().await;
    for (method, path, scope) in secured_operations() {
        let others: Vec<_> = Scope::ALL
            .into_iter()
            .filter(|other| *other != scope)
            .collect();
        let without = app.key(&others, &[], None).await;
        let with = app.key(&[scope], &[], None).await;

        let refused = app.with_key(&without, method.clone(), &path).await;
        let problem = refused.assert_problem(403, "insufficient_scope");
        assert!(
            problem["detail"].as_str().unwrap().contains(scope.as_str()),
            "{problem}"
        );
        let challenge = refused.header("www-authenticate");
        assert!(
            challenge.contains(&format!("scope=\"{scope}\"")),
            "{challenge}"
        );

        let allowed = app.with_key(&with, method.clone(), &path).await;
        assert!(
            ![401, 403].contains(&allowed.status.as_u16()),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn each_operation_refuses_strangers() {
    let app = App::start().await;
    for (method, path, _) in secured_operations() {
        let reply = Reply::of(app.anonymous(method.clone(), &path)).await;
        reply.assert_problem(401, "unauthorized");
        assert_eq!(
            reply.header("www-authenticate"),
            "Bearer realm=\"popbridge\""
        );

        let reply = app.with_key("pb_nobody-has-this-one", method, &path).await;
        reply.assert_problem(401, "unauthorized");
        assert!(reply.header("www-authenticate").contains("invalid_token"));
    }
}

#[tokio::test]
async fn odd_credentials_are_refused_and_the_scheme_has_no_case() {
    let app = App::start().await;
    for odd in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "an-admin-key-for-tests",
        "Bearer \u{e4}",
    ] {
        let request = app
            .anonymous(Method::GET, "/v1/mailboxes")
            .header("authorization", odd);
        Reply::of(request).await.assert_problem(401, "unauthorized");
    }
    let request = app
        .anonymous(Method::GET, "/v1/mailboxes")
        .header("authorization", "bearer an-admin-key-for-tests");
    assert_eq!(Reply::of(request).await.status, 200);
}

#[tokio::test]
async fn expired_key_is_refused() {
    let app = App::start().await;
    let now = OffsetDateTime::now_utc();
    let expired = app
        .key(&Scope::ALL, &[], Some(now - Duration::minutes(1)))
        .await;
    let valid = app
        .key(&Scope::ALL, &[], Some(now + Duration::hours(1)))
        .await;

    let reply = app.with_key(&expired, Method::GET, "/v1/mailboxes").await;
    reply.assert_problem(401, "unauthorized");
    assert_eq!(
        app.with_key(&valid, Method::GET, "/v1/mailboxes")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn bound_key_sees_only_its_mailboxes() {
    let app = App::start().await;
    let (own, foreign) = (app.mailbox().await, app.mailbox().await);
    let key = app.key(&Scope::ALL, &[own], None).await;

    let listed = app
        .with_key(&key, Method::GET, "/v1/mailboxes")
        .await
        .json();
    let ids: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, [&json!(own)]);

    for (method, path, _) in secured_operations() {
        if let Some(rest) = path.strip_prefix(&format!("/v1/mailboxes/{}", Uuid::nil())) {
            let reply = app
                .with_key(&key, method, &format!("/v1/mailboxes/{foreign}{rest}"))
                .await;
            reply.assert_problem(404, "not_found");
        }
    }
    let read = app
        .with_key(&key, Method::GET, &format!("/v1/mailboxes/{own}"))
        .await;
    assert_eq!(read.status, 200);
}

#[tokio::test]
async fn bound_key_makes_no_mailboxes() {
    let app = App::start().await;
    let own = app.mailbox().await;
    let key = app.key(&Scope::ALL, &[own], None).await;

    let request = app
        .anonymous(Method::POST, "/v1/mailboxes")
        .bearer_auth(&key);
    let reply = Reply::of(request.json(&mailbox_body())).await;
    reply.assert_problem(403, "mailbox_bound_key");
}

#[tokio::test]
async fn bound_key_has_webhooks_of_its_mailboxes_only() {
    let app = App::start().await;
    let (own, foreign) = (app.mailbox().await, app.mailbox().await);
    let key = app.key(&Scope::ALL, &[own], None).await;
    let body = |ids: Value| json!({ "url": "https://example.com/", "mailbox_ids": ids });
    let send = async |method: Method, path: &str, body: Value| {
        Reply::of(app.anonymous(method, path).bearer_auth(&key).json(&body)).await
    };

    for ids in [json!([]), json!([foreign]), json!([own, foreign])] {
        let reply = send(Method::POST, "/v1/webhooks", body(ids)).await;
        reply.assert_problem(403, "mailbox_bound_key");
    }
    let made = send(Method::POST, "/v1/webhooks", body(json!([own]))).await;
    assert_eq!(made.status, 201);
    let path = made.header("location").to_owned();
    let widened = send(Method::PATCH, &path, json!({ "mailbox_ids": [] })).await;
    widened.assert_problem(403, "mailbox_bound_key");

    let of_all = app.post("/v1/webhooks", &body(json!([]))).await;
    let of_all = of_all.header("location").to_owned();
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::GET, "/deliveries"),
        (Method::DELETE, ""),
    ] {
        let reply = app
            .with_key(&key, method, &format!("{of_all}{suffix}"))
            .await;
        reply.assert_problem(404, "not_found");
    }
    let listed = app.with_key(&key, Method::GET, "/v1/webhooks").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["id"], made.json()["id"]);
}
