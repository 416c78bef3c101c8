//! Memory for large mail: all sessions together stay within `POPBRIDGE_MEMORY_BUDGET`, and the rest
//! of the program within what the contract gives it beside.
//!
//! `script/soak memory` runs this with 32 sessions of 50 MB messages.

use std::{fmt::Write, path::Path, str::FromStr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use popbridge::chaos::{ChaosServer, Mail, Options};
use serde_json::{Value, json};

use crate::support::{database::Database, eventually_within, program::Program};

/// What the program may take beside the budget.
const BESIDE: u64 = 128 << 20;

/// A machine that does nothing else takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn large_text_stays_within_the_budget() {
    let octets = scale("OCTETS", 10_000_000);
    let mail = Mail {
        messages: 1,
        message_octets: octets,
        ..Mail::default()
    };
    assert_within_budget("text", mail).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_attachments_stay_within_the_budget() {
    let octets = scale("OCTETS", 10_000_000);
    let dir = tempfile::tempdir().unwrap();
    write_attachment(&dir.path().join("large.eml"), octets);
    let mail = Mail {
        maildir: Some(dir.path().to_owned()),
        ..Mail::default()
    };
    assert_within_budget("base64", mail).await;
}

/// Text is what becomes most: it is parsed, kept as JSON and sent beside the raw octets.
#[tokio::test(flavor = "multi_thread")]
async fn much_text_stays_within_the_budget() {
    let octets = scale("OCTETS", 10_000_000);
    let mail = Mail {
        messages: u32::try_from(octets / 500_000).unwrap(),
        message_octets: 500_000,
        ..Mail::default()
    };
    assert_within_budget("much text", mail).await;
}

/// Fetches this mail from as many maildrops as there are sessions, all at once.
async fn assert_within_budget(what: &str, mail: Mail) {
    let sessions: usize = scale("SESSIONS", 16);
    let budget: u64 = scale("BUDGET", 64 << 20);
    let database = Database::create().await;
    let settings = [
        ("POPBRIDGE_MEMORY_BUDGET", &*budget.to_string()),
        ("POPBRIDGE_SYNC_CONCURRENCY", &*sessions.to_string()),
    ];
    let log = std::process::Stdio::inherit();
    let program = Program::over(&database.url, &settings, log).await;
    let before = peak(&program);
    let mut mailboxes = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..sessions {
        let options = Options {
            mail: mail.clone(),
            ..Options::default()
        };
        let server = ChaosServer::start(options).await.unwrap();
        let mailbox = json!({
            "host": "localhost",
            "port": server.address().port(),
            "tls": "none",
            "username": "demo",
            "password": "demo",
        });
        let mailbox = program.post("/v1/mailboxes", mailbox).await;
        mailboxes.push(format!("/v1/mailboxes/{}", mailbox["id"].as_str().unwrap()));
        servers.push(server);
    }
    let expected = servers[0].maildrop().unique_ids().len();
    for mailbox in &mailboxes {
        eventually_within(LIMIT, "all mail is stored", async || {
            let mailbox: Value = program.get(mailbox).await;
            (mailbox["message_count"] == expected).then_some(())
        })
        .await;
    }
    let peak = peak(&program);
    report(&format!(
        "{what}: {sessions} sessions; budget {} MiB; peak {} MiB, {} MiB of it before",
        budget >> 20,
        peak >> 20,
        before >> 20
    ));
    assert!(peak <= budget + BESIDE, "{peak} bytes at the peak");
    program.terminate().await;
}

#[expect(clippy::print_stdout, reason = "what was measured")]
fn report(line: &str) {
    println!("{line}");
}

/// A number from the environment, so that more can be asked of it than a suite has time for.
fn scale<T: FromStr<Err: std::fmt::Debug>>(name: &str, otherwise: T) -> T {
    std::env::var(format!("POPBRIDGE_SOAK_{name}"))
        .map_or(otherwise, |value| value.parse().unwrap())
}

/// The most memory that it ever held (`VmHWM`, proc(5)), in bytes.
fn peak(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() << 10
}

/// A message whose one attachment makes nearly all of it.
fn write_attachment(path: &Path, octets: u64) {
    let line = BASE64_STANDARD.encode([7; 57]);
    let mut message = String::from(
        "Subject: large\nMIME-Version: 1.0\nContent-Type: application/octet-stream; name=a\n\
        Content-Transfer-Encoding: base64\n\n",
    );
    for _ in 0..octets / (line.len() as u64 + 2) {
        writeln!(message, "{line}").unwrap();
    }
    std::fs::write(path, message).unwrap();
}
