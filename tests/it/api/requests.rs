//! What is the same for every route: problems, limits, request ids, CORS.

use reqwest::{Method, header};
use serde_json::json;
use uuid::Uuid;

use crate::support::app::{App, Reply, mailbox_body};

#[tokio::test]
async fn unknown_route_and_method_are_problems() {
    let app = App::start().await;
    app.get("/v1/nothing")
        .await
        .assert_problem(404, "not_found");
    app.get("/v1/mailboxes/not-a-uuid")
        .await
        .assert_problem(404, "not_found");
    app.get("/v1/mailboxes/%FF")
        .await
        .assert_problem(404, "not_found");
    app.get("/docs/nothing.js")
        .await
        .assert_problem(404, "not_found");

    let reply = app.delete("/v1/mailboxes").await;
    reply.assert_problem(405, "method_not_allowed");
    assert!(reply.header("allow").contains("POST"));
}

#[tokio::test]
async fn body_must_be_json() {
    let app = App::start().await;
    let post = |content_type: &str, body: &str| {
        let request = app.request(Method::POST, "/v1/mailboxes");
        Reply::of(
            request
                .header("content-type", content_type)
                .body(body.to_owned()),
        )
    };

    let json = "application/json; charset=utf-8";
    for malformed in ["", "{", "{\"host\": }", "\u{feff}{}", "{} {}"] {
        post(json, malformed)
            .await
            .assert_problem(400, "malformed_json");
    }
    for (body, pointer) in [("[]", ""), ("null", ""), ("\"text\"", "")] {
        post(json, body).await.assert_mistakes(&[pointer]);
    }
    post("text/plain", "{}")
        .await
        .assert_problem(415, "unsupported_media_type");
    let untyped = app.request(Method::POST, "/v1/mailboxes").body("{}");
    Reply::of(untyped)
        .await
        .assert_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn long_body_is_refused() {
    let app = App::start().await;
    let long = format!("{{\"name\": \"{}\"}}", "a".repeat(300 << 10));
    let request = app
        .request(Method::POST, "/v1/mailboxes")
        .header("content-type", "application/json");
    Reply::of(request.body(long))
        .await
        .assert_problem(413, "body_too_large");
}

#[tokio::test]
async fn unknown_query_parameters_are_refused() {
    let app = App::start().await;
    let mailbox = app.mailbox().await;
    for (path, pointer) in [
        ("/v1/mailboxes?limt=5".to_owned(), "/limt"),
        ("/v1/mailboxes?limit=many".to_owned(), "/limit"),
        ("/v1/mailboxes?limit=0".to_owned(), "/limit"),
        ("/v1/webhooks?limit=501".to_owned(), "/limit"),
        (
            format!("/v1/mailboxes/{mailbox}/messages?offset=5"),
            "/offset",
        ),
    ] {
        let problem = app.get(&path).await.assert_problem(400, "invalid_query");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn foreign_cursor_is_refused() {
    let app = App::start().await;
    for cursor in ["x", "AAAA", &Uuid::now_v7().to_string()] {
        let reply = app.get(&format!("/v1/mailboxes?cursor={cursor}")).await;
        reply.assert_problem(400, "invalid_cursor");
    }
}

#[tokio::test]
async fn request_id_of_the_client_is_kept_when_it_is_plain() {
    let app = App::start().await;
    let ask = |id: &str| {
        let request = app.anonymous(Method::GET, "/v1/mailboxes");
        Reply::of(request.header("x-request-id", id))
    };

    let reply = ask("job-7.a_b").await;
    assert_eq!(reply.header("x-request-id"), "job-7.a_b");
    reply.assert_problem(401, "unauthorized");
    for odd in ["", "two words", "{}", &"a".repeat(65)] {
        let id = ask(odd).await.header("x-request-id").to_owned();
        assert!(id.parse::<Uuid>().is_ok(), "{odd:?} became {id:?}");
    }
}

#[tokio::test]
async fn replies_are_not_sniffed() {
    let app = App::start().await;
    for path in ["/livez", "/v1/mailboxes", "/docs/", "/nothing"] {
        assert_eq!(
            app.get(path).await.header("x-content-type-options"),
            "nosniff",
            "{path}"
        );
    }
}

#[tokio::test]
async fn browsers_may_call_from_named_origins_only() {
    let app = App::start_for_origin("https://app.example.com").await;
    let preflight = |origin: &str| {
        let request = app
            .anonymous(Method::OPTIONS, "/v1/mailboxes")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization");
        Reply::of(request)
    };

    let named = preflight("https://app.example.com").await;
    assert_eq!(named.status, 200);
    let allowed = named.header("access-control-allow-origin");
    assert_eq!(allowed, "https://app.example.com");
    let other = preflight("https://evil.example.com").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));

    let request = app
        .anonymous(Method::GET, "/v1/mailboxes")
        .header(header::ORIGIN, "https://app.example.com");
    let refused = Reply::of(request).await;
    refused.assert_problem(401, "unauthorized");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        "https://app.example.com"
    );
}

#[tokio::test]
async fn no_origin_may_call_by_default() {
    let app = App::start().await;
    let request = app
        .request(Method::GET, "/v1/mailboxes")
        .header(header::ORIGIN, "https://app.example.com");
    let reply = Reply::of(request).await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn pages_cover_a_list_once_and_in_order() {
    let app = App::start().await;
    let mut made = Vec::new();
    for n in 0..5 {
        let mut body = mailbox_body();
        body["external_id"] = json!(format!("customer-{n}"));
        let reply = app.post("/v1/mailboxes", &body).await;
        made.insert(0, reply.json()["id"].clone());
    }

    let (mut seen, mut path) = (Vec::new(), "/v1/mailboxes?limit=2".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = app.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        sizes.push(items.len());
        seen.extend(items.iter().map(|item| item["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else {
            assert!(page["next_cursor"].is_null());
            break;
        };
        path = format!("/v1/mailboxes?limit=2&cursor={cursor}");
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(seen, made);
}
