//! The diagnosis of POP3 servers: `POST /v1/mailboxes/verify` and `popbridge check`.

use std::process::Stdio;

use popbridge::pop3::Tls;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    app::App,
    pop3_peer::{Answer, Certificate, Peer, Running},
    world::World,
};

/// Settings that reach the peer.
fn body(peer: &Running) -> Value {
    let tls = match peer.server.tls {
        Tls::Implicit => "implicit",
        Tls::Starttls => "starttls",
        Tls::None => "none",
    };
    json!({
        "host": peer.server.host, "port": peer.server.port, "tls": tls,
        "tls_ca_pem": peer.server.ca_pem, "username": "user", "password": "hunter2",
    })
}

async fn verify(peer: &Running) -> Value {
    let app = App::start().await;
    let reply = app.post("/v1/mailboxes/verify", &body(peer)).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    assert!(!reply.json().to_string().contains("hunter2"));
    let mailboxes = app.get("/v1/mailboxes").await.json();
    assert_eq!(mailboxes["items"], json!([]), "nothing is saved");
    reply.json()
}

/// The codes of what is odd.
fn quirks(report: &Value) -> Vec<&str> {
    let quirks = report["quirks"].as_array().unwrap().iter();
    quirks.filter_map(|quirk| quirk["code"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_server_is_told_in_full() {
    let world = World::start().await;
    for n in 0..3 {
        let mail = format!("Subject: {n}\n\ntext\n");
        world.dovecot.deliver("anna", mail.as_bytes()).unwrap();
    }
    let settings = json!({
        "host": "localhost", "port": world.dovecot.pop3s().port(), "username": "anna",
        "password": crate::support::world::PASSWORD, "tls_ca_pem": world.certificates.ca_pem,
    });
    let report = world.post("/v1/mailboxes/verify", settings).await;
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(
        (&report["error"], &report["messages"]),
        (&Value::Null, &json!(3))
    );
    assert_eq!(report["uidl_stable"], true);
    assert!(report["octets"].as_u64().unwrap() > 3 * 18);
    assert_eq!(report["tls"]["version"], "TLSv1.3");
    assert_eq!(
        report["tls"]["certificates"][0]["names"],
        json!(["localhost"])
    );
    let capabilities = report["capabilities"].as_array().unwrap();
    assert!(capabilities.contains(&json!("UIDL")), "{capabilities:?}");
    let steps: Vec<_> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            (
                step["connection"].as_u64().unwrap(),
                step["step"].as_str().unwrap(),
            )
        })
        .collect();
    let each = [
        "resolve",
        "connect",
        "tls",
        "greeting",
        "capabilities",
        "login",
        "capabilities",
        "listing",
        "quit",
    ];
    let both: Vec<_> = (1..=2).flat_map(|n| each.map(|step| (n, step))).collect();
    assert_eq!(steps, both);
    assert_eq!(world.maildrop().len(), 3, "nothing is changed");
    world.stop().await;
}

#[tokio::test]
async fn the_step_that_failed_is_told_with_what_to_change() {
    let refused = Peer::new(Tls::Implicit)
        .sends("AUTH", "-ERR [AUTH] no\r\n")
        .start()
        .await;
    let unencrypted = Peer::new(Tls::Starttls)
        .capabilities(&["USER"])
        .start()
        .await;
    let foreign = Peer::new(Tls::Implicit)
        .certificate(Certificate::issued(&["elsewhere"]))
        .start()
        .await;
    let busy = Peer::new(Tls::None)
        .answer("AUTH", Answer::Send(b"-ERR [IN-USE] locked\r\n".into()))
        .start()
        .await;
    for (peer, step, code, advice) in [
        (&refused, "login", "auth_failed", "app password"),
        (&unencrypted, "capabilities", "starttls_unsupported", "995"),
        (
            &foreign,
            "tls",
            "tls_certificate_name_mismatch",
            "elsewhere",
        ),
        (&busy, "login", "in_use", "another session"),
    ] {
        let report = verify(peer).await;
        assert_eq!(report["ok"], false);
        let error = &report["error"];
        assert_eq!(
            (&error["step"], &error["code"]),
            (&json!(step), &json!(code))
        );
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains(advice), "{detail}");
        let last = report["steps"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["step"], &last["ok"]), (&json!(step), &json!(false)));
    }
    assert_eq!(refused.count("PASS hunter2"), 0, "one mechanism, once");
}

#[tokio::test]
async fn what_is_odd_is_told() {
    let without_uidl = Peer::new(Tls::None)
        .capabilities(&["USER", "LOGIN-DELAY 300", "EXPIRE 0"])
        .sends("UIDL", "-ERR what?\r\n")
        .start()
        .await;
    let report = verify(&without_uidl).await;
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(
        quirks(&report),
        [
            "plain_text",
            "no_pipelining",
            "no_top",
            "login_delay",
            "expire_0",
            "no_uidl"
        ]
    );
    assert_eq!(
        report["uidl_stable"],
        Value::Null,
        "the server asks for a pause"
    );

    let repeating = Peer::new(Tls::Implicit)
        .sends("UIDL", "+OK\r\n1 same\r\n2 same\r\n.\r\n")
        .answer("QUIT", Answer::Close(Vec::new()))
        .start()
        .await;
    assert_eq!(quirks(&verify(&repeating).await), ["incomplete_listing"]);

    let hasty = Peer::new(Tls::Implicit)
        .answer("QUIT", Answer::Close(Vec::new()))
        .start()
        .await;
    assert_eq!(quirks(&verify(&hasty).await), ["quit_unanswered"]);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_before_anything_is_tried() {
    let app = App::start().await;
    app.post("/v1/mailboxes/verify", &json!({ "host": "", "port": 0 }))
        .await
        .assert_mistakes(&["/host", "/port", "/username", "/password"]);
    let grant = json!({
        "host": "pop.example.com", "username": "anna", "oauth2": {
            "token_url": "https://example.com/token", "client_id": "a", "refresh_token": "b",
        },
    });
    app.post("/v1/mailboxes/verify", &grant)
        .await
        .assert_mistakes(&["/oauth2"]);
}

/// What `popbridge check` prints on standard output, and its exit code.
async fn run_check(arguments: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_popbridge"))
        .arg("check")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.code().unwrap())
}

#[tokio::test]
async fn the_terminal_shows_the_same() {
    let peer = Peer::new(Tls::Implicit).start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ca.pem", peer.server.ca_pem.as_ref().unwrap());
    let password = file("password", "hunter2\n");
    let server = format!("localhost:{}", peer.server.port);

    let before_login = [server.as_str(), "--tls-ca", &ca];
    let (text, code) = run_check(&before_login).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("capabilities  USER, UIDL"), "{text}");
    assert!(!peer.commands().iter().any(|line| line.starts_with("AUTH")));

    let whole = [
        &before_login[..],
        &["--username", "user", "--password-file", &password],
    ]
    .concat();
    let (text, code) = run_check(&whole).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("2 messages, 40 octets"), "{text}");

    let (text, code) = run_check(&[&whole[..], &["--json"]].concat()).await;
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["ok"], &report["messages"]),
        (&json!(true), &json!(2))
    );

    let (text, code) = run_check(&[&server]).await;
    assert_eq!(code, 1);
    assert!(text.contains("tls_certificate_untrusted"), "{text}");

    assert_eq!(run_check(&["localhost:pop3"]).await.1, 2, "bad usage");
    assert_eq!(
        run_check(&[&server, "--username", "user"]).await.1,
        2,
        "no password"
    );
}
