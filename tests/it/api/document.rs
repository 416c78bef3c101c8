//! The OpenAPI document and its explorer.

use popbridge::api;
use reqwest::Method;

use crate::support::app::{App, Reply};

#[test]
fn committed_document_is_fresh() {
    let committed = include_str!("../../../openapi/openapi.json");
    let current = api::openapi().to_pretty_json().unwrap() + "\n";
    assert!(
        committed == current,
        "openapi/openapi.json is stale; run script/openapi"
    );
}

#[test]
fn every_reference_in_the_document_resolves() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let text = document.to_string();
    let references: Vec<_> = text.split("\"$ref\":\"#").skip(1).collect();
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn document_is_served_with_a_tag() {
    let app = App::start().await;
    let reply = Reply::of(app.anonymous(Method::GET, "/openapi.json")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), serde_json::to_value(api::openapi()).unwrap());
    assert!(reply.json()["openapi"].as_str().unwrap().starts_with("3.1"));

    let again = app
        .anonymous(Method::GET, "/openapi.json")
        .header("if-none-match", reply.etag());
    assert_eq!(Reply::of(again).await.status, 304);
}

#[tokio::test]
async fn explorer_needs_nothing_from_elsewhere() {
    let app = App::start().await;
    let page = Reply::of(app.anonymous(Method::GET, "/docs/")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'self'")
    );
    let html = String::from_utf8(page.octets).unwrap();
    assert!(
        !html.contains("src=\"http") && !html.contains("href=\"http"),
        "{html}"
    );

    let scripts = html
        .split("src=\"./")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let scripts: Vec<_> = scripts.collect();
    assert!(scripts.len() >= 2, "{html}");
    for script in scripts {
        let reply = Reply::of(app.anonymous(Method::GET, &format!("/docs/{script}"))).await;
        assert_eq!(reply.status, 200, "{script}");
        assert!(reply.header("content-type").contains("javascript"));
    }
    let start = Reply::of(app.anonymous(Method::GET, "/docs/swagger-initializer.js")).await;
    assert!(
        String::from_utf8(start.octets)
            .unwrap()
            .contains("/openapi.json")
    );
}

#[tokio::test]
async fn people_are_led_to_the_explorer() {
    let app = App::start().await;
    let reply = Reply::of(app.anonymous(Method::GET, "/")).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (307, "/docs/")
    );
}
