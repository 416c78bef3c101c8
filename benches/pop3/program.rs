//! The whole program: popbridge as users start it, from a mailbox's registration to its last
//! message stored.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    maildrops::{HOST, Maildrop, Maildrops, PASSWORD},
    processes,
};

const START_DEADLINE: Duration = Duration::from_secs(60);
const SYNC_DEADLINE: Duration = Duration::from_secs(300);
const STOP_DEADLINE: Duration = Duration::from_secs(40);

/// Between two looks at how far the sync is: what the elapsed time is exact to.
const LOOK: Duration = Duration::from_millis(50);

/// What a first sync took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Synced {
    pub(crate) elapsed_ms: f64,
    /// Of popbridge alone.
    pub(crate) cpu_ms: f64,
    pub(crate) peak_rss_kib: i64,
    /// Of its private Postgres.
    pub(crate) postgres_cpu_ms: f64,
}

/// Starts popbridge with its data below `dir`, has it fetch the maildrop, and stops it.
pub(crate) async fn first_sync(
    maildrops: &Maildrops,
    maildrop: &Maildrop,
    dir: &Path,
) -> anyhow::Result<Synced> {
    let program = Program::start(dir).await?;
    let result = program.sync(maildrops, maildrop).await;
    let stopped = program.stop().await;
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let synced = result.with_context(|| log.clone())?;
    stopped.context(log)?;
    Ok(synced)
}

struct Program {
    child: Child,
    pid: u32,
    address: SocketAddr,
    key: String,
    client: reqwest::Client,
}

impl Program {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let data = dir.join("data");
        let settings = std::env::vars_os().map(|(name, _)| name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_popbridge"));
        for name in settings.filter(|name| name.to_string_lossy().starts_with("POPBRIDGE_")) {
            command.env_remove(name);
        }
        let child = command
            .arg("serve")
            .env_remove("DATABASE_URL")
            .env("POPBRIDGE_DATA_DIR", &data)
            .env("POPBRIDGE_LISTEN", address.to_string())
            .env("POPBRIDGE_EGRESS_ALLOW", "127.0.0.0/8,::1/128")
            .env("POPBRIDGE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.join("log"))?)
            .stderr(fs::File::create(dir.join("stderr"))?)
            .process_group(0)
            .spawn()?;
        let pid = child.id().context("it just started")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut program = Self {
            child,
            pid,
            address,
            key: String::new(),
            client,
        };
        let deadline = Instant::now() + START_DEADLINE;
        while !program.is_ready().await {
            let ended = program.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let stderr = fs::read_to_string(dir.join("stderr")).unwrap_or_default();
                bail!("popbridge did not start: {stderr}");
            }
            sleep(LOOK).await;
        }
        fs::read_to_string(data.join("admin-key"))?
            .trim()
            .clone_into(&mut program.key);
        Ok(program)
    }

    async fn is_ready(&self) -> bool {
        let reply = self.client.get(self.url("/readyz")).send().await;
        reply.is_ok_and(|reply| reply.status().is_success())
    }

    async fn sync(&self, maildrops: &Maildrops, maildrop: &Maildrop) -> anyhow::Result<Synced> {
        let mailbox = json!({
            "host": HOST,
            "port": maildrops.target(maildrop).port,
            "username": maildrop.username,
            "password": PASSWORD,
            "tls_ca_pem": maildrops.ca_pem,
        });
        let (program_before, postgres_before) = self.cpu_seconds()?;
        let started = Instant::now();
        let request = self.client.post(self.url("/v1/mailboxes")).json(&mailbox);
        let mailbox = self.answer(request).await?;
        let id = mailbox["id"].as_str().context("a mailbox has an id")?;
        let path = format!("/v1/mailboxes/{id}");
        loop {
            let mailbox = self.answer(self.client.get(self.url(&path))).await?;
            let stored = mailbox["message_count"].as_u64().context("it counts")?;
            if stored == maildrop.messages {
                ensure!(
                    mailbox["stored_bytes"] == maildrop.octets,
                    "other octets were stored than the {} of the maildrop: {mailbox}",
                    maildrop.octets
                );
                break;
            }
            ensure!(
                stored < maildrop.messages && started.elapsed() < SYNC_DEADLINE,
                "{stored} of {} messages were stored: {mailbox}",
                maildrop.messages
            );
            sleep(LOOK).await;
        }
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        let (program, postgres) = self.cpu_seconds()?;
        Ok(Synced {
            elapsed_ms,
            cpu_ms: (program - program_before) * 1e3,
            peak_rss_kib: processes::peak_rss_kib(self.pid)?,
            postgres_cpu_ms: (postgres - postgres_before) * 1e3,
        })
    }

    /// Of popbridge, and of the Postgres that it runs.
    fn cpu_seconds(&self) -> anyhow::Result<(f64, f64)> {
        let tree = processes::tree(self.pid)?;
        let (own, others) = tree.split_first().context("it runs")?;
        let others = others.iter().map(|process| process.cpu_seconds).sum();
        Ok((own.cpu_seconds, others))
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.key).send().await?;
        let status = response.status();
        let body: Value = response.json().await?;
        ensure!(status.is_success(), "popbridge answers {status}: {body}");
        Ok(body)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid.try_into()?), Signal::SIGTERM)?;
        let status = timeout(STOP_DEADLINE, self.child.wait()).await;
        let status = status.context("popbridge does not stop")??;
        ensure!(status.success(), "popbridge ended with {status}");
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Only what was not stopped properly is left.
        if let (Some(_), Ok(group)) = (self.child.id(), self.pid.try_into()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}
