//! The reference implementation of Standard Webhooks in Python takes what we sign.

use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{Outbox, SECRET, quick, receiver::Receiver};

/// Names a Python virtual environment with the package `standardwebhooks`.
const VENV: &str = "POPBRIDGE_TEST_PYTHON";

#[tokio::test]
async fn python_package_verifies_a_delivered_webhook() {
    let Some(venv) = std::env::var_os(VENV) else {
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "SKIPPED: {VENV} names no Python virtual environment with `standardwebhooks`"
        )
        .unwrap();
        return;
    };
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let _running = outbox.dispatch(quick(1));
    outbox.ended(&webhook).await;

    let received = receiver.received().remove(0);
    let headers: HashMap<_, _> = received
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let body = str::from_utf8(&received.body).unwrap();
    let input = json!({ "secret": SECRET, "headers": headers, "body": body }).to_string();
    let python = PathBuf::from(venv).join("bin/python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/webhooks/verify.py");
    let verified = tokio::task::spawn_blocking(move || {
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        process.wait_with_output().unwrap()
    });
    let output = verified.await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}
