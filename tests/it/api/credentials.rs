//! What mailboxes log in with: a password or a grant of OAuth 2.0, taken but never shown.

use popbridge::store::credentials::StoredCredential;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{App, mailbox_body};

const SECRETS: [&str; 2] = ["client-s3cret", "refresh-t0ken"];

fn grant() -> Value {
    json!({
        "token_url": "https://login.example.com/token",
        "client_id": "popbridge",
        "client_secret": "client-s3cret",
        "refresh_token": "refresh-t0ken",
        "scope": "https://mail.example.com/ offline_access",
    })
}

/// The least that makes a mailbox with a grant.
fn oauth2_body() -> Value {
    json!({ "host": "pop.example.com", "username": "anna", "oauth2": grant() })
}

async fn oauth2_mailbox(app: &App) -> (Uuid, String) {
    let created = app.post("/v1/mailboxes", &oauth2_body()).await;
    assert_eq!(created.status, 201, "{}", created.json());
    let id = created.json()["id"].as_str().unwrap().parse().unwrap();
    (id, format!("/v1/mailboxes/{id}"))
}

#[tokio::test]
async fn grant_is_taken_whole_and_nothing_of_it_comes_back() {
    let app = App::start().await;
    let (id, path) = oauth2_mailbox(&app).await;

    for body in [app.get(&path).await, app.get("/v1/mailboxes").await] {
        let shown = body.json().to_string();
        for secret in SECRETS.into_iter().chain(["login.example.com"]) {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!shown.contains("oauth2"), "{shown}");
    }
    let StoredCredential::OAuth2(stored) = app.store.mailbox_credential(id).await.unwrap() else {
        panic!("a grant is stored");
    };
    let found = stored.grant;
    assert_eq!(found.token_url, "https://login.example.com/token");
    assert_eq!(found.client_id, "popbridge");
    assert_eq!(
        found.client_secret.unwrap().expose_secret(),
        "client-s3cret"
    );
    assert_eq!(found.refresh_token.expose_secret(), "refresh-t0ken");
    assert_eq!(
        found.scope.unwrap(),
        "https://mail.example.com/ offline_access"
    );
    assert!(stored.access_token.is_none());
}

#[tokio::test]
async fn public_client_needs_no_secret_and_no_scope() {
    let app = App::start().await;
    let mut body = oauth2_body();
    for field in ["client_secret", "scope"] {
        body["oauth2"][field] = Value::Null;
        assert_eq!(app.post("/v1/mailboxes", &body).await.status, 201);
        body["oauth2"].as_object_mut().unwrap().remove(field);
        assert_eq!(app.post("/v1/mailboxes", &body).await.status, 201);
    }
}

#[tokio::test]
async fn password_or_grant_is_needed_and_not_both() {
    let app = App::start().await;
    let mut neither = oauth2_body();
    neither.as_object_mut().unwrap().remove("oauth2");
    let problem = app.post("/v1/mailboxes", &neither).await;
    let problem = problem.assert_mistakes(&["/password"]);
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("oauth2"), "{detail}");
    for auth in ["xoauth2", "oauthbearer"] {
        neither["auth"] = json!(auth);
        let reply = app.post("/v1/mailboxes", &neither).await;
        reply.assert_mistakes(&["/oauth2"]);
    }

    let mut both = oauth2_body();
    both["password"] = json!("hunter2");
    let reply = app.post("/v1/mailboxes", &both).await;
    reply.assert_mistakes(&["/oauth2"]);
}

#[tokio::test]
async fn mechanism_goes_with_the_credential() {
    let app = App::start().await;
    for (auth, password, oauth2) in [
        ("auto", 201, 201),
        ("user_pass", 201, 422),
        ("plain", 201, 422),
        ("apop", 201, 422),
        ("xoauth2", 422, 201),
        ("oauthbearer", 422, 201),
    ] {
        for (mut body, status) in [(mailbox_body(), password), (oauth2_body(), oauth2)] {
            body["auth"] = json!(auth);
            let reply = app.post("/v1/mailboxes", &body).await;
            assert_eq!(reply.status, status, "{body}");
            match status {
                201 => assert_eq!(reply.json()["auth"], auth),
                _ => drop(reply.assert_mistakes(&["/auth"])),
            }
        }
    }
}

#[tokio::test]
async fn each_wrong_value_of_a_grant_is_refused_without_repeating_it() {
    let app = App::start().await;
    let url = "/oauth2/token_url";
    for (pointer, field, value) in [
        (url, "token_url", json!("")),
        (url, "token_url", json!("login.example.com/token")),
        (url, "token_url", json!("http://login.example.com/token")),
        (url, "token_url", json!("ftp://login.example.com/token")),
        (url, "token_url", json!("https://a:b@login.example.com/")),
        (url, "token_url", json!("https://login.example.com/#here")),
        (url, "token_url", json!(null)),
        ("/oauth2/client_id", "client_id", json!("")),
        ("/oauth2/client_id", "client_id", json!("a\nb")),
        ("/oauth2/client_secret", "client_secret", json!("")),
        ("/oauth2/client_secret", "client_secret", json!(5_550_123)),
        ("/oauth2/refresh_token", "refresh_token", json!("")),
        ("/oauth2/refresh_token", "refresh_token", json!("a\u{1}b")),
        ("/oauth2/refresh_token", "refresh_token", json!(5_550_123)),
        (
            "/oauth2/refresh_token",
            "refresh_token",
            json!("x".repeat(20_000)),
        ),
        ("/oauth2/scope", "scope", json!("\u{fc}")),
        ("/oauth2/access_token", "access_token", json!("x")),
    ] {
        let mut body = oauth2_body();
        body["oauth2"][field] = value;
        let reply = app.post("/v1/mailboxes", &body).await;
        let problem = reply.assert_mistakes(&[pointer]).to_string();
        assert!(!problem.contains("5550123"), "{problem}");
    }

    let mut body = oauth2_body();
    body["username"] = json!("a\u{1}auth=Bearer b");
    let reply = app.post("/v1/mailboxes", &body).await;
    reply.assert_mistakes(&["/username"]);

    let mut body = oauth2_body();
    body["oauth2"] = json!({});
    let required = [url, "/oauth2/client_id", "/oauth2/refresh_token"];
    let reply = app.post("/v1/mailboxes", &body).await;
    reply.assert_mistakes(&required);
    for wrong in [
        json!("refresh-t0ken"),
        json!(null),
        json!(["refresh-t0ken"]),
    ] {
        body["oauth2"] = wrong;
        let reply = app.post("/v1/mailboxes", &body).await;
        let problem = reply.assert_mistakes(&["/oauth2"]).to_string();
        assert!(!problem.contains("t0ken"), "{problem}");
    }
    for loopback in [
        "http://localhost:1/",
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
    ] {
        let mut body = oauth2_body();
        body["oauth2"]["token_url"] = json!(loopback);
        assert_eq!(
            app.post("/v1/mailboxes", &body).await.status,
            201,
            "{loopback}"
        );
    }
}

#[tokio::test]
async fn patch_may_replace_one_kind_by_the_other() {
    let app = App::start().await;
    let (id, path) = oauth2_mailbox(&app).await;

    let reply = app.patch(&path, &json!({ "password": "hunter2" })).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    let stored = app.store.mailbox_credential(id).await.unwrap();
    assert!(matches!(stored, StoredCredential::Password(p) if p.expose_secret() == "hunter2"));

    let patch = json!({ "oauth2": grant(), "auth": "oauthbearer" });
    assert_eq!(app.patch(&path, &patch).await.status, 200);
    let stored = app.store.mailbox_credential(id).await.unwrap();
    assert!(matches!(stored, StoredCredential::OAuth2(_)));

    let password = json!({ "password": "hunter2" });
    let reply = app.patch(&path, &password).await;
    reply.assert_mistakes(&["/auth"]);
    let reply = app.patch(&path, &json!({ "auth": "plain" })).await;
    reply.assert_mistakes(&["/auth"]);
    let reply = app.patch(&path, &json!({ "auth": "xoauth2" })).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn patch_takes_a_grant_whole() {
    let app = App::start().await;
    let (_, path) = oauth2_mailbox(&app).await;
    // Else whoever may change a mailbox could have its secrets sent to an endpoint of their own.
    let elsewhere = json!({ "oauth2": { "token_url": "https://evil.example.com/" } });
    let reply = app.patch(&path, &elsewhere).await;
    reply.assert_mistakes(&["/oauth2/client_id", "/oauth2/refresh_token"]);
}

#[tokio::test]
async fn stored_credential_goes_to_no_other_server_and_not_in_the_clear() {
    let app = App::start().await;
    let password = app.mailbox().await;
    let (grant_id, _) = oauth2_mailbox(&app).await;
    for (id, pointer, again) in [
        (password, "/password", json!({ "password": "hunter2" })),
        (grant_id, "/oauth2", json!({ "oauth2": grant() })),
    ] {
        let path = format!("/v1/mailboxes/{id}");
        for mut change in [
            json!({ "host": "evil.example.com" }),
            json!({ "tls": "none" }),
            json!({ "port": 1110 }),
            json!({ "host": "other.example.com", "tls": "implicit" }),
        ] {
            let before = app.get(&path).await.json();
            let problem = app.patch(&path, &change).await.assert_mistakes(&[pointer]);
            let detail = problem["errors"][0]["detail"].as_str().unwrap();
            assert!(
                detail.contains("is required with this change of"),
                "{detail}"
            );
            assert_eq!(app.get(&path).await.json(), before);

            for (name, value) in again.as_object().unwrap() {
                change[name] = value.clone();
            }
            let reply = app.patch(&path, &change).await;
            assert_eq!(reply.status, 200, "{}", reply.json());
        }
    }
}

#[tokio::test]
async fn stored_credential_is_enough_for_what_stays_with_the_server() {
    let app = App::start().await;
    let path = format!("/v1/mailboxes/{}", app.mailbox().await);
    for change in [
        json!({ "host": "POP.example.com" }),
        json!({ "port": 1995 }),
        json!({ "tls": "starttls", "port": 110 }),
        json!({ "tls": "implicit", "port": 995 }),
        json!({ "username": "bert" }),
        json!({ "auth": "plain" }),
    ] {
        let reply = app.patch(&path, &change).await;
        assert_eq!(reply.status, 200, "{change}: {}", reply.json());
    }
}
